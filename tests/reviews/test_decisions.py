"""What several reviews of one path lead to, and how well reviewers and scores agree."""

from typing import Any

import pytest

from chiron.reviews.agreement import agreement_of_reviews, auc, cohens_kappa, krippendorffs_alpha
from chiron.reviews.records import Kind, ReviewBody, ReviewRecord, decide, edited_reasoning, is_disputed
from tests.reviews.writing import REASONING, a_review, verdict

ACCEPT, REJECT = verdict("accept"), verdict("reject", reason="unsupported")
EDIT = verdict("edit", text="The cortex of the seventh rib is broken.")
SKIP: ReviewBody = {"steps": [], "final": None, "note": ""}


def event(number: int, reviewer: str, body: ReviewBody, kind: Kind = "review", case_id: str = "c1") -> ReviewRecord:
    at = f"2026-11-26T00:00:{number:02d}.000+00:00"
    return {"version": 1, "id": number, "at": at, "kind": kind, "reviewer": reviewer, "case_id": case_id, "path_sha256": "0", **body}


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([event(1, "anna", a_review())], "accepted"),
        ([event(1, "anna", a_review(ACCEPT, EDIT))], "edited"),
        ([event(1, "anna", a_review(EDIT, REJECT))], "rejected"),
        ([event(1, "anna", a_review(final=REJECT))], "rejected"),
        ([event(1, "anna", a_review(ACCEPT, REJECT)), event(2, "anna", a_review())], "accepted"),
        ([event(1, "anna", a_review()), event(2, "anna", SKIP, "skip")], None),
        ([event(1, "anna", a_review()), event(2, "ben", a_review())], "accepted"),
        ([event(1, "anna", a_review()), event(2, "ben", a_review(ACCEPT, EDIT))], "disputed"),
        ([event(1, "anna", a_review(ACCEPT, EDIT)), event(2, "ben", a_review(ACCEPT, EDIT))], "edited"),
        ([event(1, "anna", a_review(ACCEPT, EDIT)), event(2, "ben", a_review(ACCEPT, verdict("edit", text="Other.")))], "disputed"),
        ([event(1, "anna", a_review(ACCEPT, REJECT)), event(2, "ben", a_review(REJECT, ACCEPT))], "rejected"),
        (
            [event(1, "anna", a_review()), event(2, "ben", a_review(REJECT, ACCEPT)), event(3, "cleo", a_review(), "adjudication")],
            "accepted",
        ),
        (
            [
                event(1, "anna", a_review()),
                event(2, "ben", a_review(REJECT, ACCEPT)),
                event(3, "cleo", a_review(REJECT, ACCEPT), "adjudication"),
                event(4, "ben", a_review()),
            ],
            "rejected",
        ),
    ],
)
def test_reviews_of_a_path_lead_to_one_decision(events: list[ReviewRecord], status: str | None) -> None:
    decision = decide(events)
    assert (decision.status if decision else None) == status


def test_a_dispute_waits_until_it_is_adjudicated() -> None:
    events = [event(1, "anna", a_review()), event(2, "ben", a_review(ACCEPT, REJECT))]
    assert is_disputed(events)
    assert not is_disputed([*events, event(3, "cleo", a_review(), "adjudication")])
    assert not is_disputed(events[:1])


def test_edited_texts_take_the_place_of_the_steps() -> None:
    body = a_review(ACCEPT, EDIT, final=verdict("edit", text="Fracture of the seventh rib"))
    assert edited_reasoning(REASONING, body) == (
        "### Step 1: Look.\n### Step 2: The cortex of the seventh rib is broken.\n### The final answer is: Fracture of the seventh rib"
    )
    assert edited_reasoning(REASONING, a_review()) == REASONING


def test_kappa_and_alpha_are_those_of_the_published_examples() -> None:
    # The usual textbook table: 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([("y", "y")] * 3) is None
    # K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), part C: four observers, twelve units, missing values.
    rows = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[row[n] for row in rows if row[n] != "."] for n in range(12)]
    assert krippendorffs_alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert krippendorffs_alpha([["a", "a"], ["a", "a"]]) is None


def test_agreement_counts_only_reviews_before_the_adjudication() -> None:
    events = [
        event(1, "anna", a_review()),
        event(2, "ben", a_review(ACCEPT, REJECT)),
        event(3, "cleo", a_review(), "adjudication"),
        event(4, "ben", a_review()),
        event(5, "anna", a_review(), case_id="c2"),
        event(6, "ben", a_review(), case_id="c2"),
        event(7, "ben", a_review(REJECT, REJECT), case_id="c3"),
    ]
    steps, paths = agreement_of_reviews(events)
    assert (steps.units, paths.units) == (6, 2)
    assert steps.pairs[0].reviewers == ("anna", "ben")
    assert steps.pairs[0].observed == pytest.approx(5 / 6)
    assert paths.pairs[0].observed == 0.5


@pytest.mark.parametrize(
    ("up", "down", "expected"),
    [([1.0, 0.9], [0.2, 0.1], 1.0), ([0.5], [0.5], 0.5), ([0.6, 0.8], [0.7], 0.5), ([0.1], [0.9], 0.0), ([], [0.1], None)],
)
def test_auc_is_the_probability_that_an_accepted_path_has_the_higher_score(up: Any, down: Any, expected: float | None) -> None:
    assert auc(up, down) == expected
