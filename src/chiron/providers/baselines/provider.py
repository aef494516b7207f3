"""The provider ``offline``: selects an embedded model by name and answers calls with it."""

from collections.abc import AsyncIterator, Callable
from functools import cache

from chiron.cases.reader import AnswerPool
from chiron.client.call import Call, Reply
from chiron.client.config import OfflineModel
from chiron.client.limiter import Limiter
from chiron.client.provider import BuildContext, Endpoint, Finding, ProviderType
from chiron.errors import InputError
from chiron.providers.baselines.models import ORDERS, TOKENS, Retriever, Rules, Specialist, author, extractive, match, reader
from chiron.providers.baselines.practice import coded, follow, propose

MODELS = (
    *(f"extractive/{order}" for order in ORDERS),
    *(f"retrieval/{kind}" for kind in TOKENS),
    "match/normalised",
    "author/rules",
    "reader/rules",
    *(f"practice/{order}" for order in ORDERS),
    "practice/intern",
)
"""Names of all embedded models except the specialists, which depend on the textbook's attributes: ``specialist/side+size``."""
VERSION = 2
"""Raised whenever an embedded model would answer differently."""
_OF_POOL = frozenset({"retrieval", "specialist", "author", "reader"})
"""Kinds of models whose replies depend on the answer pool."""


class Offline:
    """One embedded model."""

    def __init__(self, name: str, model: str, answers: AnswerPool) -> None:
        """``answers``: answers that retrieval chooses from.

        Raises:
            InputError: the model does not exist.
        """
        kind, _, self._variant = model.partition("/")
        if model not in MODELS and kind != "specialist":
            known = ", ".join((*MODELS, "specialist/ATTRIBUTE+ATTRIBUTE"))
            raise InputError(f"model '{name}': offline has no model '{model}': it has {known}")
        suffix = f"@{answers.fingerprint}" if kind in _OF_POOL or model == "practice/intern" else ""
        self._specialist = Specialist.parse(self._variant, answers.entries) if kind == "specialist" else None
        self.identity = f"offline:{model}:{VERSION}{suffix}"
        self._reply: Callable[[Call, str], str] = {
            "extractive": self._extract,
            "retrieval": self._retrieve,
            "specialist": self._specialise,
            "author": self._write,
            "reader": self._read,
            "practice": self._practice,
            "match": lambda _, prompt: match(prompt),
        }[kind]
        self._rules = cache(lambda: Rules(answers))
        self._coded = cache(lambda: coded(answers.answers))
        self._retriever = cache(lambda: Retriever(self._variant, answers))

    async def complete(self, call: Call) -> Reply:
        """Return the reply; never fails."""
        return Reply(self._reply(call, "\n\n".join(m.text for m in call.messages)))

    async def close(self) -> None:
        """Do nothing; there are no connections."""

    def _write(self, call: Call, prompt: str) -> str:
        return author(self._rules(), prompt, key=call.key)

    def _read(self, call: Call, prompt: str) -> str:
        return reader(self._rules(), prompt, key=call.key)

    def _extract(self, call: Call, prompt: str) -> str:
        return extractive(self._variant, prompt, draw=call.draw, key=call.key)

    def _practice(self, call: Call, prompt: str) -> str:
        if self._variant == "intern":
            return follow(self._coded(), prompt, key=call.key)
        return propose(self._variant, prompt, draw=call.draw, key=call.key)

    def _specialise(self, call: Call, prompt: str) -> str:
        assert self._specialist is not None  # noqa: S101 - set for every model of this kind
        return self._specialist.reply(prompt, key=call.key)

    def _retrieve(self, call: Call, prompt: str) -> str:
        return self._retriever().reply(prompt, temperature=call.temperature, key=call.key)


class OfflineProvider(ProviderType[OfflineModel]):
    """Embedded baselines, without endpoint or weights."""

    config = OfflineModel
    asks = False

    def build(self, name: str, config: OfflineModel, context: BuildContext) -> Endpoint:
        return Endpoint(Offline(name, config.model, context.answers()), Limiter(64))

    async def check(self, name: str, config: OfflineModel, endpoint: Endpoint) -> AsyncIterator[Finding]:
        del config
        yield Finding(name, "embedded", ok=True, detail=endpoint.provider.identity)
