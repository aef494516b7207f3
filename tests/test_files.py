"""A file is written whole or not at all, and what stood there before is still there."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chiron.errors import DiskError
from chiron.io import remove_leftovers, unwritten, write_atomically


def test_a_file_is_whole_and_its_owners_alone(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.txt", ["one\n", "half a \ud800 character\n"])
    assert (tmp_path / "a.txt").read_text() == "one\nhalf a \\ud800 character\n"
    assert (tmp_path / "a.txt").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt(), ValueError()])
def test_what_was_there_stays_when_writing_fails(error: BaseException, tmp_path: Path) -> None:
    def lines() -> Iterator[str]:
        yield "new\n"
        raise error

    (tmp_path / "a.txt").write_text("old\n")
    with pytest.raises(DiskError if isinstance(error, OSError) else type(error)):
        write_atomically(tmp_path / "a.txt", lines())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old\n")]


def test_how_to_mend_it_depends_on_what_was_wrong(tmp_path: Path) -> None:
    assert "free space" in str(unwritten(tmp_path, OSError(errno.ENOSPC, "full")))
    with pytest.raises(DiskError, match="where you may write") as caught:
        write_atomically(tmp_path / "no" / "a.txt", ["x"])
    assert "free space" not in str(caught.value)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom chiron.io import write_atomically\n"
        "def lines():\n    yield 'half'\n    print('writing', flush=True)\n    time.sleep(600)\n"
        "write_atomically(Path(sys.argv[1]), lines())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "paths.jsonl")], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    kept = [".env", ".paths.jsonl", "paths.jsonl.abcdefgh", ".notes.txt.abcdefgh", ".rejected.jsonl.abcdefgh", "report.html"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".run.json.abcd_fgh").write_text("of an older version, long ago")
    os.utime(tmp_path / ".run.json.abcd_fgh", (time.time() - 7200,) * 2)
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.glob(".paths.jsonl.*"))) == 1  # its process is still writing
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
