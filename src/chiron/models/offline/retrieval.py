"""Retrieval interns: of the case file's answers, the one nearest to question and reasoning (BM25). A baseline: it sees no image."""

import random
import re
from collections.abc import Callable
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from chiron.models.offline.catalogue import Catalogue
from chiron.models.sections import read_section

_STOP = frozenset(
    """
    a an and are as at be been by for from has have in into is it its of on or seen shows so than that the there these this to was were
    what which while with patient most likely given based image images findings step final answer
    """.split()
)
_SHARPNESS = 8.0
"""At temperature 1 an answer that is an eighth less near than the nearest is e times less likely to be given."""


def words(text: str) -> list[str]:
    """Words of ``text``, lower case, without the commonest."""
    return [w for w in re.findall(r"[^\W_]+", text.lower()) if w not in _STOP]


def trigrams(text: str) -> list[str]:
    """Overlapping three-letter pieces of its words: near in spelling counts as near."""
    return [f" {w} "[i : i + 3] for w in words(text) for i in range(len(w))]


TOKENS: MappingProxyType[str, Callable[[str], list[str]]] = MappingProxyType({"words": words, "trigrams": trigrams})
METHODS = MappingProxyType({"words": "lucene", "trigrams": "bm25+"})


class Retriever:
    """One retriever over one catalogue; built once, asked for every call."""

    def __init__(self, kind: str, catalogue: Catalogue) -> None:
        """``kind``: ``words`` or ``trigrams``. A textbook entry is a document of its own, beside the answer's name."""
        import bm25s

        self._tokens = TOKENS[kind]
        self.answers = catalogue.answers
        index = {answer: i for i, answer in enumerate(catalogue.answers)}
        documents = [(i, answer) for answer, i in index.items()] + [(index[e.answer], e.text) for e in catalogue.entries]
        self._owner = np.array([owner for owner, _ in documents], dtype=np.int64)
        tokens = [self._tokens(text) or ["\x00"] for _, text in documents]
        self._vocabulary = {t for document in tokens for t in document}
        self._bm25 = bm25s.BM25(method=METHODS[kind])
        self._bm25.index(tokens, show_progress=False)

    def nearness(self, query: str) -> NDArray[np.float64]:
        """For each answer, how near it is, in [0, 1]: shape (answers,), the nearest 1; all 0 if nothing is near."""
        best = np.zeros(len(self.answers))
        known = [t for t in self._tokens(query) if t in self._vocabulary]
        if known:
            scores = np.asarray(self._bm25.get_scores(known), dtype=np.float64)
            np.maximum.at(best, self._owner, scores - min(0.0, float(scores.min())))
        top = float(best.max())
        return best / top if top > 0 else best

    def reply(self, prompt: str, *, temperature: float, key: str) -> str:
        """An intern's reply; ``key`` seeds what a temperature leaves to chance."""
        question = read_section(prompt, "question") or ""
        reasoning = re.sub(r"^### Step \d+:", "", read_section(prompt, "reasoning") or "", flags=re.MULTILINE)
        answer = self._choose(self.nearness(f"{question}\n{reasoning}"), temperature, key)
        number = 1 + len(re.findall(r"^### Step ", read_section(prompt, "reasoning") or "", flags=re.MULTILINE))
        return f"### Step {number}: Of the answers known here, this is the nearest to what was said.\n### The final answer is: {answer}"

    def _choose(self, nearness: NDArray[np.float64], temperature: float, key: str) -> str:
        if temperature <= 0:
            return self.answers[int(nearness.argmax())]
        weights = np.exp(_SHARPNESS * (nearness - nearness.max()) / temperature)
        return random.Random(key).choices(self.answers, weights=weights.tolist())[0]  # noqa: S311 - sampling, not secrets
