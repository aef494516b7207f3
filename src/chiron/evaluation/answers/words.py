"""Split texts into comparable words: numbers with units, plurals, listed abbreviations."""

import re
from dataclasses import dataclass

from chiron.text import without_accents

# Chinese and Japanese have no blanks between words, so each character is a word.
_WORD = re.compile(
    r"(?P<number>\d+(?:[.,]\d+)*)(?P<unit>[^\W\d_\u3040-\u30ff\u3400-\u9fff]*)|(?P<cjk>[\u3040-\u30ff\u3400-\u9fff])"
    r"|(?P<word>[^\W_\u3040-\u30ff\u3400-\u9fff]+)|(?P<sign>[%<>≤≥±+\-])"
)
_STOP = re.compile(r"[.;!?\n]")
_PAUSE = re.compile(r"[,()\[\]]")
_NONE = ("", " ")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"))
_ALPHABET = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau upsilon phi chi psi omega"
)
_GREEK_LETTERS = str.maketrans({0x3B1 + place: name for place, name in enumerate(_ALPHABET.split())})
_CURRENCIES = frozenset("$\u20ac\u00a3\u00a5")
_UNIT_LETTERS = frozenset("mglshdxvy")


@dataclass(frozen=True, slots=True)
class Words:
    """A text's words in lower case, and the kind of gap before each."""

    words: tuple[str, ...]
    gaps: tuple[int, ...]
    """One per word: 0 nothing, 1 a comma or bracket, 2 a colon, 3 the end of a sentence or line."""


def words_of(text: str) -> Words:
    """Return the words, numbers and signs of ``text``. British spellings become American, accents are dropped, articles are kept."""
    text = _folded(text)
    words, gaps, end = list[str](), list[int](), 0
    for found in _WORD.finditer(text):
        if found["sign"] and not _meant(found, text, words):
            continue
        between = text[end : found.start()]
        gap = 0 if between in _NONE else 3 if _STOP.search(between) else 2 if ":" in between else 1 if _PAUSE.search(between) else 0
        end = found.end()
        for part in _parts(found):
            words.append(part)
            gaps.append(gap)
            gap = 0
    return Words(tuple(words), tuple(gaps))


def _folded(text: str) -> str:
    text = without_accents(text)
    if not text.isascii():
        text = text.translate(_DASHES).translate(_GREEK_LETTERS)
    return text.replace("n't", " not").replace("cannot", "can not")


def _parts(found: re.Match[str]) -> tuple[str, ...]:
    if number := found["number"]:
        number = number.replace(",", "") if _THOUSANDS.fullmatch(number) else number
        unit = found["unit"]
        # 5mm is 5 mm, but 4C is one word.
        return (number + unit,) if len(unit) == 1 and unit not in _UNIT_LETTERS else (number, *([unit] if unit else []))
    word = found["word"] or found["cjk"]
    return (word.replace("oe", "e").replace("ae", "e").replace("tumour", "tumor"),) if word else (found[0],)


def _meant(found: re.Match[str], text: str, before: list[str]) -> bool:
    """Whether a sign has a meaning; hyphens and stray plus signs do not."""
    sign, behind, ahead = found[0], text[max(0, found.start() - 1) : found.start()], text[found.end() : found.end() + 2]
    if sign == "-":
        amount = ahead[:1].isdigit() or (ahead[:1] in _CURRENCIES and ahead[1:].isdigit())
        negative = amount and not behind.isalnum() and not (before and before[-1][:1].isdigit())
        return negative or (behind.isalnum() and (not ahead or ahead[0] in ".,;)\n"))
    if sign == "+":
        return behind.isalnum() and not ahead[:1].isalnum()
    return sign not in "<>" or ahead.strip()[:1].isdigit()


_LISTED = {
    "alveoli": "alveolus",
    "bacteria": "bacterium",
    "bronchi": "bronchus",
    "calculi": "calculus",
    "children": "child",
    "diverticula": "diverticulum",
    "emboli": "embolus",
    "feet": "foot",
    "foci": "focus",
    "fungi": "fungus",
    "ganglia": "ganglion",
    "gyri": "gyrus",
    "hila": "hilum",
    "men": "man",
    "nuclei": "nucleus",
    "ova": "ovum",
    "septa": "septum",
    "sulci": "sulcus",
    "teeth": "tooth",
    "thrombi": "thrombus",
    "vertebre": "vertebra",
    "women": "woman",
}
"""``vertebrae`` has already lost its ``a`` here, because words are compared in American spelling."""
_SINGULAR = frozenset(
    """ascites atlas biceps caries cirrhosis diabetes facies forceps herpes lens news pancreas pons quadriceps rabies scabies series species
    triceps""".split()
)
_SIS = ("oses", "stases", "theses", "lyses", "physes", "ptyses")
_NOT_SIS = frozenset({"doses", "noses", "roses", "hoses", "glucoses"})


def singular(word: str) -> str:
    """Return the singular of a lower-case word; a word that is not plural is returned unchanged."""
    if word in _LISTED:
        return _LISTED[word]
    if len(word) < 4 or not word.endswith("s") or word in _SINGULAR or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith(_SIS) and word not in _NOT_SIS:
        return word[:-2] + "is"
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word[:-1]


_ABBREVIATIONS = """
aids: acquired immunodeficiency syndrome
ards: acute respiratory distress syndrome
avm: arteriovenous malformation
bcc: basal cell carcinoma
cad: coronary artery disease
chf: congestive heart failure
cmv: cytomegalovirus
cns: central nervous system
copd: chronic obstructive pulmonary disease
csf: cerebrospinal fluid
ct: computed tomography, ct scan, computed tomography scan, computerized tomography, cat scan
cxr: chest x ray, chest xray, chest radiograph
dcis: ductal carcinoma in situ
dvt: deep vein thrombosis, deep venous thrombosis
dwi: diffusion weighted imaging
ebv: epstein barr virus
ecg: electrocardiogram, ekg, electrocardiography
eeg: electroencephalogram
gerd: gastroesophageal reflux disease
gi: gastrointestinal
h and e: hematoxylin and eosin, he stain, h and e stain, hematoxylin and eosin stain
hcc: hepatocellular carcinoma
hiv: human immunodeficiency virus
hpv: human papillomavirus
ivc: inferior vena cava
lll: left lower lobe
lul: left upper lobe
lv: left ventricle
mri: magnetic resonance imaging, mr imaging, mri scan, mr, mr scan
nsclc: non small cell lung cancer
pet: positron emission tomography, pet scan
rcc: renal cell carcinoma
rll: right lower lobe
rml: right middle lobe
rul: right upper lobe
rv: right ventricle
sah: subarachnoid hemorrhage
scc: squamous cell carcinoma
sclc: small cell lung cancer
sdh: subdural hematoma
svc: superior vena cava
tb: tuberculosis
uti: urinary tract infection
us: ultrasound, ultrasonography, sonography, us scan, ultrasound scan
x ray: xray, radiograph, plain radiograph, radiography
"""


def _entries() -> dict[tuple[str, ...], tuple[str, ...]]:
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for line in _ABBREVIATIONS.strip().splitlines():
        short, _, names = line.partition(": ")
        first, *others = (tuple(name.split()) for name in names.split(", "))
        found.update(dict.fromkeys((tuple(short.split()), first, *others), first))
    return found


EXPANSIONS = _entries()
"""Maps the words of an abbreviation or alternative name to its full form; all lower case and singular."""
LONGEST = max(map(len, EXPANSIONS))
"""Number of words of the longest key."""
