"""The search, sentence by sentence as ``docs/search.md`` has it."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.client.call import RoleModel
from chiron.mics.result import Outcome, Reason, SearchResult
from chiron.mics.team import Policy, Team
from tests.support.cases import a_case
from tests.support.table import CASE, CUT, MENTORS, TEAM, Table, own_paths, prefix_of, steps

PAPER = Policy(stop="paper")
N = 6  # planned evaluations: three interns at two temperatures


Shares = Mapping[tuple[str, ...], int]


def right_for(*, shares: Shares) -> Callable[[str, tuple[str, ...], float, int], bool]:
    """Interns of which so many are right after a prefix, none after any other."""

    def intern(name: str, prefix: tuple[str, ...], temperature: float, draw: int) -> bool:
        seat = ("x", "y", "z").index(name) * 2 + (temperature < 1)
        return seat < shares.get(prefix, 0)

    return intern


def test_a_full_score_ends_the_search_with_that_mentors_whole_path() -> None:
    table = Table(own_paths, right_for(shares={("B1", "B2"): 6, ("A1", "A2"): 5}))
    result = table.search(PAPER)
    assert (result.outcome, result.retained) == (Outcome.FULL_SCORE, True)
    assert result.path is not None
    assert result.path.steps == ("B1", "B2", "B3", "B4")
    assert result.mics_score == 1.0
    assert (table.count("mentor"), table.count("intern")) == (3, 3 * N)


def test_the_first_candidate_is_two_steps_and_each_next_one_more() -> None:
    table = Table(own_paths, right_for(shares={("A1", "A2"): 4, ("A1", "A2", "B3"): 4, ("A1", "A2", "B3", "C4"): 4}))
    result = table.search(PAPER)
    seen = {prefix_of(c) for c in table.calls if c.role == "intern"}
    assert {len(p) for p in seen} == {2, 3, 4}
    assert (result.outcome, result.retained) == (Outcome.DEPTH, True)
    assert [level.chosen for level in result.tree[0]] == ["A", "B", "C"]
    assert result.path is not None
    assert result.path.steps[:4] == ("A1", "A2", "B3", "C4")


def test_the_chosen_mentor_goes_on_with_what_it_wrote_and_is_not_asked_again() -> None:
    table = Table(own_paths, right_for(shares={("A1", "A2"): 4, ("A1", "A2", "A3"): 5, ("A1", "A2", "A3", "A4"): 5}))
    result = table.search(PAPER)
    assert [c.model for c in table.calls if c.role == "mentor"] == ["A", "B", "C", "B", "C", "B", "C"]
    assert result.path is not None
    assert result.path.steps == ("A1", "A2", "A3", "A4")


def test_of_several_full_scores_the_one_whose_scores_add_up_highest_wins() -> None:
    first: Shares = {("A1", "A2"): 3, ("B1", "B2"): 4, ("C1", "C2"): 2}
    shares: Shares = {**first, ("B1", "B2", "A3"): 6, ("B1", "B2", "C3"): 6, ("B1", "B2", "B3"): 1}
    result = Table(own_paths, right_for(shares=shares)).search(PAPER)
    assert [level.chosen for level in result.tree[0]] == ["B", "A"]


def test_ties_go_to_a_mentor_not_chosen_before() -> None:
    shares: Shares = {("A1", "A2"): 4, ("A1", "A2", "A3"): 3, ("A1", "A2", "C3"): 3}
    for seed in range(5):
        result = Table(own_paths, right_for(shares=shares)).search(Policy(stop="paper", seed=seed, depth=2))
        assert [level.chosen for level in result.tree[0]] == ["A", "C"]


@pytest.mark.slow
def test_what_is_left_to_chance_is_left_to_the_seed_and_the_case() -> None:
    def chosen(seed: int, name: str) -> str | None:
        table = Table(own_paths, lambda *_: True, case=a_case(name, answer="Mondor disease"))
        return table.search(Policy(stop="paper", seed=seed)).tree[0][0].chosen

    assert {chosen(seed, "c1") for seed in range(20)} == set(MENTORS)
    assert {chosen(0, f"c{n}") for n in range(20)} == set(MENTORS)
    assert chosen(7, "c1") == chosen(7, "c1")


def test_all_zero_begins_anew_from_the_root_with_fresh_draws() -> None:
    table = Table(own_paths, lambda name, prefix, temperature, draw: draw == 1)
    result = table.search(PAPER)
    assert result.outcome == Outcome.FULL_SCORE
    assert len(result.tree) == 2
    assert {c.draw for c in table.calls if c.role == "mentor"} == {0, 1}


def test_all_zero_deeper_down_begins_anew_from_the_root_too() -> None:
    shares: Shares = {("A1", "A2"): 4}
    table = Table(own_paths, right_for(shares=shares))
    result = table.search(PAPER)
    assert result.outcome == Outcome.UNSOLVED
    assert result.reason == Reason.ALL_ZERO
    assert [len(levels) for levels in result.tree] == [2, 2]
    assert not result.retained


def test_after_the_restarts_a_case_is_unsolved() -> None:
    table = Table(own_paths, lambda *_: False)
    result = table.search(Policy(restarts=2))
    assert (result.outcome, len(result.tree)) == (Outcome.UNSOLVED, 3)


@pytest.mark.parametrize(("right", "retained"), [(3, False), (4, True)])
def test_at_full_depth_a_path_is_retained_if_most_interns_succeeded(right: int, retained: bool) -> None:
    shares: Shares = {("A1", "A2"): right}
    result = Table(own_paths, right_for(shares=shares)).search(Policy(stop="paper", depth=1))
    assert (result.outcome, result.retained) == (Outcome.DEPTH, retained)
    assert result.reason == (None if retained else Reason.LOW_SCORE)


# --- the verified stop --------------------------------------------------------------------------------------------------------------


def test_verified_a_full_score_must_hold_for_the_whole_path_too() -> None:
    whole = ("A1", "A2", "A3", "A4")
    result = Table(own_paths, right_for(shares={whole[:2]: 6, whole: 6})).search()
    assert (result.outcome, result.mics_score, result.retained) == (Outcome.FULL_SCORE, 1.0, True)
    assert result.tree[0][0].whole_steps == 4


def test_verified_a_tail_that_nobody_can_follow_does_not_end_the_search() -> None:
    shares: Shares = {("A1", "A2"): 6, ("A1", "A2", "A3", "A4"): 2, ("A1", "A2", "B3"): 6, ("A1", "A2", "B3", "B4", "B5", "B6"): 6}
    table = Table(own_paths, right_for(shares=shares))
    result = table.search()
    assert [level.chosen for level in result.tree[0]] == ["A", "B"]
    assert result.path is not None
    assert result.path.steps == ("A1", "A2", "B3", "B4", "B5", "B6")
    assert result.outcome == Outcome.FULL_SCORE
    assert Table(own_paths, right_for(shares=shares)).search(PAPER).path != result.path


def test_verified_interns_see_the_path_only_up_to_the_step_that_names_the_answer() -> None:
    def mentor(name: str, prefix: tuple[str, ...], draw: int) -> tuple[str, ...]:
        return ("a cord under the skin", "it is tender", "this is Mondor's disease", "nothing else fits")

    table = Table(mentor, lambda name, prefix, t, d: "Mondor" not in " ".join(prefix))
    result = table.search()
    assert result.tree[0][0].whole_steps == 2
    assert result.retained


def test_verified_a_path_that_names_the_answer_at_once_scores_the_baseline() -> None:
    def mentor(name: str, prefix: tuple[str, ...], draw: int) -> tuple[str, ...]:
        return ("this is Mondor disease", "it is tender")

    table = Table(mentor, lambda name, prefix, t, d: bool(prefix))
    result = table.search()
    assert (result.retained, result.reason, result.mics_score) == (False, Reason.LOW_SCORE, 0.0)
    assert result.tree[0][0].whole_steps == 0


def test_verified_at_full_depth_the_score_of_the_whole_path_counts() -> None:
    shares: Shares = {("A1", "A2"): 5, ("A1", "A2", "A3", "A4"): 3}
    result = Table(own_paths, right_for(shares=shares)).search(Policy(depth=1))
    assert (result.mics_score, result.retained, result.reason) == (0.5, False, Reason.LOW_SCORE)


# --- what a path must not be --------------------------------------------------------------------------------------------------------


def test_a_path_that_ends_in_another_answer_is_rejected() -> None:
    def mentor(name: str, prefix: tuple[str, ...], draw: int) -> str:
        return "### Step 1: a\n### Step 2: b\n### The final answer is: Something else"

    result = Table(mentor, lambda *_: True).search(PAPER)
    assert (result.retained, result.reason) == (False, Reason.WRONG_FINAL_ANSWER)


def test_a_path_without_a_final_answer_is_rejected() -> None:
    result = Table(lambda *_: "### Step 1: a\n### Step 2: b", lambda *_: True).search(PAPER)
    assert (result.retained, result.reason) == (False, Reason.NO_FINAL_ANSWER)


def test_a_path_that_gives_away_that_it_knew_is_rejected() -> None:
    def mentor(name: str, prefix: tuple[str, ...], draw: int) -> tuple[str, ...]:
        return ("a cord is seen", "the correct answer is given as a vein's disease")

    result = Table(mentor, lambda *_: True).search(PAPER)
    assert (result.retained, result.reason) == (False, Reason.GIVES_AWAY_ANSWER)


# --- failed calls are missing, not wrong --------------------------------------------------------------------------------------------


def test_a_failed_evaluation_is_left_out_of_the_score() -> None:
    def intern(name: str, prefix: tuple[str, ...], temperature: float, draw: int) -> bool | None:
        return None if name == "z" else True

    result = Table(own_paths, intern).search(PAPER)
    assert (result.outcome, result.mics_score) == (Outcome.FULL_SCORE, 1.0)
    assert result.score.counts() == {"planned": 6, "answered": 4, "correct": 4}


def test_below_two_thirds_the_case_is_pending_whatever_the_others_say() -> None:
    def intern(name: str, prefix: tuple[str, ...], temperature: float, draw: int) -> bool | None:
        return None if prefix[0].startswith("A") and (name == "z" or (name == "y" and temperature > 1)) else True

    result = Table(own_paths, intern).search(PAPER)
    assert (result.outcome, result.retained, result.reason) == (Outcome.PENDING, False, Reason.CALLS_FAILED)
    assert "3 of 6" in result.detail


def test_a_silent_judge_makes_evaluations_missing() -> None:
    result = Table(own_paths, lambda *_: True, judge=lambda *_: None).search(PAPER)
    assert result.outcome == Outcome.PENDING


def test_one_silent_mentor_of_three_does_not_end_a_case_two_do() -> None:
    def silent(*names: str) -> Table:
        return Table(lambda m, p, d: None if m in names else own_paths(m, p, d), lambda *_: True)

    one = silent("A").search(PAPER)
    assert one.retained
    assert one.tree[0][0].candidates[0].missing
    assert silent("A", "B").search(PAPER).outcome == Outcome.PENDING


def test_unreadable_mentors_are_named_and_passed_over() -> None:
    table = Table(lambda m, p, d: "I'd rather not." if m == "A" else own_paths(m, p, d), lambda *_: True)
    result = table.search(PAPER)
    assert result.retained
    assert result.tree[0][0].candidates[0].problem == "unreadable: no_steps, no_final_answer"
    nobody = Table(lambda *_: "I'd rather not.", lambda *_: True).search(PAPER)
    assert (nobody.outcome, nobody.reason) == (Outcome.UNSOLVED, Reason.NO_READABLE_REASONING)


def test_an_intern_that_comes_to_no_answer_is_wrong_and_the_judge_is_spared() -> None:
    table = Table(own_paths, lambda *_: " ")
    result = table.search(PAPER)
    assert result.outcome == Outcome.UNSOLVED
    assert table.count("judge") == 0


def test_a_judge_that_says_neither_is_asked_once_more() -> None:
    table = Table(own_paths, lambda *_: True, judge=lambda given, draw: "perhaps" if draw == 0 else "Yes.")
    assert table.search(PAPER).retained
    mute = Table(own_paths, lambda *_: True, judge=lambda *_: "perhaps")
    silent = mute.search(PAPER)
    assert (silent.outcome, silent.reason, silent.retained) == (Outcome.UNJUDGED, Reason.NO_VERDICT, False)


def test_a_case_stays_pending_where_failed_calls_and_not_the_judge_are_in_the_way() -> None:
    """Of six evaluations three have a verdict, one has none, two calls failed: running again may help."""

    def intern(name: str, _p: tuple[str, ...], temperature: float, _d: int) -> bool | str | None:
        return None if name == "z" else "odd" if name == "x" and temperature > 1 else True

    table = Table(own_paths, intern, judge=lambda given, _: "perhaps" if given == "odd" else "yes")
    assert table.search(PAPER).outcome == Outcome.PENDING


def test_an_intern_cut_off_at_its_limit_came_to_no_answer_and_the_case_ends() -> None:
    table = Table(own_paths, lambda name, p, t, d: True)
    answer = table._answer
    table._answer = lambda call: f"### Step 3: and so on{CUT}" if call.model == "z" else answer(call)  # type: ignore[method-assign]
    result = table.search(PAPER)
    assert result.outcome == Outcome.DEPTH
    assert result.mics_score == pytest.approx(4 / 6)
    missing = [e for e in result.score.evaluations if e.intern == "z"]
    assert all(e.correct is False and e.problem and "512 tokens" in e.problem for e in missing)


def test_an_answer_before_the_cut_counts() -> None:
    table = Table(own_paths, lambda *_: True)
    answer = table._answer
    table._answer = lambda call: f"{answer(call)}{CUT}" if call.role == "intern" else answer(call)  # type: ignore[method-assign]
    assert table.search(PAPER).retained


def test_a_mentor_cut_off_is_passed_over_and_says_why() -> None:
    result = Table(lambda m, p, d: f"### Step 1: a\n### Step 2: b{CUT}" if m == "A" else own_paths(m, p, d), lambda *_: True).search(PAPER)
    assert result.retained
    assert "cut off at its limit of 512 tokens" in str(result.tree[0][0].candidates[0].problem)


def test_a_judge_cut_off_names_the_limit() -> None:
    result = Table(own_paths, lambda *_: True, judge=lambda *_: CUT).search(PAPER)
    assert result.outcome == Outcome.UNJUDGED
    assert "the judge's reply was cut off at its limit of 8 tokens" in result.detail


def test_a_verdict_before_the_cut_counts() -> None:
    assert Table(own_paths, lambda *_: True, judge=lambda *_: f"Yes, because{CUT}").search(PAPER).retained


def test_zeros_beside_a_silent_mentor_are_no_verdict() -> None:
    table = Table(lambda m, p, d: None if m == "A" else own_paths(m, p, d), lambda *_: False)
    result = table.search(PAPER)
    assert result.outcome == Outcome.PENDING
    assert "A did not answer" in result.detail


def test_a_whole_path_once_refuted_is_not_chosen_again_over_one_that_holds() -> None:
    good = ("A1", "A2", "B3", "B4", "B5", "B6")
    shares = {("A1", "A2"): 6, ("A1", "A2", "A3", "A4"): 0, ("A1", "A2", "A3"): 6, ("A1", "A2", "B3"): 6, good: 6}
    for seed in range(8):
        result = Table(own_paths, right_for(shares=shares)).search(Policy(seed=seed))
        assert result.path is not None
        assert result.path.steps == good
        assert result.outcome == Outcome.FULL_SCORE


def test_after_zeros_deeper_down_every_mentor_is_asked_afresh() -> None:
    def intern(name: str, prefix: tuple[str, ...], temperature: float, draw: int) -> bool:
        return draw == 1 or (name == "x" and prefix == ("A1", "A2"))

    table = Table(own_paths, intern)
    result = table.search(PAPER)
    assert result.retained
    assert sorted(c.model for c in table.calls if c.role == "mentor" and c.draw == 1) == ["A", "B", "C"]


# --- the baseline -------------------------------------------------------------------------------------------------------------------


def test_the_baseline_is_the_interns_with_no_reasoning_at_all() -> None:
    table = Table(own_paths, lambda name, prefix, t, d: bool(prefix) or name == "x")
    record = table.search(Policy(stop="paper", baseline=True)).to_path_record()
    assert record["baseline"] == pytest.approx(1 / 3)
    assert record["difficulty"] == pytest.approx(2 / 3)
    assert record["uplift"] == pytest.approx(2 / 3)


# --- what holds for every team ------------------------------------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> tuple[int, Policy]:
    policy = Policy(
        temperatures=tuple(draw(st.lists(st.sampled_from([0.2, 0.7, 1.2]), min_size=1, max_size=3))),
        depth=draw(st.integers(1, 4)),
        restarts=draw(st.integers(0, 2)),
        stop=draw(st.sampled_from(["paper", "verified"])),
        baseline=draw(st.booleans()),
        seed=draw(st.integers(0, 3)),
    )
    return draw(st.integers(0, 10_000)), policy


def random_table(seed: int, order: int | None = None) -> Table:
    """A world drawn from ``seed``; ``order`` shuffles only the order in which its replies arrive."""

    def dice(*what: object) -> random.Random:
        return random.Random(f"{seed} {what}")

    def mentor(name: str, prefix: tuple[str, ...], draw: int) -> str | tuple[str, ...] | None:
        d = dice("mentor", name, prefix, draw)
        if d.random() < 0.1:
            return d.choice([None, "no", "### Step 1: only this"])
        return tuple(f"{name}{len(prefix) + n} {'Mondor disease' if d.random() < 0.1 else ''}".strip() for n in range(1, d.randint(2, 6)))

    def intern(name: str, prefix: tuple[str, ...], temperature: float, draw: int) -> bool | None:
        d = dice("intern", name, prefix, temperature, draw)
        return None if d.random() < 0.03 else d.random() < 0.15 * len(prefix)

    return Table(mentor, intern, shuffle=None if order is None else random.Random(order))


@pytest.mark.slow
@given(worlds(), st.integers(0, 5))
def test_the_same_replies_give_the_same_result_in_any_order_of_arrival(world: tuple[int, Policy], order: int) -> None:
    seed, policy = world
    assert random_table(seed).search(policy).to_record() == random_table(seed, order).search(policy).to_record()


@pytest.mark.slow
@given(worlds())
def test_no_search_breaks_its_own_rules(world: tuple[int, Policy]) -> None:
    seed, policy = world
    table = random_table(seed)
    result = table.search(policy)
    assert len(result.tree) <= policy.restarts + 1
    for levels in result.tree:
        assert len(levels) <= policy.depth
        for above, below in pairwise(levels):
            chosen = next(c for c in above.candidates if c.mentor == above.chosen)
            assert all(c.prefix[: len(chosen.prefix)] == chosen.prefix for c in below.candidates if c.path)
    if result.retained:
        assert result.mics_score is not None
        assert result.mics_score > policy.threshold
        assert result.path is not None
        assert result.path.answer == CASE.answer
        assert result.reason is None
    else:
        assert result.reason is not None
    for score in [result.score, *(c.score for levels in result.tree for level in levels for c in level.candidates)]:
        assert 0 <= score.correct <= score.answered <= score.planned
    assert result.calls <= len({c.key for c in table.calls})


def test_interns_never_see_findings_or_answer_and_mentors_see_both() -> None:
    table = Table(own_paths, lambda *_: True)
    table.search(Policy(baseline=True))
    for call in table.calls:
        text = "\n".join(m.text for m in call.messages)
        if call.role == "intern":
            assert CASE.answer not in text
            assert not any(f in text for f in CASE.findings)
        if call.role == "mentor":
            assert CASE.answer in text
            assert all(f in text for f in CASE.findings)
        if call.role == "judge":
            assert all(step not in text for step in steps("A"))


def test_two_seats_of_one_model_do_not_share_their_draws() -> None:
    team = Team(
        (RoleModel("one", "same", 512), RoleModel("two", "same", 512)), (RoleModel("x", "i", 512), RoleModel("y", "i", 512)), TEAM.judge
    )
    table = Table(own_paths, lambda *_: True)
    table.search(PAPER, team)
    asked = [c.key for c in table.calls if c.role != "judge"]
    assert len(asked) == len(set(asked))


def test_one_mentor_and_one_intern_are_a_team() -> None:
    team = Team((RoleModel("A", "A", 512),), (RoleModel("x", "x", 512),), TEAM.judge)
    assert Table(own_paths, lambda *_: True).search(Policy(temperatures=(0.7,)), team).retained


# --- fewer evaluations --------------------------------------------------------------------------------------------------------------


def choices(result: SearchResult) -> list[list[tuple[str | None, dict[str, object] | None]]]:
    """What the search chose at every depth, with the scores that decide about paths."""
    return [[(level.chosen, None if level.whole is None else level.whole.to_json()) for level in levels] for levels in result.tree]


@pytest.mark.slow
@given(worlds())
def test_adaptive_evaluation_chooses_what_a_full_evaluation_chooses_and_bounds_the_rest(world: tuple[int, Policy]) -> None:
    seed, policy = world
    every, fewer = random_table(seed), random_table(seed)
    full, adaptive = every.search(policy), fewer.search(replace(policy, evaluation="adaptive"))
    if full.outcome in {Outcome.PENDING, Outcome.UNJUDGED}:
        return  # a failed evaluation of a candidate that cannot win does not stop the search
    assert (adaptive.outcome, adaptive.retained, adaptive.reason, adaptive.path) == (full.outcome, full.retained, full.reason, full.path)
    assert adaptive.score == full.score
    assert {c.key for c in fewer.calls} <= {c.key for c in every.calls}
    assert choices(adaptive) == choices(full)
    for levels, others in zip(full.tree, adaptive.tree, strict=True):
        for level, other in zip(levels, others, strict=True):
            for known, bounded in zip(level.candidates, other.candidates, strict=True):
                assert known.score == bounded.score or (bounded.score.not_asked and known.score.value <= bounded.score.highest)
                assert not bounded.score.full or known.score.full


def test_a_candidate_that_cannot_win_or_tie_is_not_evaluated_further() -> None:
    shares: Shares = {("A1", "A2"): 6, ("B1", "B2"): 4, ("C1", "C2"): 0}
    table = Table(own_paths, right_for(shares=shares))
    result = table.search(replace(PAPER, evaluation="adaptive"))
    scores = [c.score for c in result.tree[0][0].candidates]
    assert result.tree[0][0].chosen == "A"
    assert (scores[0].correct, scores[0].not_asked) == (6, 0)
    assert [(s.correct, s.asked) for s in scores[1:]] == [(2, 3), (0, 1)]  # B: the third evaluation is the first wrong one
    record = result.to_record()
    assert record["scores"] == {"A": [1.0], "B": [None], "C": [None]}
    assert record["missing"] == {"candidates": 0, "evaluations": 0}
    assert record["tree"][0][0]["candidates"][2]["not_asked"] == 5


def test_adaptive_evaluation_finishes_the_scores_whose_sum_decides() -> None:
    """At depth 2 A and C have full scores. At depth 1 A's score is 4/6 and C's 3/6, but when they are left unfinished C is ahead."""
    wrong = {
        ("A1", "A2"): {("x", 1.2), ("y", 1.2)},
        ("B1", "B2"): {("x", 1.2)},
        ("C1", "C2"): {("x", 0.2), ("y", 0.2), ("z", 0.2)},
        ("B1", "B2", "B3"): {("x", 1.2)},
    }
    table = Table(own_paths, lambda name, prefix, temperature, _: (name, temperature) not in wrong.get(prefix, set()))
    for name in ("full", "adaptive"):
        result = table.search(Policy(stop="paper", evaluation=name))
        assert [level.chosen for level in result.tree[0]] == ["B", "A"]
        assert [c.score.correct for c in result.tree[0][0].candidates] == [4, 5, 3]


def test_halving_continues_with_the_better_half_and_finishes_the_winner() -> None:
    shares: Shares = {("A1", "A2"): 6, ("B1", "B2"): 3, ("C1", "C2"): 0}
    result = Table(own_paths, right_for(shares=shares)).search(replace(PAPER, evaluation="halving"))
    scores = [c.score for c in result.tree[0][0].candidates]
    assert [score.asked for score in scores] == [6, 4, 2]
    assert result.retained


def test_halving_evaluates_everything_before_it_calls_a_level_zero() -> None:
    table = Table(own_paths, lambda *_: False)
    result = table.search(Policy(evaluation="halving", restarts=0))
    assert result.outcome == Outcome.UNSOLVED
    assert table.count("intern") == 3 * N


@pytest.mark.slow
@given(worlds())
def test_halving_ends_with_a_finished_winner(world: tuple[int, Policy]) -> None:
    seed, policy = world
    result = random_table(seed).search(replace(policy, evaluation="halving"))
    for level in (level for levels in result.tree for level in levels if level.chosen):
        assert next(c for c in level.candidates if c.mentor == level.chosen).score.not_asked == 0
