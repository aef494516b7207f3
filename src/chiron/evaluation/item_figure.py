"""Draw one item as a figure: its images, question and known answer, and every model's steps and answer in a column."""

import base64
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron.cases.images import ImageFolder
from chiron.conversation.markup import own_turn, said
from chiron.conversation.reasoning import parse_reasoning
from chiron.conversation.short_answers import LETTERS
from chiron.errors import InputError
from chiron.evaluation.items import ItemResult, Verdict
from chiron.evaluation.read_runs import REAL, Evaluated
from chiron.extras import install_command
from chiron.io import write_atomically, write_figure
from chiron.reports.shell import legible, render_page
from chiron.reports.thumbnails import Thumbnail, thumbnails

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".html", ".png", ".pdf")
_SIDE = 1024
"""Longest side of an image in pixels."""
_MOST_STEP, _MOST_STEPS = 600, 12
"""Characters of a step, and number of steps, in a picture. A page shows everything."""
_SIGNS = {Verdict.RIGHT: "\N{CHECK MARK}", Verdict.WRONG: "\N{BALLOT X}"}


@dataclass(frozen=True)
class AnswerColumn:
    """One model's answer."""

    model: str
    verdict: Verdict
    given: str
    """The answer found in the reply, or why there is none."""
    steps: tuple[str, ...]
    scores: tuple[str, ...]
    """MICS-Score after each step, where it was measured; otherwise empty."""
    reply: str
    """The reply, if it has no steps."""

    @property
    def label(self) -> str:
        """The verdict with a sign, so that it does not depend on color."""
        return f"{_SIGNS.get(self.verdict, '')} {self.verdict}".strip()


@dataclass(frozen=True)
class ItemFigure:
    """One item with the answers of all models."""

    item: ItemResult
    images: tuple[Thumbnail, ...]
    columns: tuple[AnswerColumn, ...]

    @property
    def gold(self) -> int | None:
        """Index of the right option; ``None`` without options."""
        return next((n for n, option in enumerate(self.item.options) if option.casefold() == self.item.answer.casefold()), None)


def item_figure(models: Sequence[Evaluated], name: str, folders: Mapping[str, Path], *, control: str = REAL) -> ItemFigure:
    """Collect one item of the real runs, or of a control, with a column for each model and seed.

    Args:
        models: from :func:`chiron.evaluation.read_runs.read_evaluations`.
        name: the item's id, or ``BENCHMARK/ID`` where several benchmarks have the same id.
        folders: image folder of each benchmark.
        control: name of a control.

    Raises:
        InputError: no item has this id, or the items of several benchmarks.
    """
    real = [(model, result) for model in models for result in model.results if result.control == control]
    found = [(model, result) for model, result in real if name in {result.id, f"{result.benchmark}/{result.id}"}]
    if not found:
        near = get_close_matches(name, {result.id for _, result in real}, n=1)
        raise InputError(f"no item '{name}' in these runs{f'; did you mean {near[0]!r}?' if near else ''}: --items FILE.html lists them")
    if len(benchmarks := dict.fromkeys(result.benchmark for _, result in found)) > 1:
        raise InputError(f"item '{name}' is in {' and '.join(benchmarks)}: write --item {next(iter(benchmarks))}/{name}")
    item = found[0][1]
    if item.benchmark in folders:
        images = thumbnails(ImageFolder(folders[item.benchmark]), list(item.images), side=_SIDE)
    else:
        images = tuple(Thumbnail(image, problem="the image folder is unknown: name it with --images") for image in item.images)
    several = len({result.protocol for _, result in found}) > 1
    return ItemFigure(item, images, tuple(_column(model, result, several) for model, result in found))


