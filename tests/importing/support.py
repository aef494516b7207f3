"""Sources made on the spot, and what an import made of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chiron.cases.case import Case
from chiron.cases.reader import read_cases
from chiron.importing.importer import import_cases
from chiron.importing.source import ImportOptions, LeftOut, Why
from chiron.io import read_jsonl


def left_out(out: Path) -> list[LeftOut]:
    """Read the items that an import skipped."""
    records = [line.value for line in read_jsonl(out / "not-imported.jsonl")]
    return [LeftOut(r["place"], r["id"], Why(r["kind"]), r["reason"]) for r in records]


def imported(source: Path, out: Path, **options: Any) -> tuple[list[Case], list[LeftOut]]:
    """Import, and read what was written."""
    import_cases(source, out, ImportOptions(**options))
    cases = list(read_cases(out / "cases.jsonl", unlabeled=True))
    assert all(isinstance(case, Case) for case in cases)
    return [case for case in cases if isinstance(case, Case)], left_out(out)


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


def everything(folder: Path) -> str:
    """All text of the files that are handed on, and the names of all files."""
    names = " ".join(str(p.relative_to(folder)) for p in folder.rglob("*"))
    return names + "".join((folder / name).read_text("utf-8") for name in ("cases.jsonl", "not-imported.jsonl"))


def jsonl(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    return path
