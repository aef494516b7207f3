"""The dataset's build at full size: rows a second by phase, peak memory; and how well planted faults are found.

``python -m bench.build [CASES]``: 60,000 cases by default, a third of them with a chain of thought and a third with a question, and one
in fifty of them a copy of another under another name and in another format.

``python -m bench.build text ROWS``: a release of so many rows without images, compared with questions of an invented benchmark. Each phase
is printed when it ends.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from bench.planted import measure
from bench.table import heading, table
from chiron.dedup.contamination import BenchmarkItem
from chiron.mmrp.alignment import build_alignment
from chiron.mmrp.release import ReleaseOptions, release
from chiron.mmrp.row import MmrpRow
from chiron.providers.local.dialogue import Turn
from tests.support.records import write_lines

CASES = 60_000
_COPIES = 50
"""One case in as many is a copy."""
_MODALITIES = ("CT", "MRI", "X-ray", "Ultrasound", "Mammography", "PET")
_SYSTEMS = ("chest", "abdomen", "musculoskeletal", "neurological", "breast")
_ROW_WORDS, _ITEMS = 60, 1_000
"""Words of a row without images; questions of the invented benchmark, one in fifty of which a row asks too."""
_WORDS = tuple(
    f"{a}{b}{c}" for a in ("ba", "co", "du", "fe", "gi", "ho", "ju", "ke", "li", "mo") for b in "aeiou" for c in ("n", "r", "s", "x")
)

_Result = TypeVar("_Result")

Align = Callable[[int, Path], Iterator[MmrpRow]]
"""Rows of image and findings for so many cases, whose images it writes into the folder."""


def main(cases: int = CASES, align: Align | None = None) -> None:
    heading(f"build: {cases:,} synthetic cases, images of 64 x 64 pixels")
    with tempfile.TemporaryDirectory(prefix="bench-build-") as folder:
        work = Path(folder)
        # In processes of their own: what making the cases takes is not what building takes.
        _apart(_write_cases, cases, work)
        seconds, aligned, most = _apart(_align, work)
        print(f"alignment: {aligned:,} rows in {seconds:.1f} s, {aligned / seconds:,.0f} a second; peak {most / 2**20:,.0f} MiB")
        _apart(_make, cases, work, align or stand_in)
        phases, rows, peak = _apart(_build, work)
    table(
        ["phase", "seconds", "rows a second"],
        [*((name, seconds, round(rows / seconds)) for name, seconds in phases.items()), ("in all", sum(phases.values()), "")],
    )
    print(f"\n{rows:,} rows; peak resident memory {peak / 2**20:,.0f} MiB")
    heading("build: 1,000 planted cases")
    table(["check", "planted", "found", "of them right", "precision", "recall"], measure())


def text(rows: int) -> None:
    """Release rows without images, and print seconds and memory by phase."""
    heading(f"build: {rows:,} synthetic rows without images, one in {_COPIES} nearly a copy")
    with tempfile.TemporaryDirectory(prefix="bench-build-") as folder:
        _apart(_write_text_rows, rows, Path(folder) / "part")
        _apart(_release_text, Path(folder), rows)


def _write_text_rows(rows: int, part: Path) -> None:
    part.mkdir()
    write_lines(part / "rows.jsonl", (_text_row(number).to_record() for number in range(rows)))


def _text_row(number: int) -> MmrpRow:
    copy = number % _COPIES == _COPIES - 1
    random = np.random.default_rng(number - 7 if copy else number)
    words = [_WORDS[at] for at in random.integers(0, len(_WORDS), _ROW_WORDS)]
    question, answer = f"What of {' '.join(words[:12])} is meant?", f"{' '.join(words[12:15])} q{number}"
    reasoning = f"### Step 1: {' '.join(words[15:35])}\n### Step 2: {' '.join(words[35:])}\n### The final answer is: {answer}"
    return MmrpRow(
        id=f"text:{number}",
        part="text",
        case_id=str(number),
        patient=f"p{number // 2}",
        images=(),
        turns=(Turn("user", question), Turn("assistant", reasoning)),
        question=question,
        answer=answer,
        reasoning=reasoning,
        modalities=(_MODALITIES[number % len(_MODALITIES)],),
        body_system=_SYSTEMS[number % len(_SYSTEMS)],
        licence="cc-by-4.0",
    )


def _release_text(work: Path, rows: int) -> None:
    began, phase, busy = time.perf_counter(), "", time.process_time()

    def watch(name: str) -> None:
        nonlocal began, phase, busy
        took, worked = time.perf_counter() - began, time.process_time() - busy
        if phase:
            memory = f"peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB"
            load = f"load {os.getloadavg()[0]:.1f}"
            print(f"{phase}: {took:,.1f} s, {rows / took:,.0f} rows a second; {worked:,.1f} s of CPU; {memory}; {load}", flush=True)
        began, phase, busy = time.perf_counter(), name, time.process_time()

    questions = (_text_row(number if number % _COPIES == 0 else rows + number).question for number in range(_ITEMS))
    items = [BenchmarkItem("invented", str(number), question) for number, question in enumerate(questions)]
    limits = dict.fromkeys(ReleaseOptions().limits, 1.0)
    made = release([work / "part"], work / "release", options=ReleaseOptions(limits=limits), benchmark_items=items, watch=watch)
    print(f"{sum(made.rows.values()):,} rows released, left out: {dict(made.left_out)}")


def stand_in(cases: int, images: Path) -> Iterator[MmrpRow]:
    """Alignment rows of cases in invented words."""
    for number in range(cases):
        copy = number % _COPIES == _COPIES - 1
        random = np.random.default_rng(number - 7 if copy else number)
        name = f"{number % 100:02d}/{number}.{'jpg' if copy else 'png'}"
        _draw(random, images / name, "JPEG" if copy else "PNG")
        findings = tuple(" ".join(random.choice(_WORDS, 25)) + "." for _ in range(3))
        yield MmrpRow(
            id=f"alignment:{number}",
            part="alignment",
            case_id=str(number),
            patient=f"p{number // 2}",
            images=(name,),
            turns=(Turn("user", "<image>\nDescribe the findings."), Turn("assistant", " ".join(findings))),
            question="Describe the findings.",
            answer="",
            findings=findings,
            modalities=(str(random.choice(_MODALITIES)),),
            body_system=str(random.choice(_SYSTEMS)),
            licence="cc-by-4.0",
        )


def _write_cases(cases: int, work: Path) -> None:
    write_lines(work / "cases.jsonl", map(_case, range(cases)))


def _case(number: int) -> dict[str, object]:
    random = np.random.default_rng(number)
    findings = [" ".join(random.choice(_WORDS, 25)).capitalize() + "." for _ in range(3)]
    return {"id": str(number), "images": [f"{number}/ct_group1/0.png"], "question": "Q?", "answer": "A", "findings": findings}


def _align(work: Path) -> tuple[float, int, int]:
    """Seconds, rows and bytes of memory that alignment takes."""
    began = time.perf_counter()
    made = build_alignment(work / "cases.jsonl", work / "aligned")
    return time.perf_counter() - began, made.kept, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _make(cases: int, work: Path, align: Align) -> None:
    alignment, cot, text = (work / part for part in ("alignment", "cot", "text"))
    for directory in (alignment, cot, text):
        directory.mkdir()
    (work / "images").mkdir()
    write_lines(alignment / "rows.jsonl", (row.to_record() for row in align(cases, work / "images")))
    write_lines(cot / "rows.jsonl", (row.to_record() for row in _derived(alignment, "cot")))
    write_lines(text / "rows.jsonl", (row.to_record() for row in _derived(alignment, "text")))


def _derived(alignment: Path, part: str) -> Iterator[MmrpRow]:
    from dataclasses import replace

    from chiron.mmrp.row import read_rows

    for number, aligned in enumerate(read_rows(alignment / "rows.jsonl")):
        random = np.random.default_rng([1 if part == "cot" else 2, number])
        if number % 3 != (0 if part == "cot" else 1):
            continue
        question = "What of " + " ".join(random.choice(_WORDS, 12)) + " is meant?"
        answer = " ".join(random.choice(_WORDS, 3)) + f" q{number}"
        steps = "".join(f"### Step {i}: " + " ".join(random.choice(_WORDS, 30)) + "\n" for i in (1, 2, 3))
        reasoning = f"{steps}### The final answer is: {answer}"
        row = replace(aligned, id=f"{part}:{aligned.case_id}", question=question, answer=answer, reasoning=reasoning)
        if part == "cot":
            yield replace(
                row, part="cot", turns=(Turn("user", f"<image>\n{question}"), Turn("assistant", reasoning)), difficulty=random.random()
            )
        else:
            yield replace(row, part="text", images=(), turns=(Turn("user", question), Turn("assistant", reasoning)))


def _build(work: Path) -> tuple[dict[str, float], int, int]:
    marks: list[tuple[str, float]] = []
    limits = dict.fromkeys(ReleaseOptions().limits, 1.0)
    parts = [work / part for part in ("text", "alignment", "cot")]
    made = release(
        parts,
        work / "release",
        images=work / "images",
        options=ReleaseOptions(limits=limits),
        watch=lambda name: marks.append((name, time.perf_counter())),
    )
    phases = {name: end - begin for (name, begin), (_, end) in pairwise(marks)}
    rows = sum(made.rows.values()) + sum(made.left_out.values())
    return phases, rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _apart(task: Callable[..., _Result], *args: object) -> _Result:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, args)


def _draw(random: np.random.Generator, path: Path, kind: str) -> None:
    path.parent.mkdir(exist_ok=True)
    coarse = Image.fromarray(random.integers(0, 255, (8, 8), dtype=np.uint8))
    coarse.resize((64, 64), Image.Resampling.BICUBIC).save(path, kind)


if __name__ == "__main__":
    if sys.argv[1:2] == ["text"]:
        text(int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else CASES)
