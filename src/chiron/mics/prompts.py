"""Prompts of mentors, interns and judge, and the configuration templates of ``chiron init``."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from chiron.cases.case import Case
from chiron.cases.image_marks import named_marks
from chiron.client.call import ImagePart, Message, TextPart
from chiron.client.prompts import PromptKind, fill, hashes, own_marks, section, user_message
from chiron.conversation.markup import escape_markup
from chiron.conversation.reasoning import render_steps

_KIND = PromptKind(
    "chiron.mics",
    {
        "mentor_system": frozenset(),
        "mentor": frozenset({"question", "history", "findings", "answer"}),
        "mentor_prefix": frozenset({"reasoning", "next_step"}),
        "intern_system": frozenset(),
        "intern": frozenset({"question", "history"}),
        "intern_prefix": frozenset({"reasoning", "next_step"}),
        "judge_system": frozenset(),
        "judge": frozenset({"question", "known_answer", "given_answer"}),
    },
    optional=frozenset({"history", "findings", "next_step"}),
)
NAMES = tuple(_KIND.placeholders)
"""Prompts that a configuration may replace."""
MAX_GIVEN_ANSWER = 600
"""Maximum number of characters of an answer shown to the judge. A longer text could argue with the judge instead of answering."""


@dataclass(frozen=True)
class Prompts:
    """The prompt texts of one run."""

    texts: Mapping[str, str]
    """Texts by name; all of :data:`NAMES`."""

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 (hex) of each text, as stored in ``run.json``."""
        return hashes(self.texts)

    def mentor(self, case: Case, pictures: tuple[ImagePart, ...], prefix: tuple[str, ...]) -> tuple[Message, ...]:
        """Build the mentor's messages: the whole case, its answer included, and the prefix to continue."""
        body = self._fill(
            "mentor",
            question=section("question", own_marks(case.question)),
            history=section("history", patient(case)),
            findings=section("findings", "\n".join(case.findings) or "None given."),
            answer=section("answer", case.answer),
        )
        return self._messages("mentor", body, pictures, prefix)

    def intern(self, case: Case, pictures: tuple[ImagePart, ...], prefix: tuple[str, ...]) -> tuple[Message, ...]:
        """Build the intern's messages: images, question, history and prefix, but neither findings nor answer."""
        body = self._fill("intern", question=section("question", own_marks(case.question)), history=section("history", patient(case)))
        return self._messages("intern", body, pictures, prefix)

    def judge(self, question: str, known: str, given: str) -> tuple[Message, ...]:
        """Build the judge's messages: the question and both answers. The given answer is put on one line, inside its section.

        Markup is escaped: a thinking judge may repeat what it is shown, and a closing tag would end its own thinking.
        """
        body = self._fill(
            "judge",
            question=section("question", escape_markup(named_marks(question))),
            known_answer=section("known_answer", escape_markup(known)),
            given_answer=section("given_answer", escape_markup(" ".join(given.split())[:MAX_GIVEN_ANSWER])),
        )
        return (_say("system", self.texts["judge_system"].strip()), _say("user", body))

    def _messages(self, role: str, body: str, pictures: tuple[ImagePart, ...], prefix: tuple[str, ...]) -> tuple[Message, ...]:
        asked = user_message(body, pictures)
        if prefix:
            reasoning = section("reasoning", render_steps(prefix))
            begun = TextPart(self._fill(f"{role}_prefix", reasoning=reasoning, next_step=str(len(prefix) + 1)))
            asked = replace(asked, parts=(*asked.parts, begun))
        system = self.texts[f"{role}_system"].strip()
        # An empty file means no system message, because endpoints handle an empty message differently.
        return (*((_say("system", system),) if system else ()), asked)

    def _fill(self, name: str, **values: str) -> str:
        return fill(self.texts[name], **values)


def load_prompts(replacements: Mapping[str, Path] | None = None) -> Prompts:
    """Load the package's prompts; ``replacements`` names files that replace some of them.

    Raises:
        InputError: a name is unknown, a file cannot be read, or a placeholder is missing.
    """
    return Prompts(_KIND.load(replacements))


def patient(case: Case) -> str:
    """Return age, sex and history as text."""
    who = ", ".join(part for part in (case.age, case.sex.lower() if case.sex else None) if part)
    told = [f"{who}." if who else "", case.history]
    return " ".join(part for part in told if part) or "None given."


def _say(role: str, text: str) -> Message:
    assert role in {"system", "user"}  # noqa: S101 - narrows a literal
    return Message("system" if role == "system" else "user", (TextPart(text),))


TEMPLATE_NAMES = ("paper", "ollama", "offline", "chiron-o1")
"""Templates: the paper's team with its usual endpoints, a team on Ollama, the embedded team, and the published models for evaluation."""


def template(name: str) -> str:
    """Return the text of a configuration template."""
    return (files("chiron.mics") / "configurations" / f"{name}.yaml").read_text("utf-8")
