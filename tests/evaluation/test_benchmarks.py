"""Every loader on made-up records of the published schema, and on records that are not what they should be."""

import json
import random
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from chiron.cases.images import ImageFolder, ImageProblem
from chiron.errors import InputError
from chiron.evaluation.benchmarks.benchmark import BenchmarkRecord
from chiron.evaluation.benchmarks.image_source import ImageSource
from chiron.evaluation.benchmarks.loading import LoadedBenchmark, load
from chiron.evaluation.items import BadItem, Item
from chiron.evaluation.registry import benchmark_of, benchmarks, protocol_of
from tests.evaluation import published
from tests.mmrp.making import a_row, a_text_row, write_part
from tests.support.command import chiron


def loaded(name: str, data: Path) -> LoadedBenchmark:
    return load(benchmark_of(name), data, data.parent / "run")


def good(found: LoadedBenchmark) -> list[Item]:
    assert all(isinstance(item, Item) for item in found.items), found.items
    return [item for item in found.items if isinstance(item, Item)]


def problems(found: LoadedBenchmark) -> list[str]:
    return [item.problem for item in found.items if isinstance(item, BadItem)]


def test_vqa_rad_keeps_images_of_its_records_once(tmp_path: Path) -> None:
    found = loaded("vqa_rad", published.vqa_rad(tmp_path / "d"))
    items = good(found)
    assert [(item.kind, item.answer) for item in items[:4]] == [
        ("open", "left lung"),
        ("yes_no", "yes"),
        ("open", "left lung"),
        ("yes_no", "no"),
    ]
    assert items[0].images == items[1].images != items[2].images
    assert items[0].group == items[1].group
    assert found.check(items[0].images[0]).width == 24
    assert len(list(found.images.iterdir())) == 4
    assert "8 questions, the published ones 451" in found.notes[0]


def test_vqa_rad_272_takes_the_closed_ones(tmp_path: Path) -> None:
    rows = [
        {"image": published.image(), "input": "q1", "label": "No", "answer_type": "CLOSED"},
        {"image": published.image(), "input": "q2", "label": "axial", "answer_type": "CLOSED"},
        {"image": published.image(), "input": "q3", "label": "liver", "answer_type": "OPEN"},
    ]
    published.parquet(tmp_path / "d" / "VQA_RAD" / "test-00000.parquet", rows)
    assert [(i.question, i.kind, i.answer) for i in good(loaded("vqa_rad_272", tmp_path / "d"))] == [
        ("q1", "yes_no", "no"),
        ("q2", "open", "axial"),
    ]


def test_slake_is_english_and_its_images_come_out_of_the_zip(tmp_path: Path) -> None:
    found = loaded("slake", published.slake(tmp_path / "d"))
    items = good(found)
    assert [(i.id, i.kind, i.answer, i.labels["answer_type"]) for i in items] == [
        ("11934", "open", "CT", "OPEN"),
        ("11935", "yes_no", "yes", "CLOSED"),
        ("11936", "open", "Left", "CLOSED"),
    ]
    assert items[0].labels["body_system"] == "Lung"
    assert items[0].images == ("imgs/xmlab102/source.jpg",)
    assert found.check(items[0].images[0]).path.is_relative_to(found.images)
    assert [p.name for p in found.images.rglob("*") if p.is_file()] == ["source.jpg"]


def test_path_vqa_reads_what_datasets_saved_as_arrow(tmp_path: Path) -> None:
    import datasets

    rows = [{"image": published.image(n), "question": f"q{n}", "answer": a} for n, a in enumerate(["yes", "in the canals"])]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "d" / "test")
    (tmp_path / "d" / "test" / "data-00000-of-00001.arrow").rename(tmp_path / "d" / "test-00000.arrow")
    assert [(i.kind, i.answer) for i in good(loaded("path_vqa", tmp_path / "d"))] == [("yes_no", "yes"), ("open", "in the canals")]


def test_pmc_vqa_strips_letters_and_names_a_gold_outside_the_options(tmp_path: Path) -> None:
    found = loaded("pmc_vqa", published.pmc_vqa(tmp_path / "d"))
    first, second = found.items
    assert isinstance(first, Item)
    assert first.options == ("Diffuse uptake pattern", "Focal uptake pattern", "No uptake pattern", "Cannot determine")
    assert (first.gold, first.answer) == (1, "Focal uptake pattern")
    assert isinstance(second, BadItem)
    assert "'E', which is not one of its 4 options" in second.problem


