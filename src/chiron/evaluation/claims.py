"""Check what the steps of a reply claim against a reference: findings or a report. A judge lists the claims and gives each a verdict."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

from chiron.client.call import Ask, Message, RoleModel, TextPart
from chiron.client.prompts import fill, section
from chiron.conversation.markup import escape_markup, own_turn, said
from chiron.conversation.reasoning import parse_reasoning, render_steps
from chiron.errors import InputError
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.figures import PART, WHOLE
from chiron.evaluation.items import BadItem, Item, in_words
from chiron.io import parse_jsonl
from chiron.mics.case_team import JUDGE_SAMPLES
from chiron.terminal import printable

Outcome = Literal["supported", "contradicted", "not mentioned"]
_LINE = re.compile(r"\W*(?:step\s*)?(\d{1,3})\W*\|\W*(supported|contradicted|not[ _-]mentioned)\W*\|\s*(\S.*)", re.IGNORECASE)
_NONE = re.compile(r"\W*no claims\W*", re.IGNORECASE)


class Claim(TypedDict):
    """One claim of a step."""

    step: int
    """From 1."""
    verdict: Outcome
    claim: str
    """In the checker's words."""


def read_claims(reply: str, steps: int) -> list[Claim] | None:
    """Read a checker's reply. Lines without ``|`` are ignored.

    Args:
        reply: the checker's reply.
        steps: number of steps that it was shown.

    Returns:
        The claims; ``None`` if a line is not in the form, names a step that does not exist, or there is neither a claim nor ``no claims``.
    """
    text = own_turn(said(reply))
    lines = [line for line in text.splitlines() if "|" in line and not set(line) <= set("|-: ")]
    found = [_LINE.fullmatch(line.strip()) for line in lines]
    if found and found[0] is None and "verdict" in lines[0].lower():  # the head of a table
        del found[0]
    claims: list[Claim] = []
    for match in found:
        if match is None or not 1 <= int(match[1]) <= steps:
            return None
        verdict = re.sub(r"[ _-]", " ", match[2].lower())
        claims += [{"step": int(match[1]), "verdict": v, "claim": match[3].strip(" |")} for v in get_args(Outcome) if v == verdict]
    return claims if claims or any(_NONE.fullmatch(line) for line in text.splitlines()) else None


def claim_scores(checker: str, claims: Sequence[Claim], steps: int) -> dict[str, float | None]:
    """Count the claims of a reply by verdict, over all steps and after each (``@1`` is the first step).

    Each share is a pair of scores, claims with the verdict and all claims, so that tables pool the claims of all answers.
    """
    scores: dict[str, float | None] = {}
    for step in range(steps + 1):
        here = [claim for claim in claims if not step or claim["step"] == step]
        for verdict in get_args(Outcome):
            name = f"claims_{verdict.replace(' ', '_')}:{checker}" + (f"@{step}" if step else "")
            scores[name + PART] = float(sum(claim["verdict"] == verdict for claim in here))
            scores[name + WHOLE] = float(len(here))
    return scores


@dataclass(frozen=True)
class ClaimChecker:
    """A judge of claims, by the rubric in the prompt ``claims``."""

    role: RoleModel
    prompts: EvaluationPrompts
    references: Mapping[str, Mapping[str, str]]
    """By benchmark, then by item."""

    async def check(self, benchmark: str, item: Item, reply: str, ask: Ask) -> tuple[list[Claim] | None, int]:
        """Check a reply. A reply without steps is one step.

        Returns:
            The claims and the number of steps. No claims are ``None``: the item has no reference, or the checker, asked twice, gave no
            readable reply.

        Raises:
            CallFailed: a call got no answer.
            RunStopped: no more calls are sent.
        """
        steps = parse_reasoning(reply).steps or (own_turn(said(reply)).strip(),)
        reference = self.references.get(benchmark, {}).get(item.id)
        if reference is None or not any(steps):
            return None, len(steps)
        body = fill(
            self.prompts.own["claims"],
            question=section("question", escape_markup(in_words(item))),
            reference=section("reference", escape_markup(reference)),
            steps=section("steps", escape_markup(render_steps(steps))),
        )
        for index in range(JUDGE_SAMPLES):
            checked = await ask(self.role.call("checker", (Message("user", (TextPart(body),)),), 0.0, index))
            claims = None if checked.cut_off else read_claims(checked.text, len(steps))
            if claims is not None:
                return claims, len(steps)
        return None, len(steps)


def read_references(path: Path, items: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Read references: lines of ``{"benchmark", "id", "reference"}``.

    Args:
        path: JSON Lines.
        items: the items of each benchmark, by id.

    Raises:
        InputError: a line is unusable, names an unknown item of one of these benchmarks, or an item twice.
    """
    found: dict[str, dict[str, str]] = {}
    for benchmark, id_, reference in parse_jsonl(
        path, _reference, "reference", 'write {"benchmark": ..., "id": ..., "reference": findings or a report}'
    ):
        shown = f"{path}: item {printable(id_)!r} of {printable(benchmark)}"
        if id_ in found.setdefault(benchmark, {}):
            raise InputError(f"{shown} has two references: keep one")
        if benchmark in items and id_ not in items[benchmark]:
            raise InputError(f"{shown} does not exist: use the ids of items.jsonl")
        found[benchmark][id_] = reference
    return found


def _reference(raw: Any) -> tuple[str, str, str]:
    benchmark, id_, reference = raw["benchmark"], raw["id"], raw["reference"]
    if not isinstance(reference, str) or not reference.strip():
        raise ValueError("its reference is empty")
    return str(benchmark), str(id_), reference


def note_unreferenced(benchmark: str, items: Sequence[Item | BadItem], references: Mapping[str, str]) -> str:
    """Describe how many items of a benchmark have no reference; empty if none."""
    asked = [item.id for item in items if isinstance(item, Item)]
    lacking = sum(id_ not in references for id_ in asked)
    return f"{benchmark}: {lacking} of {len(asked)} items have no reference, so their claims are not checked" if lacking else ""
