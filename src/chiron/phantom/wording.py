"""All text of synthetic cases: complaints, history, question, findings, and the textbook's rules.

There is one vocabulary: a finding names an attribute with the same word as the rules. A reader who knows all four attributes in a
case's findings can therefore find its rule by words alone. Histories, questions and neutral findings use none of those words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np

from chiron.phantom.world import Attributes, Size

_T = TypeVar("_T")


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

QUESTIONS: Final = (
    "What is the most likely diagnosis?",
    "Which diagnosis fits this case best?",
    "Considering the history and the imaging, what is the diagnosis?",
)
"""Questions, all with the same meaning."""

MILLIMETRES: Final[Mapping[Size, tuple[int, int]]] = MappingProxyType({"small": (5, 9), "medium": (12, 18), "large": (24, 36)})
"""Stated sizes of lesions in millimeters: minimum and maximum, both inclusive."""

_DURATIONS: Final = ("for two weeks", "for about a month", "since last winter", "for the past ten days", "for three months")
_BACKGROUNDS: Final = (
    "There is no relevant past illness.",
    "There are no known allergies.",
    "There has been no fever or weight loss.",
    "The family history is unremarkable.",
)


def rule(attributes: Attributes) -> str:
    """Return the textbook's sentence for a combination of attributes."""
    a = attributes
    return f"A {a.size} {a.density} lesion with a {a.margin} margin, at the {a.level} level of the {a.side} side."


def history(complaint: Complaint, age: int, sex: str, rng: np.random.Generator) -> str:
    """Describe the patient and the complaint in two sentences; ``age`` is in years, ``sex`` is "Female" or "Male"."""
    person = {"Female": ("girl", "woman"), "Male": ("boy", "man")}[sex][age >= 18]
    article = "An" if age in {8, 11, 18} or 80 <= age < 90 else "A"
    since = f" {choose(_DURATIONS, rng)}" if complaint.lasting else ""
    return f"{article} {age}-year-old {person} with {complaint.words}{since}. {choose(_BACKGROUNDS, rng)}"


def findings(attributes: Attributes, place: Anatomy, images: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Write the radiologist's findings: one sentence per attribute, among neutral ones of ``place``, in one or two paragraphs.

    ``images``: number of images in the case, 1 or 2. ``rng`` chooses the order, the millimeters, and the neutral sentences.
    """
    about = _about_the_lesion(attributes, rng)
    neutral = [place.neutral[k] for k in rng.permutation(len(place.neutral))[: rng.integers(1, 3)]]
    order = rng.permutation(len(about) + len(neutral)).tolist()
    split = int(rng.integers(2, len(order) - 1)) if rng.random() < 0.5 else len(order)
    texts = []
    for paragraph in filter(None, (order[:split], order[split:])):
        sentences = []
        named = False
        for k in paragraph:
            sentences.append(about[k][named] if k < len(about) else neutral[k - len(about)])
            named = k < len(about)  # after a sentence about something else, "it" would refer to that
        texts.append(" ".join(sentences))
    if images > 1:
        texts[-1] += f" The same lesion is seen in image 2, {place.again}."
    return tuple(texts)


def _about_the_lesion(a: Attributes, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return each sentence about the lesion twice: with its name, and with a pronoun for when it was named just before."""
    lowest, highest = MILLIMETRES[a.size]
    it, its = ("The lesion", "It"), ("The lesion's", "Its")
    clauses = (
        (it, f"lies on the {a.side} side."),
        (it, f"is found at the {a.level} level."),
        (it, f"is {a.size}, about {rng.integers(lowest, highest + 1)} mm across."),
        (it, f"is {a.density} against the surrounding tissue."),
        (its, f"margin is {a.margin}."),
    )
    return [(f"{name} {rest}", f"{pronoun} {rest}") for (name, pronoun), rest in clauses]


def choose(choices: Sequence[_T], rng: np.random.Generator) -> _T:
    """Return one of ``choices``, with one random number."""
    return choices[int(rng.integers(len(choices)))]
