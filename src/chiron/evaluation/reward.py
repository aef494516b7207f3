"""Reward for reinforcement learning: 1 if a reply's final answer is right, else 0, by the rules of the evaluation. Calls no model.

The functions have the signatures that the trainers call:

- TRL: ``GRPOTrainer(..., reward_funcs=answer_reward)``
- verl: ``custom_reward_function.path=FILE`` (this file) and ``custom_reward_function.name=compute_score``
- ms-swift: ``--external_plugins FILE`` (``reward_ms_swift.py`` next to this file) and ``--reward_funcs chiron_answer``

Like every rule, it can be gamed: a reply that only states the answer gets the full reward.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from chiron.cases.choices import answer_in_words
from chiron.conversation.markup import split_thinking
from chiron.conversation.short_answers import LETTERS
from chiron.errors import InputError
from chiron.evaluation.answers.extraction import read_choice, read_yes_no
from chiron.evaluation.answers.open_answers import exact_match, final_text

_YES_NO = {"yes": True, "no": False}


def is_right(reply: str, answer: str, options: Sequence[str] = (), question: str | None = None) -> bool:
    """Return whether a reply gives the known answer.

    With options, the chosen option counts (:func:`chiron.read_choice`). Otherwise yes and no count as statements
    (:func:`chiron.read_yes_no`), and other final answers if they have the known one's normal form, as in the evaluation (protocol
    ``exact``). A reply that cannot be read is wrong, and so is one whose thinking never ends.

    Args:
        reply: the model's reply, including its thinking.
        answer: the known answer; for a choice, the option's words or letter.
        options: texts of the options without letters, in the order of their letters.
        question: the question asked, which helps to read statements as yes or no.

    Raises:
        InputError: the known answer is empty or none of the options.
    """
    if not answer.strip():
        raise InputError("the known answer is empty, so no reply can be compared with it: leave the row out")
    unfinished = split_thinking(reply).unclosed
    if options:
        try:
            known = list(options).index(answer_in_words(answer, options))
        except ValueError as problem:
            raise InputError(f"a reply cannot be compared with '{answer[:80]}': {problem}") from problem
        return not unfinished and read_choice(reply, options) == LETTERS[known]
    given = final_text(reply)
    if given is None or unfinished:
        return False
    if (expected := _YES_NO.get(answer.strip(" .").casefold())) is not None:
        return read_yes_no(given, question) is expected
    return exact_match(given, answer)


def row_is_right(reply: str, row: Mapping[str, Any]) -> bool | None:
    """Return whether a reply gives the known answer of a training row; ``None`` if the row has none.

    The known answer is the row's ``answer``, else the final answer of its ``reference``, the text of its last turn. ``options`` and
    ``question`` are used if the row has them.

    Raises:
        InputError: the known answer is not among the options.
    """
    answer = str(row.get("answer") or "").strip() or final_text(row["reference"])
    return is_right(reply, answer, row.get("options") or (), row.get("question")) if answer else None


def answer_reward(
    completions: Sequence[Any],
    answer: Sequence[str] | None = None,
    options: Sequence[Sequence[str] | None] | None = None,
    question: Sequence[str | None] | None = None,
    solution: Sequence[str] | None = None,
    **columns: Any,
) -> list[float]:
    """Reward each completion: 1.0 if its final answer is right, else 0.0. For TRL's ``GRPOTrainer`` and ms-swift.

    Args:
        completions: replies as text, or as lists of turns whose last one is the reply.
        answer: the known answer of each completion.
        options: the options of each, if it is a choice.
        question: the question of each.
        solution: the known answers under the name that ms-swift uses.
        columns: other columns of the data set, which are ignored.

    Raises:
        InputError: there is no known answer.
    """
    del columns
    known = answer if answer is not None else solution
    if known is None:
        raise InputError("the reward needs the known answers: keep the column 'answer' (TRL) or 'solution' (ms-swift) of the data set")
    return [
        float(is_right(_text(reply), str(known[n]), options[n] or () if options else (), question[n] if question else None))
        for n, reply in enumerate(completions)
    ]


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: Mapping[str, Any] | None = None, **more: Any
) -> float:
    """Reward one reply for verl: 1.0 if its final answer is right, else 0.0.

    Args:
        data_source: name of the data set; ignored.
        solution_str: the reply.
        ground_truth: the known answer.
        extra_info: may contain ``options`` and ``question``.
        more: other arguments of verl, which are ignored.

    Raises:
        InputError: the known answer is empty or none of the options.
    """
    del data_source, more
    about = extra_info or {}
    options = about.get("options")
    return float(is_right(solution_str, ground_truth, () if options is None else list(options), about.get("question")))


def _text(completion: Any) -> str:
    """Return the text of a completion: plain text, or the last turn of a conversation."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"]
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)