def write_item_figure(figure: ItemFigure, out: Path) -> list[str]:
    """Write the figure as a page (``.html``) or as a picture (``.png``, ``.pdf``).

    Returns:
        What the picture does not show, one line each.

    Raises:
        InputError: another suffix, or matplotlib is missing.
        DiskError: the file cannot be written.
    """
    if out.suffix.lower() not in ENDINGS:
        raise InputError(f"--out {out}: a figure of an item is written as .html, .png or .pdf: name one of them")
    if out.suffix.lower() == ".html":
        page = render_page(
            "chiron.evaluation", "item.html", styles=["report.css", "items.css"], figure=figure, item=figure.item, letters=LETTERS
        )
        write_atomically(out, page)
        return []
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise InputError(f"a figure as {out.suffix} needs matplotlib ({error}): {install_command('eval')}, or use .html") from error
    with warnings.catch_warnings(record=True) as caught, mpl.rc_context({"font.family": _fonts()}):
        warnings.simplefilter("always")
        write_figure(_drawn(figure), out)
    lacking = any("missing from font" in str(warning.message) for warning in caught)
    cut = any(len(c.steps) > _MOST_STEPS or any(len(step) > _MOST_STEP for step in (*c.steps, c.reply)) for c in figure.columns)
    return [
        *(["some characters are not in the fonts of this machine: use .html, or install a font such as Noto Sans CJK"] if lacking else []),
        *(["long replies are cut: .html shows them whole"] if cut else []),
    ]


def _column(model: Evaluated, result: ItemResult, several: bool) -> AnswerColumn:
    reply = result.reply or ""
    steps = parse_reasoning(reply).steps
    scores = tuple("" if (value := result.scores.get(f"mics_score@{n}")) is None else f"{value:.2f}" for n in range(1, len(steps) + 1))
    name = model.name + (f", seed {result.seed}" if result.seed else "") + (f" ({result.protocol})" if several else "")
    given = result.given if result.given is not None else result.problem or "no answer found"
    return AnswerColumn(name, result.verdict, given, steps, scores, "" if steps else own_turn(said(reply)).strip())


