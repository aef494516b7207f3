"""The six ways in which a case can stand in a report, and what they are called there."""

from enum import StrEnum


class Kind(StrEnum):
    """What became of a case, as a reader asks for it."""

    RETAINED = "retained"
    REJECTED = "rejected"
    UNSOLVED = "unsolved"
    UNJUDGED = "unjudged"
    PENDING = "pending"
    BAD = "bad"

    @property
    def mark(self) -> str:
        """A sign beside the word, so that no colour is needed to tell them apart."""
        return {"retained": "✓", "rejected": "✗", "unsolved": "∅", "unjudged": "?", "pending": "…", "bad": "!"}[self.value]

    @property
    def meaning(self) -> str:
        """In words."""
        return {
            "retained": "most interns reached the answer along the path",
            "rejected": "a path was found, and it is not good enough",
            "unsolved": "at some depth no candidate led an intern to the answer",
            "unjudged": "the judge gave no verdict on too many answers",
            "pending": "it could not be searched to its end; running the search again goes on",
            "bad": "the case cannot be used as it is",
        }[self.value]


_REASONS = {
    "low_score": "too few interns reached the answer along the path",
    "no_final_answer": "the path comes to no final answer",
    "wrong_final_answer": "the path ends in another answer",
    "gives_away_answer": "the path gives away that its author knew the answer",
    "all_zero": "at some depth no candidate led an intern to the answer",
    "no_readable_reasoning": "no mentor wrote steps that can be read",
    "no_verdict": "the judge gave no verdict on too many answers; another judge, or a longer reply, may",
    "calls_failed": "too many calls failed",
    "calls_refused": "its calls are refused, and would be refused again",
    "crashed": "a bug of chiron's came between; errors.log in the run directory says where",
    "bad_case": "the case cannot be used as it is",
}


def kind_of(outcome: str, *, retained: bool) -> Kind:
    """How a stored outcome stands in the report. An outcome of a later version counts as pending: it has no path to show."""
    if retained:
        return Kind.RETAINED
    return {
        "full_score": Kind.REJECTED,
        "depth": Kind.REJECTED,
        "unsolved": Kind.UNSOLVED,
        "unjudged": Kind.UNJUDGED,
        "bad_case": Kind.BAD,
    }.get(outcome, Kind.PENDING)


def reason_in_words(reason: str) -> str:
    """Why a case was not retained; an unknown reason stands for itself."""
    return _REASONS.get(reason, reason)
