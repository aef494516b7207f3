"""Conversation templates (the wording of rows), and grouping of a case's images."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

from chiron.cases.case import IMAGE_MARK, Case, grouped_marks
from chiron.cases.choices import lettered
from chiron.cases.modalities import modalities_of_case
from chiron.client.call import ImagePart, Message
from chiron.client.prompts import texts_between
from chiron.conversation.reasoning import render_reasoning, render_steps
from chiron.mics.prompts import Prompts, patient
from chiron.providers.local.dialogue import Turn


@dataclass(frozen=True, slots=True)
class Group:
    """A group of related images."""

    name: str
    """Folder name; empty without a folder."""
    numbers: tuple[int, ...]
    """Numbers of its images in the case, from 1, as used in findings."""
    images: tuple[str, ...]
    modality: str | None
    """Modality as named in :mod:`chiron.cases.modalities`; ``None`` if unknown."""


def groups_of(case: Case) -> tuple[Group, ...]:
    """Return a case's image groups, in the order of their first images."""
    numbers: dict[str, list[int]] = {}
    for number, image in enumerate(case.images, start=1):
        numbers.setdefault(PurePosixPath(image).parent.name, []).append(number)
    return tuple(_image_group(case, name, tuple(members), alone=len(numbers) == 1) for name, members in numbers.items())


def modalities_shown(case: Case) -> tuple[str, ...]:
    """Return the names of a case's modalities; empty if unknown."""
    return tuple(modality.name for modality in modalities_of_case(case))


def _image_group(case: Case, name: str, numbers: tuple[int, ...], *, alone: bool) -> Group:
    images = tuple(case.images[n - 1] for n in numbers)
    # Prefer the folder's name: for a case with two modalities, the metadata does not say which image has which.
    of_folder = modalities_of_case(Case(case.id, "", "", images))
    found = of_folder or (modalities_of_case(case) if alone else ())
    return Group(name, numbers, images, found[0].name if len(found) == 1 else None)


Begun = Literal["none", "some", "any", "each"]
_SUPPLEMENT = "Supplementary information"


@dataclass(frozen=True, slots=True)
class QuizTemplate:
    """A multiple-choice question about a case's text."""

    question: str
    options: tuple[str, ...]
    """Options in display order, without letters."""
    right: int
    """Index of the right option."""
    steps: tuple[str, ...]
    """Reasoning steps from the case to the right option."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    turns: tuple[Turn, ...]
    """Turns; the last one is the training target."""
    suffix: str = ""
    """Distinguishes several dialogues of one item in their row ids."""


class ConversationTemplate(Protocol):
    """Wording of the rows of each part. Each method returns at least one dialogue."""

    def identity(self) -> dict[str, Any]:
        """Return the settings that the wording depends on, for ``run.json``."""
        ...

    def of_quiz(self, case: Case, quiz: QuizTemplate, chance: random.Random) -> Sequence[Dialogue]:
        """Part 1: the case's text and a question, then reasoning and the right option. No images."""
        ...

    def of_findings(
        self, case: Case, groups: Sequence[Group], request: str, findings: Sequence[str], chance: random.Random
    ) -> Sequence[Dialogue]:
        """Part 2: images of these groups and a request, then their findings, one per sentence."""
        ...

    def of_path(self, case: Case, reasoning: str) -> Sequence[Dialogue]:
        """Part 3: images, history and question, then a path with its final answer."""
        ...


def plain(text: str) -> str:
    """Remove image marks from ``text``: only a template may place them."""
    while IMAGE_MARK in text:  # a removal may form a new mark
        text = text.replace(IMAGE_MARK, "image")
    return text


def dialogue_of(asked: Sequence[Message] | str, reply: str) -> tuple[Turn, ...]:
    """Create turns from the input of a model and its expected reply.

    Args:
        asked: messages, whose images become marks on their own lines; or the user's text with its marks.
        reply: the reply; image marks in it become plain words.
    """
    reply = plain(reply)
    if isinstance(asked, str):
        return (Turn("user", asked), Turn("assistant", reply))
    turns = [Turn(m.role, IMAGE_MARK.join(plain(text) for text in texts_between(m, "\n"))) for m in asked]
    return (*turns, Turn("assistant", reply))


