"""The whole search tree of a run, as typed records: every candidate, step, evaluation, score and ledger key.

``docs/formats.md`` describes ``tree.jsonl``. Records are derived from the ledger alone, so they can be made from old runs too.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypedDict

from chiron.client.call import Call
from chiron.client.ledger import Ledger, StoredResult
from chiron.conversation.reasoning import continue_from, parse_reasoning
from chiron.conversation.short_answers import read_verdict
from chiron.errors import InputError
from chiron.io import write_atomically
from chiron.jobs.directory import RUN
from chiron.mics.case_team import JUDGE_SAMPLES
from chiron.mics.prompts import NAMES, Prompts
from chiron.mics.result import Outcome
from chiron.mics.run_directory import RunDirectory
from chiron.mics.search import RULES
from chiron.mics.team import reaches_quorum

TREE: Final = "tree.jsonl"
VERSION: Final = 1
"""Version of the records. Raise it when a field changes its meaning or disappears."""


class TreeEvaluation(TypedDict):
    """One intern at one temperature finished the reasoning, and the judge compared its answer with the known one."""

    intern: str
    temperature: float
    answer: str | None
    """Its final answer; ``None`` if its reply has none or its call failed."""
    correct: bool | None
    """The verdict; ``None`` if a call failed or the judge gave no verdict: the evaluation is then missing, not wrong."""
    problem: str | None
    key: str | None
    """Ledger key (hex) of the intern's reply."""
    judge_key: str | None
    """Ledger key of the judge's reply; ``None`` without an answer, or if the ledger has no such reply."""


class TreeScore(TypedDict):
    """The evaluations of one prefix."""

    mics_score: float | None
    """``correct / answered``; ``None`` if nothing was answered, or if evaluations were not asked: see ``highest``."""
    planned: int
    answered: int
    correct: int
    not_asked: int
    """Planned evaluations that the search left out, because the candidate was out of the race (``evaluation: adaptive`` or ``halving``)."""
    highest: float | None
    """Highest MICS-Score that they would allow; ``mics_score`` if there are none."""
    quorum: bool
    """Whether at least two thirds of the planned evaluations were answered. The search does not decide on less."""
    evaluations: list[TreeEvaluation]


class TreeWholePath(TreeScore):
    """Score of the chosen mentor's whole path (policy ``verified``)."""

    steps_shown: int
    """Number of its steps that the interns were shown: those before the first one that names the answer."""


class TreeCandidate(TreeScore):
    """A mentor's continuation of a prefix."""

    mentor: str
    steps: list[str]
    """The new steps that were scored after the prefix: one, or two at depth 1. Empty if there is nothing to read, or if the path was
    already finished."""
    rest: list[str] | None
    """The mentor's further steps, which were not scored here; ``None`` if its reply is not in the ledger."""
    final_answer: str | None
    """The final answer of the mentor's whole path."""
    chosen: bool
    """Whether the search continued from it."""
    problem: str | None
    """Why it has no steps: the call failed, or the reply was cut off or unreadable."""
    key: str | None
    """Ledger key of the mentor's reply."""


class TreeLevel(TypedDict):
    """One depth of one attempt."""

    depth: int
    prefix: list[str]
    """The steps chosen before, which every candidate continues."""
    candidates: list[TreeCandidate]
    whole_path: TreeWholePath | None
    """Score of the chosen mentor's whole path, if it was evaluated at this depth."""


class TreeRecord(TypedDict):
    """The whole tree of one case: a line of ``tree.jsonl``."""

    version: int
    case_id: str
    case: str
    """Fingerprint of the case, which changes when the case is edited."""
    images: list[str]
    image_hashes: list[str]
    """SHA-256 of the images, in the same order."""
    question: str
    answer: str
    outcome: str
    retained: bool
    reason: str | None
    policy: str
    mics_score: float | None
    """The score that decided about retention."""
    baseline: TreeScore | None
    """The interns without any reasoning, if the run measured it."""
    attempts: list[list[TreeLevel]]
    """The first attempt, then each restart."""


