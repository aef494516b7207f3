"""Embedded models: mentors, interns and judge of a search, and author and reader of questions, all by rules and without medical knowledge.

If the textbook gives the ``attributes`` of its entries (synthetic cases do), the author states the attributes found in the findings, and
the wrong options are the answers of the most similar other entries. The reader looks up the matching entry. Without attributes, the
author's steps are the sentences of the findings, and the reader chooses the option whose words occur in the case.
"""

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from chiron.cases.reader import AnswerPool, TextbookEntry
from chiron.client.failures import CallerFault
from chiron.client.prompts import read_section
from chiron.errors import InputError
from chiron.text import normalize_answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_STEPS = 8
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\"'])|\n+")
_ARRANGE: Mapping[str, Callable[[list[str], list[str]], list[str]]] = {
    "findings-first": lambda history, findings: findings + history,
    "history-first": lambda history, findings: history + findings,
    "last-first": lambda history, findings: (history + findings)[::-1],
}
ORDERS = tuple(_ARRANGE)


def extractive(order: str, prompt: str, *, draw: int, key: str) -> str:
    """Return a mentor's reply: the sentences missing in the reasoning so far, then the answer. Samples after the first are shuffled.

    Asked about a wrong step, it says only that the step is not enough.
    """
    if read_section(prompt, "wrong_step") is not None:
        return "Looking again, this alone does not separate the possible diagnoses."
    left = quotes(order, prompt, draw=draw, key=key) or ["The steps above leave one explanation."]
    return write_steps(left, prompt, read_section(prompt, "answer") or "")


def quotes(order: str, prompt: str, *, draw: int, key: str) -> list[str]:
    """Return the sentences of history and findings that the reasoning so far lacks. The last contains all beyond the maximum number."""
    sentences = _ARRANGE[order](_sentences_of(_section(prompt, "history")), _sentences_of(_section(prompt, "findings")))
    if draw:
        random.Random(key).shuffle(sentences)  # noqa: S311 - another sample of the same prompt
    prefix = _plain(read_section(prompt, "reasoning") or "")
    return _limited([s for s in sentences if _plain(s) and _plain(s) not in prefix])


def _limited(steps: list[str]) -> list[str]:
    """Join the last steps if there are more than the maximum number."""
    return [*steps[: _MAX_STEPS - 1], " ".join(steps[_MAX_STEPS - 1 :])] if len(steps) > _MAX_STEPS else steps


def write_steps(steps: Sequence[str], prompt: str, answer: str) -> str:
    """Return numbered steps that continue the reasoning in the prompt, and the final answer."""
    first = 1 + len(re.findall(r"^### Step ", read_section(prompt, "reasoning") or "", flags=re.MULTILINE))
    lines = [f"### Step {number}: {text}" for number, text in enumerate(steps, start=first)]
    return "\n".join([*lines, f"### The final answer is: {answer}"])


def _sentences_of(text: str) -> list[str]:
    return [" ".join(part.split()) for part in _SENTENCE.split(text) if re.search(r"\w", part)]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _section(prompt: str, name: str) -> str:
    text = read_section(prompt, name) or ""
    return "" if text == "None given." else text


def _values_of(entries: Iterable[TextbookEntry]) -> dict[str, tuple[str, ...]]:
    """Return the values of each attribute in a textbook."""
    values: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        for name, value in entry.attributes.items():
            values[name] = tuple(sorted({*values.get(name, ()), value}))
    return values


_FORM = re.compile(r"(?P<names>[a-z]+(?:\+[a-z]+)*)(?:@(?P<own>0?\.\d+|[01]),(?P<other>0?\.\d+|[01]))?")


