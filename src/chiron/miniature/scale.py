"""How large the miniature is: as it is demonstrated, in a hurry, or for a test."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Numbers of images, cases and steps, and the size of the model."""

    name: str
    images: int
    """Stage 2: cases whose images are put into words."""
    worked: int
    """Stage 2: worked examples beside them, of seen combinations, that go on from the words to the diagnosis. In a trial without any,
    which had learned its rules badly too, nine replies in ten had no final answer; such a model can be no intern."""
    cases: int
    """Of seen combinations, for the search and stage 3."""
    evaluated: int
    """Cases each, of seen and of held-out combinations, that nothing is trained on."""
    text_steps: int
    """Optimizer steps of stage 1."""
    alignment_steps: int
    """Of stage 2."""
    final_steps: int
    """Of stage 3."""
    replayed: int = 1_500
    """Images of stage 2 that may come again in stage 3."""
    hidden: int = 128
    """Width of the model's two towers."""
    vision_layers: int = 2
    language_layers: int = 2
    text_rows: int = 32
    """Rows a step in stage 1."""
    rows: int = 16
    """Rows a step in the other two."""
    text_learning_rate: float = 1e-3
    learning_rate: float = 1e-3
    """Of stage 2. With twice as much it sees much less in the end."""
    final_learning_rate: float = 3e-4
    """Of stage 3. A higher one teaches it which combinations there are, and so not to see the others."""


FULL = Scale("full", images=6_000, worked=240, cases=600, evaluated=240, text_steps=300, alignment_steps=2400, final_steps=200)
QUICK = Scale(
    "quick",
    images=1_000,
    worked=120,
    cases=64,
    evaluated=40,
    text_steps=200,
    alignment_steps=320,
    final_steps=32,
    replayed=500,
    text_rows=24,
    text_learning_rate=2e-3,
)
TINY = Scale(
    "tiny",
    images=24,
    worked=2,
    cases=6,
    evaluated=6,
    text_steps=2,
    alignment_steps=2,
    final_steps=2,
    hidden=32,
    vision_layers=1,
    language_layers=1,
)
"""Sees everything run once; learns nothing."""
