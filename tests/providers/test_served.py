"""An endpoint that serves a checkpoint made by ``chiron train`` is asked as the checkpoint was trained."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from chiron.cases.images import ImageFolder
from chiron.client.call import Call, ImagePart, Message, TextPart
from chiron.client.config import OpenAIModel
from chiron.client.images import PictureStore
from chiron.client.prompts import own_marks, user_message
from chiron.providers.openai_compatible import OpenAICompatible, as_trained
from chiron.providers.registry import probe
from tests.support.cases import write_png
from tests.support.endpoint import Endpoint


def sent(folder: Path, served: dict[str, Any] | None, text: str, images: int) -> dict[str, Any]:
    """The body of a request with as many images."""
    store, pictures = PictureStore(), []
    for number in range(images):
        write_png(folder / f"{number}.png", seed=number)
        image = ImageFolder(folder).check(f"{number}.png")
        store.add(image.sha256, image.path)
        pictures.append(ImagePart(image.sha256, 512))
    messages = (Message("system", (TextPart("Be brief."),)), user_message(own_marks(text), pictures))

    async def main(url: str) -> None:
        values = {"provider": "openai", "base_url": url, "model": "m", **({"serves": served} if served else {})}
        client = OpenAICompatible("m", OpenAIModel.model_validate(values), store)
        try:
            await client.complete(Call("model", "m", client.identity, messages, 0.0, 16))
        finally:
            await client.close()

    with Endpoint(lambda _: "ok") as endpoint:
        asyncio.run(main(endpoint.base_url))
        (body,) = endpoint.seen.bodies
    return body


def written(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "<image>") for part in content)


@pytest.mark.parametrize(
    ("served", "images", "arguments"),
    [
        (None, 2, None),
        ({"max_tiles": 6}, 0, None),
        ({"max_tiles": 6}, 1, {"max_patches": 6}),
        ({"max_tiles": 6}, 2, {"max_patches": 3}),
        ({"max_tiles": 6}, 4, {"max_patches": 1}),
        ({"max_tiles": 12, "max_tiles_per": "image"}, 4, {"max_patches": 12}),
        ({"max_tiles": 6, "layout": "internvl_chat"}, 2, {"max_dynamic_patch": 3}),
    ],
)
def test_the_number_of_tiles_goes_along_with_every_request(
    tmp_path: Path, served: dict[str, Any] | None, images: int, arguments: dict[str, int] | None
) -> None:
    assert sent(tmp_path, served, "Why?", images).get("mm_processor_kwargs") == arguments


def test_images_have_the_line_breaks_of_training_next_to_them(tmp_path: Path) -> None:
    served = {"max_tiles": 6}
    assert written(sent(tmp_path, served, "Why?", 2)) == "<image>\n<image>\nWhy?"
    assert written(sent(tmp_path, served, "Why (<image>\n<image>)?", 2)) == "Why (<image>\n<image>)?"
    assert written(sent(tmp_path, None, "Why?", 2)) == "<image><image>Why?"


def test_an_empty_turn_is_sent_as_an_empty_text() -> None:
    assert as_trained(Message("system", (TextPart(""),))).parts == (TextPart(""),)


def test_what_is_served_is_part_of_who_answers_and_is_said_once() -> None:
    values: dict[str, Any] = {"provider": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}

    def identity(**more: Any) -> str:
        return OpenAICompatible("m", OpenAIModel.model_validate({**values, **more}), PictureStore()).identity

    assert identity() == "openai:m"
    assert len({identity(), identity(serves={"max_tiles": 6}), identity(serves={"max_tiles": 12})}) == 3
    with pytest.raises(ValidationError, match="mm_processor_kwargs"):
        OpenAIModel.model_validate({**values, "serves": {}, "parameters": {"mm_processor_kwargs": {}}})


@pytest.mark.parametrize(
    ("serves", "root", "words"),
    [
        (None, "{}", "add serves: {max_tiles: 6, max_tiles_per: row}"),
        ({"max_tiles": 12}, "{}", "write serves: {max_tiles: 6, max_tiles_per: row}"),
        ({"max_tiles": 6}, "{}", ""),
        (None, "OpenGVLab/InternVL3-2B-hf", "it seems to serve InternVL"),
        (None, "Qwen/Qwen2.5-VL-7B", ""),
    ],
)
def test_the_doctor_warns_of_images_that_are_cut_otherwise(tmp_path: Path, serves: dict[str, Any] | None, root: str, words: str) -> None:
    (tmp_path / "chiron.json").write_text(json.dumps({"max_tiles": 6}))
    entry = {"id": "m", "object": "model", "root": root.format(tmp_path)}

    async def listing(url: str) -> dict[str, str]:
        config = OpenAIModel.model_validate({"provider": "openai", "base_url": url, "model": "m", "serves": serves})
        return {f.what: f.detail async for f in probe("m", config, [])}

    async def serve() -> dict[str, str]:
        async def answer(_: web.Request) -> web.Response:
            return web.json_response({"object": "list", "data": [entry]})

        app = web.Application()
        app.router.add_get("/v1/models", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            return await listing(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        finally:
            await runner.cleanup()

    found = asyncio.run(serve())
    assert (words in found.get("tiles", "")) if words else "tiles" not in found
