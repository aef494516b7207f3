"""Free text that may say who a patient is: where it stands and of what kind it is, and never what it says.

A net, and it has holes: it knows the forms in which reports name people, days, places and numbers (the identifiers of HIPAA's safe
harbour that occur in free text), and whatever the source itself gives as a name or number. It is made to leave radiology alone:
vertebral levels, sequences, fractions, measurements, ages and durations are no dates and no numbers of anybody.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a piece of text may be."""

    NAME = "name"
    DATE = "date"
    PHONE = "phone number"
    EMAIL = "e-mail address"
    RECORD = "record number"
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Mark:
    """A piece of text that may identify somebody."""

    kind: Kind
    start: int
    """Offset in characters."""
    end: int
    """Offset in characters, exclusive."""
    line: int
    """Line of the text, from 1."""


def find_identifying(text: str, known: Collection[str] = ()) -> tuple[Mark, ...]:
    """Every piece of ``text`` that may identify somebody, in order.

    Args:
        text: free text of any length; the time taken grows with its length and no faster.
        known: names and numbers of this patient, as the source gives them elsewhere; found as whole words in any case.
    """
    found = [*_by_form(text), *_known(text, known)]
    ends = [i for i, character in enumerate(text) if character == "\n"] if found else []
    return tuple(
        Mark(kind, start, end, 1 + sum(e < start for e in ends))
        for start, end, kind in sorted(set(found), key=lambda f: (f[0], f[1], f[2]))
    )


def identifiers(*values: object) -> frozenset[str]:
    """Names and numbers of somebody as words to look for: ``Smith^John`` gives ``smith`` and ``john``, ``O'Brien`` also ``obrien``.

    Words of fewer than three letters and numbers of fewer than four digits are too common to mean anybody. Of a word with digits in it
    its letters alone mean nobody either: ``MRI-0012`` is looked for whole, and as ``0012``.
    """
    return frozenset(
        word
        for token in _tokens(values)
        for word in {token, *(_PARTS.findall(token)), _BETWEEN.sub("", token)}
        if (len(word) >= 4 if any(c.isdigit() for c in word) else len(word) >= 3 and not any(c.isdigit() for c in token))
        and word not in _NO_NAMES
    )


def names(*values: object) -> frozenset[str]:
    """As :func:`identifiers`, of what is nothing but names: two letters are enough, as in ``Li^Wu``, and digits spoil no name."""
    parts = {part for token in _tokens(values) for part in _PARTS.findall(token) if part.isalpha() and len(part) >= 2}
    return identifiers(*values) | frozenset(parts - _NO_NAMES)


def named(values: Iterable[object]) -> frozenset[str]:
    """What columns or fields say of somebody, names and numbers together: text without a digit is taken to be a name."""
    said = [str(value) for value in values if isinstance(value, str | int)]
    return identifiers(*said) | names(*(value for value in said if not any(c.isdigit() for c in value)))


def _tokens(values: Collection[object]) -> Iterator[str]:
    for value in values:
        if value is not None:
            yield from (token for token in re.split(r"[\s^=,;.]+", str(value).casefold()) if token)


_PARTS = re.compile(r"[^\W_]+")
_BETWEEN = re.compile(r"[\W_]+")
_NO_NAMES = frozenset(
    "anon anonymous anonymized anonymised unknown none null patient test phantom name male female the and for with without left right"
    " chest head neck brain spine knee dr mr ms md st ct us pt xa cr dx mg nm ap pa lt rt iv".split()
)
"""What stands where a name should, and words that any report has."""


def _known(text: str, known: Collection[str]) -> Iterator[tuple[int, int, Kind]]:
    for word in _WHOLE.finditer(text) if known else ():
        parts = [(part.group(), part.start() + word.start()) for part in _PARTS.finditer(word.group())]
        for said, start in [(word.group(), word.start())] if word.group().casefold() in known else parts:
            # Two letters are a name only where they are written as one: "Li" and "LI", but not the "do" of "do not".
            if said.casefold() in known and (len(said) > 2 or said[0].isupper()):
                yield start, start + len(said), Kind.RECORD if any(c.isdigit() for c in said) else Kind.NAME


_WHOLE = re.compile(r"[\w-]+")


def _by_form(text: str) -> Iterator[tuple[int, int, Kind]]:
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(text):
            if not _harmless(kind, match, text):
                yield match.start(), match.end(), kind


