"""The judge's verdict: the first word of its reply, and nothing else of it."""

import re

_FIRST_WORD = re.compile(r"^[\s\W_]*([^\W\d_]+)")
_THINKING = re.compile(r"^.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)


def read_verdict(reply: str) -> bool | None:
    """``True`` for yes, ``False`` for no, ``None`` for anything else: "not yes" is no yes, and a maybe is no verdict."""
    match = _FIRST_WORD.match(_THINKING.sub("", reply))
    return {"yes": True, "no": False}.get(match[1].lower()) if match else None
