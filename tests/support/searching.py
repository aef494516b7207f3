"""A whole search on a virtual clock: every model a provider of its own kind of trouble, one desk, one ledger."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiron.client.call import Call
from chiron.client.client import Endpoint, ModelClient
from chiron.client.ledger import Ledger
from chiron.client.limiter import Limiter
from chiron.client.retry import JITTER, RetryPolicy
from chiron.mics.search import search
from chiron.mics.team import Policy, RoleModel, Team
from tests.support.cases import a_case
from tests.support.clock import run_virtually
from tests.support.runs import INTERNS, JUDGE, MENTORS
from tests.support.simulation import Simulation
from tests.support.traffic import Traffic, text_of


@dataclass(frozen=True)
class Searched:
    """What a search on a virtual clock came to."""

    seconds: float
    requests: int
    calls: int
    given_up: int
    records: list[dict[str, Any]]
    """Of the cases, in their order."""
    halted: str | None

    @property
    def paths(self) -> list[dict[str, Any]]:
        """What a user takes from it; calls and their cost may differ."""
        return [{k: r[k] for k in ("case_id", "outcome", "reasoning", "scores", "mentors", "reason")} for r in self.records]


def searched(
    folder: Path, traffic_of: Callable[[str, int], Traffic], *, cases: int = 50, at_once: int = 32, policy: RetryPolicy | None = None
) -> Searched:
    """Search made-up cases without images. ``traffic_of``: from a model's name and number to the trouble it is in."""
    made = [a_case(f"case-{n:05d}", images=()) for n in range(cases)]
    world = Simulation({case.question: case.answer for case in made}, skill=0.1)
    traffic = {name: traffic_of(name, number) for number, name in enumerate((*MENTORS, *INTERNS, JUDGE))}
    for name, provider in traffic.items():
        provider.answer, provider.identity = lambda call: world.reply(_body(call)), f"test:{name}"
    desk = ModelClient(
        {name: Endpoint(provider, Limiter(at_once), policy or RetryPolicy()) for name, provider in traffic.items()},
        Ledger.open(folder / "ledger.sqlite"),
    )
    team = Team(
        mentors=tuple(RoleModel(name, f"test:{name}", 2048) for name in MENTORS),
        interns=tuple(RoleModel(name, f"test:{name}", 1024) for name in INTERNS),
        judge=RoleModel(JUDGE, f"test:{JUDGE}", 16),
    )

    async def main() -> tuple[float, list[dict[str, Any]]]:
        found = await asyncio.gather(
            *(search(case, team, desk.line(rank), Policy()) for rank, case in enumerate(made)), return_exceptions=True
        )
        took = asyncio.get_running_loop().time()
        await desk.close()
        return took, [r.to_record() for r in found if not isinstance(r, BaseException)]

    JITTER.seed(0)
    try:
        took, records = run_virtually(main())
        spending = desk.ledger.spending()
    finally:
        desk.ledger.close()
    requests = sum(provider.requests for provider in traffic.values())
    given_up = sum(s.failed for s in spending)
    return Searched(took, requests, sum(s.calls for s in spending), given_up, records, None if desk.halted is None else str(desk.halted))


def latencies(model: str, seconds: Mapping[str, float]) -> float:
    """By role, which is how these models' names begin."""
    return seconds[model.split("-", 1)[0]]


def _body(call: Call) -> dict[str, Any]:
    """As much of a request as the simulated world reads."""
    return {"model": call.model, "temperature": call.temperature, "messages": [{"role": "user", "content": text_of(call)}]}