_UNIT = re.compile(r"\s?(?:mm|cm|ml|cc|mg|kg|mSv|mGy|HU|Hz|ms|s/mm|x\s?\d|\u00d7\s?\d|%|fractures?\b)", re.IGNORECASE)
_COUNTED = re.compile(
    r"\b(?:ribs?|segments?|levels?|grades?|stages?|scores?|teeth|tooth|zones?|stations?|types?|images?|slices?|figures?|digits?|fingers?"
    r"|toes?|nerves?|power|strength|reflexes|ratio|b[- ]?values?|metatarsals?|metacarpals?|vertebrae|PMID|NCT|doi|rID|dimensions?)"
    r"[\s:#]*$",
    re.IGNORECASE,
)
_SERVICE = re.compile(
    r"\b(?:\w+ology|\w*surgery|Surgical|Surgeons?|Emergency|Department|Dept|General|Practitioner|Practice|Physicians?|Medicine|Medical"
    r"|Clinic|Hospital|Team|Unit|Ward|Orthop\w+|P\w?ediatrics?|Intensive|Care|Family|Primary|Accident|Trauma|Outpatients?|Consultant)\b"
)


def _harmless(kind: Kind, match: re.Match[str], text: str) -> bool:
    """What has the form and is known to be something else, by the words around it."""
    before, after = text[max(0, match.start() - 24) : match.start()], text[match.end() : match.end() + 12]
    said = match.group()
    if kind is Kind.DATE:
        numbers = match.groupdict()
        if numbers.get("a") is not None:
            days = int(numbers["a"]), int(numbers["b"])
            if not (1 <= min(days) <= 12 and max(days) <= 31):
                return True
        return bool(_UNIT.match(after) or _COUNTED.search(before))
    if kind is Kind.RECORD:
        digits = "".join(c for c in said if c.isdigit())
        return said.isdigit() and (digits.endswith("000") or bool(_UNIT.match(after)) or bool(_COUNTED.search(before)))
    if kind is Kind.NAME:
        return bool(_SERVICE.search(said)) or said.startswith(("Sister Mary Joseph", "Sister Joseph"))
    if kind is Kind.ADDRESS:
        return bool(re.fullmatch(r"[CTLS]\d{1,2} \d(?:ST|ND|RD|TH)", said))
    return False


_MONTH = (
    r"(?:January|February|March|April|June|July|August|September|October|November|December"
    r"|Januar|Februar|März|Mai|Juni|Juli|Oktober|Dezember|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.?"
)
_MONTH_OR_MAY = rf"(?:{_MONTH}|May)"
_CAPITALS = r"(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th|\.)?"
_YEAR = r"(?:19|20)\d\d"
_WORD = r"[A-ZÀ-ÖØ-Þ][\w'\u2019-]+"
_PERSON = rf"(?:{_WORD}|[A-Z]\.)(?:[ ,]{{1,2}}(?:{_WORD}|[A-Z]\.)){{1,2}}"

