"""Sources of reasoning paths: runs of ``chiron search``, and ``result.jsonl`` files of the paper's original code."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from chiron.cases.images import default_image_root
from chiron.cases.reader import need_cases
from chiron.errors import InputError
from chiron.io import parse_json, read_jsonl
from chiron.mics.run_directory import PATHS, RunDirectory


@dataclass(frozen=True)
class SearchRun:
    """A run of ``chiron search`` as a source of paths."""

    path: Path
    cases: Path
    about: dict[str, Any]
    """Contents of its ``run.json``."""

    @classmethod
    def read(cls, path: Path, cases: Path | None) -> Self:
        """Open a run's paths and cases.

        Raises:
            InputError: they are missing.
        """
        about = RunDirectory(path).need_run()
        if not (path / PATHS).is_file():
            raise InputError(f"{path} has no {PATHS}: run the same search again, which restores it from the ledger")
        return cls.of(path, cases, about)

    @classmethod
    def of(cls, path: Path, cases: Path | None, about: dict[str, Any]) -> Self:
        """Find the cases of a run: ``cases``, or the recorded file.

        Raises:
            InputError: they are missing.
        """
        there = cases if cases is not None else Path(str(about.get("cases")))
        if cases is None and not there.is_file():
            raise InputError(f"the cases of {path} are missing ({there}): name their file with --cases FILE")
        need_cases(there)
        return cls(path, there, about)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The settings that its results depend on."""
        value = self.about.get("identity")
        return value if isinstance(value, dict) else {}

    @property
    def deepest(self) -> int:
        """Maximum depth D of the search."""
        depth = self.identity.get("depth")
        return depth if isinstance(depth, int) and depth > 0 else 3

    def models(self) -> dict[str, str]:
        """Model identity by role and name."""
        found: dict[str, str] = {}
        for role in ("mentors", "interns"):
            members = self.identity.get(role)
            found |= {f"{role[:-1]} {name}": str(what) for name, what, *_ in (members if isinstance(members, list) else [])}
        judge = self.identity.get("judge")
        return {**found, "judge": str(judge[1])} if isinstance(judge, list) and len(judge) > 1 else found

    def prompts(self) -> dict[str, str]:
        """SHA-256 of its prompts."""
        value = self.identity.get("prompts")
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every path with the byte offset of its line.

        Raises:
            InputError: the file is damaged.
        """
        return ((line.offset, _path(line.value, self.path)) for line in read_jsonl(self.path / PATHS))

    def line(self, at: int) -> dict[str, Any]:
        """Read the path at a byte offset."""
        with (self.path / PATHS).open("rb") as file:
            file.seek(at)
            return _path(parse_json(file.readline()), self.path)


Source = TypeVar("Source", bound=SearchRun)


def open_sources(runs: Sequence[Path], read: Callable[[Path], Source]) -> list[Source]:
    """Open the runs that a part is built from.

    Raises:
        InputError: none or one twice is named, one is unusable, or they have different image folders.
    """
    if not runs:
        raise InputError("name at least one run directory of 'chiron search'")
    if len({run.resolve() for run in runs}) < len(runs):
        raise InputError("a run directory is named twice: name each once")
    opened = [read(run) for run in runs]
    if len(folders := sorted({str(run.about.get("images")) for run in opened})) > 1:
        raise InputError(
            f"the images of these runs are in different folders ({', '.join(folders)}): build one part per run;"
            " 'chiron build release' accepts several parts"
        )
    return opened


def about_sources(runs: Sequence[SearchRun], limit: int | None) -> dict[str, Any]:
    """Return what ``run.json`` of a part records about the runs that it is built from."""
    return {
        "runs": [str(run.path.resolve()) for run in runs],
        "cases": list(dict.fromkeys(str(run.cases) for run in runs)),
        "images": runs[0].about.get("images"),
        "limit": limit,
    }


def _path(path: object, run: Path) -> dict[str, Any]:
    if isinstance(path, dict) and isinstance(path.get("case_id"), str):
        return path
    raise InputError(f"{run / PATHS} is damaged: run the same search again, which restores it from the ledger")


THRESHOLD: Final = 0.5
"""A path is retained if its score exceeds this, as in the paper."""


@dataclass(frozen=True)
class AuthorsSearch(SearchRun):
    """A ``result.jsonl`` of the paper's original code.

    Its cases come from another file, or from its own lines: question, answer and images.
    """

    @classmethod
    def read(cls, path: Path, cases: Path | None) -> Self:
        """Open the file and its cases.

        Raises:
            InputError: one of them is missing.
        """
        need_cases(path)
        there = cases if cases is not None else path
        need_cases(there)
        return cls(path, there, {"images": str(default_image_root(there).resolve())})

    def models(self) -> dict[str, str]:
        """Empty: a line only names its mentors."""
        return {}

    def prompts(self) -> dict[str, str]:
        """Empty: the file does not contain prompts."""
        return {}

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every path with the byte offset of its line.

        Raises:
            InputError: a line is not a result of the original code.
        """
        return ((line.offset, self._path(line.value, f"line {line.number}")) for line in read_jsonl(self.path))

    def line(self, at: int) -> dict[str, Any]:
        with self.path.open("rb") as file:
            file.seek(at)
            return self._path(parse_json(file.readline()), f"byte {at}")

    def _path(self, raw: Any, where: str) -> dict[str, Any]:
        try:
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