def test_mmmu_orders_images_by_their_marks_and_never_runs_options(tmp_path: Path) -> None:
    rows = [
        published.mmmu_row("validation_Pharmacy_3"),
        published.mmmu_row("validation_Pharmacy_4", options="[]", answer="12", question_type="open", question="How much?"),
        published.mmmu_row("validation_Pharmacy_5", options="__import__('os').system('touch /tmp/ran')"),
        published.mmmu_row("validation_Pharmacy_6", question="Where is <image 5>?"),
        published.mmmu_row("validation_Art_1"),
    ]
    published.parquet(tmp_path / "d" / "Pharmacy" / "validation-00000-of-00001.parquet", rows)
    first, second, third, fourth = loaded("mmmu_health_validation", tmp_path / "d").items
    assert isinstance(first, Item)
    assert first.question == "Which of these follows <image>?"
    assert first.options == ("<image>", "b, c", "it's d")
    assert len(set(first.images)) == 2
    assert (first.answer, first.labels["subject"]) == ("b, c", "Pharmacy")
    assert isinstance(second, Item)
    assert (second.kind, second.answer, len(second.images)) == ("open", "12", 2)
    assert isinstance(third, BadItem)
    assert "not a list" in third.problem
    assert isinstance(fourth, BadItem)
    assert "image 5" in fourth.problem


def test_mmmu_test_needs_its_labels(tmp_path: Path) -> None:
    rows = [
        published.mmmu_row("test_Pharmacy_1", answer="?"),
        published.mmmu_row("test_Pharmacy_2", answer="?"),
        published.mmmu_row("test_Pharmacy_3", answer="?", options="[]", question_type="short-answer"),
    ]
    published.parquet(tmp_path / "d" / "Pharmacy" / "test-00000-of-00001.parquet", rows)
    with pytest.raises(InputError, match=r"answer_dict_test\.json"):
        loaded("mmmu_health_test", tmp_path / "d")
    labels = {
        "test_Pharmacy_1": {"question_type": "multiple-choice", "ground_truth": "C"},
        "test_Pharmacy_3": {"ground_truth": ["3", "three"]},
    }
    (tmp_path / "d" / "answer_dict_test.json").write_text(json.dumps(labels))
    first, second, third = loaded("mmmu_health_test", tmp_path / "d").items
    assert isinstance(first, Item)
    assert first.answer == "it's d"
    assert isinstance(second, BadItem)
    assert "'?'" in second.problem
    assert isinstance(third, Item)
    assert third.answer == "3 or three"


@pytest.mark.parametrize("record", [published.MEDXPERT, published.MEDXPERT_GITHUB], ids=["hub", "github"])
def test_medxpertqa_in_both_shapes(tmp_path: Path, record: dict[str, Any]) -> None:
    other = {**record, "id": "MM-1", "question_type": "Understanding"}
    published.jsonl(tmp_path / "d" / "MM" / "test.jsonl", [record, other])
    published.zipped(tmp_path / "d" / "images.zip", "images/MM-0-a.jpeg", "images/MM-0-b.jpeg")
    found = loaded("medxpertqa_reasoning", tmp_path / "d")
    (item,) = good(found)
    assert item.question == "What is next?"
    assert (item.options, item.gold) == (("one", "two", "three", "four", "five"), 4)
    assert item.images == ("images/MM-0-a.jpeg", "images/MM-0-b.jpeg")
    assert found.check(item.images[1]).width == 24
    assert [i.id for i in good(loaded("medxpertqa_understanding", tmp_path / "d"))] == ["MM-1"]


def test_the_bundle_by_its_parts_and_with_its_special_rows(tmp_path: Path) -> None:
    mmmu = {"dataset": "MMMU_Medical_Validation"}
    data = published.huatuo(
        tmp_path / "d",
        {"options": "['Yes', 'No']", "answer": "No", "dataset": "VQA-RAD_test"},
        {**mmmu, "options": [], "answer": "?"},
        {**mmmu, "options": ["a", "b"], "answer": "?"},
        {**mmmu, "options": ["a", "b"], "answer": "c"},
    )
    (omni,) = good(loaded("huatuo_omnimed", data))
    assert (omni.gold, omni.labels["modality"]) == (3, "MR (Mag-netic Resonance Imaging)")
    (rad,) = good(loaded("huatuo_vqa_rad", data))
    assert (rad.kind, rad.options, rad.gold, rad.answer) == ("yes_no", ("Yes", "No"), 1, "no")
    found = loaded("huatuo_mmmu", data)
    assert isinstance(found.items[0], Item)
    assert (found.items[0].kind, found.items[0].answer) == ("open", "")
    assert problems(found) == ["row 4: its answer is '?'", "row 5: its answer 'c' is not one of its 2 options"]


