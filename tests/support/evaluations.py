"""Generated evaluations: models of known accuracy, and questions that share images."""

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from chiron.evaluation.items import ITEMS, RESULTS, ItemResult, Verdict

MODALITIES = ("CT", "MRI", "X-ray")


def an_item(number: int, **changes: object) -> ItemResult:
    """Create a correctly answered item with its own image."""
    values: dict[str, object] = {
        "benchmark": "vqa_rad",
        "id": f"q{number}",
        "verdict": Verdict.RIGHT,
        "protocol": "huatuo_closed",
        "kind": "choice",
        "group": f"image-{number}",
        "labels": {"modality": MODALITIES[number % 3]},
        "question": f"What does image {number} show?",
        "images": (f"{number}.png",),
        "options": ("Cyst", "Fracture"),
        "answer": "Fracture",
        "reply": "### Step 1: The cortex is interrupted.\n### The final answer is: Fracture",
        "given": "Fracture",
        "rule": "final answer",
    }
    return ItemResult(**{**values, **changes})  # type: ignore[arg-type]


def with_verdict(item: ItemResult, verdict: Verdict) -> ItemResult:
    """Copy an item with another verdict."""
    given = {Verdict.RIGHT: item.answer, Verdict.WRONG: "Cyst"}.get(verdict)
    reply = None if verdict in {Verdict.UNUSABLE, Verdict.PENDING} else f"I see it.\nAnswer: {given}" if given else "I cannot tell."
    return replace(item, verdict=verdict, given=given, reply=reply)


def answers(
    accuracy: float, count: int = 200, *, per_image: int = 1, seed: int = 0, unparsed: float = 0.0, **changes: object
) -> list[ItemResult]:
    """Create ``count`` items, ``per_image`` per image.

    An image is equally hard for all models, so models agree more than by chance.
    """
    hardness, luck = random.Random("images"), random.Random(seed)
    hard = [hardness.gauss(0, 0.15) for _ in range(count)]
    found = []
    for number in range(count):
        image = number // per_image
        item = an_item(number, group=f"image-{image}", images=(f"{image}.png",), **changes)
        chance = luck.random()
        verdict = Verdict.RIGHT if chance < accuracy + hard[image] else Verdict.UNPARSED if luck.random() < unparsed else Verdict.WRONG
        found.append(with_verdict(item, verdict))
    return found


def write_evaluation(folder: Path, model: str, items: list[ItemResult], groups: list[Mapping[str, object]] | None = None) -> Path:
    """Write a run directory like that of ``chiron eval``, with the files that are read later."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"model": model, "identity": {"model": [model, 64]}}))
    (folder / ITEMS).write_text("".join(json.dumps(item.to_record()) + "\n" for item in items))
    if groups is not None:
        (folder / RESULTS).write_text(json.dumps({"version": 1, "groups": groups}))
    return folder


def write_models(folder: Path, *, count: int = 200, per_image: int = 2) -> list[Path]:
    """Write three runs: a good model, a slightly worse one, and a bad one with controls and an open benchmark."""
    good = answers(0.8, count, per_image=per_image, seed=1)
    close = answers(0.77, count, per_image=per_image, seed=2, unparsed=0.1)
    bad = answers(0.45, count, per_image=per_image, seed=3, unparsed=0.3)
    blank = answers(0.4, count, per_image=per_image, seed=4, control="no-image")
    return [
        write_evaluation(folder / "good", "Good-8B", good),
        write_evaluation(folder / "close", "Close-2B", close),
        write_evaluation(folder / "bad", "Bad-2B", [*bad, *blank]),
    ]
