"""Size and data of the demonstration, and a measure of how correct reasoning steps are."""

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from chiron import parse_reasoning
from chiron.demo.processes import Job, Say, run_jobs
from chiron.demo.stage_rows import (
    ATTRIBUTES,
    build_annotated,
    build_looks,
    build_stage_1,
    described,
    rule_cases,
    steps_of,
    words_of,
    write_cases,
    write_rows,
)
from chiron.io import read_jsonl
from chiron.mics.prompts import Prompts, load_prompts
from chiron.mics.tree import TreeScore, read_tree
from chiron.phantom.sample import SyntheticCase, generate_case, write_castings, write_textbook
from chiron.phantom.tiny_model import SIDE, write_tokenizer
from chiron.phantom.world import COMBINATIONS, World, split


@dataclass(frozen=True)
class Scale:
    """Numbers of images, cases and training steps, and the size of the model."""

    name: str
    images: int
    """Stage 2: cases whose images are described."""
    annotated: int
    """Cases of seen combinations with a true chain, as a lab has a few annotated cases. Only the interns and one control are trained on
    them."""
    cases: int
    """Cases of seen combinations, for the search and stage 3."""
    evaluated: int
    """Evaluation cases of seen combinations, and as many of held-out combinations; never trained on."""
    text_steps: int
    """Optimizer steps of stage 1."""
    alignment_steps: int
    """Optimizer steps of stage 2."""
    intern_steps: int
    """Optimizer steps that make an intern from the model of stage 2 and the annotated cases."""
    final_steps: int
    """Optimizer steps of stage 3, the same for every rung."""
    hidden: int = 96
    """Hidden width of the vision tower and of the language model."""
    vision_layers: int = 2
    language_layers: int = 2
    text_copies: int = 4
    """Stage 1 cases per rule. Each case gives one row per length of the reasoning so far."""
    text_rows: int = 64
    """Rows per step in stage 1."""
    rows: int = 16
    """Rows per step in stages 2 and 3."""
    text_learning_rate: float = 1e-3
    learning_rate: float = 1e-3
    """Learning rate of stage 2."""
    final_learning_rate: float = 3e-4
    """Learning rate of stage 3."""


FULL = Scale(
    "full",
    images=1_500,
    annotated=20,
    cases=1_000,
    evaluated=240,
    text_steps=350,
    alignment_steps=1_200,
    intern_steps=100,
    final_steps=500,
)
QUICK = replace(FULL, name="quick", images=1_000, cases=300, evaluated=120, alignment_steps=600, final_steps=200)
TINY = Scale(
    "tiny",
    images=24,
    annotated=2,
    cases=6,
    evaluated=6,
    text_steps=2,
    alignment_steps=2,
    intern_steps=2,
    final_steps=2,
    hidden=32,
    vision_layers=1,
    language_layers=1,
    text_copies=1,
)
"""Smallest scale that runs every step; the model learns nothing."""


MODALITIES = ("CT", "MRI")
"""Modalities of the cases: two instead of five, because with five even true chains left two thirds of the held-out cases wrong."""
PARTS = ("aligned", "unaligned", "annotated", "seen", "new-seen", "new-held-out")
"""Parts of the cases: the first two belong to stage 2 (the second is held out), ``annotated`` have a true chain, ``seen`` is for the search
and stage 3, and the last two are for evaluation."""


@dataclass(frozen=True)
class Data:
    """Files of the demonstration and the true attributes of its cases."""

    folder: Path
    world: World
    annotated: tuple[SyntheticCase, ...]
    """Cases with a true chain."""
    seen: tuple[SyntheticCase, ...]
    """Cases of the search and stage 3."""
    seen_evaluated: tuple[SyntheticCase, ...]
    held_out_evaluated: tuple[SyntheticCase, ...]

    @property
    def cases(self) -> Path:
        """File of the search's cases; the textbook is in the same folder."""
        return self.folder / "cases.jsonl"

    @property
    def images(self) -> Path:
        """Folder that all image paths are relative to."""
        return self.folder / "images"

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.folder / "tokenizer"

    @property
    def prompts(self) -> dict[str, str]:
        """Files that replace the interns' prompts. They are short, because every token costs time."""
        folder = files("chiron.demo") / "prompts"
        return {name: str(folder / f"{name}.txt") for name in ("intern_system", "intern", "intern_prefix")}

    def loaded_prompts(self) -> Prompts:
        """Load the prompts of the search."""
        return load_prompts(self.prompts)


