"""A release contains training signals next to the other parts: the same splits, checks, provenance and card."""

import json
from pathlib import Path
from typing import Any

import pytest

from chiron.mmrp.checking import check_rows
from chiron.mmrp.cot import build_cot
from chiron.mmrp.dataset_index import sources_of
from chiron.mmrp.exports.faults import dataset_info_faults, internvl_faults
from chiron.mmrp.release import release
from chiron.mmrp.release_types import ReleaseOptions, ReleaseSummary
from chiron.mmrp.row import Part
from chiron.mmrp.signals.exports import FORMS
from chiron.mmrp.signals.preferences import build_preferences
from chiron.mmrp.signals.reflections import build_reflections
from chiron.mmrp.signals.rewards import build_rewards
from chiron.mmrp.signals.rl import build_rl
from tests.mmrp.building import lines
from tests.mmrp.making import draw_image
from tests.mmrp.signals.searching import searched
from tests.support.cases import write_cases
from tests.support.endpoint import Endpoint
from tests.support.runs import config_of, team
from tests.support.simulation import chance, prompt_of

RATIOS = (0.5, 0.25, 0.25)
NAMES: tuple[Part, ...] = ("preferences", "rewards", "rl", "reflections")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("signals")
    cases = write_cases(folder, 12)
    for record in lines(cases):  # pictures that are not nearly alike
        draw_image(folder / "images" / record["images"][0], record["id"])
    run = searched(folder)
    build_cot([run], folder / "cot")
    build_preferences([run], folder / "preferences")
    build_rewards([run], folder / "rewards")
    build_rl([run], folder / "rl")
    with Endpoint(lambda body: f"Looking again, sign {chance(prompt_of(body))} speaks against it.") as endpoint:
        build_reflections([run], config_of(team(endpoint.base_url)), folder / "reflections")
    return [folder / name for name in ("cot", *NAMES)]


@pytest.fixture(scope="module")
def made(parts: list[Path]) -> ReleaseSummary:
    return release(parts, parts[0].parent / "release", wishes=ReleaseOptions(ratios=RATIOS))


def loaded(path: Path, cache: Path, *names: str, **options: Any) -> Any:
    from datasets import load_dataset

    return load_dataset(str(path), *names, cache_dir=str(cache), **options)


def test_rows_of_one_tree_are_not_each_others_duplicates(parts: list[Path]) -> None:
    with check_rows(sources_of(parts)) as (index, report):
        assert report.passed == []
        assert report.faulty == {}
        assert len(report.tallies["near_duplicates"].rows) == 0
        assert len(index.entries) == sum(len(lines(part / "rows.jsonl")) for part in parts)


def test_every_row_of_a_case_is_in_one_split(made: ReleaseSummary) -> None:
    sides: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        for name in ("cot", *NAMES):
            path = made.path / split / f"{name}.jsonl"
            for row in lines(path) if path.exists() else []:
                sides.setdefault(row["id"].split(":")[1], set()).add(split)
    assert len(sides) == 12
    assert all(len(side) == 1 for side in sides.values())
    assert {split for side in sides.values() for split in side} == {"train", "validation", "test"}


def test_datasets_loads_each_signal_with_its_columns_and_the_other_parts_together(made: ReleaseSummary, tmp_path: Path) -> None:
    pairs = loaded(made.path, tmp_path, "preferences", split="train")
    assert pairs[0]["signal"]["rejected"]
    assert pairs[0]["signal"]["chosen_score"] == 1.0
    steps = loaded(made.path, tmp_path, "rewards", split="train")
    assert all(len(row["signal"]["units"]) == len(row["signal"]["scores"]) for row in steps.remove_columns("images"))
    assert loaded(made.path, tmp_path, "rl", split="train")[0]["signal"]["pass_rate"] == pytest.approx(1 / 3)
    assert loaded(made.path, tmp_path, "reflections", split="train")[0]["signal"]["reason"].startswith("Looking again")
    together = loaded(made.path, tmp_path)
    assert set(together["train"].unique("part")) == {"cot"}


def test_exports_are_what_the_trainers_of_signals_read(made: ReleaseSummary) -> None:
    exports = made.path / "exports"
    for part in NAMES:
        for form in FORMS.get(part, ()):
            rows = lines(exports / form.trainer / f"{part}-train.jsonl")
            assert len(rows) == made.rows[part, "train"]
            assert [fault for row in rows for fault in form.faults(row)] == []
            root = exports / "llamafactory" if form.trainer == "llamafactory" else made.path
            if form.trainer == "internvl":
                root = made.path / "images"
            for row in rows:
                images = [row["image"]] if isinstance(row.get("image"), str) else row.get("images", [])
                assert images
                assert all((root / image).is_file() for image in images)
        assert not list(exports.glob(f"*/{part}-test.jsonl"))
    for trainer in ("internvl", "llamafactory", "ms-swift", "trl"):
        assert len(lines(exports / trainer / "reflections-train.jsonl")) == made.rows["reflections", "train"]
    info = json.loads((exports / "llamafactory" / "dataset_info.json").read_text())
    assert info["mmrp-preferences-train"]["ranking"] is True
    assert list(dataset_info_faults({name: entry for name, entry in info.items() if "cot" in name})) == []
    meta = json.loads((exports / "internvl" / "meta.json").read_text())
    assert set(meta) == {"mmrp-cot-train", "mmrp-reflections-train"}
    apart = json.loads((exports / "internvl" / "meta_rewards.json").read_text())
    assert {name: entry["length"] for name, entry in apart.items()} == {"mmrp-rewards-train": made.rows["rewards", "train"]}


def test_internvl_is_asked_for_a_plus_or_minus_after_each_step(made: ReleaseSummary) -> None:
    rows = lines(made.path / "exports" / "internvl" / "rewards-train.jsonl")
    assert [fault for row in rows for fault in internvl_faults(row)] == []
    row = max(rows, key=lambda row: len(row["conversations"]))
    turns = row["conversations"]
    assert turns[0]["value"].startswith("### Question:\n")
    assert "\n\n### Solution Process:\n### Step 1: " in turns[0]["value"]
    assert [turn["value"] for turn in turns if turn["from"] == "gpt"] == ["+" if score > 0.5 else "-" for score in row["scores"]]


def test_the_card_names_signals_and_the_recipe_leaves_them_out(made: ReleaseSummary) -> None:
    card = (made.path / "README.md").read_text()
    assert "| preferences |" in card
    assert "Training signals from the whole search trees" in card
    assert "preferences" not in (made.path / "recipe.yaml").read_text()
    told = json.loads((made.path / "provenance.json").read_text())
    assert [part["directory"] for part in told["parts"]] == ["cot", *NAMES]


def test_a_release_of_signals_alone_can_be_loaded(parts: list[Path], tmp_path: Path) -> None:
    out = release(parts[1:], tmp_path / "out", wishes=ReleaseOptions(ratios=(1.0, 0.0, 0.0))).path
    assert len(loaded(out, tmp_path / "cache", "rl", split="train")) == 12
