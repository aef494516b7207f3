"""Rungs of the ladder: what stage 3 is trained on, from nothing to true chains, for the same number of steps.

Most rungs use all cases of the search. ``few_true_chains`` uses the annotated cases, and ``mics_*`` use the cases with a retained path.
"""

import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypedDict

from chiron.client.ledger import Ledger
from chiron.conversation.reasoning import render_reasoning, render_steps
from chiron.demo.data import Data, is_pure
from chiron.demo.stage_rows import Rows, answer_row, build_stage_3, chain, steps_of
from chiron.evaluation.figures import clustered_share
from chiron.phantom.sample import SyntheticCase

VERIFIED: Final = "search"
PAPER: Final = "search-paper"
"""Folders of the searches with each policy. The second one only replays replies of the first."""

RowsOf = Callable[[Data, Path, int], Rows]
"""Function that creates a rung's rows from the data, the folder of the searches, and the seed."""


@dataclass(frozen=True)
class Rung:
    """One variant of stage 3."""

    title: str
    rows: RowsOf | None = None
    """``None``: stage 3 has no rows of its own."""
    search: str | None = None
    """Folder of the search that must be complete first."""


@dataclass(frozen=True, slots=True)
class PartAccuracy:
    """Right answers to the evaluation cases of one kind: seen or held-out combinations."""

    right: int
    of: int
    interval: tuple[float, float]
    """95 % interval of the share: cluster-robust t on the logit scale. The clusters are combinations of attributes, because a model
    tends to be right or wrong on all cases of a combination. (0, 1) with one combination."""

    @classmethod
    def from_answers(cls, correct: Sequence[bool], combinations: Sequence[Hashable]) -> "PartAccuracy":
        """Compute from each answer's correctness and its combination, in the same order.

        Raises:
            ValueError: nothing is given, or the lengths differ.
            InputError: scipy is not installed.
        """
        return cls(sum(correct), len(correct), clustered_share(correct, combinations).interval or (0.0, 1.0))

    @property
    def value(self) -> float:
        """Share of right answers, in [0, 1]."""
        return self.right / self.of


class ShareRecord(TypedDict):
    """Right answers to the evaluation cases of one kind."""

    right: int
    n: int
    interval: list[float]
    """Lower and upper end of the 95 % interval of :class:`PartAccuracy`."""


class RungRecord(TypedDict):
    """One rung in ``ladder.json`` and in the output of ``chiron demo --json``."""

    name: str
    rows: int
    """Rows that stage 3 is trained on, in addition to replayed rows of the earlier stages."""
    seen: ShareRecord
    held_out: ShareRecord


def rung_record(name: str, rows: int, seen: PartAccuracy, held_out: PartAccuracy) -> RungRecord:
    """Convert the results of a rung to the JSON object of ``ladder.json``."""
    return {"name": name, "rows": rows, "seen": _share_record(seen), "held_out": _share_record(held_out)}


def _share_record(share: PartAccuracy) -> ShareRecord:
    return {"right": share.right, "n": share.of, "interval": [round(end, 4) for end in share.interval]}


def true_chains(data: Data, cases: Iterable[SyntheticCase] | None = None) -> Rows:
    """Rows of true chains, for all cases of the search by default."""
    return _rows(data, lambda c: chain(c.attributes, c.case.answer), cases)


def direct_answers(data: Data) -> Rows:
    """Rows with the answer only, without reasoning."""
    return _rows(data, lambda c: render_reasoning((), c.case.answer))


def answers_then_rationales(data: Data) -> Rows:
    """Rows of true chains in reverse: the diagnosis first, then the steps."""
    return _rows(data, lambda c: f"{render_reasoning((), c.case.answer)}\n{render_steps(steps_of(c.attributes))}")


def mentor_paths(run: Path) -> dict[str, dict[str, str]]:
    """Read each mentor's first complete path of every case from the search's ledger, by case and mentor."""
    found: dict[str, dict[str, str]] = {}
    with Ledger.read(run / "ledger.sqlite") as ledger:
        for result in ledger.results():
            for candidate in result.record["tree"][0][0]["candidates"]:
                reply = ledger.get(candidate["key"]) if candidate["key"] else None
                if reply is not None:
                    found.setdefault(result.case_id, {})[candidate["mentor"]] = reply.text
    return found


def random_mentor(data: Data, folder: Path, seed: int) -> Rows:
    """Rows with the path of a random mentor for every case."""
    paths = mentor_paths(folder / VERIFIED)
    dice = random.Random(seed)  # noqa: S311 - reproducible, not secret
    return _rows(data, lambda c: dice.choice(sorted(paths[c.case.id].items()))[1])


def best_mentor(data: Data, folder: Path, _seed: int) -> Rows:
    """Rows with the paths of the mentor that has the most pure paths. The true attributes select it, which a lab could not do."""
    paths = mentor_paths(folder / VERIFIED)
    truth = {c.case.id: set(steps_of(c.attributes)) for c in data.seen}
    counts: dict[str, int] = {}
    for case_id, by_mentor in paths.items():
        for mentor, path in by_mentor.items():
            counts[mentor] = counts.get(mentor, 0) + is_pure(path, truth[case_id])
    best = max(sorted(counts), key=lambda mentor: counts[mentor])
    return _rows(data, lambda c: paths[c.case.id][best])


def _rows(data: Data, reply: Callable[[SyntheticCase], str], cases: Iterable[SyntheticCase] | None = None) -> Rows:
    prompts = data.loaded_prompts()
    return [answer_row(c.case, prompts, reply(c)) for c in (data.seen if cases is None else cases)]


BASE: Final = "base"
REPLAY_ONLY: Final = "replay_only"
MICS: Final = "mics_verified"
LADDER: Final[dict[str, Rung]] = {
    BASE: Rung("no stage 3"),
    REPLAY_ONLY: Rung("replay of stages 1 and 2 only"),
    "few_true_chains": Rung("the few true chains", lambda data, _folder, _seed: true_chains(data, data.annotated)),
    "direct_answers": Rung("direct answers", lambda data, _folder, _seed: direct_answers(data)),
    "answer_then_rationale": Rung("answer, then true rationale", lambda data, _folder, _seed: answers_then_rationales(data)),
    "random_mentor": Rung("paths of a random mentor", random_mentor, VERIFIED),
    "best_single_mentor": Rung("paths of the best mentor", best_mentor, VERIFIED),
    "mics_paper": Rung(
        "MICS, paper's rule", lambda data, folder, _seed: build_stage_3(folder / PAPER, data.folder / "chains-paper"), PAPER
    ),
    MICS: Rung("MICS, verified", lambda data, folder, _seed: build_stage_3(folder / VERIFIED, data.folder / "chains"), VERIFIED),
    "true_chains": Rung("true chains of all cases", lambda data, _folder, _seed: true_chains(data)),
}
"""All rungs by name, from the model before stage 3 to the ceiling."""
SHOWN: Final[Sequence[str]] = (
    BASE,
    REPLAY_ONLY,
    "few_true_chains",
    "direct_answers",
    "mics_paper",
    MICS,
    "true_chains",
)
"""Rungs of the demonstration. The experiments have all of them."""
