"""In which form a family of models gives its final answer, and by which rule an answer was found."""

from enum import StrEnum


class Family(StrEnum):
    """The form of a reply. Told from the reply itself unless the user names it."""

    CHIRON = "chiron"
    """``### Step n:`` ... ``### The final answer is: X``; the last one counts."""
    TAGGED = "tagged"
    """``<think>..</think><answer>X</answer>``: Med-R1, MedVLM-R1, ChestX-Reasoner."""
    BOXED = "boxed"
    r"""``\boxed{X}``: InternVL3 and others asked for it."""
    HUATUO_O1 = "huatuo_o1"
    """``## Thinking`` ... ``## Final Response``."""
    MEDREASON = "medreason"
    """Sections of reasoning, then a conclusion or a final answer under its own heading."""
    BARE = "bare"
    """A letter, alone, at the start or on the last line."""
    FREE = "free"
    """Prose."""


class Rule(StrEnum):
    """Which rule found the answer, from the most explicit to none."""

    TAG = "tag"
    BOXED = "boxed"
    FINAL_MARK = "final-answer mark"
    DECLARATION = "declaration"
    BARE_LETTER = "bare letter"
    OPTION_TEXT = "option text"
    UNPARSED = "unparsed"
