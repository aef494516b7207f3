"""The files and outputs have the fields that their types and docs/formats.md name."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from chiron.cli.push import PushRecord
from chiron.evaluation.api import evaluate
from chiron.evaluation.items import ITEMS, RESULTS, ItemResult, read_results
from chiron.evaluation.results import ResultGroup, ResultsFile
from chiron.jobs.forecast import Forecast, RoleForecast
from chiron.training.metrics import HeldOut, StepMetrics
from tests.evaluation import published
from tests.support.command import chiron

DOCS = Path(__file__).parents[1] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    published.vqa_rad(folder / "d")
    evaluate("offline:match/normalised", ["vqa_rad"], folder / "run", data=folder / "d")
    return folder / "run"


def documented(title: str) -> list[str]:
    """Names in the first column of the first table after a title."""
    table = DOCS.read_text("utf-8").partition(title)[2].partition("|---|")[2].partition("\n\n")[0]
    return [name for row in table.splitlines()[1:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_a_line_of_items_has_the_documented_fields(run: Path) -> None:
    line = json.loads((run / ITEMS).read_text().splitlines()[0])
    every = [field.name for field in fields(ItemResult)]
    assert every == documented("### `items.jsonl`")
    assert list(line) == [name for name in every if name != "claims"]  # only with checkers


def test_results_have_the_documented_fields(run: Path) -> None:
    results = json.loads((run / RESULTS).read_text())
    assert results["version"] == 1
    assert set(results) == set(ResultsFile.__annotations__) == set(documented("One object (`ResultsFile`)"))
    [group] = results["groups"]
    assert set(group) == set(ResultGroup.__annotations__) == set(documented("A group (`ResultGroup`)"))


@pytest.mark.parametrize(("title", "of"), [("an optimizer step (`StepMetrics`)", StepMetrics), ("measurement, during a stage", HeldOut)])
def test_a_line_of_metrics_has_the_documented_fields(title: str, of: type) -> None:
    assert documented(title) == [field.name for field in fields(of)]


def test_a_forecast_has_the_documented_fields(run: Path, tmp_path: Path) -> None:
    arguments = ("--model", "offline:match/normalised", "--benchmarks", "vqa_rad", "--data", run.parent / "d", "--run", tmp_path / "r")
    printed = json.loads(chiron("eval", *arguments, "--dry-run", "--json").stdout)
    totals = ["usd", "usd_at_least", "usd_at_most", "seconds"]
    assert list(printed) == [field.name for field in fields(Forecast)] + totals == documented("### The forecast")
    assert list(printed["roles"][0]) == [field.name for field in fields(RoleForecast)] == documented("(`RoleForecast`)")


def test_the_output_of_push_has_the_documented_fields(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("# A model\n")
    printed = json.loads(chiron("push", tmp_path, "--repo", "me/it", "--dry-run", "--json").stdout)
    assert set(printed) | {"url"} == set(PushRecord.__annotations__) == set(documented("### `chiron push --json`"))


def test_fields_of_a_later_version_are_ignored(run: Path, tmp_path: Path) -> None:
    line = json.loads((run / ITEMS).read_text().splitlines()[0])
    (tmp_path / ITEMS).write_text(json.dumps({**line, "seconds": 1.5}) + "\n")
    assert next(read_results(tmp_path / ITEMS)) == next(read_results(run / ITEMS))
