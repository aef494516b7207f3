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
    def __init__(self, name: str, model: str, answers: AnswerPool) -> None:
        """``answers``: answers that retrieval chooses from.

        Raises:
            InputError: the model does not exist.
        """
        kind, _, variant = model.partition("/")
        if model not in MODELS and kind != "specialist":
            known = ", ".join((*MODELS, "specialist/ATTRIBUTE+ATTRIBUTE"))
            raise InputError(f"model '{name}': offline has no model '{model}': it has {known}")
        suffix = f"@{answers.fingerprint}" if kind in _OF_POOL or model == "practice/intern" else ""
        self.identity = f"offline:{model}:{VERSION}{suffix}"
        self._reply = _replies(kind, variant, answers)

    async def complete(self, call: Call) -> Reply:
        """Return the reply.

        Raises:
            CallerFault: the model chooses among known answers, and there are none.
        """
        return Reply(self._reply(call, "\n\n".join(m.text for m in call.messages)))

    async def close(self) -> None:
        """Do nothing; there are no connections."""


def _replies(kind: str, variant: str, answers: AnswerPool) -> Callable[[Call, str], str]:
    """Return the function from a call and its prompt to a reply. What takes long is prepared at the first call."""
    rules = cache(lambda: Rules(answers))
    retriever = cache(lambda: Retriever(variant, answers))
    by_code = cache(lambda: coded(answers.answers))
    if kind == "specialist":
        specialist = Specialist.parse(variant, answers.entries)
        return lambda call, prompt: specialist.reply(prompt, key=call.key)
    if kind == "practice" and variant == "intern":
        return lambda call, prompt: follow(by_code(), prompt, key=call.key)
    replies: dict[str, Callable[[Call, str], str]] = {
        "extractive": lambda call, prompt: extractive(variant, prompt, draw=call.draw, key=call.key),
        "retrieval": lambda call, prompt: retriever().reply(prompt, temperature=call.temperature, key=call.key),
        "author": lambda call, prompt: author(rules(), prompt, key=call.key),
        "reader": lambda call, prompt: reader(rules(), prompt, key=call.key),
        "practice": lambda call, prompt: propose(variant, prompt, draw=call.draw, key=call.key),
        "match": lambda _, prompt: match(prompt),
    }
    return replies[kind]


class OfflineProvider(ProviderType[OfflineModel]):
    config = OfflineModel
    asks = False

    def build(self, name: str, config: OfflineModel, context: BuildContext) -> Endpoint:
        return Endpoint(Offline(name, config.model, context.answers()), Limiter(64))

    async def check(self, name: str, config: OfflineModel, endpoint: Endpoint) -> AsyncIterator[Finding]:
        del config
        yield Finding(name, "embedded", ok=True, detail=endpoint.provider.identity)
