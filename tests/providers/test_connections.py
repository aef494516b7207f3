"""How requests travel: idle connections, broken ones, TLS, addresses with a query, replies that are too long, roles a server lacks."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from pydantic import ValidationError

from chiron.client.call import Call, ImagePart, Message, Reply, TextPart
from chiron.client.config import OpenAIModel
from chiron.client.failures import CallerFault, CallFailed, Flagged, Transient
from chiron.providers.openai_compatible import OpenAICompatible
from tests.providers.test_openai_compatible import ask, failing
from tests.support.calls import Scripted, a_call, desk_over, endpoint_of, openai_client, run
from tests.support.endpoint import Endpoint, completion

ANSWER = b'{"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}]}'
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_request(reader: asyncio.StreamReader) -> bool:
    """Whether a whole request came."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return False
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    await reader.readexactly(length)
    return True


def answered(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER))


def talking_to(talk: Talk, calls: int, **changes: object) -> list[Reply | CallFailed]:
    """What several calls one after another come to at a server of raw sockets."""

    async def one(client: OpenAICompatible) -> Reply | CallFailed:
        try:
            return await client.complete(a_call())
        except CallFailed as failure:
            return failure

    async def main() -> list[Reply | CallFailed]:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            client = openai_client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", **changes)
            try:
                return [await one(client) for _ in range(calls)]
            finally:
                await client.close()

    return asyncio.run(main())


def test_a_reused_connection_that_breaks_before_a_byte_is_replaced_at_once_and_costs_nothing() -> None:
    requests: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request a connection, and resets it when the next comes, as a server does whose keep-alive ran out."""
        if await read_request(reader):
            requests.append(1)
            answered(writer)
            await writer.drain()
            await read_request(reader)
            writer.transport.abort()

    ended = talking_to(talk, 4)
    assert [reply.text for reply in ended if isinstance(reply, Reply)] == ["ok"] * 4
    assert len(requests) == 4


def test_a_new_connection_that_breaks_may_have_been_billed() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.transport.abort()

    (failure,) = talking_to(talk, 1)
    assert isinstance(failure, Transient)
    assert failure.maybe_billed


def test_a_reused_connection_that_breaks_half_way_through_a_reply_may_have_been_billed() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        answered(writer)
        await writer.drain()
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nhalf")
        await writer.drain()
        writer.transport.abort()

    first, second = talking_to(talk, 2)
    assert isinstance(first, Reply)
    assert isinstance(second, Transient)
    assert second.maybe_billed


def test_connections_are_not_reused_after_a_few_idle_seconds() -> None:
    async def main() -> float | None:
        client = openai_client("http://127.0.0.1:9/v1")
        connector = client._connection().connector  # the time itself cannot be waited for in a test
        await client.close()
        return getattr(connector, "_keepalive_timeout", None)

    seconds = asyncio.run(main())
    assert seconds is not None
    assert 0 < seconds <= 3.0


def refused_over_tls(context: ssl.SSLContext | None) -> CallFailed:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def main() -> CallFailed:
        server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
        async with server:
            client = openai_client(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
            try:
                with pytest.raises(CallFailed) as caught:
                    await client.complete(a_call())
            finally:
                await client.close()
        return caught.value

    return asyncio.run(main())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program to make a certificate")
def test_a_certificate_that_is_not_trusted_is_a_misconfiguration_that_says_so(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    failure = refused_over_tls(context)
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured
    assert "self-signed certificate" in failure.public
    assert "SSL_CERT_FILE" in failure.public


def test_https_to_a_server_that_speaks_http_says_so() -> None:
    failure = refused_over_tls(None)
    assert isinstance(failure, CallerFault)
    assert failure.misconfigured
    assert "check base_url (http or https)" in failure.public


def test_an_address_may_carry_an_api_version() -> None:
    asked: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readline()).decode())
        await read_request(reader)
        answered(writer)
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        async with server:
            base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/openai/deployments/our-gpt/?api-version=2024-10-21"
            client = openai_client(base)
            try:
                await client.complete(a_call())
            finally:
                await client.close()

    asyncio.run(main())
    assert asked == ["POST /openai/deployments/our-gpt/chat/completions?api-version=2024-10-21 HTTP/1.1\r\n"]


@pytest.mark.parametrize("query", ["?key=sk-1", "?api-version=1&token=x", "?api-version=" + "k" * 40, "?sig", "?"])
def test_any_other_query_is_refused_and_not_repeated(query: str) -> None:
    if query == "?":
        OpenAIModel(provider="openai", base_url="http://h/v1?", model="m")
        return
    with pytest.raises(ValidationError) as caught:
        OpenAIModel(provider="openai", base_url=f"http://h/v1{query}", model="m")
    said = caught.value.errors()[0]["msg"]
    assert "api-version" in said
    assert "sk-1" not in said
    assert "kkk" not in said


def test_a_reply_is_bounded_by_its_token_limit() -> None:
    body = completion("x" * (2**20 + 2**16))
    failure = failing(lambda: web.json_response(body), max_tokens=16)
    assert isinstance(failure, Transient)
    assert "does it support max_tokens?" in failure.public
    with Endpoint(lambda _: "", override=lambda *_: web.json_response(body)) as endpoint:
        assert len(ask(endpoint, max_tokens=2048).text) == 2**20 + 2**16


def test_a_server_without_a_system_role_gets_its_text_before_the_first_user_turn() -> None:
    picture = ImagePart("0" * 64, 64)

    def turns(*messages: Message) -> list[tuple[str, list[str]]]:
        client = openai_client("http://127.0.0.1:9/v1", system_role="user")
        return [(m.role, [p.text if isinstance(p, TextPart) else "image" for p in m.parts]) for m in client.turns(messages)]

    system, user = Message("system", (TextPart("Be exact."),)), Message("user", (TextPart("Why?"),))
    assert turns(system, user) == [("user", ["Be exact.\n\nWhy?"])]
    assert turns(system, Message("user", (picture, TextPart("Why?")))) == [("user", ["Be exact.", "image", "Why?"])]
    assert turns(user, Message("assistant", (TextPart("So."),))) == [("user", ["Why?"]), ("assistant", ["So."])]
    assert turns(system) == [("user", ["Be exact."])]


def test_folding_the_system_text_is_another_model_to_the_ledger_and_its_absence_is_not() -> None:
    assert openai_client("http://h/v1").identity == "openai:m"
    assert openai_client("http://h/v1", system_role="user").identity != "openai:m"


def test_a_flagged_input_is_asked_once_more_and_then_fails_alone(tmp_path: Path) -> None:
    def answer(call: Call, count: int) -> Reply:
        if call.messages[0].text == "bad" or (call.messages[0].text == "once" and count == 1):
            raise Flagged("HTTP 403: flagged")
        return Reply("ok")

    provider = Scripted(answer)
    desk = desk_over(tmp_path, m=endpoint_of(provider))

    async def work() -> None:
        assert (await desk.ask(a_call("once"))).attempts == 2
        with pytest.raises(Flagged):
            await desk.ask(a_call("bad"))
        assert (await desk.ask(a_call("good"))).text == "ok"
        assert desk.halted is None

    run(desk, work)
    assert len(provider.asked) == 5