_DATES = rf"""
    (?<![\w./-])(?P<a>\d{{1,2}})(?P<sep>[./-])(?P<b>\d{{1,2}})(?P=sep)(?:{_YEAR}|\d\d)(?![\w/-]|\.\d)
  | (?<![\w.-]){_YEAR}[-/.](?:0?[1-9]|1[0-2])[-/.](?:0?[1-9]|[12]\d|3[01])(?![\w/-]|\.\d)
  | (?<![\w.]){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?![\w.]\d)
  | (?<![\w./-]){_DAY}[ ]?(?:of[ ])?{_MONTH_OR_MAY},?(?:[ ]{_YEAR})?(?!\w)
  | (?<!\w){_MONTH_OR_MAY}[ ](?:{_DAY},?[ ])?{_YEAR}(?!\w)
  | (?<!\w){_MONTH}[ ]{_DAY}(?![\w/.-]\d|\d|[ ]?(?:mm|cm|x|%))
  | (?<!\w)May[ ](?:0?[1-9]|[12]\d|3[01])(?:st|nd|rd|th)(?!\w)
  | (?<!\w)\d{{1,2}}[ -]?{_CAPITALS}[ -]?(?:{_YEAR}|\d\d)(?!\w)
  | (?<!\w)(?:DOB|D\.O\.B\.|[Dd]ate[ ]of[ ]birth|[Bb]irth[ ]?date|born[ ]on)\W{{0,3}}\d[\d./ -]*
"""
_PHONES = r"""
    (?<![\w+])\+\d{1,3}[ ./()-]{0,2}\d(?:[ ./()-]{0,2}\d){6,12}(?!\d)
  | (?<![\w.-])\(\d{3}\)[ ]?\d{3}[-. ]\d{4}(?!\d)
  | (?<![\w.-])\d{3}-\d{3}-\d{4}(?![\w-])
  | (?<![\w.-])\d{3}\.\d{3}\.\d{4}(?![\w.])
  | (?<![\w.,-])0\d{2,4}[ /-]\d{3,4}[ -]?\d{2,5}(?!\w)
  | (?<!\w)(?:[Tt]el|[Pp]hone|[Tt]elephone|[Ff]ax|[Mm]obile|[Pp]ager|[Bb]leep|[Ee]xt(?:ension)?|[Cc]ell)
    (?:[ ](?:no|number))?\.?[ :#]{1,3}[(+]?\d[\d ()/-]{2,18}\d
"""
_RECORDS = r"""
    (?<!\w)(?:MRN|mrn|[Mm]edical[ ]record|[Rr]ecord|[Hh]ospital|[Pp]atient|[Aa]ccession|[Ss]tudy|[Cc]ase|NHS|SSN|PID
       |[Ii]nsurance|[Pp]olicy|[Ss]pecimen)
    (?:[ ]?(?:ID|[Ii]d|[Nn]o|[Nn]umber|[Nn]r|\#))?\.?[ :#]{1,3}
    (?=[\w/-]*\d[\w/-]*\d[\w/-]*\d[\w/-]*\d)(?![12]\d{3}\b)[A-Za-z]{0,4}[\d/-][\w/-]*
  | (?<!\w)NHS(?:[ ](?:no|number))?\.?[ :]{1,2}\d{3}[ ]\d{3}[ ]\d{4}(?!\d)
  | (?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-])
  | (?<![\w./,+-])\d{7,14}(?![\w/]|[.,]\d)
  | (?<![\w./-])(?!NCT|PMC|COVID)[A-Z]{1,3}-?\d{6,12}(?!\w)
  | (?<![\w./-])[A-Z]{1,3}\d\d-\d{4,8}(?!\w)
  | (?<![\w.])[0-2](?:\.\d{1,39}){6,}(?![\w.]\d)
"""
_NAMES = rf"""
    (?<!\w)(?:Drs?|Prof|Professor|Doctor|Mr|Mrs|Ms|Miss|Mx|Nurse|Sister|Herr|Frau|Mme|Monsieur|Madame|Señora?|Sig)\.?[ ]{{1,2}}
    (?:(?:von|van|de|del|der|la|le)[ ]){{0,2}}(?:[A-Z]\.[ ]?)*{_WORD}(?:[ ]{_WORD})?
  | (?<!\w)(?:DR|MR|MRS|MS|PROF)\.[ ][A-Z][A-Z'-]{{3,}}(?!\w)
  | (?<!\w)(?:[Rr]eported|[Dd]ictated|[Ss]igned|[Vv]erified|[Aa]pproved|[Rr]eferred|[Rr]eviewed|[Tt]ranscribed|[Ss]een|[Ee]xamined
       |[Aa]uthori[sz]ed)
    [ ]by:?[ ]{_PERSON}
  | (?<!\w)(?:[Pp]atient(?:'s)?[ ][Nn]ame|[Nn]ame[ ]of[ ]patient|[Ss]urname|[Ff]irst[ ]name|[Ll]ast[ ]name)\W{{1,3}}{_WORD}
  | (?:^|[\n;|])[ ]*Name:[ ]*{_WORD}
  | (?<!\w)[Pp]atient[ ](?:is[ ])?(?:named|called)[ ]{_WORD}
  | (?<!\w){_WORD}(?:[ ][A-Z]\.)?[ ]{_WORD},?[ ](?:M\.?D\.?|FRCR|FRANZCR|FRCPC?|MBBS|MBChB|Ph\.?D\.?)(?!\w)
  | (?<![\w^])[A-Za-z][A-Za-z'-]+\^[A-Za-z][A-Za-z'-]*
"""
_ADDRESSES = r"""
    (?<![\w.,-])\d{1,5}[A-Za-z]?[ ](?:[A-Z][\w'\u2019-]+[ ]){1,3}
    (?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Boulevard|Blvd|Crescent|Drive|Terrace|Highway)(?!\w)
  | (?<!\w)[A-ZÄÖÜ][a-zäöüß]+(?:straße|strasse|gasse|allee)[ ]\d{1,4}(?!\w)
  | (?<!\w)(?:[Rr]ue|[Cc]alle|[Vv]ia)[ ](?:de[ ](?:la[ ])?)?[A-Z]\w+,?[ ]\d{1,4}(?!\w)
  | (?<!\w)P\.?[ ]?O\.?[ ]Box[ ]\d+
  | (?<!\w)[A-PR-UWYZ][A-HK-Y]?\d[\dA-HJKPSTUW]?[ ]\d[ABD-HJLNP-UW-Z]{2}(?!\w)
  | (?<=,[ ])(?:A[KLRZ]|C[AO]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY])
    [ ]\d{5}(?:-\d{4})?(?!\w)
"""
_PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (Kind.EMAIL, re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")),
    (Kind.DATE, re.compile(_DATES, re.VERBOSE)),
    (Kind.PHONE, re.compile(_PHONES, re.VERBOSE)),
    (Kind.RECORD, re.compile(_RECORDS, re.VERBOSE)),
    (Kind.NAME, re.compile(_NAMES, re.VERBOSE)),
    (Kind.ADDRESS, re.compile(_ADDRESSES, re.VERBOSE)),
)
