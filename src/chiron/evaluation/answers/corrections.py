"""Second thoughts: where a reply takes back what it has said."""

import re
from typing import Final

CUE: Final = re.compile(
    r"\b(?:sorry|oops|whoops|apologies|I apologi[sz]e|my (?:mistake|bad|error)|correction|corrected|scratch that|strike that|edit"
    r"|wait|hold on"
    r"|on (?:second thoughts?|reflection|closer (?:look|inspection)|reconsideration)|after reconsidering|reconsidering"
    r"|I (?:mean|meant|misread|misspoke|mistyped|was wrong|stand corrected|take (?:that|it) back|made (?:a|an) (?:mistake|error|typo)"
    r"|(?:have )?changed my mind|change my (?:mind|answer))"
    r"|make (?:that|it)|(?:or )?rather(?! than\b)|hmm+|instead(?! of\b)|perd\u00f3n|disculpa|d\u00e9sol\u00e9|pardon|Entschuldigung"
    r"|quatsch)\b"
    r"|(?<=[.!?;] )(?:no|nein|non|n\u00e3o)(?=[,:.!])"
    r"|\u62b1\u6b49|\u5bf9\u4e0d\u8d77|\u66f4\u6b63|\u4e0d\u5bf9|\u7b49\u7b49|\u6211\u9519\u4e86",
    re.IGNORECASE,
)
_LEAD: Final = re.compile(
    r"[\s,.:;!)\u2026\u2013\u2014\-]*(?:(?:no|not|wait|sorry|actually|again|so|then|that|it|the|should|would|must|have|said|be|is|was|to|of|"
    r"I|mean|meant|choose|pick|select|answer|correct|right|option|choice|one|\u5e94\u8be5?|\u662f|\u4e3a|\u9009)\b[\s,.:;'\-]*(?:s\b)?){0,8}",
    re.IGNORECASE,
)
_LETTER: Final = re.compile(r"[(\[\"']?(?P<letter>(?-i:[A-Z]))[)\]\"']?(?=[\s]*(?:$|[.,;:!)\n]))", re.IGNORECASE)
_OTHER: Final = re.compile(
    r"(?<![\w'-])(?:[B-HJ-Z](?![\w'-])|[AI](?=[).,;:!\]]|$| (?:is|fits|seems|looks|was|matches|remains|would|might)\b))"
)
_BETTER: Final = re.compile(
    r"(?<![\w'-])[(\[]?(?P<letter>[A-Z])[)\]]? (?:is|fits|seems|looks|would be|would fit|matches|might be|may be|remains|appears|explains)"
    r"(?: \w{1,12}){0,3}? (?:better|best|more|likelier|closer|stronger|preferable|superior)\b"
)


def last_cue(text: str) -> int | None:
    """Where the words behind the last second thought begin."""
    ends = [cue.end() for cue in CUE.finditer(text)]
    return ends[-1] if ends else None


def corrected_letter(behind: str) -> str | None:
    """The letter that follows at once: "Sorry, I mean C.", "Scratch that: it should be C"."""
    lead = _LEAD.match(behind)
    found = _LETTER.match(behind, lead.end() if lead else 0)
    return found["letter"].upper() if found else None


def preferred_letters(text: str) -> frozenset[str]:
    """Letters of which ``text`` says that they are better, or more likely."""
    return frozenset(found["letter"] for found in _BETTER.finditer(text))


def letters_in(text: str) -> frozenset[str]:
    """Capital letters that stand alone and may be labels."""
    return frozenset(found[0] for found in _OTHER.finditer(text))
