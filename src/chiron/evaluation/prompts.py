"""What a model under test, its judge and its extractor are told: the files in ``prompts/``, and those of the search's interns and judge."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from chiron.mics.prompts import NAMES as SEARCH_NAMES
from chiron.mics.prompts import Prompts, load_prompts
from chiron.models.prompt_texts import PromptKind, hashes

_KIND = PromptKind(
    "chiron.evaluation",
    {
        "choice": frozenset({"question", "options"}),
        "short": frozenset({"question"}),
        "yes_no": frozenset({"question"}),
        "chain": frozenset({"question", "options"}),
        "published_judge": frozenset({"known_answer", "given_answer"}),
        "extractor": frozenset({"question", "reasoning"}),
    },
)
_BARE = {"intern_system": "", "intern": "$question\n", "intern_prefix": "$reasoning\n"}
"""Nothing but question and reasoning: all that the miniature's small models know."""


@dataclass(frozen=True)
class EvaluationPrompts:
    """The texts of one evaluation."""

    own: Mapping[str, str]
    search: Prompts
    """Interns and judge, as in a search."""

    @classmethod
    def load(cls, replacements: Mapping[str, Path] | None = None) -> Self:
        """The packages' texts, with the user's own files in place of some.

        Raises:
            InputError: an unknown name, a file that cannot be read, or one that lacks a placeholder.
        """
        given = dict(replacements or {})
        search = {name: given.pop(name) for name in SEARCH_NAMES if name in given}
        return cls(_KIND.load(given), load_prompts(search))

    def bare(self) -> Self:
        """The same with interns that are told the question alone."""
        return replace(self, search=Prompts({**self.search.texts, **_BARE}))

    def hashes(self, names: tuple[str, ...]) -> dict[str, str]:
        """SHA-256 (hex) of the texts of these names."""
        texts = {**self.search.texts, **self.own}
        return hashes({name: texts[name] for name in names})
