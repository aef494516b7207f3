"""Held-out rows during a stage: their loss, generated answers to some of them, the best weights, and early stopping."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn

from chiron.cases.images import ImageFolder
from chiron.errors import InputError
from chiron.io import BrokenJson, read_jsonl, write_atomically
from chiron.providers.local.families.registry import FAMILIES
from chiron.training.attention import masked_attention
from chiron.training.batches import Decoder, collate
from chiron.training.encoding import IGNORED, Encoded
from chiron.training.loop import TrainState
from chiron.training.model import plain
from chiron.training.packing import order
from chiron.training.recipe import Recipe, Stage
from chiron.training.rows import TrainingExample

SAMPLES = "samples.jsonl"
"""File in the output folder with the generated answers."""
Score = Callable[[str, Mapping[str, Any]], bool | None]
"""Whether a reply gives the known answer of a row (a JSON object of the data file, and its last turn as ``reference``).

``None`` if the row has no answer to compare with. The command uses :func:`chiron.evaluation.reward.row_is_right`.
"""


@dataclass(frozen=True, slots=True)
class HeldOutQuestion:
    """A held-out row whose answer is generated during training."""

    encoded: Encoded
    """The prompt of the reply, without labels."""
    stop_id: int
    """Token that ends the reply."""
    question: str
    """Text of the last user turn."""
    row: dict[str, Any]
    """The row as in the file, and its last turn as ``reference``."""


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """One line of ``samples.jsonl``: a generated answer."""

    stage: str
    total_steps: int
    """Optimizer steps completed in all stages."""
    id: str
    images: tuple[str, ...]
    question: str
    reference: str
    reply: str
    finished: bool
    """Whether the reply ended by itself, within ``answer_tokens``."""
    correct: bool | None
    """As the answer reader of the evaluation decides; None if the row has no answer to compare with."""


def choose_questions(
    path: Path, rows: Sequence[TrainingExample], encoded: Sequence[Encoded], recipe: Recipe, stage: Stage
) -> list[HeldOutQuestion]:
    """Choose ``stage.answers`` of the held-out rows, the same in every run of a recipe."""
    objects = [line.value for line in read_jsonl(path)]
    chosen = sorted(order(len(rows), seed=recipe.seed, epoch=0)[: stage.answers])
    return [_question(rows[i], encoded[i], objects[i]) for i in chosen]


def _question(example: TrainingExample, encoded: Encoded, row: dict[str, Any]) -> HeldOutQuestion:
    """Cut a row before its last reply; of a preference pair, the chosen conversation."""
    labels = encoded.labels[: encoded.conversations[0]]
    (learned,) = (labels != IGNORED).nonzero()
    begin = int(learned[-1])
    while labels[begin - 1] != IGNORED:
        begin -= 1
    prompt = replace(
        encoded,
        input_ids=encoded.input_ids[:begin],
        labels=encoded.labels[:begin] * 0 + IGNORED,
        positions=None if encoded.positions is None else encoded.positions[:, :begin],
        lengths=(),
        reference=None,
    )
    asked = [turn.text for turn in example.turns if turn.role == "user"]
    return HeldOutQuestion(prompt, int(labels[learned[-1]]), asked[-1], {**row, "reference": example.turns[-1].text})


def check_questions(recipe: Recipe, questions: Mapping[str, Sequence[HeldOutQuestion]], score: Score) -> None:
    """Check that generated answers can be compared with the known ones. ``questions``: by stage name.

    Raises:
        InputError: A known answer is not among the options, or a stage's rows have no known answer.
    """
    for stage in recipe.stages:
        known = 0
        for one in questions.get(stage.name, ()):
            try:
                known += score("", one.row) is not None
            except InputError as error:
                raise InputError(f"{stage.held_out}, row {one.encoded.id}: {error}") from error
        if stage.answers and not known:
            raise InputError(f"stage {stage.name}: answers needs rows with known answers, and {stage.held_out} has none: remove answers")


@torch.no_grad()
def answer(
    model: nn.Module, state: TrainState, recipe: Recipe, questions: Sequence[HeldOutQuestion], folder: ImageFolder, limit: int
) -> list[tuple[list[int], bool]]:
    """Generate the most likely reply to each question, up to ``limit`` tokens: its tokens, and whether it ended by itself.

    The processes share the questions. All must call this together, and all get every reply.
    """
    from transformers import GenerationConfig

    world, rank = state.accelerator.num_processes, state.accelerator.process_index
    mine = list(questions)[rank::world]
    replies = []
    inner = plain(model)
    inner.eval()
    with Decoder(folder, state.layout, recipe.workers, cache=state.tiles) as decoder:
        decoded = decoder.ahead([[(one.encoded,)] for one in mine])
        for one, (lines, tiles) in zip(mine, decoded, strict=True):
            size = len(one.encoded.input_ids)
            batch = collate(lines, tiles, length=size, pad_id=state.pad_id, layout=state.layout).to(state.accelerator.device)
            tensors = {"input_ids": batch.input_ids, "pixel_values": batch.pixel_values, "image_grid_thw": batch.image_grid_thw}
            inputs = {name: tensor for name, tensor in tensors.items() if tensor is not None}
            if one.encoded.images:
                inputs |= FAMILIES[inner.config.model_type].token_types(inner.config, batch.input_ids)
            # A base's own settings (sampling, penalties) must not count.
            greedy = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "max_new_tokens": limit}
            settings = GenerationConfig(**greedy, eos_token_id=one.stop_id, pad_token_id=state.pad_id)  # type: ignore[no-untyped-call]
            with state.accelerator.autocast(), masked_attention(inner):
                made = inner.generate(**inputs, attention_mask=torch.ones_like(batch.input_ids), generation_config=settings)
            tokens = made[0, batch.input_ids.shape[1] :].tolist()
            finished = bool(tokens) and tokens[-1] == one.stop_id
            replies.append((tokens[:-1] if finished else tokens, finished))
    shares = gather_object([replies])
    return [shares[number % world][number // world] for number in range(len(questions))]


class BestWeights:
    """The history of a stage's held-out loss, and the weights at its minimum (only in the first process, in host memory)."""

    def __init__(self, stage: Stage, past: Sequence[tuple[int, float]], weights: dict[str, Tensor] | None) -> None:
        """``past``: ``(total_steps, loss)`` of the measurements before this run. ``weights``: those at their minimum, if kept."""
        self._stage = stage
        self._past = list(past)
        self.weights = weights

    def measured(self, total_steps: int) -> bool:
        """Whether the loss after this step is known."""
        return any(step == total_steps for step, _ in self._past)

    def add(self, total_steps: int, loss: float) -> bool:
        """Add a measurement; return whether its weights are the best so far."""
        improved = math.isfinite(loss) and all(not math.isfinite(before) or loss < before for _, before in self._past)
        self._past.append((total_steps, loss))
        return improved

    @property
    def patience_is_over(self) -> bool:
        """Whether the last ``patience`` measurements were all no better than one before them."""
        losses = [loss if math.isfinite(loss) else math.inf for _, loss in self._past]
        return self._stage.patience is not None and bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= self._stage.patience

    def restore(self, model: nn.Module, accelerator: Accelerator) -> None:
        """Copy the best weights into the ``model`` of every process. All must call this together."""
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                here = self.weights[name] if self.weights is not None else torch.empty_like(weight, device="cpu")
                weight.data.copy_(broadcast(here.to(accelerator.device), from_process=0))


def add_samples(path: Path, answers: Sequence[SampledAnswer]) -> None:
    """Add the answers of one evaluation to ``samples.jsonl``; remove those of the same and of later steps (of a run before a resume).

    Raises:
        DiskError: The file cannot be written.
    """
    at = answers[0].total_steps
    before = [line.value for line in read_jsonl(path)] if path.is_file() else []
    kept = [line for line in before if not isinstance(line, BrokenJson) and line["total_steps"] < at]
    write_atomically(path, [json.dumps(line, ensure_ascii=False) + "\n" for line in [*kept, *map(asdict, answers)]])
