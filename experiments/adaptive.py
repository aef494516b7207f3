"""What adaptive evaluation saves and changes: calls per retained path, share of same paths, and purity, in three kinds of worlds.

``python -m experiments.adaptive --ladder DIR --runs RUN ... --cases N`` measures recorded searches of ``experiments.ladder`` (their true
steps are known), other recorded runs, and an invented world. Recorded runs are replayed from their ledgers; no model is called.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from chiron.cases.case import Case
from chiron.client.call import Call, Reply, RoleModel
from chiron.client.ledger import Ledger
from chiron.client.prompts import read_section
from chiron.conversation.reasoning import parse_reasoning, render_steps
from chiron.demo.data import Scale, castings, is_pure
from chiron.demo.stage_rows import steps_of
from chiron.errors import ChironError
from chiron.jobs.directory import RUN
from chiron.mics.api import replay_setup
from chiron.mics.config import check_config
from chiron.mics.replay import replay_cases
from chiron.mics.result import SearchResult
from chiron.mics.run_directory import RunDirectory
from chiron.mics.search import search
from chiron.mics.team import EvaluationName, Policy, Team

METHODS: tuple[EvaluationName, ...] = get_args(EvaluationName)
Found = Mapping[str, SearchResult | None]
"""Results by case; ``None`` if a reply is not in the ledger."""
Truth = Callable[[SearchResult], bool]


@dataclass(frozen=True)
class Measured:
    """Figures of one way to evaluate, over the cases whose replies are all known for every way."""

    world: str
    evaluation: str
    cases: int
    unknown: int
    """Cases left out, because the ledger lacks a reply."""
    calls: int
    retained: int
    same: int
    """Cases that end with the same path as under ``full``, or without one in both."""
    true: int | None
    """Retained paths without a false step; ``None`` if the truth is not known."""

    def row(self, full: "Measured") -> str:
        """Return a line of a Markdown table."""
        per_path = f"{self.calls / self.retained:.1f}" if self.retained else "-"
        pure = "-" if self.true is None or not self.retained else f"{self.true / self.retained:.3f}"
        cells = (
            self.world,
            self.evaluation,
            f"{self.cases}{f' ({self.unknown} unknown)' if self.unknown else ''}",
            f"{self.calls / self.cases:.1f}",
            f"{1 - self.calls / full.calls:.1%}",
            per_path,
            str(self.retained),
            f"{self.same / self.cases:.1%}",
            pure,
        )
        return f"| {' | '.join(cells)} |"


def compare(world: str, found: Mapping[EvaluationName, Found], is_true: Truth | None) -> list[Measured]:
    """Compare the ways to evaluate on the cases that all of them could search."""
    names = [name for name in found["full"] if all(results[name] is not None for results in found.values())]
    measured = []
    for evaluation, by_case in found.items():
        results = [result for name in names if (result := by_case[name]) is not None]
        reference = [result for name in names if (result := found["full"][name]) is not None]
        retained = [result for result in results if result.retained]
        measured.append(
            Measured(
                world=world,
                evaluation=evaluation,
                cases=len(names),
                unknown=len(by_case) - len(names),
                calls=sum(result.calls for result in results),
                retained=len(retained),
                same=sum(_path(one) == _path(two) for one, two in zip(results, reference, strict=True)),
                true=sum(map(is_true, retained)) if is_true is not None else None,
            )
        )
    return measured


def _path(result: SearchResult) -> tuple[str, ...] | None:
    return result.path.steps if result.retained and result.path is not None else None


def recorded(run: Path, limit: int | None, is_true: Truth | None = None, name: str = "") -> list[Measured]:
    """Replay a recorded run with each way to evaluate."""
    directory = RunDirectory(run)
    config = directory.need_run()["config"]

    async def replayed(evaluation: str) -> Found:
        setup = replay_setup(directory, check_config(config, origin=run / RUN, evaluation=evaluation), need_keys=False)
        results: dict[str, SearchResult | None] = {}
        with Ledger.read(directory.ledger) as ledger:
            async for case in replay_cases(setup, ledger, frozenset(ledger.failed_keys())):
                results[case.case_id] = case.result
                if len(results) == limit:
                    break
        return results

    return compare(name or str(run), {method: asyncio.run(replayed(method)) for method in METHODS}, is_true)


def ladder_runs(folder: Path, limit: int | None) -> Iterator[list[Measured]]:
    """Replay both searches of each seed of ``experiments.ladder``."""
    scale = Scale(**json.loads((folder / "scale.json").read_text("utf-8")))
    for seed in sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()):
        truth = {c.case.id: set(steps_of(c.attributes)) for c in castings("seen", scale, seed=seed)}

        def is_true(result: SearchResult, steps: Mapping[str, set[str]] = truth) -> bool:
            return result.path is not None and is_pure(result.path.text, steps[result.case.id])

        for name, rule in (("search", "verified"), ("search-paper", "paper")):
            if (folder / str(seed) / name).is_dir():
                yield recorded(folder / str(seed) / name, limit, is_true, f"miniature, seed {seed}, {rule}")


FALSE = "(this is not so)"
"""Ending of a false step in the invented world."""
ANSWER = "The known answer"
SKILL = {"mentor-a": 0.95, "mentor-b": 0.85, "mentor-c": 0.7}
"""Probability that a mentor's step is true."""
GRASP = {"intern-a": 0.0, "intern-b": -0.1, "intern-c": -0.2}
"""What an intern adds to the probability that it is right."""


