"""Ten thousand calls through the fake batch server, with faults of each kind, in each form of the API.

``python -m bench.batch SHARE FORM`` takes another share of faults, and one form only.
"""

import asyncio
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from bench.table import heading, table
from chiron.client.client import ModelClient
from chiron.client.config import OpenAIModel
from chiron.client.images import PictureStore
from chiron.client.ledger import Ledger
from chiron.client.provider import BuildContext
from chiron.providers.openai_provider import OpenAIProvider
from tests.support.batch_endpoint import BatchEndpoint, BatchFaults
from tests.support.batch_forms import FORMS
from tests.support.calls import a_call

CALLS = 10_000


async def asked(client: ModelClient) -> int:
    """Ask all calls at the same time. Returns the number of replies."""
    try:
        replies = await asyncio.gather(*(client.ask(a_call(f"case {n}")) for n in range(CALLS)), return_exceptions=True)
    finally:
        await client.close()
    return sum(not isinstance(reply, BaseException) for reply in replies)


def main(share: float | str = 0.05, *forms: str) -> None:
    """Send the calls in batches of at most 100, and count the replies on both sides."""
    for form in forms or FORMS:
        _run(float(share), form)


def _run(share: float, form: str) -> None:
    heading(f"{CALLS:,} calls by batch in the form {form}, {share:.0%} faults of each kind")
    faults = BatchFaults.of_each_kind(share, seed=1)
    batch = {"form": form, "quiet": 0.05, "poll": 0.05, "max_requests": 100, "attempts": 20}
    began, busy = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as name, BatchEndpoint(lambda _: "yes", form=form, batch_faults=faults) as server:
        config = OpenAIModel.model_validate({"provider": "openai", "base_url": server.base_url, "model": "m", "batch": batch})
        endpoint = OpenAIProvider().build("m", config, BuildContext(PictureStore()))
        with Ledger.open(Path(name) / "ledger.sqlite") as ledger:
            replies = asyncio.run(asked(ModelClient({"m": endpoint}, ledger)))
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    times = Counter(server.replied.values())
    table(
        ["calls", "replies", "answered once", "answered twice or more", "batches", "seconds", "CPU seconds", "peak memory, MiB"],
        [[CALLS, replies, times[1], server.replied.total() - times[1], len(server.batches), seconds, cpu,
          resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]],
    )  # fmt: skip
    table(["fault", "times"], [[kind, count] for kind, count in sorted(server.happened.items())])


if __name__ == "__main__":
    main(*sys.argv[1:])
