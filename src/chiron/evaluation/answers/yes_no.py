"""Yes or no, said in so many words.

Only the words themselves count. "No evidence of a nodule" answers "Is there a nodule?" with no and "Is the lung clear?" with yes, so
without the question it is neither; and neither "abnormal" nor "nodule" holds a "no".
"""

import re

from chiron.evaluation.answers.declarations import declarations
from chiron.evaluation.answers.family import Family
from chiron.evaluation.answers.marks import unwrap

_PRONOUN = r"(?:there|it|this|that|these|those|they|he|she|i|we|you)\b"
# "No" before a noun is an article, not an answer; before a pause or a new clause it is one.
_NO = rf"no\b(?=[ ]?(?:$|[.,;:!?\n)\]}}\"'\u2013\u2014-]|(?:{_PRONOUN})))"
_EITHER = re.compile(r"\byes[ ]?(?:and|or|/|&)[ ]?no\b|\bno[ ]?(?:and|or|/|&)[ ]?yes\b", re.IGNORECASE)
_LEADING = re.compile(
    rf"[\W_]{{0,8}}(?:(?:so|therefore|thus|hence|well|simply|clearly|probably|likely)[, ]{{1,2}})?(?P<word>yes\b|{_NO})", re.IGNORECASE
)
_ANYWHERE = re.compile(
    rf"(?:(?P<not>\bnot )|\b(?:say|is|be|so|answer|with|therefore|thus|hence|probably|likely)[ ,:]{{1,2}}[\"']?"
    rf"|(?:^|(?<=[.,;:!?\n(\"'])|(?<=[.,;:!?] ))[\"']?)"
    rf"(?P<word>yes\b|{_NO})",
    re.IGNORECASE,
)


def yes_no(reply: str, *, family: Family | None = None) -> bool | None:
    """``True`` for an explicit yes, ``False`` for an explicit no, ``None`` for neither and for both."""
    unwrapped = unwrap(reply, family)
    if unwrapped.unfinished:
        return _last_said(unwrapped.answer)
    return explicit(unwrapped.answer)


def explicit(text: str) -> bool | None:
    """The yes or no of a text without its model's format: the last that is declared, else the only one said."""
    if _EITHER.search(text):
        return None
    declared = _declared(text)
    if declared is not None:
        return declared
    said_words = {None if found["not"] else _is_yes(found) for found in _ANYWHERE.finditer(text)}
    return said_words.pop() if len(said_words) == 1 else None


def _last_said(text: str) -> bool | None:
    """Of a last step and what follows it: what is declared, or a last line that is nothing but yes or no."""
    if _EITHER.search(text):
        return None
    declared = _declared(text)
    last = text.rpartition("\n")[2].strip(" .!").lower() if "\n" in text else ""
    return declared if declared is not None or last not in {"yes", "no"} else last == "yes"


def _declared(text: str) -> bool | None:
    leading = [found for said in declarations(text) if (found := _LEADING.match(said.content))]
    return _is_yes(leading[-1]) if leading else None


def _is_yes(found: re.Match[str]) -> bool:
    return found["word"].lower() == "yes"
