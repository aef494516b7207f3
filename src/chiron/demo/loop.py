"""The search with its training signals, and the evaluation. Both can be resumed from their ledgers."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from chiron import RunSummary
from chiron.cases.reader import Selection
from chiron.client.config import LocalModel
from chiron.demo.data import Data
from chiron.demo.ladder import PartAccuracy
from chiron.demo.stage_rows import need_complete
from chiron.evaluation.api import Answered, Question, answer_all
from chiron.jobs.job import run_job
from chiron.mics.api import prepare_run, replay_run, replay_setup
from chiron.mics.config import RunConfig, check_config
from chiron.mics.run import Run
from chiron.mics.run_directory import RunDirectory, SearchProgress
from chiron.mics.setup import SearchSetup
from chiron.mics.tree import write_tree
from chiron.mmrp.cot import intern_form
from chiron.mmrp.release import ReleaseOptions, release
from chiron.mmrp.signals.preferences import prepare_preferences
from chiron.mmrp.signals.reflections import prepare_reflections
from chiron.mmrp.signals.rewards import prepare_rewards
from chiron.mmrp.signals.rl import prepare_rl
from chiron.mmrp.signals.source import NoRows, SignalRun, SourceOptions

SPECIALISTS = ("side+level+size", "size+density+margin", "side+level+density")
"""Attributes that each mentor knows. Mentors are right 95% of the time on these and 50% of the time on the other two."""
INTERNS = ("intern-1", "intern-2")
"""Names of the interns, which differ in the seed of their training."""
TEMPERATURES = (0.2, 1.2)
"""Sampling temperatures of the interns, as in the paper."""
MAX_TOKENS = 32
"""Maximum reply length; a complete chain has 14 tokens of the small model."""
SIGNAL_CASES = 100
"""Training signals are built from the first cases of the search only, because this is quick."""


SearchWatch = Callable[[SearchProgress], None]


@dataclass(frozen=True)
class Measured:
    """Answers of a model to evaluation cases, which are never trained on."""

    seen: tuple[Answered, ...]
    held_out: tuple[Answered, ...]

    @property
    def seen_share(self) -> PartAccuracy:
        """Right answers on combinations whose diagnosis was trained on with images."""
        return _share(self.seen)

    @property
    def held_out_share(self) -> PartAccuracy:
        """Right answers on combinations whose diagnosis was never shown with an image."""
        return _share(self.held_out)


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
    """Create the configuration of the search: specialist mentors, small models as interns, and a judge by normalized match.

    ``interns``: model folders by name. ``taught_by``: mentors, by default all of :func:`mentors`.
    ``search``: further settings of the section ``search``.
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


def search(config: RunConfig, data: Data, run: Path, *, cases: Path | None = None, watch: SearchWatch = lambda _: None) -> RunSummary:
    """Search the cases of seen combinations, or other ``cases``. ``watch`` is called with the progress, about once a second."""
    return asyncio.run(_watched(prepare_run(cases or data.cases, config, run, images=data.images), watch))


def replay(config: RunConfig, old: Path, new: Path, *, watch: SearchWatch = lambda _: None) -> RunSummary:
    """Search the cases of a finished run under another policy, starting with its replies."""
    done = RunDirectory(old)
    return asyncio.run(_watched(replay_run(replay_setup(done, config), done, new), watch))


@dataclass(frozen=True)
class ExportedSignal:
    """A training signal of the search's tree."""

    name: str
    rows: int
    why_none: str = ""
    """Why there are no rows; else empty."""


def export_signals(run: Path, config: RunConfig, data: Data, out: Path) -> list[ExportedSignal]:
    """Write the tree of a search, and all signals made from its first :data:`SIGNAL_CASES` cases, in the formats of their trainers.

    The prompts are those of the interns. Two signals need calls: the mentors of ``config`` give the reasons of the reflections, and the
    interns answer without reasoning for the pass rates of ``rl``, in a replay of the search. A release of the signals has the splits, and
    InternVL's form, which needs the sizes of the images.

    Raises:
        InputError: A signal cannot be built for another reason than that no case gives a row.
        DiskError: The disk is full.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_tree(run, out / "tree.jsonl")
    baseline = config.model_copy(update={"search": config.search.model_copy(update={"baseline": True})})
    first = SearchSetup.of(Selection(data.cases, SIGNAL_CASES), baseline, data.images)
    need_complete(run_job(replay_run(first, RunDirectory(run), out / "baseline")))
    source = SourceOptions(cases=data.cases, images=data.images, limit=SIGNAL_CASES, form=intern_form(run))
    builds: dict[str, SignalRun] = {
        "preferences": prepare_preferences([run], out / "preferences", **source),
        "rewards": prepare_rewards([run], out / "rewards", **source),
        "rl": prepare_rl([out / "baseline"], out / "rl", **source),
        "reflections": prepare_reflections([run], config, out / "reflections", **source),
    }
    exported = [_exported(name, build) for name, build in builds.items()]
    if parts := [out / each.name for each in exported if each.rows]:
        release(parts, out / "release", images=data.images, options=ReleaseOptions(replace=True))
    return exported


def _exported(name: str, build: SignalRun) -> ExportedSignal:
    try:
        built = run_job(build)
    except NoRows as none:
        return ExportedSignal(name, 0, str(none))
    need_complete(built)
    return ExportedSignal(name, built.kept)


async def _watched(run: Run, watch: SearchWatch) -> RunSummary:
    async def report() -> None:
        while True:
            watch(run.progress)
            await asyncio.sleep(1)

    reports = asyncio.create_task(report())
    try:
        return await run.execute()
    finally:
        reports.cancel()


def measure(model: Path, data: Data, run: Path, *, watch: Callable[[int], None] = lambda _: None) -> Measured:
    """Evaluate a model on new cases of seen and held-out combinations; ``run`` is a run directory like that of ``chiron eval``."""
    config = LocalModel(provider="local", path=str(model), max_tiles=1, thumbnail=False, batch=64)
    question = Question(data.loaded_prompts(), data.images, MAX_TOKENS)
    sets = {"miniature_seen": data.seen_evaluated, "miniature_held_out": data.held_out_evaluated}
    cases = {name: [casting.case for casting in group] for name, group in sets.items()}
    answered = asyncio.run(answer_all(cases, config, question, run, watch=watch))
    return Measured(*(tuple(answered[name]) for name in sets))


def combination_of(answered: Answered) -> tuple[str, ...]:
    """Return the true attributes of an answered case."""
    return tuple(answered.case.meta["attributes"].values())


def _share(answered: Sequence[Answered]) -> PartAccuracy:
    return PartAccuracy.from_answers([a.correct for a in answered], [combination_of(a) for a in answered])
