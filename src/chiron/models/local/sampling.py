"""The next token of every row: the likeliest, or one drawn by the row's own chance."""

from collections.abc import Sequence

import torch
from torch import Tensor


def choose(logits: Tensor, temperatures: Sequence[float], chances: Sequence[float]) -> list[int | None]:
    """A token for each row of ``logits`` (``(rows, vocabulary)``); ``None`` where they hold what is no finite number.

    At temperature 0 it is the likeliest (the first of equals). Otherwise it is drawn from softmax(logits / temperature) by the inverse
    of the cumulative sum at the row's chance in [0, 1), in float64: a row's token depends on nothing else in the batch.
    """
    sound: list[bool] = torch.isfinite(logits).all(dim=-1).tolist()
    chosen = logits.argmax(dim=-1)
    drawn = [row for row, temperature in enumerate(temperatures) if temperature > 0 and sound[row]]
    if drawn:
        device = logits.device
        scale = torch.tensor([temperatures[row] for row in drawn], dtype=torch.float64, device=device)
        chance = torch.tensor([chances[row] for row in drawn], dtype=torch.float64, device=device)
        rows = torch.tensor(drawn, device=device)
        sums = torch.softmax(logits[rows].double() / scale[:, None], dim=-1).cumsum(dim=-1)
        # Rounding leaves the last sum a little off 1; the last token that has any share is never passed over.
        found = torch.searchsorted(sums, chance[:, None] * sums[:, -1:], right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
        chosen[rows] = found
    tokens: list[int] = chosen.tolist()
    return [token if whole else None for token, whole in zip(tokens, sound, strict=True)]
