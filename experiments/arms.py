"""Arms of the ablation: variants of the stage 3 rows for the same cases."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chiron.conversation.reasoning import render_reasoning, render_steps
from chiron.demo.data import Data, direct_answers, is_pure, true_chains
from chiron.demo.stage_rows import answer_row, build_stage_3, steps_of
from chiron.phantom.sample import SyntheticCase

Rows = list[dict[str, Any]]
Way = Callable[[Data, Path, int], Rows]
"""Function that creates the rows of an arm from the data, the folder of the searches, and the seed."""

VERIFIED, PAPER = "search-verified", "search-paper"


def answers_then_rationales(data: Data) -> Rows:
    """Rows of true chains in reverse: the diagnosis first, then the steps."""
    return _rows(data, lambda c: f"{render_reasoning((), c.case.answer)}\n{render_steps(steps_of(c.attributes))}")


def mentor_paths(run: Path) -> dict[str, dict[str, str]]:
    """Read each mentor's first complete path of every case from the search's ledger, by case and mentor."""
    from chiron.client.ledger import Ledger

    found: dict[str, dict[str, str]] = {}
    with Ledger.read(run / "ledger.sqlite") as ledger:
        for result in ledger.results():
            for candidate in result.record["tree"][0][0]["candidates"]:
                reply = ledger.get(candidate["key"]) if candidate["key"] else None
                if reply is not None:
                    found.setdefault(result.case_id, {})[candidate["mentor"]] = reply.text
    return found


def unfiltered(run: Path, data: Data) -> Rows:
    """Rows with the final path of every case, retained or not; unsolved cases without a path are left out."""
    from chiron.client.ledger import Ledger

    prompts = data.loaded_prompts()
    cases = {c.case.id: c.case for c in data.seen}
    with Ledger.read(run / "ledger.sqlite") as ledger:
        ended = [(r.case_id, r.record["reasoning"]) for r in ledger.results()]
    return [answer_row(cases[case_id], prompts, reasoning) for case_id, reasoning in ended if reasoning]


def random_mentor(run: Path, data: Data, seed: int) -> Rows:
    """Rows with the path of a random mentor for every case."""
    paths = mentor_paths(run)
    dice = random.Random(seed)
    return _rows(data, lambda c: dice.choice(sorted(paths[c.case.id].items()))[1])


def best_mentor(run: Path, data: Data) -> Rows:
    """Rows with the paths of the mentor that has the most pure paths."""
    paths = mentor_paths(run)
    truth = {c.case.id: set(steps_of(c.attributes)) for c in data.seen}
    counts: dict[str, int] = {}
    for case_id, by_mentor in paths.items():
        for mentor, path in by_mentor.items():
            counts[mentor] = counts.get(mentor, 0) + is_pure(path, truth[case_id])
    best = max(sorted(counts), key=lambda mentor: counts[mentor])
    return _rows(data, lambda c: paths[c.case.id][best])


def _rows(data: Data, say: Callable[[SyntheticCase], str]) -> Rows:
    prompts = data.loaded_prompts()
    return [answer_row(c.case, prompts, say(c)) for c in data.seen]


ALONE = "no curriculum"
"""Name of the arm trained on direct answers from random weights instead of from the model of stage 2."""

ARMS: dict[str, Way] = {
    "true chains": lambda data, _folder, _seed: true_chains(data),
    "direct answers": lambda data, _folder, _seed: direct_answers(data),
    "answer, then rationale": lambda data, _folder, _seed: answers_then_rationales(data),
    ALONE: lambda data, _folder, _seed: direct_answers(data),
    "MICS verified": lambda data, folder, _seed: build_stage_3(folder / VERIFIED, data.folder / "chains-verified"),
    "MICS paper": lambda data, folder, _seed: build_stage_3(folder / PAPER, data.folder / "chains-paper"),
    "MICS verified, unfiltered": lambda data, folder, _seed: unfiltered(folder / VERIFIED, data),
    "a random mentor": lambda data, folder, seed: random_mentor(folder / VERIFIED, data, seed),
    "best single mentor": lambda data, folder, _seed: best_mentor(folder / VERIFIED, data),
}
"""Row functions by arm name."""
NEEDS: dict[str, str] = {
    "MICS verified": "verified",
    "MICS paper": "paper",
    "MICS verified, unfiltered": "verified",
    "a random mentor": "verified",
    "best single mentor": "verified",
}
"""Search that an arm needs, by arm name."""
