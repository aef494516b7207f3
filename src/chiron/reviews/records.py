"""Records of reviews, and the decision that several reviews of one path lead to."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, cast

from chiron.conversation.reasoning import parse_reasoning, render_reasoning
from chiron.errors import InputError
from chiron.terminal import printable

FORMAT: Final = 1
"""Version of :class:`ReviewRecord`, documented in docs/formats.md. Increase it when a field changes its meaning or disappears."""
MOST_TEXT: Final = 10_000
"""Maximum number of characters of an edited text or a comment."""

Verdict = Literal["accept", "edit", "reject"]
VERDICTS: tuple[Verdict, ...] = ("accept", "edit", "reject")
Kind = Literal["review", "skip", "adjudication"]
Status = Literal["accepted", "edited", "rejected", "disputed"]
REASONS: Final = {
    "hallucinated_finding": "hallucinated finding",
    "wrong_side_or_size": "wrong side or size",
    "unsupported": "unsupported",
    "reveals_answer": "reveals the answer",
    "irrelevant": "irrelevant",
}
"""Reasons of an edit or a rejection, and their names on pages."""


class StepVerdict(TypedDict):
    """The verdict on one step, or on the final answer."""

    verdict: Verdict
    reason: str | None
    """A key of :data:`REASONS`. A rejection has one."""
    note: str
    text: str | None
    """The new text of an edit."""


class ReviewBody(TypedDict):
    """What a reviewer decided about a path."""

    steps: list[StepVerdict]
    """One verdict per step, in order; empty for a skip."""
    final: StepVerdict | None
    """The verdict on the final answer; ``None`` for a skip."""
    note: str
    """Comment on the path as a whole."""


class ReviewRecord(ReviewBody):
    """One event: a line of an export."""

    version: int
    id: int
    """Number of the event in its file. Later events have higher numbers."""
    at: str
    """Time in UTC."""
    kind: Kind
    """``review``, ``skip``, or ``adjudication``: the decision about reviews that disagree."""
    reviewer: str
    case_id: str
    path_sha256: str
    """SHA-256 of the reasoning that the reviewer saw (``reasoning`` in ``paths.jsonl``, as UTF-8)."""


@dataclass(frozen=True)
class Decision:
    """What the reviews of one path lead to."""

    status: Status
    steps: tuple[StepVerdict, ...]
    """Of the adjudication, else of the first of the reviews, which agree unless the status is ``disputed`` or ``rejected``."""
    final: StepVerdict
    labels: tuple[Verdict | None, ...]
    """The verdict on each step; ``None`` where reviews disagree and there is no adjudication."""
    reviewers: int
    adjudicated: bool

    @property
    def faults(self) -> str:
        """The rejected parts of the path and the reasons, in words."""
        named = [*((f"step {number}", step) for number, step in enumerate(self.steps, start=1)), ("the final answer", self.final)]
        return "; ".join(f"{name}: {REASONS.get(v['reason'] or '', 'no reason')}" for name, v in named if v["verdict"] == "reject")


def hash_path(reasoning: str) -> str:
    """Return the SHA-256 (hex) that identifies a path in reviews."""
    return hashlib.sha256(reasoning.encode("utf-8", "surrogatepass")).hexdigest()


def need_reviewer_name(name: str) -> str:
    """Return the name of a reviewer.

    Raises:
        InputError: it is empty, too long, or has characters that cannot be printed.
    """
    if not name.strip() or name != name.strip() or len(name) > 80 or not name.isprintable():
        raise InputError(f"'{printable(name)}' cannot be a reviewer's name: use 1 to 80 printable characters without blanks at the ends")
    return name


def parse_body(value: Any, reasoning: str) -> ReviewBody:
    """Check a review of a path as a page sends it.

    Raises:
        InputError: it is incomplete, or an edited text cannot take the place of a step.
    """
    path = parse_reasoning(reasoning)
    steps = value.get("steps") if isinstance(value, dict) else None
    if not isinstance(steps, list) or len(steps) != len(path.steps):
        raise InputError(f"a review of this path needs {len(path.steps)} verdicts on its steps: load the page again")
    body: ReviewBody = {
        "steps": [
            _verdict(given, text, f"step {number}") for number, (given, text) in enumerate(zip(steps, path.steps, strict=True), start=1)
        ],
        "final": _verdict(value.get("final"), path.answer or "", "the final answer"),
        "note": _text(value.get("note"), "the comment"),
    }
    edited_reasoning(reasoning, body)
    return body


def _verdict(value: Any, original: str, where: str) -> StepVerdict:
    if not isinstance(value, dict) or value.get("verdict") not in VERDICTS:
        raise InputError(f"{where} has no verdict: accept, edit or reject it")
    verdict, reason = cast("Verdict", value["verdict"]), value.get("reason") or None
    if reason is not None and reason not in REASONS:
        raise InputError(f"{where} has an unknown reason: choose one of {', '.join(REASONS.values())}")
    if verdict == "reject" and reason is None:
        raise InputError(f"{where} is rejected without a reason: choose one")
    text = " ".join(_text(value.get("text"), where).split())
    if verdict == "edit" and (not text or text == " ".join(original.split())):
        raise InputError(f"{where} is edited, but its text is {'empty' if not text else 'unchanged'}: change it, or choose another verdict")
    return {
        "verdict": verdict,
        "reason": None if verdict == "accept" else reason,
        "note": _text(value.get("note"), where),
        "text": text if verdict == "edit" else None,
    }


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str | None):
        raise InputError(f"the text of {where} is not a text: load the page again")
    text = (value or "").strip().encode("utf-8", "replace").decode("utf-8")
    if len(text) > MOST_TEXT:
        raise InputError(f"the text of {where} has {len(text):,} characters: use at most {MOST_TEXT:,}")
    return text


def edited_reasoning(reasoning: str, review: "ReviewBody | Decision") -> str:
    """Return a path with the edited steps and the edited final answer of a review in place.

    Raises:
        InputError: an edited text would be read as several steps, or as a final answer.
    """
    steps, final = (review["steps"], review["final"]) if isinstance(review, dict) else (review.steps, review.final)
    path = parse_reasoning(reasoning)
    texts = tuple(verdict["text"] or text for verdict, text in zip(steps, path.steps, strict=True))
    answer = (final["text"] if final is not None else None) or path.answer or ""
    if texts == path.steps and answer == (path.answer or ""):
        return reasoning
    changed = render_reasoning(texts, answer)
    read = parse_reasoning(changed)
    if read.steps != texts or (read.answer or "") != answer:
        at = next((n for n, (a, b) in enumerate(zip(texts, read.steps, strict=False), start=1) if a != b), len(texts))
        raise InputError(
            f"an edited text (step {at} or the final answer) contains a step heading, a list or a mark: write one plain paragraph"
        )
    return changed


def status_of(body: ReviewBody) -> Status:
    """Return what one review says about the whole path. A path with a rejected step is rejected: its other steps build on that one."""
    verdicts = {verdict["verdict"] for verdict in (*body["steps"], body["final"]) if verdict is not None}
    return "rejected" if "reject" in verdicts else "edited" if "edit" in verdicts else "accepted"


def current_reviews(events: Sequence[ReviewRecord]) -> dict[str, ReviewRecord]:
    """Return the last review of each reviewer, by name, from the events of one path in order. A skip withdraws an earlier review."""
    last = {event["reviewer"]: event for event in events if event["kind"] != "adjudication"}
    return {name: event for name, event in last.items() if event["kind"] == "review"}


def decide(events: Sequence[ReviewRecord]) -> Decision | None:
    """Return the decision that the events of one path lead to, in the order of the file; ``None`` without a review.

    The last adjudication decides. Without one, reviews decide if they agree. Reviews that all reject the path agree about the path.
    """
    reviews = list(current_reviews(events).values())
    adjudication = next((event for event in reversed(events) if event["kind"] == "adjudication"), None)
    first = adjudication or next(iter(reviews), None)
    if first is None or first["final"] is None:
        return None
    status = status_of(first)
    if adjudication is None and disagree(reviews) and {status_of(review) for review in reviews} != {"rejected"}:
        status = "disputed"
    columns = zip(*(review["steps"] for review in ([adjudication] if adjudication else reviews)), strict=True)
    labels = tuple(column[0]["verdict"] if len({step["verdict"] for step in column}) == 1 else None for column in columns)
    return Decision(status, tuple(first["steps"]), first["final"], labels, len(reviews), adjudication is not None)


def disagree(reviews: Sequence[ReviewBody]) -> bool:
    """Return whether reviews of one path differ in a verdict or in an edited text."""
    return len({tuple(_said(verdict) for verdict in (*review["steps"], review["final"])) for review in reviews}) > 1


def _said(verdict: StepVerdict | None) -> tuple[object, object]:
    return (None, None) if verdict is None else (verdict["verdict"], verdict["text"])


def is_disputed(events: Sequence[ReviewRecord]) -> bool:
    """Return whether the events of one path wait for an adjudication. A dispute about steps of a rejected path waits too."""
    return disagree(list(current_reviews(events).values())) and all(event["kind"] != "adjudication" for event in events)


def by_path(events: Sequence[ReviewRecord]) -> Mapping[tuple[str, str], list[ReviewRecord]]:
    """Group events by case id and hash of the path."""
    groups: dict[tuple[str, str], list[ReviewRecord]] = {}
    for event in events:
        groups.setdefault((event["case_id"], event["path_sha256"]), []).append(event)
    return groups
