import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chiron.mics.result import Reason
from chiron.reports.case_view import MAX_STEPS, CaseView, Kind, case_view, kind_of, reason_in_words
from chiron.reports.page import write_report
from tests.reports.building import a_case, bad, pending, rejected, retained, stored, unsolved, write_run


def view(result: Any) -> CaseView:
    return case_view(result if hasattr(result, "record") else stored(result, 4), 1, ())


def test_the_path_tells_where_each_step_comes_from() -> None:
    case = view(retained(a_case("c")))
    assert [s.begins for s in case.steps] == [1, 0, 2, -1]
    assert [s.origin.mentor if s.origin else None for s in case.steps] == ["mentor-a"] * 3 + [None]
    assert [s.seen for s in case.steps] == [True, True, False, False]
    assert case.steps_seen == 2
    assert case.course == [pytest.approx(2 / 3), 1.0]
    assert case.uplift == 0.75
    assert case.line == 5
    assert case.candidates == 4


def test_new_steps_are_numbered_as_in_the_path() -> None:
    levels = view(retained(a_case("c"))).attempts[0]
    assert [level.candidates[0].first for level in levels] == [1, 3]


@pytest.mark.slow
def test_a_path_of_very_many_steps_is_cut_and_says_so(tmp_path: Path) -> None:
    """It once took a quarter of an hour: every step asked all of them how many had been seen."""
    result = retained(a_case("c", images=()))
    assert result.path is not None
    result.path = replace(result.path, steps=tuple(f"Step of number {n}." for n in range(100_000)))
    began = time.process_time()
    page = write_report(write_run(tmp_path, [stored(result, 0)])).read_text()
    assert time.process_time() - began < 5
    assert f"Step of number {MAX_STEPS - 1}." in page
    assert f"Step of number {MAX_STEPS}." not in page
    assert "and 99,800 more steps, not shown" in page
    assert "interns saw 2 of its 100,000 steps" in page


def test_a_step_of_very_many_lines_is_put_together_in_one_go() -> None:
    result = stored(retained(a_case("c")), 0)
    lines = "\n".join(f"line {n}" for n in range(100_000))
    result.record["reasoning"] = f"### Step 1: {lines}\n### The final answer is: x"
    began = time.process_time()
    case = view(result)
    assert time.process_time() - began < 3
    assert [s.text for s in case.steps] == [lines]


def test_a_step_that_looks_like_another_steps_mark_stays_one_step() -> None:
    case = view(retained(a_case("c"), step="see ### Step 9: and ### The final answer is: no"))
    assert len(case.steps) == 4
    assert case.steps[1].text == "see ### Step 9: and ### The final answer is: no"


@pytest.mark.parametrize(
    ("reason", "verdict"),
    [(Reason.LOW_SCORE, ""), (Reason.WRONG_FINAL_ANSWER, "wrong"), (Reason.GIVES_AWAY_ANSWER, "right"), (Reason.NO_FINAL_ANSWER, "")],
)
def test_how_the_final_answer_was_judged(reason: Reason, verdict: str) -> None:
    assert view(rejected(a_case("c"), reason)).final_verdict == verdict


def test_cases_without_a_path() -> None:
    for case in (view(unsolved(a_case("c"))), view(pending(a_case("c"))), view(bad(3))):
        assert case.steps == ()
        assert case.score is None
        assert case.uplift is None
        assert case.last_whole is None
    assert view(bad(3)).id == "line 4"


def test_why_falls_back_on_the_reason_in_words() -> None:
    assert view(rejected(a_case("c"), detail="")).why == "too few interns reached the answer along the path"


def test_every_reason_has_words() -> None:
    assert all(" " in reason_in_words(reason) for reason in Reason)


def test_outcomes_of_a_later_version_count_as_pending() -> None:
    assert kind_of("something", retained=False) is Kind.PENDING
