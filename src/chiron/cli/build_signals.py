"""`chiron build tree`, and the training signals made from it: preferences, rewards, rl, reflections."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.build import Form, Limit, Out, Reviews, build_part, template_named
from chiron.cli.search import Json, MovedCases
from chiron.errors import InputError
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.mmrp.signals.preferences import Completion

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory of 'chiron search'.")]


def tree_command(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File to write (default: RUN/tree.jsonl).")] = None,
) -> None:
    """Write the whole search tree of a run as JSONL: every candidate, step, evaluation, score and ledger key. Calls no model."""
    from chiron.mics.tree import write_tree

    print(printable(str(write_tree(run, out))))


Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories of 'chiron search'.")]
ImagesOption = Annotated[Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images, if it was moved.")]


def preferences_command(
    runs: Runs,
    out: Out,
    completion: Annotated[
        str, typer.Option("--completion", metavar="KIND", help="path: compare whole paths; step: compare only up to the scored step.")
    ] = "path",
    min_gap: Annotated[float, typer.Option("--min-gap", help="Minimum difference of the two MICS-Scores.")] = 0.3,
    max_length_ratio: Annotated[float, typer.Option("--max-length-ratio", help="Maximum ratio of the two lengths in words.")] = 2.0,
    per_case: Annotated[int, typer.Option("--per-case", metavar="K", help="Maximum number of pairs per case.")] = 3,
    form: Form = "published",
    cases: MovedCases = None,
    images: ImagesOption = None,
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Preference pairs at the same prefix, the best candidate against the worst: TRL, ms-swift, LLaMA-Factory. Calls no model."""
    from chiron.mmrp.signals.preferences import PreferenceOptions, prepare_preferences

    options = PreferenceOptions(_completion(completion), min_gap, max_length_ratio, per_case)
    run = prepare_preferences(runs, out, options=options, cases=cases, images=images, limit=limit, form=template_named(form, runs[0]))
    build_part(run, json_output=json_output)


def _completion(text: str) -> "Completion":
    from chiron.mmrp.signals.preferences import COMPLETIONS

    for name in COMPLETIONS:
        if name == text:
            return name
    raise InputError(f"unknown --completion '{text}'; choose one of {', '.join(COMPLETIONS)}")


def rewards_command(
    runs: Runs,
    out: Out,
    threshold: Annotated[float, typer.Option("--threshold", help="A step is good if its MICS-Score exceeds this.")] = 0.5,
    reviews: Reviews = "prefer",
    form: Form = "published",
    cases: MovedCases = None,
    images: ImagesOption = None,
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Step rewards: prefix and step with its MICS-Score, for process reward models of TRL and InternVL. Calls no model.

    Verdicts of reviewers are added next to the scores ('chiron view RUN --review NAME').
    """
    from chiron.mmrp.path_sources import review_mode
    from chiron.mmrp.signals.rewards import RewardOptions, prepare_rewards

    options, mode, wording = RewardOptions(threshold), review_mode(reviews), template_named(form, runs[0])
    run = prepare_rewards(runs, out, options=options, reviews=mode, cases=cases, images=images, limit=limit, form=wording)
    build_part(run, json_output=json_output)


def rl_command(
    runs: Runs,
    out: Out,
    min_pass_rate: Annotated[float, typer.Option("--min-pass-rate", help="Minimum pass rate of the interns without reasoning.")] = 0.0,
    max_pass_rate: Annotated[float, typer.Option("--max-pass-rate", help="Maximum pass rate of the interns without reasoning.")] = 0.9,
    form: Form = "published",
    cases: MovedCases = None,
    images: ImagesOption = None,
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Prompts with verifiable answers and the interns' pass rates, for GRPO with TRL, verl and ms-swift. Calls no model."""
    from chiron.mmrp.signals.rl import RlOptions, prepare_rl

    options = RlOptions(min_pass_rate, max_pass_rate)
    run = prepare_rl(runs, out, options=options, cases=cases, images=images, limit=limit, form=template_named(form, runs[0]))
    build_part(run, json_output=json_output)


def reflections_command(
    runs: Runs,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="YAML configuration with models and a section 'search'.")],
    out: Out,
    min_gap: Annotated[float, typer.Option("--min-gap", help="Minimum difference of the MICS-Scores of right and wrong step.")] = 0.5,
    max_wrong_score: Annotated[float, typer.Option("--max-wrong-score", help="A step counts as wrong up to this MICS-Score.")] = 0.5,
    per_case: Annotated[int, typer.Option("--per-case", metavar="K", help="Maximum number of reflections per case.")] = 1,
    form: Form = "published",
    cases: MovedCases = None,
    images: ImagesOption = None,
    limit: Limit = None,
    json_output: Json = False,
) -> None:
    """Reflections: a wrong step, why it does not fit (a mentor writes this), and the right step. Run it again to resume."""
    from chiron.mics.config import load_config
    from chiron.mmrp.signals.reflections import ReflectionOptions, prepare_reflections

    options, wording = ReflectionOptions(min_gap, max_wrong_score, per_case), template_named(form, runs[0])
    run = prepare_reflections(runs, load_config(config), out, options=options, cases=cases, images=images, limit=limit, form=wording)
    build_part(run, json_output=json_output)
