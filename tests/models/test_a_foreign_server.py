"""A server that is not ours, ``transformers serve``, answers a whole search."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.support.canned import write_model
from tests.support.cases import write_cases
from tests.support.waiting import PATIENCE, wait_until

NEEDED = ("transformers", "fastapi", "uvicorn", "openai")
MISSING = [name for name in NEEDED if find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"transformers serve needs {', '.join(MISSING)}: pip install --target DIR {' '.join(MISSING)}, PYTHONPATH=src:DIR",
    ),
]

STEPS = ["### Step 1: The bony edges are followed.\n", "### Step 2: One of them is interrupted.\n"]
FINAL = "### The final answer is: a broken rib"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "mentor", [*STEPS, FINAL])
    write_model(folder / "intern", [STEPS[1], FINAL])
    write_model(folder / "judge", ["yes"])
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    arguments = [
        sys.executable,
        "-m",
        "transformers.cli.transformers",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    with log.open("w") as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        wait_until(lambda: process.poll() is not None or _healthy(port), what="a healthy server")
        assert process.poll() is None, log.read_text()[-3000:]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except urllib.error.URLError:
        return False


def search(tmp_path: Path, models: Path, server: str) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    def model(name: str) -> dict[str, object]:
        return {"provider": "openai", "base_url": server, "model": str(models / name), "concurrency": 4}

    config = tmp_path / "search.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "models": {"mentor": model("mentor"), "intern": model("intern"), "judge": model("judge")},
                "search": {"mentors": ["mentor"], "interns": ["intern"], "judge": "judge", "max_tokens": {"mentor": 64, "intern": 64}},
            }
        )
    )
    run = tmp_path / "run"
    arguments = ["search", str(write_cases(tmp_path / "cases", 3)), "--config", str(config), "--run", str(run)]
    done = subprocess.run([sys.executable, "-m", "chiron", *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE)
    return run, done


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_whole_search_is_answered_by_transformers_serve(tmp_path: Path, models: Path, server: str) -> None:
    run, done = search(tmp_path, models, server)
    assert done.returncode == 0, done.stderr
    paths = lines(run / "paths.jsonl")
    assert [(p["case_id"], p["outcome"], p["mics_score"]) for p in paths] == [(f"case-{n:05d}", "full_score", 1.0) for n in range(3)]
    assert all(FINAL in str(p["reasoning"]) for p in paths)
    assert (run / "rejected.jsonl").read_text() == ""
    with sqlite3.connect(run / "ledger.sqlite") as ledger:
        roles = dict(ledger.execute("SELECT role, count(*) FROM calls GROUP BY role").fetchall())
        spoken = set(ledger.execute("SELECT role, text, finish FROM calls").fetchall())
        counted = ledger.execute(
            "SELECT count(*) FROM calls WHERE prompt_tokens > 0 AND completion_tokens > 0 AND raw IS NOT NULL"
        ).fetchone()
        failed = ledger.execute("SELECT count(*) FROM failures").fetchone()
    assert roles["mentor"] == 3
    assert roles["intern"] == 6  # two temperatures a case; its two steps are prefix and whole path at once
    assert {role: finish for role, _, finish in spoken} == {"mentor": "stop", "intern": "stop", "judge": "stop"}
    assert counted == (sum(roles.values()),)
    assert failed == (0,)
