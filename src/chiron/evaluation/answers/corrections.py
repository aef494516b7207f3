"""Detect replies that correct themselves, and read tables and lists of check marks."""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from chiron.evaluation.answers.options import Options

CUE: Final = re.compile(
    r"\b(?:sorry|oops|whoops|apologies|I apologi[sz]e|my (?:mistake|bad|error)|correction|corrected|scratch that|strike that|edit"
    r"|wait|hold on"
    r"|on (?:second thoughts?|reflection|closer (?:look|inspection)|reconsideration)|after reconsidering|reconsidering"
    r"|I (?:mean|meant|misread|misspoke|mistyped|was wrong|stand corrected|take (?:that|it) back|made (?:a|an) (?:mistake|error|typo)"
    r"|(?:have )?changed my mind|change my (?:mind|answer))"
    r"|make (?:that|it)|(?:or )?rather(?! than\b)|hmm+|instead(?! of\b)|perd\u00f3n|disculpa|d\u00e9sol\u00e9|pardon|Entschuldigung"
    r"|quatsch)\b"
    r"|(?<=[.!?;] )(?:no|nein|non|n\u00e3o)(?=[,:.!])"
    r"|\u62b1\u6b49|\u5bf9\u4e0d\u8d77|\u66f4\u6b63|\u4e0d\u5bf9|\u7b49\u7b49|\u6211\u9519\u4e86",
    re.IGNORECASE,
)
_LEAD: Final = re.compile(
    r"[\s,.:;!)\u2026\u2013\u2014\-]*(?:(?:no|not|wait|sorry|actually|again|so|then|that|it|the|should|would|must|have|said|be|is|was|to|of|"
    r"I|mean|meant|choose|pick|select|answer|correct|right|option|choice|one|\u5e94\u8be5?|\u662f|\u4e3a|\u9009)\b[\s,.:;'\-]*(?:s\b)?){0,8}",
    re.IGNORECASE,
)
_LETTER: Final = re.compile(r"[(\[\"']?(?P<letter>(?-i:[A-Z]))[)\]\"']?(?=[\s]*(?:$|[.,;:!)\n]))", re.IGNORECASE)
_OTHER: Final = re.compile(
    r"(?<![\w'-])(?:[B-HJ-Z](?![\w'-])|[AI](?=[).,;:!\]]|$| (?:is|fits|seems|looks|was|matches|remains|would|might)\b))"
)
_BETTER: Final = re.compile(
    r"(?<![\w'-])[(\[]?(?P<letter>[A-Z])[)\]]? (?:is|fits|seems|looks|would be|would fit|matches|might be|may be|remains|appears|explains)"
    r"(?: \w{1,12}){0,3}? (?:better|best|more|likelier|closer|stronger|preferable|superior)\b"
)


def last_cue(text: str) -> int | None:
    """Return the position after the last phrase of correction, or ``None``."""
    ends = [cue.end() for cue in CUE.finditer(text)]
    return ends[-1] if ends else None


def corrected_letter(behind: str) -> str | None:
    """Return the letter that follows directly: "Sorry, I mean C.", "Scratch that: it should be C"."""
    lead = _LEAD.match(behind)
    found = _LETTER.match(behind, lead.end() if lead else 0)
    return found["letter"].upper() if found else None


def preferred_letters(text: str) -> frozenset[str]:
    """Return the letters that ``text`` calls better or more likely."""
    return frozenset(found["letter"] for found in _BETTER.finditer(text))


def letters_in(text: str) -> frozenset[str]:
    """Return the single capital letters that may be labels."""
    return frozenset(found[0] for found in _OTHER.finditer(text))


