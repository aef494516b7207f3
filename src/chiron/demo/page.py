"""Report page of the demonstration: one HTML file with the results, the loss curves, and example answers with their images."""

import base64
from pathlib import Path
from typing import Any

from chiron.demo.demonstration import Demonstration, Student
from chiron.demo.ladder import BASE, MICS
from chiron.demo.picture import Example, examples, title_of
from chiron.io import write_atomically
from chiron.reports.shell import render_page

EXAMPLES = 4
"""Number of example cases of each kind."""


def write_page(demonstration: Demonstration) -> Path:
    """Write ``demo.html`` to the demonstration's folder and return its path.

    Raises:
        DiskError: The file cannot be written.
    """
    d = demonstration
    page = render_page(
        "chiron.demo",
        "page.html",
        styles=["page.css"],
        parameters=count_weights(d.base / "model"),
        scale=d.scale,
        rungs=[_bars(student) for student in d.rungs],
        interns=[_bars(student) for student in d.interns],
        purity={title_of(name): purity for name, purity in d.purity.items()},
        curves=[
            {"name": "Stages 1 and 2", "url": _data_url(d.base / "curves.png")},
            *(
                {"name": f"Stage 3: {title_of(student.name)}", "url": _data_url(student.curves)}
                for student in d.rungs
                if student.curves is not None
            ),
        ],
        examples=[_example(example) for example in examples(d, EXAMPLES)],
    )
    write_atomically(d.folder / "demo.html", page)
    return d.folder / "demo.html"


def count_weights(model: Path) -> int:
    """Count the weights of a safetensors model from the headers of its files."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - not a mapping
    return total


def _bars(student: Student) -> dict[str, Any]:
    shares = {"seen": student.measured.seen_share, "held out": student.measured.held_out_share}
    return {"name": title_of(student.name), "rows": student.rows, "shares": shares}


def _example(example: Example) -> dict[str, Any]:
    case = example.case.case
    return {
        "id": case.id,
        "part": example.part,
        "modality": example.case.modality,
        "image": _data_url(example.image),
        "question": case.question,
        "answer": case.answer,
        "truth": " ".join(example.truth),
        "replies": [
            {"of": title_of(name), "correct": answered.correct, "reply": answered.reply or answered.problem}
            for name, answered in ((BASE, example.before), (MICS, example.after))
        ],
    }


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
