"""``chiron ask``: the answer as it streams, from endpoints that stream and from others. Also cases answered in one call from Python."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from chiron.cases.case import Case
from chiron.client.config import OpenAIModel
from chiron.client.failures import CallFailed
from chiron.evaluation.api import Question, answer_all
from chiron.evaluation.items import as_modalities
from chiron.mics.prompts import load_prompts
from tests.support.cases import write_png
from tests.support.command import chiron
from tests.support.endpoint import Endpoint, completion
from tests.support.simulation import prompt_of


def events(*pieces: str, end: str = "data: [DONE]\n\n") -> str:
    lines = [f"data: {json.dumps({'choices': [{'delta': {'content': piece}}]})}\n\n" for piece in pieces]
    return "".join(
        [": keep-alive\n\n", 'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n', *lines, 'data: {"choices": []}\n\n', end]
    )


def config(folder: Path, url: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({"models": {"m": {"provider": "openai", "base_url": url, "model": "m", "timeout": 5.0, "attempts": 2}}}))
    return path


@pytest.mark.slow
def test_the_answer_is_put_together_from_the_stream(tmp_path: Path) -> None:
    def streamed(body: dict[str, Any], _: int) -> web.Response:
        assert body["stream"] is True
        return web.Response(
            text=events("### Step 1: Da", "rk.\n", "### The final answer is: \x1b[31mlung\u2019s"), content_type="text/event-stream"
        )

    images = [write_png(tmp_path / f"{n}.png", seed=n) for n in range(2)]
    with Endpoint(lambda _: "", override=streamed) as endpoint:
        ended = chiron("ask", *images, "What is it?", "--model", "m", "--config", config(tmp_path, endpoint.base_url))
        (body,) = endpoint.seen.bodies
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "### Step 1: Dark.\n### The final answer is: \\x1b[31mlung\u2019s\n"
    assert [part.get("text") for part in body["messages"][0]["content"]][:4] == ["Modality 1: ", None, "\nModality 2: ", None]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (lambda: web.json_response({"error": {"message": "no"}}, status=401), "check api_key_env"),
        (lambda: web.Response(text=events("half", end="data: {broken\n\n"), content_type="text/event-stream"), "not JSON"),
        (lambda: web.Response(text=events(), content_type="text/event-stream"), "empty reply"),
        (lambda: web.Response(text=events("half", end=""), content_type="text/event-stream"), "broke off"),
    ],
    ids=["refused", "broken", "empty", "ended too early"],
)
def test_what_goes_wrong_is_said_in_a_line(tmp_path: Path, reply: Callable[[], web.Response], words: str) -> None:
    with Endpoint(lambda _: "", override=lambda _, __: reply()) as endpoint:
        ended = chiron("ask", "Why?", "--model", "m", "--config", config(tmp_path, endpoint.base_url))
    assert ended.returncode == 2
    assert words in ended.stderr


@pytest.mark.slow
def test_what_goes_wrong_half_way_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    reply = web.Response(text=events("half an", end='data: {"error": {"message": "out of memory"}}\n\n'), content_type="text/event-stream")
    with Endpoint(lambda _: "", override=lambda _, __: reply) as endpoint:
        ended = chiron("ask", "Why?", "--model", "m", "--config", config(tmp_path, endpoint.base_url))
    assert (ended.returncode, ended.stdout) == (2, "half an\n")


@pytest.mark.slow
def test_an_answer_that_the_token_limit_ended_is_called_so(tmp_path: Path) -> None:
    last = {"choices": [{"delta": {}, "finish_reason": "length"}]}
    reply = web.Response(text=events("half an", end=f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n"), content_type="text/event-stream")
    with Endpoint(lambda _: "", override=lambda _, __: reply) as endpoint:
        ended = chiron("ask", "Why?", "--model", "m", "--config", config(tmp_path, endpoint.base_url))
    assert (ended.returncode, ended.stdout) == (0, "half an\n")
    assert "--max-tokens" in ended.stderr


@pytest.mark.slow
def test_an_endpoint_that_does_not_stream_answers_whole(tmp_path: Path) -> None:
    with Endpoint(lambda _: "It is a lung.") as endpoint:
        ended = chiron("ask", "Why?", "--model", "m", "--config", config(tmp_path, endpoint.base_url))
    assert ended.stdout == "It is a lung.\n"


@pytest.mark.slow
def test_a_missing_image_is_named(tmp_path: Path) -> None:
    ended = chiron("ask", tmp_path / "lost.png", "Why?", "--model", "offline:match/normalised")
    assert ended.returncode == 2
    assert "lost.png' is missing" in ended.stderr


def test_only_a_question_without_marks_is_announced() -> None:
    assert as_modalities("q", 1) == "q"
    assert as_modalities("q", 2) == "Modality 1: <image>\nModality 2: <image>\nq"
    assert as_modalities("a <image> b <image>", 2) == "a <image> b <image>"


def test_a_pending_answer_is_an_error_and_not_a_wrong_answer(tmp_path: Path) -> None:
    write_png(tmp_path / "1.png")
    cases = [Case(str(n), f"Organ {n}?", "heart", ("1.png",)) for n in range(3)]
    fails = True

    def override(body: dict[str, Any], _: int) -> web.Response | None:
        is_broken = fails and "Organ 1?" in prompt_of(body)
        return web.json_response({}, status=500) if is_broken else web.json_response(completion("### The final answer is: heart"))

    with Endpoint(lambda _: "", override=override) as endpoint:
        model = OpenAIModel(provider="openai", base_url=endpoint.base_url, model="m", attempts=1)
        question = Question(load_prompts(None), tmp_path)
        with pytest.raises(CallFailed, match=r"1 of 3 answers are pending .*run the same again to resume"):
            asyncio.run(answer_all({"x": cases}, model, question, tmp_path / "run"))
        fails = False
        found = asyncio.run(answer_all({"x": cases}, model, question, tmp_path / "run"))
    assert [answered.correct for answered in found["x"]] == [True, True, True]
