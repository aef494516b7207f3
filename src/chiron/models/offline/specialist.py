"""Specialist mentors of the miniature world: reliable on some attributes of a case, often wrong on the others, always at the true answer.

What a mentor of flesh or silicon may be: its conclusion is right, since it was told, and some of its steps are not. Which attributes there
are, and what they may be, stands in the textbook beside the cases.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from chiron.cases.textbook import Entry
from chiron.errors import InputError
from chiron.models.sections import read_section

_FORM = re.compile(r"(?P<names>[a-z]+(?:\+[a-z]+)*)(?:@(?P<own>0?\.\d+|[01]),(?P<other>0?\.\d+|[01]))?")


@dataclass(frozen=True)
class Specialist:
    """One specialist."""

    own: frozenset[str]
    """The attributes that it knows."""
    values: Mapping[str, tuple[str, ...]]
    """What each attribute may be, in the order in which the attributes are gone through."""
    right_on_own: float = 0.95
    """How often it says what the findings say, of an attribute that it knows."""
    right_on_others: float = 0.5

    @classmethod
    def parse(cls, form: str, entries: Sequence[Entry]) -> Self:
        """From ``side+size``, or ``side+size@0.95,0.5`` with how often it is right on these and on the others.

        Raises:
            InputError: not of that form, or the textbook knows no such attributes.
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
            there = f"it has {', '.join(values)}" if values else "it has none, or there is no textbook.jsonl beside the cases"
            raise InputError(f"specialist/{form}: the textbook has no attribute '{unknown[0]}': {there}")
        rights = (float(match["own"]), float(match["other"])) if match["own"] else (0.95, 0.5)
        return cls(own, values, *rights)

    def reply(self, prompt: str, *, key: str) -> str:
        """A mentor's reply: the attributes that are not named yet, one a step, then the answer; ``key`` seeds its errors."""
        dice = random.Random(key)  # noqa: S311 - to be repeated, not to be secret
        so_far, findings = read_section(prompt, "reasoning") or "", read_section(prompt, "findings") or ""
        said = [
            f"The {name} is {self._say(name, truth, dice)}."
            for name in self.values
            if f"The {name} is " not in so_far and (truth := self._read(name, findings)) is not None
        ]
        first = 1 + len(re.findall(r"^### Step ", so_far, flags=re.MULTILINE))
        steps = said or ["Together these lead to one diagnosis."]
        lines = [f"### Step {number}: {text}" for number, text in enumerate(steps, start=first)]
        return "\n".join([*lines, f"### The final answer is: {read_section(prompt, 'answer') or ''}"])

    def _read(self, name: str, findings: str) -> str | None:
        """What the findings say of an attribute; ``None`` if they don't."""
        words = set(re.findall(r"[a-z]+", findings.lower()))
        return next((value for value in self.values[name] if value in words), None)

    def _say(self, name: str, truth: str, dice: random.Random) -> str:
        if dice.random() < (self.right_on_own if name in self.own else self.right_on_others):
            return truth
        return dice.choice([value for value in self.values[name] if value != truth])
