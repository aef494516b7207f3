"""A release loads where it is said to, keeps patients apart, can be traced, and appears whole or not at all."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from chiron.cases.body_systems import BODY_SYSTEMS
from chiron.cases.modalities import MODALITIES
from chiron.dedup.contamination import BenchmarkItem
from chiron.errors import DiskError, InputError
from chiron.io import new_folder, write_atomically
from chiron.mmrp.card import cell
from chiron.mmrp.checking import limits_of
from chiron.mmrp.exports.export import GROUP, exports, message_faults
from chiron.mmrp.exports.internvl import internvl_faults
from chiron.mmrp.exports.trl import trl_faults
from chiron.mmrp.release import ReleaseOptions, ReleaseSummary, release
from tests.mmrp.making import PROVENANCE, REASONING, a_row, a_text_row, draw_image, picture, write_part
from tests.support.plugins import documented_module, install_plugin

RATIOS = (0.6, 0.2, 0.2)


def parts_of(folder: Path) -> list[Path]:
    cot = [a_row(str(n), patient=f"p{n // 2}", difficulty=(n % 5) / 5) for n in range(40)]
    cot += [a_row("several", images=("several/0.png", "several/1.png"))]
    alignment = [a_row(f"a{n}", id=f"alignment:{n}", part="alignment", reasoning="A rib.", answer="") for n in range(20)]
    return [
        write_part(folder / "text", [a_text_row(f"t{n}") for n in range(30)]),
        write_part(folder / "alignment", alignment),
        write_part(folder / "cot", cot),
    ]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return parts_of(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def made(parts: list[Path]) -> ReleaseSummary:
    return release(parts, parts[0].parent / "release", options=ReleaseOptions(ratios=RATIOS))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def loaded(path: Path, cache: Path, *names: str, **options: Any) -> Any:
    from datasets import load_dataset

    return load_dataset(str(path), *names, cache_dir=str(cache), **options)


@pytest.mark.slow
def test_datasets_loads_the_folder_with_images_and_splits(made: ReleaseSummary, tmp_path: Path) -> None:
    everything = loaded(made.path, tmp_path)
    assert {split: len(rows) for split, rows in everything.items()} == {
        split: sum(count for (_, s), count in made.rows.items() if s == split) for split in ("train", "validation", "test")
    }
    cot = loaded(made.path, tmp_path, "cot", split="train")
    assert len(cot) == made.rows["cot", "train"]
    row = next(row for row in cot if row["case_id"] != "several")
    assert isinstance(row["images"][0], Image.Image)
    assert row["images"][0].size == (64, 72)
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]


@pytest.mark.slow
def test_every_row_can_be_traced(made: ReleaseSummary, tmp_path: Path) -> None:
    row = loaded(made.path, tmp_path, "cot", split="train")[0]
    assert (row["provenance"]["run"], PROVENANCE.run) == ("one", "runs/one")  # folders above it may hold names
    assert row["provenance"]["calls"] == list(PROVENANCE.calls)
    assert row["provenance"]["prompts"] == [{"name": "author", "sha256": "cd" * 32}]
    assert row["provenance"]["models"] == [{"role": "author", "model": "rules"}, {"role": "reader", "model": "other"}]
    told = json.loads((made.path / "provenance.json").read_text())
    assert [part["directory"] for part in told["parts"]] == ["text", "alignment", "cot"]
    assert told["seed"] == 0


def test_groups_stay_on_one_side_and_rows_stand_from_easy_to_hard(made: ReleaseSummary, tmp_path: Path) -> None:
    sides: dict[str, set[str]] = {}
    count = 0
    for split, rows in loaded(made.path, tmp_path, "cot").items():
        kept = rows.remove_columns("images")
        count += len(kept)
        for row in kept:
            sides.setdefault(row["group"], set()).add(split)
        assert kept["difficulty"] == sorted(kept["difficulty"])
        assert kept["order"] == list(range(len(kept)))
    assert all(len(side) == 1 for side in sides.values())
    assert len(sides) == 21  # of 40 rows of 20 patients, and one more
    assert count == 41


def test_names_of_patients_and_files_do_not_leave(made: ReleaseSummary) -> None:
    names = {path.name for path in (made.path / "images").rglob("*.png")}
    assert len(names) == made.images == 62
    assert all(len(name) == 64 + 4 for name in names)
    told = json.loads((made.path / "check.json").read_text())
    assert "examples" not in told["checks"]["steps"]


@pytest.mark.slow
def test_what_stands_beside_an_images_pixels_does_not_leave(tmp_path: Path) -> None:
    part = write_part(tmp_path / "cot", [a_row("1", images=("1/0.jpg",)), a_row("2", images=("2/0.png",))], draw=False)
    exif, notes = Image.Exif(), PngInfo()
    exif[0x010E], exif[0x0112] = "SMITH JOHN", 6
    notes.add_text("Patient", "SMITH JOHN")
    for name, how in (("1/0.jpg", {"exif": exif}), ("2/0.png", {"pnginfo": notes})):
        (part / "images" / name).parent.mkdir(parents=True)
        picture(name).save(part / "images" / name, **how)
    out = release([part], tmp_path / "out", options=ReleaseOptions(ratios=(1.0, 0.0, 0.0))).path
    assert [path for path in out.rglob("*") if path.is_file() and b"SMITH" in path.read_bytes()] == []
    for path in (out / "images").rglob("*.*"):
        assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()
        name = "1/0.jpg" if path.suffix == ".jpg" else "2/0.png"
        before, after = opened(part / "images" / name), opened(path)
        assert before.tobytes() == after.tobytes()
        assert before.getexif().get(0x0112) == after.getexif().get(0x0112)


def meta_faults(meta: Any) -> Iterator[str]:
    """Faults of InternVL's ``meta.json``."""
    kinds = {"root": str, "annotation": str, "data_augment": bool, "repeat_time": int, "length": int, "max_dynamic_patch": int}
    for name, entry in meta.items():
        for key, kind in kinds.items():
            if not isinstance(entry.get(key), kind):
                yield f"{name}: {key} is not a {kind.__name__}"
        if not str(entry.get("annotation", "")).endswith(".jsonl"):
            yield f"{name}: its annotation is not a JSONL file"