@dataclass(frozen=True)
class PaperTemplate:
    """Template of the published models: supplementary information, ``Modality i: <image>`` marks, a request to reason."""

    def identity(self) -> dict[str, Any]:
        return {"form": "published", "version": 1}

    def of_quiz(self, case: Case, quiz: QuizTemplate, chance: random.Random) -> Sequence[Dialogue]:
        """Ask with the case's text, question and lettered options; answer with steps, then letter and option."""
        del chance
        findings = "\n".join(case.findings)
        parts = [patient(case), f"Findings:\n{findings}" if findings else "", f"{quiz.question}\n{lettered(quiz.options)}"]
        answer = f"{'ABCDEFGHIJ'[quiz.right]}. {quiz.options[quiz.right]}"
        return [Dialogue(dialogue_of(plain("\n\n".join(part for part in parts if part)), render_reasoning(quiz.steps, answer)))]

    def of_findings(
        self, case: Case, groups: Sequence[Group], request: str, findings: Sequence[str], chance: random.Random
    ) -> Sequence[Dialogue]:
        """Ask with the groups' marks and a request; answer with the findings as a paragraph."""
        del case, chance
        return [Dialogue(dialogue_of(f"{grouped_marks([len(g.images) for g in groups])}\n{plain(request)}", " ".join(findings)))]

    def of_path(self, case: Case, reasoning: str) -> Sequence[Dialogue]:
        """Ask with question, supplementary information and marks; answer with the unchanged path.

        A question with its own image marks is kept as it is. Images without a mark come before it.
        """
        if own := case.question.count(IMAGE_MARK):
            unmarked = f"{IMAGE_MARK}\n" * (len(case.images) - own)
            return [Dialogue(dialogue_of(unmarked + _with_history(case), reasoning))]
        marks = grouped_marks([len(group.images) for group in groups_of(case)])
        ask = (
            f"Please base your response on the keyframes of the relevant medical imaging modality ({marks})"
            " and reason step-by-step to answer the above question."
        )
        return [Dialogue(dialogue_of(f"{plain(_with_history(case))}\n{ask}", reasoning))]


@dataclass(frozen=True)
class InternTemplate:
    """Template of the search's intern prompts, for training a model that will be an intern.

    Interns also continue reasoning that has already begun. ``begun`` says how often a row does this: never, in a quarter of the rows
    from a point within the steps (``some``), from any point including the end (``any``), or once from each point (``each``).
    """

    prompts: Prompts
    begun: Begun = "none"
    concludes: bool = False
    """Whether findings end with the case's answer (worked examples)."""

    def identity(self) -> dict[str, Any]:
        names = ("intern_system", "intern", "intern_prefix")
        hashes = self.prompts.hashes()
        prompts = {name: hashes[name] for name in names}
        return {"form": "intern", "version": 1, "begun": self.begun, "concludes": self.concludes, "prompts": prompts}

    def of_quiz(self, case: Case, quiz: QuizTemplate, chance: random.Random) -> Sequence[Dialogue]:
        """Ask findings and question as one question, without options. Findings are omitted if all steps are given."""
        answer = f"### The final answer is: {quiz.options[quiz.right]}"
        dialogues = []
        for given in self._starts(len(quiz.steps), chance):
            findings = case.findings if given < len(quiz.steps) else ()
            asked = replace(case, question=" ".join((*findings, quiz.question)), images=())
            dialogues.append(self._continued(asked, quiz.steps, given, answer))
        return dialogues

    def of_findings(
        self, case: Case, groups: Sequence[Group], request: str, findings: Sequence[str], chance: random.Random
    ) -> Sequence[Dialogue]:
        """Ask the request as the question; answer with one step per finding."""
        shown = tuple(image for group in groups for image in group.images)
        question, answer = (case.question, f"### The final answer is: {case.answer}") if self.concludes else (request, "")
        asked = replace(case, question=question, images=shown)
        steps = tuple(findings)
        # Without a conclusion, at least one step must remain to be written.
        last = len(steps) if self.concludes else len(steps) - 1
        return [self._continued(asked, steps, min(given, last), answer) for given in self._starts(len(steps), chance)]

    def of_path(self, case: Case, reasoning: str) -> Sequence[Dialogue]:
        """Ask as an intern is asked at the root; answer with the unchanged path."""
        return [Dialogue(dialogue_of(self.prompts.intern(case, _placeholders(case), ()), reasoning))]

    def _continued(self, asked: Case, steps: tuple[str, ...], given: int, answer: str) -> Dialogue:
        messages = self.prompts.intern(asked, _placeholders(asked), steps[:given])
        reply = "\n".join(part for part in (render_steps(steps[given:], first=given + 1), answer) if part)
        return Dialogue(dialogue_of(messages, reply), f"from-{given}" if self.begun == "each" else "")

    def _starts(self, steps: int, chance: random.Random) -> Sequence[int]:
        match self.begun:
            case "each":
                return range(steps + 1)
            case "any":
                return [chance.randrange(steps + 1)]
            case "some" if steps > 1 and chance.random() < 0.25:
                return [chance.randrange(1, steps)]
            case _:
                return [0]


def _with_history(case: Case) -> str:
    """Add the case's supplementary information to the question, unless it is already included."""
    who = (("Gender", case.sex), ("Age", case.age), ("Chief complaint", case.history))
    known = ", ".join(f"{name}: {value}" for name, value in who if value)
    if not known or _SUPPLEMENT in case.question:
        return case.question
    return f"{case.question} ({_SUPPLEMENT} is as follows:\n{known})"


def _placeholders(case: Case) -> tuple[ImagePart, ...]:
    """Return a placeholder for each image; a row only contains a mark."""
    return tuple(ImagePart(name, 0) for name in case.images)
