"""Read evaluations from run directories and combine the runs of each model."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from chiron.errors import InputError
from chiron.evaluation.items import ITEMS, RESULTS, ItemResult, read_results
from chiron.jobs.directory import RUN, WorkDirectory

REAL = "none"
"""The control of a run without any change."""
SETTINGS = ("temperature", "image_side", "max_images", "max_tokens", "prompts")
"""Settings from a run's identity that change answers. Runs that differ in them are treated as different models."""


@dataclass(frozen=True, slots=True)
class Making:
    """How answers were produced, as far as ``results.json`` and ``run.json`` record it."""

    judge: str | None = None
    """The judge who gave the verdicts; ``None`` if a rule gave them."""
    limit: int | None = None
    """Only the first ``limit`` items were asked."""
    whole: int | None = None
    """Number of items that the benchmark has under the protocol."""
    images: Path | None = None
    """The image folder."""
    fingerprint: str | None = None
    """Fingerprint of the benchmark's questions as they were loaded."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Other settings that affect answers, by name (:data:`SETTINGS`), from ``run.json``."""


@dataclass(frozen=True)
class Arm:
    """All answers of one model to one benchmark under one protocol and one control, for every seed."""

    benchmark: str
    protocol: str
    control: str
    results: tuple[ItemResult, ...]
    """In the order of the file."""
    making: Making = Making()

    @cached_property
    def by_seed(self) -> dict[int, dict[str, ItemResult]]:
        """Results by seed, then by id; seeds in ascending order."""
        seeds: dict[int, dict[str, ItemResult]] = {}
        for result in self.results:
            seeds.setdefault(result.seed, {})[result.id] = result
        return dict(sorted(seeds.items()))

    @cached_property
    def by_id(self) -> dict[str, list[ItemResult]]:
        """Results of every seed, by id."""
        found: dict[str, list[ItemResult]] = {}
        for result in self.results:
            found.setdefault(result.id, []).append(result)
        return found

    @cached_property
    def first(self) -> dict[str, ItemResult]:
        """Results of the first seed, by id."""
        return next(iter(self.by_seed.values()))

    def asks_the_same(self, other: "Arm") -> bool:
        """Whether both asked the same items: data, ids and known answers, and under the same control also questions and options."""
        if None not in (prints := {self.making.fingerprint, other.making.fingerprint}) and len(prints) > 1:
            return False
        mine, theirs = self.first, other.first
        worded = self.control == other.control  # a control may change the wording, for example by removing image marks
        return mine.keys() == theirs.keys() and all(
            r.answer == theirs[id_].answer and (not worded or (r.question, r.options) == (theirs[id_].question, theirs[id_].options))
            for id_, r in mine.items()
        )


@dataclass(frozen=True)
class Evaluated:
    """A model and everything it was asked in the given runs."""

    name: str
    """Name in tables: the model's name, plus the run directory's where runs of one name cannot be combined."""
    runs: tuple[Path, ...]
    results: tuple[ItemResult, ...]
    making: Mapping[tuple[str, str, str], Making] = field(default_factory=dict)
    """By (protocol, benchmark, control)."""
    apart: tuple[str, ...] = ()
    """How it differs from other runs of the same model name, if they could not be combined: ``model``, or names in :data:`SETTINGS`."""

    @cached_property
    def arms(self) -> dict[tuple[str, str, str], Arm]:
        """By (protocol, benchmark, control), in order of appearance."""
        found: dict[tuple[str, str, str], list[ItemResult]] = {}
        for result in self.results:
            found.setdefault((result.protocol, result.benchmark, result.control), []).append(result)
        return {key: Arm(key[1], key[0], key[2], tuple(results), self.making.get(key, Making())) for key, results in found.items()}

    def arm(self, protocol: str, benchmark: str) -> Arm | None:
        """Return the answers of the real run, or ``None`` if the model was not asked."""
        return self.arms.get((protocol, benchmark, REAL))


@dataclass(frozen=True)
class _Run:
    path: Path
    model: str
    results: tuple[ItemResult, ...]
    making: Mapping[tuple[str, str, str], Making]
    identity: Any
    """The model's identity, as reported by its endpoint. Two models may share one name."""
    settings: Mapping[str, Any]

    @property
    def asked(self) -> set[tuple[str, str, str]]:
        return {(r.protocol, r.benchmark, r.control) for r in self.results}

    def unlike(self, other: "_Run") -> set[str]:
        """Return the differences that keep the two runs from being one model's."""
        found = set() if self.identity == other.identity else {"model"}
        # Each protocol has its own prompts, token limits and table, so only runs of one protocol are compared.
        same_protocol = {p for p, _, _ in self.asked} & {p for p, _, _ in other.asked}
        for name in SETTINGS if same_protocol else ("temperature", "image_side", "max_images"):
            if self.settings.get(name) != other.settings.get(name):
                found.add(name)
        return found


