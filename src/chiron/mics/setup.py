"""What a search needs before its first call: cases, images, team, prompts and rules."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from chiron.cases.case import Case
from chiron.cases.images import ImageFolder, image_folder
from chiron.cases.reader import AnswerPool, Selection
from chiron.client.call import ImagePart, resized
from chiron.jobs.roles import Roles, identity_of
from chiron.mics.config import RunConfig
from chiron.mics.prompts import Prompts, load_prompts
from chiron.mics.search import RULES
from chiron.mics.team import Policy, Team


@dataclass(frozen=True)
class SearchSetup:
    """Everything that one process needs to search: cases, images, team, prompts and rules."""

    selection: Selection
    images: ImageFolder
    config: RunConfig
    prompts: Prompts
    roles: Roles
    team: Team
    policy: Policy

    @classmethod
    def of(cls, selection: Selection, config: RunConfig, images: Path | None = None, *, need_keys: bool = True) -> Self:
        """Create a setup, and validate its inputs before any call is paid for.

        Raises:
            InputError: cases, image folder, prompts, keys or embedded models are missing.
        """
        folder = image_folder(selection.cases, images)
        prompts = load_prompts(config.search.prompts)
        roles = Roles.of(config, answers=lambda: AnswerPool.of_cases(selection.cases), need_keys=need_keys)
        team = Team(roles.all("mentor"), roles.all("intern"), roles.one("judge"))
        return cls(selection, folder, config, prompts, roles, team, config.search.rules())

    def identity(self) -> dict[str, Any]:
        """Return the settings that results depend on. Runs that differ in them cannot share a directory."""
        rules = ("temperatures", "mentor_temperature", "depth", "restarts", "policy", "baseline", "threshold", "seed", "image_side")
        # Keys that older runs do not have appear only with other values than the default, so that those runs resume.
        policy = self.policy
        changed: dict[str, Any] = {} if policy.evaluation == "full" else {"evaluation": policy.evaluation}
        if policy.mentor_image_side is not None:
            changed["mentor_image_side"] = policy.mentor_image_side
        return {
            "mentors": [identity_of(model) for model in self.team.mentors],
            "interns": [identity_of(model) for model in self.team.interns],
            "judge": identity_of(self.team.judge),
            **self.config.search.model_dump(mode="json", include=set(rules)),
            **changed,
            "rules": RULES,
            "prompts": self.prompts.hashes(),
        }

    def about(self) -> dict[str, Any]:
        """Return what ``run.json`` records in addition to the identity: sources and configuration."""
        return {
            "cases": str(self.selection.cases.resolve()),
            "images": str(self.images.root.resolve()),
            "shard": f"{s.index}/{s.count}" if (s := self.selection.shard) else None,
            "limit": self.selection.limit,
            "config": self.config.model_dump(mode="json"),
            "prompts": dict(self.prompts.texts),
        }

    def load_images(self, case: Case, *, hold: bool = True) -> tuple[ImagePart, ...]:
        """Check and encode a case's images in the sizes of all roles; see :meth:`Roles.load_images`. Returns those of the interns."""
        sides = self.policy.image_sides
        parts = self.roles.load_images(self.images, case.images, sides["intern"], hold=hold)
        if hold and sides["mentor"] != sides["intern"]:
            try:
                self.roles.pictures.hold(resized(parts, sides["mentor"]))
            except BaseException:
                self.roles.pictures.release(parts)
                raise
        return parts

    def release_images(self, parts: tuple[ImagePart, ...]) -> None:
        """Release what :meth:`load_images` holds."""
        for side in set(self.policy.image_sides.values()):
            self.roles.pictures.release(resized(parts, side))
