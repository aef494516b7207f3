"""Read yes or no from a reply, with the help of the question it answers."""

import re
from dataclasses import dataclass
from typing import Final

from chiron.evaluation.answers.answer_phrases import declarations
from chiron.evaluation.answers.answer_tags import ReplyFormat, unwrap
from chiron.evaluation.answers.reading import last_cue

_WORD: Final = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|,")
_IMAGE_MARK: Final = re.compile(r"<image[^<>]{0,8}>", re.IGNORECASE)
_SENTENCES: Final = re.compile(r"[.;!?\n]+(?=\s|$)|\n|\bbut\b|\bhowever\b|\balthough\b|\bwhile\b|\bwhereas\b")
_ASKING: Final = re.compile(r"[^.!?\n;]*\?")
_ARTICLES: Final = frozenset({"a", "an", "the", "any", "some", "this", "these", "that", "those"})
_IMAGE: Final = (
    r"(?:image|scan|x-?ray|ct|mri|film|radiograph|picture|figure|study|slide|photo(?:graph)?|ultrasound|view|patient"
    r"|examination|section|exam)s?"
)
_BE: Final = r"(?:is|are|was|were)"
_SEEN: Final = (
    r"(?:present|seen|visible|evident|identified|observed|noted|shown|detected|visuali[sz]ed|demonstrated|apparent|appreciated|found|there)"
)
_EVIDENCE: Final = r"(?:(?:any|a|an|the|some) )?(?:(?:evidence|signs?|indications?|suggestion|presence) of )?"
_QUESTIONS: Final = (
    re.compile(rf"{_BE} there {_EVIDENCE}(?P<what>.+)"),
    re.compile(
        rf"(?:do|does|did) (?:the |this |these |that )?(?:[\w-]+ ){{0,2}}{_IMAGE} (?:show|demonstrate|reveal|have|depict|contain"
        rf"|display){'(?:s|ed)?'}"
        rf" {_EVIDENCE}(?P<what>.+)"
    ),
    re.compile(rf"(?:can|could|do|did) (?:you|we|one|i) (?:see|identify|observe|detect) {_EVIDENCE}(?P<what>.+)"),
    re.compile(r"(?:can|could) (?P<what>.+?) be (?:seen|observed|identified|visuali[sz]ed|detected|found)(?P<where>.*)"),
    re.compile(rf"{_BE} {_EVIDENCE}(?P<what>.+?) {_SEEN}(?P<where>(?: (?:in|on|at|within|here|by)\b.*)?)"),
)
_ABOUT: Final = re.compile(rf"{_BE} (?P<rest>.+)")
_IN_IMAGE: Final = re.compile(
    rf"\b(?:in|on|from|within|by|here)? ?(?:the |this |these |that |above |given |shown |provided ){{1,3}}(?:[\w-]+ )?{_IMAGE}\b"
    rf"|\bhere$|\bshown$|\bvisible$"
)
_PREPOSITION: Final = frozenset(
    ["in", "on", "at", "within", "along", "near", "around", "over", "under", "involving", "above", "below", "of", "from", "to"]
)
_FILLERS: Final = frozenset(
    """a an any the of evidence sign signs indication suggestion presence definite obvious visible clear convincing radiographic
    radiological apparent appreciable sonographic imaging there is are was were be""".split()
)
_DENIALS: Final = frozenset("no not without negative absence free lack lacks neither never nor cannot isn't aren't doesn't don't".split())
_UNSURE: Final = frozenset(
    """may might could possible possibly possibility suspicious suspected suspicion
    suggest suggests suggestive suggesting if whether denies denied missed overlooked
    unclear uncertain rule consider differential question questionable probable probably likely unlikely perhaps exclude excluded would
    should cannot equivocal prior previous previously old history resolved former earlier concern concerning""".split()
)
_STATES: Final = frozenset(
    """is are was were has have shows show showing demonstrates demonstrate demonstrating reveals reveal revealing contains contain see seen
    depicts displays identified noted of confirms confirm indicates indicate with""".split()
)
_FOLLOWS: Final = frozenset(
    "is are was were has in on at with within without and or seen present visible that which measuring along near over noted".split()
)
_SIDES: Final = frozenset(
    """left right bilateral unilateral upper lower middle anterior posterior superior inferior medial lateral apical basal both central
    peripheral proximal distal""".split()
)
_PRESENT: Final = re.compile(rf"{_BE} (?:\w+ly |also |now )?{_SEEN}\b")
_ABSENT: Final = re.compile(
    rf"{_BE} (?:not|absent|never|n't|ruled out)\b|(?:isn't|aren't|wasn't)\b|(?:not|cannot be|can not be) {_SEEN}\b|absent\b"
)


@dataclass(frozen=True, slots=True)
class _Asked:
    what: tuple[str, ...]
    where: frozenset[str]


