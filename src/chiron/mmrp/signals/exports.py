"""Rows of the training signals in the forms of the trainers. Each form has a check of its own, written from the trainer's side."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from chiron.cases.image_marks import IMAGE_MARK
from chiron.io import write_atomically
from chiron.mmrp.exports.internvl import internvl_row
from chiron.mmrp.exports.rows import ReleasedImage, ReleasedRow, llamafactory_entry
from chiron.mmrp.exports.trl import content_blocks
from chiron.mmrp.row import ROWS, MmrpRow, Part, read_rows
from chiron.providers.local.dialogue import Turn

Convert = Callable[[ReleasedRow, "list[str]"], dict[str, Any]]
"""Converts a row to a trainer's form; the list contains the paths of its images as the trainer finds them."""
Faults = Callable[[Any], Iterator[str]]


@dataclass(frozen=True)
class Form:
    """Form of a trainer for one signal."""

    trainer: str
    """Name of its folder in ``exports/``."""
    convert: Convert
    faults: Faults
    ranking: bool = False
    """Whether its rows are pairs, which LLaMA-Factory calls ``ranking``."""
    sized: bool = False
    """Whether it needs the sizes of the images, which only a release knows."""


def trl_preference(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """TRL, conversational preference: ``prompt``, ``chosen``, ``rejected``, ``images``."""
    *prompt, chosen = row.turns
    rejected = Turn("assistant", str(row.record["signal"]["rejected"]))
    return {"images": images, "prompt": _blocks(prompt), "chosen": _blocks([chosen]), "rejected": _blocks([rejected])}


def trl_preference_faults(row: Any) -> Iterator[str]:
    """Yield what TRL's ``DPOTrainer`` would reject in a row."""
    yield from _prompt_faults(row["prompt"], len(row["images"]))
    for name in ("chosen", "rejected"):
        turns = row[name]
        if [turn["role"] for turn in turns] != ["assistant"] or any(block["type"] != "text" for block in turns[0]["content"]):
            yield f"{name} is not one turn of text of the assistant"
    if row["chosen"] == row["rejected"]:
        yield "both completions are equal"


def ms_swift_preference(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """ms-swift, DPO: ``messages`` end with the chosen completion; ``rejected_response`` is the other one."""
    return {"messages": _messages(row.turns), "rejected_response": row.record["signal"]["rejected"], "images": images}


def ms_swift_preference_faults(row: Any) -> Iterator[str]:
    """Yield what ms-swift would reject in a pair."""
    if row["messages"][-1]["role"] != "assistant" or row["messages"][-1]["content"] == row["rejected_response"]:
        yield "the last turn is not another completion of the assistant"
    yield from _mark_faults(row["messages"], len(row["images"]))


def llamafactory_preference(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """LLaMA-Factory, sharegpt with ``ranking``: ``messages`` end with the user; ``chosen`` and ``rejected`` are turns."""
    *prompt, chosen = _messages(row.turns)
    rejected = {"role": "assistant", "content": row.record["signal"]["rejected"]}
    return {"messages": prompt, "chosen": chosen, "rejected": rejected, "images": images}


def llamafactory_preference_faults(row: Any) -> Iterator[str]:
    """Yield what LLaMA-Factory would reject in a pair."""
    spoken = [turn["role"] for turn in row["messages"] if turn["role"] != "system"]
    if len(spoken) % 2 == 0 or spoken[-1] != "user":
        yield f"turns of {spoken}: the user must be the last"
    if row["chosen"]["role"] != "assistant" or row["rejected"]["role"] != "assistant" or row["chosen"] == row["rejected"]:
        yield "not two completions of the assistant"
    yield from _mark_faults(row["messages"], len(row["images"]))


def trl_stepwise(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """TRL, stepwise supervision: ``prompt``, ``completions`` and a hard label for each; ``scores`` are the soft labels."""
    signal = row.record["signal"]
    prompt = "\n\n".join(turn.text for turn in row.turns[:-1])
    return {
        "prompt": prompt,
        "completions": list(signal["units"]),
        "labels": list(signal["labels"]),
        "scores": list(signal["scores"]),
        "images": images,
    }


def trl_stepwise_faults(row: Any) -> Iterator[str]:
    """Yield what TRL's ``PRMTrainer`` would reject in a row."""
    if not row["completions"] or len({len(row[name]) for name in ("completions", "labels", "scores")}) != 1:
        yield "not one label and one score for each completion"
    if not all(isinstance(label, bool) for label in row["labels"]) or not all(0 <= score <= 1 for score in row["scores"]):
        yield "labels that are not true or false, or scores that are not from 0 to 1"
    if row["prompt"].count(IMAGE_MARK) != len(row["images"]):
        yield f"{row['prompt'].count(IMAGE_MARK)} marks for {len(row['images'])} images"


def internvl_reward(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """InternVL, process reward model: every unit is a turn of the user, answered by ``+`` or ``-``.

    ``scores`` contains the soft labels, one for each answer.
    """
    del images  # relative to the root that meta.json names
    signal = row.record["signal"]
    *before, asked = row.turns[:-1]
    turns = list(before)
    for number, (unit, good) in enumerate(zip(signal["units"], signal["labels"], strict=True)):
        shown = f"### Question:\n{asked.text}\n\n### Solution Process:\n{unit}" if number == 0 else unit
        turns += [Turn("user", shown), Turn("assistant", "+" if good else "-")]
    return {**internvl_row(_with_turns(row, turns)), "scores": list(signal["scores"])}


def internvl_reward_faults(row: Any) -> Iterator[str]:
    """Yield what InternVL's trainer would reject in a row, or its process reward model would not understand."""
    from chiron.mmrp.exports.faults import internvl_faults

    yield from internvl_faults(row)
    answers = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
    if not answers or not {"+", "-"}.issuperset(answers) or len(answers) != len(row["scores"]):
        yield "not one + or - for each score"


def trl_prompt(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """TRL, GRPO: ``prompt`` and ``images``; every other column is an argument of the reward function."""
    return {"images": images, "prompt": _blocks(row.turns[:-1]), **_verifiable(row)}


def trl_prompt_faults(row: Any) -> Iterator[str]:
    """Yield what TRL's ``GRPOTrainer`` or the reward function would reject in a row."""
    yield from _prompt_faults(row["prompt"], len(row["images"]))
    yield from _answer_faults(row["answer"])


def ms_swift_prompt(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """ms-swift, GRPO: ``messages`` end with the user; ``solution`` is the answer."""
    columns = _verifiable(row)
    return {"messages": _messages(row.turns[:-1]), "images": images, "solution": columns.pop("answer"), **columns}


def ms_swift_prompt_faults(row: Any) -> Iterator[str]:
    """Yield what ms-swift or the reward function would reject in a prompt."""
    if row["messages"][-1]["role"] != "user":
        yield "the last turn is not one of the user"
    yield from _mark_faults(row["messages"], len(row["images"]))
    yield from _answer_faults(row["solution"])


def verl_prompt(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """verl: ``prompt`` with marks, ``images``, ``reward_model.ground_truth``; the rest is in ``extra_info``."""
    columns = _verifiable(row)
    return {
        "data_source": "chiron",
        "ability": "medical",
        "prompt": _messages(row.turns[:-1]),
        "images": images,
        "reward_model": {"style": "rule", "ground_truth": columns.pop("answer")},
        "extra_info": {"index": row.order, "id": row.id, **columns},
    }


def verl_prompt_faults(row: Any) -> Iterator[str]:
    """Yield what verl or the reward function would reject in a prompt."""
    if row["prompt"][-1]["role"] != "user":
        yield "the last turn is not one of the user"
    yield from _mark_faults(row["prompt"], len(row["images"]))
    yield from _answer_faults(row["reward_model"]["ground_truth"])


FORMS: Final[Mapping[Part, tuple[Form, ...]]] = MappingProxyType(
    {
        "preferences": (
            Form("trl", trl_preference, trl_preference_faults),
            Form("ms-swift", ms_swift_preference, ms_swift_preference_faults),
            Form("llamafactory", llamafactory_preference, llamafactory_preference_faults, ranking=True),
        ),
        "rewards": (
            Form("trl", trl_stepwise, trl_stepwise_faults),
            Form("internvl", internvl_reward, internvl_reward_faults, sized=True),
        ),
        "rl": (
            Form("trl", trl_prompt, trl_prompt_faults),
            Form("verl", verl_prompt, verl_prompt_faults),
            Form("ms-swift", ms_swift_prompt, ms_swift_prompt_faults),
        ),
    }
)
"""Forms of each signal. Reflections are conversations, and have the forms of the other parts."""


def llamafactory_pairs(file_name: str) -> dict[str, Any]:
    """Return the entry of a file of pairs in ``dataset_info.json``."""
    entry = llamafactory_entry(file_name)
    columns = {**entry["columns"], "chosen": "chosen", "rejected": "rejected"}
    return {**entry, "ranking": True, "columns": columns}


def write_exports(directory: Path, images: Path) -> None:
    """Write the rows of a signal in every form to ``exports/TRAINER/PART.jsonl``, with the absolute paths of the images.

    All rows are written; ``chiron build release`` divides them into splits and adds the forms that need the sizes of images.

    Raises:
        InputError: ``rows.jsonl`` cannot be read.
        DiskError: a file cannot be written.
        AssertionError: a row is invalid for its trainer, which is a bug in this program.
    """
    first = next(read_rows(directory / ROWS), None)
    for form in FORMS.get(first.part, ()) if first is not None else ():
        assert first is not None  # noqa: S101 - narrows the type
        if form.sized:
            continue
        folder = directory / "exports" / form.trainer
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{first.part}.jsonl", _lines(directory, images, form))
        if form.ranking:
            info = {f"mmrp-{first.part}": llamafactory_pairs(f"{first.part}.jsonl")}
            write_atomically(folder / "dataset_info.json", [json.dumps(info, indent=2) + "\n"])


def _lines(directory: Path, images: Path, form: Form) -> Iterator[str]:
    for order, row in enumerate(read_rows(directory / ROWS)):
        paths = [str((images / name).resolve()) for name in row.images]
        yield json.dumps(converted(form, _as_released(row, order), paths), ensure_ascii=False) + "\n"


def converted(form: Form, row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """Convert a row, and check the result.

    Raises:
        AssertionError: it is invalid for its trainer, which is a bug in this program.
    """
    record = form.convert(row, images)
    if found := next(form.faults(record), None):
        raise AssertionError(f"row {row.id} as {form.trainer}: {found}")
    return record


def _as_released(row: MmrpRow, order: int) -> ReleasedRow:
    images = tuple(ReleasedImage(name, 0, 0) for name in row.images)
    return ReleasedRow(row.id, row.part, "train", images, row.turns, row.to_record(), group="", order=order, weight=1.0)


def _with_turns(row: ReleasedRow, turns: list[Turn]) -> ReleasedRow:
    return ReleasedRow(row.id, row.part, row.split, row.images, tuple(turns), row.record, row.group, row.order, row.weight)


def _verifiable(row: ReleasedRow) -> dict[str, Any]:
    record = row.record
    return {
        "answer": record["answer"],
        "options": list(record["options"]),
        "question": record["question"],
        "pass_rate": record["signal"]["pass_rate"],
    }


def _messages(turns: "list[Turn] | tuple[Turn, ...]") -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def _blocks(turns: "list[Turn] | tuple[Turn, ...]") -> list[dict[str, Any]]:
    return [{"role": turn.role, "content": content_blocks(turn.role, turn.text)} for turn in turns]


def _prompt_faults(prompt: Any, images: int) -> Iterator[str]:
    shown = [turn["role"] for turn in prompt for block in turn["content"] if block["type"] == "image"]
    if len(shown) != images or set(shown) - {"user"}:
        yield f"image blocks of {shown} for {images} images"
    if not prompt or prompt[-1]["role"] != "user":
        yield "the last turn of the prompt is not one of the user"


def _mark_faults(messages: Any, images: int) -> Iterator[str]:
    marks = sum(turn["content"].count(IMAGE_MARK) for turn in messages)
    if marks != images:
        yield f"{marks} marks for {images} images"


def _answer_faults(answer: Any) -> Iterator[str]:
    if not isinstance(answer, str) or not answer.strip():
        yield "no answer to verify"
