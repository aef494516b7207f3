"""Where prose in Chinese, Spanish, French, German, Portuguese or Italian says what the answer is."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_UPPER: Final = r"[(\[\"']?(?-i:[A-Z])[)\]\"']?(?![\w'-])"
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
    rf"|R\u00e9ponse ))(?P<said>{_UPPER}[^\n]{{0,200}})",
    re.IGNORECASE,
)
_CHINESE: Final = re.compile(
    "(?:\u7b54\u6848|(?:\u6b63\u786e|\u6700\u4f73|\u6700\u7ec8|\u5408\u9002|\u7b26\u5408|\u53ef\u80fd)\u7684?(?:\u9009\u9879|\u9078\u9805|\u8bca\u65ad))"
    r"[\]\"' ]{0,2}(?:\u5e94\u8be5?|\u5c31|\u5e94\u5f53|\u53ea\u80fd)?(?P<no>\u4e0d"
    r"|\u5e76\u975e)?(?:[\u662f\u4e3a\u70ba\u9009\u9078:]|(?<=[\]\u4e0d\u975e])){1,2}[ ]{0,2}"
    rf"(?:\u9009\u9879|\u9078\u9805)?[ ]?(?P<said>{_UPPER}[^\n]{{0,200}})"
    rf"|\u800c(?:\u662f|\u5e94\u8be5?\u9009?|\u9009)[ ]?(?P<instead>{_UPPER}[^\n]{{0,200}})"
)
_PICK: Final = re.compile(rf"(?P<before>[^\n,.;:!?]{{0,6}})[\u9009\u9078][\u62e9\u64c7]?[ :]{{0,2}}(?P<said>{_UPPER}[^\n]{{0,200}})")
_NO_PICK: Final = frozenset("\u53ef\u5907\u5019\u7b5b\u6311\u5f85")
"""Before "choose" they make words such as "optional" and "candidate"."""
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


@dataclass(frozen=True, slots=True)
class ForeignDeclaration:
    """Words that begin with a letter that is said to be the answer, or not to be."""

    at: int
    content: str
    denied: bool


def foreign_declarations(text: str) -> Iterator[ForeignDeclaration]:
    """All of them."""
    for found in _EUROPEAN.finditer(text):
        if _OTHER_THAN_RIGHT.search(text[max(0, found.start() - 16) : found.start()]):
            continue
        yield ForeignDeclaration(found.start(), found["said"], bool(found["no"]))
    if text.isascii():
        return
    for found in _CHINESE.finditer(text):
        yield ForeignDeclaration(found.start(), found["said"] or found["instead"], bool(found["no"]))
    for found in _PICK.finditer(text):
        before = found["before"].rstrip()
        clause = _CLAUSE_CJK.split(text[max(0, found.start("said") - 40) : found.start("said")])[-1]
        if before[-1:] not in _NO_PICK and not _IF_CJK.search(clause):
            yield ForeignDeclaration(found.start("said"), found["said"], "\u4e0d" in before or "\u522b" in before)
    for found in _CHINESE_BACKWARD.finditer(text):
        denied = found["word"] in _WRONG or any(char in found["between"] for char in "\u4e0d\u975e")
        if found["word"] != "\u53ef\u80fd" or "\u6700" in found["between"] or denied:
            yield ForeignDeclaration(found.start(), found["letter"], denied)