def read_tree(run: Path | str) -> Iterator[TreeRecord]:
    """Yield the tree of every searched case of a run, in the order of its case file. Bad cases have no tree and are skipped.

    Raises:
        InputError: ``run`` is not a run directory, its rules are of another version, or its ledger is damaged.
    """
    with TreeReader.open(Path(run)) as reader:
        yield from reader.trees()


def write_tree(run: Path | str, out: Path | str | None = None) -> Path:
    """Write the trees of a run as JSONL, by default to ``tree.jsonl`` in its directory, and return the file's path.

    Raises:
        InputError: see :func:`read_tree`; or the run has no searched case yet.
        DiskError: the file cannot be written.
    """
    target = Path(out) if out is not None else Path(run) / TREE
    with TreeReader.open(Path(run)) as reader:
        if not any(True for _ in reader.trees()):
            raise InputError(f"no case was searched yet ({run}): run the search first, then write its tree")
        write_atomically(target, (json.dumps(record, ensure_ascii=False) + "\n" for record in reader.trees()))
    return target


@dataclass
class TreeReader:
    """Reader of the trees of one run. Close it after use, or use it in a ``with`` statement."""

    run: RunDirectory
    about: Mapping[str, Any]
    """Contents of ``run.json``."""
    ledger: Ledger
    _judge: "_JudgeKeys"

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a run.

        Raises:
            InputError: ``path`` is not a run directory, or its rules are of another version.
        """
        directory = RunDirectory(path)
        about = directory.need_run()
        identity = about.get("identity")
        if not isinstance(identity, dict) or not isinstance(identity.get("mentors"), list):
            raise InputError(f"{path} is not the run of a search ({RUN} names no mentors): name a run directory of 'chiron search'")
        if identity.get("rules") != RULES:
            raise InputError(
                f"{path} was searched with version {identity.get('rules')} of the rules, and this program reads version {RULES}:"
                " use the program's version that made it, or search the cases again"
            )
        ledger = Ledger.read(directory.ledger)
        return cls(directory, about, ledger, _JudgeKeys.of(about, ledger))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the ledger."""
        self.close()

    def close(self) -> None:
        self.ledger.close()

    def trees(self) -> Iterator[TreeRecord]:
        """Yield the tree of every searched case, in the order of the case file."""
        for result in self.ledger.results():
            if result.outcome != Outcome.BAD_CASE:
                yield self.tree_of(result)

    def tree_of(self, result: StoredResult) -> TreeRecord:
        """Convert a stored result to its tree.

        Raises:
            InputError: the record is not one of this version.
        """
        try:
            return self._tree(result)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the result of case '{result.case_id}' cannot be read ({self.ledger.path}; {type(error).__name__}: {error}):"
                " it was written by another version of the program; search the cases again, which repeats no call"
            ) from error

    def verdict(self, tree: TreeRecord, answer: str) -> bool | None:
        """Return the judge's stored verdict on an answer to a case; ``None`` if the ledger has none."""
        key = self._judge.about(tree["question"], tree["answer"]).key(answer)
        reply = None if key is None else self.ledger.get(key)
        return None if reply is None else read_verdict(reply.text)

    def _tree(self, result: StoredResult) -> TreeRecord:
        record, case = result.record, result.record["case_id"]
        question, answer = str(record["question"]), str(record["answer"])
        judge = self._judge.about(question, answer)
        baseline = record.get("baseline_score")
        return {
            "version": VERSION,
            "case_id": case,
            "case": result.fingerprint,
            "images": list(record["images"]),
            "image_hashes": list(record["provenance"]["images"]),
            "question": question,
            "answer": answer,
            "outcome": result.outcome,
            "retained": result.retained,
            "reason": record.get("reason"),
            "policy": record["policy"],
            "mics_score": result.mics_score,
            "baseline": None if baseline is None else _score(baseline, judge),
            "attempts": [_levels(levels, judge, self.ledger) for levels in record["tree"]],
        }


