"""From configuration to endpoints."""

import pytest

from chiron.cases.textbook import AnswerPool
from chiron.client.config import OpenAIModel
from chiron.client.images import PictureStore
from chiron.providers.registry import build_endpoints


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
