"""Setup of a search: cases, images, team, prompts and endpoints, validated before any call is paid for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from chiron.cases.case import Case
from chiron.cases.images import ImageFolder, image_folder
from chiron.cases.selection import Selection
from chiron.cases.textbook import AnswerPool
from chiron.client.call import ImagePart, Role
from chiron.client.client import Endpoint
from chiron.client.images import PictureStore
from chiron.mics.config import RunConfig
from chiron.mics.prompts import Prompts, load_prompts
from chiron.mics.search import RULES
from chiron.mics.team import Policy, RoleModel, Team
from chiron.providers.registry import build_endpoints


@dataclass(frozen=True)
class SearchSetup:
    """Everything that one process needs to search."""

    selection: Selection
    images: ImageFolder
    config: RunConfig
    policy: Policy
    team: Team
    prompts: Prompts
    endpoints: dict[str, Endpoint]
    pictures: PictureStore

    @classmethod
    def of(cls, selection: Selection, config: RunConfig, images: Path | None = None, *, need_keys: bool = True) -> Self:
        """Create a setup, and validate its inputs before any call is paid for.

        Raises:
            InputError: cases, image folder, prompts, keys or embedded models are missing.
        """
        folder = image_folder(selection.cases, images)
        prompts = load_prompts({name: Path(path) for name, path in config.search.prompts.items()})
        pictures = PictureStore()
        endpoints = build_endpoints(
            config.team_models(), pictures=pictures, answers=lambda: AnswerPool.of_cases(selection.cases), need_keys=need_keys
        )

        def seat(role: Role, name: str) -> RoleModel:
            limit = config.models[name].token_limit(getattr(config.search.max_tokens, role))
            return RoleModel(name, endpoints[name].provider.identity, limit)

        team = Team(
            mentors=tuple(seat("mentor", m) for m in config.search.mentors),
            interns=tuple(seat("intern", i) for i in config.search.interns),
            judge=seat("judge", config.search.judge),
        )
        return cls(selection, folder, config, config.search.rules(), team, prompts, endpoints, pictures)

    def identity(self) -> dict[str, Any]:
        """Return the settings that results depend on. Runs that differ in them cannot share a directory."""
        rules = self.config.search.model_dump(
            mode="json",
            include={
                "temperatures",
                "mentor_temperature",
                "depth",
                "restarts",
                "policy",
                "baseline",
                "threshold",
                "seed",
                "image_side",
            },
        )
        seats = {
            "mentors": [[s.name, s.identity, s.max_tokens] for s in self.team.mentors],
            "interns": [[s.name, s.identity, s.max_tokens] for s in self.team.interns],
            "judge": [self.team.judge.name, self.team.judge.identity, self.team.judge.max_tokens],
        }
        return {**seats, **rules, "rules": RULES, "prompts": self.prompts.hashes()}

    def pictures_of(self, case: Case, *, hold: bool = True) -> tuple[ImagePart, ...]:
        """Check a case's images, and keep them encoded until :meth:`PictureStore.release`. Slow; call it in a thread.

        Raises:
            ImageProblem: an image is unusable.
            CallerFault: an image disappeared while it was being checked.
        """
        checked = [self.images.check(name) for name in case.images]
        for image in checked:
            self.pictures.add(image.sha256, image.path)
        pictures = tuple(ImagePart(image.sha256, self.policy.image_side) for image in checked)
        if hold:
            self.pictures.hold(pictures)
        return pictures
