"""Detect reasoning that contradicts the findings: another side, size or number for the same thing.

Designed for few false alarms: the check reports only if the findings say one thing about a noun, the reasoning says another about
the same noun, and neither says both. Statements that are denied, normal, comparative ("larger than 3 cm") or about the other side
for contrast are ignored.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeVar

from chiron.mmrp.checks.check import Check, Finding
from chiron.mmrp.row import MmrpRow

_Value = TypeVar("_Value")

_PAIRED: Final = frozenset(
    """
    lung lobe kidney breast ovary testis adrenal orbit eye ear hemisphere hemithorax femur tibia fibula humerus radius ulna clavicle scapula
    shoulder elbow wrist hand hip knee ankle foot leg arm forearm thigh calf temporal frontal parietal occipital ventricle atrium cerebellum
    thalamus ureter tonsil carotid hilum pleura iliac renal maxillary parotid axilla groin buttock flank cheek mandible acetabulum sinus
    adnexa
    """.split()
)
_SIDED: Final = frozenset("pneumothorax effusion hematoma hemorrhage infarct hydronephrosis".split())
"""Nouns with a side even without an organ: a "left subdural hematoma"."""
_LESIONS: Final = frozenset(
    """
    mass nodule lesion cyst tumor stone calculus fracture aneurysm abscess polyp collection effusion hematoma node metastasis opacity
    calcification fibroid thrombus hernia diverticulum ulcer plaque lipoma meningioma hemangioma adenoma carcinoma pseudocyst defect
    infarct hemorrhage pneumothorax consolidation foreign_body
    """.split()
)
_ONE_FORM: Final = dict(
    pair.split(":")
    for pair in """
    tumour:tumor haematoma:hematoma haemorrhage:hemorrhage haemangioma:hemangioma hemispheres:hemisphere masses:mass
    opacities:opacity calculi:calculus metastases:metastasis diverticula:diverticulum thrombi:thrombus ovaries:ovary testes:testis
    testicle:testis abscesses:abscess biopsies:biopsy feet:foot lymphadenopathy:node adnexal:adnexa adnexae:adnexa lt:left
    rt:right
    """.split()
)
_NUMBERS: Final = {"single": 1, "solitary": 1} | {
    word: n for n, word in enumerate("one two three four five six seven eight nine".split(), 1)
}
_MILLIMETERS: Final = {"mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0}

_CLAUSE = re.compile(r"(?<!\d)[.](?!\d)|[.](?=\s|$)|[;\n?!]|,(?!\d)|\b(?:but|while|whereas|although|however|unlike|except)\b")
_DENIED: Final = frozenset(
    """
    no not without absent absence negative denies denied exclude excludes excluded normal unremarkable intact preserved clear contralateral
    opposite previous previously prior formerly if would could may might typical typically usual usually nothing none neither nor spared
    unaffected uninvolved healthy compared comparison compensatory
    """.split()
)
_DENIED_BY_TWO = re.compile(r"\b(?:rather than|instead of|history of|status post|side of the (?:image|picture|film|screen))\b")
_WORD = re.compile(r"[^\W\d_]+|\d+", re.UNICODE)
_NUMBER = r"\d+(?:[.,]\d+)?"
_UNIT = r"(?:mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)\b"
_SIZE = re.compile(
    rf"(?P<numbers>{_NUMBER}(?:\s*(?:mm|cm)?\s*(?:x|\N{{MULTIPLICATION SIGN}}|by)\s*{_NUMBER}){{0,2}})\s*-?\s*(?P<unit>{_UNIT})"
)
_COMPARED = re.compile(
    r"(?:\b(?:than|over|under|above|below|least|most|exceed\w*|threshold|cut-?off|up\s+to|within|from|every|per)|[<>\u2264\u2265~])[^\d]{0,12}$"
)
_RANGE = re.compile(rf"{_NUMBER}\s*(?:-|\u2013|to)\s*$")
_DIGITS: Final = frozenset("23456789")
_CALLED: Final = frozenset(
    """
    rib segment level image view slice series grade stage type figure step zone finger toe digit metatarsal metacarpal phase day week point
    """.split()
)
"""Nouns with a number as their name: "rib 5 shows a fracture" does not count anything."""
_SIDE_WORDS: Final = frozenset({"left", "right"})
_SIZE_WORDS: Final = frozenset({*_MILLIMETERS, *(f"{unit}s" for unit in _MILLIMETERS)})
_NUMBER_WORDS: Final = frozenset(_NUMBERS) | _DIGITS


@dataclass(frozen=True, slots=True)
class _Clause:
    """A part of a sentence that states what is present."""

    text: str
    """Text in lower case."""
    words: tuple[str, ...]
    """Normalized words."""


def look(row: MmrpRow) -> Iterator[Finding]:
    """Yield the contradictions between a row's reasoning and the findings of its case."""
    if not row.findings or not row.reasoning:
        return
    found, reasoned = "\n".join(row.findings).lower(), row.reasoning.lower()
    # Fast path: most rows have no such statement on one of the sides, and words are cheaper to compare than clauses.
    common = _kinds_of_statement(found) & _kinds_of_statement(reasoned)
    if not common:
        return
    theirs, ours = _clauses(found), _clauses(reasoned)
    for kind, compare in (("side", _compare_sides), ("size", _compare_sizes), ("number", _compare_numbers)):
        if kind in common:
            for detail in compare(theirs, ours):
                yield Finding("contradiction", row.id, f"{kind}: {detail}")


