"""Fake OpenAI-compatible endpoint over real HTTP, with latencies, faults and a record of its requests."""

import asyncio
import json
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Self

from aiohttp import web

from tests.support.waiting import PATIENCE


@dataclass(frozen=True)
class Faults:
    """Shares of requests that fail, drawn from a seeded random stream."""

    http_500: float = 0.0
    http_429: float = 0.0
    garbage: float = 0.0
    hang: float = 0.0
    hang_seconds: float = 30.0
    retry_after: str = "0.05"
    down_after: float = 0.0
    """Seconds after the first request at which it starts to break every connection, for ``down_seconds``."""
    down_seconds: float = 0.0
    seed: int = 0


@dataclass
class Seen:
    """Record of the requests."""

    requests: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    """Number of complete replies per distinct request (by hash)."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: Counter[str] = field(default_factory=Counter)
    most_in_flight: Counter[str] = field(default_factory=Counter)
    busy_seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Total duration of requests in seconds, by model."""
    span: float = 0.0
    """Seconds between the first request and the last answer."""

    def stats(self) -> dict[str, Any]:
        """Return the record as JSON values, for another process."""
        return {
            "requests": self.requests,
            "statuses": {str(k): v for k, v in self.statuses.items()},
            "answered": sum(self.answered.values()),
            "distinct": len(self.answered),
            "most_in_flight": dict(self.most_in_flight),
            "busy_seconds": dict(self.busy_seconds),
            "span": self.span,
        }


Answer = Callable[[dict[str, Any]], str]
Override = Callable[[dict[str, Any], int], "web.StreamResponse | None"]


class Endpoint:
    """Server in its own thread, so that tests reach it over HTTP like any other server."""

    def __init__(
        self,
        answer: Answer,
        *,
        faults: Faults | None = None,
        latency: Callable[[str], float] = lambda _: 0.0,
        override: Override | None = None,
        keep_bodies: bool = True,
        finish: Callable[[str], str] = lambda _: "stop",
        models: tuple[str, ...] = (),
    ) -> None:
        self.answer, self.faults, self.latency, self.override = answer, faults or Faults(), latency, override
        self.keep_bodies, self.finish, self.models = keep_bodies, finish, models
        self.seen = Seen()
        self.port = 0
        self._dice = random.Random(self.faults.seed)
        self._began: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def serve(self, port: int = 0) -> None:
        """Serve until stopped; ``port`` 0 selects a free port."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=256 * 2**20)
        self.add_routes(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, backlog=2048)
        await site.start()
        self.port = runner.addresses[0][1]
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/stats", self._stats)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        now = asyncio.get_running_loop().time()
        self._began = now if self._began is None else self._began
        if 0 <= now - self._began - self.faults.down_after < self.faults.down_seconds:
            assert request.transport is not None
            request.transport.abort()
            return web.Response(status=503)
        model = str(body["model"])
        self.seen.requests += 1
        if self.keep_bodies:
            self.seen.bodies.append(body)
            self.seen.headers.append(dict(request.headers))
        self.seen.in_flight[model] += 1
        self.seen.most_in_flight[model] = max(self.seen.most_in_flight[model], self.seen.in_flight[model])
        began = asyncio.get_running_loop().time()
        try:
            response = await self._respond(model, body, raw)
        finally:
            self.seen.in_flight[model] -= 1
            ended = asyncio.get_running_loop().time()
            self.seen.busy_seconds[model] += ended - began
            self.seen.span = ended - self._began
        self.seen.statuses[response.status] += 1
        return response

    async def _respond(self, model: str, body: dict[str, Any], raw: bytes) -> web.StreamResponse:
        if self.override is not None and (response := self.override(body, self.seen.requests)) is not None:
            return response
        dice, f = self._dice.random(), self.faults
        if dice < f.http_429:
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": f.retry_after})
        dice -= f.http_429
        if dice < f.hang:
            await asyncio.sleep(f.hang_seconds)
        dice -= f.hang
        if (seconds := self.latency(model)) > 0:
            await asyncio.sleep(seconds)
        if 0 <= dice < f.http_500:
            return web.json_response({"error": {"message": "out of luck"}}, status=500)
        dice -= f.http_500
        if 0 <= dice < f.garbage:
            return web.Response(text="<html>maintenance</html>", content_type="text/html")
        self.seen.answered[sha256(raw).hexdigest()] += 1
        return web.json_response(completion(self.answer(body), model=model, finish=self.finish(model), prompt_tokens=len(raw) // 4))

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.seen.stats())


def completion(text: str | None, *, model: str = "m", finish: str = "stop", prompt_tokens: int = 10) -> dict[str, Any]:
    """Build the JSON body of a complete reply."""
    written = len(text or "") // 4 + 1
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": written, "total_tokens": prompt_tokens + written},
    }