def make_data(folder: Path, scale: Scale, *, seed: int, processes: int = 1) -> Data:
    """Generate and write all data that does not depend on a search. Does nothing if the data exists.

    Raises:
        InputError: The folder cannot be written to.
        DiskError: The disk is full.
    """
    data = Data(folder, World(seed), *(castings(part, scale, seed=seed) for part in ("annotated", "seen", "new-seen", "new-held-out")))
    if data.cases.is_file():  # written last, so all other files exist too
        return data
    run_jobs([Job(_draw, (data.images, scale, seed, k, processes)) for k in range(processes)], at_once=processes)
    write_textbook(data.world, folder / "textbook.jsonl")
    prompts = data.loaded_prompts()
    aligned, unaligned = ([*map(described, castings(part, scale, seed=seed))] for part in ("aligned", "unaligned"))
    text = build_stage_1(rule_cases(data.world, copies=scale.text_copies, seed=seed), folder, prompts, seed=seed)
    alignment = build_looks(aligned, folder, "looks", prompts, seed=seed)
    annotated = build_annotated(map(described, data.annotated), folder, prompts, seed=seed)
    write_rows(folder / "text.jsonl", text)
    write_rows(folder / "alignment.jsonl", alignment)
    write_rows(folder / "alignment-held-out.jsonl", build_looks(unaligned, folder, "unaligned", prompts, seed=seed + 1))
    write_rows(folder / "annotated.jsonl", annotated)
    # Add the headers with every possible prefix, because a model cannot produce text that is not in the vocabulary.
    headers = [*(f"Step {number}:" for number in range(1, 10)), "The final answer is:"]
    headers += [f"Step {number}: The {name} is" for number, name in enumerate(ATTRIBUTES, start=1)]
    marks = [f"{before}### {header}" for before in ("", "\n") for header in headers]
    write_tokenizer((*marks, *words_of(text, alignment, annotated)), data.tokenizer)
    for name, group in (("new-seen", data.seen_evaluated), ("new-held-out", data.held_out_evaluated), ("cases", data.seen)):
        write_cases(folder / f"{name}.jsonl", (casting.case for casting in group))
    return data


def castings(part: str, scale: Scale, *, seed: int, share: int = 0, of: int = 1) -> tuple[SyntheticCase, ...]:
    """Generate the cases of one of :data:`PARTS`, or every ``of``-th of them, starting at number ``share``."""
    world = World(seed)
    parts = split(world)
    number, count, among = {
        "aligned": (1, scale.images, COMBINATIONS),
        "seen": (2, scale.cases, parts.seen),
        "new-seen": (3, scale.evaluated, parts.seen),
        "new-held-out": (4, scale.evaluated, parts.held_out),
        "unaligned": (5, max(1, scale.evaluated // 2), COMBINATIONS),
        "annotated": (6, scale.annotated, parts.seen),
    }[part]
    shown: dict[str, Any] = {"among": among, "modalities": MODALITIES}
    return tuple(generate_case(world, index, seed=8 * seed + number, size=SIDE, name=part, **shown) for index in range(share, count, of))


def _draw(_: Say, images: Path, scale: Scale, seed: int, share: int, of: int) -> None:
    """Draw the images of share number ``share`` of ``of`` equal shares of all cases."""
    for part in PARTS:
        write_castings(castings(part, scale, seed=seed, share=share, of=of), images)


@dataclass(frozen=True, slots=True)
class Purity:
    """Number of correct paths among the retained paths of a run."""

    cases: int
    """Number of cases searched."""
    retained: int
    pure: int
    evaluations: int
    """Number of intern calls that the search's rule used. A replayed search has more of them in its ledger."""

    @property
    def share(self) -> float:
        """Share of retained paths that are pure."""
        return self.pure / self.retained if self.retained else 0.0


def purity(run: Path, data: Data) -> Purity:
    """Compute the purity of a finished run."""
    truth = {casting.case.id: set(steps_of(casting.attributes)) for casting in data.seen}
    lines = [line.value for line in read_jsonl(run / "paths.jsonl")]
    counted = [line for line in lines if line["case_id"] in truth]
    pure = sum(is_pure(line["reasoning"], truth[line["case_id"]]) for line in counted)
    return Purity(len(truth), len(counted), pure, _evaluations(run))


def is_pure(reasoning: str, truth: set[str]) -> bool:
    """Whether the reasoning states every attribute, and states it correctly."""
    stated = {step for step in parse_reasoning(reasoning).steps if any(step.startswith(f"The {name} is ") for name in ATTRIBUTES)}
    return stated == truth


def _evaluations(run: Path) -> int:
    """Count distinct intern calls in the search trees: the ledger of a replayed search also has the calls of the first search."""
    keys: set[str | None] = set()
    for tree in read_tree(run):
        scores: list[TreeScore | None] = [tree["baseline"]]
        for level in (level for attempt in tree["attempts"] for level in attempt):
            scores += [*level["candidates"], level["whole_path"]]
        keys.update(evaluation["key"] for score in scores if score is not None for evaluation in score["evaluations"])
    return len(keys - {None})
