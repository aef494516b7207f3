"""A demonstration that a person stops, or that is killed: its processes end with it, and the next one goes on from its checkpoint."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import environment
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

# The command itself, at a size that trains at once and ends long after the test.
SCRIPT = """
from dataclasses import replace
from chiron.cli.app import main
from chiron.demo import curriculum, data
curriculum.CHECKPOINT_EVERY = 20
data.QUICK = replace(data.TINY, name="quick", text_rows=4, rows=4, alignment_steps=2_000)
if __name__ == "__main__":
    main()
"""


def started(folder: Path) -> "subprocess.Popen[str]":
    script = folder / "demo.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), "demo", "--quick", "--dir", str(folder / "demo")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True)


def lines_of(folder: Path) -> list[str]:
    metrics = folder / "demo" / "quick-0" / "base" / "metrics.jsonl"
    return metrics.read_text().splitlines()[:-1] if metrics.is_file() else []


def steps_of(folder: Path) -> list[int]:
    return [line["total_steps"] for line in map(json.loads, lines_of(folder)) if "loss" in line]


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_the_end_of_all(group: int) -> None:
    wait_until(lambda: not alive(group), what="the end of all processes")


def test_stopped_or_killed_it_leaves_no_process_behind_and_goes_on(tmp_path: Path) -> None:
    with started(tmp_path) as first:
        wait_until(lambda: len(lines_of(tmp_path)) > 30, first)
        os.killpg(first.pid, signal.SIGINT)  # a terminal's Ctrl-C goes to all of them
        assert first.stderr is not None
        said = first.stderr.read()
        assert first.wait(PATIENCE) == 130, said
    assert "Traceback" not in said
    wait_for_the_end_of_all(first.pid)
    kept = sorted((tmp_path / "demo" / "quick-0" / "base" / "checkpoints").glob("step-*"))
    begun = int(kept[-1].name.removeprefix("step-"))
    assert begun >= 20
    stopped = len(lines_of(tmp_path))
    with started(tmp_path) as second:
        wait_until(lambda: len(lines_of(tmp_path)) > stopped + 10, second)
        second.kill()
        second.wait(PATIENCE)
        wait_for_the_end_of_all(second.pid)
    steps = steps_of(tmp_path)
    assert steps == list(range(1, len(steps) + 1))
