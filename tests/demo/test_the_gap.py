"""The miniature's claim at a size that a test can afford: where a diagnosis was never shown, steps lead to it and bare answers don't.

Looks are words here, each attribute's value a made-up one, since a vision tower takes minutes to learn: all else is the real thing (the
trainer's stages, the provider ``local``, the comparison of answers).
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiron.cases.case import Case
from chiron.client.config import LocalModel
from chiron.conversation.reasoning import render_reasoning, render_steps
from chiron.demo.curriculum import IMAGES
from chiron.demo.stage_rows import ATTRIBUTES, DESCRIBE, answer_row, build_stage_1, chain, rule_cases, steps_of, write_rows
from chiron.evaluation.api import Question, answer_all
from chiron.mics.prompts import Prompts, load_prompts
from chiron.phantom.sample import write_textbook
from chiron.phantom.tiny_model import configuration, write_tokenizer
from chiron.phantom.wording import QUESTIONS
from chiron.phantom.world import COMBINATIONS, Attributes, World, split
from chiron.training.recipe import Batch, Recipe, Scratch, Stage
from chiron.training.session import prepare, train

pytestmark = pytest.mark.slow

WORLD = World(0)
LOOKS = {
    name: {
        value: f"{start}{end}" for value, end in zip(sorted({getattr(a, name) for a in COMBINATIONS}), ("ama", "olo", "iti"), strict=False)
    }
    for name, start in zip(ATTRIBUTES, ("Zb", "Gn", "Kr", "Vl", "Dw"), strict=True)
}


def looks(attributes: Attributes) -> str:
    return "Seen: " + " ".join(LOOKS[name][getattr(attributes, name)] for name in ATTRIBUTES) + "."


def asked(prompts: Prompts, attributes: Attributes, question: str) -> Case:
    return Case(id="x", question=f"{looks(attributes)} {question}", answer=WORLD.diagnose(attributes), images=())


def a_row(name: str, case: Case, prompts: Prompts, said: str) -> dict[str, Any]:
    return {**answer_row(case, prompts, said), "id": name}


def described(prompts: Prompts) -> Iterator[dict[str, Any]]:
    for number in range(10):
        for index, a in enumerate(COMBINATIONS):
            yield a_row(f"d{number}-{index}", asked(prompts, a, DESCRIBE), prompts, render_steps(steps_of(a)))


def diagnosed(prompts: Prompts, among: Sequence[Attributes], *, steps: bool) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for number in range(20):
        for index, a in enumerate(among):
            question = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
            answer = WORLD.diagnose(a)
            said = chain(a, answer) if steps else render_reasoning((), answer)
            yield a_row(f"a{number}-{index}", asked(prompts, a, question), prompts, said)


def stage(name: str, steps: int, rate: float, **replay: float) -> Stage:
    return Stage(name=name, data=f"{name}.jsonl", trainable="all", steps=steps, batch=Batch(rows=32), learning_rate=rate, replay=replay)


def test_steps_carry_to_combinations_whose_diagnosis_was_never_shown(tmp_path: Path) -> None:
    from importlib.resources import files

    folder = files("chiron.demo") / "prompts"
    prompts = load_prompts({name: Path(str(folder / f"{name}.txt")) for name in ("intern_system", "intern", "intern_prefix")})
    parts = split(WORLD)
    write_textbook(WORLD, tmp_path / "textbook.jsonl")
    data = {
        "text": build_stage_1(rule_cases(WORLD, copies=8, seed=0), tmp_path, prompts, seed=0),
        "looks": list(described(prompts)),
        "steps": list(diagnosed(prompts, parts.seen, steps=True)),
        "bare": list(diagnosed(prompts, parts.seen, steps=False)),
    }
    for name, rows in data.items():
        write_rows(tmp_path / f"{name}.jsonl", rows)  # text.jsonl lies beside the part that it was built in
    write_tokenizer((turn["content"] for rows in data.values() for r in rows for turn in r["messages"]), tmp_path / "tokenizer")
    config = configuration(tmp_path / "tokenizer", hidden=64, vision_layers=1, language_layers=2)
    settings: dict[str, Any] = {
        "adapter": None, "images": IMAGES, "max_seq_length": 192, "micro_batch_size": 32, "precision": "fp32", "checkpoint_every": 10_000,
    }  # fmt: skip
    first = Recipe(
        name="first",
        scratch=Scratch(tokenizer=str(tmp_path / "tokenizer"), config=config),
        stages=[stage("text", 350, 4e-3), stage("looks", 60, 2.7e-3, text=0.3)],
        **settings,
    )
    base = train(prepare(first, tmp_path), tmp_path / "base").model
    right = {}
    for arm in ("steps", "bare"):
        last = Recipe(
            name=arm, base=str(base), base_stages={"looks": "looks.jsonl"}, stages=[stage(arm, 50, 1.3e-3, looks=0.3)], **settings
        )
        model = LocalModel(provider="local", path=str(train(prepare(last, tmp_path), tmp_path / arm).model))
        for part in ("seen", "held_out"):
            cases = [asked(prompts, a, QUESTIONS[0]) for a in getattr(parts, part)]
            answers = asyncio.run(answer_all({part: cases}, model, Question(prompts, tmp_path, 64), tmp_path / f"{arm}-answers"))
            right[arm, part] = sum(a.correct for a in answers[part]) / len(cases)
    assert right["steps", "seen"] > 0.8
    assert right["bare", "seen"] > 0.8
    assert right["steps", "held_out"] > right["bare", "held_out"] + 0.3
