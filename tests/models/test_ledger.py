"""The ledger keeps what it was given, for whoever comes later."""

import os
import sqlite3
import stat
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


def test_reading_goes_on_beside_writing(tmp_path: Path) -> None:
    with Ledger.open(tmp_path / "l.sqlite") as writer, Ledger.read(tmp_path / "l.sqlite") as reader:
        writer.put(a_call(), Reply("x"))
        assert reader.get(a_call().key) == Reply("x")
