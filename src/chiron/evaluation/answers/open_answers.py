"""Answers to open questions: the final answer's text, the same words, and how many of the known answer's words it has."""

from collections import Counter

from chiron.errors import InputError
from chiron.evaluation.answers.declarations import declarations
from chiron.evaluation.answers.family import Family
from chiron.evaluation.answers.marks import unwrap
from chiron.evaluation.answers.open_match import same_answer
from chiron.evaluation.answers.reading import sentence
from chiron.models.offline.matching import normalise

_MARKED = frozenset({Family.CHIRON, Family.TAGGED, Family.BOXED})
_SECTIONED = frozenset({Family.HUATUO_O1, Family.MEDREASON})


def final_text(reply: str, family: Family | None = None) -> str | None:
    """The words of the final answer, without mark or emphasis.

    Args:
        reply: what the model wrote.
        family: with one that marks its answer (Chiron, tagged, boxed) a reply without any such mark has none: ``None``. Told from the
            reply if not given; then prose counts: what it declares to be the answer, else the whole of it but the thinking.
    """
    unwrapped = unwrap(reply, family)
    if unwrapped.rule is None and family in _MARKED:
        return None
    text = unwrapped.answer
    if unwrapped.rule is None and unwrapped.family not in _SECTIONED:
        declared = [said for said in declarations(text) if said.content.strip() and not said.content.startswith("not ")]
        answer = [said for said in declared if text[said.at : said.at + 3].lower().startswith(("ans", "\u7b54\u6848"))]
        # Of steps without an end only what stands behind the last of them may be the answer.
        text = sentence(answer[-1].content) if answer else text.strip().partition("\n\n")[2] if unwrapped.unfinished else text
    return text.strip(" \n\"'") or None


def exact_match(candidate: str | None, gold: str) -> bool:
    """The same answer as :func:`chiron.evaluation.answers.open_match.same_answer` compares them; no answer matches nothing."""
    return candidate is not None and same_answer(candidate, gold)


def token_recall(candidate: str | None, gold: str) -> float:
    """The share of the known answer's words that the candidate has, in [0, 1]; no answer has none.

    LLaVA-Med (Li et al., NeurIPS 2023) reports it for open questions: a sentence may hold the answer without being it. It rewards
    length, and knows neither synonyms nor denials, so it stands beside the exact match, never alone. Here each occurrence counts at
    most as often as the known answer has it: repeating a word gains nothing.

    Raises:
        InputError: the known answer has no words.
    """
    known = Counter(normalise(gold).split())
    if not known:
        raise InputError("the known answer of an open question is empty: look at its record")
    given = Counter(normalise(candidate or "").split())
    return sum((known & given).values()) / known.total()
