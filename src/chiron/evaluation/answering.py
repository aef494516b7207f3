"""Cases as a benchmark: the same asking, ledger and files as any evaluation, without data on disk and with the caller's prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chiron.cases.case import Case
from chiron.cases.images import ImageFolder
from chiron.evaluation.benchmarks.loading import Loaded
from chiron.evaluation.config import EvaluationConfig, EvaluationFile, EvaluationTokens
from chiron.evaluation.item import Item
from chiron.evaluation.prompts import EvaluationPrompts
from chiron.evaluation.protocols.exact import Exact
from chiron.evaluation.record import ITEMS, read_results
from chiron.evaluation.running import evaluation_of
from chiron.mics.prompts import Prompts
from chiron.models.config import AnyModel


@dataclass(frozen=True, slots=True)
class Answered:
    """One case and what a model said to it."""

    case: Case
    reply: str | None
    """``None`` if the call failed; ``problem`` says why."""
    answer: str | None
    """The final answer in it; ``None`` if there is none, which is wrong."""
    correct: bool
    """The same words as the known answer, after normalisation."""
    problem: str | None = None


@dataclass(frozen=True)
class Question:
    """How cases are asked."""

    prompts: Prompts
    images: Path
    """The folder that image paths are relative to."""
    max_tokens: int = 1024
    image_side: int = 1536
    """Longest side in pixels of the images as the model sees them."""


async def answer_all(
    sets: Mapping[str, Sequence[Case]],
    model: AnyModel,
    question: Question,
    run: Path,
    *,
    watch: Callable[[int], None] = lambda _: None,
) -> dict[str, list[Answered]]:
    """Every case's answer at temperature 0 by the protocol ``exact``, in the order of the cases.

    Args:
        sets: what to ask, by the name that each set has as a benchmark.
        model: whom; any provider.
        question: in which words. History and findings are not told.
        run: the run directory of an evaluation, made or gone on with; what its ledger holds is not asked again.
        watch: called with the number of cases answered so far.

    Raises:
        InputError: the model or the directory cannot be used; a case whose image cannot be is answered with a ``problem``.
        Halted: the endpoint is down or refuses every call.
        DiskError: the disk is full.
    """
    check = ImageFolder(question.images).check
    loaded = [Loaded(name, tuple(map(_item, cases)), question.images, check) for name, cases in sets.items()]
    chosen = EvaluationConfig(image_side=question.image_side, max_tokens=EvaluationTokens(model=question.max_tokens))
    prompts = replace(EvaluationPrompts.load(), search=question.prompts)
    config = EvaluationFile(models={"model": model}, evaluation=chosen)
    evaluation = evaluation_of("model", loaded, Exact(), run, config, prompts=prompts)
    evaluation.watch = watch
    summary = await evaluation.execute()
    if summary.halted is not None:
        raise summary.halted
    answered: dict[str, list[Answered]] = {name: [] for name in sets}
    for line in read_results(run / ITEMS):
        if line.benchmark in answered and line.control == "none":
            case = sets[line.benchmark][len(answered[line.benchmark])]
            answered[line.benchmark].append(Answered(case, line.reply, line.given, line.right, line.problem or None))
    return answered


def _item(case: Case) -> Item:
    return Item(case.id, case.question, case.answer, case.images, group=" ".join(case.images))
