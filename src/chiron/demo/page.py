"""Report page of the demonstration: one HTML file with the results, the loss curves, and example answers with their images."""

import base64
from pathlib import Path
from typing import Any

from chiron.demo.demonstration import Arm, Demonstration
from chiron.demo.stage_rows import ATTRIBUTES
from chiron.evaluation.statistics.intervals import Share
from chiron.io import write_atomically
from chiron.reports.shell import render_page

EXAMPLES = 6
"""Number of example cases per part. Cases on which the arms differ come first."""


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
        parameters=count_weights(d.arms[0].model),
        arms=[
            {"name": a.name, "rows": a.rows, "seen": _said(a.measured.seen_share), "held_out": _said(a.measured.held_out_share)}
            for a in d.arms
        ],
        purity=d.purity,
        curves=[
            {"name": "Stages 1 and 2", "url": _data_url(d.base / "curves.png")},
            *({"name": f"Stage 3: {a.name}", "url": _data_url(a.curves)} for a in d.arms if a.curves is not None),
        ],
        examples=[*_examples(d, "held_out"), *_examples(d, "seen")],
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


def _said(share: Share) -> str:
    low, high = share.interval
    return f"{share.value:.3f} ({low:.3f} to {high:.3f}), {share.right} of {share.of}"


def _examples(d: Demonstration, part: str) -> list[dict[str, Any]]:
    castings = {c.case.id: c for c in (*d.data.seen_evaluated, *d.data.held_out_evaluated)}
    answers = [getattr(arm.measured, part) for arm in d.arms]
    order = sorted(range(len(answers[0])), key=lambda i: len({group[i].correct for group in answers}) == 1)
    return [
        _example(d, part, castings[answers[0][i].case.id], [(a, g[i]) for a, g in zip(d.arms, answers, strict=True)])
        for i in order[:EXAMPLES]
    ]


def _example(d: Demonstration, part: str, casting: Any, said: list[tuple[Arm, Any]]) -> dict[str, Any]:
    return {
        "id": casting.case.id,
        "part": part.replace("_", " "),
        "modality": casting.modality,
        "images": [_data_url(d.data.images / name) for name in casting.case.images],
        "question": casting.case.question,
        "answer": casting.case.answer,
        "truth": ", ".join(f"{name} {getattr(casting.attributes, name)}" for name in ATTRIBUTES),
        "said": [{"arm": arm.name, "correct": a.correct, "reply": a.reply if a.reply is not None else a.problem} for arm, a in said],
    }


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