async def invented_reply(call: Call) -> Reply:
    """Reply to a call in a world where true steps help interns and false ones mislead them. It depends only on the call."""
    dice = random.Random(call.key)
    prompt = call.messages[-1].text
    if call.role == "judge":
        return Reply("yes" if read_section(prompt, "given_answer") == read_section(prompt, "known_answer") else "no")
    steps = parse_reasoning(read_section(prompt, "reasoning") or "").steps
    if call.role == "mentor":
        more = [
            f"Sign {dice.randrange(1000)} is seen.{'' if dice.random() < SKILL[call.model] else f' {FALSE}'}"
            for _ in range(max(1, dice.randint(4, 6) - len(steps)))
        ]
        return _written(more, read_section(prompt, "answer") or "", len(steps))
    wrong = sum(step.endswith(FALSE) for step in steps)
    chance = 0.35 + GRASP[call.model] + 0.15 * (len(steps) - wrong) - 0.25 * wrong
    answer = ANSWER if dice.random() < min(0.97, chance) else f"Entity {dice.randrange(5)}"
    return _written(["It follows."], answer, len(steps))


def _written(steps: Sequence[str], answer: str, before: int) -> Reply:
    return Reply(f"{render_steps(tuple(steps), first=before + 1)}\n### The final answer is: {answer}")


def invented(count: int, seed: int, stop: Any) -> list[Measured]:
    """Search cases of the invented world with each way to evaluate."""
    roles = {name: RoleModel(name, name, 512) for name in (*SKILL, *GRASP, "judge")}
    team = Team(tuple(roles[name] for name in SKILL), tuple(roles[name] for name in GRASP), roles["judge"])
    cases = [Case(f"case-{seed}-{number}", f"What does image {number} show?", ANSWER, ()) for number in range(count)]

    async def searched(evaluation: EvaluationName) -> Found:
        policy = Policy(stop=stop, seed=seed, evaluation=evaluation)
        return {case.id: await search(case, team, invented_reply, policy) for case in cases}

    found = {method: asyncio.run(searched(method)) for method in METHODS}
    return compare(f"invented, seed {seed}, {stop}", found, lambda r: r.path is not None and FALSE not in r.path.text)


TITLES = (
    "world",
    "evaluation",
    "cases",
    "calls a case",
    "calls saved",
    "calls a retained path",
    "retained",
    "same paths",
    "true of retained",
)


def table(worlds: Iterable[Sequence[Measured]]) -> Iterator[str]:
    """Yield the lines of the Markdown table of all worlds, each as soon as its world is measured."""
    yield f"| {' | '.join(TITLES)} |\n"
    yield "|" + "---|" * len(TITLES) + "\n"
    for world in worlds:
        yield from (f"{measured.row(world[0])}\n" for measured in world if measured.cases)


def main() -> int:
    """Measure from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ladder", type=Path, help="folder of experiments.ladder, whose searches are replayed")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="other run directories to replay")
    parser.add_argument("--limit", type=int, help="cases of each recorded run (default: all)")
    parser.add_argument("--cases", type=int, default=500, help="cases of the invented world (0: leave it out)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of the invented world")
    chosen = parser.parse_args()

    def worlds() -> Iterator[list[Measured]]:
        if chosen.cases:
            yield from (invented(chosen.cases, seed, stop) for stop in ("verified", "paper") for seed in range(chosen.seeds))
        if chosen.ladder is not None:
            yield from ladder_runs(chosen.ladder, chosen.limit)
        yield from (recorded(run, chosen.limit) for run in chosen.runs)

    try:
        for line in table(worlds()):
            sys.stdout.write(line)
            sys.stdout.flush()
    except ChironError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
