"""CPU a call, all told, and memory over many cases: the whole search against a simulated endpoint in another process."""

import asyncio
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from bench.simulated import simulated, stats
from bench.table import heading, table
from tests.support.cases import write_cases
from tests.support.runs import config_of, make_run, team

WAIT = {"mentor": 0.05, "intern": 0.05, "judge": 0.05}


def cpu_seconds() -> float:
    """User and system CPU of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(cases: Path, run: Path, **search: Any) -> list[object]:
    """CPU of a search at 200 calls at once: calls, seconds, CPU a call in ms."""
    with simulated(cases, seconds=WAIT) as url:
        data = team(url, model={"concurrency": 32, "timeout": 60.0}, cases_in_flight=64, **search)
        prepared = make_run(cases, config_of(data), run)
        cpu, began = cpu_seconds(), time.perf_counter()
        asyncio.run(prepared.execute())
        took, cpu = time.perf_counter() - began, cpu_seconds() - cpu
        calls = stats(url)["requests"]
    return [calls, took, calls / took, 1000 * cpu / calls]


def with_images(folder: Path, count: int, *, side: int, kind: str) -> Path:
    """Cases with two images of noise each: the worst that a compressor can meet."""
    cases = write_cases(folder, count)
    records = [json.loads(line) for line in cases.read_text().splitlines()]
    for number, record in enumerate(records):
        record["images"] = [f"{number}-{i}.{kind}" for i in range(2)]
        for name in record["images"]:
            Image.effect_noise((side, side), 60 + number).save(folder / "images" / name, quality=90)
    cases.write_text("\n".join(json.dumps(record) for record in records))
    return cases


def kilobytes(cases: Path) -> str:
    """Of a typical image."""
    return f"about {(cases.parent / 'images' / json.loads(cases.read_text().splitlines()[0])['images'][0]).stat().st_size / 1024:.0f} KB"


def memory(folder: Path) -> None:
    """Resident memory while ten thousand cases go by, with a team of one mentor and one intern."""
    count = 10_000
    cases = write_cases(folder / "many", count, shared_image=True)
    process, samples = psutil.Process(), list[tuple[int, float]]()
    with simulated(cases, seconds={"mentor": 0.0, "intern": 0.0, "judge": 0.0}, skill=0.6) as url:
        data = team(url, model={"timeout": 60.0}, cases_in_flight=64, temperatures=[0.2], depth=1, restarts=0)
        data["search"]["mentors"], data["search"]["interns"] = ["mentor-a"], ["intern-a"]
        run = make_run(cases, config_of(data), folder / "rmany")

        async def watch() -> None:
            task = asyncio.create_task(run.execute())
            while not task.done():
                if not samples or run.progress.done >= samples[-1][0] + count // 10:
                    samples.append((run.progress.done, process.memory_info().rss / 2**20))
                await asyncio.sleep(0.05)
            await task
            samples.append((run.progress.done, process.memory_info().rss / 2**20))

        began = time.perf_counter()
        asyncio.run(watch())
        took, calls = time.perf_counter() - began, stats(url)["requests"]
    settled = next(m for done, m in samples if done >= count // 10)
    print(f"\n{count} cases, {calls} calls in {took:.0f} s\n")
    table(["cases done", "resident MiB"], [[done, f"{mib:.0f}"] for done, mib in samples])
    print(f"\ngrowth from the first thousand to the last: {samples[-1][1] - settled:.0f} MiB (aim: under 100)")


def main() -> None:
    """Print both tables."""
    heading("CPU a call, and memory")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = write_cases(folder / "small", 80, shared_image=True)
        pictures = with_images(folder / "large", 80, side=216, kind="png")
        heavy = with_images(folder / "heavy", 24, side=2000, kind="jpeg")
        table(
            ["cases", "calls", "seconds", "calls/s", "CPU ms a call (aim: 1.6 or less)"],
            [
                ["80, an image of 1 KB each", *measure(plain, folder / "r1")],
                [f"80, two images of their own each, {kilobytes(pictures)}", *measure(pictures, folder / "r2")],
                [f"24, two images of their own each, {kilobytes(heavy)}, shrunk to 1536 pixels", *measure(heavy, folder / "r3")],
            ],
        )
        memory(folder)


if __name__ == "__main__":
    main()
