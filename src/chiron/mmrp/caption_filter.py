"""Keep only those sentences of findings that describe what the given images show, by rules without a model.

A sentence about a missing image or modality, an earlier study, or only a measurement teaches a model to describe what it cannot see.
If only one clause is at fault and the rest is complete without it, the clause is removed; otherwise the whole sentence is.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from chiron.cases.modalities import modalities_in

LONGEST_SENTENCE: Final = 1000
"""Maximum number of characters; longer text without a full stop is a table or a data dump."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\"'\[])|;\s+|\n")
_NAMED = re.compile(
    r"\bimages? ?(?:no\.? ?|number ?|#)?(\d{1,4})(?:(?: ?(?:,|and|&|or) ?| ?(?P<to>to|-|\u2013) ?)(?:images? ?)?(\d{1,4}))*", re.IGNORECASE
)
_NUMBERS = re.compile(r"\d{1,4}|\bto\b|[-\u2013]")
_LEAD = re.compile(r"^According to (?:the )?images? \d+(?:(?:, and |,? and |, )(?:the )?(?:images? )?\d+)*\s*,?\s*", re.IGNORECASE)
_COUNTED = re.compile(r"[\W_]*\d{0,2}[\W_]*")
"""Matches a list number, or punctuation only."""
_HEADING = re.compile(r"^[^.!?]{0,80}:$")

_STUDY = (
    r"(?:stud(?:y|ies)|exam(?:ination)?s?|scans?|imaging|images?|films?|radiographs?|x-rays?|cts?|mris?|ultrasounds?|mammograms?|reports?)"
)
_BEFORE = r"(?:prior|previous|earlier|preceding|old(?:er)?|last|remote|outside|baseline)"
_ARTICLE = r"(?:the\s+|an?\s+|his\s+|her\s+)?"
_CHANGE = (
    "increase|decrease|change|growth|enlargement|development|resolution|improvement|progression|worsening|appearance|reduction|removal|"
    "placement|healing|regression|follow[- ]?up"
)
_CHANGED = "grown|enlarged|increased|decreased|progressed|regressed|resolved|shrunk|improved|worsened|changed|reduced"
_MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
_EARLIER = re.compile(
    "|".join(
        (
            rf"\b(?:compar(?:ed|ison|ing)|contrast|relative|respect)\s+(?:is\s+made\s+)?(?:with|to)\s+{_ARTICLE}(?:{_BEFORE}\b|{_STUDY}\b|\d)",
            r"\b(?:in|by|for|on|no)\s+comparison\b|(?:^|[,;(])\s*comparisons?\b",
            rf"\b{_BEFORE}\s+(?:\w+\s+)?{_STUDY}\b",
            rf"\binterval\s+(?:{_CHANGE})\b",
            r"\b(?:unchanged|redemonstrat\w+|re-demonstrat\w+)\b",
            r"\bno\s+(?:significant\s+|appreciable\s+|relevant\s+)?(?:interval\s+)?change\b",
            r"\b(?:stable|new|larger|smaller|increased|decreased|improved|worsened|progressed|resolved)\s+(?:in\s+\w+\s+)?since\b",
            r"\b(?:is|are|has|have|remains?|remained|appears?|appeared|grossly|essentially|relatively)\s+(?:been\s+)?stable\b",
            r"\bstable\s+(?:in\s+(?:size|appearance|number|extent)|appearances?|compared)\b|(?:^|[,;(])\s*stable\b(?!\s+(?:fracture|injury))",
            rf"\b(?:has|have|had)\s+(?:(?:now|since|slightly|markedly|significantly|completely|partially|not)\s+)?(?:{_CHANGED})\b",
            r"\bpreviously\s+(?:seen|noted|described|reported|demonstrated|shown|identified|visuali[sz]ed|known|treated)\b",
            r"\b(?:again|still)\s+(?:seen|noted|demonstrated|identified|visuali[sz]ed|present|evident|shown)\b",
            r"\bno\s+longer\s+(?:seen|present|visible|visuali[sz]ed|evident|identified)\b",
            rf"\bsince\s+(?:the\s+)?(?:prior|previous|last|\d{{4}}|{_MONTH})\b",
        )
    ),
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"\b(?:series|se\.?|slices?|frames?|img\.?|im\.?|figs?\.?|figures?|not\s+shown|not\s+included)\s*(?:no\.?\s*)?#?\d{1,4}\b|\bnot\s+(?:shown|included)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d")
_WORD = re.compile(r"[^\W\d_]+", re.UNICODE)
_OF_MEASURES: Final = frozenset(
    """
    a about across an and anteroposterior ap approximate approximately are area around at averaging axial by calculated caudal cc
    centimeter centimeters centimetre centimetres cm cms coronal cranio craniocaudal deep depth diameter diameters dimension
    dimensions each estimated height hounsfield hu in is it its kg largest least length lesion long maximal maximum mean measure
    measured measurement measurements measures measuring millilitre millimeter millimeters millimetre millimetres ml mm nearly of
    or over plane respectively ring roughly sagittal size sized sizes sl smallest tall the thick thickness to trans transverse
    unit units up value volume was were wide width with x
    """.split()
)


