"""Servers that are not ours, ``transformers serve`` and llama.cpp's, answer a whole search, an evaluation and a streamed question."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.evaluation import published
from tests.support.canned import write_model
from tests.support.canned_gguf import write_gguf
from tests.support.cases import write_cases, write_png
from tests.support.command import Ended, chiron
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

STEPS = ["### Step 1: The bony edges are followed.\n", "### Step 2: One of them is interrupted.\n"]
FINAL = "### The final answer is: a broken rib"
SAYS = {"mentor": [*STEPS, FINAL], "intern": [STEPS[1], FINAL], "judge": ["yes"]}


@dataclass(frozen=True)
class Kind:
    """A kind of server."""

    needs: tuple[str, ...]
    write: Callable[[Path, str], Path]
    """Writes a model below a folder; its file or folder."""
    command: Callable[[Path, int], list[str]]
    """Serves the models of a folder at a port."""
    health: str
    by_path: bool
    """Whether a model's name is its path."""


def _transformers(_: Path, port: int) -> list[str]:
    serve = ["-m", "transformers.cli.transformers", "serve"]
    return [sys.executable, *serve, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]


def _llama_cpp(folder: Path, port: int) -> list[str]:
    models = [{"model": str(folder / f"{name}.gguf"), "model_alias": name, "n_ctx": 8192} for name in SAYS]
    (folder / "server.json").write_text(json.dumps({"host": "127.0.0.1", "port": port, "models": models}))
    return [sys.executable, "-m", "llama_cpp.server", "--config_file", str(folder / "server.json")]


KINDS = {
    "transformers": Kind(
        ("transformers", "fastapi", "uvicorn", "openai"),
        lambda folder, name: write_model(folder / name, SAYS[name]),
        _transformers,
        "/health",
        by_path=True,
    ),
    "llama.cpp": Kind(
        ("llama_cpp", "gguf", "tokenizers", "fastapi", "uvicorn", "sse_starlette"),
        lambda folder, name: write_gguf(folder / f"{name}.gguf", SAYS[name]),
        _llama_cpp,
        "/v1/models",
        by_path=False,
    ),
}


@dataclass(frozen=True)
class Server:
    """One that is up."""

    url: str
    names: dict[str, str]
    """Its own name of each model."""

    def model(self, name: str) -> dict[str, object]:
        return {"provider": "openai", "base_url": self.url, "model": self.names[name], "concurrency": 4}


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    kind = KINDS[request.param]
    if missing := [name for name in kind.needs if find_spec(name) is None]:
        pytest.skip(f"needs {', '.join(missing)}: pip install --target DIR {' '.join(missing)}, PYTHONPATH=src:DIR (docs/search.md)")
    folder = tmp_path_factory.mktemp("models")
    written = {name: kind.write(folder, name) for name in SAYS}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("w") as file:
        process = subprocess.Popen(kind.command(folder, port), stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        wait_until(lambda: process.poll() is not None or _healthy(port, kind.health), what="a healthy server")
        assert process.poll() is None, log.read_text()[-3000:]
        yield Server(f"http://127.0.0.1:{port}/v1", {name: str(path) if kind.by_path else name for name, path in written.items()})
    finally:
        process.kill()
        process.wait()


def _healthy(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:  # also a timeout: a busy machine
        return False


def search(tmp_path: Path, server: Server) -> tuple[Path, Ended]:
    config = tmp_path / "search.yaml"
    roles = {"mentors": ["mentor"], "interns": ["intern"], "judge": "judge", "max_tokens": {"mentor": 64, "intern": 64}}
    config.write_text(yaml.safe_dump({"models": {name: server.model(name) for name in SAYS}, "search": roles}))
    run = tmp_path / "run"
    return run, chiron("search", write_cases(tmp_path / "cases", 3), "--config", config, "--run", run)


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_whole_search_is_answered(tmp_path: Path, server: Server) -> None:
    run, done = search(tmp_path, server)
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


def test_an_evaluation_is_answered(tmp_path: Path, server: Server) -> None:
    published.vqa_rad(tmp_path / "d", 4)
    config = tmp_path / "eval.yaml"
    evaluation = {"protocol": "chiron_judge", "judge": "judge", "max_tokens": {"model": 64}}
    config.write_text(yaml.safe_dump({"models": {name: server.model(name) for name in SAYS}, "evaluation": evaluation}))
    command = ["eval", "--model", "mentor", "--benchmarks", "vqa_rad", "--data", tmp_path / "d", "--config", config]
    done = chiron(*command, "--run", tmp_path / "run", "--control", "no-image")
    assert done.returncode == 0, done.stderr
    items = lines(tmp_path / "run" / "items.jsonl")
    assert [(item["given"], item["verdict"], item["cut_off"]) for item in items] == [("a broken rib", "right", False)] * len(items)
    assert items


def test_a_question_is_answered_as_a_stream_and_the_doctor_is_content(tmp_path: Path, server: Server) -> None:
    config = tmp_path / "ask.yaml"
    config.write_text(yaml.safe_dump({"models": {"mentor": server.model("mentor")}}))
    done = chiron("ask", write_png(tmp_path / "x.png"), "What is seen?", "--model", "mentor", "--config", config)
    assert (done.returncode, done.stdout) == (0, "".join([*STEPS, FINAL]) + "\n"), done.stderr
    looked = chiron("doctor", config)
    assert looked.returncode == 0, looked.stdout


def test_a_reply_is_cut_off_at_its_limit(tmp_path: Path, server: Server) -> None:
    config = tmp_path / "ask.yaml"
    config.write_text(yaml.safe_dump({"models": {"mentor": server.model("mentor")}}))
    done = chiron("ask", "What is seen?", "--model", "mentor", "--config", config, "--max-tokens", 1)
    assert done.returncode == 0
    assert STEPS[0].startswith(done.stdout.strip())
    assert done.stdout.strip()
    assert "the token limit ended the answer" in done.stderr