def test_medvlthinker(tmp_path: Path) -> None:
    row = {
        "images": [published.image()],
        "question": "q",
        "options": '{"A": "left", "B": "right"}',
        "answer_label": "B",
        "answer": "right",
        "reasoning": "",
        "hash": "h",
        "misc": '{"question_type": "Reasoning"}',
        "dataset_name": "vqa_rad_closed",
        "dataset_index": 7,
    }
    published.parquet(tmp_path / "d" / "data" / "test-00000.parquet", [row, {**row, "dataset_name": "pmc_vqa"}])
    (item,) = good(loaded("medvlthinker_vqa_rad", tmp_path / "d"))
    assert (item.id, item.answer, item.labels) == ("vqa_rad_closed-7", "right", {"question_type": "Reasoning"})


def test_mmrp_as_published(tmp_path: Path) -> None:
    names = [f"c/{n}.png" for n in range(33)]
    row = {
        "id": "1",
        "img_name": names,
        "question": " ".join(["Modality 1:", *["<image>"] * 33, "What is it?"]),
        "reasoning": "### Step 1: x",
        "answer": "**A fracture**",
        "answer_type": "OPEN",
    }
    published.jsonl(tmp_path / "p" / "mmrp_reasoning.jsonl", [row, {**row, "id": "2", "img_name": str(names[:2])}])
    published.zipped(tmp_path / "p" / "images.zip", *names)
    first, second = loaded("mmrp_reasoning", tmp_path / "p").items
    assert isinstance(first, Item)
    assert (first.answer, len(first.images)) == ("A fracture", 33)
    assert isinstance(second, BadItem)
    assert "has 33 image marks, but it has 2 images" in second.problem


@pytest.mark.slow
@pytest.mark.parametrize(("name", "part"), [("mmrp_text", "text"), ("mmrp_reasoning", "cot")])
def test_mmrp_as_built_is_the_test_split_of_the_release(tmp_path: Path, name: str, part: str) -> None:
    rows = [a_text_row(f"t{n}") if part == "text" else a_row(str(n)) for n in range(30)]
    build = write_part(tmp_path / "build" / part, rows)
    for folder in (build, build.parent):
        with pytest.raises(InputError, match=r"is not in .*'chiron build release'.*rows\.jsonl of a build is not accepted"):
            loaded(name, folder)
    made = chiron("build", "release", str(build), "--out", str(tmp_path / "release"), "--ratios", "0.6,0.2,0.2")
    assert made.returncode == 0, made.stderr
    command = ["eval", "--model", "offline:match/normalised", "--benchmarks", name, "--protocol", "exact", "--json"]
    asked = chiron(*command, "--data", str(tmp_path / "release"), "--run", str(tmp_path / "run"))
    assert asked.returncode == 0, asked.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "items.jsonl").read_text().splitlines()]
    trained = "".join(path.read_text() for path in (tmp_path / "release").rglob("*.jsonl") if "test" not in path.parts)
    assert (
        json.loads(asked.stdout)["groups"][0]["n"]
        == len(lines)
        == pq.read_metadata(*(tmp_path / "release").rglob("test-*.parquet")).num_rows
    )
    assert not [line["id"] for line in lines if f'"{line["id"]}"' in trained]
    assert {line["verdict"] for line in lines} <= {"right", "wrong", "unparsed"}
    assert all(line["group"] and len(line["images"]) == (part == "cot") for line in lines)


