"""Decisions of reviewers about the paths that a part is built from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from chiron.errors import InputError
from chiron.mmrp.row import RowReview
from chiron.reviews.records import Decision, edited_reasoning, hash_path
from chiron.reviews.store import REVIEWS, ReviewStore

ReviewMode = Literal["require", "prefer", "ignore"]
"""``require`` takes only what reviewers accepted; ``prefer`` takes that first, and also what has no review; ``ignore`` takes all."""


def review_mode(name: str) -> ReviewMode:
    """Parse ``--reviews``.

    Raises:
        InputError: it is not one of the modes.
    """
    for mode in get_args(ReviewMode):
        if mode == name:
            return mode  # type: ignore[no-any-return]
    raise InputError(f"--reviews {name}: choose one of {', '.join(get_args(ReviewMode))}")


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