def _compare_sides(findings: Sequence[_Clause], reasoning: Sequence[_Clause]) -> Iterator[str]:
    for noun, (theirs, ours) in _both(_sides(findings), _sides(reasoning)):
        if len(theirs) == len(ours) == 1 and theirs != ours:
            yield f"the findings mention the {next(iter(theirs))} {noun}, the reasoning the {next(iter(ours))}"


def _compare_sizes(findings: Sequence[_Clause], reasoning: Sequence[_Clause]) -> Iterator[str]:
    for noun, (theirs, ours) in _both(_sizes(findings), _sizes(reasoning)):
        if not any(_near(a, b) for a in theirs for b in ours):
            yield f"the findings measure the {noun} at {_listed(theirs)} mm, the reasoning at {_listed(ours)} mm"


def _compare_numbers(findings: Sequence[_Clause], reasoning: Sequence[_Clause]) -> Iterator[str]:
    for noun, (theirs, ours) in _both(_counts(findings), _counts(reasoning)):
        if len(set(theirs)) == len(set(ours)) == 1 and not {*theirs, sum(theirs)} & {*ours, sum(ours)}:
            yield f"{theirs[0]} {noun} in the findings, {ours[0]} in the reasoning"


def _kinds_of_statement(text: str) -> frozenset[str]:
    """Return the kinds of statement that a text may contain: side, size, number."""
    words = set(_WORD.findall(text))
    kinds = {"side": _SIDE_WORDS | {"both", "bilateral", "lt", "rt"}, "size": _SIZE_WORDS, "number": _NUMBER_WORDS}
    return frozenset(kind for kind, tell in kinds.items() if not tell.isdisjoint(words))


def _both(a: dict[str, _Value], b: dict[str, _Value]) -> Iterator[tuple[str, tuple[_Value, _Value]]]:
    return ((noun, (a[noun], b[noun])) for noun in sorted(a.keys() & b.keys()))