def test_the_miniature_in_words_and_as_a_choice_of_the_worlds_diagnoses(tmp_path: Path) -> None:
    for part in ("seen", "held-out"):
        case = {"id": f"new-{part}-0", "question": "What is it?", "answer": "Ostwen granuloma", "images": ["0.png"], "modality": "CT"}
        other = {**case, "id": f"new-{part}-1", "answer": "Influenza"}
        (tmp_path / f"new-{part}.jsonl").write_text(f"{json.dumps(case)}\n{json.dumps(other)}\n")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(published.png())
    spoken = loaded("miniature_held_out", tmp_path).items[0]
    assert isinstance(spoken, Item)
    assert (spoken.id, spoken.answer, spoken.options) == ("new-held-out-0", "Ostwen granuloma", ())
    found = loaded("miniature_choice", tmp_path)
    first, third = (item for item in found.items if isinstance(item, Item))
    assert (first.id, third.id) == ("new-held-out-0", "new-seen-0")
    assert first.options == third.options == tuple(sorted(first.options))
    assert len(first.options) == 9
    assert first.gold is not None
    assert first.options[first.gold] == "Ostwen granuloma"
    assert problems(found) == [
        "row 2: its answer 'Influenza' is not one of its 9 options",
        "row 4: its answer 'Influenza' is not one of its 9 options",
    ]


def test_another_benchmarks_folder_beside_is_not_read(tmp_path: Path) -> None:
    """PathVQA has the columns of VQA-RAD: whoever has only the one must not be given figures of it under the other's name."""
    published.parquet(tmp_path / "d" / "path_vqa" / "test-00000.parquet", [{"image": published.image(), "question": "q", "answer": "yes"}])
    assert len(good(loaded("path_vqa", tmp_path / "d"))) == 1
    with pytest.raises(InputError, match="vqa_rad is not in"):
        loaded("vqa_rad", tmp_path / "d")


def test_a_question_without_its_image_is_bad(tmp_path: Path) -> None:
    """Asked without, it would be another question, and its answer would count as if the model had seen something."""
    found = loaded("huatuo_omnimed", published.huatuo(tmp_path / "d", {"image": []}, {"image": None}))
    assert problems(found) == ["row 2: it has no image", "row 3: it has no image"]
    assert len(protocol_of("huatuo_closed").select(found.items)) == 3


def test_two_wrong_options_alike_leave_a_question_that_can_be_put(tmp_path: Path) -> None:
    head = "Figure_path,Question,Choice A,Choice B,Choice C,Choice D,Answer,Answer_label"
    lines = [f"a.jpg,q{n}, A:one , B:two , C:two , D:four ,x,{label}" for n, label in enumerate("ADBC")]
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "test_clean.csv").write_text("\n".join([head, *lines]))
    published.zipped(tmp_path / "d" / "images.zip", "images/a.jpg")
    found = loaded("pmc_vqa", tmp_path / "d")
    assert [item.gold for item in found.items if isinstance(item, Item)] == [0, 3]
    assert ["two of its options equal its answer" in problem for problem in problems(found)] == [True, True]


def test_wrong_columns_name_the_nearest(tmp_path: Path) -> None:
    published.jsonl(tmp_path / "d" / "test.jsonl", [{"img": "a.png", "questions": "q", "answer": "a"}])
    with pytest.raises(InputError, match=r"lacks the columns 'image'.*'question' \(did you mean 'questions'\?\)"):
        loaded("vqa_rad", tmp_path / "d")


def test_what_is_wrong_with_single_records_is_said_of_each(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"image": "a.png", "question": "q", "answer": "yes"},
        {"image": "a.png", "question": " ", "answer": "yes"},
        {"image": 7, "question": "q", "answer": "yes"},
        {"image": "a.png", "answer": "yes"},
        "not an object",
    ]
    path = published.jsonl(tmp_path / "d" / "test.jsonl", rows)
    path.write_text(path.read_text() + "{broken\n")
    (tmp_path / "d" / "a.png").write_bytes(published.png())
    found = loaded("vqa_rad", tmp_path / "d")
    assert len(found.items) == 6
    assert [p.split(":")[-1].strip().split(" (")[0] for p in problems(found)][:3] == [
        "'question' is ' ', but must be text",
        "'image' contains 7, which is not an image",
        "row 4 lacks 'question'",
    ]


def test_bad_records_of_other_benchmarks_are_not_in_n(tmp_path: Path) -> None:
    broken = {"image": ["images/a.png"], "question": "x", "options": ["a", "b"]}
    rows = [published.HUATUO, {**broken, "dataset": "PMC-VQA_test"}, {**broken, "dataset": "OmniMedVQA"}, {**broken, "answer": "a"}]
    data = published.huatuo(tmp_path / "d")
    (data / "medical_multimodel_evaluation_data.json").write_text(json.dumps(rows))
    found = loaded("huatuo_omnimed", data)
    assert len(found.items) == 2
    assert problems(found) == ["row 3 lacks 'answer'"]
    assert any("1 records do not name their benchmark (first: row 4)" in note for note in found.notes)


