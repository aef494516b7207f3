"""Read the answer from a reply in one call, for use in other pipelines."""

from collections.abc import Sequence

from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.answers.yes_no import yes_no


def read_choice(reply: str, options: Sequence[str]) -> str | None:
    """Read which option a reply chooses.

    Args:
        reply: the model's reply, including its thinking.
        options: texts of the 2 to 26 options without letters, in the order of their letters.

    Returns:
        The letter, ``"A"`` to ``"Z"``. ``None`` if the reply chooses no option or several; the result is never a guess.

    Raises:
        InputError: fewer than 2 or more than 26 options.
    """
    return extract(reply, options).letter


def read_yes_no(reply: str, question: str | None = None) -> bool | None:
    """Read whether a reply says yes or no.

    Args:
        reply: the model's reply, including its thinking.
        question: the question asked. If given, statements count too: "There is no evidence of a pneumothorax" answers "Is there a
            pneumothorax?" with no. Without it, only "yes", "no" and similar words count.

    Returns:
        ``True`` for yes, ``False`` for no, ``None`` for neither or both.
    """
    return yes_no(reply, question)
