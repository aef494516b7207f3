"""Words of a text, and the options it names: whole words, the longest match wins, denied mentions do not count."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from chiron.conversation.short_answers import LETTERS
from chiron.errors import InputError
from chiron.evaluation.answers.answer_tags import strip_markup
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


@lru_cache(maxsize=64)  # the rules look at the same parts of a reply in turn
def words_of(text: str) -> Words:
    """Return the words, numbers and signs of ``text``. British spellings become American, accents are dropped, articles are kept."""
    text = _folded(text)
    words, gaps, end = list[str](), list[int](), 0
    for found in _WORD.finditer(text):
        kind = found.lastgroup
        if kind == "sign" and not _meant(found, text, words):
            continue
        between = text[end : found.start()]
        gap = 0 if between in _NONE else 3 if _STOP.search(between) else 2 if ":" in between else 1 if _PAUSE.search(between) else 0
        end = found.end()
        for part in _amount(found) if kind == "unit" else (_american(found[0]),):
            words.append(part)
            gaps.append(gap)
            gap = 0
    return Words(tuple(words), tuple(gaps))


def _folded(text: str) -> str:
    text = without_accents(text)
    if not text.isascii():
        text = text.translate(_DASHES).translate(_GREEK_LETTERS)
    return text.replace("n't", " not").replace("cannot", "can not")


def _american(word: str) -> str:
    return word.replace("oe", "e").replace("ae", "e").replace("tumour", "tumor")


def _amount(found: re.Match[str]) -> tuple[str, ...]:
    number, unit = found["number"], found["unit"]
    number = number.replace(",", "") if _THOUSANDS.fullmatch(number) else number
    # 5mm is 5 mm, but 4C is one word.
    return (number + unit,) if len(unit) == 1 and unit not in _UNIT_LETTERS else (number, *([unit] if unit else []))


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


_IRREGULAR_PLURALS = dict(
    pair.split()
    for pair in """
    alveoli alveolus, bacteria bacterium, bronchi bronchus, calculi calculus, children child, diverticula diverticulum, emboli embolus,
    feet foot, foci focus, fungi fungus, ganglia ganglion, gyri gyrus, hila hilum, men man, nuclei nucleus, ova ovum, septa septum,
    sulci sulcus, teeth tooth, thrombi thrombus, vertebre vertebra, women woman
    """.split(",")
)
"""``vertebrae`` has already lost its ``a`` here, because words are compared in American spelling."""
_SINGULAR = frozenset(
    """ascites atlas biceps caries cirrhosis diabetes facies forceps herpes lens news pancreas pons quadriceps rabies scabies series species
    triceps""".split()
)
_SIS = ("oses", "stases", "theses", "lyses", "physes", "ptyses")
_NOT_SIS = frozenset({"doses", "noses", "roses", "hoses", "glucoses"})


def singular(word: str) -> str:
    """Return the singular of a lower-case word; a word that is not plural is returned unchanged."""
    if word in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[word]
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
aids: acquired immunodeficiency syndrome; ards: acute respiratory distress syndrome; avm: arteriovenous malformation;
bcc: basal cell carcinoma; cad: coronary artery disease; chf: congestive heart failure; cmv: cytomegalovirus; cns: central nervous system;
copd: chronic obstructive pulmonary disease; csf: cerebrospinal fluid;
ct: computed tomography, ct scan, computed tomography scan, computerized tomography, cat scan;
cxr: chest x ray, chest xray, chest radiograph; dcis: ductal carcinoma in situ; dvt: deep vein thrombosis, deep venous thrombosis;
dwi: diffusion weighted imaging; ebv: epstein barr virus; ecg: electrocardiogram, ekg, electrocardiography; eeg: electroencephalogram;
gerd: gastroesophageal reflux disease; gi: gastrointestinal;
h and e: hematoxylin and eosin, he stain, h and e stain, hematoxylin and eosin stain; hcc: hepatocellular carcinoma;
hiv: human immunodeficiency virus; hpv: human papillomavirus; ivc: inferior vena cava; lll: left lower lobe; lul: left upper lobe;
lv: left ventricle; mri: magnetic resonance imaging, mr imaging, mri scan, mr, mr scan; nsclc: non small cell lung cancer;
pet: positron emission tomography, pet scan; rcc: renal cell carcinoma; rll: right lower lobe; rml: right middle lobe;
rul: right upper lobe; rv: right ventricle; sah: subarachnoid hemorrhage; scc: squamous cell carcinoma; sclc: small cell lung cancer;
sdh: subdural hematoma; svc: superior vena cava; tb: tuberculosis; uti: urinary tract infection;
us: ultrasound, ultrasonography, sonography, us scan, ultrasound scan; x ray: xray, radiograph, plain radiograph, radiography
"""


