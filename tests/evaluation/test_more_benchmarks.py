"""Benchmarks whose schema is that of other harnesses' readers, on made-up records."""

import json
from pathlib import Path
from typing import Any

import pytest

from chiron.evaluation.benchmarks.loading import LoadedBenchmark
from chiron.evaluation.items import Item
from chiron.evaluation.registry import protocol_of
from tests.evaluation import published
from tests.evaluation.test_benchmarks import good, loaded, problems


def verdict(item: Item, reply: str, protocol: str = "huatuo_closed") -> bool | None:
    chosen = protocol_of(protocol)
    return chosen.read(chosen.shown(item), reply, None).right


def in_one_file(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    published.jsonl(folder / name, list(rows))
    return folder


@pytest.fixture
def chinese(tmp_path: Path) -> LoadedBenchmark:
    published.slake(tmp_path / "d")
    zh = {**published.SLAKE, "q_lang": "zh", "question": "\u56fe\u4e2d\u6709\u809d\u810f\u5417\uff1f", "answer_type": "CLOSED"}
    answers = ["\u662f\u7684", "\u4e0d\u662f", "\u6ca1\u6709", "\u65e0", "\u5305\u542b", "\u5de6\u80ba", "CT"]
    rows = [published.SLAKE, *({**zh, "qid": n, "answer": answer} for n, answer in enumerate(answers))]
    (tmp_path / "d" / "test.json").write_text(json.dumps([*rows, {**zh, "qid": 99, "answer": "\u662f", "answer_type": "OPEN"}]))
    return loaded("slake_zh", tmp_path / "d")


def test_slake_in_chinese_has_choices_where_the_answer_is_a_yes_or_a_no(chinese: LoadedBenchmark) -> None:
    items = good(chinese)
    assert [item.gold for item in items] == [0, 1, 1, 1, 0, None, None, None]
    assert len(items) == 8
    assert verdict(items[2], "B")
    assert verdict(items[2], "\u6ca1\u6709")
    assert not verdict(items[2], "\u6709")
    assert verdict(items[4], "\u7b54\u6848\uff1a\u5305\u542b")
    assert not verdict(items[4], "\u7b54\u6848\uff1a\u4e0d\u5305\u542b")
    assert verdict(items[5], "\u5de6\u80ba\u3002")


def test_the_options_of_a_chinese_question_do_not_reveal_its_answer(chinese: LoadedBenchmark) -> None:
    yes, no, *_ = good(chinese)
    assert yes.options == no.options


def test_omnimedvqa_is_all_its_files_and_has_two_to_four_options(tmp_path: Path) -> None:
    two = {key: value for key, value in published.OMNIMED.items() if key not in {"option_C", "option_D", "modality_type"}}
    folder = tmp_path / "d" / "QA_information" / "Open-access"
    folder.mkdir(parents=True)
    (folder / "ACRIMA.json").write_text(json.dumps([published.OMNIMED]))
    (folder / "Chest CT Scan.json").write_text(
        json.dumps([{**two, "question_id": "Chest_0", "gt_answer": "CT scan", "modality": "CT(Computed Tomography)"}])
    )
    image = tmp_path / "d" / published.OMNIMED["image_path"]
    image.parent.mkdir(parents=True)
    image.write_bytes(published.png())
    found = loaded("omnimedvqa", tmp_path / "d")
    first, second = good(found)
    assert (first.id, first.answer, first.gold, len(first.options)) == ("ACRIMA_0000", "Fundus imaging", 3, 4)
    assert (first.labels["modality"], second.labels["modality"]) == ("Fundus Photography", "CT(Computed Tomography)")
    assert (second.options, second.gold) == (("PET scan", "CT scan"), 1)
    assert found.check(first.images[0]).width == 24


def test_medxpertqa_text_has_ten_options_and_no_image(tmp_path: Path) -> None:
    mm = {**published.MEDXPERT, "id": "MM-7"}
    published.jsonl(tmp_path / "d" / "MM" / "test.jsonl", [mm])
    (item,) = good(loaded("medxpertqa_text", in_one_file(tmp_path / "d", "Text/test.jsonl", published.MEDXPERT_TEXT)))
    assert (item.id, item.question, item.answer, len(item.options), item.images) == ("Text-0", "What is next?", "j", 10, ())


def test_medframeqa_has_its_frames_in_order_and_groups_those_of_a_video(tmp_path: Path) -> None:
    rows = [published.MEDFRAMEQA, {**published.MEDFRAMEQA, "question_id": "2", "image_4": published.image(4), "correct_answer": "A"}]
    published.parquet(tmp_path / "d" / "data" / "test-00000-of-00001.parquet", rows)
    found = loaded("medframeqa", tmp_path / "d")
    first, second = good(found)
    assert (first.answer, len(first.images), len(set(first.images)), len(second.images)) == ("a stone", 3, 3, 4)
    assert second.images[:3] == first.images
    assert first.group == second.group == "abc"
    assert (first.labels["modality"], first.labels["body_system"]) == ("CT", "digestive system")
    assert found.check(first.images[2]).width == 24


def test_pathmmu_is_its_sources_test_splits_and_keeps_brackets_in_options(tmp_path: Path) -> None:
    other = {**published.PATHMMU, "answer": "D", "No": 2}
    data = {
        "PubMed": {"test": [published.PATHMMU], "test_tiny": [other], "val": [published.PATHMMU]},
        "Atlas": {"test": [published.PATHMMU], "test_tiny": [], "val": []},
    }
    (tmp_path / "d" / "images").mkdir(parents=True)
    (tmp_path / "d" / "data.json").write_text(json.dumps(data))
    (tmp_path / "d" / "images" / "9e48.jpg").write_bytes(published.png())
    first, second, third = good(loaded("pathmmu", tmp_path / "d"))
    assert [item.id for item in (first, second, third)] == ["PubMed-test-1", "PubMed-test_tiny-2", "Atlas-test-1"]
    assert (first.gold, first.answer) == (0, "Bi-lobed nuclei (eosinophils) in a row")
    assert second.answer == "Multi-lobed nuclei"
    assert third.labels == {"source": "Atlas"}
    assert [item.id for item in good(loaded("pathmmu_tiny", tmp_path / "d"))] == ["PubMed-test_tiny-2"]


def test_vqa_med_accepts_each_of_several_answers_and_one_without_its_optional_part(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "VQAMed2019_Test_Questions_w_Ref_Answers.txt").write_text(published.VQA_MED)
    published.zipped(tmp_path / "d" / "VQAMed2019_Test_Images.zip", *(f"VQAMed2019_Test_Images/synpic{n}.jpg" for n in range(1, 5)))
    found = loaded("vqa_med_2019", tmp_path / "d")
    first, second, third, fourth = (item for item in found.items if isinstance(item, Item))
    assert problems(found) == ["row 5: it does not have the four fields image|category|question|answer"]
    assert (first.kind, second.kind, second.answer, first.labels) == ("open", "yes_no", "no", {"question_type": "modality"})
    assert found.check(first.images[0]).width == 24
    assert third.answer == "angioinvasive aspergillosis with septic cerebral emboli"
    assert fourth.answer == "gastrointestinal or genitourinary"
    for reply in ("septic cerebral emboli", third.answer):
        assert verdict(third, f"### The final answer is: {reply}", "exact")
    for reply, right in (("Genitourinary.", True), ("gastrointestinal", True), ("breast", False)):
        assert verdict(fourth, f"### The final answer is: {reply}", "exact") is right


@pytest.mark.parametrize(
    ("questions", "images"),
    [
        ("", "VQAMed2019_Test_Images"),
        ("", "VQAMed2019_Test_Images/VQAMed2019_Test_Images"),
        ("VQAMed2019Test", "VQAMed2019Test/VQAMed2019_Test_Images"),
    ],
)
def test_the_images_of_vqa_med_may_be_unpacked(tmp_path: Path, questions: str, images: str) -> None:
    (tmp_path / "d" / images).mkdir(parents=True)
    (tmp_path / "d" / questions / "VQAMed2019_Test_Questions_w_Ref_Answers.txt").write_text(published.VQA_MED.splitlines()[0])
    (tmp_path / "d" / images / "synpic1.jpg").write_bytes(published.png())
    found = loaded("vqa_med_2019", tmp_path / "d")
    assert found.check(good(found)[0].images[0]).width == 24


def test_medqa_and_medmcqa(tmp_path: Path) -> None:
    (medqa,) = good(loaded("medqa", in_one_file(tmp_path / "a", "phrases_no_exclude_test.jsonl", published.MEDQA)))
    assert (medqa.gold, medqa.answer, medqa.labels) == (1, "Tell the attending", {"exam": "step1"})
    published.parquet(
        tmp_path / "b" / "data" / "validation-00000-of-00001.parquet", [published.MEDMCQA, {**published.MEDMCQA, "id": "2", "cop": -1}]
    )
    published.parquet(tmp_path / "b" / "data" / "test-00000-of-00001.parquet", [{**published.MEDMCQA, "cop": -1}])
    found = loaded("medmcqa", tmp_path / "b")
    assert isinstance(found.items[0], Item)
    assert (found.items[0].gold, found.items[0].answer, found.items[0].labels["subject"]) == (3, "All of the above", "Anatomy")
    assert problems(found) == ["row 2: its answer is -1, which is not the position of one of its 4 options"]


def test_pubmedqa_shows_the_abstract_and_knows_maybe(tmp_path: Path) -> None:
    published.parquet(tmp_path / "d" / "data" / "test-00000-of-00001.parquet", [published.PUBMEDQA])
    (item,) = good(loaded("pubmedqa", tmp_path / "d"))
    assert item.question == "Context: Statins are common.\nWe asked 100 people.\nDo statins help?"
    assert (item.options, item.answer, item.kind) == (("yes", "no", "maybe"), "maybe", "choice")
    assert verdict(item, "The answer is maybe.")
    assert not verdict(item, "The answer is no.")


@pytest.mark.parametrize("layout", ["by subject", "all in one"])
def test_mmlu_is_its_medical_subjects(tmp_path: Path, layout: str) -> None:
    rows = [published.MMLU, {**published.MMLU, "subject": "college_medicine", "answer": 0}, {**published.MMLU, "subject": "astronomy"}]
    for row in rows if layout == "by subject" else ():
        published.parquet(tmp_path / "d" / row["subject"] / "test-00000-of-00001.parquet", [row])
    if layout == "all in one":
        published.parquet(tmp_path / "d" / "all" / "test-00000-of-00001.parquet", rows)
    first, second = good(loaded("mmlu_medical", tmp_path / "d"))
    assert (first.question, first.answer, second.answer, second.labels["subject"]) == ("Which bone?", "ulna", "femur", "college_medicine")
