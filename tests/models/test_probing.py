"""What ``chiron doctor`` finds out about a model."""

import asyncio

import pytest
from aiohttp import web

from chiron.models.config import OfflineModel, OpenAIModel
from chiron.models.probing import Finding, probe
from tests.support.endpoint import Endpoint


def findings(config: OpenAIModel | OfflineModel, *, needs_image: bool = True) -> dict[str, Finding]:
    async def main() -> dict[str, Finding]:
        return {f.what: f async for f in probe("m", config, ask=True, needs_image=needs_image)}

    return asyncio.run(main())


def test_a_healthy_endpoint_is_reached_listed_and_takes_an_image() -> None:
    with Endpoint(lambda _: "red", models=("a/m", "b")) as endpoint:
        found = findings(OpenAIModel(provider="openai", base_url=endpoint.base_url, model="m"))
    assert all(f.detail.isprintable() for f in found.values())
    assert [(f.what, f.ok) for f in found.values()] == [("endpoint", True), ("listed", True), ("image", True)]
    assert "red" in found["image"].detail


def test_what_an_endpoint_lists_does_not_command_the_terminal() -> None:
    with Endpoint(lambda _: "re\x1b[31md", models=("\x1b]0;owned\x07", "x\ny\x9b")) as endpoint:
        found = findings(OpenAIModel(provider="openai", base_url=endpoint.base_url, model="m"))
    assert "owned" in found["listed"].detail
    assert all(f.detail.isprintable() for f in found.values())


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_images(body: dict[str, object], _: int) -> web.StreamResponse | None:
        return web.json_response({"error": {"message": "this model takes no images"}}, status=400)

    with Endpoint(lambda _: "red", models=("other",), override=no_images) as endpoint:
        found = findings(OpenAIModel(provider="openai", base_url=endpoint.base_url, model="m"))
    assert found["listed"].ok is None
    assert "other" in found["listed"].detail
    assert found["image"].ok is False
    assert "takes no images" in found["image"].detail
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    found = findings(OpenAIModel(provider="openai", base_url="http://127.0.0.1:9/v1", model="m", api_key_env="NO_SUCH_KEY"))
    assert found["key"].ok is False
    found = findings(OpenAIModel(provider="openai", base_url="http://127.0.0.1:9/v1", model="m"))
    assert found["endpoint"].ok is False


def test_embedded_models_need_nothing() -> None:
    assert findings(OfflineModel(provider="offline", model="match/normalised"))["embedded"].ok
    assert findings(OfflineModel(provider="offline", model="match/unheard-of"))["key"].ok is False
