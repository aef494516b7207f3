"""A release that is killed for good on its way, and another process that wants the same folder meanwhile."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chiron.mmrp.release import release
from tests.mmrp.making import a_row, write_part
from tests.support.command import chiron, environment

STOPPING = """
import os, signal, sys
from chiron.cli.app import main

def stop_at_the_first_image(_, arguments):
    if any(isinstance(one, str) and ".out.partial-" in one and "/images/" in one for one in arguments):
        os.kill(os.getpid(), signal.SIGSTOP)

sys.addaudithook(stop_at_the_first_image)
main()
"""


def begun(part: Path) -> subprocess.Popen[bytes]:
    """A process that writes the release ``out`` beside a part, and stopped itself in the midst of it."""
    command = [sys.executable, "-c", STOPPING, "build", "release", str(part), "--out", str(part.parent / "out"), "--replace"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "it was done before it stopped itself"
    return process


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return write_part(tmp_path / "cot", [a_row(str(n)) for n in range(12)])


@pytest.mark.slow
def test_what_a_killed_release_left_is_no_release_and_the_next_one_is_whole(part: Path) -> None:
    folder, process = part.parent, begun(part)
    try:
        second = chiron("build", "release", part, "--out", folder / "out")
    finally:
        process.kill()
        process.wait()
    assert second.returncode == 2
    assert "another process" in second.stderr
    assert not (folder / "out").exists()
    assert len(list(folder.glob(".out.partial-*"))) == 1
    made = release([part], folder / "out")
    assert sum(made.rows.values()) == 12
    assert {path.name for path in folder.iterdir()} == {"cot", "out", ".out.lock"}


@pytest.mark.slow
def test_a_killed_replacement_leaves_the_earlier_release(part: Path) -> None:
    earlier = write_part(part.parent / "earlier", [a_row(str(n)) for n in range(4)])
    made = release([earlier], part.parent / "out")
    before = {path: path.read_bytes() for path in made.path.rglob("*") if path.is_file()}
    process = begun(part)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert {path: path.read_bytes() for path in made.path.rglob("*") if path.is_file()} == before