class Why(StrEnum):
    """Reason why a sentence or clause was left out."""

    IMAGE = "image not there"
    MODALITY = "no image of that modality"
    EARLIER = "earlier study"
    MEASUREMENT = "measurement alone"
    HEADING = "heading alone"
    LONG = "sentence too long"
    TWICE = "said twice"
    FULL = "findings too long"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A sentence or clause that was left out."""

    why: Why
    text: str
    trimmed: bool = False
    """Whether the rest of the sentence was kept."""


def sentences(finding: str) -> list[str]:
    """Split a finding into sentences, each on one line. Semicolons and line ends also end a sentence."""
    return [line for part in _SENTENCE.split(finding) if (line := " ".join(part.split())) and not _COUNTED.fullmatch(line)]


def images_named(sentence: str) -> tuple[int, ...]:
    """Return the numbers of the images that a sentence names; "images 2 to 4" gives three."""
    named: list[int] = []
    for found in _NAMED.finditer(sentence):
        to = False
        for token in _NUMBERS.findall(found.group()):
            if not token.isdigit():
                to = True
            elif to and named and named[-1] < int(token) < named[-1] + 100:
                named.extend(range(named[-1] + 1, int(token) + 1))
                to = False
            else:
                named.append(int(token))
                to = False
    return tuple(dict.fromkeys(named))


def without_lead(sentence: str) -> str:
    """Remove a lead such as "According to image 1," and capitalize the rest."""
    bare = _LEAD.sub("", sentence)
    return sentence if bare == sentence or not bare else bare[0].upper() + bare[1:]


def renumbered(sentence: str, numbers: tuple[int, ...]) -> str:
    """Renumber the images of a sentence by their position in ``numbers``, the images shown with it."""
    place = {number: str(i) for i, number in enumerate(numbers, start=1)}
    return _NAMED.sub(lambda found: re.sub(r"\d{1,4}", lambda n: place.get(int(n.group()), n.group()), found.group()), sentence)


def trim(sentence: str, *, images: int, modalities: Collection[str]) -> tuple[str, list[LeftOut]]:
    """Return the visible part of a sentence, and what was left out. The part is empty if nothing usable remains.

    Args:
        sentence: one sentence, on one line.
        images: number of images in the case.
        modalities: names of their modalities; if empty (unknown), no sentence is left out for its modality.
    """
    if len(sentence) > LONGEST_SENTENCE:
        return "", [LeftOut(Why.LONG, sentence)]
    if _HEADING.match(sentence):
        return "", [LeftOut(Why.HEADING, sentence)]
    left_out: list[LeftOut] = []
    for why, speaks_of, at_fault in _faults(images, modalities):
        if not speaks_of(sentence):  # fast path: most sentences have no fault
            continue
        rest, removed = _without(sentence, at_fault)
        if not rest:
            return "", [*left_out, LeftOut(why, sentence)]
        left_out += [LeftOut(why, clause, trimmed=True) for clause in removed]
        sentence = rest
    if left_out:  # the rest may now be a heading, or have another fault
        rest, more = trim(sentence, images=images, modalities=modalities)
        return rest, left_out + more
    return sentence, []


_Test = Callable[[str], bool]


def _faults(images: int, modalities: Collection[str]) -> Iterator[tuple[Why, _Test, _Test]]:
    """Yield each fault with two tests: whether a sentence may have it at all, and whether a clause or sentence has it."""

    def not_there(text: str) -> bool:
        return any(not 1 <= n <= images for n in images_named(text)) or _ELSEWHERE.search(text) is not None

    def earlier(text: str) -> bool:
        return _EARLIER.search(text) is not None

    def unseen(text: str) -> bool:
        return any(name not in modalities for name in modalities_named(text))

    yield Why.IMAGE, not_there, not_there
    yield Why.EARLIER, earlier, earlier
    if modalities:
        yield Why.MODALITY, unseen, unseen
    yield Why.MEASUREMENT, lambda text: _NUMBER.search(text) is not None, is_measurement


@lru_cache(maxsize=4096)
def modalities_named(text: str) -> tuple[str, ...]:
    """Return the names of the modalities that a text mentions."""
    return tuple(modality.name for modality in modalities_in(text))


def is_measurement(text: str) -> bool:
    """Check whether a text contains only a measurement."""
    # A percentage grades what is visible (a stenosis, for example) and needs no scale.
    return "%" not in text and _NUMBER.search(text) is not None and not {w for w in _WORD.findall(text.casefold()) if w not in _OF_MEASURES}


def _without(sentence: str, at_fault: Callable[[str], bool]) -> tuple[str, list[str]]:
    """Remove the clauses at fault; return the rest and these clauses. The rest is empty if it is still at fault or has no content."""
    clauses = _clauses(sentence)
    bad = [clause for clause in clauses if at_fault(clause.text)]
    if not bad:
        return ("" if at_fault(sentence) else sentence), []
    # The first clause contains the subject: without it, only a clause that starts a sentence of its own can stay.
    if clauses[0] in bad and not _LEADS.match(clauses[0].text):
        return "", []
    end = len(sentence.rstrip(".!?"))
    removed = sorted(span for clause in bad for span in clause.spans)
    rest, at = "", 0
    for begin, until in [*removed, (end, end)]:
        rest += sentence[at:begin]
        at = until
    rest = _BEGINS.sub("", " ".join(rest.split()).strip(" ,;"))
    if not _SAYS.search(rest) or at_fault(rest):
        return "", []
    return rest[0].upper() + rest[1:] + sentence[end:], [clause.text for clause in bad]


_LEADS = re.compile(
    r"^(?:in\s+comparison|(?:as\s+)?compared|comparing|when\s+compared|since|relative|on\s+(?:the\s+)?(?:prior|previous)|again|interval\s+follow)\b",
    re.IGNORECASE,
)


_BEGINS = re.compile(r"^(?:and|but|with|which|is|was|are|were)\s+", re.IGNORECASE)
_SIGN = re.compile(r"[()\[\],;]")
_SAYS = re.compile(r"[^\W\d_]{3}")


@dataclass(frozen=True, slots=True)
class _Clause:
    text: str
    spans: tuple[tuple[int, int], ...]
    """Spans of its pieces in the sentence, each with the punctuation before it; brackets inside are clauses of their own."""


def _clauses(sentence: str) -> list[_Clause]:
    """Split a sentence into clauses at commas, semicolons and brackets; punctuation inside brackets does not split."""
    end = len(sentence.rstrip(".!?"))
    outside: list[list[tuple[int, int]]] = [[]]
    brackets: list[_Clause] = []
    start = depth = 0
    for sign in _SIGN.finditer(sentence, 0, end):
        i, c = sign.start(), sign.group()
        if c in "([":
            if depth == 0:
                outside[-1].append((start, i))
                start = i
            depth += 1
        elif c in ")]" and depth:
            depth -= 1
            if depth == 0:
                brackets.append(_Clause(sentence[start : i + 1], ((start, i + 1),)))
                start = i + 1
        elif c in ",;" and depth == 0 and sentence[i + 1 : i + 2] == " ":
            outside[-1].append((start, i))
            outside.append([])
            start = i
    outside[-1].append((start, end))
    clauses = [_Clause(" ".join(sentence[a:b] for a, b in spans).strip(" ,;"), tuple(spans)) for spans in outside]
    return [*clauses, *brackets]