def _entries() -> dict[tuple[str, ...], tuple[str, ...]]:
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for entry in _ABBREVIATIONS.split(";"):
        short, _, names = entry.strip().partition(": ")
        first, *others = (tuple(name.split()) for name in names.split(", "))
        found.update(dict.fromkeys((tuple(short.split()), first, *others), first))
    return found


EXPANSIONS = _entries()
"""Maps the words of an abbreviation or alternative name to its full form; all lower case and singular."""
LONGEST = max(map(len, EXPANSIONS))
"""Number of words of the longest key."""


_NAMES_LETTERS = re.compile(r"(?<![\w'-])[A-Z](?:,|\b)[ ]?(?:and|or|&|only|[A-Z]\b)|\b(?:only|both|neither|not) [A-Z](?![\w'-])")
_ARTICLES = frozenset({"a", "an", "the"})
_OVER_ALL = tuple(tuple(f"{w} of {t}".split()) for w in ("all", "none") for t in ("the above", "these", "the others"))
# An option that is a bare number or letter counts as named only in a short text.
_FEW_WORDS = 20

_SIGNS = frozenset("-<>\u2264\u2265\u00b1")
_LISTS = frozenset({"no", "without", "neither", "nor"})
"""Deny a whole following list, including its commas."""
_SINGLE = frozenset({"not", "never", "excludes", "exclude", "excluded", "excluding", "unlike", "against", "denies"})
_PAIRS = frozenset({
    ("rather", "than"), ("instead", "of"), ("opposed", "to"), ("ruled", "out"), ("rules", "out"), ("rule", "out"), ("negative", "for"),
    ("absence", "of"), ("lack", "of"), ("less", "likely"), ("free", "of"), ("different", "from"),
})  # fmt: skip
_CJK_DENIALS = frozenset("\u4e0d\u6ca1\u6c92\u65e0\u7121\u672a\u975e\u6392\u9664")
_CJK_TURNS = frozenset("\u6709\u662f\u4e3a\u70ba\u89c1\u898b\u800c\u4f46\u793a")
"""There is, is, seen, but: the following text is affirmed unless a denial precedes these characters."""
_ONLY = frozenset("\u4ec5\u4f46\u53ea\u5355")
"""After a "not" they form "not only"."""
_TURNS = frozenset({"but", "however", "it", "instead", "so", "therefore"})
_DENIED_AFTER = frozenset({"unlikely", "excluded", "absent", "incorrect", "wrong", "impossible", "less", "not"})
_AUXILIARIES = frozenset(
    {"is", "are", "was", "were", "can", "be", "been", "also", "both", "very", "seems", "therefore", "thus", "has", "have"}
)


@dataclass(frozen=True, slots=True)
class Mention:
    """An option's text within another text."""

    index: int
    start: int
    end: int
    """``start`` and ``end`` count words."""
    denied: bool
    weak: bool = False
    """A single plural word, which is too weak to be an answer alone."""


