"""What the demonstration shows at its end, in the terminal and on a page: the ladder with intervals, loss curves, and examples."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from chiron.demo.demonstration import Demonstration, Student
from chiron.demo.ladder import BASE, LADDER, MICS, PartAccuracy
from chiron.demo.stage_rows import steps_of
from chiron.evaluation.api import Answered
from chiron.io import write_atomically
from chiron.phantom.sample import SyntheticCase
from chiron.reports.shell import render_page
from chiron.terminal import full_width

_WIDTH = 20
"""Width of a bar in characters."""
_PIXELS = 24
"""Side of an image in the terminal, in characters."""
_TONES = " .:-=+*#%@"
_EXAMPLES = 4
"""Number of example cases of each kind on the page."""


@dataclass(frozen=True)
class Example:
    """A case with the replies of the model of stage 2 and of the model that MICS trained."""

    case: SyntheticCase
    part: str
    """``seen`` or ``held out``."""
    image: Path
    """Its first image."""
    truth: tuple[str, ...]
    before: Answered
    after: Answered


def title_of(name: str) -> str:
    """Return the title of a rung; an intern is its own title."""
    return LADDER[name].title if name in LADDER else name


def examples(done: Demonstration, each: int) -> list[Example]:
    """Choose examples: of held-out and of seen combinations, ``each`` of both, the first cases in which the two answers differ."""
    students = {student.name: student for student in done.rungs}
    cases = {c.case.id: c for c in (*done.data.seen_evaluated, *done.data.held_out_evaluated)}
    chosen = []
    for part in ("held_out", "seen"):
        pairs = list(zip(getattr(students[BASE].measured, part), getattr(students[MICS].measured, part), strict=True))
        pairs.sort(key=lambda pair: pair[0].correct == pair[1].correct)
        for before, after in pairs[:each]:
            case = cases[before.case.id]
            image = done.data.images / case.case.images[0]
            chosen.append(Example(case, part.replace("_", " "), image, steps_of(case.attributes), before, after))
    return chosen


def ladder_table(students: Sequence[Student]) -> Table:
    """Format the results of models as a table with bars."""
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="bold")
    table.add_column("stage 3 on", no_wrap=True)
    table.add_column("rows", justify="right")
    for part in ("seen combinations", "held-out combinations"):
        table.add_column(part, no_wrap=True)
    for student in students:
        shares = (student.measured.seen_share, student.measured.held_out_share)
        style = "bold" if student.name == MICS else ""
        table.add_row(title_of(student.name), str(student.rows or ""), *map(_bar, shares), style=style)
    table.width = full_width(table)  # on a narrow terminal lines wrap, and no figure is cut off
    return table


def _bar(share: PartAccuracy) -> str:
    low, high = share.interval
    ends = [round(end * _WIDTH) for end in (low, high)]
    bar = "█" * ends[0] + "░" * (ends[1] - ends[0])
    return f"{bar:<{_WIDTH}} {share.value:.2f} [{low:.2f}, {high:.2f}]"


def example_panel(example: Example, *, color: bool) -> RenderableType:
    """Format an example for the terminal: its image next to both replies.

    ``color``: whether the terminal shows shades of gray. Otherwise characters stand for them.
    """
    case = example.case.case
    lines = [Text(f"{case.id} ({example.part}, {example.case.modality}): {case.answer}", style="bold")]
    for title, answered in ((title_of(BASE), example.before), (title_of(MICS), example.after)):
        mark = Text("right " if answered.correct else "wrong ", style="green" if answered.correct else "red")
        lines.append(mark + Text(f"{title}:", style="bold"))
        lines.append(Text((answered.reply or answered.problem or "").replace("### ", "")))
    table = Table.grid(padding=(0, 2))
    table.add_row(_image_text(example.image, color=color), Group(*lines))
    return table


def _image_text(path: Path, *, color: bool) -> Text:
    """Draw an image with two pixels per character (``color``), or with one character of similar darkness for two pixels."""
    with Image.open(path) as image:
        tones = np.asarray(image.convert("L").resize((_PIXELS, _PIXELS)))
    text = Text()
    for upper, lower in zip(tones[::2].tolist(), tones[1::2].tolist(), strict=True):
        for one, other in zip(upper, lower, strict=True):
            if color:
                text.append("▀", style=f"rgb({one},{one},{one}) on rgb({other},{other},{other})")
            else:
                text.append(_TONES[(one + other) * (len(_TONES) - 1) // 510])
        text.append("\n")
    return text


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
        examples=[_example(example) for example in examples(d, _EXAMPLES)],
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
