"""A streamed reply is read exactly as the plain one: put together from its events, whatever their form."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from chiron.client.attempts import RetryPolicy
from chiron.client.call import Reply
from chiron.client.failures import CallerFault, CallFailed, RateLimited, Transient
from chiron.providers.streaming import stream
from tests.providers.test_openai_compatible import ask
from tests.support.calls import QUICK, a_call, openai_client
from tests.support.endpoint import Endpoint, completion


def sent(*events: dict[str, Any] | str, kind: str = "text/event-stream", end: str = "data: [DONE]\n\n") -> Callable[[], web.Response]:
    lines = [event if isinstance(event, str) else f"data: {json.dumps(event)}\n\n" for event in events]
    return lambda: web.Response(text="".join(lines) + end, content_type=kind)


def delta(content: Any = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content, **more}, "finish_reason": finish}]}


def streamed(
    *replies: Callable[[], web.StreamResponse],
    retry: RetryPolicy = RetryPolicy(attempts=1, deadline=0.0),  # noqa: B008 - frozen
    max_tokens: int = 64,
    waits: list[float] | None = None,
) -> tuple[str, Reply]:
    """Text and reply, after that many responses, the last one for ever."""

    async def sleep(seconds: float) -> None:
        if waits is not None and seconds:
            waits.append(seconds)

    def override(body: dict[str, Any], count: int) -> web.StreamResponse:
        return replies[min(count, len(replies)) - 1]()

    async def main() -> tuple[str, Reply]:
        client = openai_client(endpoint.base_url)
        text, reply = "", None
        try:
            async for piece in stream(client, a_call(max_tokens=max_tokens), retry, sleep=sleep):
                text += piece.text
                reply = piece.reply
        finally:
            await client.close()
        assert reply is not None
        return text, reply

    with Endpoint(lambda _: "", override=override) as endpoint:
        return asyncio.run(main())


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain", "application/json", "application/octet-stream"])
def test_events_are_read_whatever_type_the_server_names(kind: str) -> None:
    assert streamed(sent(delta("A "), delta("rib.", finish="stop"), kind=kind))[0] == "A rib."


@pytest.mark.parametrize("end", ["", "\n", "\r\n\r\n"])
def test_the_last_event_may_lack_its_line_end(end: str) -> None:
    last = f"data: {json.dumps(delta('rib.', finish='stop'))}"
    assert streamed(sent(delta("A "), last, end=end))[0] == "A rib."


def test_lines_may_end_as_on_windows_and_carry_comments_and_names() -> None:
    events = f": hello\r\n\r\nevent: message\r\nid: 1\r\ndata: {json.dumps(delta('A rib.', finish='stop'))}\r\n\r\n"
    assert streamed(sent(events, end="data: [DONE]\r\n\r\n"))[0] == "A rib."


def test_one_event_may_have_several_lines_and_events_may_lack_the_empty_line_between_them() -> None:
    first = json.dumps(delta("A ")).replace(', "finish', ',\ndata: "finish')
    assert streamed(sent(f"data: {first}\n\n", delta("rib."), end="data: [DONE]\n"))[0] == "A rib."
    assert streamed(sent(f"data: {json.dumps(delta('A '))}\ndata: {json.dumps(delta('rib.'))}\ndata: [DONE]\n", end=""))[0] == "A rib."


def test_a_reply_in_several_segments_is_put_together() -> None:
    class Segments(web.StreamResponse):
        """Half a character, half a line, half a body at a time."""

        def __init__(self, body: bytes) -> None:
            super().__init__()
            self._whole = body

        async def prepare(self, request: Any) -> Any:
            writer = await super().prepare(request)
            for byte in range(0, len(self._whole), 7):
                await self.write(self._whole[byte : byte + 7])
                await asyncio.sleep(0)
            return writer

    events = "".join(f"data: {json.dumps(delta(text), ensure_ascii=False)}\n\n" for text in ("Émphysème ", "\U0001f600"))
    assert streamed(lambda: Segments(events.encode() + b"data: [DONE]\n\n"))[0] == "Émphysème \U0001f600"
    assert streamed(lambda: Segments(json.dumps(completion("A rib.")).encode()))[0] == "A rib."


def test_a_character_split_between_segments_of_a_plain_reply_stays_whole() -> None:
    first, half, rest = json.dumps(completion("Émphysème"), ensure_ascii=False).encode().partition(b"\x89")

    class Halves(web.StreamResponse):
        async def prepare(self, request: Any) -> Any:
            writer = await super().prepare(request)
            await self.write(first)
            await asyncio.sleep(0.1)
            await self.write(half + rest)
            return writer

    assert streamed(Halves)[0] == "Émphysème"


MESSAGES: list[tuple[dict[str, Any], str]] = [
    ({"content": "A rib."}, "stop"),
    ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "A rib."}]}, "stop"),
    ({"content": "A rib", "reasoning_content": "Hm."}, "max_tokens"),
    ({"content": None, "reasoning_content": "Hm."}, "stop"),
    ({"content": None, "reasoning": "Hm."}, "length"),
    ({"content": ""}, "length"),
]


@pytest.mark.parametrize(("message", "finish"), MESSAGES)
def test_a_stream_gives_the_reply_that_came_without_streaming(message: dict[str, Any], finish: str) -> None:
    body = completion("x")
    body["choices"][0] |= {"message": message, "finish_reason": finish}
    with Endpoint(lambda _: "", override=lambda *_: web.json_response(body)) as endpoint:
        plain = ask(endpoint)
    usage = {"choices": [], "usage": body["usage"], "model": "m"}
    text, reply = streamed(sent({"choices": [{"delta": message, "finish_reason": None}]}, delta(finish=finish), usage))
    assert (reply.text, reply.finish, reply.usage, reply.served_by) == (plain.text, plain.finish, plain.usage, plain.served_by)
    assert text == plain.text


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ({"error": {"message": "the context has 8192", "code": 400}}, CallerFault),
        ({"object": "error", "message": "the context has 8192", "code": 400}, CallerFault),
        ('event: error\ndata: {"message": "the context has 8192"}\n\n', Transient),
        ('error: {"code": 500, "message": "the context has 8192"}\n\n', Transient),
        ("event: error\ndata: the context has 8192\n\n", Transient),
        ({"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 502, "message": "the context has 8192"}}]}, Transient),
    ],
)
def test_an_error_half_way_keeps_the_servers_words(event: Any, kind: type[CallFailed]) -> None:
    with pytest.raises(kind, match="the context has 8192") as caught:
        streamed(sent(delta("A "), event))
    assert "the context has 8192" in caught.value.public


def test_a_stream_of_nothing_is_asked_for_its_reason_without_streaming() -> None:
    nothing = lambda: web.Response(text="", content_type="text/event-stream")  # noqa: E731
    with pytest.raises(CallerFault, match="713 tokens"):
        streamed(nothing, lambda: web.json_response({"error": {"message": "you requested 713 tokens"}}, status=400))
    assert streamed(nothing, lambda: web.json_response(completion("A rib.")))[0] == "A rib."


def test_a_stream_that_ends_without_a_word_broke_off() -> None:
    with pytest.raises(Transient, match="broke off"):
        streamed(sent(delta("A "), end=""))


def test_a_filtered_stream_is_withheld() -> None:
    with pytest.raises(CallerFault, match="withheld"):
        streamed(sent(delta("A "), delta(finish="content_filter")))


def test_failures_before_the_first_words_are_retried_and_a_wait_is_obeyed() -> None:
    waits: list[float] = []
    limited = lambda: web.json_response({"error": "slow"}, status=429, headers={"Retry-After": "3"})  # noqa: E731
    broken = lambda: web.Response(status=503)  # noqa: E731
    assert streamed(broken, limited, sent(delta("A rib.")), retry=QUICK, waits=waits)[0] == "A rib."
    assert 3.0 in waits


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    waits: list[float] = []
    limited = lambda: web.json_response({"error": "slow"}, status=429, headers={"Retry-After": "3000"})  # noqa: E731
    with pytest.raises(RateLimited):
        streamed(limited, retry=QUICK, waits=waits)
    assert waits == []


def test_what_is_refused_is_not_retried_and_words_that_came_are_not_asked_twice() -> None:
    counts: list[int] = []

    def counted(response: Callable[[], web.Response]) -> Callable[[], web.Response]:
        def reply() -> web.Response:
            counts.append(1)
            return response()

        return reply

    with pytest.raises(CallerFault):
        streamed(counted(lambda: web.Response(status=401)), retry=QUICK)
    with pytest.raises(Transient):
        streamed(counted(sent(delta("A "), end="")), retry=QUICK)
    assert len(counts) == 2


def test_a_stream_without_end_is_ended() -> None:
    many = sent(*[delta("x" * 2**17) for _ in range(20)])
    with pytest.raises(Transient, match="token limit"):
        streamed(many, max_tokens=16)