def dataset_info_faults(info: Any) -> Iterator[str]:
    """Faults of LLaMA-Factory's ``dataset_info.json``."""
    wanted = {
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
    for name, entry in info.items():
        if not isinstance(entry.get("file_name"), str):
            yield f"{name}: no file_name"
        for key, value in wanted.items():
            given = entry.get(key)
            if given != value and not (isinstance(given, dict) and isinstance(value, dict) and value.items() <= given.items()):
                yield f"{name}: {key} is {given!r}"


def test_exports_are_what_their_trainers_read(made: ReleaseSummary) -> None:
    folder = made.path / "exports"
    assert {path.name for path in folder.iterdir()} == {"internvl", "llamafactory", "ms-swift", "trl"}
    for name in ("internvl", "llamafactory", "ms-swift", "trl"):
        faults = exports()[name].faults
        assert faults is not None
        for part in ("text", "alignment", "cot"):
            rows = lines(folder / name / f"{part}-train.jsonl")
            assert len(rows) == made.rows[part, "train"]
            assert [fault for row in rows for fault in faults(row)] == []
        assert not list((folder / name).glob("*test*"))
    meta = json.loads((folder / "internvl" / "meta.json").read_text())
    assert list(meta_faults(meta)) == []
    for entry in meta.values():
        rows = lines(made.path / entry["annotation"])
        assert entry["length"] == len(rows)
        for row in rows:
            for image in [row.get("image", [])] if isinstance(row.get("image"), str) else row.get("image", []):
                assert (made.path / entry["root"] / image).is_file()
    info = json.loads((folder / "llamafactory" / "dataset_info.json").read_text())
    assert list(dataset_info_faults(info)) == []
    for entry in info.values():
        for row in lines(folder / "llamafactory" / entry["file_name"]):
            assert all((folder / "llamafactory" / image).is_file() for image in row["images"])


@pytest.mark.slow
def test_the_documented_export_works_from_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = documented_module("Add an export").replace("pairs_faults)", "pairs_faults, lambda rows: {'files.json': sorted(rows)})")
    install_plugin(tmp_path / "site", monkeypatch, source, {GROUP: {"pairs": "outside:EXPORT"}})
    exports.cache_clear()
    try:
        part = write_part(tmp_path / "cot", [a_row("1")])
        out = release([part], tmp_path / "out", options=ReleaseOptions(ratios=(1.0, 0.0, 0.0))).path
    finally:
        exports.cache_clear()
    [row] = lines(out / "exports" / "pairs" / "cot-train.jsonl")
    assert row["completion"] == REASONING
    assert (out / row["images"][0]).is_file()
    assert json.loads((out / "exports" / "pairs" / "files.json").read_text()) == ["cot-train"]
    assert "`exports/pairs`: A trainer of pairs. Start it in this folder." in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("faults", "row"),
    [
        (internvl_faults, {"id": "1", "image": "a.png", "length": 3, "conversations": [{"from": "human", "value": "<image>"}]}),
        (internvl_faults, {"id": "1", "length": 3, "conversations": [{"from": "human", "value": "?"}, {"from": "user", "value": "!"}]}),
        (message_faults, {"messages": [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "!"}], "images": []}),
        (message_faults, {"messages": [], "images": "a.png"}),
        (trl_faults, {"messages": [{"role": "user", "content": [{"type": "image"}]}], "images": []}),
    ],
)
def test_rows_that_no_trainer_reads_are_told(faults: Any, row: dict[str, Any]) -> None:
    assert list(faults(row))


