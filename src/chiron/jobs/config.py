"""Base of the configuration files of jobs: models, and a section with the job's roles, prompts, limits and budget."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PositiveFloat, model_validator

from chiron.client.config import Strict
from chiron.client.config_file import ConfigFile, files_beside, read_config, validate

Temperature = Annotated[float, Field(ge=0, le=2)]


class JobSection(Strict):
    """Base of the section of a job. Subclasses add ``max_tokens`` with a limit for each role."""

    role_keys: ClassVar[tuple[str, ...]]
    """Keys that name models: a role, or its plural for a list of models."""
    seed: int = 0
    """Seed of all random choices."""
    image_side: Annotated[int, Field(ge=28)] = 1536
    """Longest side, in pixels, of the images sent to models."""
    prompts: dict[str, str] = Field(default_factory=dict)
    """Files that replace prompts, by prompt name; relative to the configuration file."""
    budget_usd: PositiveFloat | None = None

    def named(self) -> list[tuple[str, str]]:
        """Return every (key, model name) in the order of roles."""
        values = ((key, getattr(self, key)) for key in self.role_keys)
        return [(key, name) for key, value in values for name in ([value] if isinstance(value, str) else value or ())]


class JobFile(ConfigFile):
    """Base of the configuration file of a job. Subclasses add a field with the job's section."""

    section: ClassVar[str]
    """Name of that field."""

    @model_validator(mode="after")
    def _known_and_priced(self) -> Self:
        self.need_known([(f"{self.section}.{key}", name) for key, name in self.named()])
        if self.job.budget_usd is not None:
            self.need_prices({name: self.models[name] for _, name in self.named()})
        return self

    @property
    def job(self) -> JobSection:
        section: JobSection = getattr(self, self.section)
        return section

    def named(self) -> list[tuple[str, str]]:
        """Return every (key, model name) of the section."""
        return self.job.named()

    def token_limit(self, role: str) -> int:
        """Return the maximum number of tokens of a reply in this role."""
        limit: int = getattr(getattr(self.job, "max_tokens"), role)  # noqa: B009 - a field of every subclass
        return limit

    @classmethod
    def read(cls, path: Path | str, **overrides: Any) -> Self:
        """Read and validate a configuration file; ``overrides`` that are not ``None`` replace keys of the section.

        Raises:
            InputError: the file is invalid; the message names the location and the nearest known key.
        """
        return cls.check(read_config(path), origin=Path(path), **overrides)

    @classmethod
    def check(cls, data: dict[str, Any], *, origin: Path, **overrides: Any) -> Self:
        """Validate the content of a configuration file. Prompt files are resolved relative to ``origin``.

        Raises:
            InputError: as in :meth:`read`; or the path of a prompt is invalid.
        """
        changed = {key: value for key, value in overrides.items() if value is not None}
        section = data.get(cls.section)
        if section is None and not cls.model_fields[cls.section].is_required():
            section = {}
        if isinstance(section, dict):
            data = {**data, cls.section: {**section, **changed}}
        config = validate(cls, data, origin=origin)
        files = files_beside(config.job.prompts, origin, f"{cls.section}.prompts")
        return config.model_copy(update={cls.section: config.job.model_copy(update={"prompts": files})})

    def for_workers(self, workers: int) -> Self:
        """Return the configuration of one of several processes that share the models' limits."""
        return self.model_copy(update={"models": {name: model.for_workers(workers) for name, model in self.models.items()}})