def test_bad_records_count_where_their_kind_does(tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question": "q", "answer": answer} for answer in ("yes", "a tumour", "")]
    rows += [{"image": "a.png", "question": "", "answer": answer} for answer in ("no", "a tumour")]
    rows += [{"image": "a.png", "question": "q", "answer": "", "answer_type": "CLOSED"}]
    published.jsonl(tmp_path / "d" / "test.jsonl", rows)
    (tmp_path / "d" / "a.png").write_bytes(published.png())
    items = loaded("vqa_rad", tmp_path / "d").items
    counted = protocol_of("huatuo_closed").select(items)
    assert [items.index(item) for item in counted] == [0, 3, 5]
    assert len(protocol_of("exact").select(items)) == 6


def test_hostile_options_and_marks_are_bad_items(tmp_path: Path) -> None:
    rows = [
        published.mmmu_row("validation_Pharmacy_1"),
        published.mmmu_row("validation_Pharmacy_2", options="{1: 'a', 'b': 'c', None: 'd'}", question="Which?", answer="B"),
        published.mmmu_row("validation_Pharmacy_3", question=f"Where is <image {'9' * 5000}>?"),
        published.mmmu_row("validation_Pharmacy_4", options="{('x', 1): [2], 3: {4}}", question="Which?"),
    ]
    published.parquet(tmp_path / "d" / "Pharmacy" / "validation-00000-of-00001.parquet", rows)
    items = loaded("mmmu_health_validation", tmp_path / "d").items
    assert [item.id for item in items] == [f"validation_Pharmacy_{n}" for n in range(1, 5)]
    assert isinstance(items[1], Item)
    assert items[1].options == ("a", "d", "c")


def test_whatever_a_loader_stumbles_over_is_that_records_fault(tmp_path: Path) -> None:
    def read(row: BenchmarkRecord) -> Item:
        if row.number == 2:
            raise TypeError("'<' not supported")
        return Item(row.name, "q", "a")

    odd = replace(benchmark_of("vqa_rad"), read=read, needs_image=False)
    published.jsonl(tmp_path / "d" / "test.jsonl", [{"image": None, "question": "q", "answer": "yes"}] * 3)
    found = load(odd, tmp_path / "d", tmp_path / "run")
    assert [isinstance(item, BadItem) for item in found.items] == [False, True, False]
    assert "cannot be read as a question (TypeError" in problems(found)[0]


def test_a_second_item_of_one_id_is_bad(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "test.json").write_text(json.dumps([published.SLAKE, published.SLAKE, published.SLAKE]))
    published.zipped(folder / "imgs.zip", "imgs/xmlab102/source.jpg")
    found = loaded("slake", folder)
    assert [item.id for item in found.items] == ["11934", "11934 (2)", "11934 (3)"]
    assert "is used twice" in problems(found)[0]


def test_what_is_not_downloaded_is_told_how_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"download test\.json with its imgs\.zip of the data set BoKelvin/SLAKE .* give --data DIR"):
        loaded("slake", tmp_path)
    published.slake(tmp_path / "d")
    (tmp_path / "d" / "imgs.zip").unlink()
    with pytest.raises(InputError, match="none of its images is in"):
        loaded("slake", tmp_path / "d")
    with pytest.raises(InputError, match=r"data folder .* does not exist"):
        loaded("slake", tmp_path / "nowhere")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with pytest.raises(InputError, match=r"could not be fetched from the hub .*: download"):
        load(benchmark_of("slake"), None, tmp_path / "run")


