"""Extractive mentors: history and findings, a sentence a step, in one of three orders. A baseline: it explains nothing."""

import random
import re
from collections.abc import Callable
from types import MappingProxyType

from chiron.models.sections import read_section

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
    """A mentor's reply: the sentences that the reasoning so far does not hold, then the answer. A later draw shuffles them."""
    history = sentences_of(read_section(prompt, "history"))
    findings = sentences_of(read_section(prompt, "findings"))
    sentences = _ARRANGE[order](history, findings)
    if draw:
        random.Random(key).shuffle(sentences)  # noqa: S311 - another draw of the same prompt
    prefix = _plain(read_section(prompt, "reasoning") or "")
    left = [s for s in sentences if _plain(s) and _plain(s) not in prefix]
    first = 1 + len(re.findall(r"^### Step ", read_section(prompt, "reasoning") or "", flags=re.MULTILINE))
    # What does not fit into the number of steps a reader will follow goes into the last one.
    steps = [*left[: MAX_STEPS - 1], " ".join(left[MAX_STEPS - 1 :])] if len(left) >= MAX_STEPS else left
    steps = steps or ["The steps above leave one explanation."]
    lines = [f"### Step {number}: {text}" for number, text in enumerate(steps, start=first)]
    return "\n".join([*lines, f"### The final answer is: {read_section(prompt, 'answer') or ''}"])


def sentences_of(text: str | None) -> list[str]:
    """The sentences of a section, each on one line."""
    if text is None or text == "None given.":
        return []
    return [" ".join(part.split()) for part in _SENTENCE.split(text) if re.search(r"\w", part)]


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