_TICK: Final = "\u2705\u2713\u2714\u2611\U0001f5f8\U0001f5f9"
_CROSS: Final = "\u274c\u274e\u2717\u2718\u2715\u2716\U0001f5f4\U0001f6ab\u26d4"
_EMPTY: Final = "\u2610\u2b1c\u25a1"
# A box with an x in it can mean either ticked or crossed out.
_UNCLEAR: Final = "\u2612\U0001f5f7\u2b55"
_MARK: Final = re.compile(rf"(?P<sign>[{_TICK}{_CROSS}{_EMPTY}{_UNCLEAR}])\ufe0f?|\[(?P<box>[ xX])?\](?!\()")
_HEAD: Final = re.compile(
    r"^[ \-\u2022#>|+]{0,8}(?:\d{1,2}[.)] )?(?:(?:option|choice|answer) )?[(\[]?(?P<letter>[A-Z])(?:[)\].:|]|(?=[ ]?["
    r"|:,\-\u2013\u2014]|[ ][A-Z(]|[ ]*$))"
)
_TICKED_LETTER: Final = re.compile(r"(?<![\w'-])[A-Z](?![\w'-])")
_NEGATION: Final = re.compile(
    r"\b(?:no|not|none|never|without|unlikely|incorrect|wrong|excluded|false|against|absent|lacks?|cannot|n't)\b|n't\b", re.IGNORECASE
)
_LONGEST: Final = 400


@dataclass(frozen=True, slots=True)
class Checklist:
    """The check marks of a reply."""

    ticked: frozenset[int]
    crossed: frozenset[int]
    """Indexes of options that are crossed out or left empty."""
    unclear: bool
    """A mark belongs to no option, to several options, or to a denial."""
    rest: str
    """The reply without the lines that have marks."""


def read_checklist(text: str, options: Options) -> Checklist | None:
    """Read the check marks of ``text``; ``None`` if there are none."""
    ticked, crossed, rest = set[int](), set[int](), list[str]()
    unclear = found = boxed_x = signed = False
    for line in text.split("\n"):
        marks = list(_MARK.finditer(line[:_LONGEST]))
        if not marks:
            rest.append(line)
            continue
        found = True
        signed = signed or any((m["sign"] or "") in _TICK + _CROSS and m["sign"] for m in marks)
        boxed_x = boxed_x or any((m["box"] or "").lower() == "x" for m in marks)
        pairs = _pairs(line[:_LONGEST], marks, options)
        unclear = unclear or pairs is None
        for index, mark in pairs or ():
            ticks = _ticks(mark)
            if ticks is None or (ticks and _NEGATION.search(line)):
                unclear = True
            else:
                (ticked if ticks else crossed).add(index)
    if not found:
        return None
    return Checklist(
        frozenset(ticked), frozenset(crossed), unclear or (boxed_x and signed) or bool(ticked & crossed), "\n".join(rest).strip()
    )


def _pairs(line: str, marks: list[re.Match[str]], options: Options) -> list[tuple[int, re.Match[str]]] | None:
    """Pair each mark of a line with its option. Empty if the line names no option; ``None`` if the pairing is unclear."""
    bare = _MARK.sub(" ", line).strip()
    head = _HEAD.match(bare)
    if len(marks) > 1:
        letters = [found[0] for found in _TICKED_LETTER.finditer(_MARK.sub(" ", line))]
        indexes = [index for letter in letters if (index := options.index_of(letter)) is not None]
        alternating = len(indexes) == len(marks) == len(set(indexes)) and _alternates(line, marks)
        return list(zip(indexes, marks, strict=True)) if alternating else None
    if head and (index := options.index_of(head["letter"])) is not None:
        return [(index, marks[0])]
    named = options.named(bare.strip(" |-:"))
    if not named:
        return None if any(options.index_of(letter[0]) is not None for letter in _TICKED_LETTER.finditer(bare)) else []
    return [(named[0], marks[0])] if len(named) == 1 else None


def _alternates(line: str, marks: list[re.Match[str]]) -> bool:
    """Whether exactly one letter is between each two marks: ``A x B x`` or ``x A x B``."""
    between = [line[one.end() : other.start()] for one, other in pairwise(marks)]
    return all(len(_TICKED_LETTER.findall(piece)) == 1 for piece in between)


def _ticks(mark: re.Match[str]) -> bool | None:
    if sign := mark["sign"]:
        return None if sign in _UNCLEAR else sign in _TICK
    return (mark["box"] or " ").lower() == "x"