def _fonts() -> list[str]:
    from matplotlib.font_manager import get_font_names

    known = set(get_font_names())
    return ["DejaVu Sans", *(font for font in ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei") if font in known)]


_POINTS, _LINE, _MARGIN, _GAP = 8.0, 11.5, 14.0, 14.0
"""Size of the text, height of a line, margin, and space between columns, in points (1/72 inch)."""
_WIDE, _IMAGE = 190.0, 150.0
"""Least width of a column, and height of the images, in points."""
_MOST_COLUMNS = 4
_COLORS = {Verdict.RIGHT: "#0b6e5f", Verdict.WRONG: "#a8202b"}
_Line = tuple[str, dict[str, Any]]


def _drawn(figure: ItemFigure) -> "Figure":
    """Place lines of text from top to bottom. Matplotlib does not wrap text within a width, so the lines are measured and broken here."""
    from matplotlib.figure import Figure

    count = math.ceil(len(figure.columns) / math.ceil(len(figure.columns) / _MOST_COLUMNS))
    width = max(420.0, count * _WIDE + (count - 1) * _GAP + 2 * _MARGIN)
    column_width = (width - 2 * _MARGIN - (count - 1) * _GAP) / count
    head = _head(figure.item, figure.gold, width - 2 * _MARGIN)
    rows = [figure.columns[start : start + count] for start in range(0, len(figure.columns), count)]
    texts = [[list(_lines(column, column_width)) for column in row] for row in rows]
    heights = [max(len(lines) for lines in row) * _LINE + _GAP for row in texts]
    image_height = _IMAGE + _GAP if figure.images else 0.0
    height = 2 * _MARGIN + image_height + len(head) * _LINE + _GAP + sum(heights)
    drawn = Figure(figsize=(width / 72, height / 72), facecolor="white")

    def write(lines: Sequence[_Line], left: float, top: float) -> None:
        for number, (text, style) in enumerate(lines):
            y = 1 - (top + number * _LINE) / height
            drawn.text(left / width, y, text, va="top", parse_math=False, **{"fontsize": _POINTS, "color": "#1a2026", **style})

    _draw_images(drawn, figure.images, width, height)
    top = _MARGIN + image_height
    write(head, _MARGIN, top)
    top += len(head) * _LINE + _GAP
    for row, row_height in zip(texts, heights, strict=True):
        for number, lines in enumerate(row):
            write(lines, _MARGIN + number * (column_width + _GAP), top)
        top += row_height
    return drawn


def _draw_images(drawn: "Figure", images: Sequence[Thumbnail], width: float, height: float) -> None:
    import numpy as np
    from PIL import Image

    share = (width - 2 * _MARGIN) / max(1, len(images))
    left = _MARGIN
    for image in images:
        room = min(share - 6, _IMAGE * image.width / image.height if image.height else share)
        axes = drawn.add_axes((left / width, 1 - (_MARGIN + _IMAGE) / height, room / width, _IMAGE / height))
        axes.set_axis_off()
        left += room + 6
        if image.url:
            pixels = Image.open(io.BytesIO(base64.b64decode(image.url.partition(",")[2])))
            axes.imshow(np.asarray(pixels.convert("RGB")))
            axes.set_anchor("W")
        else:
            problem = "\n".join(_wrapped(image.problem, room - 6, _POINTS))
            axes.text(0, 1, f"no image\n{problem}", va="top", fontsize=_POINTS, color=_COLORS[Verdict.WRONG], parse_math=False)


def _head(item: ItemResult, gold: int | None, width: float) -> list[_Line]:
    lines: list[_Line] = [(_clean(f"{item.benchmark}, {item.id}"), {"color": "#596570"})]
    lines += [(line, {"fontsize": _POINTS + 1}) for line in _wrapped(item.question or "(no question)", width, _POINTS + 1)]
    for number, option in enumerate(item.options):
        style = {"weight": "bold", "color": _COLORS[Verdict.RIGHT]} if number == gold else {}
        lines += [(line, style) for line in _wrapped(f"{LETTERS[number]}. {option}", width, _POINTS)]
    return [*lines, *((line, {"weight": "bold"}) for line in _wrapped(f"Known answer: {item.answer}", width, _POINTS, "bold"))]


def _lines(column: AnswerColumn, width: float) -> Iterator[_Line]:
    """Yield the lines of one column: the model, its verdict, its steps, its answer."""
    color = _COLORS.get(column.verdict, "#9a4a06")
    for line in _wrapped(column.model, width, _POINTS + 1, "bold"):
        yield line, {"weight": "bold", "fontsize": _POINTS + 1}
    yield column.label, {"weight": "bold", "color": color}
    steps = [
        f"{number}. {step}" + (f" [MICS {score}]" if score else "")
        for number, (step, score) in enumerate(zip(column.steps, column.scores, strict=True), start=1)
    ]
    left_out = len(steps) - _MOST_STEPS
    shown = [*steps[:_MOST_STEPS], *([f"... and {left_out} more steps"] if left_out > 0 else [])] or [column.reply]
    for text in filter(None, shown):
        cut = text if len(text) <= _MOST_STEP else text[:_MOST_STEP] + " ..."
        for line in _wrapped(cut, width, _POINTS):
            yield line, {}
    for line in _wrapped(f"Answer: {column.given}", width, _POINTS, "bold"):
        yield line, {"weight": "bold", "color": color}


def _clean(text: str) -> str:
    return str(legible(text)).replace("\t", " ")


def _wrapped(text: str, width: float, size: float, weight: str = "normal") -> Iterator[str]:
    """Break text into lines of at most ``width`` points. A word that is wider than a line is broken anywhere."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight=weight)

    def fits(words: str) -> bool:
        measured: tuple[float, float, float] = text_to_path.get_text_width_height_descent(words, font, ismath=False)
        return measured[0] <= width

    for paragraph in _clean(text).splitlines():
        line = ""
        for word in paragraph.split():
            candidate = f"{line} {word}" if line else word
            if fits(candidate):
                line = candidate
                continue
            if line:
                yield line
            line = word
            while not fits(line):
                end = next((n for n in range(len(line) - 1, 1, -1) if fits(line[:n])), 1)
                yield line[:end]
                line = line[end:]
        yield line
