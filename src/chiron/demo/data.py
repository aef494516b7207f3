"""The size of the demonstration, its data on disk, and how true the steps of a path are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from chiron.conversation.reasoning import parse_reasoning
from chiron.demo.processes import Job, Say, run_jobs
from chiron.demo.stage_rows import (
    ATTRIBUTES,
    answer_row,
    build_looks,
    build_stage_1,
    build_stage_2,
    chain,
    described,
    rule_cases,
    steps_of,
    words_of,
    write_cases,
    write_rows,
)
from chiron.evaluation.api import Answered
from chiron.mics.prompts import Prompts, load_prompts
from chiron.phantom.sample import SyntheticCase, generate_case, write_castings, write_textbook
from chiron.phantom.tiny_model import SIDE, write_tokenizer
from chiron.phantom.world import COMBINATIONS, World, split


@dataclass(frozen=True)
class Scale:
    """Numbers of images, cases and steps, and the size of the model."""

    name: str
    images: int
    """Stage 2: cases whose images are put into words."""
    worked: int
    """Stage 2: worked examples beside them, of seen combinations, that go on from the words to the diagnosis. In a trial without any,
    which had learned its rules badly too, nine replies in ten had no final answer; such a model can be no intern."""
    cases: int
    """Of seen combinations, for the search and stage 3."""
    evaluated: int
    """Cases each, of seen and of held-out combinations, that nothing is trained on."""
    text_steps: int
    """Optimizer steps of stage 1."""
    alignment_steps: int
    """Of stage 2."""
    final_steps: int
    """Of stage 3."""
    replayed: int = 1_500
    """Images of stage 2 that may come again in stage 3."""
    hidden: int = 128
    """Width of the model's two towers."""
    vision_layers: int = 2
    language_layers: int = 2
    text_rows: int = 32
    """Rows a step in stage 1."""
    rows: int = 16
    """Rows a step in the other two."""
    text_learning_rate: float = 1e-3
    learning_rate: float = 1e-3
    """Of stage 2. With twice as much it sees much less in the end."""
    final_learning_rate: float = 3e-4
    """Of stage 3. A higher one teaches it which combinations there are, and so not to see the others."""


FULL = Scale("full", images=6_000, worked=240, cases=600, evaluated=240, text_steps=300, alignment_steps=2400, final_steps=200)
QUICK = Scale(
    "quick",
    images=1_000,
    worked=120,
    cases=64,
    evaluated=40,
    text_steps=200,
    alignment_steps=320,
    final_steps=32,
    replayed=500,
    text_rows=24,
    text_learning_rate=2e-3,
)
TINY = Scale(
    "tiny",
    images=24,
    worked=2,
    cases=6,
    evaluated=6,
    text_steps=2,
    alignment_steps=2,
    final_steps=2,
    hidden=32,
    vision_layers=1,
    language_layers=1,
)
"""Sees everything run once; learns nothing."""


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
    seen: tuple[SyntheticCase, ...]
    """For the search and stage 3."""
    seen_evaluated: tuple[SyntheticCase, ...]
    held_out_evaluated: tuple[SyntheticCase, ...]

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
        folder = files("chiron.demo") / "prompts"
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


def castings(part: str, scale: Scale, *, seed: int, share: int = 0, of: int = 1) -> tuple[SyntheticCase, ...]:
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
    return tuple(
        generate_case(world, index, seed=8 * seed + number, size=SIDE, among=among, name=part) for index in range(share, count, of)
    )


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


@dataclass(frozen=True, slots=True)
class Purity:
    """Of the retained paths of a run."""

    cases: int
    """Cases that were searched."""
    retained: int
    pure: int
    evaluations: int
    """Of all prefixes of all cases, asked to find them."""

    @property
    def share(self) -> float:
        """Pure of the retained."""
        return self.pure / self.retained if self.retained else 0.0


def purity(run: Path, data: Data, *, first: int | None = None) -> Purity:
    """Of a finished run's retained paths, of all cases or of the ``first`` so many (``evaluations`` are of all of them even so)."""
    truth = {casting.case.id: set(steps_of(casting.attributes)) for casting in data.seen[:first]}
    lines = [json.loads(line) for line in (run / "paths.jsonl").read_text("utf-8").splitlines()]
    counted = [line for line in lines if line["case_id"] in truth]
    pure = sum(is_pure(line["reasoning"], truth[line["case_id"]]) for line in counted)
    return Purity(len(truth), len(counted), pure, _evaluations(run))


def perception(answered: Sequence[Answered], data: Data) -> dict[str, float]:
    """By attribute, the share of evaluated cases in whose answer it is said right; one that is not said counts as wrong."""
    attributes = {c.case.id: c.attributes for c in (*data.seen_evaluated, *data.held_out_evaluated)}
    said = [(attributes[a.case.id], set(parse_reasoning(a.reply or "").steps)) for a in answered]
    return {name: sum(steps_of(true)[k] in steps for true, steps in said) / len(said) for k, name in enumerate(ATTRIBUTES)}


def is_pure(reasoning: str, truth: set[str]) -> bool:
    """Whether every attribute is said, and said right, in the reasoning."""
    said = {step for step in parse_reasoning(reasoning).steps if any(step.startswith(f"The {name} is ") for name in ATTRIBUTES)}
    return said == truth


def _evaluations(run: Path) -> int:
    from chiron.client.ledger import Ledger

    with Ledger.read(run / "ledger.sqlite") as ledger:
        return sum(s.calls for s in ledger.spending() if s.role == "intern")
