"""Table cells, and the formatting of figures."""

from dataclasses import dataclass

from chiron.evaluation.figures import Accuracy, Figure


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: a figure, and below it the details needed to judge it."""

    lines: tuple[str, ...] = ("\N{EN DASH}",)
    """The first line is the figure; the others are small print."""
    strong: bool = False
    """Whether this is the column's reference."""

    @property
    def figure(self) -> str:
        """The first line."""
        return self.lines[0]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table."""

    title: str
    head: tuple[str, ...]
    """Column headings; the first is that of the row names."""
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Name and cells of each row."""
    notes: tuple[str, ...] = ()
    """Notes below the table, one line each."""
    measured: bool = True
    """``False`` for published figures, which are shown separately."""


def cell(*lines: str, strong: bool = False) -> Cell:
    """Build a cell from lines; empty lines are left out."""
    return Cell(tuple(line for line in lines if line), strong)


EMPTY = Cell()
"""Nothing was measured here."""


_MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))


def percent(share: float) -> str:
    """Format a share in percent: ``62.5``."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """Format a difference of shares in percentage points: ``+3.1``, with a true minus sign."""
    return f"{100 * difference:+.1f}".replace("-", "\N{MINUS SIGN}")


def with_interval(figure: Figure) -> str:
    """Format a share with its interval: ``62.5 [55.1, 69.2]``."""
    if figure.interval is None:
        return f"{percent(figure.value)} [no interval]"
    low, high = figure.interval
    return f"{percent(figure.value)} [{percent(low)}, {percent(high)}]"


def difference_with_interval(figure: Figure) -> str:
    """Format a difference with its interval: ``-22.4 [-27.0, -17.8]``."""
    if figure.interval is None:
        return f"{points(figure.value)} [no interval]"
    low, high = figure.interval
    return f"{points(figure.value)} [{points(low)}, {points(high)}]"


def score_with_interval(figure: Figure) -> str:
    """Format a score with its interval: ``0.612 [0.580, 0.641]``. Scores are not shares of answers, so they are not in percent."""
    if figure.interval is None:
        return _minus(f"{figure.value:.3f} [no interval]")
    return _minus(f"{figure.value:.3f} [{figure.interval[0]:.3f}, {figure.interval[1]:.3f}]")


def mark(p: float | None) -> str:
    """Return the stars of an adjusted p-value."""
    return next((stars for level, stars in _MARKS if p is not None and p < level), "")


def p_value(p: float) -> str:
    """Format a p-value: ``p 0.034``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def doubts(accuracy: Accuracy) -> tuple[str, ...]:
    """List what weakens a figure: always the unparsed share; unjudged, unusable and pending items and few images where they occur."""
    return tuple(
        line
        for line in (
            f"unparsed {percent(accuracy.unparsed_share)} %",
            f"{accuracy.unjudged} unjudged" if accuracy.unjudged else "",
            f"{accuracy.unusable} unusable" if accuracy.unusable else "",
            f"{accuracy.pending} pending" if accuracy.pending else "",
            few_images(accuracy),
        )
        if line
    )


def few_images(accuracy: Accuracy) -> str:
    """Return ``only 12 images``; empty if there are enough."""
    if not accuracy.has_few_images:
        return ""
    return "only 1 image" if accuracy.groups == 1 else f"only {accuracy.groups} images"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