def read_evaluations(runs: Sequence[Path]) -> list[Evaluated]:
    """Read the models of several run directories, in order.

    Runs of one model that asked different things (such as controls) with the same settings are combined. Runs that asked the same stay
    separate, under the names of model and directory. So do runs of different models or settings under one model name.

    Raises:
        InputError: a directory is named twice, is not an evaluation, has no items, or has an item twice.
    """
    resolved = [run.resolve() for run in runs]
    if twice := [str(run) for run, number in Counter(resolved).items() if number > 1]:
        raise InputError(f"{twice[0]} is named twice: a run cannot be compared with itself")
    by_model: dict[str, list[_Run]] = {}
    for path in runs:
        run = _read(path)
        by_model.setdefault(run.model, []).append(run)
    return [evaluated for model, theirs in by_model.items() for evaluated in _together(model, theirs)]


def _read(path: Path) -> _Run:
    about = WorkDirectory(path).need_run()
    results = tuple(read_results(path / ITEMS))
    if not results:
        raise InputError(f"{path / ITEMS} contains no items: run the evaluation again")
    seen = Counter((r.protocol, r.benchmark, r.control, r.seed, r.id) for r in results)
    (protocol, benchmark, _, seed, id_), most = seen.most_common(1)[0]
    if most > 1:
        raise InputError(
            f"{path / ITEMS}: item {id_!r} of {benchmark} ({protocol}, seed {seed}) occurs {most} times: run the evaluation again"
        )
    identity, settings = _split_identity(about.get("identity"))
    recorded = dict(_makings(path / RESULTS))
    making = {key: replace(recorded.get(key, Making()), settings=settings) for key in dict.fromkeys(k[:3] for k in seen)}
    return _Run(path, _model_name(path, about), results, making, identity, settings)


def _split_identity(identity: Any) -> tuple[Any, dict[str, Any]]:
    """Split a run's identity into the model's own identity and the settings."""
    known = identity if isinstance(identity, dict) else {}
    model = known.get("model")
    of_model, max_tokens = model if isinstance(model, list) and len(model) == 2 else (model, None)
    return of_model, {"max_tokens": max_tokens} | {name: known[name] for name in SETTINGS if name in known}


def _model_name(path: Path, run: dict[str, Any]) -> str:
    for part in (run, run.get("about"), run.get("identity")):
        name = part.get("model") if isinstance(part, dict) else None
        if isinstance(name, str) and name.strip():
            return name
    raise InputError(f"{path / RUN} does not name a model: choose a run directory of 'chiron eval'")


def _together(model: str, runs: list[_Run]) -> Iterator[Evaluated]:
    """Combine the runs of one model name into as few models as possible."""
    combinable: list[list[_Run]] = []
    apart: set[str] = set()
    for run in runs:
        unlike = [(kind, set().union(*(run.unlike(one) for one in kind))) for kind in combinable]
        match = next((kind for kind, found in unlike if not found), None)
        if match is None:
            apart = apart.union(*(found for _, found in unlike))
            combinable.append([run])
        else:
            match.append(run)
    names = _run_names([run.path for run in runs])
    for kind in combinable:
        asked = [key for run in kind for key in run.asked]
        whole = [kind] if len(asked) == len(set(asked)) else [[run] for run in kind]
        for part in whole:
            alone = len(combinable) == len(whole) == 1
            yield Evaluated(
                model if alone else f"{model} ({' + '.join(names[run.path] for run in part)})",
                tuple(run.path for run in part),
                tuple(result for run in part for result in run.results),
                {key: value for run in part for key, value in run.making.items()},
                tuple(name for name in ("model", *SETTINGS) if name in apart),
            )


def _run_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name each run by its directory, or by its whole path where two directories have the same name."""
    names = [path.resolve().name for path in paths]
    return {path: name if names.count(name) == 1 else str(path) for path, name in zip(paths, names, strict=True)}


def _makings(path: Path) -> Iterator[tuple[tuple[str, str, str], Making]]:
    """Yield how each group of a ``results.json`` was produced. A missing file yields nothing, because only the items are required."""
    try:
        results = json.loads(path.read_text("utf-8"))
        for group in results["groups"]:
            protocol = group.get("protocol") or results["identity"]["protocol"]
            data = group.get("data", {})
            folder = data.get("images")
            making = Making(
                group.get("judge"),
                group.get("limit"),
                group.get("n_of_benchmark"),
                Path(folder) if folder else None,
                data.get("fingerprint"),
            )
            yield (protocol, group["benchmark"], group["control"]), making
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error}): run the evaluation again") from error


def image_folders(models: Iterable[Evaluated]) -> dict[str, Path]:
    """Return the image folder of each benchmark, where the runs record it and the folder still exists."""
    return {
        benchmark: making.images
        for model in models
        for (_, benchmark, _), making in model.making.items()
        if making.images is not None and making.images.is_dir()
    }
