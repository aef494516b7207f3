"""Sources of reasoning paths (runs of ``chiron search``, results of the paper's original code), and the decisions of their reviewers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, cast, get_args

from chiron.cases.images import default_image_root
from chiron.cases.reader import need_cases
from chiron.errors import InputError
from chiron.io import parse_json, read_jsonl
from chiron.mics.run_directory import PATHS, RunDirectory
from chiron.mmrp.row import RowReview
from chiron.reviews.records import Decision, edited_reasoning, hash_path
from chiron.reviews.store import REVIEWS, ReviewStore


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
        """SHA-256 of each prompt, by name."""
        value = self.identity.get("prompts")
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}

    @property
    def file(self) -> Path:
        return self.path / PATHS

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every path with the byte offset of its line.

        Raises:
            InputError: the file is damaged.
        """
        return ((line.offset, self._path(line.value, f"line {line.number}")) for line in read_jsonl(self.file))

    def line(self, at: int) -> dict[str, Any]:
        """Read the path at a byte offset."""
        with self.file.open("rb") as file:
            file.seek(at)
            return self._path(parse_json(file.readline()), f"byte {at}")

    def _path(self, path: Any, where: str) -> dict[str, Any]:
        """Check a path; ``where`` is its place in the file, for an error message."""
        del where
        if isinstance(path, dict) and isinstance(path.get("case_id"), str):
            return path
        raise InputError(f"{self.file} is damaged: run the same search again, which restores it from the ledger")


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

    @property
    def file(self) -> Path:
        return self.path

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


ReviewMode = Literal["require", "prefer", "ignore"]
"""``require`` takes only what reviewers accepted; ``prefer`` takes that first, and also what has no review; ``ignore`` takes all."""


def review_mode(name: str) -> ReviewMode:
    """Parse ``--reviews``.

    Raises:
        InputError: it is not one of the modes.
    """
    if name not in get_args(ReviewMode):
        raise InputError(f"--reviews {name}: choose one of {', '.join(get_args(ReviewMode))}")
    return cast("ReviewMode", name)


@dataclass(frozen=True)
class Decisions:
    """What the reviewers of some runs decided, by run, case and path."""

    mode: ReviewMode = "ignore"
    by_run: Mapping[Path, Mapping[tuple[str, str], Decision]] = field(default_factory=dict)

    @classmethod
    def read(cls, runs: Iterable[Path], mode: ReviewMode) -> "Decisions":
        """Read the reviews of runs.

        Raises:
            InputError: reviews are required and there are none, or they cannot be read.
        """
        runs = list(runs)
        decided = {run: ReviewStore(run).decisions() for run in runs if run.is_dir()} if mode != "ignore" else {}
        if mode == "require" and not any(decided.values()):
            named = ", ".join(map(str, runs))
            raise InputError(
                f"no path of {named} is reviewed ({REVIEWS}): review paths with 'chiron view RUN --review NAME', or omit --reviews require"
            )
        return cls(mode, decided)

    def of(self, run: Path, case_id: str, reasoning: object) -> Decision | None:
        """Return the decision about a path of a run; ``None`` if it is not reviewed as it is now."""
        decided = self.by_run.get(run)
        return decided.get((case_id, hash_path(reasoning))) if decided and isinstance(reasoning, str) else None

    def rank(self, run: Path, path: Mapping[str, Any]) -> float:
        """Return the rank of a path among those of the same case: accepted ones first, then those without a review."""
        decision = self.of(run, str(path["case_id"]), path.get("reasoning"))
        return 0.0 if decision is None else 1.0 if decision.status in {"accepted", "edited"} else -1.0

    def refusal(self, decision: Decision | None) -> tuple[str, str] | None:
        """Return why a path with this decision is not used, as a reason and details; ``None`` if it is used."""
        if decision is None:
            return ("not reviewed", "reviews are required") if self.mode == "require" else None
        if decision.status == "rejected":
            return "rejected by reviewers", decision.faults
        if decision.status == "disputed":
            return "reviewers disagree", "adjudicate it: chiron view RUN --adjudicate NAME"
        return None

    def identity(self) -> dict[str, str]:
        """Return the mode for the identity of a part. Directories of earlier versions have none, and resume with the default."""
        return {} if self.mode == "prefer" else {"reviews": self.mode}

    def about(self) -> dict[str, Any]:
        """Return what ``run.json`` says about the reviews: the mode, and the numbers of paths by status."""
        statuses = [decision.status for decided in self.by_run.values() for decision in decided.values()]
        return {"reviews": {"mode": self.mode, **{s: statuses.count(s) for s in sorted(set(statuses))}}} if statuses else {}


def apply_decision(reasoning: str, decision: Decision) -> tuple[str, RowReview]:
    """Return a path with its edits, and what the provenance of its row says about them.

    Raises:
        InputError: an edit cannot take the place of a step.
    """
    edited = [number for number, step in enumerate(decision.steps, start=1) if step["text"]]
    return edited_reasoning(reasoning, decision), {
        "status": "edited" if decision.status == "edited" else "accepted",
        "edited_steps": edited,
        "edited_answer": bool(decision.final["text"]),
        "reviewers": decision.reviewers,
        "adjudicated": decision.adjudicated,
        "path_sha256": hash_path(reasoning),
    }
