"""What ``run.json`` says about a run, as far as the report shows it."""

from pathlib import Path, PurePath
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from chiron.errors import InputError
from chiron.models.directory import RUN


class Seat(NamedTuple):
    """One model of the team."""

    name: str
    identity: str
    """Provider and the endpoint's own name."""
    max_tokens: int


class Identity(BaseModel):
    """Everything that the run's results depend on. What an older run did not write is blank."""

    model_config = ConfigDict(frozen=True)

    mentors: tuple[Seat, ...] = ()
    interns: tuple[Seat, ...] = ()
    judge: Seat | None = None
    temperatures: tuple[float, ...] = ()
    mentor_temperature: float | None = None
    depth: int | None = None
    restarts: int | None = None
    policy: str | None = None
    threshold: float | None = None
    seed: int | None = None

    @property
    def team(self) -> list[tuple[str, list[Seat]]]:
        """The seats by role."""
        judge = [self.judge] if self.judge else []
        return [("mentors", list(self.mentors)), ("interns", list(self.interns)), ("judge", judge)]


class RunInfo(BaseModel):
    """A run, as its directory describes it."""

    model_config = ConfigDict(frozen=True)

    chiron: str = "unknown"
    began: str = "unknown"
    cases: str = "unknown"
    images: str | None = None
    shard: str | None = None
    limit: int | None = None
    replayed_from: str | None = None
    identity: Identity = Identity()

    @property
    def cases_name(self) -> str:
        """The file of cases, without where it lies."""
        return PurePath(self.cases).name


def read_run(run: Path) -> RunInfo:
    """Read a run directory's ``run.json``.

    Raises:
        InputError: it is missing or damaged.
    """
    path = run / RUN
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{run} is no run directory: it has no {RUN}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return RunInfo.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path} is damaged ({place + ': ' if place else ''}{first['msg']}): use the run's own copy, or another run"
        ) from None
