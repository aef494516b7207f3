import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from chiron.cases.case import Case
from chiron.cases.reader import read_cases
from chiron.errors import DiskError, InputError
from chiron.phantom.sample import Sample, write_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return write_sample(tmp_path_factory.mktemp("world") / "new" / "folder", count=12, seed=1, size=48)


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_what_is_written_can_be_read(sample: Sample) -> None:
    cases = list(read_cases(sample.cases))
    assert len(cases) == sample.count == 12
    named = set()
    for case in cases:
        assert isinstance(case, Case)
        for path in case.images:
            named.add(sample.images / path)
            with Image.open(sample.images / path) as image:
                assert image.size == (48, 48)
                assert image.mode == "L"
                assert np.asarray(image).std() > 20
    assert named == set(sample.images.rglob("*.png"))
    assert len(content(sample.cases.parent)) == len(named) + 2


def test_the_textbook_has_every_rule_and_agrees_with_the_cases(sample: Sample) -> None:
    rules = [json.loads(line) for line in sample.textbook.read_text().splitlines()]
    assert len(rules) == 108
    assert all(set(rule) == {"answer", "text", "attributes"} for rule in rules)
    book = {rule["text"]: rule["answer"] for rule in rules}
    for line in sample.cases.read_text().splitlines():
        record = json.loads(line)
        a = record["attributes"]
        text = f"A {a['size']} {a['density']} lesion with a {a['margin']} margin, at the {a['level']} level of the {a['side']} side."
        assert book[text] == record["answer"]


def test_the_same_seed_writes_the_same_bytes(sample: Sample, tmp_path: Path) -> None:
    write_sample(tmp_path, count=12, seed=1, size=48)
    assert content(tmp_path) == content(sample.cases.parent)


def test_a_case_does_not_depend_on_how_many_there_are(sample: Sample, tmp_path: Path) -> None:
    few = write_sample(tmp_path, count=5, seed=1, size=48)
    assert few.cases.read_text().splitlines() == sample.cases.read_text().splitlines()[:5]
    everything = content(sample.cases.parent)
    assert all(everything[name] == data for name, data in content(tmp_path).items() if name.endswith(".png"))


@pytest.mark.slow
def test_seeds_differ_in_cases_and_worlds_in_answers(sample: Sample, tmp_path: Path) -> None:
    other = write_sample(tmp_path / "seed", count=12, seed=2, size=48)
    assert other.textbook.read_bytes() == sample.textbook.read_bytes()
    assert other.cases.read_bytes() != sample.cases.read_bytes()
    world = write_sample(tmp_path / "world", count=12, seed=1, size=48, world_seed=9)
    assert world.textbook.read_bytes() != sample.textbook.read_bytes()
    one, another = (json.loads(s.cases.read_text().splitlines()[0]) for s in (sample, world))
    assert one["attributes"] == another["attributes"]


def test_run_again_it_changes_nothing_and_mends_what_is_missing(sample: Sample, tmp_path: Path) -> None:
    shutil.copytree(sample.cases.parent, tmp_path, dirs_exist_ok=True)
    before = content(tmp_path)
    next(tmp_path.rglob("*.png")).unlink()
    assert write_sample(tmp_path, count=12, seed=1, size=48).count == 12
    assert content(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"count": 11}, {"seed": 2}, {"size": 64}, {"world_seed": 1}])
def test_another_sample_in_the_same_folder_is_refused(change: dict[str, int], sample: Sample) -> None:
    before = content(sample.cases.parent)
    arguments = {"count": 12, "seed": 1, "size": 48, **change}
    with pytest.raises(InputError, match="already holds other cases: name another folder") as raised:
        write_sample(sample.cases.parent, **arguments)
    assert str(sample.cases) in str(raised.value)
    assert content(sample.cases.parent) == before


@pytest.mark.parametrize(
    ("change", "name"),
    [({"count": 0}, "count"), ({"size": 31}, "size"), ({"size": 4097}, "size"), ({"seed": -1}, "seed"), ({"world_seed": -1}, "world")],
)
def test_arguments_out_of_range_are_refused(change: dict[str, int], name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"^{name}.* is -?\d+, but .* or (more|less)$"):
        write_sample(tmp_path / "none", **change)
    assert not (tmp_path / "none").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_sample(tmp_path / "file", count=1, size=32)


@pytest.mark.parametrize(("filled_by", "left"), [("cases.jsonl", ["images", "textbook.jsonl"]), ("textbook", ["images"])])
def test_a_full_disk_leaves_no_cases_and_no_scraps(
    filled_by: str, left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if filled_by in path.name:
            write(path, data[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match="the disk is full"):
        write_sample(tmp_path, count=1, size=32)
    assert sorted(p.name for p in tmp_path.iterdir()) == left
