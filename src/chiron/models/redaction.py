"""Taking a key out of a text in which it may be spelt in many ways: an endpoint that echoes it escapes it as it likes."""

import re
from collections.abc import Callable

_MARK = "[key]"


def redactor(key: str | None) -> Callable[[str], str]:
    """A function that takes ``key`` out of a text: as it is, escaped as in JSON (also JSON within JSON), in a URL or in HTML."""
    if not key:
        return _unchanged
    pattern = re.compile("".join(_spellings(c) for c in key))

    def redact(text: str) -> str:
        return pattern.sub(_MARK, text)

    return redact


def _spellings(character: str) -> str:
    code = ord(character)
    # Backslashes are counted out, so that a text of nothing but them is still read in linear time.
    ways = (
        rf"\\{{0,4}}{re.escape(character)}",
        rf"\\{{1,4}}[uU]00(?i:{code:02x})",
        rf"%(?i:{code:02x})",
        rf"&#0{{0,4}}{code};?",
        rf"&#[xX]0{{0,4}}(?i:{code:x});?",
    )
    return f"(?:{'|'.join(ways)})"


def _unchanged(text: str) -> str:
    return text
