"""How numbers and other people's text are put on the page."""

import re
from datetime import datetime

from markupsafe import Markup

_DASH = "\N{EN DASH}"
_ILLEGIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def legible(value: object) -> object:
    """Text without the characters that draw nothing but rule what stands around them.

    Escaping stops markup; it does not stop a right-to-left override from turning the rest of a line around, nor a lone surrogate
    from making the page impossible to encode. Each becomes the replacement character, so that a reader sees something was there.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return _ILLEGIBLE.sub("\ufffd", value)
    return value


def decimal(value: float | None) -> str:
    """A score: ``0.83``, or a dash."""
    return _DASH if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """A difference of scores: ``+0.33``, ``-0.17`` with a true minus sign, or a dash."""
    if value is None:
        return _DASH
    return "\N{PLUS-MINUS SIGN}0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def count(value: int) -> str:
    """``10,000``."""
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    """``33 %``; nothing of nothing is a dash."""
    return f"{100 * part / whole:.0f}\N{NO-BREAK SPACE}%" if whole else _DASH


def usd(value: float) -> str:
    """Dollars; below one of them to a hundredth of a cent, because a call costs no more than that."""
    return f"${value:,.2f}" if value >= 1 else f"${value:.4f}"


def plural(number: int, one: str, many: str) -> str:
    """``1 case``, ``2 cases``."""
    return f"{number:,} {one if number == 1 else many}"


def moment(text: str) -> str:
    """A time as ``run.json`` writes it, for people; what is no time stays as it is."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return when.strftime("%Y-%m-%d %H:%M %z").strip()
