"""Embedded mentors, interns and judge for the search: extractive, specialist, retrieval and matching baselines."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from chiron.cases.textbook import AnswerPool, TextbookEntry
from chiron.client.prompts import read_section
from chiron.errors import InputError
from chiron.text import normalize_answer

ORDERS = ("findings-first", "history-first", "last-first")
MAX_STEPS = 8
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\"'])|\n+")

Arrange = Callable[[list[str], list[str]], list[str]]
_ARRANGE: MappingProxyType[str, Arrange] = MappingProxyType(
    {
        "findings-first": lambda history, findings: findings + history,
        "history-first": lambda history, findings: history + findings,
        "last-first": lambda history, findings: (history + findings)[::-1],
    }
)


def extractive(order: str, prompt: str, *, draw: int, key: str) -> str:
    """Return a mentor's reply: the sentences missing in the reasoning so far, then the answer. Samples after the first are shuffled."""
    history = sentences_of(read_section(prompt, "history"))
    findings = sentences_of(read_section(prompt, "findings"))
    sentences = _ARRANGE[order](history, findings)
    if draw:
        random.Random(key).shuffle(sentences)  # noqa: S311 - another sample of the same prompt
    prefix = _plain(read_section(prompt, "reasoning") or "")
    left = [s for s in sentences if _plain(s) and _plain(s) not in prefix]
    first = 1 + len(re.findall(r"^### Step ", read_section(prompt, "reasoning") or "", flags=re.MULTILINE))
    # The last step contains all sentences beyond the maximum number of steps.
    steps = [*left[: MAX_STEPS - 1], " ".join(left[MAX_STEPS - 1 :])] if len(left) >= MAX_STEPS else left
    steps = steps or ["The steps above leave one explanation."]
    lines = [f"### Step {number}: {text}" for number, text in enumerate(steps, start=first)]
    return "\n".join([*lines, f"### The final answer is: {read_section(prompt, 'answer') or ''}"])


def sentences_of(text: str | None) -> list[str]:
    """Return the sentences of a section, each on one line."""
    if text is None or text == "None given.":
        return []
    return [" ".join(part.split()) for part in _SENTENCE.split(text) if re.search(r"\w", part)]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


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
        values: dict[str, tuple[str, ...]] = {}
        for entry in entries:
            for name, value in entry.attributes.items():
                values[name] = tuple(sorted({*values.get(name, ()), value}))
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
        dice = random.Random(key)  # noqa: S311 - reproducible, not secret
        so_far, findings = read_section(prompt, "reasoning") or "", read_section(prompt, "findings") or ""
        stated = [
            f"The {name} is {self._say(name, truth, dice)}."
            for name in self.values
            if f"The {name} is " not in so_far and (truth := self._read(name, findings)) is not None
        ]
        first = 1 + len(re.findall(r"^### Step ", so_far, flags=re.MULTILINE))
        steps = stated or ["Together these lead to one diagnosis."]
        lines = [f"### Step {number}: {text}" for number, text in enumerate(steps, start=first)]
        return "\n".join([*lines, f"### The final answer is: {read_section(prompt, 'answer') or ''}"])

    def _read(self, name: str, findings: str) -> str | None:
        """Return the value of an attribute in the findings, or ``None``."""
        words = set(re.findall(r"[a-z]+", findings.lower()))
        return next((value for value in self.values[name] if value in words), None)

    def _say(self, name: str, truth: str, dice: random.Random) -> str:
        if dice.random() < (self.right_on_own if name in self.own else self.right_on_others):
            return truth
        return dice.choice([value for value in self.values[name] if value != truth])


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


TOKENS: MappingProxyType[str, Callable[[str], list[str]]] = MappingProxyType({"words": words, "trigrams": trigrams})
METHODS = MappingProxyType({"words": "lucene", "trigrams": "bm25+"})


class Retriever:
    """A retriever over one answer pool; built once and used for every call."""

    def __init__(self, kind: str, pool: AnswerPool) -> None:
        """``kind``: ``words`` or ``trigrams``. Each textbook entry is a separate document, in addition to the answer's name."""
        import bm25s

        self._tokens = TOKENS[kind]
        self.answers = pool.answers
        index = {answer: i for i, answer in enumerate(pool.answers)}
        documents = [(i, answer) for answer, i in index.items()] + [(index[e.answer], e.text) for e in pool.entries]
        self._owner = np.array([owner for owner, _ in documents], dtype=np.int64)
        tokens = [self._tokens(text) or ["\x00"] for _, text in documents]
        self._vocabulary = {t for document in tokens for t in document}
        self._bm25 = bm25s.BM25(method=METHODS[kind])
        self._bm25.index(tokens, show_progress=False)

    def nearness(self, query: str) -> NDArray[np.float64]:
        """Return the similarity of each answer to the query in [0, 1], shape (answers,). The best has 1; all are 0 if nothing matches."""
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
        number = 1 + len(re.findall(r"^### Step ", read_section(prompt, "reasoning") or "", flags=re.MULTILINE))
        return f"### Step {number}: Of the answers known here, this is the nearest to what was stated.\n### The final answer is: {answer}"

    def _choose(self, nearness: NDArray[np.float64], temperature: float, key: str) -> str:
        if temperature <= 0:
            return self.answers[int(nearness.argmax())]
        weights = np.exp(_SHARPNESS * (nearness - nearness.max()) / temperature)
        return random.Random(key).choices(self.answers, weights=weights.tolist())[0]  # noqa: S311 - sampling, not secrets


def match(prompt: str) -> str:
    """Return the judge's reply: ``yes`` or ``no``."""
    known, given = read_section(prompt, "known_answer"), read_section(prompt, "given_answer")
    return "yes" if known is not None and given is not None and normalize_answer(known) == normalize_answer(given) != "" else "no"
