"""An embedded author and an embedded reader: rules over findings that a textbook can read. Baselines: they know words, and no medicine.

With a textbook that says what its entries hold for (``attributes``; drawn worlds have one), the author goes through the attributes that the
findings name, and the wrong options are the answers of the nearest other entries; the reader looks its entry up. Without one, the author's
steps are the findings' own sentences, and the reader chooses the option whose words the case holds.
"""

import json
import random
import re
from collections.abc import Mapping

from chiron.client.prompts import read_section
from chiron.providers.baselines.search_team import MAX_STEPS, AnswerPool, normalise, sentences_of, words

QUESTIONS = (
    "Which diagnosis do these findings lead to?",
    "What is the most likely diagnosis?",
    "Which diagnosis fits this case best?",
    "Considering what was found, what is the diagnosis?",
)
_ADDRESSED = ("Teacher, which diagnosis follows from what is seen here?", "Doctor, what do I have?")
"""Asked in a manner that says so: whom a question begins with."""
_OPTION = re.compile(r"^([A-Z])\. (.*)$", re.MULTILINE)
_COUNT = re.compile(r"^Questions to write: (\d{1,2})$", re.MULTILINE)


class Rules:
    """Reads findings by the textbook's words."""

    def __init__(self, catalogue: AnswerPool) -> None:
        """``catalogue``: whose answers there are, and the textbook's entries."""
        self._answers = catalogue.answers
        self._entries = [(dict(entry.attributes), entry.answer) for entry in catalogue.entries if entry.attributes]
        self._values: dict[str, tuple[str, ...]] = {}
        for attributes, _ in self._entries:
            for name, value in attributes.items():
                self._values[name] = tuple(sorted({*self._values.get(name, ()), value}))

    def attributes(self, text: str) -> dict[str, str]:
        """What a text says of each attribute, by name; those that it does not say, or says two ways, are left out."""
        held = set(re.findall(r"[^\W\d_]+", text.lower()))
        found = {name: [value for value in values if value.lower() in held] for name, values in self._values.items()}
        return {name: values[0] for name, values in found.items() if len(values) == 1}

    def steps(self, text: str) -> list[str]:
        """What leads to an answer: an attribute a step, or a sentence."""
        if found := self.attributes(text):
            return [f"The {name} is {value}." for name, value in found.items()]
        sentences = sentences_of(text)
        return [*sentences[: MAX_STEPS - 1], " ".join(sentences[MAX_STEPS - 1 :])] if len(sentences) >= MAX_STEPS else sentences

    def answers_of(self, text: str) -> frozenset[str]:
        """The answers of the entries that hold for a text, normalised."""
        found = self.attributes(text)
        # An entry that says less than all its attributes are known of would hold for anything.
        return frozenset(normalise(answer) for held, answer in self._entries if found and all(found.get(n) == v for n, v in held.items()))

    def wrong(self, answer: str, text: str, count: int, chance: random.Random) -> list[str]:
        """Other answers, those of the entries nearest to the text first; where no entry tells, at random."""
        found = self.attributes(text)
        nearness: dict[str, int] = {}
        for held, other in self._entries:
            nearness[other] = max(nearness.get(other, 0), sum(found.get(name) == value for name, value in held.items()))
        others = [other for other in self._answers if normalise(other) != normalise(answer)]
        chance.shuffle(others)
        others.sort(key=lambda other: -nearness.get(other, 0))
        return others[:count]


def author(rules: Rules, prompt: str, *, key: str) -> str:
    """The author's reply: multiple-choice questions where so many are asked for, else one question and its answer."""
    chance = random.Random(key)  # noqa: S311 - to be repeated, not to be secret
    findings, answer = _told(prompt, "findings"), _told(prompt, "answer")
    asked = _COUNT.search(prompt)
    if asked is None:
        return json.dumps({"question": _in_manner(prompt, chance), "answer": answer})
    steps = rules.steps(findings) or rules.steps(_told(prompt, "history"))
    questions: list[Mapping[str, object]] = []
    for question in chance.sample(QUESTIONS, k=min(int(asked[1]), len(QUESTIONS))):
        options = [answer, *rules.wrong(answer, findings, 3, chance)]
        questions.append({"question": question, "options": options, "answer": answer, "reasoning": steps})
    return json.dumps({"questions": questions}, ensure_ascii=False)


def reader(rules: Rules, prompt: str, *, key: str) -> str:
    """The reader's reply: letters of options. Asked whether an answer follows from a case, yes or no."""
    case = f"{_told(prompt, 'history')}\n{_told(prompt, 'findings')}"
    listed = read_section(prompt, "options")
    if listed is None:
        return "yes" if _follows(rules, case, _told(prompt, "answer")) else "no"
    options = _OPTION.findall(listed)
    if not options:
        return "none"
    if read_section(prompt, "findings") is not None:
        known = rules.answers_of(_told(prompt, "findings"))
        if letters := [letter for letter, option in options if normalise(option) in known]:
            return ", ".join(letters)
        held = set(words(case))
        nearness = [len(held & set(words(option))) / max(1, len(set(words(option)))) for _, option in options]
        if max(nearness) > 0:
            return str(options[nearness.index(max(nearness))][0])
    return str(random.Random(key).choice(options)[0])  # noqa: S311 - a guess, to be repeated


def _follows(rules: Rules, case: str, answer: str) -> bool:
    return normalise(answer) in rules.answers_of(case) or set(words(answer)) <= set(words(case))


def _in_manner(prompt: str, chance: random.Random) -> str:
    manner = read_section(prompt, "manner") or ""
    return next((question for question in _ADDRESSED if question.split()[0] in manner), chance.choice(QUESTIONS))


def _told(prompt: str, name: str) -> str:
    text = read_section(prompt, name) or ""
    return "" if text == "None given." else text
