"""A path of two steps, and reviews of it."""

from pathlib import Path
from typing import Any, cast

from chiron.conversation.reasoning import parse_reasoning
from chiron.reviews.records import ReviewBody, StepVerdict, Verdict, hash_path
from chiron.reviews.store import ReviewStore
from tests.mmrp.building import lines

ANSWER = "Rib fracture"
REASONING = f"### Step 1: Look.\n### Step 2: The cortex is broken.\n### The final answer is: {ANSWER}"


def verdict(kind: str, *, reason: str | None = None, note: str = "", text: str | None = None) -> StepVerdict:
    return {"verdict": cast("Verdict", kind), "reason": reason, "note": note, "text": text}


def a_review(*steps: StepVerdict, final: StepVerdict | None = None, note: str = "") -> ReviewBody:
    """Accept both steps and the final answer, unless told otherwise."""
    return {"steps": list(steps) or [verdict("accept"), verdict("accept")], "final": final or verdict("accept"), "note": note}


def review(run: Path, number: int, reviewer: str = "anna", *, kind: Any = "review", final: str = "accept", **steps: StepVerdict) -> str:
    """Review a retained path, by its place in paths.jsonl: accept all but the steps given as ``step1=...``; return the case's id."""
    path = lines(run / "paths.jsonl")[number]
    count = len(parse_reasoning(path["reasoning"]).steps)
    verdicts = [steps.get(f"step{n}", verdict("accept")) for n in range(1, count + 1)]
    closing = verdict(final, reason="unsupported" if final == "reject" else None)
    body: Any = {"steps": verdicts, "final": closing, "note": ""}
    ReviewStore(run).add(kind, reviewer, path["case_id"], hash_path(path["reasoning"]), body)
    return str(path["case_id"])
