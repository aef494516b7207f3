"""Figures of the ladder: how certain a share is, and what a search asked for its paths."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from chiron.demo.data import Data, purity
from chiron.demo.loop import Measured
from chiron.evaluation.api import Answered
from chiron.evaluation.statistics import Share
from chiron.mics.api import replay_run, replay_setup
from chiron.mics.run_directory import RunDirectory
from chiron.phantom.sample import generate_case
from chiron.phantom.world import World, split
from tests.support.cases import known_answers, write_cases
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, execute, team
from tests.support.simulation import Simulation

WORLD = World(0)
HELD_OUT = split(WORLD).held_out
EACH = 6


def measured(is_right: Callable[[int], bool]) -> Measured:
    """Answers to cases of every held-out combination, ``EACH`` of each."""
    answered = tuple(
        Answered(case.case, "x", "x", is_right(index))
        for index in range(EACH * len(HELD_OUT))
        for case in [generate_case(WORLD, index, seed=1, size=64, among=HELD_OUT)]
    )
    return Measured(answered, answered)


def test_answers_that_depend_on_the_combination_widen_the_interval() -> None:
    half = set(HELD_OUT[::2])
    attributes = [generate_case(WORLD, index, seed=1, size=64, among=HELD_OUT).attributes for index in range(EACH * len(HELD_OUT))]
    dependent, independent = measured(lambda index: attributes[index] in half), measured(lambda index: index // len(HELD_OUT) % 2 == 0)
    assert dependent.held_out_share.value == independent.held_out_share.value == 0.5
    of_combinations = Share(len(half), len(HELD_OUT)).interval
    for share in (dependent.seen_share, dependent.held_out_share):
        low, high = share.interval
        assert abs(low - of_combinations[0]) < 0.02
        assert abs(high - of_combinations[1]) < 0.02


def test_combinations_with_the_same_share_have_an_interval_too() -> None:
    assert measured(lambda _: False).seen_share.interval == Share(0, len(HELD_OUT)).interval


def test_a_replayed_search_counts_only_the_evaluations_that_its_own_rule_used(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 8)
    with Endpoint(Simulation(known_answers(cases)).reply, keep_bodies=True) as endpoint:
        execute(cases, config_of(team(endpoint.base_url)), tmp_path / "verified")
        asked = sum(str(body["model"]).startswith("intern") for body in endpoint.seen.bodies)
        old = RunDirectory(tmp_path / "verified")
        paper = config_of(team(endpoint.base_url, policy="paper"))
        asyncio.run(replay_run(replay_setup(old, paper), old, tmp_path / "replayed").execute())
        execute(cases, paper, tmp_path / "alone")
    data = Data(tmp_path, WORLD, (), (), (), ())
    verified, replayed, alone = (purity(tmp_path / run, data).evaluations for run in ("verified", "replayed", "alone"))
    assert verified == asked
    assert replayed == alone < verified
