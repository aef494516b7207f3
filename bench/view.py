"""The local web app: the home page with 200 runs, a search of 60,000 cases, 10,000 reviews, and a search while the app is under load."""

import asyncio
import json
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from bench.simulated import simulated
from bench.table import heading, table
from chiron.client.ledger import Ledger
from chiron.reviews.records import ReviewBody, StepVerdict
from chiron.reviews.store import ReviewStore, export_reviews
from tests.reports.building import a_case, rejected, retained, stored, write_run
from tests.support.cases import write_cases
from tests.support.command import CHIRON, environment
from tests.support.runs import config_of, make_run, team

WAIT = {"mentor": 0.05, "intern": 0.05, "judge": 0.05}
RUNS, CASES, REVIEWS, REQUESTS_A_SECOND = 200, 60_000, 10_000, 50


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
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["url"]), psutil.Process(process.pid)
        finally:
            process.terminate()


def summary(name: str, measured: tuple[Sequence[float], float], aim: str) -> list[object]:
    found, cpu = measured
    return [name, found[0], statistics.median(found), max(found[1:] or found), cpu, aim]


def home(folder: Path) -> list[list[object]]:
    """Two hundred searches of twelve cases with a file of cases of their own."""
    cases = write_cases(folder / "first", 12, shared_image=True)
    with simulated(cases, seconds=dict.fromkeys(WAIT, 0.0)) as url:
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


def under_load(folder: Path, seconds: float, pairs: int = 6) -> list[list[object]]:
    """A search, alone and while the app answers 50 requests a second, in changing order: seconds of the search, and their ratio.

    The last column is the processor time of the app, as a share of one core while it was asked.
    """
    cases = write_cases(folder, round(10 * seconds), shared_image=True)
    rows: list[list[object]] = []
    with simulated(cases, seconds=WAIT) as endpoint, app(folder) as (url, server):
        data = team(endpoint, model={"concurrency": 8, "timeout": 60.0}, cases_in_flight=16)
        _searched(cases, data, folder / "first")  # imports, templates and the first pages of everything
        for number in range(pairs):
            took, share = dict[bool, float](), 0.0
            for loaded in (False, True) if number % 2 else (True, False):
                with _asking(url) if loaded else nullcontext():
                    before = server.cpu_times()
                    took[loaded] = _searched(cases, data, folder / f"{number}-{loaded}")
                    after = server.cpu_times()
                if loaded:
                    share = (after.user - before.user + after.system - before.system) / took[True]
            ratio = 100 * (took[True] / took[False] - 1)
            rows.append([number + 1, took[False], took[True], f"{ratio:+.1f} %", f"{100 * share:.1f} %"])
    ratios = [float(str(row[3]).removesuffix(" %")) for row in rows]
    half = 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5
    rows.append(["mean", "", "", f"{statistics.mean(ratios):+.1f} ± {half:.1f} %", ""])
    return rows


def _searched(cases: Path, data: dict[str, object], run: Path) -> float:
    prepared = make_run(cases, config_of(data), run)
    began = time.perf_counter()
    asyncio.run(prepared.execute())
    return time.perf_counter() - began


@contextmanager
def _asking(url: str) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.view", url]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        try:
            yield
        finally:
            process.terminate()


def ask_steadily(url: str) -> None:
    """Ask for the home page and the page of its first run, which is a running one, 50 times a second, until it is stopped."""
    visitor, page = Visitor(url), "/"
    print(flush=True)
    began = time.perf_counter()
    for number in range(10**9):
        time.sleep(max(0.0, began + number / REQUESTS_A_SECOND - time.perf_counter()))
        text = visitor.get(page)
        page = "/" if page != "/" else next(iter(re.findall(r'href="(/runs/\w+)"', text)), "/")


def main() -> None:
    heading("The local web app: `python -m bench view`")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other, tempfile.TemporaryDirectory() as third:
        rows = [*home(Path(one)), *large(Path(other)), *reviews(Path(third))]
        table(["page", "first, ms", "median, ms", "slowest later, ms", "CPU, ms", "aim, ms"], rows)
        print(f"\nA search, alone and with {REQUESTS_A_SECOND} requests a second (aim: under 2 %):\n")
        table(["run", "alone, s", "under load, s", "slower", "app, of a core"], under_load(Path(third), 30.0))


if __name__ == "__main__":
    ask_steadily(sys.argv[1])
