"""The embedded judge: the same words after normalisation. It knows no synonyms, and cannot be talked round."""

import re
import unicodedata

from chiron.models.sections import read_section

# Before another word only: in "A" and in "Hepatitis A" the letter is the answer.
_ARTICLES = re.compile(r"\b(?:a|an|the)\s+(?=\w)")
# A sign right behind a word is a finding ("HER2+"); inside one, and in "left- and right-sided", it is a hyphen.
_PLUS = re.compile(r"(?<=\w)\+(?!\w)")
_MINUS = re.compile("(?<=\\w)[-\u2010-\u2015\u2212](?!\\w|\\s+(?:and|or|to)\\b)")


def normalise(answer: str) -> str:
    """Lower case, no accents, brackets, articles or punctuation; what is nothing but these stays as it is."""
    text = unicodedata.normalize("NFKD", answer).casefold()
    text = "".join(c for c in text if not unicodedata.combining(c))
    bare = _without_brackets(text)
    bare = bare if re.search(r"\w", bare) else text
    words = _MINUS.sub(" minus ", _PLUS.sub(" plus ", bare))
    return " ".join(re.sub(r"[^\w%]+", " ", _ARTICLES.sub(" ", words)).split()) or " ".join(text.split())


def match(prompt: str) -> str:
    """The judge's reply: ``yes`` or ``no``."""
    known, given = read_section(prompt, "known_answer"), read_section(prompt, "given_answer")
    return "yes" if known is not None and given is not None and normalise(known) == normalise(given) != "" else "no"


def _without_brackets(text: str) -> str:
    # Behind the last bracket that closes none does: looking for it from every one that opens would take quadratic time.
    head, last, tail = text.rpartition(")")
    return re.sub(r"\([^)]*\)", " ", head + last) + tail
