"""Read a short declared answer, detect replies that correct themselves, and read tables and lists of check marks."""

import re
from dataclasses import dataclass
from enum import Enum, auto
from itertools import pairwise
from typing import Final

from chiron.evaluation.answers.answer_phrases import LONE_LETTER
from chiron.evaluation.answers.options import Options


class Kind(Enum):
    """Result of a reading."""

    CHOSEN = auto()
    REFUSED = auto()
    """Meant as the answer but ambiguous: several letters, a letter beyond the options, a letter with another option's text."""
    DENIED = auto()
    """Declared not to be the answer."""
    NOTHING = auto()


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading; ``index`` is set for ``CHOSEN`` and, if known, for ``DENIED``."""

    kind: Kind
    index: int | None = None
    by_text: bool = False


NOTHING = Reading(Kind.NOTHING)
REFUSED = Reading(Kind.REFUSED)

_FILLERS = re.compile(
    r"(?:(?:therefore|thus|clearly|most likely|probably|likely|definitely|indeed|simply|just|actually|still|now|then|that|the|"
    r"(?:most )?consistent with|best described as|answer|final|correct|best|is|as follows)\b[ ,:]*){1,4}(?=\S)",
    re.IGNORECASE,
)
_NAME = r"(?P<name>(?:option|choice|letter|alternative|answer)s?[ :#]{1,3}(?:is |letter )?)?"
_LETTER = re.compile(
    rf"{_NAME}(?P<open>[(\[{{<\"']{{0,2}})(?P<letter>[A-Za-z])(?P<close>[)\]}}>\"']{{0,2}})(?![\w']|-\w)(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_NOT = re.compile(
    rf"(?:definitely |certainly |likely |probably )?(?:not|isn't|never) {_NAME}[(\[]?(?P<letter>(?-i:[A-Z])|[a-z](?=[)\].,;]"
    rf"|$))[)\]]?(?![\w'-])(?P<rest>.*)",
    re.DOTALL | re.IGNORECASE,
)
_BUT = re.compile(
    r"(?:\bbut|\brather|\binstead|\bit's|\bit is|[,;:])[ ,]{0,3}(?:it(?:'s| is) )?"
    r"(?P<other>(?:option |choice )?[(\[]?[A-Z][)\]]?(?![\w'-]).*)",
    re.DOTALL,
)
_SEVERAL_WORDS = re.compile(r"(?:both|either|between|neither|any of|all of)\b", re.IGNORECASE)
_ONLY_LETTERS = re.compile(r"[(\[]?[A-Z][)\]]?(?:(?:[ \n,;/&+|]{1,4}|(?<=[)\]])|[ ,]{1,3}(?:and|or)[ ])[(\[]?[A-Z][)\]]?){1,26}[.]?")
_JOINED_LETTERS = re.compile(r"[A-Z]{2,5}[.]?")
_ANOTHER = re.compile(
    r"[)\]\"']*[ ]?(?:(?:,[ ]?(?:and |or )?|/|&|\+|;|and\b|or\b|[\u548c\u4e0e\u6216\u53ca]|y\b|et\b|ou\b|oder\b|und\b|o\b"
    r"|[ ]?-[ ]?)[ ]?(?:option |choice )?[(\[\"']{0,2}|[ ]?[(\[])"
    r"(?P<letter>[A-Z])[)\]\"']{0,2}"
    r"(?=[ ]?(?:$|[.,;)\]/&+\n\"']|and\b|or\b|are\b|both\b))"
)
_LEAD = re.compile(r"^(?:[ \n\t`:;,=|]|->|[>\-\u2013\u2014](?![ ]?[\d.$\u20ac\u00a3]))*")
_LONE_LETTER = re.compile(r"[(\[]?([A-Z])[)\]]?[.]?\s*")
_EXPLAINS = re.compile(
    r"[.,;] (?:it|its|it's|this|that|these|those|the|there|here|because|since|as|i|we|no|not|given|due|they|both|all|none|while|although)\b"
)
_LOWER_AFTER = re.compile(r"[.] ?[a-z]")
_DELIMITER = re.compile(r"[ ]?(?:[.:,;)\]|\n]|[-\u2013\u2014>](?=[ ])|[-]>|[(])")
_CONNECTIVE = re.compile(r"[ ](?:because|since|as|due|given|which|rather|instead|not|but|for|if|here|is|was|seems|would)\b", re.IGNORECASE)
_STRICT_CONNECTIVE = re.compile(r"[ ](?:because|since|due|given|which|rather|instead)\b", re.IGNORECASE)
# A sign before a number belongs to the option: "B. -2.5", "A. > 50%".
_LABEL_END = re.compile(r"^(?:->|[)\]}\"'.:,;| \n]|[\-\u2013\u2014>](?![ ]?[\d.$\u20ac\u00a3])){0,6}")
_CLAUSE_END = re.compile(r"[.;\n(](?!\d)|,[ ]|[ ](?:because|since|as|due|-|given)[ ]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z(\"'#>]|\s*$)|\n")


def sentence(text: str) -> str:
    """Return the first sentence or line of ``text``; ``E. coli`` and ``3.5 cm`` are not split."""
    end = _SENTENCE_END.search(text, 3)
    return text[: end.start()] if end else text


def read_answer(content: str, options: Options) -> Reading:
    """Read a declared answer; only the first sentence is searched for an option's text."""
    text = _bare(content)
    reading = _exact_or_letter(text, options)
    if reading.kind is Kind.NOTHING and (filler := _FILLERS.match(text)):
        reading = _exact_or_letter(text[filler.end() :], options)
    return reading if reading.kind is not Kind.NOTHING else read_text(sentence(text), options)


