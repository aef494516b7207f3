"""verl: prompts for reinforcement learning."""

from collections.abc import Iterator
from typing import Any

from chiron.mmrp.exports.export import Export, ReleasedRow, SignalFormat, messages, no_index, prompt_faults, verifiable


def prompt_row(row: ReleasedRow, images: list[str]) -> dict[str, Any]:
    """Convert to ``prompt`` with marks, ``images`` and ``reward_model.ground_truth``; the rest is in ``extra_info``."""
    columns = verifiable(row)
    return {
        "data_source": "chiron",
        "ability": "medical",
        "prompt": messages(row.turns[:-1]),
        "images": images,
        "reward_model": {"style": "rule", "ground_truth": columns.pop("answer")},
        "extra_info": {"index": row.order, "id": row.id, **columns},
    }


def ground_truth_faults(row: Any) -> Iterator[str]:
    """Yield what verl or the reward function would reject in a prompt."""
    yield from prompt_faults(row["prompt"], len(row["images"]), row["reward_model"]["ground_truth"])


EXPORT = Export("verl", "verl. Start it in this folder.", None, None, no_index, {"rl": SignalFormat(prompt_row, ground_truth_faults)})
