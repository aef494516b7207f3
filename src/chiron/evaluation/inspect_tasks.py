"""inspect_ai tasks for every benchmark: ``inspect eval chiron/vqa_rad --model ... -T data=DIR``. Needs the extra ``inspect``.

inspect finds them through the entry point ``inspect_ai``. Questions, prompts and answer extraction come from
:mod:`chiron.evaluation`; calls, cache and logs are inspect's own. Protocols with a judge are not supported, so open questions are
compared word for word.
"""

import base64
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, Content, ContentImage, ContentText
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer, stderr
from inspect_ai.solver import TaskState, generate
from inspect_ai.util import registry_info

from chiron.cases.images import ImageProblem
from chiron.client.call import ImagePart, Message, TextPart
from chiron.errors import InputError
from chiron.evaluation.benchmarks.benchmark import Benchmark
from chiron.evaluation.benchmarks.loading import LoadedBenchmark, load
from chiron.evaluation.config import EvaluationPrompts
from chiron.evaluation.items import BadItem, Item
from chiron.evaluation.protocols.protocol import Protocol
from chiron.evaluation.registry import benchmarks, protocol_of

_SIDE = 1536
_MESSAGES = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


def task_of(benchmark: Benchmark, data: str | None = None, protocol: str | None = None) -> Task:
    """Build the inspect task of a benchmark.

    Args:
        benchmark: the benchmark.
        data: as ``--data``.
        protocol: a protocol without a judge. By default the benchmark's usual one, or ``exact`` if that needs a judge.

    Raises:
        InputError: the data are missing, the protocol needs a judge, or it only has scores.
    """
    usual = protocol_of(benchmark.protocol)
    way = protocol_of(protocol) if protocol else usual if not usual.judged else protocol_of("exact")
    if way.scores_only:
        raise InputError(f"{benchmark.name} has no right answers under the protocol {way.name}: measure it with 'chiron eval'")
    loaded = load(benchmark, Path(data) if data else None, Path(mkdtemp(prefix="chiron-")))
    items = {item.id: item for item in loaded.shown_by(way)}
    prompts = EvaluationPrompts.load()
    samples = [_sample(item, loaded, way, prompts.bare() if benchmark.bare else prompts) for item in items.values()]
    return Task(dataset=MemoryDataset(samples, name=benchmark.name), solver=generate(), scorer=_by_rule(items, way), name=benchmark.name)


def _sample(item: Item | BadItem, loaded: LoadedBenchmark, protocol: Protocol, prompts: EvaluationPrompts) -> Sample:
    """Build a sample. A bad item becomes a sample that cannot be answered, so that N does not change."""
    if isinstance(item, BadItem):
        return Sample(id=item.id, input=f"(not asked: {item.problem})", target="", metadata={"problem": item.problem})
    try:
        paths = {image.sha256: image.path for image in map(loaded.check, item.images)}
        order = [loaded.check(name).sha256 for name in item.images]
    except ImageProblem as problem:
        return Sample(id=item.id, input=f"(not asked: {problem})", target="", metadata={"problem": str(problem)})
    messages = protocol.request(item, tuple(ImagePart(sha256, _SIDE) for sha256 in order), prompts)
    turns = [_MESSAGES[message.role](content=_content(message, paths)) for message in messages]
    return Sample(id=item.id, input=turns, target=item.answer, metadata=dict(item.labels))


def _content(message: Message, paths: Mapping[str, Path]) -> list[Content]:
    return [
        ContentText(text=part.text) if isinstance(part, TextPart) else ContentImage(image=_data_url(paths[part.sha256]))
        for part in message.parts
    ]


def _data_url(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


@scorer(metrics=[accuracy(), stderr()], name="chiron")
def _by_rule(items: dict[str, Item | BadItem], protocol: Protocol) -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        del target
        item = items[str(state.sample_id)]
        if isinstance(item, BadItem) or "problem" in state.metadata:
            return Score(value=INCORRECT, explanation=str(state.metadata["problem"]))
        finding = protocol.read(item, state.output.completion, None)
        return Score(value=CORRECT if finding.right else INCORRECT, answer=finding.given, explanation=finding.rule)

    return score


def _task(benchmark: Benchmark) -> object:
    def made(data: str | None = None, protocol: str | None = None) -> Task:
        return task_of(benchmark, data, protocol)

    made.__name__ = made.__qualname__ = benchmark.name
    made.__doc__ = benchmark.title
    found = task(name=benchmark.name)(made)
    # inspect adds the package prefix only if it finds a distribution of that name. For an editable install it does not.
    if registry_info(found).name == benchmark.name:
        return task(name=f"chiron/{benchmark.name}")(made)
    return found


globals().update({name: _task(benchmark) for name, benchmark in benchmarks().items()})
