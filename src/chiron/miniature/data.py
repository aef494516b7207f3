"""What the miniature is made of, on disk: cases in the ordinary format, their images, the textbook, and the rows of the stages."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from chiron.mics.prompts import Prompts, load_prompts
from chiron.miniature.lessons import answer_row, chain, described, rule_cases
from chiron.miniature.material import build_looks, build_stage_1, build_stage_2, words_of, write_cases, write_rows
from chiron.miniature.processes import Job, Say, run_jobs
from chiron.miniature.scale import Scale
from chiron.phantom.apprentice import SIDE, write_tokenizer
from chiron.phantom.casting import Casting, cast
from chiron.phantom.sample import write_castings, write_textbook
from chiron.phantom.split import split
from chiron.phantom.world import COMBINATIONS, World

TEXT_COPIES = 8
"""Cases of stage 1 a rule; each gives a row a length of the reasoning so far."""
PARTS = ("aligned", "worked", "unaligned", "seen", "new-seen", "new-held-out")
"""Of the cases: the first three are stage 2's (the third is kept out of training), ``seen`` is for the search and stage 3, the last two are
for the evaluation."""


@dataclass(frozen=True)
class Data:
    """Where everything lies, and what is true of it."""

    folder: Path
    world: World
    seen: tuple[Casting, ...]
    """For the search and stage 3."""
    seen_evaluated: tuple[Casting, ...]
    held_out_evaluated: tuple[Casting, ...]

    @property
    def cases(self) -> Path:
        """The cases of seen combinations, for the search; the textbook lies beside them."""
        return self.folder / "cases.jsonl"

    @property
    def images(self) -> Path:
        """The folder that all image paths are relative to."""
        return self.folder / "images"

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer."""
        return self.folder / "tokenizer"

    @property
    def prompts(self) -> dict[str, str]:
        """The files that replace the interns' prompts: as little as possible beside question and reasoning, since every token costs."""
        folder = files("chiron.miniature") / "prompts"
        return {name: str(folder / f"{name}.txt") for name in ("intern_system", "intern", "intern_prefix")}

    def loaded_prompts(self) -> Prompts:
        """The prompts of the miniature's search."""
        return load_prompts({name: Path(path) for name, path in self.prompts.items()})


def make_data(folder: Path, scale: Scale, *, seed: int, processes: int = 1) -> Data:
    """Draw and write everything that does not depend on a search. Run again it changes nothing.

    Raises:
        InputError: the folder cannot be written to.
        DiskError: the disk is full.
    """
    data = Data(folder, World(seed), *(castings(part, scale, seed=seed) for part in ("seen", "new-seen", "new-held-out")))
    if data.cases.is_file():  # written last: where it stands, all stands
        return data
    run_jobs([Job(_draw, (data.images, scale, seed, k, processes)) for k in range(processes)], at_once=processes)
    write_textbook(data.world, folder / "textbook.jsonl")
    prompts = data.loaded_prompts()
    aligned, worked, unaligned = ([*map(described, castings(part, scale, seed=seed))] for part in ("aligned", "worked", "unaligned"))
    text = build_stage_1(rule_cases(data.world, copies=TEXT_COPIES, seed=seed), folder, prompts, seed=seed)
    alignment, again = build_stage_2(aligned, worked, folder, prompts, seed=seed, again=scale.replayed)
    write_rows(folder / "text.jsonl", text)
    write_rows(folder / "alignment.jsonl", alignment)
    # To be replayed in stage 3, which is too short for all of them: reading them costs time.
    write_rows(folder / "alignment-again.jsonl", again)
    write_rows(folder / "alignment-held-out.jsonl", build_looks(unaligned, folder, "unaligned", prompts, seed=seed + 1))
    chains = write_rows(folder / "true-chains.jsonl", true_chains(data))
    write_rows(folder / "direct.jsonl", direct_answers(data))
    # The marks in every place where they may stand: what the vocabulary lacks, no model can say.
    marks = [f"{before}### {mark}:" for before in ("", "\n") for mark in (*(f"Step {n}" for n in range(1, 10)), "The final answer is")]
    write_tokenizer((*marks, *words_of(text, alignment, chains)), data.tokenizer)
    for name, group in (("new-seen", data.seen_evaluated), ("new-held-out", data.held_out_evaluated), ("cases", data.seen)):
        write_cases(folder / f"{name}.jsonl", (casting.case for casting in group))
    return data


def castings(part: str, scale: Scale, *, seed: int, share: int = 0, of: int = 1) -> tuple[Casting, ...]:
    """The cases of one of :data:`PARTS`, or every ``of``-th of them from number ``share`` on."""
    world = World(seed)
    parts = split(world)
    number, count, among = {
        "aligned": (1, scale.images, COMBINATIONS),
        "seen": (2, scale.cases, parts.seen),
        "new-seen": (3, scale.evaluated, parts.seen),
        "new-held-out": (4, scale.evaluated, parts.held_out),
        "unaligned": (5, max(1, scale.evaluated // 2), COMBINATIONS),
        "worked": (6, scale.worked, parts.seen),
    }[part]
    return tuple(cast(world, index, seed=8 * seed + number, size=SIDE, among=among, name=part) for index in range(share, count, of))


def _draw(_: Say, images: Path, scale: Scale, seed: int, share: int, of: int) -> None:
    """Draw one of so many equal shares of all cases."""
    for part in PARTS:
        write_castings(castings(part, scale, seed=seed, share=share, of=of), images)


def true_chains(data: Data) -> list[dict[str, Any]]:
    """Stage 3 as nobody has it: every step true."""
    prompts = data.loaded_prompts()
    return [answer_row(c.case, prompts, chain(c.attributes, c.case.answer)) for c in data.seen]


def direct_answers(data: Data) -> list[dict[str, Any]]:
    """Stage 3 without reasoning."""
    prompts = data.loaded_prompts()
    return [answer_row(c.case, prompts, f"### The final answer is: {c.case.answer}") for c in data.seen]