def _exact_or_letter(text: str, options: Options) -> Reading:
    # A single letter is a label, even if an option's text is a letter too.
    if len(text) > 1 and (index := options.exact(text)) is not None:
        return Reading(Kind.CHOSEN, index, by_text=True)
    return read_letter(text, options)


def read_text(text: str, options: Options) -> Reading:
    """Read the only option that ``text`` names; refuse if it names several."""
    if (index := options.exact(text)) is not None:
        return Reading(Kind.CHOSEN, index, by_text=True)
    return named_option(text, options)


def named_option(text: str, options: Options) -> Reading:
    """Read the only option that ``text`` names without being its exact words."""
    named = options.named(text)
    if len(named) == 1:
        return Reading(Kind.CHOSEN, named[0], by_text=True)
    return REFUSED if named else NOTHING


def read_letter(text: str, options: Options) -> Reading:
    """Read a label letter at the start of ``text``; articles, pronouns and initials are not labels."""
    if found := _NOT.match(text):
        return _after_not(found, options)
    if (_SEVERAL_WORDS.match(text) and _ONLY_LETTERS.match(text.split(" ", 1)[-1])) or _several(text, options):
        return REFUSED
    found = _LETTER.match(text)
    if not found or not _is_label(found, options):
        return NOTHING
    if (another := _ANOTHER.match(found["rest"])) and another["letter"] != found["letter"].upper():
        return REFUSED
    index = options.index_of(found["letter"])
    if index is None or _contradicts(found["rest"], index, options):
        return REFUSED
    return Reading(Kind.CHOSEN, index)


def _bare(content: str) -> str:
    text = _LEAD.sub("", content, count=1).rstrip(" \n\t`:;,=|>-\u2013\u2014").rstrip(" \n\t\"'`")
    while text and text[0] in "\"'" and text.count(text[0]) == 1:
        text = text[1:]
    return text.lstrip(" ")


def _after_not(found: re.Match[str], options: Options) -> Reading:
    """Read the C of "not A but C"; "not A" alone denies A."""
    other = _BUT.search(sentence(found["rest"][:200]))
    if other:
        reading = read_letter(other["other"], options)
        if reading.kind is Kind.CHOSEN:
            return reading
    return Reading(Kind.DENIED, options.index_of(found["letter"]))


def _several(text: str, options: Options) -> bool:
    line = text.strip()[:200]
    if _ONLY_LETTERS.fullmatch(line):
        return len(set(re.findall(r"(?<![a-z])[A-Z](?![a-z])", line))) > 1
    joined = _JOINED_LETTERS.fullmatch(line)
    return bool(joined) and all(options.index_of(c) is not None for c in line.rstrip("."))


def _is_label(found: re.Match[str], options: Options) -> bool:
    letter, rest, index = found["letter"], found["rest"], options.index_of(found["letter"])
    if not rest.strip(" .:,;)]}\"'!\n-|"):
        return True  # only the letter
    if index is not None and options.begins(_LABEL_END.sub("", rest), index):
        return letter not in {"a", "i"} or rest[0] != " "
    closed = found["close"].startswith((")", "]"))
    if letter.islower() and not closed and not found["name"]:
        return bool(_STRICT_CONNECTIVE.match(rest)) or rest.startswith("\n")
    if closed or found["name"] or (found["open"] and found["close"]):
        return True
    if _LOWER_AFTER.match(rest):  # E. coli, S. aureus; but not "C. because"
        return bool(_CONNECTIVE.match(f" {rest[1:].lstrip()}") or _EXPLAINS.match(rest)) or options.exact(_clause(rest[1:])) is not None
    connective = _STRICT_CONNECTIVE if letter in {"A", "I"} else _CONNECTIVE
    return bool(_DELIMITER.match(rest) or connective.match(rest))


def _contradicts(rest: str, index: int, options: Options) -> bool:
    """Whether the letter is followed by exactly another option's words; it is then unclear which one is meant."""
    after = _LABEL_END.sub("", rest)
    if options.begins(after, index):
        return False
    if (letter := _LONE_LETTER.fullmatch(after)) and options.index_of(letter[1]) not in {index, None}:
        return True  # "A: B" may be question and answer
    other = options.exact(_clause(after))
    return other is not None and other != index


def _clause(text: str) -> str:
    text = text.strip()
    end = _CLAUSE_END.search(text, 1)
    return text[: end.start()] if end else text


