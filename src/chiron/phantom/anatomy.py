"""What each modality examines: body system, complaints, and normal findings."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Complaint:
    """A reason for the examination, and the ages it applies to."""

    words: str
    """Text that follows "a woman with"."""
    youngest: int
    """Age in years."""
    oldest: int
    lasting: bool = True
    """Whether a duration may follow."""


@dataclass(frozen=True)
class Anatomy:
    """The anatomy that a modality examines, in words."""

    body_system: str
    sexes: tuple[str, ...]
    """Sexes examined: "Female", "Male" or both."""
    complaints: tuple[Complaint, ...]
    neutral: tuple[str, ...]
    """Findings that are unrelated to the lesion and use none of its words."""
    again: str
    """Description of a second image, for example "another slice"."""


_BOTH: Final = ("Female", "Male")

PLACES: Final[Mapping[str, Anatomy]] = MappingProxyType(
    {
        "X-ray": Anatomy(
            "Chest",
            _BOTH,
            (
                Complaint("a dry cough", 16, 84),
                Complaint("shortness of breath on climbing stairs", 52, 86),
                Complaint("wheezing after sport", 8, 24),
                Complaint("tiredness and a hoarse voice", 30, 78),
            ),
            (
                "No pleural effusion.",
                "No pneumothorax.",
                "The heart is of normal width.",
                "The bones are intact.",
            ),
            "another exposure",
        ),
        "CT": Anatomy(
            "Abdomen",
            _BOTH,
            (
                Complaint("a dull ache in the abdomen", 18, 82),
                Complaint("loss of appetite", 40, 86),
                Complaint("recurrent stomach cramps", 9, 35),
                Complaint("a high blood pressure that responds poorly to tablets", 45, 80),
            ),
            (
                "No free fluid.",
                "No free air.",
                "The liver is homogeneous.",
                "The spine shows no fracture.",
            ),
            "another slice",
        ),
        "MRI": Anatomy(
            "Brain",
            _BOTH,
            (
                Complaint("headaches on waking", 12, 75),
                Complaint("spells of dizziness", 20, 84),
                Complaint("difficulty finding words", 50, 85),
                Complaint("a first seizure last week", 6, 45, lasting=False),
            ),
            (
                "No midline shift.",
                "The ventricles are of normal width.",
                "No restricted diffusion elsewhere.",
                "The major vessels are open.",
            ),
            "another slice",
        ),
        "Ultrasound": Anatomy(
            "Neck",
            _BOTH,
            (
                Complaint("a feeling of pressure in the throat", 25, 80),
                Complaint("difficulty swallowing", 40, 85),
                Complaint("palpitations and restlessness", 18, 60),
                Complaint("an abnormal thyroid blood test on screening", 20, 70, lasting=False),
            ),
            (
                "The trachea is in the midline.",
                "Both carotid arteries are open.",
                "No suspicious lymph nodes.",
                "Blood flow is normal on Doppler.",
            ),
            "another sweep",
        ),
        "Mammography": Anatomy(
            "Breast",
            ("Female",),
            (
                Complaint("an invitation to routine screening", 50, 74, lasting=False),
                Complaint("breast tenderness", 30, 60),
                Complaint("a palpable change in one breast", 35, 82),
            ),
            (
                "No skin thickening.",
                "The nipples are not retracted.",
                "No suspicious axillary lymph nodes.",
                "No architectural distortion elsewhere.",
            ),
            "another exposure",
        ),
    }
)
"""Anatomy by modality; the keys are :data:`chiron.phantom.drawing.MODALITIES`."""
