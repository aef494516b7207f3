"""A simulated endpoint in a process of its own, so that its CPU is not counted as ours."""

import argparse
import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.cases import known_answers
from tests.support.endpoint import Endpoint, Faults
from tests.support.simulation import Simulation


@contextmanager
def simulated(cases: Path, *, seconds: dict[str, float], faults: dict[str, float] | None = None, skill: float = 0.1) -> Iterator[str]:
    """Serve three mentors, three interns and a judge; ``seconds`` by role. Yields the base URL."""
    options = json.dumps({"cases": str(cases), "seconds": seconds, "faults": faults or {}, "skill": skill})
    process = subprocess.Popen([sys.executable, "-m", "bench.simulated", options], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


def stats(base_url: str) -> dict[str, Any]:
    """What the endpoint has seen."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/stats") as response:  # noqa: S310 - our own server on loopback
        value: dict[str, Any] = json.load(response)
        return value


async def _serve(options: dict[str, Any]) -> None:
    seconds: dict[str, float] = options["seconds"]
    world = Simulation(known_answers(Path(options["cases"])), skill=options["skill"])
    endpoint = Endpoint(
        world.reply, latency=lambda model: seconds[model.split("-")[0]], faults=Faults(**options["faults"]), keep_bodies=False
    )
    serving = asyncio.create_task(endpoint.serve())
    while not endpoint.port:
        await asyncio.sleep(0.01)
    print(endpoint.port, flush=True)
    await serving


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("options")
    asyncio.run(_serve(json.loads(parser.parse_args().options)))