_CUE: Final = re.compile(
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
_CORRECTION_LEAD: Final = re.compile(
    r"[\s,.:;!)\u2026\u2013\u2014\-]*(?:(?:no|not|wait|sorry|actually|again|so|then|that|it|the|should|would|must|have|said|be|is|was|to|of|"
    r"I|mean|meant|choose|pick|select|answer|correct|right|option|choice|one|\u5e94\u8be5?|\u662f|\u4e3a|\u9009)\b[\s,.:;'\-]*(?:s\b)?){0,8}",
    re.IGNORECASE,
)
_CORRECTED_LETTER: Final = re.compile(r"[(\[\"']?(?P<letter>(?-i:[A-Z]))[)\]\"']?(?=[\s]*(?:$|[.,;:!)\n]))", re.IGNORECASE)
_OTHER: Final = re.compile(
    r"(?<![\w'-])(?:[B-HJ-Z](?![\w'-])|[AI](?=[).,;:!\]]|$| (?:is|fits|seems|looks|was|matches|remains|would|might)\b))"
)
_BETTER: Final = re.compile(
    r"(?<![\w'-])[(\[]?(?P<letter>[A-Z])[)\]]? (?:is|fits|seems|looks|would be|would fit|matches|might be|may be|remains|appears|explains)"
    r"(?: \w{1,12}){0,3}? (?:better|best|more|likelier|closer|stronger|preferable|superior)\b"
)


def last_cue(text: str) -> int | None:
    """Return the position after the last phrase of correction, or ``None``."""
    ends = [cue.end() for cue in _CUE.finditer(text)]
    return ends[-1] if ends else None


def corrected_letter(behind: str) -> str | None:
    """Return the letter that follows directly: "Sorry, I mean C.", "Scratch that: it should be C"."""
    lead = _CORRECTION_LEAD.match(behind)
    found = _CORRECTED_LETTER.match(behind, lead.end() if lead else 0)
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
_NEGATION: Final = re.compile(
    r"\b(?:no|not|none|never|without|unlikely|incorrect|wrong|excluded|false|against|absent|lacks?|cannot|n't)\b|n't\b", re.IGNORECASE
)
_LONGEST: Final = 400


@dataclass(frozen=True, slots=True)
class Checklist:
    """The check marks of a reply."""

    ticked: set[int]
    crossed: set[int]
    """Indexes of options that are crossed out or left empty."""
    unclear: bool
    """A mark belongs to no option, to several options, or to a denial."""
    rest: str
    """The reply without the lines that have marks."""


def read_checklist(text: str, options: Options) -> Checklist | None:
    """Read the check marks of ``text``; ``None`` without any."""
    ticked, crossed, rest = set[int](), set[int](), list[str]()
    all_marks: list[re.Match[str]] = []
    unclear = False
    for line in text.split("\n"):
        marks = list(_MARK.finditer(line[:_LONGEST]))
        if not marks:
            rest.append(line)
            continue
        all_marks += marks
        pairs = _pairs(line[:_LONGEST], marks, options)
        unclear = unclear or pairs is None
        for index, mark in pairs or ():
            ticks = _ticks(mark)
            if ticks is None or (ticks and _NEGATION.search(line)):
                unclear = True
            else:
                (ticked if ticks else crossed).add(index)
    if not all_marks:
        return None
    signed = any(mark["sign"] and mark["sign"] in _TICK + _CROSS for mark in all_marks)
    boxed_x = any((mark["box"] or "").lower() == "x" for mark in all_marks)
    return Checklist(ticked, crossed, unclear or (signed and boxed_x) or bool(ticked & crossed), "\n".join(rest).strip())


def _pairs(line: str, marks: list[re.Match[str]], options: Options) -> list[tuple[int, re.Match[str]]] | None:
    """Pair each mark of a line with its option. Empty if the line names no option; ``None`` if the pairing is unclear."""
    bare = _MARK.sub(" ", line).strip()
    indexes = [index for letter in LONE_LETTER.findall(bare) if (index := options.index_of(letter)) is not None]
    if len(marks) > 1:
        alternating = len(indexes) == len(marks) == len(set(indexes)) and _alternates(line, marks)
        return list(zip(indexes, marks, strict=True)) if alternating else None
    head = _HEAD.match(bare)
    if head and (index := options.index_of(head["letter"])) is not None:
        return [(index, marks[0])]
    named = options.named(bare.strip(" |-:"))
    if not named:
        return None if indexes else []
    return [(named[0], marks[0])] if len(named) == 1 else None


def _alternates(line: str, marks: list[re.Match[str]]) -> bool:
    """Whether exactly one letter is between each two marks: ``A x B x`` or ``x A x B``."""
    between = [line[one.end() : other.start()] for one, other in pairwise(marks)]
    return all(len(LONE_LETTER.findall(piece)) == 1 for piece in between)


def _ticks(mark: re.Match[str]) -> bool | None:
    if sign := mark["sign"]:
        return None if sign in _UNCLEAR else sign in _TICK
    return (mark["box"] or " ").lower() == "x"
