"""Embedded author and reader: rules that compare findings with a textbook. They are baselines without medical knowledge.

If the textbook gives the ``attributes`` of its entries (synthetic cases do), the author states the attributes found in the findings, and
the wrong options are the answers of the most similar other entries. The reader looks up the matching entry. Without attributes, the
author's steps are the sentences of the findings, and the reader chooses the option whose words occur in the case.
"""

import json
import random
import re
from collections.abc import Mapping

from chiron.cases.textbook import AnswerPool
from chiron.client.prompts import read_section
from chiron.providers.baselines.search_team import MAX_STEPS, sentences_of, words
from chiron.text import normalize_answer

QUESTIONS = (
    "Which diagnosis do these findings lead to?",
    "What is the most likely diagnosis?",
    "Which diagnosis fits this case best?",
    "Considering what was found, what is the diagnosis?",
)
_ADDRESSED = ("Teacher, which diagnosis follows from what is seen here?", "Doctor, what do I have?")
"""Openings of questions addressed to a person, for personas that require one."""
_OPTION = re.compile(r"^([A-Z])\. (.*)$", re.MULTILINE)
_COUNT = re.compile(r"^Questions to write: (\d{1,2})$", re.MULTILINE)


class Rules:
    """Read findings with the textbook's words."""

    def __init__(self, pool: AnswerPool) -> None:
        """``pool``: the possible answers, and the textbook's entries."""
        self._answers = pool.answers
        self._entries = [(dict(entry.attributes), entry.answer) for entry in pool.entries if entry.attributes]
        self._values: dict[str, tuple[str, ...]] = {}
        for attributes, _ in self._entries:
            for name, value in attributes.items():
                self._values[name] = tuple(sorted({*self._values.get(name, ()), value}))

    def attributes(self, text: str) -> dict[str, str]:
        """Return the value of each attribute found in a text. Attributes with no value or with contradictory values are omitted."""
        held = set(re.findall(r"[^\W\d_]+", text.lower()))
        found = {name: [value for value in values if value.lower() in held] for name, values in self._values.items()}
        return {name: values[0] for name, values in found.items() if len(values) == 1}

    def steps(self, text: str) -> list[str]:
        """Return the reasoning steps toward an answer: one attribute or sentence per step."""
        if found := self.attributes(text):
            return [f"The {name} is {value}." for name, value in found.items()]
        sentences = sentences_of(text)
        return [*sentences[: MAX_STEPS - 1], " ".join(sentences[MAX_STEPS - 1 :])] if len(sentences) >= MAX_STEPS else sentences

    def answers_of(self, text: str) -> frozenset[str]:
        """Return the normalized answers of the entries that match a text."""
        found = self.attributes(text)
        # An entry matches if the text confirms all of its attributes. Entries without known attributes would match anything.
        return frozenset(
            normalize_answer(answer) for held, answer in self._entries if found and all(found.get(n) == v for n, v in held.items())
        )

    def wrong(self, answer: str, text: str, count: int, chance: random.Random) -> list[str]:
        """Return other answers, those of the entries most similar to the text first. Without matching attributes, the order is random."""
        found = self.attributes(text)
        nearness: dict[str, int] = {}
        for held, other in self._entries:
            nearness[other] = max(nearness.get(other, 0), sum(found.get(name) == value for name, value in held.items()))
        others = [other for other in self._answers if normalize_answer(other) != normalize_answer(answer)]
        chance.shuffle(others)
        others.sort(key=lambda other: -nearness.get(other, 0))
        return others[:count]


def author(rules: Rules, prompt: str, *, key: str) -> str:
    """Return the author's reply: multiple-choice questions if the prompt asks for several, else one question and its answer."""
    chance = random.Random(key)  # noqa: S311 - reproducible, not secret
    findings, answer = _section(prompt, "findings"), _section(prompt, "answer")
    asked = _COUNT.search(prompt)
    if asked is None:
        return json.dumps({"question": _in_manner(prompt, chance), "answer": answer})
    steps = rules.steps(findings) or rules.steps(_section(prompt, "history"))
    questions: list[Mapping[str, object]] = []
    for question in chance.sample(QUESTIONS, k=min(int(asked[1]), len(QUESTIONS))):
        options = [answer, *rules.wrong(answer, findings, 3, chance)]
        questions.append({"question": question, "options": options, "answer": answer, "reasoning": steps})
    return json.dumps({"questions": questions}, ensure_ascii=False)


def reader(rules: Rules, prompt: str, *, key: str) -> str:
    """Return the reader's reply: letters of options, or yes or no if asked whether an answer follows from a case."""
    case = f"{_section(prompt, 'history')}\n{_section(prompt, 'findings')}"
    listed = read_section(prompt, "options")
    if listed is None:
        return "yes" if _follows(rules, case, _section(prompt, "answer")) else "no"
    options = _OPTION.findall(listed)
    if not options:
        return "none"
    if read_section(prompt, "findings") is not None:
        known = rules.answers_of(_section(prompt, "findings"))
        if letters := [letter for letter, option in options if normalize_answer(option) in known]:
            return ", ".join(letters)
        held = set(words(case))
        nearness = [len(held & set(words(option))) / max(1, len(set(words(option)))) for _, option in options]
        if max(nearness) > 0:
            return str(options[nearness.index(max(nearness))][0])
    return str(random.Random(key).choice(options)[0])  # noqa: S311 - a reproducible guess


def _follows(rules: Rules, case: str, answer: str) -> bool:
    return normalize_answer(answer) in rules.answers_of(case) or set(words(answer)) <= set(words(case))


def _in_manner(prompt: str, chance: random.Random) -> str:
    persona_text = read_section(prompt, "manner") or ""
    return next((question for question in _ADDRESSED if question.split()[0] in persona_text), chance.choice(QUESTIONS))


def _section(prompt: str, name: str) -> str:
    text = read_section(prompt, name) or ""
    return "" if text == "None given." else text
