"""A release contains training signals next to the other parts: the same splits, checks, provenance and card."""

import json
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import InputError
from chiron.mmrp.checking import check_rows
from chiron.mmrp.cot import build_cot
from chiron.mmrp.dataset_index import sources_of
from chiron.mmrp.exports.export import exports
from chiron.mmrp.exports.internvl import internvl_faults
from chiron.mmrp.release import ReleaseOptions, ReleaseSummary, release
from chiron.mmrp.row import Part
from chiron.mmrp.signals.preferences import build_preferences
from chiron.mmrp.signals.reflections import build_reflections
from chiron.mmrp.signals.rewards import build_rewards
from chiron.mmrp.signals.rl import build_rl
from chiron.training.metrics import read_metrics
from chiron.training.recipe import Recipe
from chiron.training.rows import read_prompts
from chiron.training.rows import read_rows as read_training_rows
from tests.mmrp.building import lines
from tests.mmrp.making import draw_image
from tests.mmrp.signals.searching import searched
from tests.reviews.writing import review
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
    review(run, 0)
    build_cot([run], folder / "cot")
    build_preferences([run], folder / "preferences")
    build_rewards([run], folder / "rewards")
    build_rl([run], folder / "rl")
    with Endpoint(lambda body: f"Looking again, sign {chance(prompt_of(body))} speaks against it.") as endpoint:
        build_reflections([run], config_of(team(endpoint.base_url)), folder / "reflections")
    return [folder / name for name in ("cot", *NAMES)]


@pytest.fixture(scope="module")
def made(parts: list[Path]) -> ReleaseSummary:
    return release(parts, parts[0].parent / "release", options=ReleaseOptions(ratios=RATIOS))


def loaded(path: Path, cache: Path, *names: str, **options: Any) -> Any:
    from datasets import load_dataset

    return load_dataset(str(path), *names, cache_dir=str(cache), **options)


def test_verdicts_of_reviewers_are_in_the_release(made: ReleaseSummary, parts: list[Path], tmp_path: Path) -> None:
    case_id = lines(parts[0].parent / "run" / "paths.jsonl")[0]["case_id"]
    paths, steps = ([row for split in loaded(made.path, tmp_path, name).values() for row in split] for name in ("cot", "rewards"))
    assert [row["case_id"] for row in paths if row["provenance"]["review"]] == [case_id]
    labeled = [row for row in steps if row["signal"]["human_labels"]]
    assert {row["case_id"] for row in labeled} == {case_id}
    assert all(set(row["signal"]["human_labels"]) <= {"accept", None} for row in labeled)
    assert "Reviewers read 1 of its chains of thought" in (made.path / "README.md").read_text()


def test_rows_of_one_tree_are_not_each_others_duplicates(parts: list[Path]) -> None:
    with check_rows(sources_of(parts)) as (index, report):
        assert report.exceeded == []
        assert report.faulty == {}
        assert len(report.counts["near_duplicates"].rows) == 0
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
    folder = made.path / "exports"
    assert {path.name for path in folder.iterdir()} == {"internvl", "llamafactory", "ms-swift", "trl", "verl"}
    for trainer, export in exports().items():
        for part, form in export.signals.items():
            rows = lines(folder / trainer / f"{part}-train.jsonl")
            assert len(rows) == made.rows[part, "train"]
            assert [fault for row in rows for fault in form.faults(row)] == []
            root = folder / "llamafactory" if trainer == "llamafactory" else made.path
            if trainer == "internvl":
                root = made.path / "images"
            for row in rows:
                images = [row["image"]] if isinstance(row.get("image"), str) else row.get("images", [])
                assert images
                assert all((root / image).is_file() for image in images)
    for part in NAMES:
        assert not list(folder.glob(f"*/{part}-test.jsonl"))
    for trainer in ("internvl", "llamafactory", "ms-swift", "trl"):
        assert len(lines(folder / trainer / "reflections-train.jsonl")) == made.rows["reflections", "train"]
    info = json.loads((folder / "llamafactory" / "dataset_info.json").read_text())
    assert info["mmrp-preferences-train"]["ranking"] is True
    assert set(info) == {f"mmrp-{part}-{s}" for part, s in made.rows if part in {"cot", "preferences", "reflections"} and s != "test"}
    meta = json.loads((folder / "internvl" / "meta.json").read_text())
    assert set(meta) == {"mmrp-cot-train", "mmrp-reflections-train"}
    apart = json.loads((folder / "internvl" / "meta_rewards.json").read_text())
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
    record = json.loads((made.path / "provenance.json").read_text())
    assert [part["directory"] for part in record["parts"]] == ["cot", *NAMES]


def test_a_release_of_signals_alone_can_be_loaded(parts: list[Path], tmp_path: Path) -> None:
    out = release(parts[1:], tmp_path / "out", options=ReleaseOptions(ratios=(1.0, 0.0, 0.0))).path
    assert len(loaded(out, tmp_path / "cache", "rl", split="train")) == 12


def test_chiron_train_does_not_learn_the_bad_steps_of_rewards(made: ReleaseSummary) -> None:
    path = made.path / "train" / "rewards.jsonl"
    assert all(row["units"] and row["prompt"][-1]["role"] == "user" for row in lines(path))
    with pytest.raises(InputError, match="its 'messages' is not a list of turns"):
        read_training_rows(path)
    assert len(read_prompts(path)) == made.rows["rewards", "train"]


def test_chiron_train_reads_the_pairs_of_a_release_and_takes_a_step(made: ReleaseSummary, tmp_path: Path) -> None:
    pairs = read_training_rows(made.path / "train" / "preferences.jsonl", preferences=True)
    assert len(pairs) == made.rows["preferences", "train"]
    exported = {row["prompt"][-1]["content"][-1]["text"] for row in lines(made.path / "exports" / "trl" / "preferences-train.jsonl")}
    for pair in pairs:
        assert pair.images
        assert pair.turns[: pair.prompt_turns] == pair.rejected[: pair.prompt_turns]
        assert pair.turns[pair.prompt_turns - 1].text.rpartition("<image>")[2] in exported
        assert "mentor-a" in pair.turns[-1].text
        assert "mentor-a" not in pair.rejected[-1].text

    from chiron.training.session import prepare, train
    from tests.training.tiny import tiny_model, tiny_tokenizer

    tiny_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    stage = {"name": "dpo", "data": "train/preferences.jsonl", "objective": "dpo", "steps": 2, "batch": {"rows": 2}, "learning_rate": 5e-2}
    values = {
        "name": "tiny", "base": str(tmp_path / "base"), "adapter": {"rank": 4, "alpha": 8, "dropout": 0.0}, "images": {"tile": 32},
        "max_seq_length": 8000, "precision": "fp32", "stages": [stage],
    }  # fmt: skip
    train(prepare(Recipe.model_validate(values), made.path), tmp_path / "out")
    first, second = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert first["loss"] == pytest.approx(0.6931, abs=1e-3)  # ln 2: the model is still its own reference
    assert second["loss"] != pytest.approx(first["loss"], abs=1e-4)
