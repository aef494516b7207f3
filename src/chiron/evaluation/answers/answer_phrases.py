"""Find phrases that declare the answer, in English, Chinese, Spanish, French, German, Portuguese and Italian."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

_UPPER_LETTER: Final = r"[(\[\"']?(?-i:[A-Z])[)\]\"']?(?![\w'-])"
_NOUN: Final = (
    r"(?:respuesta|opci\u00f3n|opcion)(?:[ ](?:correcta|final|adecuada|acertada|m\u00e1s (?:probable|adecuada)))?"
    r"|(?:bonne |meilleure |r\u00e9elle )?(?:r\u00e9ponse|reponse|option)(?:[ ](?:correcte|exacte|finale|juste|la plus probable))?"
    r"|(?:richtige |korrekte |beste |endg\u00fcltige )?(?:antwort|l\u00f6sung|antwortm\u00f6glichkeit)"
    r"|(?:richtige|korrekte) option"
    r"|(?:resposta|alternativa|op\u00e7\u00e3o)(?:[ ](?:correta|certa|final|mais prov\u00e1vel))?"
    r"|(?:risposta|opzione)(?:[ ](?:corretta|giusta|esatta|finale))?"
)
_NOT: Final = r"(?P<no>no es|no ser\u00eda|n'est pas|n\u00e3o \u00e9|non \u00e8|ist nicht|lautet nicht)"
_IS: Final = r"(?:es|ser\u00eda|est|serait|ist|lautet|w\u00e4re|\u00e9|seria|\u00e8|sarebbe)(?![\w'])"
_ARTICLE: Final = (
    r"(?:la |le |el |l'|die |a )?"
    r"(?:(?:opci\u00f3n|opcion|letra|option|lettre|r\u00e9ponse|antwort|op\u00e7\u00e3o|alternativa|lettera|opzione)[ :]{1,2})?"
)
_EUROPEAN: Final = re.compile(
    rf"(?<![\w'])(?:{_NOUN})(?:[ ]?:|[ ](?:{_NOT}|{_IS})[ ]?:?)[ \n]?(?-i:{_ARTICLE}|(?:La |Die |Option |Opci\u00f3n "
    rf"|R\u00e9ponse ))(?P<said>{_UPPER_LETTER}[^\n]{{0,200}})",
    re.IGNORECASE,
)
_CHINESE: Final = re.compile(
    "(?:\u7b54\u6848|(?:\u6b63\u786e|\u6700\u4f73|\u6700\u7ec8|\u5408\u9002|\u7b26\u5408|\u53ef\u80fd)\u7684?(?:\u9009\u9879|\u9078\u9805|\u8bca\u65ad))"
    r"[\]\"' ]{0,2}(?:\u5e94\u8be5?|\u5c31|\u5e94\u5f53|\u53ea\u80fd)?(?P<no>\u4e0d"
    r"|\u5e76\u975e)?(?:[\u662f\u4e3a\u70ba\u9009\u9078:]|(?<=[\]\u4e0d\u975e])){1,2}[ ]{0,2}"
    rf"(?:\u9009\u9879|\u9078\u9805)?[ ]?(?P<said>{_UPPER_LETTER}[^\n]{{0,200}})"
    rf"|\u800c(?:\u662f|\u5e94\u8be5?\u9009?|\u9009)[ ]?(?P<instead>{_UPPER_LETTER}[^\n]{{0,200}})"
)
_PICK: Final = re.compile(rf"(?P<before>[^\n,.;:!?]{{0,6}})[\u9009\u9078][\u62e9\u64c7]?[ :]{{0,2}}(?P<said>{_UPPER_LETTER}[^\n]{{0,200}})")
_NO_PICK: Final = frozenset("\u53ef\u5907\u5019\u7b5b\u6311\u5f85")
"""Characters that turn a following "choose" into words such as "optional" or "candidate"."""
_CHINESE_BACKWARD: Final = re.compile(
    r"(?<![\w'-])(?P<letter>[A-Z])[)\]]?[ ]?(?:\u9009\u9879|\u9078\u9805"
    r"|\u9879)?[ ]?(?P<between>[\u662f\u624d\u4e3a\u6700\u4e0d\u5e76\u975e\u7684\u5c31\u5e94\u8be5\u592a ]{0,6})"
    r"(?P<word>\u6b63\u786e|\u7b54\u6848|\u6700?\u4f73|\u7b26\u5408|\u53ef\u80fd|\u5408\u9002|\u9519\u8bef|\u4e0d\u5bf9)"
)
_OTHER_THAN_RIGHT: Final = re.compile(
    r"(?:mauvaise|fausse|autre|falsche|andere|erste|premi\u00e8re|otra|primera|outra|altra|prima) $", re.IGNORECASE
)
_IF_CJK: Final = re.compile("\u82e5|\u5982\u679c|\u5047\u5982|\u8981\u662f|\u6709\u4eba|\u4e3a\u4ec0\u4e48|\u5426\u5219")
_CLAUSE_CJK: Final = re.compile(r"[.;!?\n]")
_WRONG: Final = frozenset({"\u9519\u8bef", "\u4e0d\u5bf9"})
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
    rf"(?:(?:answers?|anwser|answser|asnwer|ans\.?|\u7b54\u6848)(?:[ ](?:choice|option|letter))?)(?:_\w{{1,10}})?"
    rf"{_SCOPE}{_ADVERB}{_VERB}"
    rf"|\u7b54\u6848[ ]?[\u662f\u4e3a\u70ba\u9009\u9078:]"
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
# "I choose B" in Chinese, after a word of conclusion. Rejected options do not follow such a word.
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
"""A string value of a JSON key."""
_KEY_ENDS = frozenset({'":', "':"})
_UNMEANT = re.compile(
    r"(?:\b(?:not|never|doubts?|hardly|no(?:thing|body|ne| one)|little|cannot|some|others?|many|one (?:may|might|could)|does|do"
    r"|did)\b|n't\b)"
    r"(?: (?!but |so |and )[\w']+){0,5} ?$",
    re.IGNORECASE,
)
LONE_LETTER = re.compile(r"(?<![\w'-])[A-Z](?![\w'-])")
"""A single capital letter, which may be the label of an option."""
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
    """A phrase that is declared to be the answer. If it is declared wrong, it starts with "not"."""

    at: int
    content: str
    role: Role = Role.ANY
    also: bool = False
    """Declared as a further right answer: "B is also correct"."""


def declarations(text: str) -> list[Declaration]:
    """Find all declarations, in text order. The time is linear, because every look-ahead and look-behind is bounded."""
    found = [*_forward(text), *_diagnoses(text), *_short(text), *_backward(text), *_foreign(text)]
    return sorted(found, key=lambda d: d.at)


def _forward(text: str) -> Iterator[Declaration]:
    for m in _FORWARD.finditer(text):
        if "would" in m[0] and (_IF.search(_before(text, m.start())) or _IF_IT_WERE.match(text, m.end())):
            continue  # hypothetical: "if it were supine, the answer would be C", or in reverse order
        keyed = _VALUE.match(text, m.end(), m.end() + _AHEAD) if text[m.end() - 2 : m.end()] in _KEY_ENDS else None
        phrase = keyed["value"] if keyed else _ahead(text, m.end())
        yield Declaration(m.start(), ("not " if m["no"] or m["no2"] else "") + phrase)


def _diagnoses(text: str) -> Iterator[Declaration]:
    for m in _DIAGNOSIS.finditer(text):
        yield Declaration(m.start(), ("not " if m["no"] else "") + _ahead(text, m.end()))
    for m in _CHOICE.finditer(text):
        yield Declaration(m.start(), _ahead(text, m.end()))


def _short(text: str) -> Iterator[Declaration]:
    for m in _SHORT.finditer(text):
        if _UNMEANT.search(_before(text, m.start() + (len(m[0]) if m["weak"] else 0))):
            continue  # "I don't think it's B", "nothing argues for B"
        if m["weak"] and len(set(LONE_LETTER.findall(text, m.end()))) > 1:
            continue  # arguments for one option are weighed against those for another
        yield _of_letter(m.start(), _ahead(text, m.end()))


def _backward(text: str) -> Iterator[Declaration]:
    for m in _BACKWARD.finditer(text):
        if phrase := m["made"] or m["fit"] or m["listed"]:
            yield _of_letter(m.start(), phrase)
            continue
        if not (m["word"] or "most" in m["verb"].lower()):
            continue
        ends = text[m.end() : m.end() + 1] in {"", ".", ";", "!", "\n", ","} or text[m.end() : m.end() + 6] in {" here.", " here,"}
        subject = _before(text, m.start()).rstrip()
        also = " also" in m["verb"].lower()
        denied = bool(m["no"]) != ((m["word"] or "").lower() in _DENIALS)
        if joined := _JOINED.search(subject):
            yield _of_letter(m.start(), joined[0], denied=denied, also=also)
        elif letter := _SUBJECT.search(subject):
            yield _of_letter(m.start(), letter["letter"], denied=denied, also=also)
        elif not denied and not m["no"] and (m["word"] or (ends and not _IF.search(subject))):
            yield Declaration(m.start(), subject, Role.TEXT, also)


def _foreign(text: str) -> Iterator[Declaration]:
    """Yield the declarations in other languages than English."""
    for m in _EUROPEAN.finditer(text):
        if not _OTHER_THAN_RIGHT.search(text[max(0, m.start() - 16) : m.start()]):
            yield _of_letter(m.start(), m["said"], denied=bool(m["no"]))
    if text.isascii():
        return
    for m in _CHINESE.finditer(text):
        yield _of_letter(m.start(), m["said"] or m["instead"], denied=bool(m["no"]))
    for m in _PICK.finditer(text):
        before = m["before"].rstrip()
        clause = _CLAUSE_CJK.split(text[max(0, m.start("said") - 40) : m.start("said")])[-1]
        if before[-1:] not in _NO_PICK and not _IF_CJK.search(clause):
            yield _of_letter(m.start("said"), m["said"], denied="\u4e0d" in before or "\u522b" in before)
    for m in _CHINESE_BACKWARD.finditer(text):
        denied = m["word"] in _WRONG or any(char in m["between"] for char in "\u4e0d\u975e")
        if m["word"] != "\u53ef\u80fd" or "\u6700" in m["between"] or denied:
            yield _of_letter(m.start(), m["letter"], denied=denied)


def _of_letter(at: int, content: str, *, denied: bool = False, also: bool = False) -> Declaration:
    return Declaration(at, ("not " if denied else "") + content, Role.LETTER, also)


def _before(text: str, end: int) -> str:
    """Return the part of the sentence before ``end``."""
    piece = text[max(0, end - _BACK) : end]
    starts = [m.end() for m in _STARTS.finditer(piece)]
    return piece[starts[-1] :].lstrip() if starts else piece


def _ahead(text: str, start: int) -> str:
    """Return the text from ``start`` to the end of its paragraph."""
    piece = text[start : start + _AHEAD].lstrip(" \n:")
    return piece.split("\n\n", 1)[0]
