"""Conversation templates: how a row is worded, and which of a case's images belong together."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

from chiron.cases.case import Case
from chiron.cases.choices import lettered
from chiron.cases.image_marks import IMAGE_MARK, grouped_marks
from chiron.cases.modalities import modalities_of_case
from chiron.client.call import ImagePart, Message
from chiron.client.prompts import texts_between
from chiron.conversation.reasoning import render_reasoning, render_steps
from chiron.mics.prompts import Prompts, patient
from chiron.providers.local.dialogue import Turn


@dataclass(frozen=True, slots=True)
class Group:
    """Images that belong together."""

    name: str
    """Of the folder; empty where there is none."""
    numbers: tuple[int, ...]
    """Of its images among the case's, from 1: what findings call them."""
    images: tuple[str, ...]
    modality: str | None
    """By its name in :mod:`chiron.cases.modalities`; ``None`` where nothing tells."""


def groups_of(case: Case) -> tuple[Group, ...]:
    """A case's image groups, in the order of their first images."""
    numbers: dict[str, list[int]] = {}
    for number, image in enumerate(case.images, start=1):
        numbers.setdefault(PurePosixPath(image).parent.name, []).append(number)
    return tuple(_group(case, name, tuple(members), alone=len(numbers) == 1) for name, members in numbers.items())


def modalities_shown(case: Case) -> tuple[str, ...]:
    """The modalities of a case, by name; none where nothing tells."""
    return tuple(modality.name for modality in modalities_of_case(case))


def _group(case: Case, name: str, numbers: tuple[int, ...], *, alone: bool) -> Group:
    images = tuple(case.images[n - 1] for n in numbers)
    # By the folder's name first: of a case of two modalities the metadata says which two, and not which is which.
    of_folder = modalities_of_case(Case(case.id, "", "", images))
    found = of_folder or (modalities_of_case(case) if alone else ())
    return Group(name, numbers, images, found[0].name if len(found) == 1 else None)


Begun = Literal["none", "some", "any", "each"]
_SUPPLEMENT = "Supplementary information"


@dataclass(frozen=True, slots=True)
class QuizTemplate:
    """A multiple-choice question on a case's text."""

    question: str
    options: tuple[str, ...]
    """In the order in which they are shown, without letters."""
    right: int
    """Index of the right one."""
    steps: tuple[str, ...]
    """From the case to the right option."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A row's conversation."""

    turns: tuple[Turn, ...]
    """The last one is what is learned."""
    suffix: str = ""
    """Tells the dialogues of one thing apart, in their rows' ids."""


class ConversationTemplate(Protocol):
    """How a row of each part is worded. Each method gives at least one dialogue."""

    def identity(self) -> dict[str, Any]:
        """What the wording depends on, for ``run.json``."""
        ...

    def of_quiz(self, case: Case, quiz: QuizTemplate, chance: random.Random) -> Sequence[Dialogue]:
        """Part 1: the case's text and a question; the reasoning and the right option. No images."""
        ...

    def of_findings(
        self, case: Case, groups: Sequence[Group], request: str, findings: Sequence[str], chance: random.Random
    ) -> Sequence[Dialogue]:
        """Part 2: images of these groups and a request; the findings that belong to them, a sentence each."""
        ...

    def of_path(self, case: Case, reasoning: str) -> Sequence[Dialogue]:
        """Part 3: images, history and question; a path with its final answer."""
        ...


def plain(text: str) -> str:
    """``text`` without image marks: only a form may place those."""
    while IMAGE_MARK in text:  # taken away, one may appear out of its halves
        text = text.replace(IMAGE_MARK, "image")
    return text


def dialogue_of(asked: Sequence[Message] | str, said: str) -> tuple[Turn, ...]:
    """Turns from what a model is asked and what it is to say.

    Args:
        asked: messages, whose pictures become marks, a line each; or the user's words, marks in their places.
        said: in which a mark is nothing but a word.
    """
    said = plain(said)
    if isinstance(asked, str):
        return (Turn("user", asked), Turn("assistant", said))
    turns = [Turn(m.role, IMAGE_MARK.join(plain(text) for text in texts_between(m, "\n"))) for m in asked]
    return (*turns, Turn("assistant", said))


