"""The ledger keeps what it was given, for whoever comes later."""

import os
import shutil
import sqlite3
import stat
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from chiron.client import ledger as ledger_results
from chiron.client import ledger_store
from chiron.client.call import Reply, Usage
from chiron.client.ledger import Ledger, StoredResult
from chiron.errors import DiskError, InputError
from tests.support.calls import a_call


def test_a_reply_outlives_the_process_that_got_it(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    reply = Reply("yes \U0001f600", "length", Usage(10, None), "served", 1.5, 3, 0.25, raw='{"id": "x"}')
    with Ledger.open(path) as ledger:
        ledger.put(a_call(), reply)
    with Ledger.open(path) as ledger:
        assert ledger.get(a_call().key) == reply
        assert ledger.raw(a_call().key) == '{"id": "x"}'
        assert ledger.get(a_call("other").key) is None


def test_the_first_reply_stays(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        ledger.put(a_call(), Reply("first"))
        ledger.put(a_call(), Reply("second"))
        found = ledger.get(a_call().key)
        assert found is not None
        assert found.text == "first"


def test_patients_data_is_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with Ledger.open(tmp_path / "l.sqlite") as ledger:
            ledger.put(a_call(), Reply("x"))
            for file in tmp_path.iterdir():
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    finally:
        os.umask(old)


def test_spending_is_summed_by_model_and_role(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        for n in range(3):
            ledger.put(a_call(str(n), role="judge"), Reply("x", usage=Usage(100, 5), seconds=0.5, attempts=2, cost_usd=0.1))
        ledger.note_failure(a_call("lost", role="judge"), "transient", "hang", final=False, cost_at_most=0.4)
        ledger.note_failure(a_call("lost", role="judge"), "transient", "hang", final=True)
        (spent,) = ledger.spending()
        assert (spent.calls, spent.prompt_tokens, spent.completion_tokens, spent.retries, spent.failed) == (3, 300, 15, 3, 1)
        assert spent.cost_usd == pytest.approx(0.7)
        assert ledger.spent_usd() == pytest.approx(0.7)


def test_replies_taken_over_cost_nothing_here(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "old.sqlite") as old:
        old.put(a_call("a"), Reply("a", cost_usd=1.0))
        old.put(a_call("b"), Reply("b", cost_usd=1.0))
    with Ledger.open(tmp_path / "new.sqlite") as new:
        new.put(a_call("b"), Reply("b", cost_usd=2.0))
        assert new.copy_calls_from(tmp_path / "old.sqlite") == 1
        assert new.get(a_call("a").key) == Reply("a", cost_usd=1.0)
        assert new.spent_usd() == pytest.approx(2.0)


def test_results_come_in_the_order_of_the_cases(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        for position, retained in ((2, True), (0, False), (1, True)):
            ledger.put_result(StoredResult(f"c{position}", position, "f", "depth", retained, 0.5, {"n": position}))
        assert [r.position for r in ledger.results()] == [0, 1, 2]
        assert [r.record["n"] for r in ledger.results(retained=True)] == [1, 2]
        assert ledger.outcomes() == {("depth", True): 2, ("depth", False): 1}


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        ledger.put(a_call("before"), Reply("kept"))
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count={pages}")  # what SQLite answers on a full disk, without filling one
        with pytest.raises(DiskError, match="free space"):
            for n in range(200):
                ledger.put(a_call(str(n)), Reply("x" * 4000))
    with Ledger.open(tmp_path / "l.sqlite") as ledger:
        found = ledger.get(a_call("before").key)
        assert found is not None
        assert found.text == "kept"


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.write_bytes(b"this is a text file, and quite a long one, " * 100)
    with pytest.raises(InputError, match="damaged or not a ledger"):
        Ledger.open(path)
    with pytest.raises(InputError, match="not a run directory"):
        Ledger.read(tmp_path / "nothing.sqlite")
    sqlite3.connect(tmp_path / "other.sqlite").execute("PRAGMA user_version=99").connection.close()
    with pytest.raises(InputError, match="another version"):
        Ledger.open(tmp_path / "other.sqlite")


def filled(path: Path) -> Path:
    with Ledger.open(path) as ledger:
        for n in range(400):
            ledger.put(a_call(str(n)), Reply("x" * 1000, cost_usd=0.1))
            ledger.put_result(StoredResult(f"c{n}", n, "f", "depth", True, 0.5, {"n": n, "text": "y" * 500}))
        ledger.note_failure(a_call("lost"), "transient", "hang", final=True)
    return path


def use(path: Path) -> None:
    with Ledger.read(path) as ledger:
        list(ledger.results())
        ledger.result_heads()
        ledger.outcomes()
        ledger.scores()
        ledger.spending()
        ledger.spent_usd()
        for n in range(400):
            ledger.get(a_call(str(n)).key)


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        "DROP TABLE failures",
        "ALTER TABLE calls DROP COLUMN finish",
        "UPDATE results SET record = x'00'",
        "UPDATE results SET record = 5",
        "UPDATE calls SET text = x'ff00'",
        "UPDATE calls SET text = CAST(x'ff00' AS TEXT)",
    ],
)
def test_a_ledger_that_somebody_harmed_is_a_clear_error(tmp_path: Path, harm: str) -> None:
    path = filled(tmp_path / "l.sqlite")
    use(path)
    with sqlite3.connect(path) as db:
        db.execute(harm)
    db.close()
    with pytest.raises(InputError, match="is damaged") as caught:
        use(path)
    assert str(path) in str(caught.value)
    assert "Delete" in str(caught.value) or "move it away" in str(caught.value)
    if "DROP" in harm:
        with pytest.raises(InputError, match="is damaged"), Ledger.open(path) as ledger:
            ledger.put(a_call("new"), Reply("x"))
            ledger.get(a_call("new").key)


def complaint(work: Callable[[], object]) -> str | None:
    try:
        work()
    except InputError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_garbage_in_the_middle_of_a_ledger_is_a_clear_error(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole.sqlite").read_bytes()
    seen = 0
    for share in range(1, 10):
        path = tmp_path / f"{share}.sqlite"
        begin = len(whole) * share // 10
        path.write_bytes(whole[:begin] + b"\x07" * 16384 + whole[begin + 16384 :])
        told = complaint(lambda at=path: use(at))  # type: ignore[misc]
        assert told is None or (f"{path} is damaged" in told and "()" not in told)
        seen += told is not None
        with Ledger.open(tmp_path / f"new{share}.sqlite") as new:
            told = complaint(lambda at=path, to=new: to.copy_calls_from(at))  # type: ignore[misc]
            assert told is None or (f"{path} is damaged" in told and new.spending() == [])
    assert seen > 5
    cut = tmp_path / "cut.sqlite"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged"):
        use(cut)


@pytest.fixture
def somebody_else() -> Iterator[None]:
    """Root may write everywhere; a file's mode means something to anybody else only."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that everybody can get to; pytest's own is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.slow
@pytest.mark.parametrize("log", [False, True])
def test_a_ledger_can_be_read_where_nothing_may_be_written(open_place: Path, log: bool, request: pytest.FixtureRequest) -> None:
    path = filled(open_place / "l.sqlite")
    path.chmod(0o444)
    if log:
        path.with_name("l.sqlite-wal").write_bytes(b"replies")
    open_place.chmod(0o555)
    request.getfixturevalue("somebody_else")
    if log:
        with pytest.raises(InputError, match="copy the whole directory"):
            use(path)
    else:
        use(path)


def test_a_ledger_that_was_emptied_or_swapped_is_refused_with_how_to_recover(tmp_path: Path) -> None:
    path = filled(tmp_path / "l.sqlite")
    for left in ("nothing", "no tables", "no rows"):
        path.unlink()
        if left == "nothing":
            path.touch()
        elif left == "no tables":
            db = sqlite3.connect(path)
            db.executescript("PRAGMA journal_mode=WAL")  # where the log, which had everything, went astray
            db.close()
        else:
            Ledger.open(path).close()
        with pytest.raises(InputError, match=r"is empty, but its run has started.*restore l.sqlite.*l.sqlite-wal.*pay"):
            Ledger.open(path, begun=True)
    path.write_bytes(b"")
    Ledger.open(path).close()  # a new run


def test_a_log_without_its_file_is_not_thrown_away(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    log = path.with_name("l.sqlite-wal")
    path.write_bytes(b"")
    log.write_bytes(b"replies")
    with pytest.raises(InputError, match="belong together"):
        Ledger.open(path)
    assert log.read_bytes() == b"replies"


def test_an_sqlite_file_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    for version in (0, 1, 7):
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE IF NOT EXISTS bookmarks (url TEXT)")
            db.execute(f"PRAGMA user_version={version}")
        db.close()
        for opens in (Ledger.open, Ledger.read):
            with pytest.raises(InputError, match=r"database of something else \(it has a table 'bookmarks'\): move it away"):
                opens(path)
        with sqlite3.connect(path) as db:
            assert [name for (name,) in db.execute("SELECT name FROM sqlite_master")] == ["bookmarks"]
        db.close()


def alone(path: Path) -> Path:
    """A copy of the file without its log, as a careless backup makes it."""
    copy = path.with_name("alone.sqlite")
    copy.write_bytes(path.read_bytes())
    return copy


def test_the_file_itself_has_its_tables_from_the_start_and_its_replies_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger.open(path) as ledger:
        with Ledger.read(alone(path)) as copy:
            assert copy.spending() == []
        ledger.put(a_call("early"), Reply("x"))
        monkeypatch.setattr(ledger_store, "CHECKPOINT_EVERY", 0.0)
        ledger.put(a_call("later"), Reply("x"))
        with Ledger.read(alone(path)) as copy:
            assert copy.get(a_call("early").key) == copy.get(a_call("later").key) == Reply("x")


@pytest.mark.parametrize("column", ["text", "finish", "completion_tokens", "raw"])
def test_a_reply_that_changed_on_the_disk_is_noticed(tmp_path: Path, column: str) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger.open(path) as ledger:
        ledger.put(a_call(), Reply("yes", usage=Usage(1, 2), seconds=0, cost_usd=-0.0, raw="{}"))
        ledger.put(a_call("other"), Reply("no"))
        assert ledger.get(a_call().key) == Reply("yes", usage=Usage(1, 2), seconds=0, cost_usd=0.0)
        assert ledger.raw(a_call().key) == "{}"
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE calls SET {column} = '7' WHERE key = ?", (bytes.fromhex(a_call().key),))  # noqa: S608 - names from above
    db.close()
    with Ledger.read(path) as ledger:
        look = ledger.raw if column == "raw" else ledger.get
        with pytest.raises(InputError, match=r"does not match its checksum.*DELETE FROM calls WHERE key = x'") as caught:
            look(a_call().key)
        assert look(a_call("other").key) in {Reply("no"), None}
    with Ledger.open(tmp_path / "new.sqlite") as new, pytest.raises(InputError, match="checksum"):
        new.copy_calls_from(path)
    cure = str(caught.value).split('"')[1]
    with sqlite3.connect(path) as db:
        db.execute(cure)
    db.close()
    with Ledger.open(path) as ledger:
        assert ledger.get(a_call().key) is None


def test_a_ledger_from_before_there_were_checksums_is_as_good_as_any(tmp_path: Path) -> None:
    path = filled(tmp_path / "old.sqlite")
    with sqlite3.connect(path) as db:
        db.execute("ALTER TABLE calls DROP COLUMN checksum")
    db.close()
    use(path)
    with Ledger.open(tmp_path / "new.sqlite") as new:
        assert new.copy_calls_from(path) == 400
        assert new.get(a_call("7").key) is not None
    with Ledger.open(path) as ledger:
        assert ledger.get(a_call("7").key) is not None
        ledger.put(a_call("new"), Reply("x"))
        assert ledger.get(a_call("new").key) == Reply("x")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("SQLITE_IOERR_SHMMAP", "on a local disk"),
        ("SQLITE_IOERR_LOCK", "on a local disk"),
        ("SQLITE_PROTOCOL", "on a local disk"),
        ("SQLITE_IOERR_READ", "check the disk"),
        ("SQLITE_IOERR_WRITE", "free space"),
        ("SQLITE_FULL", "free space"),
    ],
)
def test_an_error_of_the_disk_is_told_by_its_extended_code(tmp_path: Path, code: str, words: str) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = getattr(sqlite3, code)
    with pytest.raises(DiskError, match=words), ledger_store.explained(tmp_path / "l.sqlite", writing=True):
        raise error


def test_a_full_disk_is_named_where_it_has_no_room_for_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    with pytest.raises(DiskError, match="free space"), ledger_store.explained(tmp_path / "l.sqlite"):
        raise error


@pytest.mark.slow
def test_a_record_that_unpacks_to_more_than_any_record_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path / "l.sqlite")
    monkeypatch.setattr(ledger_results, "MAX_RECORD", 2**20)
    bomb = zlib.compress(b'{"a": "' + b"x" * (40 * 2**20) + b'"}', 9)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE results SET record = ? WHERE case_id = 'c3'", (bomb,))
    db.close()
    tracemalloc.start()
    with Ledger.read(path) as ledger, pytest.raises(InputError, match="result of case 'c3' cannot be read"):
        list(ledger.results())
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_reading_goes_on_beside_writing(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as writer, Ledger.read(tmp_path / "l.sqlite") as reader:
        writer.put(a_call(), Reply("x"))
        assert reader.get(a_call().key) == Reply("x")


def test_a_ledger_from_before_there_were_facts_is_as_good_as_any(tmp_path: Path) -> None:
    path = filled(tmp_path / "old.sqlite")
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE facts")
    with Ledger.open(path) as ledger:
        assert ledger.remember("identity", "x") == "x"
        assert ledger.remember("identity", "y") == "x"