def test_the_hub_gives_only_the_files_that_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repo: str, **options: Any) -> str:
        asked.update(repo=repo, **options)
        return str(published.slake(tmp_path / "snapshots" / "abc123"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    found = load(benchmark_of("slake"), None, tmp_path / "run")
    assert (found.revision, len(found.items)) == ("abc123", 3)
    assert asked["repo"] == "BoKelvin/SLAKE"
    assert {"test.json", "imgs.zip"} <= set(asked["allow_patterns"])


def test_an_image_of_a_replaced_zip_is_unpacked_again(tmp_path: Path) -> None:
    folder = published.slake(tmp_path / "d")
    shades = []
    for shade in (0, 100):
        published.zipped(folder / "imgs.zip", "imgs/xmlab102/source.jpg", shade=shade)
        found = loaded("slake", folder)
        with Image.open(found.check(good(found)[0].images[0]).path) as image:
            shades.append(image.getpixel((0, 0)))
    assert shades == [0, 100]


def test_an_unpacked_image_that_cannot_be_read_is_unpacked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = published.slake(tmp_path / "d")
    published.zipped(folder / "imgs.zip", "imgs/xmlab102/source.jpg", shade=7)
    found = loaded("slake", folder)
    file = found.check(good(found)[0].images[0]).path
    read, refusals = Path.read_bytes, [file]

    def refused(path: Path) -> bytes:
        if path in refusals:
            refusals.remove(path)
            raise PermissionError(13, "Permission denied")
        return read(path)

    file.write_bytes(b"damaged")
    monkeypatch.setattr(Path, "read_bytes", refused)
    again = loaded("slake", folder)
    assert again.check(good(again)[0].images[0]).path == file
    assert read(file) != b"damaged"


def test_a_zip_cannot_write_outside_its_cache(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    bad = {**published.SLAKE, "img_name": "../../evil.png"}
    (folder / "test.json").write_text(json.dumps([bad, {**published.SLAKE, "qid": 2}]))
    with zipfile.ZipFile(folder / "imgs.zip", "w") as archive:
        archive.writestr("../../evil.png", published.png())
        archive.writestr("imgs/xmlab102/source.jpg", published.png())
    found = loaded("slake", folder)
    item = found.items[0]
    assert isinstance(item, Item)
    with pytest.raises(ImageProblem, match="outside its folder"):
        found.check(item.images[0])
    assert not list(tmp_path.rglob("evil.png"))


@pytest.mark.slow
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_damaged_member_of_a_zip_is_a_bad_image(method: int, data: st.DataObject) -> None:
    content = random.Random(0).randbytes(200) * 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(folder / "images.zip", "w", method) as archive:
            archive.writestr("images/a.png", content)
            info = archive.infolist()[0]
        raw = bytearray((folder / "images.zip").read_bytes())
        start = info.header_offset + 30 + len(info.filename)
        place = data.draw(st.integers(start, start + min(info.compress_size, 24) - 1))
        raw[place] ^= data.draw(st.integers(1, 255))
        (folder / "images.zip").write_bytes(raw)
        with pytest.raises(ImageProblem, match=r"download the zip again|no image|image 'images/a\.png'"):
            ImageSource(folder, [folder / "images.zip"], folder / "cache").check("images/a.png")


def test_the_fingerprint_is_of_the_questions(tmp_path: Path) -> None:
    one, two = published.huatuo(tmp_path / "a"), published.huatuo(tmp_path / "b")
    assert loaded("huatuo_omnimed", one).fingerprint == loaded("huatuo_omnimed", two).fingerprint
    record = {**published.HUATUO, "question": "other"}
    (two / "medical_multimodel_evaluation_data.json").write_text(json.dumps([record]))
    assert loaded("huatuo_omnimed", one).fingerprint != loaded("huatuo_omnimed", two).fingerprint


@pytest.mark.slow
def test_every_loader_is_a_small_file_with_what_a_person_needs() -> None:
    from chiron.evaluation.benchmarks import sets
    from chiron.evaluation.registry import protocols

    for path in Path(next(iter(sets.__path__))).glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60, path
    for benchmark in benchmarks().values():
        assert benchmark.protocol in protocols()
        assert benchmark.license
        assert benchmark.hub or benchmark.instructions


def test_the_fingerprint_of_a_bad_record_is_not_of_the_words_of_its_problem(tmp_path: Path) -> None:
    check = ImageFolder(tmp_path).check
    one, two, three = (
        LoadedBenchmark("b", (Item("1", "Which organ?", "heart"), bad), tmp_path, check).fingerprint
        for bad in (BadItem("2", "no answer", "open"), BadItem("2", "its answer is missing", "open"), BadItem("3", "no answer", "open"))
    )
    assert one == two != three


def test_the_fingerprint_of_questions_is_that_of_earlier_versions(tmp_path: Path) -> None:
    item = Item("1", "Which organ?", "heart", ("a.png",), labels={"modality": "CT"})
    found = LoadedBenchmark("b", (item,), tmp_path, ImageFolder(tmp_path).check).fingerprint
    assert found == "ac76b498c0a19ac83dfd05d1cd4080ab6c356adf4c0ec0b6acccbf2f8c4dcdd8"
