"""What a row says of question, options, answer and report, as the fields of a case."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from chiron.cases.case import Case
from chiron.cases.choices import answer_in_words, bare_options, question_with_options
from chiron.cases.importing.records import LeaveOut, Why

LETTER_ALONE = "answers that are a letter alone, of options that are not there: name the columns of options with --map options=..."


def settle(texts: Mapping[str, str], question: str | None) -> dict[str, str]:
    """Texts by the fields of a case: what is asked of all rows, and where the impression goes.

    With a question and no answer of its own, the impression is the answer; else it is the last of the findings. The question for all
    rows is put to those that have an answer to it.
    """
    settled = {**texts}
    impression = settled.pop("impression", "")
    if not settled.get("question") and question and (settled.get("answer") or impression):
        settled["question"] = question
    if settled.get("question") and not settled.get("answer") and impression:
        settled["answer"] = impression
    elif impression:
        settled["findings"] = "\n\n".join(text for text in (settled.get("findings"), f"Impression: {impression}") if text)
    return settled


def with_options(case: Case, options: Sequence[str]) -> Case:
    """A case whose question names its options and whose answer is one of them in words.

    Raises:
        LeaveOut: the answer is none of them.
    """
    if not options or not case.question:
        return case
    bare = bare_options(options)
    try:
        answer = answer_in_words(case.answer, bare)
    except ValueError as problem:
        raise LeaveOut(Why.RECORD, str(problem)) from problem
    meta = MappingProxyType({**case.meta, "options": list(bare)})
    return replace(case, question=question_with_options(case.question, bare), answer=answer, meta=meta)
