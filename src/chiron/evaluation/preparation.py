"""Prepare an evaluation: load benchmarks, and check everything before any call is paid for."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from chiron.cases.reader import AnswerPool, read_textbook
from chiron.client.call import RoleModel
from chiron.errors import InputError
from chiron.evaluation.benchmarks.loading import LoadedBenchmark, load
from chiron.evaluation.claims import ClaimChecker, note_unreferenced, read_references
from chiron.evaluation.config import EvaluationConfig, EvaluationFile, EvaluationPrompts
from chiron.evaluation.controls import Control, note_unchanged
from chiron.evaluation.evaluation import Evaluation
from chiron.evaluation.extra_scores import Judging, extra_scores
from chiron.evaluation.item_runner import ItemRunner
from chiron.evaluation.items import Item
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.registry import benchmark_of, protocol_of
from chiron.evaluation.statistics import need_scipy
from chiron.jobs.directory import WorkDirectory
from chiron.jobs.engine import EngineOptions, engine_of
from chiron.jobs.job import units_in_flight
from chiron.jobs.replies import Preparation
from chiron.jobs.roles import Roles, identity_of

SAMPLING = 0.7
"""Default temperature when several samples are drawn."""


def prepare_evaluation(
    model: str,
    benchmarks: Sequence[str],
    run: Path | str,
    config: EvaluationFile,
    *,
    data: Path | str | None = None,
    control: Control = Control.NONE,
    benchmark_files: Sequence[Path | str] = (),
    references: Path | str | None = None,
    need_keys: bool = True,
    engine: str = "local",
    engine_options: EngineOptions | None = None,
) -> Evaluation:
    """Prepare an evaluation and check everything that can be checked before a call is paid for.

    Args:
        model: the model's name under ``models`` in the configuration.
        benchmarks: benchmark names; ``chiron eval --list`` shows them.
        run: run directory of this model and protocol; created if missing, otherwise resumed.
        config: from :func:`chiron.evaluation.config.load_evaluation`.
        data: folder with the downloaded files; ``None`` fetches them from the hub.
        control: change made to every item, such as leaving out its image.
        benchmark_files: Python files with further benchmarks and protocols (:mod:`chiron.evaluation.registry`).
        references: JSONL of findings or reports that checkers compare steps with. The known answer of a report is its own reference.
        need_keys: whether API keys must be set. An evaluation prepared without them cannot be executed.
        engine: name of the engine that asks the items; ``local`` is this process.
        engine_options: address, workers and storage of an engine on other machines.

    Raises:
        InputError: a name is unknown, or data, keys, prompts or scipy are missing.
    """
    need_scipy()  # Check now: results.json may need scipy for its intervals, and no answer should be paid for without it.
    if not benchmarks:
        raise InputError("name at least one benchmark: 'chiron eval --list' shows them")
    files = [Path(file) for file in benchmark_files]
    known = [benchmark_of(name, files) for name in dict.fromkeys(benchmarks)]
    usual = {benchmark.protocol for benchmark in known}
    if config.evaluation.protocol is None and len(usual) > 1:
        raise InputError(f"these benchmarks have different usual protocols ({', '.join(sorted(usual))}): name one with --protocol")
    protocol = protocol_of(config.evaluation.protocol or usual.pop(), files)
    folder = Path(data) if data is not None else None
    loaded = tuple(load(benchmark, folder, Path(run)) for benchmark in known)
    file = Path(references) if references is not None else None
    prepared = evaluation_of(
        model, loaded, protocol, Path(run), config, control=control, textbook=folder, references=file, need_keys=need_keys
    )
    prepared.engine = engine_of(engine, engine_options)
    prepared.again = preparation_of(
        config,
        {
            "model": model,
            "benchmarks": list(benchmarks),
            "data": absolute(data),
            "control": str(control),
            "benchmark_files": [absolute(file) for file in files],
            "references": absolute(references),
        },
    )
    return prepared


def preparation_of(config: EvaluationFile, arguments: Mapping[str, Any]) -> Preparation:
    """Return how another process prepares an evaluation. ``arguments``: those of :func:`prepare_evaluation`, as in a record of it."""
    return Preparation(kind="eval", prepare=_again, config=config, arguments=arguments)


def _again(run: Path, config: EvaluationFile, *, control: str = Control.NONE, **arguments: Any) -> Evaluation:
    return prepare_evaluation(run=run, config=config, control=Control(control), **arguments)


def absolute(path: Path | str | None) -> str | None:
    """Return an absolute path, because a worker may have another working directory."""
    return None if path is None else str(Path(path).absolute())


def evaluation_of(
    model: str,
    loaded: Sequence[LoadedBenchmark],
    protocol: Protocol,
    run: Path,
    config: EvaluationFile,
    *,
    control: Control = Control.NONE,
    textbook: Path | None = None,
    prompts: EvaluationPrompts | None = None,
    references: Path | None = None,
    need_keys: bool = True,
) -> Evaluation:
    """Prepare an evaluation of benchmarks that are already loaded. ``prompts`` replace those of the configuration.

    Without ``need_keys``, missing API keys are no error; such an evaluation cannot be executed.

    Raises:
        InputError: keys, prompts or a judge are missing.
    """
    chosen = config.evaluation
    if protocol.judged and chosen.judge is None:
        raise InputError(f"the protocol {protocol.name} needs a judge: name one with --judge NAME (a model under models)")
    prompts = prompts or EvaluationPrompts.load(chosen.prompts)
    config.model(model)  # check the name

    def answers() -> AnswerPool:
        entries = read_textbook(textbook / "textbook.jsonl") if textbook is not None else ()
        return AnswerPool.of(() if entries else (i.answer for b in loaded for i in b.items if isinstance(i, Item)), entries)

    roles = Roles.of(config, answers=answers, measured=(model, chosen.max_tokens.model or protocol.max_tokens), need_keys=need_keys)
    samples, temperature = chosen.seeds, _temperature_of(chosen, control)
    judge = roles.get("judge") if protocol.judged else None
    judging = Judging(judge, prompts, protocol.any_yes) if judge is not None else None
    known = _references(loaded, protocol, references, chosen)
    checkers = [ClaimChecker(checker, prompts, known) for checker in roles.all("checker")]
    asker = ItemRunner(
        model=roles.one("model"),
        protocol=protocol,
        prompts=prompts,
        temperature=temperature,
        image_side=chosen.image_side,
        max_images=chosen.most_images(model),
        family=chosen.family,
        pictures=roles.pictures,
        blank=run / "images" / "blank",
        judging=judging,
        extra_scores=tuple(extra_scores(roles, chosen, protocol, prompts)),
        checkers=checkers,
    )
    if samples > 1 and temperature > 0 and chosen.temperature is None:
        note = f"{samples} samples are drawn at temperature {temperature:g}; choose another one with --temperature"
        loaded = [replace(b, notes=(*b.notes, note)) if n == 0 else b for n, b in enumerate(loaded)]
    return Evaluation(
        directory=WorkDirectory(run),
        identity=_identity_of(asker, chosen.seed, judge),
        about={"model": model, "configuration": config.model_dump(mode="json")},
        endpoints=roles.endpoints,
        budget_usd=chosen.budget_usd,
        in_flight=units_in_flight(chosen.in_flight, roles.endpoints),
        asker=asker,
        loaded=tuple(_noted(b, protocol, control, known if checkers else None) for b in loaded),
        control=control,
        samples=samples,
        seed=chosen.seed,
        limit=chosen.limit,
        settings={
            "judge": None if judge is None else judge.name,
            "columns_by": dict(config.named()) | _lists(chosen, prompts),
            "family": None if chosen.family is None else str(chosen.family),
            "seed": chosen.seed,
            "control": str(control),
        },
    )


def _identity_of(asker: ItemRunner, seed: int, judge: RoleModel | None) -> dict[str, Any]:
    """Return what a later run in the same directory must have in common."""
    return {
        "model": [asker.model.identity, asker.model.max_tokens],
        "protocol": asker.protocol.name,
        "prompts": asker.protocol.prompt_hashes(asker.prompts),
        "temperature": asker.temperature,
        "image_side": asker.image_side,
        "max_images": asker.max_images,
        "seed": seed,
        "judge": None if judge is None else identity_of(judge),
    }


def _temperature_of(chosen: EvaluationConfig, control: Control) -> float:
    """Return the configured temperature, or the default for this number of samples.

    Raises:
        InputError: all samples would be the same.
    """
    temperature = chosen.temperature
    if temperature is None:
        temperature = SAMPLING if chosen.seeds > 1 and control != Control.SHUFFLE_OPTIONS else 0.0
    if chosen.seeds > 1 and temperature == 0 and control not in {Control.SHUFFLE_OPTIONS, Control.SWAP}:
        raise InputError("several samples at temperature 0 give the same answer: set a temperature above 0")
    return temperature


def _noted(
    loaded: LoadedBenchmark, protocol: Protocol, control: Control, references: Mapping[str, Mapping[str, str]] | None
) -> LoadedBenchmark:
    """Add notes on the items that are left out, unchanged by the control, or (with ``references``) without a reference."""
    shown = loaded.shown_by(protocol)
    out = len(loaded.items) - len(shown)
    left_out = f"protocol {protocol.name} ({protocol.description}) leaves out {out} of {len(loaded.items)} items"
    notes = (
        f"{loaded.name}: {left_out}" if out else "",
        note_unchanged(loaded.name, shown, control),
        "" if references is None else note_unreferenced(loaded.name, shown, references.get(loaded.name, {})),
    )
    return replace(loaded, notes=(*loaded.notes, *filter(None, notes)))


def _lists(chosen: EvaluationConfig, prompts: EvaluationPrompts) -> dict[str, Any]:
    """Describe the roles that several models may have. The hash of the rubric is part of what a grade means."""
    graders: dict[str, Any] = {"graders": chosen.graders, "rubric": prompts.hashes(("grade",))["grade"]} if chosen.graders else {}
    if chosen.checkers:
        graders |= {"checkers": chosen.checkers, "claims_rubric": prompts.hashes(("claims",))["claims"]}
    return graders | ({"interns": chosen.interns} if chosen.interns else {})


def _references(
    loaded: Sequence[LoadedBenchmark], protocol: Protocol, file: Path | None, chosen: EvaluationConfig
) -> dict[str, dict[str, str]]:
    """Collect what checkers compare steps with: the known reports, and the user's file.

    Raises:
        InputError: there are checkers without references or the reverse, or the file cannot be used.
    """
    if file is not None and not chosen.checkers:
        raise InputError(f"{file}: references are for checkers, but there is none: name one with --checkers NAME")
    items = {b.name: {item.id: item for item in b.items if isinstance(item, Item)} for b in loaded}
    known = {name: {id_: item.answer for id_, item in by_id.items()} for name, by_id in items.items()} if protocol.scores_only else {}
    for name, of in (read_references(file, items) if file is not None else {}).items():
        known[name] = {**known.get(name, {}), **of}
    if chosen.checkers and not any(known.get(name) for name in items):
        raise InputError("checkers compare steps with findings or a report of each item: give a JSONL file of them with --references")
    return known
