"""Parts of the pipeline: stages 1 and 2, the search with that model as intern, stage 3 on the retained paths, and the evaluation.

Every part can be resumed: training from its checkpoints, the search and the evaluation from their ledgers.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chiron.client.config import LocalModel
from chiron.demo.curriculum import Watch, first_stages, last_stage, train_recipe, without_curriculum
from chiron.demo.data import Data, Scale
from chiron.demo.stage_rows import build_stage_3, write_rows
from chiron.evaluation.api import Answered, Question, answer_all
from chiron.evaluation.statistics import Share
from chiron.mics.api import prepare_run
from chiron.mics.config import RunConfig, check_config
from chiron.mics.run import Run, RunSummary

SPECIALISTS = ("side+size", "density+margin", "side+margin")
"""Attributes that each mentor knows. Mentors are right 95% of the time on these and 50% of the time on the other two."""
INTERN = "stage-2"
TEMPERATURES = (0.2, 0.7, 1.2)
"""Sampling temperatures of the intern."""
MAX_TOKENS = 64
"""Maximum reply length; a complete chain has about 30 tokens of the small model."""


@dataclass(frozen=True)
class Measured:
    """Answers of a model to evaluation cases, which are never trained on."""

    seen: tuple[Answered, ...]
    held_out: tuple[Answered, ...]

    @property
    def seen_share(self) -> Share:
        """Share of correct answers on combinations whose diagnosis was trained on with images."""
        return _share(self.seen)

    @property
    def held_out_share(self) -> Share:
        """Share of correct answers on combinations whose diagnosis was never shown with an image."""
        return _share(self.held_out)


def train_first(data: Data, scale: Scale, out: Path, *, seed: int, processes: int = 1, watch: Watch = lambda _: None) -> Path:
    """Train stages 1 and 2 from random weights; return the folder of the model."""
    recipe = first_stages(data, scale, seed=seed)
    return train_recipe(recipe, data.folder, data.images, out, processes=processes, watch=watch)


def mentors(known: Sequence[str] = SPECIALISTS, rights: str = "") -> dict[str, str]:
    """Offline specialist models by name.

    ``rights`` (for example ``@0.8,0.5``): accuracy on the attributes that they know, and on the others.
    """
    return {f"specialist-{attributes.replace('+', '-')}": f"specialist/{attributes}{rights}" for attributes in known}


def team(
    interns: Mapping[str, Path],
    data: Data,
    *,
    seed: int,
    taught_by: Mapping[str, str] | None = None,
    policy: Literal["verified", "paper"] = "verified",
    **search: Any,
) -> RunConfig:
    """Create the configuration of the search: specialist mentors, models of stage 2 as interns, and a judge by normalized match.

    Args:
        interns: Model folders by name.
        data: Data with the cases to search.
        seed: Seed of the search.
        taught_by: Mentors from :func:`mentors`; by default the three in :data:`SPECIALISTS`.
        policy: Policy that decides which paths are retained.
        search: Further settings of the section ``search``.
    """
    taught_by = mentors() if taught_by is None else taught_by
    models: dict[str, Any] = {name: {"provider": "offline", "model": model} for name, model in taught_by.items()}
    for name, folder in interns.items():
        models[name] = {"provider": "local", "path": str(folder), "max_tiles": 1, "thumbnail": False, "batch": 64}
    models["match"] = {"provider": "offline", "model": "match/normalised"}
    chosen = {
        "mentors": list(taught_by),
        "interns": list(interns),
        "judge": "match",
        "temperatures": list(TEMPERATURES),
        "policy": policy,
        "seed": seed,
        "prompts": data.prompts,
        "max_tokens": {"intern": MAX_TOKENS},
        **search,
    }
    return check_config({"models": models, "search": chosen}, origin=Path("miniature.yaml"))


def prepare_search(config: RunConfig, data: Data, run: Path, *, limit: int | None = None) -> Run:
    """Prepare the search over the cases of seen combinations, or the first ``limit`` of them."""
    return prepare_run(data.cases, config, run, images=data.images, limit=limit)


def search(config: RunConfig, data: Data, run: Path, *, limit: int | None = None) -> RunSummary:
    """Prepare and execute the search; see :func:`prepare_search`."""
    return asyncio.run(prepare_search(config, data, run, limit=limit).execute())


def write_retained(data: Data, run: Path, name: str) -> int:
    """Write a run's retained paths as stage 3 rows to the file ``name`` in the data folder; return their number."""
    return len(write_rows(data.folder / name, build_stage_3(run, data.folder / "chains")))


def train_last(base: Path, data: Data, rows: str, scale: Scale, out: Path, *, name: str, seed: int, watch: Watch = lambda _: None) -> Path:
    """Train stage 3 on a file of rows in the data folder; return the folder of the model."""
    return train_recipe(last_stage(base, rows, scale, name=name, seed=seed), data.folder, data.images, out, watch=watch)


def train_alone(data: Data, rows: str, scale: Scale, out: Path, *, seed: int, watch: Watch = lambda _: None) -> Path:
    """Train on stage 3 rows without a curriculum: from random weights, for as many steps as all three stages together."""
    return train_recipe(without_curriculum(data, rows, scale, seed=seed), data.folder, data.images, out, watch=watch)


def measure(model: Path, data: Data, run: Path, *, watch: Callable[[int], None] = lambda _: None) -> Measured:
    """Evaluate a model on new cases of seen and held-out combinations; ``run`` is a run directory like that of ``chiron eval``."""
    config = LocalModel(provider="local", path=str(model), max_tiles=1, thumbnail=False, batch=64)
    question = Question(data.loaded_prompts(), data.images, MAX_TOKENS)
    sets = {"miniature_seen": data.seen_evaluated, "miniature_held_out": data.held_out_evaluated}
    cases = {name: [casting.case for casting in group] for name, group in sets.items()}
    answered = asyncio.run(answer_all(cases, config, question, run, watch=watch))
    return Measured(*(tuple(answered[name]) for name in sets))


def _share(answered: Sequence[Answered]) -> Share:
    return Share(sum(a.correct for a in answered), len(answered))