@pytest.mark.slow
def test_trl_takes_its_rows_with_every_image_in_its_place(made: ReleaseSummary, tmp_path: Path) -> None:
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    for name in ("cot", "text"):
        rows = loaded(Path("json"), tmp_path, data_files=str(made.path / "exports" / "trl" / f"{name}-train.jsonl"), split="train")
        for row in rows:
            assert is_conversational(row)
            messages = prepare_multimodal_messages(row["messages"], [opened(made.path / image) for image in row["images"]])
            shown = [block for turn in messages for block in turn["content"] if block["type"] == "image"]
            assert all(isinstance(block["image"], Image.Image) for block in shown)
            assert len(shown) == len(row["images"])


@pytest.mark.slow
def test_chiron_train_reads_the_rows_and_takes_two_steps(made: ReleaseSummary, tmp_path: Path) -> None:
    from chiron.training.recipe import Recipe, load_recipe
    from chiron.training.session import prepare, train
    from tests.training.tiny import tiny_model, tiny_tokenizer

    told = load_recipe(made.path / "recipe.yaml")
    assert [stage.data for stage in told.stages] == ["train/text.jsonl", "train/alignment.jsonl", "train/cot.jsonl"]
    tiny_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    values = told.model_dump()
    stages = [{**stage, "epochs": None, "steps": 1, "batch": {"rows": 2}} for stage in values["stages"][1:]]
    tiny = {"tile": 32, "max_tiles": 6, "thumbnail": True}
    changes = {"base": str(tmp_path / "base"), "images": tiny, "max_seq_length": 1024, "precision": "fp32", "gradient_checkpointing": False}
    trained = train(prepare(Recipe.model_validate({**values, **changes, "stages": stages}), made.path), tmp_path / "out")
    assert trained.model is not None
    assert (trained.model / "model.safetensors").is_file()


@pytest.mark.slow
def test_the_same_rows_give_the_same_release(parts: list[Path], made: ReleaseSummary, tmp_path: Path) -> None:
    again = release(parts, tmp_path / "again", options=ReleaseOptions(ratios=RATIOS))
    files = sorted(path.relative_to(made.path) for path in made.path.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again.path) for path in again.path.rglob("*") if path.is_file())
    assert all((made.path / file).read_bytes() == (again.path / file).read_bytes() for file in files)


