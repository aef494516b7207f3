"""Format numbers and untrusted text for the page."""

import re
from datetime import datetime

from markupsafe import Markup

_DASH = "\N{EN DASH}"
_ILLEGIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def legible(value: object) -> object:
    """Replace invisible characters that change how the surrounding text is displayed.

    Escaping stops markup, but not a right-to-left override that reverses the rest of a line, or a lone surrogate that makes the page
    impossible to encode. Each becomes the replacement character, so that a reader sees that something was there.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return _ILLEGIBLE.sub("\ufffd", value)
    return value


def decimal(value: float | None) -> str:
    """Format a score: ``0.83``, or a dash."""
    return _DASH if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """Format a difference of scores: ``+0.33``, ``-0.17`` with a true minus sign, or a dash."""
    if value is None:
        return _DASH
    return "\N{PLUS-MINUS SIGN}0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def count(value: int) -> str:
    """Format an integer: ``10,000``."""
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    """Format a share: ``33 %``, or a dash if ``whole`` is 0."""
    return f"{100 * part / whole:.0f}\N{NO-BREAK SPACE}%" if whole else _DASH


def usd(value: float) -> str:
    """Format dollars; amounts below one dollar get four decimals, because a call costs so little."""
    return f"${value:,.2f}" if value >= 1 else f"${value:.4f}"


def plural(number: int, one: str, many: str) -> str:
    """Format a number with its noun: ``1 case``, ``2 cases``."""
    return f"{number:,} {one if number == 1 else many}"


def moment(text: str) -> str:
    """Format a time of ``run.json`` for people; other text is returned unchanged."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return when.strftime("%Y-%m-%d %H:%M %z").strip()
