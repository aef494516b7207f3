"""Prompts of mentors, interns and judge, and the configuration templates of ``chiron init``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Final

from chiron.cases.case import Case, named_marks
from chiron.client.call import ImagePart, Message, TextPart
from chiron.client.prompts import PromptSet, own_marks, section, user_message
from chiron.conversation.markup import escape_markup
from chiron.conversation.reasoning import render_steps

MAX_GIVEN_ANSWER = 600
"""Maximum number of characters of an answer shown to the judge. A longer text could argue with the judge instead of answering."""


@dataclass(frozen=True)
class Prompts(PromptSet):
    """The prompts of mentors, interns and judge."""

    package: ClassVar[str] = "chiron.mics"
    placeholders: ClassVar[Mapping[str, frozenset[str]]] = {
        "mentor_system": frozenset(),
        "mentor": frozenset({"question", "history", "findings", "answer"}),
        "mentor_prefix": frozenset({"reasoning", "next_step"}),
        "intern_system": frozenset(),
        "intern": frozenset({"question", "history"}),
        "intern_prefix": frozenset({"reasoning", "next_step"}),
        "judge_system": frozenset(),
        "judge": frozenset({"question", "known_answer", "given_answer"}),
    }
    optional: ClassVar[frozenset[str]] = frozenset({"history", "findings", "next_step"})

    def mentor(self, case: Case, pictures: tuple[ImagePart, ...], prefix: tuple[str, ...]) -> tuple[Message, ...]:
        """Build the mentor's messages: the whole case, its answer included, and the prefix to continue."""
        body = self.fill(
            "mentor",
            question=section("question", own_marks(case.question)),
            history=section("history", patient(case)),
            findings=section("findings", "\n".join(case.findings) or "None given."),
            answer=section("answer", case.answer),
        )
        return self._messages("mentor", body, pictures, prefix)

    def intern(self, case: Case, pictures: tuple[ImagePart, ...], prefix: tuple[str, ...]) -> tuple[Message, ...]:
        """Build the intern's messages: images, question, history and prefix, but neither findings nor answer."""
        body = self.fill("intern", question=section("question", own_marks(case.question)), history=section("history", patient(case)))
        return self._messages("intern", body, pictures, prefix)

    def judge(self, question: str, known: str, given: str) -> tuple[Message, ...]:
        """Build the judge's messages: the question and both answers. The given answer is put on one line, inside its section.

        Markup is escaped: a thinking judge may repeat what it is shown, and a closing tag would end its own thinking.
        """
        body = self.fill(
            "judge",
            question=section("question", escape_markup(named_marks(question))),
            known_answer=section("known_answer", escape_markup(known)),
            given_answer=section("given_answer", escape_markup(" ".join(given.split())[:MAX_GIVEN_ANSWER])),
        )
        # Unlike for the other roles, an empty system prompt is sent.
        return (Message("system", (TextPart(self.texts["judge_system"].strip()),)), Message("user", (TextPart(body),)))

    def _messages(self, role: str, body: str, pictures: tuple[ImagePart, ...], prefix: tuple[str, ...]) -> tuple[Message, ...]:
        asked = user_message(body, pictures)
        if prefix:
            reasoning = section("reasoning", render_steps(prefix))
            begun = TextPart(self.fill(f"{role}_prefix", reasoning=reasoning, next_step=str(len(prefix) + 1)))
            asked = replace(asked, parts=(*asked.parts, begun))
        return self.with_system(f"{role}_system", asked)


NAMES = tuple(Prompts.placeholders)
"""Prompts that a configuration may replace."""


def load_prompts(replacements: Mapping[str, Path | str] | None = None) -> Prompts:
    """Load the package's prompts; ``replacements`` names files that replace some of them.

    Raises:
        InputError: a name is unknown, a file cannot be read, or a placeholder is missing.
    """
    return Prompts.load(replacements)


def patient(case: Case) -> str:
    """Return age, sex and history as text."""
    who = ", ".join(part for part in (case.age, case.sex.lower() if case.sex else None) if part)
    return " ".join(part for part in (f"{who}." if who else "", case.history) if part) or "None given."


TEMPLATES: Final = {
    "one-key": "one OpenAI-compatible address and one key, several of its models",
    "openai": "models of OpenAI",
    "gemini": "models of Google's Gemini API",
    "openrouter": "models of several companies behind OpenRouter",
    "vllm": "models on your own GPUs, served by vLLM",
    "ollama": "models on this machine, served by Ollama",
    "paper": "the paper's models",
    "offline": "embedded baselines, without key, network or weights",
    "practice": "embedded stand-ins: practice search, review and build on your own cases, without key or network",
    "chiron-o1": "the published Chiron-o1 models, for 'chiron eval'",
}
"""Configuration templates by name, with what each is for."""


def template(name: str) -> str:
    """Return the text of a configuration template."""
    return (files("chiron.mics") / "configurations" / f"{name}.yaml").read_text("utf-8")
