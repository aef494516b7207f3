"""The twelve imaging modalities: names, synonyms, DICOM codes, and how to find the modality of a text or case.

Names are those used by radiologists; codes are from DICOM PS3.3 C.7.3.1.1.1. A text that names no modality for certain, or two, gets none,
because a wrong modality is worse than a missing one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from chiron.cases.case import Case
from chiron.text import normalize_words


@dataclass(frozen=True, slots=True)
class Modality:
    """Imaging modality."""

    name: str
    slug: str
    """Prefix of an image group's folder name: ``ct_group1``."""
    codes: tuple[str, ...]
    """DICOM codes. They match only a whole text, since ``US`` and ``PT`` have other meanings within one."""
    names: tuple[str, ...]
    """Other names; each must match a whole text."""
    words: tuple[str, ...]
    """Case-insensitive regular expressions that match within a text."""
    marks: tuple[str, ...] = ()
    """Regular expressions that match uppercase only: ``MR`` is a modality, ``Mr`` is a title."""


MODALITIES: tuple[Modality, ...] = (
    Modality(
        "X-ray",
        "x-ray",
        ("CR", "DX", "RG", "IO", "PX", "DR"),
        ("xray", "xr", "radiography", "plain film", "plain radiograph", "conventional radiography", "röntgen"),
        (r"x[- ]?rays?", r"(?:plain |chest |abdominal |pelvic )?radiographs?", r"plain films?", r"radiography", r"orthopantomogram"),
        (r"CXR", r"AXR", r"KUB", r"OPG"),
    ),
    Modality(
        "CT",
        "ct",
        ("CT",),
        ("cat scan", "computed tomography", "computerised tomography", "computertomographie"),
        (
            r"comput(?:ed|eri[sz]ed) (?:axial )?tomograph(?:y|ic)(?: angiograph?(?:y|ic))?",
            r"cat scans?",
            r"ct(?:[ -]angiogra(?:m|ms|phy|phic))?",
        ),
        (r"HRCT", r"NCCT", r"CECT", r"CTA", r"CTPA", r"CTKUB", r"CBCT"),
    ),
    Modality(
        "MRI",
        "mri",
        ("MR",),
        ("mr", "nmr", "magnetic resonance", "mrt", "irm", "t1w", "t2w", "flair", "dwi", "bold", "swi"),
        (
            r"magnetic resonance(?: imaging)?(?: angiograph?(?:y|ic))?",
            r"mri(?: scans?)?",
            r"mr[- ](?:imaging|image|images|angiogra(?:m|phy)|arthrogra(?:m|phy)|venogra(?:m|phy)|spectroscopy|enterography|elastography)",
            r"t[12][- ]?(?:weighted|wi|w)(?: mri)?",
        ),
        (r"MR", r"MRA", r"MRV", r"MRCP", r"FLAIR", r"DWI"),
    ),
    Modality(
        "Ultrasound",
        "ultrasound",
        ("US", "IVUS", "BDUS", "DD"),
        ("us", "uss", "sonography", "echo", "doppler", "ultraschall"),
        (
            r"(?:doppler |endoscopic |intravascular )?ultraso(?:und|nic|nography)s?",
            r"(?:ultra)?sonogra(?:m|ms|phy|phic)",
            r"echocardiogra(?:m|ms|phy)",
            r"(?:colou?r |power |duplex )?doppler",
        ),
        (r"USS",),
    ),
    Modality(
        "Mammography",
        "mammography",
        ("MG",),
        ("mammo", "mammogram", "tomosynthesis", "breast tomosynthesis"),
        (r"(?:digital )?mammogra(?:m|ms|phy|phic)", r"(?:digital )?(?:breast )?tomosynthesis"),
    ),
    Modality(
        "Fluoroscopy",
        "fluoroscopy",
        ("RF",),
        ("fluoro", "barium", "contrast swallow"),
        (
            r"fluorosco(?:py|pic)",
            r"(?:barium|gastrografin|contrast|water-soluble) (?:swallow|meal|enema|follow[- ]through|study|esophagram|oesophagram)s?",
            r"(?:o?esophagra(?:m|phy)|hysterosalpingogra(?:m|phy)|(?:micturating |voiding )?cystourethrogra(?:m|phy)|urethrogra(?:m|phy))",
        ),
        (r"HSG", r"MCUG", r"VCUG"),
    ),
    Modality(
        "Angiography",
        "angiography",
        ("XA", "DF", "DS", "DSA", "CF"),
        ("dsa", "angio", "digital subtraction angiography", "catheter angiography", "dsa (angiography)", "angiography (dsa)"),
        (
            r"(?:digital subtraction |catheter |conventional |coronary |cerebral )*angiogra(?:m|ms|phy)",
            r"(?:veno|phlebo|aorto)gra(?:m|phy)",
        ),
        (r"DSA",),
    ),
    Modality(
        "PET",
        "pet",
        ("PT",),
        ("pet ct", "petct", "pet mr", "positron emission tomography"),
        (
            r"(?:(?:18f?-?)?fdg[- ])?pet(?: ?[-/] ?(?:ct|mri?))?(?: scans?)?(?!s\b)",
            r"positron emission tomography(?: ?[-/] ?computed tomography)?",
        ),
    ),
    Modality(
        "Nuclear medicine",
        "nuclear-medicine",
        ("NM", "ST"),
        ("nuc med", "nuclear", "spect", "spect ct", "bone scan", "nuclear medicine imaging"),
        (
            r"nuclear medicine",
            r"(?:\w+ )?scintigra(?:m|ms|phy|phic)",
            r"spect(?: ?[-/] ?ct)?",
            r"single[- ]photon emission(?: computed)? tomography",
            r"bone scans?",
            r"v/q scans?",
        ),
        (r"DMSA", r"MAG3", r"HIDA", r"MIBG"),
    ),
    Modality(
        "Endoscopy",
        "endoscopy",
        ("ES",),
        ("endoscopic", "scope"),
        (r"(?:video ?)?endoscopy", r"(?:colono|gastro|sigmoido|broncho|cysto|hystero|laparo|arthro|laryngo|entero|duodeno)scopy"),
    ),
    Modality(
        "Microscopy",
        "microscopy",
        ("SM", "GM"),
        ("pathology", "histology", "cytology", "whole slide image", "wsi", "h&e"),
        (
            r"microscop(?:y|ic)",
            r"histo(?:logy|logic|logical|patholog(?:y|ical))",
            r"immunohistochemistry",
            r"cytology",
            r"photomicrographs?",
        ),
    ),
    Modality(
        "Ophthalmic imaging",
        "ophthalmic",
        ("OP", "OPT", "OPM", "OCT", "OPTENF", "OPTBSV"),
        ("oct", "fundus", "fundus photography", "fundus photo", "oct/fundus photography", "retinal imaging", "ophthalmology"),
        (
            r"fundus (?:photo(?:s|graph|graphs|graphy)?|images?|autofluorescence)",
            r"fundoscopy",
            r"optical coherence tomograph(?:y|ic)",
            r"(?:fluorescein|indocyanine green|fundus) angiogra(?:m|phy)",
        ),
        (r"OCTA?(?! 20)",),
    ),
)
"""Modalities in the row order of the coverage map."""