def _sides(clauses: Sequence[_Clause]) -> dict[str, set[str]]:
    """Map each noun to its sides; pattern: side, at most two words, noun ("left upper lobe", "right-sided pleura")."""
    sides: dict[str, set[str]] = defaultdict(set)
    for clause in clauses:
        words = clause.words
        for at, word in enumerate(words):
            if word in {"bilateral", "both"}:
                for noun in words[at + 1 : at + 4]:
                    if noun in _PAIRED:
                        sides[noun] |= _SIDE_WORDS
            if word not in _SIDE_WORDS:
                continue
            if words[at - 2 : at] == ("on", "the") and at > 2 and words[at - 3] in _PAIRED:
                sides[words[at - 3]].add(word)
            rest = [w for w in words[at + 1 : at + 5] if w != "sided"]
            if len(rest) > 1 and rest[0] in {"and", "or"} and rest[1] in _SIDE_WORDS:
                rest = list(words[at + 3 : at + 6])
            reached = next((w for w in rest[:3] if w in _PAIRED or w in _SIDE_WORDS or w in _SIDED), None)
            if reached is not None and reached not in _SIDE_WORDS:
                sides[reached].add(word)
    return sides


def _sizes(clauses: Sequence[_Clause]) -> dict[str, set[float]]:
    """Map each noun to its sizes in millimeters: the nearest lesion before or after a measurement in the same clause."""
    sizes: dict[str, set[float]] = defaultdict(set)
    for clause in clauses:
        if _LESIONS.isdisjoint(clause.words):
            continue
        nouns = [(m.start(), _one_form(m.group())) for m in _WORD.finditer(clause.text) if _one_form(m.group()) in _LESIONS]
        for size in _SIZE.finditer(clause.text):
            before = clause.text[: size.start()]
            if _COMPARED.search(before) or _RANGE.search(before):
                continue
            noun = min((abs(start - size.start()), noun) for start, noun in nouns)[1]
            scale = _MILLIMETERS[size["unit"].removesuffix("s")]
            sizes[noun] |= {round(float(n.replace(",", ".")) * scale, 2) for n in re.findall(_NUMBER, size["numbers"])}
    return sizes


def _counts(clauses: Sequence[_Clause]) -> dict[str, list[int]]:
    """Map each noun to its counts; pattern: number word or digit, at most two words, noun ("two small nodules").

    Every mention is kept, because "one in the liver and one in the spleen" are two.
    """
    counts: dict[str, list[int]] = defaultdict(list)
    for clause in clauses:
        if _LESIONS.isdisjoint(clause.words) or _NUMBER_WORDS.isdisjoint(clause.words):
            continue
        words = [_one_form(word) for word in _WORD.findall(_SIZE.sub(" ", clause.text))]
        for at, word in enumerate(words):
            number = _NUMBERS.get(word) or (int(word) if word in _DIGITS else None)
            if number is None or (at + 1 < len(words) and words[at + 1] in {"of", "or", "to"}):
                continue
            if at and words[at - 1] in {"or", "to"} | _CALLED:
                continue
            for noun in words[at + 1 : at + 4]:
                if noun in _NUMBERS or noun.isdigit():
                    break
                if noun in _LESIONS:
                    counts[noun].append(number)
                    break
    return counts


def _clauses(text: str) -> list[_Clause]:
    """Return the clauses of a lower-case text that state what is present, without denials and other times or cases."""
    clauses = []
    for part in _CLAUSE.split(text):
        words = _WORD.findall(part)
        if words and _DENIED.isdisjoint(words) and not _DENIED_BY_TWO.search(part):
            clauses.append(_Clause(part, tuple(map(_one_form, words))))
    return clauses


@lru_cache(maxsize=1 << 14)
def _one_form(word: str) -> str:
    word = word.casefold()
    if word in _ONE_FORM:
        return _ONE_FORM[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "is", "us")):
        short = word[:-1]
        return _ONE_FORM.get(short, short)
    return word


def _near(a: float, b: float) -> bool:
    """Whether two sizes are equal up to rounding: within a fifth, or two millimeters."""
    return abs(a - b) <= max(2.0, 0.2 * max(a, b))


def _listed(values: set[float]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))


CHECKS = (Check("contradiction", "Reasoning that contradicts the findings: side, size or number", 0.02, look),)
