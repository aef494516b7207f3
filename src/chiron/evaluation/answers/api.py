"""Read the answer out of a reply, in one call: for pipelines of your own."""

from collections.abc import Sequence

from chiron.evaluation.answers.extraction import extract
from chiron.evaluation.answers.yes_no import yes_no


def read_choice(reply: str, options: Sequence[str]) -> str | None:
    """Read which option a reply chooses.

    Args:
        reply: what the model wrote, thinking included.
        options: the texts of the 2 to 26 options, in the order of their letters, without the letters.

    Returns:
        The letter, ``"A"`` to ``"Z"``. ``None`` if the reply chooses nothing, or several options: never a guess.

    Raises:
        InputError: fewer than 2 or more than 26 options.
    """
    return extract(reply, options).letter


def read_yes_no(reply: str, question: str | None = None) -> bool | None:
    """Read whether a reply says yes or no.

    Args:
        reply: what the model wrote, thinking included.
        question: what it was asked. With it a statement counts too: "There is no evidence of a pneumothorax" is a no to "Is there a
            pneumothorax?". Without it only "yes" and "no" and their like count.

    Returns:
        ``True`` for yes, ``False`` for no, ``None`` for neither or both.
    """
    return yes_no(reply, question)
