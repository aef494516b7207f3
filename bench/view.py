"""The local web app: the home page with 200 runs, a search of 60,000 cases, 10,000 reviews, and a search while the app is under load."""

import asyncio
import json
import random
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from bench.simulated import simulated, stats
from bench.table import heading, table
from chiron.client.ledger import Ledger
from chiron.reviews.records import ReviewBody, StepVerdict
from chiron.reviews.store import ReviewStore, export_reviews
from tests.reports.building import a_case, rejected, retained, stored, write_run
from tests.support.cases import write_cases
from tests.support.command import CHIRON, environment
from tests.support.runs import config_of, make_run, team, write_config

ROLES = "mentor", "intern", "judge"
WAITS = {
    "an endpoint of 50 ms": dict.fromkeys(ROLES, 0.05),
    "an endpoint that answers at once, so that the search waits for its own core": dict.fromkeys(ROLES, 0.0),
}
RUNS, CASES, REVIEWS, REQUESTS_A_SECOND, TURN = 200, 60_000, 10_000, 50, 4.0
ASKED = NO_REQUESTS, CONTROL, APP = ("no requests", "a server of one page", "the app")


class Visitor:
    """A browser that keeps its connection and its cookie."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection("127.0.0.1", parts.port or 0)
        self._headers: dict[str, str] = {}
        self._connection.request("GET", f"/?{parts.query}")
        answer = self._connection.getresponse()
        answer.read()
        self._headers = {"Cookie": str(answer.getheader("set-cookie")).partition(";")[0]}

    def get(self, path: str) -> str:
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
        assert answer.status == 200, (path, answer.status)
        return text

    def reconnect(self) -> None:
        """Use a new connection: the app closes one that was not used for a few seconds."""
        self._connection.close()

    def milliseconds(self, path: str, server: psutil.Process, times: int = 20) -> tuple[list[float], float]:
        """Return the time of each request, and the server's processor time for one."""
        found = []
        before = server.cpu_times()
        for _ in range(times):
            began = time.perf_counter()
            self.get(path)
            found.append(1000 * (time.perf_counter() - began))
        after = server.cpu_times()
        return found, 1000 * (after.user - before.user + after.system - before.system) / times