@dataclass
class _JudgeKeys:
    """Finds the judge's replies, whose keys a result does not contain: the same request gives the same key."""

    ledger: Ledger
    prompts: Prompts | None
    """``None`` if the run did not record its prompts; keys are then unknown."""
    judge: tuple[str, str, int]
    """Name, identity and maximum number of tokens."""
    question: str = ""
    known: str = ""
    found: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, about: Mapping[str, Any], ledger: Ledger) -> "_JudgeKeys":
        texts, judge = about.get("prompts"), about["identity"].get("judge")
        whole = isinstance(texts, dict) and all(isinstance(texts.get(name), str) for name in NAMES)
        usable = whole and isinstance(judge, list) and len(judge) == 3
        name, identity, limit = judge if usable else ("", "", 0)
        return cls(ledger, Prompts(texts) if usable and isinstance(texts, dict) else None, (str(name), str(identity), int(limit)))

    def about(self, question: str, known: str) -> "_JudgeKeys":
        return _JudgeKeys(self.ledger, self.prompts, self.judge, question, known)

    def key(self, answer: str | None) -> str | None:
        """Return the key of the judge's last reply about an answer."""
        if answer is None or self.prompts is None:
            return None
        if answer not in self.found:
            name, identity, limit = self.judge
            messages = self.prompts.judge(self.question, self.known, answer)
            calls = [Call("judge", name, identity, messages, 0.0, limit, index) for index in range(JUDGE_SAMPLES)]
            self.found[answer] = next((call.key for call in reversed(calls) if self.ledger.get(call.key) is not None), None)
        return self.found[answer]


def _levels(records: list[dict[str, Any]], judge: _JudgeKeys, ledger: Ledger) -> list[TreeLevel]:
    levels: list[TreeLevel] = []
    prefix: tuple[str, ...] = ()
    paths: dict[str, tuple[tuple[str, ...], str | None]] = {}
    for record in records:
        candidates = [_candidate(candidate, prefix, paths, judge, ledger) for candidate in record["candidates"]]
        whole = record.get("whole_path")
        shown: TreeWholePath | None = None if whole is None else {**_score(whole, judge), "steps_shown": int(whole["steps_shown"])}
        levels.append({"depth": record["depth"], "prefix": list(prefix), "candidates": candidates, "whole_path": shown})
        prefix = next((prefix + tuple(c["steps"]) for c in candidates if c["chosen"]), prefix)
    return levels


def _candidate(
    record: dict[str, Any],
    prefix: tuple[str, ...],
    paths: dict[str, tuple[tuple[str, ...], str | None]],
    judge: _JudgeKeys,
    ledger: Ledger,
) -> TreeCandidate:
    key, steps = record.get("key"), tuple(map(str, record["steps"]))
    if isinstance(key, str) and key not in paths and (reply := ledger.get(key)) is not None:
        # Read the reply as the search did. A mentor that was chosen continues with this path at the next depth, under the same key.
        reasoning = parse_reasoning(reply.text, after=len(prefix))
        paths[key] = (continue_from(prefix, reasoning), reasoning.answer)
    whole, answer = paths.get(key, ((), None)) if isinstance(key, str) else ((), None)
    scored = prefix + steps
    # Another version of the parser may read other steps; then the rest is unknown.
    known = bool(whole) and whole[: len(scored)] == scored
    return {
        "mentor": record["mentor"],
        "steps": list(steps),
        "rest": list(whole[len(scored) :]) if known else None,
        "final_answer": answer if known else None,
        "chosen": bool(record["chosen"]),
        "problem": record.get("problem"),
        "key": key,
        **_score(record, judge),
    }


def _score(record: dict[str, Any], judge: _JudgeKeys) -> TreeScore:
    planned, answered, correct = int(record["planned"]), int(record["answered"]), int(record["correct"])
    not_asked = int(record.get("not_asked", 0))
    possible = answered + not_asked
    return {
        "mics_score": float(record["mics_score"]) if answered and not not_asked else None,
        "planned": planned,
        "answered": answered,
        "correct": correct,
        "not_asked": not_asked,
        "highest": (correct + not_asked) / possible if possible else None,
        "quorum": reaches_quorum(answered, planned),
        "evaluations": [
            {
                "intern": e["intern"],
                "temperature": e["temperature"],
                "answer": e["answer"],
                "correct": e["correct"],
                "problem": e.get("problem"),
                "key": e.get("key") or None,
                "judge_key": judge.key(e["answer"]),
            }
            for e in record["evaluations"]
        ],
    }
