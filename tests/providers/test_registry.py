"""From configuration to endpoints, and what ``chiron doctor`` finds out about a model."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from chiron.cases.reader import AnswerPool
from chiron.client.config import OfflineModel, OpenAIModel
from chiron.client.images import PictureStore
from chiron.client.provider import Finding
from chiron.providers.registry import RoleCall, build_endpoints, probe
from tests.support.endpoint import Endpoint, completion

INTERN = RoleCall("intern", 2, 1024, system=True, temperature=1.2)
JUDGE = RoleCall("judge", 0, 16, system=True, temperature=0.0)


def model(**changes: object) -> OpenAIModel:
    return OpenAIModel.model_validate({"provider": "openai", "base_url": "http://h/v1", "model": "m", **changes})


def test_entries_of_one_model_at_one_endpoint_share_its_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "x")
    models = {
        "first": model(concurrency=8, requests_per_minute=600),
        "second": model(concurrency=4, base_url="http://h/v1/", parameters={"top_p": 0.9}),
        "other-model": model(model="n"),
        "other-place": model(base_url="http://g/v1"),
        "other-key": model(api_key_env="SOME_KEY"),
    }
    endpoints = build_endpoints(models, pictures=PictureStore(), answers=lambda: AnswerPool(()))
    doors = {name: endpoint.limiter for name, endpoint in endpoints.items()}
    assert doors["first"] is doors["second"]
    assert doors["first"].ceiling == 4
    assert len({id(door) for door in doors.values()}) == 4


def findings(config: OpenAIModel | OfflineModel, *roles: RoleCall) -> dict[str, Finding]:
    async def main() -> dict[str, Finding]:
        return {f.what: f async for f in probe("m", config, roles or (INTERN,))}

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


def test_what_is_sent_has_the_form_of_each_roles_calls() -> None:
    with Endpoint(lambda _: "red", models=("m",)) as endpoint:
        found = findings(OpenAIModel(provider="openai", base_url=endpoint.base_url, model="m"), INTERN, JUDGE)
    intern, judge = endpoint.seen.bodies
    assert [m["role"] for m in intern["messages"]] == [m["role"] for m in judge["messages"]] == ["system", "user"]
    assert [part["type"] for part in intern["messages"][1]["content"]] == ["image_url", "image_url", "text"]
    assert isinstance(judge["messages"][1]["content"], str)
    assert [(b["max_tokens"], b["temperature"]) for b in (intern, judge)] == [(1024, 1.2), (16, 0.0)]
    assert "as intern" in found["image"].detail
    assert "as judge" in found["text"].detail


def refusing(words: str, status: int, when: Callable[[dict[str, Any]], bool]) -> Callable[[dict[str, Any], int], web.Response | None]:
    return lambda body, _: web.json_response({"error": {"message": words}}, status=status) if when(body) else None


@pytest.mark.parametrize(
    ("words", "when", "cure"),
    [
        ("System role not supported", lambda b: b["messages"][0]["role"] == "system", {"system_role": "user"}),
        (
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            lambda b: "max_tokens" in b,
            {"max_tokens_field": "max_completion_tokens"},
        ),
        ("temperature does not support 1.2 with this model", lambda b: "temperature" in b, {"temperature": False}),
        ("At most 1 image(s) may be provided in one request.", lambda b: str(b["messages"]).count("image_url") > 2, None),
    ],
)
def test_the_usual_refusals_are_found_with_their_cures_and_the_cures_work(
    words: str, when: Callable[[dict[str, Any]], bool], cure: dict[str, Any] | None
) -> None:
    with Endpoint(lambda _: "red", models=("m",), override=refusing(words, 400, when)) as endpoint:
        config: dict[str, Any] = {"provider": "openai", "base_url": endpoint.base_url, "model": "m"}
        found = findings(OpenAIModel(**config))["image"]
        assert found.ok is False
        if cure is None:
            assert "fewer images" in found.detail
            return
        ((name, value),) = cure.items()
        assert f"{name}: {str(value).lower()}" in found.detail
        assert findings(OpenAIModel(**config, **cure))["image"].ok


def test_a_missing_v1_is_found() -> None:
    with Endpoint(lambda _: "red", models=("m",)) as endpoint:
        found = findings(OpenAIModel(provider="openai", base_url=endpoint.base_url.removesuffix("/v1"), model="m"))
    assert found["endpoint"].ok is False
    assert "add /v1 to base_url" in found["endpoint"].detail


def test_a_judge_that_thinks_through_its_tokens_is_a_fault() -> None:
    thought = completion(None, finish="length")
    thought["choices"][0]["message"]["reasoning_content"] = "Hm."
    with Endpoint(lambda _: "", models=("m",), override=lambda *_: web.json_response(thought)) as endpoint:
        found = findings(OpenAIModel(provider="openai", base_url=endpoint.base_url, model="m"), JUDGE)["text"]
    assert found.ok is False
    assert "only thinking within 16 tokens" in found.detail
    assert "raise max_tokens" in found.detail


def test_embedded_models_need_nothing() -> None:
    assert findings(OfflineModel(provider="offline", model="match/normalised"))["embedded"].ok
    assert findings(OfflineModel(provider="offline", model="match/unheard-of"))["key"].ok is False
