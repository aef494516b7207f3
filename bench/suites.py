"""Table 1 with two models on 2,000 made-up items per column: one command, killed twice; the same table as without kills."""

import hashlib
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from bench.table import heading, table
from tests.evaluation import published
from tests.support.command import CHIRON, environment, wait_for
from tests.support.endpoint import Endpoint

ITEMS, MODELS, COLUMNS = 2_000, ("a", "b"), 5
SECONDS, PLACES = 0.2, 64


def answers(body: dict[str, Any]) -> str:
    """Answer with one of the first two letters, always the same for the same request; one in twenty has none."""
    drawn = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest(), 16) % 100
    return "A" if drawn < 60 else "B" if drawn < 95 else "A picture."


def command(folder: Path, url: str) -> list[str]:
    """Write the data and the configuration, and return the command."""
    published.table1(folder / "data", ITEMS)
    models = {name: {"provider": "openai", "base_url": url, "model": name, "concurrency": PLACES} for name in MODELS}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    named = [part for name in MODELS for part in ("--model", name)]
    folders = ["--config", "models.yaml", "--data", "data", "--run", "run"]
    return [*CHIRON, "eval", "--suite", "table1", *named, *folders]


def run(endpoint: Endpoint, folder: Path, kills: tuple[int, ...]) -> tuple[float, int, str]:
    """Return seconds, requests, and the table; the command is killed after each of these numbers of requests."""
    line, before, began = command(folder, endpoint.base_url), endpoint.seen.requests, time.perf_counter()
    for after in (*kills, None):
        process = subprocess.Popen(line, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        if after is not None:
            wait_for(endpoint, before + after, process)
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    return time.perf_counter() - began, endpoint.seen.requests - before, (folder / "run" / "table1.md").read_text()


def main() -> None:
    """Print the table."""
    heading("Suites")
    total = ITEMS * COLUMNS * len(MODELS)
    rows, tables = [], []
    with tempfile.TemporaryDirectory() as name, Endpoint(answers, latency=lambda _: SECONDS, keep_bodies=False) as endpoint:
        for kind, kills in (("whole", ()), ("killed twice", (total // 3, 2 * total // 3))):
            (Path(name) / kind).mkdir()
            seconds, requests, text = run(endpoint, Path(name) / kind, kills)
            rows.append([kind, total, requests, seconds, total / seconds])
            tables.append(text)
    table(["run", "calls needed", "requests", "seconds", "calls/s"], rows)
    print(f"\nThe tables are {'equal' if tables[0] == tables[1] else 'NOT EQUAL'}.")


if __name__ == "__main__":
    main()
