"""Tiny random checkpoints on disk, calls to put to them, and what transformers itself says to these."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiron.cases.images import ImageFolder
from chiron.models.call import Call, Message, Picture, Reply, Text
from chiron.models.config import LocalModel
from chiron.models.local.provider import Local
from chiron.models.pictures import PictureStore
from tests.training.tiny import tiny_model, tiny_tokenizer, write_image

SIDE = 64


def write_internvl(folder: Path, seed: int = 0) -> Path:
    tiny_model(seed).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def config_of(folder: Path, **changes: Any) -> LocalModel:
    return LocalModel.model_validate({"provider": "local", "path": str(folder), "device": "cpu", **changes})


def write_pictures(folder: Path, count: int) -> tuple[PictureStore, list[Picture]]:
    random = np.random.default_rng(7)
    store, pictures = PictureStore(), []
    for number in range(count):
        write_image(folder / f"{number}.png", random)
        checked = ImageFolder(folder).check(f"{number}.png")
        store.add(checked.sha256, checked.path)
        pictures.append(Picture(checked.sha256, SIDE))
    return store, pictures


def a_call(*parts: str | Picture, temperature: float = 0.0, max_tokens: int = 12, draw: int = 0, system: str | None = "Be brief.") -> Call:
    messages = [Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))]
    if system is not None:
        messages.insert(0, Message("system", (Text(system),)))
    return Call("intern", "m", "local:test", tuple(messages), temperature, max_tokens, draw)


def ask(provider: Local, *calls: Call) -> list[Reply]:
    async def together() -> list[Reply]:
        try:
            return await asyncio.gather(*(provider.complete(call) for call in calls))
        finally:
            await provider.close()

    return asyncio.run(together())


def generated(model: Any, ids: Sequence[int], max_tokens: int, stop: Sequence[int], **inputs: Any) -> list[int]:
    """What ``model.generate`` says, greedily, without the token that ends it."""
    prompt = torch.tensor([list(ids)])
    with torch.inference_mode():
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=list(stop),
            pad_token_id=0,
            **inputs,
        )
    said: list[int] = out[0, len(ids) :].tolist()
    return said[:-1] if said[-1] in stop else said
