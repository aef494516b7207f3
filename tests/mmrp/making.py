"""Rows and parts made on the spot."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from chiron.mmrp.row import MmrpRow, Provenance
from chiron.providers.local.dialogue import Turn
from tests.support.records import write_lines

REASONING = (
    "### Step 1: The cortex of the seventh rib is interrupted on the left side of the chest.\n"
    "### Step 2: Sharp edges without callus speak for an injury that is fresh.\n"
    "### The final answer is: Rib fracture"
)
PROVENANCE = Provenance("runs/one", ("ab" * 32,), {"author": "cd" * 32}, {"author": "rules", "reader": "other"})


def a_row(name: str = "1", **changes: object) -> MmrpRow:
    """A chain of thought about one image, without fault; ``images`` and ``question`` may be given, and turns follow."""
    images = changes.get("images", (f"{name}/0.png",))
    assert isinstance(images, tuple)
    question = str(changes.get("question", f"What does the picture of case {name} {_words(name)} show?"))
    reasoning = str(changes.get("reasoning", REASONING))
    marks = "".join(f"Image {i}: <image>\n" for i in range(1, len(images) + 1))
    values: dict[str, object] = {
        "id": f"cot:{name}",
        "part": "cot",
        "case_id": name,
        "patient": name,
        "images": images,
        "turns": (Turn("user", f"{marks}{question}"), Turn("assistant", reasoning)),
        "question": question,
        "answer": "Rib fracture",
        "reasoning": reasoning,
        "findings": ("The cortex of the seventh rib is interrupted.", "No pneumothorax."),
        "modalities": ("X-ray",),
        "body_system": "musculoskeletal",
        "difficulty": 0.5,
        "depth": 2,
        "licence": "cc-by-4.0",
        "provenance": PROVENANCE,
    }
    return MmrpRow(**{**values, **changes})  # type: ignore[arg-type]


def a_text_row(name: str, **changes: object) -> MmrpRow:
    """A multiple-choice question without images."""
    question = f"Which sign is meant in case {name} {_words(name)}?"
    options = ("Silhouette sign", "Halo sign", "Comet tail", "Deep sulcus")
    shown = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    values: dict[str, object] = {
        "id": f"text:{name}",
        "part": "text",
        "images": (),
        "turns": (Turn("system", "Answer."), Turn("user", f"{question}\n{shown}"), Turn("assistant", f"B. {options[1]} {_words(name)}")),
        "question": question,
        "answer": options[1],
        "options": options,
        "reasoning": "",
        "modalities": ("CT",),
        "body_system": "chest",
        "difficulty": None,
        "depth": None,
    }
    return a_row(name, **{**values, **changes})


def write_part(directory: Path, rows: Iterable[MmrpRow], *, draw: bool = True) -> Path:
    """A part's directory with ``rows.jsonl``, and ``images/`` with a picture of its own for each name."""
    rows = list(rows)
    directory.mkdir(parents=True, exist_ok=True)
    write_lines(directory / "rows.jsonl", (row.to_record() for row in rows))
    (directory / "run.json").write_text(json.dumps({"began": "2026-01-01T00:00:00+0000", "identity": {"seed": 0}}))
    if draw:
        for name in {name for row in rows for name in row.images}:
            draw_image(directory / "images" / name, name)
    return directory


def draw_image(path: Path, seed: str, *, side: int = 64) -> Path:
    """A smooth picture that depends on ``seed`` alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, side=side).save(path)
    return path


def picture(seed: str, *, side: int = 64) -> Image.Image:
    random = np.random.default_rng(list(seed.encode()))
    coarse = Image.fromarray(random.integers(0, 255, (8, 8), dtype=np.uint8))
    return coarse.resize((side, side + 8), Image.Resampling.BICUBIC)


def _words(seed: str) -> str:
    """Twelve words that depend on ``seed`` alone, so that no two rows are alike by accident."""
    random = np.random.default_rng(list(seed.encode()))
    return " ".join("".join(random.choice(list("abcdefghijklmnoprstuvw"), 6)) for _ in range(12))
