"""Generation in batches says what each call alone would get, and what transformers itself says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from chiron.models.call import Call, Picture
from chiron.models.local.checkpoint import find_checkpoint
from chiron.models.local.generation import Request, Said, generate
from chiron.models.local.loading import load
from chiron.models.local.prefixes import PrefixCache
from chiron.models.local.tiling import cut, normalise, tile_budget
from chiron.models.pictures import PictureStore
from tests.models.local.checkpoints import a_call, config_of, generated, write_internvl, write_pictures
from tests.training.tiny import tiny_tiling


class Stage:
    """A loaded tiny model with four images."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.family, _ = load(find_checkpoint(checkpoint), config_of(checkpoint))
        self.store, self.pictures = write_pictures(folder / "images", 4)

    def request(self, call: Call) -> Request:
        return Request(self.family.prompt(call.messages, self.store), call.temperature, call.max_tokens, call.key)

    def say(self, *calls: Call, prefixes: PrefixCache | None = None) -> list[Said]:
        return generate(self.family, [self.request(call) for call in calls], prefixes or PrefixCache(2**26))


@pytest.fixture(scope="module")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("internvl")
    return Stage(folder, write_internvl(folder / "model"))


def internvl_inputs(store: PictureStore, pictures: list[Picture]) -> dict[str, Any]:
    if not pictures:
        return {}
    tiling = tiny_tiling()
    tiles = [normalise(cut(store.image(p), budget=tile_budget(len(pictures), tiling), tiling=tiling)) for p in pictures]
    return {"pixel_values": torch.cat([torch.from_numpy(t) for t in tiles])}


@pytest.mark.parametrize("shown", [0, 1, 3])
def test_internvl_says_what_transformers_says(internvl: Stage, shown: int) -> None:
    pictures = internvl.pictures[:shown]
    for question in ("What is this?", "Where does it lie, and how large is it?", "Why?"):
        call = a_call(*pictures, question, max_tokens=24)
        prompt = internvl.family.prompt(call.messages, internvl.store)
        expected = generated(
            internvl.family.model, prompt.ids.tolist(), 24, sorted(internvl.family.stop_ids), **internvl_inputs(internvl.store, pictures)
        )
        assert list(internvl.say(call)[0].tokens) == expected
