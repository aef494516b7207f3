"""Calls, scripted providers, and model clients."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from chiron.client.attempts import RetryPolicy
from chiron.client.call import Call, Message, Reply, Role, TextPart
from chiron.client.client import ModelClient
from chiron.client.config import OpenAIModel, Price
from chiron.client.images import PictureStore
from chiron.client.ledger import Ledger
from chiron.client.limiter import Limiter
from chiron.client.provider import Endpoint
from chiron.providers.openai_compatible import OpenAICompatible

QUICK = RetryPolicy(attempts=4, first_wait=0.01, longest_wait=0.05, deadline=5.0)
PRICE = Price(input=0.0, output=1_000_000.0)
"""One dollar per output token: a call with 64 tokens can cost 64 dollars."""


def a_call(text: str = "hello", *, role: Role = "intern", model: str = "m", draw: int = 0, max_tokens: int = 64) -> Call:
    return Call(role, model, f"test:{model}", (Message("user", (TextPart(text),)),), 0.2, max_tokens, draw)


class Scripted:
    """Provider whose replies are a function of call and attempt number."""

    def __init__(self, answer: Callable[[Call, int], Reply], *, seconds: float = 0.0) -> None:
        self.identity = "test:m"
        self.asked: list[Call] = []
        self.in_flight = self.most_in_flight = 0
        self._answer, self._seconds = answer, seconds

    async def complete(self, call: Call) -> Reply:
        self.asked.append(call)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._seconds)
            return self._answer(call, len(self.asked))
        finally:
            self.in_flight -= 1

    async def close(self) -> None:
        pass


def endpoint_of(provider: Scripted, *, concurrency: int = 8, price: Price | None = None, retry: RetryPolicy = QUICK) -> Endpoint:
    return Endpoint(provider, Limiter(concurrency), retry, price)


def openai_client(base_url: str, **changes: object) -> OpenAICompatible:
    values: dict[str, object] = {"provider": "openai", "base_url": base_url, "model": "m", "timeout": 5.0, **changes}
    return OpenAICompatible("m", OpenAIModel.model_validate(values), PictureStore())


def desk_over(path: Path, **endpoints: Endpoint) -> ModelClient:
    return ModelClient(endpoints, Ledger.open(path / "ledger.sqlite"))


def echo(call: Call, _: int) -> Reply:
    """Function for :class:`Scripted` that replies with the prompt."""
    return Reply(call.messages[0].text)


def run(desk: ModelClient, work: Callable[[], Awaitable[object]]) -> None:
    """Run ``work`` and then close client and ledger, also after an error."""

    async def main() -> None:
        try:
            await work()
        finally:
            await desk.close()
            desk.ledger.close()

    asyncio.run(main())
