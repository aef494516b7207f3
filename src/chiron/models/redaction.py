"""Removing from an endpoint's words what must not be shown: a key, in any spelling, and what was asked.

An endpoint that echoes them escapes them as it likes.
"""

import json
import re
from collections.abc import Callable

_MARK = "[key]"
_PROMPT = "[...]"
_WORD = re.compile(r"[^\W_]+")
_ESCAPE = re.compile(r"\\+(?:[nrt\"'/\\]|u([0-9a-fA-F]{4}))")
_RUN = 3
"""Words in a row that a message shares with the prompt before they count as quoted from it."""
_LONG = re.compile(r"[^\s\"'<>]{120,}")
"""Longer than any word: an image in base64."""
_QUOTED = re.compile(r"'[^']{3,}'|\"[^\"]{3,}\"|`[^`]{3,}`")
_OUR_WORDS = frozenset(
    "system user assistant text image images image_url url role roles content model max tokens json http api key error invalid request"
    " the a an this that your only no not at it in on is input message messages unsupported parameter value please".split()
)
"""Words of requests and of errors, which are not the patient's even where the prompt has them too."""


def redactor(key: str | None) -> Callable[[str], str]:
    """A function that takes ``key`` out of a text: as it is, escaped as in JSON (also JSON within JSON), in a URL or in HTML."""
    if not key:
        return _unchanged
    pattern = re.compile("".join(_spellings(c) for c in key))

    def redact(text: str) -> str:
        return pattern.sub(_MARK, text)

    return redact


def without_prompt(words: str, prompt: str) -> str:
    """``words`` without what they quote from ``prompt``, so that they can be shown and logged.

    Replaced with ``[...]`` are: three words or more in the order of the prompt; a quotation, a name (a capitalized word) or a number
    that the prompt contains; and anything as long as an encoded image.
    """
    words = _LONG.sub(_PROMPT, _ESCAPE.sub(_unescaped, words))
    known = [word.casefold() for word in _WORD.findall(prompt)]
    if not known:
        return words
    runs = {tuple(known[i : i + _RUN]) for i in range(len(known) - _RUN + 1)}
    capitalized = [match for match in _WORD.finditer(prompt) if _tells(match.group())]
    names = {match.group().casefold() for match in capitalized}
    inside = {match.group().casefold() for match in capitalized if not _starts_sentence(prompt, match)}
    found = list(_WORD.finditer(words))
    plain = [match.group().casefold() for match in found]
    quoted = set(_indices_of_runs(plain, runs)) | set(_indices_of_quotations(words, found, plain, set(known)))
    quoted |= {
        i
        for i, match in enumerate(found)
        if _tells(match.group()) and (plain[i] in inside or (plain[i] in names and not _starts_sentence(words, match)))
    }
    return _blotted(words, found, quoted)


def _tells(word: str) -> bool:
    """Whether a word by itself may tell of a patient: a name, an abbreviation, a number of four digits or more."""
    return word.casefold() not in _OUR_WORDS and (word[0].isupper() or sum(c.isdigit() for c in word) > 3)


def _starts_sentence(words: str, match: "re.Match[str]") -> bool:
    """Whether a word is capitalized for where it stands alone."""
    before = words[max(0, match.start() - 8) : match.start()]
    plain = before.rstrip()
    return match.group()[0].isupper() and (not plain or plain[-1] in ".!?" or "\n" in before[len(plain) :])


def _indices_of_runs(plain: list[str], runs: set[tuple[str, ...]]) -> list[int]:
    return [i + k for i in range(len(plain) - _RUN + 1) if tuple(plain[i : i + _RUN]) in runs for k in range(_RUN)]


def _indices_of_quotations(words: str, found: "list[re.Match[str]]", plain: list[str], known: set[str]) -> list[int]:
    """Words between quotation marks that are all of the prompt."""
    result: list[int] = []
    for quotation in _QUOTED.finditer(words):
        inside = [i for i, match in enumerate(found) if quotation.start() < match.start() < quotation.end()]
        if inside and all(plain[i] in known for i in inside) and any(plain[i] not in _OUR_WORDS for i in inside):
            result += inside
    return result


def _blotted(words: str, found: "list[re.Match[str]]", quoted: set[int]) -> str:
    pieces, at = [], 0
    for i, match in enumerate(found):
        if i not in quoted:
            continue
        if i - 1 not in quoted:
            pieces += [words[at : match.start()], _PROMPT]
        at = match.end()
    return "".join(pieces) + words[at:]


def _unescaped(match: "re.Match[str]") -> str:
    if match[1]:
        character = json.loads(f'"\\u{match[1]}"')
        return character if isinstance(character, str) and character.isprintable() else " "
    return match[0][-1] if match[0][-1] in "\"'/" else " "


def _spellings(character: str) -> str:
    code = ord(character)
    # Backslashes are counted out, so that a text of nothing but them is still read in linear time.
    ways = (
        rf"\\{{0,4}}{re.escape(character)}",
        rf"\\{{1,4}}[uU]00(?i:{code:02x})",
        rf"%(?i:{code:02x})",
        rf"&#0{{0,4}}{code};?",
        rf"&#[xX]0{{0,4}}(?i:{code:x});?",
    )
    return f"(?:{'|'.join(ways)})"


def _unchanged(text: str) -> str:
    return text