def answered_by(statement: str, question: str) -> bool | None:
    """Whether ``statement`` affirms (``True``) or denies (``False``) what ``question`` asks; ``None`` if it does neither or both."""
    asked = " ".join(_words(_SENTENCES.split(_IMAGE_MARK.sub(" ", question).strip().rstrip("? ."))[-1]))
    sentences = [tuple(_words(sentence)) for sentence in _SENTENCES.split(_ASKING.sub("", statement[:4000]))]
    thing = _thing(asked)
    verdicts = {_of_thing(sentence, thing) for sentence in sentences} if thing else _predicates(sentences, asked)
    verdicts -= {None}
    if "unsure" in verdicts or len(verdicts) != 1:
        return None
    return verdicts.pop() is True


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text.replace("\u2019", "'"))]


def _thing(asked: str) -> _Asked | None:
    for pattern in _QUESTIONS:
        if found := pattern.fullmatch(asked):
            what = _IN_IMAGE.sub("", found["what"] + " " + (found.groupdict().get("where") or "")).split()
            cut = next((at for at, word in enumerate(what) if word in _PREPOSITION - {"of"}), len(what))
            thing = tuple(_singular(word) for word in what[:cut] if word not in _ARTICLES)
            where = frozenset(what[cut:]) - _ARTICLES - _PREPOSITION
            if {"or", "and", ",", "no", "not"} & set(what) or not 1 <= len(thing) <= 5:
                return None
            return _Asked(thing, where)
    return None


def _of_thing(sentence: tuple[str, ...], asked: _Asked) -> bool | str | None:
    """Return ``True``, ``False``, ``"unsure"``, or ``None`` for a sentence about something else."""
    words = tuple(_singular(word) for word in sentence)
    size = len(asked.what)
    places = [i for i in range(len(words) - size + 1) if words[i : i + size] == asked.what]
    if not places:
        return None
    at = places[0]
    before, after = sentence[:at], sentence[at + size :]
    if _UNSURE & set(sentence) or len(places) > 1:
        return "unsure"
    sides = (_SIDES & set(sentence)) - asked.where - set(asked.what)
    if after and after[0] not in _FOLLOWS | _PREPOSITION | {","}:
        return None  # "mass effect" is not a mass
    return _said_of_thing(before, after, sides, asked)


def _said_of_thing(before: tuple[str, ...], after: tuple[str, ...], sides: frozenset[str], asked: _Asked) -> bool | str | None:
    sentence = {*before, *after}
    tail = " ".join(after)
    denied, absent = _denied(before), bool(_ABSENT.match(tail))
    if denied is None or (denied and absent):
        return "unsure"
    if denied or absent:
        elsewhere = _place(after) - asked.where - set(asked.what)
        return None if elsewhere or sides else False
    if not (_STATES & set(before) or _PRESENT.match(tail)):
        return None
    return None if asked.where - sentence or (asked.where and sides) else True


def _denied(before: tuple[str, ...]) -> bool | None:
    """Whether the words before a thing deny it; ``None`` if they deny something else, such as a subtype of it."""
    last = next((at for at in range(len(before) - 1, -1, -1) if before[at] in _DENIALS), None)
    if last is None:
        return False
    between = before[last + 1 :]
    listed = bool(between) and between[-1] in {"or", "nor", ","}
    rest = [
        word for word in between if word not in _FILLERS and word not in {"see", "show", "demonstrate", "have", "reveal", "for", "identify"}
    ]
    if not rest or (listed and not {"with", "shows", "has", "and"} & set(between)):
        return True
    return None


def _place(after: tuple[str, ...]) -> set[str]:
    """Return the words of a place after a thing; an image is not a place."""
    text = _IN_IMAGE.sub("", " ".join(after))
    words = text.split()
    if not words or words[0] not in _PREPOSITION:
        return set()
    end = next((at for at, word in enumerate(words) if word in {",", "and", "or", "is", "are", "with"}), len(words))
    return set(words[:end]) - _ARTICLES - _PREPOSITION


def _predicates(sentences: list[tuple[str, ...]], asked: str) -> set[bool | str | None]:
    """Read sentences such as "The heart is (not) enlarged" as answers to "Is the heart enlarged?"."""
    found = _ABOUT.fullmatch(_IN_IMAGE.sub("", asked).strip())
    rest = [word for word in (found["rest"].split() if found else []) if word not in {"a", "an", "the"}]
    if not 2 <= len(rest) <= 8 or {"or", "and", "there", ","} & set(rest):
        return set()
    verdicts = set[bool | str | None]()
    for sentence in sentences:
        text = " ".join(word for word in sentence if word not in {"a", "an", "the"})
        for split in range(1, len(rest)):
            subject, predicate = (re.escape(" ".join(part)) for part in (rest[:split], rest[split:]))
            match = re.fullmatch(
                rf"(?:.{{0,60}} )?{subject} (?:is|are|was|were|appears?"
                rf"|seems?)(?: to be)? (?P<not>not )?(?:\w+ly )?{predicate}(?: (?:in|on|at|with)\b.*| ,.*)?",
                text,
            )
            if match:
                verdicts.add("unsure" if _UNSURE & set(sentence) or "no longer" in text else not match["not"])
    return verdicts


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] not in "sui" else word