@contextmanager
def app(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve a folder in a process of its own; yield the address and the process."""
    command = [*CHIRON, "view", str(folder), "--no-browser", "--json"]
    with running(command, stdout=subprocess.PIPE, stderr=None) as process:
        assert process.stdout is not None
        yield str(json.loads(process.stdout.readline())["url"]), psutil.Process(process.pid)


def summary(name: str, measured: tuple[Sequence[float], float], aim: str) -> list[object]:
    found, cpu = measured
    return [name, found[0], statistics.median(found), max(found[1:] or found), cpu, aim]


def home(folder: Path) -> list[list[object]]:
    """Two hundred searches of twelve cases with a file of cases of their own."""
    cases = write_cases(folder / "first", 12, shared_image=True)
    with simulated(cases, seconds=dict.fromkeys(ROLES, 0.0)) as url:
        asyncio.run(make_run(cases, config_of(team(url)), folder / "first" / "run").execute())
    for number in range(1, RUNS):
        shutil.copytree(folder / "first", folder / f"copy-{number:03d}")
    with app(folder) as (url, server):
        visitor = Visitor(url)  # the exchange of the token follows no redirect, so nothing is read yet
        return [summary(f"home, {RUNS} runs", visitor.milliseconds("/", server), "300")]


def large(folder: Path) -> list[list[object]]:
    """One search of 60,000 cases."""
    made = [a_case(f"case-{n:05d}", images=()) for n in range(CASES)]
    run = write_run(folder, [stored((retained if n % 3 else rejected)(case), n) for n, case in enumerate(made[:100])])
    with Ledger.open(run / "ledger.sqlite") as ledger, ledger._together():  # noqa: SLF001 - 60,000 commits take minutes
        for n, case in enumerate(made[100:], start=100):
            ledger.put_result(stored((retained if n % 3 else rejected)(case), n))
    (folder / "cases.jsonl").write_text("".join(json.dumps(case.to_record()) + "\n" for case in made))
    with app(folder) as (url, server):
        visitor = Visitor(url)
        began = time.perf_counter()
        address = re.findall(r'href="(/runs/\w+)"', visitor.get("/"))[0]
        while any(note in visitor.get(address) for note in ("more record", "still being read")):
            time.sleep(0.5)
        indexed = 1000 * (time.perf_counter() - began)
        queries = (
            "",
            "?page=1100",
            "?outcome=retained&sort=uplift&page=400",
            "?find=case-5+cortex",
            "?score=0.5-1&modality=unknown&sort=cost",
        )
        rows: list[list[object]] = [["everything is indexed", indexed, "", "", "", ""]]
        rows += [summary(f"{CASES:,} cases {query}", visitor.milliseconds(address + query, server), "200") for query in queries]
        case = re.findall(r'href="(/runs/\w+/cases/\w+)', visitor.get(f"{address}?page=600"))[0]
        rows.append(summary("a case", visitor.milliseconds(case, server), "100"))
        return rows


def reviews(folder: Path) -> list[list[object]]:
    """Ten thousand reviews of paths of five steps, exported as JSONL."""
    store = ReviewStore(folder)
    accept: StepVerdict = {"verdict": "accept", "reason": None, "note": "", "text": None}
    reject: StepVerdict = {"verdict": "reject", "reason": "unsupported", "note": "There is no such line on this image.", "text": None}
    body: ReviewBody = {"steps": [accept, accept, reject, accept, accept], "final": accept, "note": "Seen twice."}
    store.add("review", "anna", "case-0", f"{0:064x}", body)
    with closing(sqlite3.connect(store.path)) as db, db:  # 10,000 commits take minutes
        row = db.execute("SELECT at, body FROM events").fetchone()
        rows = [(row[0], "review", "anna", f"case-{n}", f"{n:064x}", row[1]) for n in range(1, REVIEWS)]
        db.executemany("INSERT INTO events (at, kind, reviewer, case_id, path_sha256, body) VALUES (?,?,?,?,?,?)", rows)
    found, written, cpu = [], folder, time.process_time()
    for _ in range(5):
        began = time.perf_counter()
        written = export_reviews(folder)
        found.append(1000 * (time.perf_counter() - began))
    assert len(written.read_text().splitlines()) == REVIEWS
    return [summary(f"{REVIEWS:,} reviews exported", (found, 1000 * (time.process_time() - cpu) / len(found)), "1000")]


def under_load(folder: Path, blocks: int, wait: dict[str, float]) -> list[list[object]]:
    """A running search in turns of a few seconds: without requests, with 50 a second to the app, and as many to a server of one page.

    The last tells what the visitor and any server cost. Each block has the three in random order, and its turns are compared, because the
    machine is not equally fast at all times.
    """
    cases = write_cases(folder, 40 * 3 * round(TURN) * blocks, shared_image=True)
    dice, rates, share = random.Random(0), {kind: list[float]() for kind in ASKED}, list[float]()
    with simulated(cases, seconds=wait) as endpoint, app(folder) as (url, server):
        config = write_config(folder / "c.yaml", team(endpoint, model={"concurrency": 8, "timeout": 60.0}, cases_in_flight=16))
        command = [*CHIRON, "search", str(cases), "--config", str(config), "--run", str(folder / "run")]
        with running(command) as search:
            while stats(endpoint)["answered"] < 200:
                time.sleep(0.1)
            visitor, found = Visitor(url), list[str]()
            while not found:
                found = re.findall(r'href="(/runs/\w+)"', visitor.get("/"))
            with always_the_same(visitor.get(found[0])) as control:
                visitors = {NO_REQUESTS: None, APP: visitor, CONTROL: Visitor(control)}
                for number in range(blocks):
                    for kind in dice.sample(ASKED, len(ASKED)):
                        before, begun, calls = _cpu(server), time.perf_counter(), stats(endpoint)["answered"]
                        _ask(visitors[kind], ("/", found[0]), TURN)
                        rates[kind].append((stats(endpoint)["answered"] - calls) / (time.perf_counter() - begun))
                        if kind == APP:
                            share.append((_cpu(server) - before) / TURN)
                    assert search.poll() is None, f"the search ended after {number} blocks"
    rows: list[list[object]] = [[NO_REQUESTS, statistics.mean(rates[NO_REQUESTS]), "", "", ""]]
    for kind, other in ((CONTROL, NO_REQUESTS), (APP, NO_REQUESTS), (APP, CONTROL)):
        ratios = [100 * (after / before - 1) for before, after in zip(rates[kind], rates[other], strict=True)]
        half = 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5
        cpu = f"{100 * statistics.mean(share):.1f} %" if kind == APP else ""
        rows.append([kind, statistics.mean(rates[kind]), other, f"{statistics.mean(ratios):+.1f} ± {half:.1f} %", cpu])
    return rows


@contextmanager
def running(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the end of the block."""
    with subprocess.Popen(command, env=environment(), text=True, **{"stderr": subprocess.DEVNULL, **options}) as process:
        try:
            yield process
        finally:
            process.terminate()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _ask(visitor: Visitor | None, pages: Sequence[str], seconds: float) -> None:
    """Ask for the pages in turn, 50 times a second; without a visitor, wait."""
    begun = time.perf_counter()
    if visitor is None:
        time.sleep(seconds)
        return
    visitor.reconnect()
    for number in range(round(seconds * REQUESTS_A_SECOND)):
        time.sleep(max(0.0, begun + number / REQUESTS_A_SECOND - time.perf_counter()))
        visitor.get(pages[number % len(pages)])


@contextmanager
def always_the_same(page: str) -> Iterator[str]:
    """Return one page to every request, from a process of its own: what a visit costs without an app."""
    with running([sys.executable, "-m", "bench.view"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(page)
        process.stdin.close()
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/"


def serve_the_same() -> None:
    """Serve the text on standard input."""
    page = sys.stdin.read().encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


def main(blocks: int = 30) -> None:
    heading("The local web app: `python -m bench view`")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other, tempfile.TemporaryDirectory() as third:
        rows = [*home(Path(one)), *large(Path(other)), *reviews(Path(third))]
        table(["page", "first, ms", "median, ms", "slowest later, ms", "CPU, ms", "aim, ms"], rows)
    load(blocks)


def load(blocks: int) -> None:
    """Print both tables of a search under load."""
    for name, wait in WAITS.items():
        with tempfile.TemporaryDirectory() as folder:
            print(f"\nA search with {name}, {REQUESTS_A_SECOND} requests a second, {blocks} blocks of turns of {TURN:g} s (aim: 2 %):\n")
            table(["requests to", "calls a second", "compared with", "slower", "app, of a core"], under_load(Path(folder), blocks, wait))


if __name__ == "__main__":
    serve_the_same()
