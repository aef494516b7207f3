"""Where prose says what the answer is: "the answer is B", "answer: B", "I choose B", "B is correct", "so C"."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from chiron.evaluation.answers.other_languages import foreign_declarations

_SCOPE = r"(?:[ ](?:to|for|in|of|here|based on)\b[^\n.:;?!]{0,60}?)?"
_ADVERB = r"(?:,?[ ](?:therefore|thus|then|hence|clearly|likely|probably|really|still|now|definitely|most likely|also|here),?)?"
_VERB = (
    r"[\"']?[ ]?"
    r"(?:(?<![a-z])(?P<no>(?:is|was|would be|can|could|should)(?:[ ]not|n't|[ ]never)(?:[ ]be)?|cannot be|is neither)\b"
    r"|(?<![a-z])(?:is|are|was|would be|should be|must be|will be|has to be|could be|may be|might be)\b"
    r"|=|:|->|\u2192|[\u2013\u2014]|-(?=[ ]))"
)
_UPPER = r"[(\[]?(?-i:[A-Z])[)\]]?(?![\w'-])"
_AT_END = r"(?=[ ]?(?:$|[\n.!,;:)]))"

_NOT_THAT = "".join(
    rf"(?<!\b{word}[ _])" for word in ("wrong", "incorrect", "alternative", "worst", "other", "least likely", "less likely")
)
_FORWARD = re.compile(
    rf"(?<![^\W_]){_NOT_THAT}"
    rf"(?P<noun>(?:answers?|anwser|answser|asnwer|ans\.?|\u7b54\u6848)(?:[ ](?:choice|option|letter))?)(?:_\w{{1,10}})?"
    rf"{_SCOPE}{_ADVERB}{_VERB}"
    rf"|(?P<cjk>\u7b54\u6848[ ]?[\u662f\u4e3a\u70ba\u9009\u9078:])"
    rf"|\b(?<!least )(?<!less )(?:correct|best|right|final|chosen|selected|appropriate|likely|accurate|suitable|my|our)[ ]"
    rf"(?:option|choice|response|selection|pick|letter|one)\b{_SCOPE}{_ADVERB}{_VERB.replace('P<no>', 'P<no2>')}"
    rf"|\bof choice{_ADVERB}[ ](?:is|would be|remains)\b"
    rf"|[\"'](?:choice|option|selected_option|prediction|predicted|letter|label|selection|response)[\"']:",
    re.IGNORECASE,
)
_DIAGNOSIS = re.compile(
    rf"\b(?:(?:diagnosis|conclusion|impression)"
    rf"|most (?:likely|probable|appropriate|suitable|consistent|fitting)(?:[ ][\w-]{{1,30}}){{1,5}}?)"
    rf"{_SCOPE}{_ADVERB}{_VERB}",
    re.IGNORECASE,
)
_CHOICE = re.compile(
    r"\b(?:I|we)(?:'d|'ll)?[ ](?:would |will |have to |must |therefore |thus )*"
    r"(?:choose|pick|select|go with|go for|opt for|say|chose|vote for|mean|meant|lean towards?)\b|\bgo(?:ing)? with\b",
    re.IGNORECASE,
)
# "I choose B" in Chinese, after a word that says it is so: what is not chosen has none of them before it.
_CHOSEN = rf"(?:\u6545|\u56e0\u6b64|\u6240\u4ee5|\u6211|\u6700\u7ec8|(?<!\u4e0d)\u5e94\u8be5?)[ ,]{{0,2}}\u9009\u62e9?[ :]?(?={_UPPER})"
_SHORT = re.compile(
    rf"(?:\b(?:therefore|thus|hence|so|ergo|correction|wait|actually|no|conclusion|that leaves|which leaves|leaving"
    rf"|(?<!less )(?<!not )(?:likely|probably))"
    rf"[,:]?[ ](?:it(?:'s| is) |that leaves )?)"
    rf"(?=(?:option |choice |answer )?{_UPPER}{_AT_END})"
    rf"|\b(?:it|this|that)(?: is|'s| must be| has to be| should be| should have been)[ ](?=(?:option |choice |answer )?{_UPPER}{_AT_END})"
    rf"|\b(?:correspond(?:s|ing)? to|match(?:es|ing)?|consistent with|fits|is|points? to|favou?rs?|supports?"
    rf"|indicates?|suggests?|means|leaves)[ ](?=(?:answer |option |choice ){_UPPER})"
    rf"|(?P<weak>\b(?:argues?|argued|speaks?|arguing|speaking)(?: \w{{1,12}})? (?:for|in favou?r of)[ ](?=(?:option "
    rf"|choice )?{_UPPER}{_AT_END}))"
    rf"|(?:^|(?<=\n))final(?: choice| pick| selection| decision)?[ ]?:[ ]?(?=(?:option |choice )?{_UPPER}{_AT_END})"
    rf"|\bans\.?[ ](?={_UPPER}{_AT_END})"
    rf"|\banswer[ ](?=(?:[(\[]?[A-Za-z][)\]]?)[.]?[ ]?(?:$|\n))|{_CHOSEN}",
    re.IGNORECASE,
)
_BACKWARD = re.compile(
    r"(?P<verb>\b(?:is|are|seems|appears)\b(?P<no>[ ]not|n't)?(?:[ ]to be)?(?:[ ](?:also|therefore|clearly|thus|indeed|both|all))?[ ]"
    r"(?:the |our |my )?(?:only |single |most (?:likely|appropriate|suitable|accurate|plausible|consistent|probable)[ ]?)?"
    r"(?P<word>incorrect|wrong|unlikely|less likely|least likely"
    r"|correct|right(?= answer| option| choice| one|[.,;!]|$)|best|answer|choice|appropriate(?! for))?)"
    r"|\b(?:makes?|making)[ ](?P<made>(?:option |choice )?[(\[]?(?-i:[A-Z])[)\]]?)[ ](?:the )?(?:only |most \w{1,20} |single )?"
    r"(?:correct|best|right|likely|answer|choice|appropriate)"
    r"|(?P<fit>\b(?:option|choice|answer) [(\[]?(?-i:[A-Z])[)\]]?) (?:\w{1,20} )?(?:fits|matches|applies)\b"
    r"|(?P<listed>\b(?-i:[A-Z]))[:)][ ](?:right|correct|true)\b",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"(?:^|[,;:][ ]|\b(?:so|and|but|that|thus|therefore|hence|option|options|choice|answer|letter)[ ])"
    r"(?P<letter>[(\[]?(?-i:[A-Z])[)\]]?)(?:[ ]?\([^()]{0,80}\))?,?[ ]?$",
    re.IGNORECASE,
)
_JOINED = re.compile(r"(?<!\bis )(?<!: )\b(?-i:[A-Z])(?:,| and| or|/)[ ]?(?:and |or )?[(\[]?(?-i:[A-Z])[)\]]?[ ]?$")
_DENIALS = frozenset({"incorrect", "wrong", "unlikely", "less likely", "least likely"})
_VALUE = re.compile(r"[ ]?(?P<quote>[\"'])(?P<value>[^\n]*?)(?<!\\)(?P=quote)(?=[ ]?(?:[,}]|$|\n))")
"""What a key of JSON holds, if it is words."""
_KEY_ENDS = frozenset({'":', "':"})
_UNMEANT = re.compile(
    r"(?:\b(?:not|never|doubts?|hardly|nothing|little|nobody|none|no one|cannot|some|others?|many|one (?:may|might|could)|does|do"
    r"|did)\b|n't\b)"
    r"(?: (?!but |so |and )[\w']+){0,5} ?$",
    re.IGNORECASE,
)
_LONE = re.compile(r"(?<![\w'-])[A-Z](?![\w'-])")
_IF = re.compile(r"\b(?:if|unless|were|had|suppose)\b", re.IGNORECASE)
_IF_IT_WERE = re.compile(r"[^.!?\n]{0,80}?\b(?:if|unless|had)\b[^.!?\n]{0,80}?\b(?:were|was|had|been|showed)\b", re.IGNORECASE)
_BACK = 160
_AHEAD = 400
_STARTS = re.compile(r"[.!?;](?=\s)|\n")


class Role(Enum):
    """What may be read from a declaration."""

    ANY = auto()
    LETTER = auto()
    TEXT = auto()


@dataclass(frozen=True, slots=True)
class Declaration:
    """Words that are said to be the answer; of those said not to be, with a "not" in front."""

    at: int
    content: str
    role: Role = Role.ANY
    also: bool = False
    """Said to be the answer beside another: "B is also correct"."""


def declarations(text: str) -> list[Declaration]:
    """All of them, in the order of the text. Linear: every look ahead or back is bounded."""
    found = [*_forward(text), *_diagnoses(text), *_short(text), *_backward(text), *_foreign(text)]
    return sorted(found, key=lambda d: d.at)


def _forward(text: str) -> Iterator[Declaration]:
    for m in _FORWARD.finditer(text):
        if "would" in m[0] and (_IF.search(_before(text, m.start())) or _IF_IT_WERE.match(text, m.end())):
            continue  # "if it were supine, the answer would be C", or the other way round
        keyed = _VALUE.match(text, m.end(), m.end() + _AHEAD) if text[m.end() - 2 : m.end()] in _KEY_ENDS else None
        said = keyed["value"] if keyed else _ahead(text, m.end())
        yield Declaration(m.start(), ("not " if m["no"] or m["no2"] else "") + said)


def _diagnoses(text: str) -> Iterator[Declaration]:
    for m in _DIAGNOSIS.finditer(text):
        yield Declaration(m.start(), ("not " if m["no"] else "") + _ahead(text, m.end()))
    for m in _CHOICE.finditer(text):
        yield Declaration(m.start(), _ahead(text, m.end()))


def _short(text: str) -> Iterator[Declaration]:
    for m in _SHORT.finditer(text):
        if _UNMEANT.search(_before(text, m.start() + (len(m[0]) if m["weak"] else 0))):
            continue  # "I don't think it's B", "nothing argues for B"
        if m["weak"] and len(set(_LONE.findall(text, m.end()))) > 1:
            continue  # what speaks for one option is weighed against what speaks for another
        yield Declaration(m.start(), _ahead(text, m.end()), role=Role.LETTER)


def _backward(text: str) -> Iterator[Declaration]:
    for m in _BACKWARD.finditer(text):
        if said := m["made"] or m["fit"] or m["listed"]:
            yield Declaration(m.start(), said, role=Role.LETTER)
            continue
        if not (m["word"] or "most" in m["verb"].lower()):
            continue
        ends = text[m.end() : m.end() + 1] in {"", ".", ";", "!", "\n", ","} or text[m.end() : m.end() + 6] in {" here.", " here,"}
        subject = _before(text, m.start()).rstrip()
        also = " also" in m["verb"].lower()
        denied = "not " if bool(m["no"]) != ((m["word"] or "").lower() in _DENIALS) else ""
        if joined := _JOINED.search(subject):
            yield Declaration(m.start(), denied + joined[0], role=Role.LETTER, also=also)
        elif letter := _SUBJECT.search(subject):
            yield Declaration(m.start(), denied + letter["letter"], role=Role.LETTER, also=also)
        elif not denied and not m["no"] and (m["word"] or (ends and not _IF.search(subject))):
            yield Declaration(m.start(), subject, role=Role.TEXT, also=also)


def _foreign(text: str) -> Iterator[Declaration]:
    for said in foreign_declarations(text):
        yield Declaration(said.at, ("not " if said.denied else "") + said.content, role=Role.LETTER)


def _before(text: str, end: int) -> str:
    """The part of the sentence in front of ``end``."""
    piece = text[max(0, end - _BACK) : end]
    starts = [m.end() for m in _STARTS.finditer(piece)]
    return piece[starts[-1] :].lstrip() if starts else piece


def _ahead(text: str, start: int) -> str:
    """What follows, to the end of its paragraph."""
    piece = text[start : start + _AHEAD].lstrip(" \n:")
    return piece.split("\n\n", 1)[0]
