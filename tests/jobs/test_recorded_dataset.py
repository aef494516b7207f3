"""A part, an evaluation and a release that an earlier version wrote are resumed and rebuilt byte for byte, without a call.

The commands ``build text``, ``build cot``, ``build release`` and ``eval`` of commit 1ab18ad wrote ``tests/support/recorded_dataset`` with
replies of a fake endpoint. Its configuration names an address at which nothing listens, so a call would fail.
"""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.support.command import chiron

RECORDED = Path(__file__).parents[1] / "support" / "recorded_dataset"
pytestmark = pytest.mark.slow

_OF_THE_DAY = {"README.md", "check.json", "provenance.json", "map.png"}
"""Files of a release with a version, a date, measured seconds or a drawing."""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORDED, tmp_path / "recorded"))


def calls_in(directory: Path) -> int:
    with sqlite3.connect(directory / "ledger.sqlite") as ledger:
        return int(ledger.execute("SELECT count(*) FROM calls").fetchone()[0])


def test_a_part_is_resumed_without_a_call(recorded: Path) -> None:
    before = calls_in(recorded / "text")
    (recorded / "text" / "rows.jsonl").unlink()
    done = chiron("build", "text", "cases.jsonl", "--config", "config.yaml", "--out", "text", "--images", "images", cwd=recorded)
    assert done.returncode == 0, done.stderr
    assert (recorded / "text" / "rows.jsonl").read_bytes() == (RECORDED / "text" / "rows.jsonl").read_bytes()
    assert (recorded / "text" / "dropped.jsonl").read_bytes() == (RECORDED / "text" / "dropped.jsonl").read_bytes()
    assert calls_in(recorded / "text") == before == 29


def test_the_part_of_a_recorded_search_is_rebuilt(recorded: Path) -> None:
    shutil.copytree(RECORDED.parent / "recorded_run", recorded / "run")
    for folder in ("cot", "other"):
        done = chiron("build", "cot", "run", "--cases", "run/cases.jsonl", "--out", folder, cwd=recorded)
        assert done.returncode == 0, done.stderr
        assert (recorded / folder / "rows.jsonl").read_bytes() == (RECORDED / "cot" / "rows.jsonl").read_bytes()


def test_an_evaluation_is_resumed_without_a_call(recorded: Path) -> None:
    before = calls_in(recorded / "evaluation")
    (recorded / "evaluation" / "items.jsonl").unlink()
    asked = ("--benchmarks", "vqa_rad", "--protocol", "exact", "--config", "config.yaml", "--run", "evaluation", "--data", "data")
    done = chiron("eval", "--model", "m", *asked, cwd=recorded)
    assert done.returncode == 0, done.stderr
    assert (recorded / "evaluation" / "items.jsonl").read_bytes() == (RECORDED / "evaluation" / "items.jsonl").read_bytes()
    then, now = ((folder / "evaluation" / "results.json").read_text() for folder in (RECORDED, recorded))
    since = {"answer_normalizer": 3, "calibration": None}  # a version that was raised, and a field that was added
    groups = [{**group, **since, "verdicts": {**group["verdicts"], "scored": 0}} for group in json.loads(then)["groups"]]
    assert json.loads(now.replace(str(recorded), "/data"))["groups"] == groups
    assert calls_in(recorded / "evaluation") == before == 16


def test_a_recorded_evaluation_can_be_compared(recorded: Path) -> None:
    done = chiron("compare", "evaluation", cwd=recorded)
    assert done.returncode == 0, done.stderr
    assert "50.0" in done.stdout


def test_a_release_is_rebuilt(recorded: Path) -> None:
    limits = [word for check in ("near_duplicates", "shared_images", "steps") for word in ("--limit", f"{check}=1")]
    done = chiron(
        "build", "release", "text", "cot", "--out", "again", "--images", "text=images", "--images", "cot=run_images", *limits, cwd=recorded
    )
    assert done.returncode == 0, done.stderr
    then, now = (
        {os.path.relpath(path, folder): path for path in folder.rglob("*") if path.is_file() and path.name not in _OF_THE_DAY}
        for folder in (RECORDED / "release", recorded / "again")
    )
    assert now.keys() == then.keys()
    compared = {name: path.read_bytes() for name, path in then.items() if path.suffix != ".parquet"}
    compared["recipe.yaml"] = compared["recipe.yaml"].replace(b"\nsequence:", b"\nmax_seq_length:")  # a key renamed since
    assert [name for name, content in compared.items() if content != now[name].read_bytes()] == []
