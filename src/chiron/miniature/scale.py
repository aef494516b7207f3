"""How large the miniature is: as it is demonstrated, in a hurry, or for a test."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Numbers of images, cases and steps, and the size of the model."""

    name: str
    images: int
    """Stage 2: images in words."""
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
    hidden: int = 128
    """Width of the model's two towers."""
    vision_layers: int = 4
    language_layers: int = 2
    rows: int = 16
    """Rows a step."""
    learning_rate: float = 1.5e-3
    """Of the first two stages; half of it in the third."""


FULL = Scale("full", images=8_000, cases=600, evaluated=240, text_steps=300, alignment_steps=2400, final_steps=400)
QUICK = Scale("quick", images=2_000, cases=120, evaluated=120, text_steps=150, alignment_steps=500, final_steps=100)
TINY = Scale(
    "tiny", images=24, cases=6, evaluated=6, text_steps=2, alignment_steps=2, final_steps=2, hidden=32, vision_layers=1, language_layers=1
)
"""Sees everything run once; learns nothing."""