@dataclass(frozen=True)
class PaperTemplate:
    """As the published models are asked: supplementary information, ``Modality i: <image>`` marks, the request to reason."""

    def identity(self) -> dict[str, Any]:
        """Of this wording."""
        return {"form": "published", "version": 1}

    def of_quiz(self, case: Case, quiz: QuizTemplate, chance: random.Random) -> Sequence[Dialogue]:
        """The case's text, question and lettered options; steps, then letter and option."""
        del chance
        findings = "\n".join(case.findings)
        told = [patient(case), f"Findings:\n{findings}" if findings else "", f"{quiz.question}\n{lettered(quiz.options)}"]
        answer = f"{'ABCDEFGHIJ'[quiz.right]}. {quiz.options[quiz.right]}"
        return [Dialogue(dialogue_of(plain("\n\n".join(part for part in told if part)), render_reasoning(quiz.steps, answer)))]

    def of_findings(
        self, case: Case, groups: Sequence[Group], request: str, findings: Sequence[str], chance: random.Random
    ) -> Sequence[Dialogue]:
        """The groups' marks and a request; the findings as a paragraph."""
        del case, chance
        return [Dialogue(dialogue_of(f"{grouped_marks([len(g.images) for g in groups])}\n{plain(request)}", " ".join(findings)))]

    def of_path(self, case: Case, reasoning: str) -> Sequence[Dialogue]:
        """Question, supplementary information, marks; the path as it is.

        A question with image marks of its own is asked as it is. Images without a mark come before it.
        """
        if own := case.question.count(IMAGE_MARK):
            unmarked = f"{IMAGE_MARK}\n" * (len(case.images) - own)
            return [Dialogue(dialogue_of(unmarked + _with_history(case), reasoning))]
        told = _with_history(case)
        marks = grouped_marks([len(group.images) for group in groups_of(case)])
        ask = (
            f"Please base your response on the keyframes of the relevant medical imaging modality ({marks})"
            " and reason step-by-step to answer the above question."
        )
        return [Dialogue(dialogue_of(f"{plain(told)}\n{ask}", reasoning))]


@dataclass(frozen=True)
class InternTemplate:
    """The very form in which interns are asked in a search, so that a model in training can be one.

    Interns also go on from reasoning that somebody has begun. ``begun`` says how often a row has them do so: never; in a quarter of the
    rows, from somewhere within the steps (``some``); from anywhere, the end included (``any``); or once from each place (``each``).
    """

    prompts: Prompts
    begun: Begun = "none"
    concludes: bool = False
    """Whether findings lead to the case's answer: worked examples."""

    def identity(self) -> dict[str, Any]:
        """Prompts and manner."""
        names = ("intern_system", "intern", "intern_prefix")
        hashes = self.prompts.hashes()
        prompts = {name: hashes[name] for name in names}
        return {"form": "intern", "version": 1, "begun": self.begun, "concludes": self.concludes, "prompts": prompts}

    def of_quiz(self, case: Case, quiz: QuizTemplate, chance: random.Random) -> Sequence[Dialogue]:
        """Findings and question as one question, without options; what stands in the steps so far is not told once more."""
        answer = f"### The final answer is: {quiz.options[quiz.right]}"
        dialogues = []
        for given in self._places(len(quiz.steps), chance):
            told = case.findings if given < len(quiz.steps) else ()
            asked = replace(case, question=" ".join((*told, quiz.question)), images=())
            dialogues.append(self._go_on(asked, quiz.steps, given, answer))
        return dialogues

    def of_findings(
        self, case: Case, groups: Sequence[Group], request: str, findings: Sequence[str], chance: random.Random
    ) -> Sequence[Dialogue]:
        """The request as the question; each finding a step."""
        shown = tuple(image for group in groups for image in group.images)
        question, answer = (case.question, f"### The final answer is: {case.answer}") if self.concludes else (request, "")
        asked = replace(case, question=question, images=shown)
        steps = tuple(findings)
        # Without a conclusion something must be left to say.
        last = len(steps) if self.concludes else len(steps) - 1
        return [self._go_on(asked, steps, min(given, last), answer) for given in self._places(len(steps), chance)]

    def of_path(self, case: Case, reasoning: str) -> Sequence[Dialogue]:
        """The case as an intern is asked it from the beginning; the path as it is."""
        return [Dialogue(dialogue_of(self.prompts.intern(case, _places_of(case), ()), reasoning))]

    def _go_on(self, asked: Case, steps: tuple[str, ...], given: int, answer: str) -> Dialogue:
        messages = self.prompts.intern(asked, _places_of(asked), steps[:given])
        said = "\n".join(part for part in (render_steps(steps[given:], first=given + 1), answer) if part)
        return Dialogue(dialogue_of(messages, said), f"from-{given}" if self.begun == "each" else "")

    def _places(self, steps: int, chance: random.Random) -> Sequence[int]:
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
    """The question with the supplementary information that the case has, unless the question has it already."""
    who = (("Gender", case.sex), ("Age", case.age), ("Chief complaint", case.history))
    known = ", ".join(f"{name}: {value}" for name, value in who if value)
    if not known or _SUPPLEMENT in case.question:
        return case.question
    return f"{case.question} ({_SUPPLEMENT} is as follows:\n{known})"


def _places_of(case: Case) -> tuple[ImagePart, ...]:
    """A picture for each image: in a row it is but a mark."""
    return tuple(ImagePart(name, 0) for name in case.images)
