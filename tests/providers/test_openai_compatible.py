"""A real endpoint over HTTP that does everything endpoints do; each failure lands in its class."""

import asyncio
import json
import socket
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chiron.client.call import Call, ImagePart, Message, Reply, TextPart
from chiron.client.config import OpenAIModel
from chiron.client.failures import CallerFault, CallFailed, RateLimited, Transient
from chiron.client.images import PictureStore
from chiron.client.ledger import Ledger
from chiron.errors import InputError
from chiron.providers.openai_compatible import OpenAICompatible
from tests.support.calls import a_call, openai_client
from tests.support.cases import write_png
from tests.support.endpoint import Endpoint, completion


def ask(endpoint: Endpoint, *, prompt: str = "hello", max_tokens: int = 64, **changes: object) -> Reply:
    async def main() -> Reply:
        client = openai_client(endpoint.base_url, **changes)
        try:
            return await client.complete(a_call(prompt, max_tokens=max_tokens))
        finally:
            await client.close()

    return asyncio.run(main())


def failing(response: Any, **changes: Any) -> CallFailed:
    def override(body: dict[str, Any], count: int) -> web.StreamResponse:
        return response() if callable(response) else web.json_response(response)

    with Endpoint(lambda _: "ok", override=override) as endpoint, pytest.raises(CallFailed) as caught:
        ask(endpoint, **changes)
    return caught.value


def test_a_reply_comes_back_whole_with_what_it_cost() -> None:
    with Endpoint(lambda _: "### Step 1: Émphysème \U0001f600") as endpoint:
        reply = ask(endpoint)
    assert reply.text == "### Step 1: Émphysème \U0001f600"
    assert (reply.finish, reply.usage.prompt_tokens, reply.usage.completion_tokens) == ("stop", endpoint_tokens(endpoint), 6)
    assert reply.served_by == "m"
    assert reply.raw is not None
    assert json.loads(reply.raw)["choices"][0]["message"]["content"] == reply.text


def endpoint_tokens(endpoint: Endpoint) -> int:
    return len(json.dumps(endpoint.seen.bodies[0], separators=(",", ":"))) // 4


def test_what_is_sent_is_what_the_interface_says() -> None:
    with Endpoint(lambda _: "ok") as endpoint:
        ask(endpoint, max_tokens_field="max_completion_tokens", temperature=False, parameters={"reasoning_effort": "low"})
        ask(endpoint)
    first, second = endpoint.seen.bodies
    assert first == {
        "model": "m",
        "messages": [{"role": "user", "content": "hello"}],
        "max_completion_tokens": 64,
        "reasoning_effort": "low",
    }
    assert second == {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 64, "temperature": 0.2}


def test_images_travel_as_data_urls_before_the_words(tmp_path: Path) -> None:
    pictures = PictureStore()
    path = write_png(tmp_path / "x.png")
    digest = sha256(path.read_bytes()).hexdigest()
    pictures.add(digest, path)
    call = Call("intern", "m", "i", (Message("user", (ImagePart(digest, 512), TextPart("why?"))),), 0.0, 8)
    with Endpoint(lambda _: "ok") as endpoint:

        async def main() -> None:
            config = OpenAIModel(provider="openai", base_url=endpoint.base_url, model="m")
            client = OpenAICompatible("m", config, pictures)
            await client.complete(call)
            await client.close()

        asyncio.run(main())
    image, text = endpoint.seen.bodies[0]["messages"][0]["content"]
    assert image["type"] == "image_url"
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    assert text == {"type": "text", "text": "why?"}


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    with Endpoint(lambda _: "ok") as endpoint:
        ask(endpoint, api_key_env="SOME_KEY")
        assert endpoint.seen.headers[0]["Authorization"] == "Bearer sk-very-secret"
        ask(endpoint, api_key_env="SOME_KEY", api_key_header="api-key")
        assert endpoint.seen.headers[1]["api-key"] == "sk-very-secret"
        assert "Authorization" not in endpoint.seen.headers[1]

    def echo() -> web.Response:
        return web.json_response(
            {"error": {"message": "Incorrect API key provided: sk-very-secret", "code": "invalid_api_key"}}, status=401
        )

    failure = failing(echo, api_key_env="SOME_KEY")
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured
    assert "sk-very-secret" not in f"{failure} {failure.public}"
    monkeypatch.delenv("SOME_KEY")
    with pytest.raises(InputError, match="SOME_KEY"):
        openai_client("http://127.0.0.1:9/v1", api_key_env="SOME_KEY")


