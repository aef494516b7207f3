"""Yes or no, said in so many words, or stated of what the question asks.

"No evidence of a nodule" answers "Is there a nodule?" with no and "Is the lung clear?" with yes, so without the question it is neither;
and neither "abnormal" nor "nodule" holds a "no".
"""

import re

from chiron.evaluation.answers.corrections import last_cue
from chiron.evaluation.answers.declarations import declarations
from chiron.evaluation.answers.family import Family
from chiron.evaluation.answers.marks import unwrap
from chiron.evaluation.answers.polarity import answered_by

_PRONOUN = r"(?:there|it|this|that|these|those|they|he|she|i|we|you)\b"
# "No" before a noun is an article, not an answer; before a pause or a new clause it is one.
_YES = r"(?:yes|yeah|yep|yup)\b"
_NO = rf"(?:nope|nah)\b|no\b(?=[ ]?(?:$|[.,;:!?\n)\]}}\"'\u2013\u2014-]|(?:{_PRONOUN})))"
_EITHER = re.compile(r"\byes[ ]?(?:and|or|/|&)[ ]?no\b|\bno[ ]?(?:and|or|/|&)[ ]?yes\b", re.IGNORECASE)
_LEADING = re.compile(
    rf"[\W_]{{0,8}}(?:(?:so|therefore|thus|hence|well|simply|clearly|probably|likely)[, ]{{1,2}})?(?P<word>{_YES}|{_NO})", re.IGNORECASE
)
_CLAUSES = re.compile(r"[.,;:!?\n]+")
_ADVERBS = (
    "",
    "probably ",
    "definitely ",
    "certainly ",
    "absolutely ",
    "likely ",
    "most likely ",
    "i think ",
    "apparently ",
    "clearly ",
    "of course ",
)
_CLAUSE_MEANS = {
    **{f"{adverb}not": False for adverb in _ADVERBS if adverb},
    **dict.fromkeys(("not really", "not at all", "not likely", "i don't think so", "i do not think so", "i don't believe so"), False),
    **dict.fromkeys(
        (
            "nein",
            "n\u00e3o",
            "non",
            "\u5426",
            "\u4e0d",
            "\u4e0d\u662f",
            "\u4e0d\u662f\u7684",
            "\u6ca1\u6709",
            "\u6c92\u6709",
            "\u5e76\u6ca1\u6709",
        ),
        False,
    ),
    **dict.fromkeys(("\u4e0d\u5bf9", "\u4e0d\u5b58\u5728", "\u4e0d\u80fd", "\u4e0d\u4f1a"), False),
    **dict.fromkeys(("i think so", "i believe so", "of course", "s\u00ed", "oui", "ja", "sim"), True),
    **dict.fromkeys(("\u662f", "\u662f\u7684", "\u5bf9", "\u5bf9\u7684", "\u5b58\u5728", "\u6709\u7684"), True),
}
_ALONE_MEANS = {
    **dict.fromkeys(("definitely", "certainly", "absolutely", "indeed", "affirmative", "\u6709"), True),
    **dict.fromkeys(("\u65e0", "\u7121"), False),
}
_ANYWHERE = re.compile(
    rf"(?:(?P<not>\bnot )|\b(?:say|is|be|so|answer|with|therefore|thus|hence|probably|likely)[ ,:]{{1,2}}[\"']?"
    rf"|(?:^|(?<=[.,;:!?\n(\"'])|(?<=[.,;:!?] ))[\"']?)"
    rf"(?P<word>{_YES}|{_NO})",
    re.IGNORECASE,
)


def yes_no(reply: str, question: str | None = None, *, family: Family | None = None) -> bool | None:
    """``True`` for yes, ``False`` for no, ``None`` for neither and for both.

    Args:
        reply: what the model wrote.
        question: what it was asked. Without it only "yes" and "no" and their like count, not statements.
        family: whose mark to look for first; told from the reply if ``None``.
    """
    unwrapped = unwrap(reply, family)
    if unwrapped.unfinished:
        return _last_said(unwrapped.answer)
    return explicit(unwrapped.answer, question)


def explicit(text: str, question: str | None = None) -> bool | None:
    """The yes or no of a text without its model's format: the last that is declared, else the only one said or stated."""
    if _EITHER.search(text):
        return None
    declared = _declared(text)
    behind = last_cue(text)
    if behind is not None and (corrected := _only_word(text[behind:])) is not None:
        return corrected if declared in {None, corrected} or _only_word(text) is None else None
    if declared is not None:
        return declared
    if _ANYWHERE.search(text):
        return _only_word(text)
    if (short := _short(text)) is not None:
        return short
    return answered_by(text, question) if question else None


def _only_word(text: str) -> bool | None:
    said = {None if found["not"] else _is_yes(found) for found in _ANYWHERE.finditer(text)}
    return said.pop() if len(said) == 1 else None


def _short(text: str) -> bool | None:
    """Of "Probably not.", "Of course", and yes and no in other languages: the clause that a reply begins with."""
    clauses = [clause.strip(" \"'()").lower() for clause in _CLAUSES.split(text.strip(" .!\n\"'"))]
    said = {_CLAUSE_MEANS[clause] for clause in clauses if clause in _CLAUSE_MEANS}
    if clauses[0] in _CLAUSE_MEANS:
        return said.pop() if len(said) == 1 else None
    alone = clauses[0] if len(clauses) == 1 else ""
    return _ALONE_MEANS.get(alone)


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
    return found["word"].lower().startswith("y")
