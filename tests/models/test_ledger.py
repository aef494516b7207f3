"""The ledger keeps what it was given, for whoever comes later."""

import os
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chiron.errors import DiskError, InputError
from chiron.models.call import Reply, Usage
from chiron.models.ledger import Ledger, StoredResult
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
    with pytest.raises(InputError, match="no ledger"):
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
    assert "away" in str(caught.value)
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
