"""Generated cases and images."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from chiron.cases.case import Case


def a_case(name: str = "c1", **changes: object) -> Case:
    values: dict[str, object] = {
        "id": name,
        "question": f"What does the image of {name} show?",
        "answer": f"Rib fracture {name}",
        "images": (f"{name}/0.png",),
        "history": "Fell from a ladder.",
        "findings": ("The cortex of the seventh rib is interrupted.", "No pneumothorax."),
        "age": "54 years",
        "sex": "Female",
    }
    return Case(**{**values, **changes})  # type: ignore[arg-type]


def write_png(path: Path, *, size: tuple[int, int] = (32, 32), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, size=(size[1], size[0]), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_cases(folder: Path, count: int = 4, *, shared_image: bool = False) -> Path:
    """Write ``cases.jsonl`` and ``images/`` with ``count`` cases."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    if shared_image:
        write_png(folder / "images" / "shared.png")
    for number in range(count):
        name = f"case-{number:05d}"
        case = a_case(name, images=("shared.png",)) if shared_image else a_case(name)
        if not shared_image:
            write_png(folder / "images" / name / "0.png", seed=number)
        lines.append(json.dumps(case.to_record()))
    path = folder / "cases.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def known_answers(cases: Path) -> dict[str, str]:
    """Read the answers by question."""
    records = [json.loads(line) for line in cases.read_text().splitlines()]
    return {r["question"]: r["answer"] for r in records}
