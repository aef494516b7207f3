"""Datasets saved to disk, and folders of Parquet, become cases."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chiron.errors import InputError
from chiron.importing.columns import parse_map
from tests.importing.support import imported, pixels
from tests.support.cases import write_png

datasets = pytest.importorskip("datasets")


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 6), seed, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def dataset(*images: Any, feature: Any = None) -> Any:
    rows = {"rid": [f"r{n}" for n in range(len(images))], "Q": ["What?"] * len(images), "A": ["Cyst."] * len(images), "pics": list(images)}
    features = datasets.Features(
        {"rid": datasets.Value("string"), "Q": datasets.Value("string"), "A": datasets.Value("string"), "pics": feature}
    )
    return datasets.Dataset.from_dict(rows, features=features)


COLUMNS = parse_map(["question=Q,answer=A,images=pics"])


@pytest.mark.parametrize("many", [False, True])
def test_a_dataset_with_images_in_its_rows(tmp_path: Path, many: bool) -> None:
    images: list[Any] = [{"bytes": picture(10 * n), "path": None} for n in range(3)]
    images[2] = {"bytes": b"no image", "path": None}
    feature = datasets.List(datasets.Image()) if many else datasets.Image()
    dataset(*([i] if many else i for i in images), feature=feature).save_to_disk(tmp_path / "d")
    cases, (left,) = imported(tmp_path / "d", tmp_path / "out", columns=COLUMNS)
    assert [case.id for case in cases] == ["r0", "r1"]
    assert pixels(tmp_path / "out" / "images" / cases[1].images[0])[0, 0] == 10
    assert "not an image" in left.reason
    assert left.place == "d, split 'train', row 3"


def test_a_dataset_with_paths_keeps_within_its_folder(tmp_path: Path) -> None:
    dataset("a.png", "../b.png", feature=datasets.Value("string")).save_to_disk(tmp_path / "d")
    write_png(tmp_path / "d" / "images" / "a.png")
    write_png(tmp_path / "b.png")
    cases, (left,) = imported(tmp_path / "d", tmp_path / "out", columns=COLUMNS)
    assert len(cases) == 1
    assert "leaves the image folder" in left.reason


def test_splits_can_be_chosen(tmp_path: Path) -> None:
    one = dataset({"bytes": picture(1), "path": None}, feature=datasets.Image())
    two = one.map(lambda row: {"rid": "other"}, load_from_cache_file=False)
    datasets.DatasetDict({"train": one, "test": two}).save_to_disk(tmp_path / "d")
    assert len(imported(tmp_path / "d", tmp_path / "all", columns=COLUMNS)[0]) == 2
    assert [c.id for c in imported(tmp_path / "d", tmp_path / "test", columns=COLUMNS, split="test")[0]] == ["other"]
    with pytest.raises(InputError, match="there are"):
        imported(tmp_path / "d", tmp_path / "none", columns=COLUMNS, split="valid")


def test_a_folder_of_parquet(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    dataset({"bytes": picture(7), "path": "x.png"}, feature=datasets.Image()).to_parquet(
        str(tmp_path / "d" / "train-00000-of-00001.parquet")
    )
    cases, left = imported(tmp_path / "d", tmp_path / "out", columns=COLUMNS)
    assert not left
    assert cases[0].question == "What?"
    (tmp_path / "d" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        imported(tmp_path / "d", tmp_path / "out", columns=COLUMNS)


def test_columns_that_are_not_there_are_said(tmp_path: Path) -> None:
    dataset({"bytes": picture(7), "path": None}, feature=datasets.Image()).save_to_disk(tmp_path / "d")
    with pytest.raises(InputError, match="has no column 'pix'"):
        imported(tmp_path / "d", tmp_path / "out", columns=parse_map(["images=pix"]))
    (tmp_path / "d" / "data-00000-of-00001.arrow").write_bytes(b"broken")
    with pytest.raises(InputError, match="not a readable dataset"):
        imported(tmp_path / "d", tmp_path / "out", columns=COLUMNS)