@pytest.mark.slow
def test_rows_with_errors_stay_behind_and_limits_refuse(tmp_path: Path) -> None:
    rows = [a_row(str(n), reasoning=REASONING if n else "nothing") for n in range(10)]
    part = write_part(tmp_path / "cot", rows)
    with pytest.raises(InputError, match="steps"):
        release([part], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    limits = limits_of(["steps=0.2", "final_answer=0.2"])
    made = release([part], tmp_path / "out", options=ReleaseOptions(limits=limits, ratios=(1.0, 0.0, 0.0)))
    assert sum(made.rows.values()) == 9
    assert [line["id"] for line in lines(tmp_path / "out" / "left_out.jsonl")] == ["cot:0"]


@pytest.mark.slow
@pytest.mark.parametrize("difficulty", ["hard", float("inf")])
def test_a_difficulty_that_is_not_a_number_from_0_to_1_refuses_a_release(tmp_path: Path, difficulty: object) -> None:
    part = write_part(tmp_path / "cot", [a_row(str(n)) for n in range(10)])
    rows = lines(part / "rows.jsonl")
    rows[0]["difficulty"] = difficulty
    (part / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="values"):
        release([part], tmp_path / "out")
    made = release([part], tmp_path / "out", options=ReleaseOptions(limits=limits_of(["values=0.1"]), ratios=(1.0, 0.0, 0.0)))
    assert sum(made.rows.values()) == 9


def test_a_benchmarks_images_refuse_a_release(tmp_path: Path) -> None:
    part = write_part(tmp_path / "cot", [a_row(str(n)) for n in range(4)])
    with pytest.raises(InputError, match="overlap"):
        release([part], tmp_path / "out", benchmark_items=[BenchmarkItem("VQA", "1", "?", (part / "images/1/0.png",))])


@pytest.mark.slow
def test_a_cap_on_cells_leaves_rows_out(tmp_path: Path) -> None:
    part = write_part(tmp_path / "text", [a_text_row(str(n), modalities=("CT",) if n < 20 else ("MRI",)) for n in range(25)])
    made = release([part], tmp_path / "out", options=ReleaseOptions(ratios=(1.0, 0.0, 0.0), balance=6))
    assert made.rows == {("text", "train"): 11}
    assert made.left_out == {"over the cap of its cell": 14}


@pytest.mark.slow
def test_a_release_is_replaced_only_when_asked_and_nothing_else_ever(parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for replace in (False, True):
        with pytest.raises(InputError, match=r"out exists|was not written by this command"):
            release(parts, out, options=ReleaseOptions(replace=replace))
    assert (out / "thesis.tex").read_text() == "years of work"
    release(parts[:1], tmp_path / "mine")
    release(parts[:1], tmp_path / "mine", options=ReleaseOptions(replace=True, seed=4))
    assert json.loads((tmp_path / "mine" / "provenance.json").read_text())["seed"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"out", "mine", ".out.lock", ".mine.lock"}


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(parts[:1], tmp_path / "out")
    before = (tmp_path / "out" / "provenance.json").read_bytes()
    from chiron.mmrp.parquet import ParquetShards

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ParquetShards, "_flush", full)
    with pytest.raises(DiskError, match="No space left"):
        release(parts, tmp_path / "out", options=ReleaseOptions(replace=True, seed=9))
    assert (tmp_path / "out" / "provenance.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.lock"}


def test_two_processes_do_not_make_one_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", mark="m") as one:
        (one / "m").touch()
        with pytest.raises(InputError, match="another process"), new_folder(tmp_path / "out", mark="m"):
            pass
    assert (tmp_path / "out" / "m").is_file()


@pytest.mark.parametrize(("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o027, 0o750, 0o640)])
def test_a_release_may_be_read_by_whom_the_umask_lets(tmp_path: Path, umask: int, folder: int, file: int) -> None:
    before = os.umask(umask)
    try:
        with new_folder(tmp_path / "out", mark="m") as one:
            write_atomically(one / "card.md", ["x"])
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == folder
    assert (tmp_path / "out" / "card.md").stat().st_mode & 0o777 == file


def test_what_a_killed_process_left_is_put_right(tmp_path: Path) -> None:
    old = tmp_path / ".out.old"
    old.mkdir()
    (old / "m").write_text("old")
    (tmp_path / ".out.partial-dead").mkdir()
    with pytest.raises(InputError, match="exists"), new_folder(tmp_path / "out", mark="m"):
        pass
    assert (tmp_path / "out" / "m").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.lock"}


def test_an_image_that_changes_on_the_way_is_an_error(tmp_path: Path) -> None:
    part = write_part(tmp_path / "cot", [a_row("1")])

    def change(phase: str) -> None:
        if phase == "writing":
            draw_image(part / "images/1/0.png", "something else")

    with pytest.raises(InputError, match="changed while"):
        release([part], tmp_path / "out", watch=change)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_card_shows_the_whole_map_and_its_figure(tmp_path: Path) -> None:
    placed = {"modalities": (MODALITIES[0].name,), "body_system": BODY_SYSTEMS[3].name}
    part = write_part(tmp_path / "text", [a_text_row(str(n), **(placed if n else {"body_system": None})) for n in range(8)])
    made = release([part], tmp_path / "out", options=ReleaseOptions(ratios=(1.0, 0.0, 0.0)))
    card = (made.path / "README.md").read_text()
    heads = [line for line in card.splitlines() if all(f" {cell(system.name)} " in line for system in BODY_SYSTEMS)]
    assert len(heads) == 1
    assert all(f"\n| {cell(modality.name)} |" in card for modality in MODALITIES)
    assert "![The map](map.png)" in card
    with Image.open(made.path / "map.png") as figure:
        assert figure.width > 1000
    assert made.cells[MODALITIES[0].name, BODY_SYSTEMS[3].name] == 7


@pytest.mark.slow
def test_the_card_says_what_there_is_and_obeys_nobody(tmp_path: Path) -> None:
    hostile = "evil | x |\n# Heading <script> [link](http://x)"
    part = write_part(tmp_path / "text", [a_text_row(str(n), licence=hostile, body_system="a|b") for n in range(8)])
    release([part], tmp_path / "out", options=ReleaseOptions(modalities=("CT", "MRI"), body_systems=("chest",)))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "\n# Heading" not in card
    assert "<script>" not in card
    assert "| MRI |  |  |" in card
    assert cell("a|b") == "a\\|b"
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["pretty_name"], front["license"], front["size_categories"]) == ("MMRP", "other", ["n<1K"])
    assert [config["config_name"] for config in front["configs"]] == ["all", "text"]