class Options:
    """The options of one item, prepared once for matching."""

    def __init__(self, texts: Sequence[str], question: str | None = None) -> None:
        """Prepare the options of ``question``.

        Raises:
            InputError: there are fewer than 2 or more than 26 options.
        """
        if not 2 <= len(texts) <= len(LETTERS):
            raise InputError(f"an item must have 2 to {len(LETTERS)} options, but this one has {len(texts)}: correct its record")
        plain = [strip_markup(text) for text in texts]
        self.words = tuple(_without_article(words_of(text)) for text in plain)
        # "effusions and edema" names both options. If two options differ only in number, keep the plural to tell them apart.
        singular = [_singular(words) for words in self.words]
        self._plurals_differ = len(set(singular)) < len(set(self.words))
        self._sought = self.words if self._plurals_differ else singular
        self._longest = max(len(text) for text in texts)
        # "F. A, B and C are correct": these letters are part of the option's text, not an answer.
        self._naming = {index: text.rstrip(". ") for index, text in enumerate(plain) if _NAMES_LETTERS.search(text) and len(text) > 3}
        self.question = question
        self.yes_no = set(self.words) == {("yes",), ("no",)}

    def index_of(self, letter: str) -> int | None:
        """Return the index of the option with this letter, or ``None``."""
        index = LETTERS.find(letter.upper())
        return index if 0 <= index < len(self.words) else None

    def without_named_letters(self, text: str) -> str:
        """Shorten an option that names other options to its own label: ``F. A, B and C are correct`` becomes ``F.``."""
        for index, own in self._naming.items():
            text = re.sub(rf"(?<![\w'-])({LETTERS[index]}[)\].:]{{1,2}})[ ]{re.escape(own)}(?!\w)", r"\1", text, flags=re.IGNORECASE)
        return text

    def exact(self, text: str) -> int | None:
        """Return the index of the only option with exactly these words."""
        if len(text) > 4 * self._longest + 100:  # longer than any option, even with extra blanks and marks
            return None
        given = _without_article(words_of(text))
        same = [index for index, words in enumerate(self.words) if words and words == given]
        return same[0] if len(same) == 1 else None

    def begins(self, text: str, index: int, *, enough: int = 0) -> bool:
        """Whether ``text`` begins with the option's words, or with ``enough`` of them."""
        own = self.words[index]
        given = _without_article(words_of(text[:2000]))
        count = min(enough, len(own)) or len(own)
        return bool(own) and given[:count] == own[:count]

    def named(self, text: str) -> tuple[int, ...]:
        """Return the options that ``text`` names and does not deny, in order. An option such as "all of the above" replaces the others."""
        words = words_of(text)
        named = [m for m in self.mentions(words) if not m.denied]
        if all(m.weak for m in named):
            return ()
        found = dict.fromkeys(index for m in named for index in (m.index, *self._labels_of(words, m)))
        over_all = [index for index in found if self.words[index] in _OVER_ALL]
        return tuple(over_all if len(over_all) == 1 else found)

    def _labels_of(self, text: Words, mention: Mention) -> Iterator[int]:
        """Yield the options whose letter labels the mention: ``A. Edema``, ``Edema (A)``. An article before a noun is not a label."""
        before, after = mention.start - 1, mention.end
        if before >= 0 and text.gaps[mention.start] and len(text.words[before]) == 1:
            index = self.index_of(text.words[before])
            if index is not None:
                yield index
        if after < len(text.words) and text.gaps[after] == 1 and len(text.words[after]) == 1:
            index = self.index_of(text.words[after])
            if index is not None and (after + 1 == len(text.words) or text.gaps[after + 1]):
                yield index

    def mentions(self, text: Words) -> list[Mention]:
        """Find all option texts in ``text``; a mention inside a longer one is dropped."""
        searched = text.words if self._plurals_differ else _singular(text.words)
        joined = f" {' '.join(searched)} "
        starts = list(accumulate((len(word) + 1 for word in searched), initial=1))
        spans: list[tuple[int, int, int]] = []
        for index, words in enumerate(self._sought):
            if not words or (len(text.words) > _FEW_WORDS and len(words) == 1 and (words[0].isdigit() or len(words[0]) == 1)):
                continue
            sought = f" {' '.join(words)} "
            at = joined.find(sought)
            while at >= 0:
                start = bisect_left(starts, at + 1)
                if not (start and words[0][0].isdigit() and text.words[start - 1] in _SIGNS):  # -3 is not 3
                    spans.append((start, start + len(words), index))
                at = joined.find(sought, at + len(sought) - 1)
        spans.sort(key=lambda span: (span[0], -span[1]))
        kept, reach, widest = list[Mention](), -1, (-1, -1)
        for start, end, index in spans:
            if end > reach or (start, end) == widest:
                weak = end - start == 1 and text.words[start:end] != self.words[index]
                kept.append(Mention(index, start, end, _denied_before(text, start) or _denied_after(text, end), weak))
                widest = (start, end)
            reach = max(reach, end)
        return kept


def _singular(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word[:-1] if len(word) > 4 and word[-1] == "s" and word[-2] not in "sui" else word for word in words)


def _without_article(text: Words) -> tuple[str, ...]:
    """Drop a leading article. In "A. Edema" the letter is a label, because punctuation separates it from the word."""
    article = len(text.words) > 1 and text.words[0] in _ARTICLES and not text.gaps[1]
    return text.words[1:] if article else text.words


def _denied_before(text: Words, start: int) -> bool:
    paused, stated = False, False
    for at in range(start - 1, max(-1, start - 10), -1):
        gap, word = text.gaps[at + 1], text.words[at]
        if gap > 1 or word in _TURNS:
            return False
        if word in _CJK_DENIALS:
            return text.words[at + 1] not in _ONLY
        if word in _CJK_TURNS and not (at and text.words[at - 1] in _CJK_DENIALS):
            return False
        paused = paused or gap == 1
        if word in _LISTS:
            return not (word == "no" and text.gaps[at + 1] == 1)  # "No, edema" affirms edema
        if not paused and start - at <= 6 and (word in _SINGLE or (not stated and at and (text.words[at - 1], word) in _PAIRS)):
            return True
        stated = stated or word in {"is", "was", "are"}  # "rather than A this is B" affirms B
    return False


def _denied_after(text: Words, end: int) -> bool:
    for at in range(end, min(len(text.words), end + 4)):
        word = text.words[at]
        if text.gaps[at] == 3 or (text.gaps[at] == 1 and word == "not"):  # B, not A
            return False
        if word in _DENIED_AFTER or (text.words[at : at + 2] == ("ruled", "out")):
            return True
        if word == "would":  # what it would show, it does not show
            return text.words[at + 1 : at + 2] != ("be",)
        if word not in _AUXILIARIES:
            return False
    return False