_BY_NAME = {normalize_words(name): m for m in MODALITIES for name in (m.name, m.slug, *m.codes, *m.names)}
# Longest words first, so that "CT angiography" matches as one name.
_ANY_CASE = re.compile(
    r"(?<![\w-])(?:" + "|".join(f"(?P<m{i}>{'|'.join(m.words)})" for i, m in reversed(list(enumerate(MODALITIES)))) + r")(?![\w])",
    re.IGNORECASE,
)
_CAPITALS = re.compile(
    r"(?<![\w-])(?:" + "|".join(f"(?P<m{i}>{'|'.join(m.marks)})" for i, m in enumerate(MODALITIES) if m.marks) + r")(?!\w)"
)
_GROUP = re.compile(r"(?P<name>[a-z][a-z _-]*?)[ _-]?group[ _-]?\d*", re.IGNORECASE)


def modality_of(text: str) -> Modality | None:
    """Return the one modality that a text names by name, synonym or DICOM code; None if there is no match or more than one."""
    whole = _BY_NAME.get(normalize_words(text))
    if whole is not None:
        return whole
    named = modalities_in(text)
    return named[0] if len(named) == 1 else None


def modalities_in(text: str) -> tuple[Modality, ...]:
    """Return every modality that a text names, in map order. A hybrid such as PET/CT counts as the modality it is named after."""
    found = {int((match.lastgroup or "m0")[1:]) for match in _found(text)}
    return tuple(m for i, m in enumerate(MODALITIES) if i in found)


def _found(text: str) -> Iterator[re.Match[str]]:
    """Yield matches that are not part of a longer name."""
    matches = sorted([*_ANY_CASE.finditer(text), *_CAPITALS.finditer(text)], key=lambda m: (m.start(), -m.end()))
    end = -1
    for match in matches:
        if match.start() >= end:
            end = match.end()
            yield match


def modalities_of_case(case: Case) -> tuple[Modality, ...]:
    """Return the modalities of a case's images: from metadata, else from image group names; empty if unknown."""
    if case.modality:
        parts = [modality_of(part) for part in re.split(r"[,;+]|\band\b", case.modality)]
        if parts and all(parts):
            return tuple(m for m in MODALITIES if m in parts)
        if (whole := modality_of(case.modality)) is not None:
            return (whole,)
    groups = {folder for name in case.images for folder in name.split("/")[:-1]}
    named = {m for folder in groups if (match := _GROUP.fullmatch(folder)) and (m := modality_of(match["name"])) is not None}
    return tuple(m for m in MODALITIES if m in named)


_SHOWS = re.compile(
    r"(?:\A|(?<=[.!?\n] )|(?<=\n)|(?:[Oo]n|[Tt]he|[Aa]t|[Aa]ccompanying) )(?P<what>[^.!?\n]{2,60}?)"
    r"(?: (?:images?|scans?|sequences?|of the [a-z]+(?: [a-z]+)?))? (?:shows?|demonstrates?|reveals?|depicts?|confirms?)\b"
)
_WITH_IT = {"PET": ("CT", "MRI"), "Nuclear medicine": ("CT",)}
"""Modalities that a hybrid examination also includes."""
_ELSEWHERE = re.compile(
    r"\b(?:prior|previous(?:ly)?|earlier|old|outside|recommend\w*|suggest\w*|advis\w+|correlat\w+|consider|follow[- ]up|compar\w+"
    r"|no|may|if)\b",
    re.IGNORECASE,
)


def findings_without_images(case: Case) -> tuple[Modality, ...]:
    """Return modalities whose images the findings describe ("MRI shows ...") but the case does not have.

    Empty if the modality of the images is unknown. Mentions of earlier or recommended examinations do not count.
    """
    there = modalities_of_case(case)
    if not there:
        return ()
    described = {
        modality
        for text in case.findings
        for match in _SHOWS.finditer(text)
        if not _ELSEWHERE.search(match["what"])
        for modality in modalities_in(match["what"])
    }
    covered = {name for m in there for name in (m.name, *_WITH_IT.get(m.name, ()))}
    return tuple(m for m in MODALITIES if m in described and m.name not in covered)
