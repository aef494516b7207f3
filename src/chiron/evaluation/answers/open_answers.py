"""Compare open answers: exact match after normalization, and token recall."""

import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from itertools import chain, groupby

from chiron.errors import InputError
from chiron.evaluation.answers.answer_phrases import declarations
from chiron.evaluation.answers.answer_tags import RULE_OF, ReplyFormat, unwrap
from chiron.evaluation.answers.options import EXPANSIONS, LONGEST, singular, words_of
from chiron.evaluation.answers.reading import sentence
from chiron.text import normalize_answer

NORMALIZER = 3
"""Version, recorded in every result file. Raise it whenever two answers newly match or no longer match. Files without it are older."""

Part = tuple[str, ...]
"""The words of one list entry; ``left lung, right kidney`` has two entries."""

_ARTICLES = frozenset({"an", "the"})
_BEFORE_AN_A = frozenset("is are was of in with without has have to from by at on and or as like no not".split())
_NUMBER_WORDS = {word: str(n) for n, word in enumerate("zero one two three four five six seven eight nine ten eleven twelve".split())}
_SIGNS = "<>\u2264\u2265\u00b1-+"
# Metric units by the base unit they are multiples of. Times, temperatures and densities are left as written.
_UNITS = {
    **{name: ("mm", Decimal(factor)) for factor, names in (
        ("0.001", "um mum micron micrometer micrometre"), ("1", "mm millimeter millimetre"), ("10", "cm centimeter centimetre"),
        ("1000", "m meter metre"),
    ) for name in names.split()},
    **{name: ("mg", Decimal(factor)) for factor, names in (
        ("0.001", "ug mug mcg microgram"), ("1", "mg milligram"), ("1000", "g gram"), ("1000000", "kg kilogram"),
    ) for name in names.split()},
    **{name: ("ml", Decimal(factor)) for factor, names in (
        ("1", "ml milliliter millilitre cc"), ("100", "dl deciliter decilitre"), ("1000", "l liter litre"),
    ) for name in names.split()},
    **dict.fromkeys(("%", "percent"), ("%", Decimal(1))),
}  # fmt: skip
_QUALIFIERS = frozenset(
    """left right bilateral unilateral upper lower middle mid inner outer anterior posterior superior inferior medial lateral central
    peripheral proximal distal dorsal ventral cranial caudal frontal apical basal ipsilateral contralateral""".split()
)
"""Position words that mean the same before and after their noun: ``left lung``, ``lung, left``."""
_NEGATIONS = frozenset(
    """no not none non never neither nor without absent absence negative denied denies exclude excluded excludes free lacking lacks lack
    rather instead but except unlike than versus vs unlikely""".split()
)
"""Words that make the order of an answer matter: ``no mass, effusion`` is not ``mass, no effusion``."""
_RELATIONS = frozenset(
    "of in with to from between by at on near above below over under behind into through or if then toward after before".split()
)
_DIGITS = 20
"""A longer number is compared as text, because decimals have 28 digits."""
_BARE_POINT = re.compile(r"(?<![\w.])\.(?=\d)")
_WITHOUT = re.compile(r"\bw/o\b", re.IGNORECASE)
_APART = re.compile(r"(?<=\w) (\+(?!\S)|[-\u2212](?=[,;.)]|$))")
"""The sign of ``HER2 +``, which belongs to the word before it."""
_BRACKETED = re.compile(r"(?<=\w) ?\( ?([-+\u2212]) ?(?=\))")
"""The same for ``HER2 (+)``; the closing bracket is kept and separates the words after it."""
_WITH = re.compile(r"\bw/(?=\s)", re.IGNORECASE)


def exact_match(given: str | None, known: str) -> bool:
    """Whether two open answers have the same normal form; ``None`` and an empty answer match nothing."""
    form = normal_form(given or "")
    return form != () and form == normal_form(known)


def normal_form(answer: str) -> tuple[Part, ...]:
    """Split an answer into parts with one spelling and a fixed order; ``()`` for an empty answer.

    An answer that negates or compares something has one part, in the order as written.
    """
    parts = [spelled for part in _parts(answer) if (spelled := _spelled(part))]
    if all(word == "and" for part in parts for word in part):
        # Only signs, or a bare "and": compare them as they are.
        return (tuple(answer.casefold().split()),) if answer.strip() else ()
    if any(word in _NEGATIONS for part in parts for word in part):
        return (tuple(word for part in parts for word in (*part, ",")),)
    parts = list(_turned(parts))
    numbered = [part for part in parts if any(word[-1:].isdigit() or word[:1].isdigit() for word in part)]
    if len(numbered) > 1:
        return tuple(map(_ordered, parts))  # the order of numbers may matter
    return tuple(sorted({_ordered(part) for part in parts}))


def _parts(answer: str) -> Iterator[list[str]]:
    """Yield the words between commas, colons, brackets and ``and``."""
    text = _WITH.sub("with ", _WITHOUT.sub("without", _BARE_POINT.sub("0.", answer))).replace("&", " and ")
    text = _APART.sub(r"\1", _BRACKETED.sub(r"\1", text))
    found = words_of(text)
    part: list[str] = []
    for word, gap in zip(found.words, found.gaps, strict=True):
        if gap and part:
            yield part
            part = []
        part.append(word)
    if part:
        yield part


def _spelled(part: list[str]) -> Part:
    """Spell a part uniformly: no articles, singular, numbers as decimals with their unit, abbreviations written out."""
    words = [singular(word) for n, word in enumerate(part) if not _is_article(part, n)]
    return _expanded(tuple(_with_units(list(_numbers(words)))))