@dataclass(frozen=True)
class Specialist:
    """A mentor that reads some attributes reliably and the others less so."""

    own: frozenset[str]
    """Attributes that it reads reliably."""
    values: Mapping[str, tuple[str, ...]]
    """Possible values of each attribute, in the order in which attributes are read."""
    right_on_own: float = 0.95
    """Probability of reading an attribute in ``own`` correctly."""
    right_on_others: float = 0.5

    @classmethod
    def parse(cls, form: str, entries: Sequence[TextbookEntry]) -> Self:
        """Parse ``side+size``, or ``side+size@0.95,0.5`` with the probabilities of being right on these and on other attributes.

        Raises:
            InputError: the form is invalid, or the textbook has no such attributes.
        """
        match = _FORM.fullmatch(form)
        if match is None:
            raise InputError(f"specialist/{form}: write the attributes that it knows, for example specialist/side+size@0.95,0.5")
        values = _values_of(entries)
        own = frozenset(match["names"].split("+"))
        if unknown := sorted(own - set(values)):
            there = (
                f"choose from {', '.join(values)}"
                if values
                else "its entries have no attributes, or there is no textbook.jsonl next to the cases"
            )
            raise InputError(f"specialist/{form}: the textbook has no attribute '{unknown[0]}': {there}")
        rights = (float(match["own"]), float(match["other"])) if match["own"] else (0.95, 0.5)
        return cls(own, values, *rights)

    def reply(self, prompt: str, *, key: str) -> str:
        """Return a mentor's reply: one step per attribute not named so far, then the answer. ``key`` seeds its errors."""
        if (wrong := read_section(prompt, "wrong_step")) is not None:
            return self._reconsider(wrong, read_section(prompt, "findings") or "")
        dice = random.Random(key)  # noqa: S311 - reproducible, not secret
        so_far, findings = read_section(prompt, "reasoning") or "", read_section(prompt, "findings") or ""
        stated = [
            f"The {name} is {self._say(name, truth, dice)}."
            for name in self.values
            if f"The {name} is " not in so_far and (truth := self._read(name, findings)) is not None
        ]
        return write_steps(stated or ["Together these lead to one diagnosis."], prompt, read_section(prompt, "answer") or "")

    def _reconsider(self, wrong: str, findings: str) -> str:
        """Say which attributes a wrong step misread."""
        said = [
            f"the {name} is not {value}"
            for name, values in self.values.items()
            for value in values
            if f"The {name} is {value}." in wrong and value != self._read(name, findings)
        ]
        return f"Looking again, {' and '.join(said) or 'this alone does not separate the possible diagnoses'}."

    def _read(self, name: str, findings: str) -> str | None:
        words = set(re.findall(r"[a-z]+", findings.lower()))
        return next((value for value in self.values[name] if value in words), None)

    def _say(self, name: str, truth: str, dice: random.Random) -> str:
        others = [value for value in self.values[name] if value != truth]
        is_right = dice.random() < (self.right_on_own if name in self.own else self.right_on_others)
        return truth if is_right or not others else dice.choice(others)


_STOP = frozenset(
    """
    a an and are as at be been by for from has have in into is it its of on or seen shows so than that the there these this to was were
    what which while with patient most likely given based image images findings step final answer
    """.split()
)
_SHARPNESS = 8.0
"""Softmax scale: at temperature 1, an answer with a similarity 1/8 below the best is e times less likely."""


def words(text: str) -> list[str]:
    """Return the words of ``text`` in lower case, without the most common ones."""
    return [w for w in re.findall(r"[^\W_]+", text.lower()) if w not in _STOP]


def trigrams(text: str) -> list[str]:
    """Return overlapping three-letter pieces of the words of ``text``, so that similar spellings match."""
    return [f" {w} "[i : i + 3] for w in words(text) for i in range(len(w))]


TOKENS: Mapping[str, Callable[[str], list[str]]] = {"words": words, "trigrams": trigrams}
_METHODS = {"words": "lucene", "trigrams": "bm25+"}


