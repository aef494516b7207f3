"""The benchmark that docs/evaluation.md adds as an example loads its data and loses no record."""

import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from chiron.evaluation.benchmarks.benchmark import Benchmark
from chiron.evaluation.benchmarks.loading import load
from chiron.evaluation.items import BadItem, Item
from chiron.evaluation.registry import protocol_of
from tests.evaluation import published

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"


@pytest.fixture
def documented(tmp_path: Path) -> Benchmark:
    section = DOCS.read_text("utf-8").partition("## Adding a benchmark")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    file = tmp_path / "documented_benchmark.py"
    file.write_text(code, "utf-8")
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert file.stem not in sys.modules
    (benchmark,) = module.BENCHMARKS
    assert isinstance(benchmark, Benchmark)
    return benchmark


def test_every_record_is_counted_bad_ones_too(tmp_path: Path, documented: Benchmark) -> None:
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "images" / "1.png").write_bytes(published.png())
    good = {"image": "images/1.png", "question": "Is there a fracture?", "answer": "Yes", "view": "AP"}
    records = [
        good,
        {**good, "answer": "no"},
        {**good, "answer": "maybe"},
        {**good, "answer": ""},
        {**good, "image": ""},
        {**good, "question": None},
    ]
    lines = [*(json.dumps(record) for record in records), "{broken"]
    (data / "test.jsonl").write_text("\n".join(lines) + "\n", "utf-8")

    loaded = load(documented, data, tmp_path / "run")

    counted = protocol_of(documented.protocol).select(loaded.items)
    assert len(loaded.items) == len(counted) == len(lines)
    assert [type(item) for item in counted] == [Item, Item, *[BadItem] * 5]
    first = counted[0]
    assert isinstance(first, Item)
    assert (first.answer, first.group, dict(first.labels)) == ("yes", "images/1.png", {"view": "AP"})
    assert "neither yes nor no" in next(item.problem for item in counted if isinstance(item, BadItem))
    assert any("questions, the published ones 500" in note for note in loaded.notes)
