"""Complete search on a virtual clock, with one faulty provider per model, one client and one ledger."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chiron.client.attempts import JITTER, RetryPolicy
from chiron.client.call import Call, RoleModel
from chiron.client.client import ModelClient
from chiron.client.ledger import Ledger
from chiron.client.limiter import Limiter
from chiron.client.provider import Endpoint
from chiron.mics.search import search
from chiron.mics.team import Policy, Team
from tests.support.cases import a_case
from tests.support.clock import run_virtually
from tests.support.runs import INTERNS, JUDGE, MENTORS
from tests.support.simulation import Simulation
from tests.support.traffic import Traffic, text_of


@dataclass(frozen=True)
class Searched:
    """Results of a search on a virtual clock."""

    seconds: float
    requests: int
    calls: int
    given_up: int
    records: list[dict[str, Any]]
    """Records in the order of the cases."""
    halted: str | None

    @property
    def paths(self) -> list[dict[str, Any]]:
        """Parts of the records that users see; calls and costs can differ between runs."""
        return [{k: r[k] for k in ("case_id", "outcome", "reasoning", "scores", "mentors", "reason")} for r in self.records]


def searched(
    folder: Path, traffic_of: Callable[[str, int], Traffic], *, cases: int = 50, at_once: int = 32, policy: RetryPolicy | None = None
) -> Searched:
    """Search generated cases without images. ``traffic_of``: returns a model's traffic from its name and number."""
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
            *(search(case, team, desk.with_priority(rank), Policy()) for rank, case in enumerate(made)), return_exceptions=True
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
    """Look up a model's latency by role, the first part of its name."""
    return seconds[model.split("-", 1)[0]]


def _body(call: Call) -> dict[str, Any]:
    """Build the parts of a request that the simulation reads."""
    return {"model": call.model, "temperature": call.temperature, "messages": [{"role": "user", "content": text_of(call)}]}