class Retriever:
    """A retriever over one answer pool; built once and used for every call."""

    def __init__(self, kind: str, pool: AnswerPool) -> None:
        """``kind``: ``words`` or ``trigrams``. Each textbook entry is a separate document, in addition to the answer's name.

        Raises:
            CallerFault: the pool is empty.
        """
        import bm25s
        import numpy as np

        if not pool.answers:
            raise CallerFault(f"retrieval/{kind} chooses among the answers of a file of cases, and there is none: ask another model")
        self._tokens = TOKENS[kind]
        self.answers = pool.answers
        index = {answer: i for i, answer in enumerate(pool.answers)}
        documents = [(i, answer) for answer, i in index.items()] + [(index[e.answer], e.text) for e in pool.entries]
        self._owner = np.array([owner for owner, _ in documents], dtype=np.int64)
        tokens = [self._tokens(text) or ["\x00"] for _, text in documents]
        self._vocabulary = {t for document in tokens for t in document}
        self._bm25 = bm25s.BM25(method=_METHODS[kind])
        self._bm25.index(tokens, show_progress=False)

    def nearness(self, query: str) -> "NDArray[np.float64]":
        """Return the similarity of each answer to the query in [0, 1], shape (answers,). The best has 1; all are 0 if nothing matches."""
        import numpy as np

        best = np.zeros(len(self.answers))
        known = [t for t in self._tokens(query) if t in self._vocabulary]
        if known:
            scores = np.asarray(self._bm25.get_scores(known), dtype=np.float64)
            np.maximum.at(best, self._owner, scores - min(0.0, float(scores.min())))
        top = float(best.max())
        return best / top if top > 0 else best

    def reply(self, prompt: str, *, temperature: float, key: str) -> str:
        """Return an intern's reply; ``key`` seeds the sampling."""
        question = read_section(prompt, "question") or ""
        reasoning = re.sub(r"^### Step \d+:", "", read_section(prompt, "reasoning") or "", flags=re.MULTILINE)
        answer = self._choose(self.nearness(f"{question}\n{reasoning}"), temperature, key)
        return write_steps(["Of the answers known here, this is the nearest to what was stated."], prompt, answer)

    def _choose(self, nearness: "NDArray[np.float64]", temperature: float, key: str) -> str:
        if temperature <= 0:
            return self.answers[int(nearness.argmax())]
        import numpy as np

        weights = np.exp(_SHARPNESS * (nearness - nearness.max()) / temperature)
        return random.Random(key).choices(self.answers, weights=weights.tolist())[0]  # noqa: S311 - sampling, not secrets


def match(prompt: str) -> str:
    """Return the judge's reply: ``yes`` or ``no``."""
    known, given = read_section(prompt, "known_answer"), read_section(prompt, "given_answer")
    return "yes" if known is not None and given is not None and normalize_answer(known) == normalize_answer(given) != "" else "no"


QUESTIONS = (
    "Which diagnosis do these findings lead to?",
    "What is the most likely diagnosis?",
    "Which diagnosis fits this case best?",
    "Considering what was found, what is the diagnosis?",
)
_ADDRESSED = ("Teacher, which diagnosis follows from what is seen here?", "Doctor, what do I have?")
"""Openings of questions addressed to a person, for personas that require one."""
OPTION = re.compile(r"^([A-Z])\. (.*)$", re.MULTILINE)
_COUNT = re.compile(r"^Questions to write: (\d{1,2})$", re.MULTILINE)


class Rules:
    """Read findings with the textbook's words."""

    def __init__(self, pool: AnswerPool) -> None:
        """``pool``: the possible answers, and the textbook's entries."""
        self._answers = pool.answers
        self._entries = [(dict(entry.attributes), entry.answer) for entry in pool.entries if entry.attributes]
        self._values = _values_of(pool.entries)

    def attributes(self, text: str) -> dict[str, str]:
        """Return the value of each attribute found in a text. Attributes with no value or with contradictory values are omitted."""
        held = set(re.findall(r"[^\W\d_]+", text.lower()))
        found = {name: [value for value in values if value.lower() in held] for name, values in self._values.items()}
        return {name: values[0] for name, values in found.items() if len(values) == 1}

    def steps(self, text: str) -> list[str]:
        """Return the reasoning steps toward an answer: one attribute or sentence per step."""
        if found := self.attributes(text):
            return [f"The {name} is {value}." for name, value in found.items()]
        return _limited(_sentences_of(text))

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
    options = OPTION.findall(listed)
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
