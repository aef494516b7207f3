"""A run directory of the first version opens, is read, resumed and replayed from. ``tests/support/recorded_run`` was written by it."""

import json
import shutil
from pathlib import Path

import pytest

from chiron.client.call import Reply
from chiron.client.ledger import Ledger
from chiron.jobs.directory import WorkDirectory
from chiron.mics.run_directory import RunDirectory, read_status
from chiron.reports.page import write_report
from tests.support.calls import a_call

RECORDED = Path(__file__).parents[1] / "support" / "recorded_run"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "run"))


def keys_of(run: Path) -> list[str]:
    provenance = [json.loads(line)["provenance"] for line in (run / "paths.jsonl").read_text().splitlines()]
    return [key for origin in provenance for key in (origin["path"], *origin["mentors"], *origin["evaluations"])]


def test_it_can_be_looked_at(run: Path) -> None:
    status = read_status(run)
    assert status.outcomes == {"retained": 3}
    assert status.mean_score == pytest.approx(8 / 9)
    assert status.spent_usd == pytest.approx(0.045769)
    assert (status.incomplete, status.missing_candidates) == (1, 2)  # its records do not say so, but its trees do
    page = write_report(run).read_text()
    assert "ended with something missing" in page
    assert "case-00002" in page


def test_its_replies_answer_by_their_keys_before_and_after_it_is_written_to(run: Path) -> None:
    keys = keys_of(run)
    assert len(keys) > 10
    with Ledger.read(run / "ledger.sqlite") as ledger:
        before = [ledger.get(key) for key in keys]
    assert all(isinstance(reply, Reply) and reply.text for reply in before)
    identity = json.loads((run / "run.json").read_text())["identity"]
    with WorkDirectory(run).opened(identity) as ledger:
        assert [ledger.get(key) for key in keys] == before
        ledger.put(a_call("new"), Reply("x"))
        assert ledger.get(a_call("new").key) == Reply("x")
    with Ledger.open(run.parent / "replay.sqlite") as other:
        assert other.copy_calls_from(run / "ledger.sqlite") == 71
        found = other.get(keys[0])
        assert found is not None
        assert before[0] is not None
        assert found.text == before[0].text


def test_its_paths_are_written_again_as_they_were(run: Path) -> None:
    directory = RunDirectory(run)
    before = (run / "paths.jsonl").read_bytes()
    with Ledger.read(directory.ledger) as ledger:
        directory.write_derived(ledger)
    assert (run / "paths.jsonl").read_bytes() == before
