"""Reviews are appended by several processes at once, and neither a kill nor a full disk loses a confirmed one."""

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import DiskError, InputError
from chiron.reviews.records import hash_path, parse_body
from chiron.reviews.store import REVIEWS, ReviewStore, export_reviews
from tests.reviews.writing import REASONING, a_review, verdict
from tests.support.command import environment
from tests.support.waiting import PATIENCE

SHA = hash_path(REASONING)
WRITER = """
import sys
from pathlib import Path
from chiron.reviews.store import ReviewStore
store, name, count = ReviewStore(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for number in range(count):
    store.save_draft("review", name, f"case-{number}", "sha", {"note": "x"})
    print(store.add("review", name, f"case-{number}", "sha", {"steps": [], "final": None, "note": name}), flush=True)
"""


def writer(run: Path, name: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(run), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    writers = [writer(tmp_path, name, 40) for name in ("anna", "ben", "cleo")]
    confirmed = [int(line) for process in writers for line in process.communicate(timeout=PATIENCE)[0].splitlines()]
    events = ReviewStore(tmp_path).events()
    assert sorted(confirmed) == [event["id"] for event in events] == list(range(1, 121))
    assert {event["reviewer"] for event in events} == {"anna", "ben", "cleo"}
    assert ReviewStore(tmp_path).draft("review", "anna", "case-0", "sha") is None


def test_a_killed_process_loses_no_confirmed_review(tmp_path: Path) -> None:
    with writer(tmp_path, "anna", 100_000) as process:
        assert process.stdout is not None
        confirmed = [int(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGKILL)
        confirmed += [int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    store = ReviewStore(tmp_path)
    assert set(confirmed) <= {event["id"] for event in store.events()}
    assert store.add("review", "ben", "c", SHA, a_review()) > confirmed[-1]


def test_a_full_disk_is_one_clear_error_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ReviewStore(tmp_path)
    store.add("review", "anna", "c1", SHA, a_review())
    store.save_draft("review", "anna", "c2", SHA, {"note": "kept"})
    connect = sqlite3.connect

    def full(*arguments: Any, **more: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*arguments, **more)
        db.execute("PRAGMA max_page_count=1")  # what SQLite answers on a full disk, without filling one
        return db

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", full)
        with pytest.raises(DiskError, match="free space on its disk"):
            store.add("review", "anna", "c2", SHA, a_review(note="long " * 1900))
    assert [event["case_id"] for event in store.events()] == ["c1"]
    assert store.draft("review", "anna", "c2", SHA) == {"note": "kept"}
    store.add("review", "anna", "c2", SHA, a_review(note="long " * 1900))


def test_events_can_neither_be_changed_nor_deleted(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path)
    store.add("review", "anna", "c1", SHA, a_review())
    db = sqlite3.connect(store.path)
    for sql in ("UPDATE events SET reviewer = 'ben'", "DELETE FROM events"):
        with pytest.raises(sqlite3.DatabaseError, match="append-only"):
            db.execute(sql)
    db.close()
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_the_export_has_every_event_in_order(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path)
    store.add("review", "Änne \u202e", "c1", SHA, a_review(verdict("accept"), verdict("reject", reason="unsupported"), note="ok\u2028"))
    store.add("skip", "ben", "c2", SHA, {"steps": [], "final": None, "note": ""})
    lines = [json.loads(line) for line in export_reviews(tmp_path).read_text("utf-8").split("\n")[:-1]]
    assert lines == store.events()
    assert lines[0]["steps"][1] == {"verdict": "reject", "reason": "unsupported", "note": "", "text": None}
    assert lines[0]["path_sha256"] == SHA
    assert lines[0]["version"] == 1
    with pytest.raises(InputError, match="has no reviews"):
        export_reviews(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"not a database at all" * 99, b""])
def test_a_file_that_is_something_else_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / REVIEWS).write_bytes(content)
    if not content:  # another process is about to create it
        assert ReviewStore(tmp_path).events() == []
        return
    with pytest.raises(InputError, match=r"reviews\.sqlite is damaged"):
        ReviewStore(tmp_path).events()
    other = tmp_path / "other"
    other.mkdir()
    db = sqlite3.connect(other / REVIEWS)
    db.execute("CREATE TABLE things (a)")
    db.commit()
    db.close()
    with pytest.raises(InputError, match="of something else"):
        ReviewStore(other).add("review", "anna", "c1", SHA, a_review())


@pytest.mark.parametrize(
    ("steps", "final", "message"),
    [
        ([verdict("accept")], verdict("accept"), "needs 2 verdicts"),
        ([verdict("accept"), {}], verdict("accept"), "step 2 has no verdict"),
        ([verdict("accept"), verdict("reject")], verdict("accept"), "step 2 is rejected without a reason"),
        ([verdict("accept"), verdict("reject", reason="bad")], verdict("accept"), "unknown reason"),
        ([verdict("edit", text="Look."), verdict("accept")], verdict("accept"), "step 1 is edited, but its text is unchanged"),
        ([verdict("accept"), verdict("edit", text=" ")], verdict("accept"), "step 2 is edited, but its text is empty"),
        ([verdict("accept"), verdict("edit", text="A. ### Step 3: B")], verdict("accept"), "contains a step heading"),
        ([verdict("edit", text="### The final answer is: x"), verdict("accept")], verdict("accept"), "contains a step heading"),
        ([verdict("accept"), verdict("accept", note="x" * 10_001)], verdict("accept"), "10,001 characters"),
        ([verdict("accept"), verdict("accept")], None, "the final answer has no verdict"),
    ],
)
def test_an_incomplete_or_unusable_review_is_refused(steps: Any, final: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_body({"steps": steps, "final": final, "note": ""}, REASONING)


@pytest.mark.slow
def test_ten_thousand_reviews_are_read_at_once(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path)
    store.add("review", "anna", "c0", SHA, a_review())
    db = sqlite3.connect(store.path)
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)"
        " INSERT INTO events (at, kind, reviewer, case_id, path_sha256, body)"
        " SELECT at, kind, reviewer, 'c' || i, path_sha256, body FROM events, n"
    )
    db.commit()
    db.close()
    assert len(export_reviews(tmp_path).read_text().splitlines()) == 10_000
    assert len(store.decisions()) == 10_000
