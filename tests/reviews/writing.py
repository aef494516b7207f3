"""A path of two steps, and reviews of it."""

from typing import cast

from chiron.reviews.records import ReviewBody, StepVerdict, Verdict

ANSWER = "Rib fracture"
REASONING = f"### Step 1: Look.\n### Step 2: The cortex is broken.\n### The final answer is: {ANSWER}"


def verdict(kind: str, *, reason: str | None = None, note: str = "", text: str | None = None) -> StepVerdict:
    return {"verdict": cast("Verdict", kind), "reason": reason, "note": note, "text": text}


def a_review(*steps: StepVerdict, final: StepVerdict | None = None, note: str = "") -> ReviewBody:
    """Accept both steps and the final answer, unless told otherwise."""
    return {"steps": list(steps) or [verdict("accept"), verdict("accept")], "final": final or verdict("accept"), "note": note}