def _is_article(part: list[str], n: int) -> bool:
    if n + 1 == len(part):
        return False  # "hepatitis A"
    return part[n] in _ARTICLES or (part[n] == "a" and (n == 0 or part[n - 1] in _BEFORE_AN_A))  # "a mass", but "vitamin A deficiency"


def _numbers(words: list[str]) -> Iterator[str]:
    """Join signs to their words, and write numbers as plain decimals."""
    sign = ""
    for word in words:
        if word in _SIGNS:
            sign += word
            continue
        value = _NUMBER_WORDS.get(word, word)
        number = _decimal(value)
        yield sign + (value if number is None else _plain(number))
        sign = ""
    if sign:
        yield sign


def _decimal(word: str) -> Decimal | None:
    if not word[:1].isdigit() or not word[-1:].isdigit() or len(word) > _DIGITS:
        return None
    if re.fullmatch(r"\d+,\d{1,2}", word):
        word = word.replace(",", ".")
    try:
        return Decimal(word)
    except InvalidOperation:
        return None


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _with_units(words: list[str]) -> Iterator[str]:
    """Rewrite ``3 cm`` as ``30mm``, also for each number of ``3 x 4 cm``."""
    at = 0
    while at < len(words):
        size = _sized(words, at)
        if size is None:
            yield words[at]
            at += 1
            continue
        end, unit, factor = size
        for part in words[at:end]:
            number = part.lstrip(_SIGNS)
            value = _decimal(number)
            yield part if value is None else f"{part.removesuffix(number)}{_plain(value * factor)}{unit}"
        at = end + 1


def _sized(words: list[str], start: int) -> tuple[int, str, Decimal] | None:
    """Find the end of the numbers that start here, and their unit; ``None`` if no unit follows."""
    end = start
    while end < len(words) and _decimal(words[end].lstrip(_SIGNS)) is not None:
        end += 1
        if end < len(words) and words[end] in _UNITS:
            unit, factor = _UNITS[words[end]]
            return end, unit, factor
        if end < len(words) and words[end] in {"x", "by"}:
            end += 1
    return None


def _expanded(words: Part) -> Part:
    found: list[str] = []
    n = 0
    while n < len(words):
        for length in range(min(LONGEST, len(words) - n), 0, -1):
            if (written := EXPANSIONS.get(words[n : n + length])) is not None:
                found += written
                n += length
                break
        else:
            found.append(words[n])
            n += 1
    return tuple(found)


def _turned(parts: list[Part]) -> Iterator[Part]:
    """Split lists at ``and``, and turn ``lung, left`` into ``left lung``."""
    before: Part = ()
    for part in chain.from_iterable(map(_split_at_and, parts)):
        if before and all(word in _QUALIFIERS for word in part) and not all(word in _QUALIFIERS for word in before):
            before = (*part, *before)
            continue
        if before:
            yield before
        before = part
    if before:
        yield before


def _split_at_and(part: Part) -> list[Part]:
    if part[:3] in EXPANSIONS.values() or any(word in _RELATIONS for word in part):
        return [part]
    return [tuple(words) for is_and, words in groupby(part, lambda word: word == "and") if not is_and]


def _ordered(part: Part) -> Part:
    """Put position words at the start or end first, in alphabetical order, if no relation depends on the word order."""
    if any(word in _RELATIONS for word in part):
        return part
    start, end = 0, len(part)
    while start < end and part[start] in _QUALIFIERS:
        start += 1
    while end > start and part[end - 1] in _QUALIFIERS:
        end -= 1
    return (*sorted((*part[:start], *part[end:])), *part[start:end])


def final_text(reply: str, family: ReplyFormat | None = None) -> str | None:
    """Return the words of the final answer, without mark or emphasis.

    Args:
        reply: the model's reply.
        family: a format that marks its answer (Chiron, tagged, boxed) gives ``None`` for a reply without a mark. If not given, it is
            detected from the reply; then prose counts too: its declared answer, or else all of it except the thinking.
    """
    unwrapped = unwrap(reply, family)
    if unwrapped.rule is None and family in RULE_OF:
        return None
    text = unwrapped.answer
    if unwrapped.rule is None and not unwrapped.sectioned:
        declared = [phrase for phrase in declarations(text) if phrase.content.strip() and not phrase.content.startswith("not ")]
        answer = [phrase for phrase in declared if text[phrase.at : phrase.at + 3].lower().startswith(("ans", "\u7b54\u6848"))]
        # In steps without a final answer, only the text after the last step may be the answer.
        text = sentence(answer[-1].content) if answer else text.strip().partition("\n\n")[2] if unwrapped.unfinished else text
    return text.strip(" \n\"'") or None


def token_recall(candidate: str | None, gold: str) -> float:
    """Compute the share of the known answer's words that the candidate contains, in [0, 1]; ``None`` scores 0.

    LLaVA-Med (Li et al., NeurIPS 2023) reports it for open questions, because a sentence may contain the answer without equaling it. It
    rewards length and ignores synonyms and denials, so report it only together with the exact match. A word counts at most as often as in
    the known answer, so repeating it gains nothing.

    Raises:
        InputError: the known answer has no words.
    """
    known = Counter(normalize_answer(gold).split())
    if not known:
        raise InputError("the known answer of an open question is empty: correct its record")
    given = Counter(normalize_answer(candidate or "").split())
    return sum((known & given).values()) / known.total()