KEY = "sk-ab/cd-very-secret"


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize(
    "echoed",
    [
        '{"error": {"message": "bad key sk-ab/cd-very-secret", "code": "sk-ab/cd-very-secret"}}',
        '{"error": {"message": "bad key sk-ab\\/cd-very-secret"}}',
        '{"error": {"message": "bad key \\u0073k-ab/cd-very\\u002Dsecret", "code": "\\u0073k-ab/cd-very-secret"}}',
        '{"error": {"message": "{\\"detail\\": \\"bad key \\\\u0073k-ab\\\\/cd-very-secret\\"}"}}',
        '{"error": {"detail": {"deep": ["bad key sk-ab/cd-very-secret"]}}}',
        '{"error": ["bad key sk-ab\\/cd-very-secret"]}',
        '{"error": {"message": "GET /v1?key=sk-ab%2Fcd-very-secret"}}',
        "<p>bad key sk-ab&#x2F;cd-very-secret</p>",
    ],
)
def test_an_echoed_key_is_taken_out_however_it_is_spelt(monkeypatch: pytest.MonkeyPatch, echoed: str, status: int) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    failure = failing(lambda: web.Response(status=status, text=echoed), api_key_env="SOME_KEY")
    assert "secret" not in f"{failure} {failure.public}"
    assert status == 200 or "[key]" in str(failure)


def test_what_an_endpoint_says_does_not_command_the_terminal() -> None:
    error = {"message": "a\x1b[31m\nb\x9bc\x7f\u202e" * 1000, "code": "x\x1b]0;owned\x07"}
    for status in (400, 401, 500):
        failure = failing(lambda status=status: web.json_response({"error": error}, status=status))
        assert str(failure).isprintable()
        assert failure.public.isprintable()
        assert len(str(failure)) <= 1000
        assert "owned" not in failure.public


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405])
def test_a_misconfiguration_is_reported_in_the_servers_words_without_the_prompt(status: int) -> None:
    response = {"error": {"message": "no access for this prompt: hello"}}
    failure = failing(lambda: web.json_response(response, status=status, headers={"Location": "/x"}), prompt="hello Ms Example, 71")
    assert "no access for this prompt" in failure.public
    assert f"HTTP {status}" in failure.public
    assert "(from http://127.0.0.1:" in failure.public
    assert "check" in failure.public


def test_a_reply_that_is_no_http_is_not_repeated() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"Patient X has a fracture\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()

        async def main() -> None:
            client = openai_client(f"http://127.0.0.1:{server.getsockname()[1]}/v1")
            try:
                await client.complete(a_call())
            finally:
                await client.close()

        with pytest.raises(Transient) as caught:
            asyncio.run(main())
        thread.join()
    assert "Patient X" in str(caught.value)
    assert "Patient X" not in caught.value.public
    assert "did not send HTTP" in caught.value.public
    assert caught.value.maybe_billed


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504, 529])
def test_servers_faults_are_transient(status: int) -> None:
    assert isinstance(failing(lambda: web.Response(status=status, text="oh")), Transient)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_call_that_is_refused_is_the_callers_fault_alone(status: int) -> None:
    failure = failing(lambda: web.json_response({"error": {"message": "too long", "code": "context_length_exceeded"}}, status=status))
    assert isinstance(failure, CallerFault)
    assert not failure.misconfigured
    assert "too long" in failure.public
    assert "context_length_exceeded" in failure.public
    assert "lower max_tokens or image_side" in failure.public


@pytest.mark.parametrize("status", [301, 401, 403, 404])
def test_what_refuses_every_call_is_called_a_misconfiguration(status: int) -> None:
    failure = failing(lambda: web.Response(status=status, text="no such model", headers={"Location": "/x"}))
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({}, None),
        ({"Retry-After": "Wed"}, None),
        ({"Retry-After": "7200"}, 7200.0),
        ({"Retry-After": "nan"}, None),
        ({"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:29:30 GMT"}, 90.0),
        ({"Date": "Wed, 21 Oct 2015 07:28:00 GMT", "Retry-After": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0.0),
    ],
)
def test_rate_limits_carry_what_the_endpoint_said(headers: dict[str, str], seconds: float | None) -> None:
    failure = failing(lambda: web.json_response({"error": {"message": "slow"}}, status=429, headers=headers))
    assert isinstance(failure, RateLimited)
    assert failure.retry_after == seconds


def test_an_empty_purse_is_no_rate_limit() -> None:
    failure = failing(lambda: web.json_response({"error": {"message": "quota", "code": "insufficient_quota"}}, status=429))
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured


@pytest.mark.parametrize(
    "body",
    [
        lambda: web.Response(text="<html><body>maintenance</body></html>", content_type="text/html"),
        lambda: web.Response(text=""),
        lambda: web.Response(text='{"choices": [{"mess'),
        lambda: web.json_response([1, 2]),
        lambda: web.json_response({"choices": []}),
        lambda: web.json_response({"choices": None}),
        lambda: web.json_response({"choices": [{"message": None}]}),
        lambda: web.json_response(completion(None)),
        lambda: web.json_response(completion("  ")),
        lambda: web.json_response({"error": {"message": "upstream", "code": 502}}),
    ],
)
def test_a_reply_that_is_none_is_transient(body: Any) -> None:
    assert isinstance(failing(body), Transient)


