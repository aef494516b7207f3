"""What the miniature is made of, on disk: cases in the ordinary format, their images, the textbook, and the rows of the stages."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from chiron.cases.case import Case
from chiron.files import write_atomically
from chiron.mics.prompts import Prompts, load_prompts
from chiron.miniature.lessons import alignment_rows, answer_row, chain, text_rows, worked_rows
from chiron.miniature.processes import Job, Say, run_jobs
from chiron.miniature.scale import Scale
from chiron.phantom.apprentice import SIDE, write_tokenizer
from chiron.phantom.casting import Casting, cast
from chiron.phantom.sample import write_castings, write_textbook
from chiron.phantom.split import split
from chiron.phantom.world import COMBINATIONS, World

TEXT_COPIES = 8
"""Rows of stage 1 a rule and length of the reasoning so far."""
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
    aligned, worked, unaligned = (castings(part, scale, seed=seed) for part in ("aligned", "worked", "unaligned"))
    text = write_rows(folder / "text.jsonl", text_rows(data.world, prompts, copies=TEXT_COPIES, seed=seed))
    looks, examples = list(alignment_rows(aligned, prompts, seed=seed)), list(worked_rows(worked, prompts, seed=seed))
    described = write_rows(folder / "alignment.jsonl", [*looks, *examples])
    # To be replayed in stage 3, which is too short for all of them: reading them costs time.
    write_rows(folder / "alignment-again.jsonl", [*looks[: scale.replayed], *examples])
    write_rows(folder / "alignment-held-out.jsonl", alignment_rows(unaligned, prompts, seed=seed + 1))
    chains = write_rows(folder / "true-chains.jsonl", true_chains(data))
    write_rows(folder / "direct.jsonl", direct_answers(data))
    # The marks in every place where they may stand: what the vocabulary lacks, no model can say.
    marks = [f"{before}### {mark}:" for before in ("", "\n") for mark in (*(f"Step {n}" for n in range(1, 10)), "The final answer is")]
    write_tokenizer((*marks, *(turn["content"] for row in (*text, *described, *chains) for turn in row["messages"])), data.tokenizer)
    for name, group in (("new-seen", data.seen_evaluated), ("new-held-out", data.held_out_evaluated), ("cases", data.seen)):
        write_rows(folder / f"{name}.jsonl", (casting.case.to_record() for casting in group))
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


def rows_of_paths(paths: Path, data: Data) -> list[dict[str, Any]]:
    """Stage 3 from the retained paths of a run, in the order of ``paths.jsonl``."""
    prompts = data.loaded_prompts()
    cases: dict[str, Case] = {c.case.id: c.case for c in data.seen}
    lines = [json.loads(line) for line in paths.read_text("utf-8").splitlines()]
    return [answer_row(cases[line["case_id"]], prompts, line["reasoning"]) for line in lines]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write rows as JSONL, whole or not at all, and give them back.

    Raises:
        DiskError: the disk is full.
    """
    kept = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    return kept