_PRONOUN = r"(?:there|it|this|that|these|those|they|he|she|i|we|you)\b"
# "No" before a noun is an article, not an answer. Before a pause or a new clause it is an answer.
_YES = r"(?:yes|yeah|yep|yup)\b"
_NO = rf"(?:nope|nah)\b|no\b(?=[ ]?(?:$|[.,;:!?\n)\]}}\"'\u2013\u2014-]|(?:{_PRONOUN})))"
_EITHER = re.compile(r"\byes[ ]?(?:and|or|/|&)[ ]?no\b|\bno[ ]?(?:and|or|/|&)[ ]?yes\b", re.IGNORECASE)
_LEADING = re.compile(
    rf"[\W_]{{0,8}}(?:(?:so|therefore|thus|hence|well|simply|clearly|probably|likely)[, ]{{1,2}})?(?P<word>{_YES}|{_NO})", re.IGNORECASE
)
_CLAUSES = re.compile(r"[.,;:!?\n]+")
_ADVERBS = ("probably", "definitely", "certainly", "absolutely", "likely", "most likely", "i think", "apparently", "clearly", "of course")
_NO_CLAUSES = (
    *(f"{adverb} not" for adverb in _ADVERBS),
    *("not really", "not at all", "not likely", "i don't think so", "i do not think so", "i don't believe so", "nein", "n\u00e3o", "non"),
    *("\u5426", "\u4e0d", "\u4e0d\u662f", "\u4e0d\u662f\u7684", "\u6ca1\u6709", "\u6c92\u6709", "\u5e76\u6ca1\u6709"),
    *("\u4e0d\u5bf9", "\u4e0d\u5b58\u5728", "\u4e0d\u80fd", "\u4e0d\u4f1a"),
)
_YES_CLAUSES = (
    *("i think so", "i believe so", "of course", "s\u00ed", "oui", "ja", "sim"),
    *("\u662f", "\u662f\u7684", "\u5bf9", "\u5bf9\u7684", "\u5b58\u5728", "\u6709\u7684"),
)
_CLAUSE_MEANS = {**dict.fromkeys(_NO_CLAUSES, False), **dict.fromkeys(_YES_CLAUSES, True)}
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


def yes_no(reply: str, question: str | None = None, *, family: ReplyFormat | None = None) -> bool | None:
    """Read yes or no from a reply: ``True`` for yes, ``False`` for no, ``None`` for neither or both.

    Args:
        reply: the model's reply.
        question: the question asked. Without it, only "yes", "no" and similar words count, not statements.
        family: the format whose mark is searched first; ``None`` detects it from the reply.
    """
    unwrapped = unwrap(reply, family)
    if unwrapped.unfinished:
        return _last_said(unwrapped.answer)
    return explicit(unwrapped.answer, question)


def explicit(text: str, question: str | None = None) -> bool | None:
    """Read yes or no from text without the model's format: the last declared one, else the only one said or stated."""
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
    verdicts = {None if found["not"] else _is_yes(found) for found in _ANYWHERE.finditer(text)}
    return verdicts.pop() if len(verdicts) == 1 else None


def _short(text: str) -> bool | None:
    """Read the reply's first clause, such as "Probably not.", "Of course", or yes and no in other languages."""
    clauses = [clause.strip(" \"'()").lower() for clause in _CLAUSES.split(text.strip(" .!\n\"'"))]
    verdicts = {_CLAUSE_MEANS[clause] for clause in clauses if clause in _CLAUSE_MEANS}
    if clauses[0] in _CLAUSE_MEANS:
        return verdicts.pop() if len(verdicts) == 1 else None
    alone = clauses[0] if len(clauses) == 1 else ""
    return _ALONE_MEANS.get(alone)


def _last_said(text: str) -> bool | None:
    """Read the last step and the text after it: a declaration, or a last line that is only yes or no."""
    if _EITHER.search(text):
        return None
    declared = _declared(text)
    last = text.rpartition("\n")[2].strip(" .!").lower() if "\n" in text else ""
    return declared if declared is not None or last not in {"yes", "no"} else last == "yes"


def _declared(text: str) -> bool | None:
    leading = [found for declaration in declarations(text) if (found := _LEADING.match(declaration.content))]
    return _is_yes(leading[-1]) if leading else None


def _is_yes(found: re.Match[str]) -> bool:
    return found["word"].lower().startswith("y")
