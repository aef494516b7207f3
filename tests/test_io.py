"""Files are written atomically; JSON Lines are read with the place of every fault."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chiron import io
from chiron.errors import DiskError, InputError
from chiron.io import BrokenJson, parse_jsonl, read_jsonl, remove_leftovers, unwritten, write_atomically


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


def test_the_advice_depends_on_what_went_wrong(tmp_path: Path) -> None:
    assert "free space" in str(unwritten(tmp_path, OSError(errno.ENOSPC, "full")))
    with pytest.raises(DiskError, match="that you may write there") as caught:
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


def test_json_lines_are_read_with_number_and_offset_whatever_their_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('\ufeff{"a": "one\u2028two"}\r\n\n \n[1]\n"\\ud800"'.encode())
    lines = list(read_jsonl(path))
    assert [(line.number, line.value) for line in lines] == [(1, {"a": "one\u2028two"}), (4, [1]), (5, "\ud800")]
    assert [path.read_bytes()[line.offset :].split(b"\n")[0] for line in lines[1:]] == [b"[1]", b'"\\ud800"']


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": ', "broken JSON at column 7"),
        (b'"caf\xe9"', "not UTF-8 text (byte 4 of the line)"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "broken JSON: Exceeds the limit"),
    ],
)
def test_a_broken_line_has_its_reason_and_the_others_are_read(line: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n" + line + b"\n3\n")
    one, broken, three = (line.value for line in read_jsonl(path))
    assert (one, three) == (1, 3)
    assert isinstance(broken, BrokenJson)
    assert problem in broken.problem
    with pytest.raises(InputError, match=r"a\.jsonl, line 2: not a number \(.+\): write it again"):
        list(parse_jsonl(path, int, "number", "write it again"))


def test_a_line_that_does_not_parse_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"n": 1}\n\n{"m": 2}\n')
    numbers = parse_jsonl(tmp_path / "a.jsonl", lambda value: value["n"], "number", "write it again")
    assert next(numbers) == 1
    with pytest.raises(InputError, match=r"a\.jsonl, line 3: not a number \(KeyError: 'n'\): write it again"):
        next(numbers)


def test_a_file_that_cannot_be_read_or_has_an_endless_line_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read \(No such file or directory\): name another"):
        list(read_jsonl(tmp_path / "none.jsonl", hint=": name another"))
    monkeypatch.setattr(io, "MAX_LINE", 2**20)
    (tmp_path / "a.jsonl").write_bytes(b"1\n" + b" " * 2**20 + b"2\n")
    with pytest.raises(InputError, match=r"line 2 is longer than 1 MiB: is it the right file\?"):
        list(read_jsonl(tmp_path / "a.jsonl"))
