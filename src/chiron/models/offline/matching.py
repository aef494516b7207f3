"""The embedded judge: the same words after normalisation. It knows no synonyms, and cannot be talked round."""

import re
import unicodedata

from chiron.models.sections import read_section

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalise(answer: str) -> str:
    """Lower case, no accents, brackets, articles or punctuation."""
    text = unicodedata.normalize("NFKD", answer).casefold()
    text = "".join(c for c in text if not unicodedata.combining(c))
    bare = re.sub(r"\([^)]*\)", " ", text)
    text = bare if re.search(r"\w", bare) else text
    return " ".join(re.sub(r"[^\w%]+", " ", _ARTICLES.sub(" ", text)).split())


def match(prompt: str) -> str:
    """The judge's reply: ``yes`` or ``no``."""
    known, given = read_section(prompt, "known_answer"), read_section(prompt, "given_answer")
    return "yes" if known is not None and given is not None and normalise(known) == normalise(given) != "" else "no"
