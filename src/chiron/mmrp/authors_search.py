"""What the authors' own search writes, as a source of paths: ``result.jsonl``, a line for each question that came to an end.

A line: ``{"rid", "images", "question", "gt_answer", "reasoning", "scores": {mentor: [one for each depth]}, "final_depth": "1",
"generated_by": [mentors chosen, the last one wrote the reasoning], "search_id": "1" after a full score, else "0"}``.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from chiron.cases.images import default_image_root
from chiron.cases.reading import need_cases
from chiron.errors import InputError
from chiron.mmrp.search_runs import SearchRun

THRESHOLD: Final = 0.5
"""A path is retained if its score is above this, as in the paper."""


@dataclass(frozen=True)
class AuthorsSearch(SearchRun):
    """A ``result.jsonl``. Its cases are those of another file, or what its own lines say of them: question, answer and images."""

    @classmethod
    def read(cls, path: Path, cases: Path | None) -> Self:
        """Find the file and its cases.

        Raises:
            InputError: one of them is not there.
        """
        need_cases(path)
        there = cases if cases is not None else path
        need_cases(there)
        return cls(path, there, {"images": str(default_image_root(there).resolve())})

    def models(self) -> dict[str, str]:
        """Empty: a line names its mentors and nothing else."""
        return {}

    def prompts(self) -> dict[str, str]:
        """Empty: the file does not say."""
        return {}

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Every path, with where its line begins.

        Raises:
            InputError: a line is not a result of the authors' search.
        """
        try:
            with self.path.open("rb") as file:
                at = 0
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield at, self._path(line, f"line {number}")
                    at += len(line)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read: {error.strerror}") from error

    def line(self, at: int) -> dict[str, Any]:
        """The path whose line begins there."""
        with self.path.open("rb") as file:
            file.seek(at)
            return self._path(file.readline(), f"byte {at}")

    def _path(self, line: bytes, where: str) -> dict[str, Any]:
        try:
            raw = json.loads(line)
            depth, mentors = int(raw["final_depth"]), raw["generated_by"]
            score = float(raw["scores"][mentors[-1]][depth - 1])
            name, reasoning = str(raw["rid"]), str(raw["reasoning"])
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise InputError(
                f"{self.path}, {where}: not a result of the authors' search ({type(error).__name__}: {error}): name their result.jsonl,"
                " or a run directory of 'chiron search'"
            ) from error
        path = {"case_id": name, "reasoning": reasoning, "mics_score": score, "depth": depth, "restarts": 0, "policy": "paper"}
        return path if score > THRESHOLD else {**path, "not_retained": f"MICS-Score {score:.2f} is not above {THRESHOLD:g}"}