def test_a_dummy_key_rewrites_no_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUMMY", "none")
    with Endpoint(lambda _: "none of these") as endpoint:
        assert ask(endpoint, api_key_env="DUMMY").text == "none of these"


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": [{"message": {"content": "half \\ud800 a character"}, "finish_reason": "st\\ud800p"}], "model": "\\udfff"}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e400, "completion_tokens": 100000000000000000000}}',
    ],
)
def test_odd_replies_are_replies_that_can_be_written_down(body: str, tmp_path: Path) -> None:
    with Endpoint(lambda _: "", override=lambda *_: web.Response(text=body)) as endpoint:
        reply = ask(endpoint)
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        ledger.put(a_call(), reply)
        assert ledger.get(a_call().key) == reply


@pytest.mark.parametrize("body", ["[" * 100_000, '{"error": {"code": "\u00b2"}}', '{"error": [[[1]]]}', '{"choices": {"0": 1}}'])
def test_replies_that_are_odder_still_are_failures_of_their_call(body: str) -> None:
    assert isinstance(failing(lambda: web.Response(text=body)), CallFailed)


def test_thinking_tokens_that_only_the_total_counts_are_counted() -> None:
    body = completion("x")
    body["usage"] = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 100}
    with Endpoint(lambda _: "", override=lambda *_: web.json_response(body)) as endpoint:
        assert ask(endpoint).usage.completion_tokens == 90


def test_errors_in_disguise_keep_their_class() -> None:
    assert isinstance(failing({"error": {"message": "slow", "code": 429}}), RateLimited)
    assert isinstance(failing({"error": {"message": "bad", "code": 400}}), CallerFault)


def test_a_withheld_reply_is_not_asked_for_again() -> None:
    assert isinstance(failing(lambda: web.json_response(completion("", finish="content_filter"))), CallerFault)


def test_a_reply_cut_off_at_the_token_limit_says_so() -> None:
    with Endpoint(lambda _: "### Step 1: The", finish=lambda _: "length") as endpoint:
        assert ask(endpoint).cut_off


def test_content_in_parts_is_put_together() -> None:
    body = completion("x")
    body["choices"][0]["message"]["content"] = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    with Endpoint(lambda _: "", override=lambda *_: web.json_response(body)) as endpoint:
        assert ask(endpoint).text == "one two"


@pytest.mark.slow
def test_a_hang_ends_at_the_timeout_and_may_have_been_billed() -> None:
    with Endpoint(lambda _: "late", latency=lambda _: 5.0) as endpoint, pytest.raises(Transient, match=r"within 0\.2 s") as caught:
        ask(endpoint, timeout=0.2)
    assert caught.value.maybe_billed


def test_a_refused_connection_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"

        async def main() -> None:
            client = openai_client(url)
            try:
                await client.complete(a_call())
            finally:
                await client.close()

        with pytest.raises(Transient, match="cannot be reached") as caught:
            asyncio.run(main())
    assert url in str(caught.value)
    assert not caught.value.maybe_billed


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_is_named_without_the_one_it_got(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        words = b"me:hunter2 is not known here"
        writer.write(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: %d\r\n\r\n%s" % (len(words), words))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> BaseException:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            monkeypatch.setenv(f"{scheme}_proxy", f"http://me:hunter2@127.0.0.1:{port}")
            monkeypatch.setenv("no_proxy", "")
            client = openai_client(f"{scheme}://far.example/v1")
            try:
                with pytest.raises(CallerFault) as caught:
                    await client.complete(a_call())
            finally:
                await client.close()
        return caught.value

    failure = asyncio.run(main())
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured
    assert "the proxy on the way to it wants a name and a password" in failure.public
    assert f"{scheme}://far.example/v1" in failure.public
    assert "hunter2" not in f"{failure.public} {failure}"
    assert "127.0.0.1" not in failure.public
    assert seen[0].startswith("CONNECT far.example" if scheme == "https" else "POST http://far.example/v1/")


def test_a_connection_that_breaks_off_is_transient() -> None:
    class Breaking(web.Response):
        async def prepare(self, request: Any) -> Any:
            request.transport.close()

    assert isinstance(failing(Breaking), Transient)


def test_a_page_of_brackets_is_read_like_any_other() -> None:
    """It once took minutes; this one only has to end."""
    assert isinstance(failing(lambda: web.Response(status=500, text="<" * 1_000_000)), Transient)
