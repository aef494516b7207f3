"""Findings stay with the images in which they can be seen, and nowhere else."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.conversation.reasoning import parse_reasoning
from chiron.errors import InputError
from chiron.mics.prompts import load_prompts
from chiron.mmrp.alignment import LONGEST, build_alignment, place_findings
from chiron.mmrp.caption_filter import LONGEST_SENTENCE, images_named, is_measurement, renumbered, sentences, trim, without_lead
from chiron.mmrp.checking import check_rows
from chiron.mmrp.dataset_index import sources_of
from chiron.mmrp.templates import InternTemplate, groups_of
from chiron.phantom.sample import write_sample
from chiron.training.rows import read_rows
from tests.mmrp.building import lines
from tests.support.cases import a_case

TWO = ("c1/ct_group1/0.png", "c1/ct_group1/1.png", "c1/mri_group2/0.png")


def build(folder: Path, *cases: dict[str, Any], **how: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    build_alignment(path, folder / "out", **how)
    return lines(folder / "out" / "rows.jsonl"), lines(folder / "out" / "dropped.jsonl")


def said(row: dict[str, Any]) -> str:
    return str(row["messages"][-1]["content"])


@pytest.mark.parametrize(
    ("sentence", "rest", "reasons"),
    [
        ("A nodule is seen.", "A nodule is seen.", []),
        ("A nodule, unchanged since 2019.", "A nodule.", ["trimmed: earlier study"]),
        ("Compared with the prior CT, there is an effusion.", "There is an effusion.", ["trimmed: earlier study"]),
        ("Compared with the prior study, the mass has grown.", "", ["earlier study"]),
        ("The effusion has increased.", "", ["earlier study"]),
        ("No interval change.", "", ["earlier study"]),
        ("The (left) kidney is unchanged.", "", ["earlier study"]),
        ("Stable fracture of L1.", "Stable fracture of L1.", []),
        ("The patient is in comparable condition.", "The patient is in comparable condition.", []),
        ("Measures 5.4 x 2.9 cm.", "", ["measurement alone"]),
        ("A mass, measuring 5.4 x 2.9 cm, suggesting a lipoma.", "A mass, suggesting a lipoma.", ["trimmed: measurement alone"]),
        ("A mass (about 3 cm) in the liver.", "A mass in the liver.", ["trimmed: measurement alone"]),
        ("A stenosis (50-69%) of the LAD.", "A stenosis (50-69%) of the LAD.", []),
        ("A 3 cm mass.", "A 3 cm mass.", []),
        ("According to image 4, a fracture.", "", ["image not there"]),
        ("A mass (series 3, image 40) is seen.", "A mass is seen.", ["trimmed: image not there"]),
        ("Images 2 to 5 show a cyst.", "", ["image not there"]),
        ("A cyst in images 1 and 3.", "A cyst in images 1 and 3.", []),
        ("Ultrasound shows a cyst.", "", ["no image of that modality"]),
        ("CT shows a cyst, confirmed by ultrasound.", "CT shows a cyst.", ["trimmed: no image of that modality"]),
        ("CARDIAC MORPHOLOGY:", "", ["heading alone"]),
        ("x" * (LONGEST_SENTENCE + 1), "", ["sentence too long"]),
    ],
)
def test_a_sentence_is_kept_trimmed_or_left_out(sentence: str, rest: str, reasons: list[str]) -> None:
    found, left_out = trim(sentence, images=3, modalities={"CT", "MRI"})
    assert found == rest
    assert [f"trimmed: {item.why}" if item.trimmed else str(item.why) for item in left_out] == reasons


PIECES = (
    "a mass", "image 1", "image 9", "images 2 to 4", "unchanged", "compared with the prior study", "measuring 3 cm", "12 x 9 mm", "(", ")",
    ", ", "; ", ". ", "the liver is normal", "MRI shows", "CT", "(series 3, image 40)", "[", "]", "\n", "According to image 2, ", ":",
)  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join) | st.text(max_size=200)


@pytest.mark.slow
@given(texts, st.integers(1, 5), st.sets(st.sampled_from(["CT", "MRI", "X-ray"])))
def test_what_is_kept_has_no_fault_left_and_nothing_new(text: str, images: int, modalities: set[str]) -> None:
    for sentence in sentences(text):
        kept, left_out = trim(sentence, images=images, modalities=modalities)
        if not kept:
            assert left_out
            continue
        assert all(1 <= n <= images for n in images_named(kept))
        assert not is_measurement(kept)
        assert trim(kept, images=images, modalities=modalities) == (kept, [])
        words = {w.strip(".,;:()[]!?").lower() for w in kept.split()}
        assert words <= {w.strip(".,;:()[]!?").lower() for w in sentence.split()}


@pytest.mark.slow
@given(texts, texts, st.permutations(range(3)))
def test_every_sentence_is_in_a_row_or_left_out_with_a_reason(first: str, second: str, order: list[int]) -> None:
    case = a_case(findings=(first, second), images=tuple(TWO[i] for i in order))
    groups = groups_of(case)
    kept, left_out = place_findings(case, groups)
    told = [s for finding in case.findings for s in sentences(finding)]
    assert len(told) <= sum(map(len, kept.values())) + len(left_out)
    for place, found in kept.items():
        shown = sum(len(groups[i].numbers) for i in place)
        assert all(1 <= n <= shown for sentence in found for n in images_named(sentence))


@given(st.lists(st.integers(1, 99), min_size=1, max_size=6, unique=True))
def test_images_get_the_numbers_of_their_row(numbers: list[int]) -> None:
    text = "A cyst in " + " and ".join(f"image {n}" for n in numbers)
    assert images_named(renumbered(text, tuple(numbers))) == tuple(range(1, len(numbers) + 1))


def test_a_lead_goes_where_it_says_nothing() -> None:
    assert without_lead("According to image 1 and image 2, no fracture.") == "No fracture."
    assert without_lead("According to image 1, image 2 shows it.") != ""
    assert without_lead("According to the history, no fracture.") == "According to the history, no fracture."


def test_findings_go_to_the_group_whose_images_they_name(tmp_path: Path) -> None:
    findings = ["According to image 1 and image 2, a bony protrusion. It is pedunculated.", "According to image 3, a cartilage cap."]
    rows, dropped = build(tmp_path, a_case(images=TWO, findings=tuple(findings)).to_record())
    assert dropped == []
    assert [(r["id"], r["images"], said(r), r["modalities"]) for r in rows] == [
        ("alignment:c1:1", list(TWO[:2]), "A bony protrusion. It is pedunculated.", ["CT"]),
        ("alignment:c1:2", [TWO[2]], "A cartilage cap.", ["MRI"]),
    ]
    assert rows[0]["messages"][0]["content"].startswith("Modality 1: <image>\n<image>\n")
    assert [r.images for r in read_rows(tmp_path / "out" / "rows.jsonl")] == [TWO[:2], TWO[2:]]


def test_a_finding_of_several_groups_is_shown_all_of_them(tmp_path: Path) -> None:
    rows, _ = build(tmp_path, a_case(images=TWO, findings=("A cyst in image 2 and image 3.",)).to_record())
    assert [(r["id"], r["messages"][0]["content"].splitlines()[:3]) for r in rows] == [
        ("alignment:c1:1+2", ["Modality 1: <image>", "<image>,", "Modality 2: <image>"])
    ]
    assert said(rows[0]) == "A cyst in image 2 and image 3."


def test_a_modality_that_is_named_places_a_finding(tmp_path: Path) -> None:
    rows, dropped = build(tmp_path, a_case(images=TWO, findings=("MRI shows a cap. It is thin. PET shows no uptake.",)).to_record())
    assert [(r["id"], said(r)) for r in rows] == [("alignment:c1:2", "MRI shows a cap. It is thin.")]
    assert [d["reason"] for d in dropped] == ["no image of that modality"]


def test_what_goes_on_about_an_image_that_is_not_there_goes_with_it(tmp_path: Path) -> None:
    text = "According to image 7, a fracture. It is displaced. According to image 1, no effusion."
    rows, dropped = build(tmp_path, a_case(findings=(text,)).to_record())
    assert [said(r) for r in rows] == ["No effusion."]
    assert [d["text"] for d in dropped if d["reason"] == "image not there"] == ["According to image 7, a fracture.", "It is displaced."]


def test_ten_thousand_characters_are_cut_at_a_sentence_and_said_to_be(tmp_path: Path) -> None:
    text = " ".join(f"Structure number {n} of the abdomen is of normal appearance." for n in range(180))
    rows, dropped = build(tmp_path, a_case(findings=(text, "y" * 10_000)).to_record(), a_case("c2").to_record())
    assert len(text) > 10_000
    assert LONGEST - 100 < len(said(rows[0])) <= LONGEST
    assert said(rows[0]).endswith("appearance.")
    assert {d["reason"] for d in dropped} == {"findings too long", "sentence too long"}
    assert rows[1]["case_id"] == "c2"


def test_a_case_without_findings_or_with_none_left_is_told(tmp_path: Path) -> None:
    rows, dropped = build(tmp_path, a_case("a", findings=()).to_record(), a_case("b", findings=("Unchanged.",)).to_record())
    assert rows == []
    assert [(d["case_id"], d["reason"]) for d in dropped] == [("a", "no findings"), ("b", "earlier study"), ("b", "no finding left")]


def test_marks_in_findings_make_no_images(tmp_path: Path) -> None:
    build(tmp_path, a_case(findings=("A <image> of a rib.",)).to_record())
    (row,) = read_rows(tmp_path / "out" / "rows.jsonl")
    assert sum(len(turn.texts) - 1 for turn in row.turns) == len(row.images) == 1


@pytest.mark.slow
def test_phantoms_as_interns_are_asked(tmp_path: Path) -> None:
    sample = write_sample(tmp_path, count=12, size=32)
    build_alignment(sample.cases, tmp_path / "out", form=InternTemplate(load_prompts(), begun="some"))
    rows = lines(tmp_path / "out" / "rows.jsonl")
    assert len(rows) == 12
    for row in rows:
        assert parse_reasoning(said(row)).steps
        assert " mm" not in said(row)
        assert not any(word in said(row) for word in ("final answer", "nodule", "granuloma"))
    build_alignment(sample.cases, tmp_path / "worked", form=InternTemplate(load_prompts(), begun="any", concludes=True))
    cases = {json.loads(line)["id"]: json.loads(line)["answer"] for line in sample.cases.read_text().splitlines()}
    for row in lines(tmp_path / "worked" / "rows.jsonl"):
        assert parse_reasoning(said(row)).answer == cases[row["case_id"]]


def test_the_published_cases(tmp_path: Path, published: Path) -> None:
    summary = build_alignment(published, tmp_path / "out")
    assert summary.kept == 10
    # Looked at: two headings of a structured report, and the sizes of a myocardial bridge and of a mass.
    assert summary.dropped == {"heading alone": 2, "trimmed: measurement alone": 2}
    rows = lines(tmp_path / "out" / "rows.jsonl")
    assert [len(row["images"]) for row in rows] == [1, 2, 1, 1, 1, 1, 1, 2, 2, 2]
    assert not any(said(row).startswith("According to the") for row in rows)
    assert len(read_rows(tmp_path / "out" / "rows.jsonl")) == 10


def test_a_file_without_a_usable_case_leaves_an_earlier_builds_rows(tmp_path: Path) -> None:
    rows, _ = build(tmp_path, a_case(images=TWO).to_record())
    bad = tmp_path / "bad.jsonl"
    bad.write_text("no case\n")
    with pytest.raises(InputError, match=r"no case can be used: .*dropped\.jsonl; .*rows\.jsonl is unchanged"):
        build_alignment(bad, tmp_path / "out")
    assert lines(tmp_path / "out" / "rows.jsonl") == rows != []
    assert [line["reason"] for line in lines(tmp_path / "out" / "dropped.jsonl")] == ["bad case"]
    with pytest.raises(InputError, match="no case can be used"):
        build_alignment(bad, tmp_path / "fresh")
    assert not (tmp_path / "fresh" / "rows.jsonl").exists()


def test_a_build_that_comes_to_nothing_leaves_the_earlier_one_its_rows_and_its_images(tmp_path: Path) -> None:
    material = write_sample(tmp_path / "sample", count=3, size=32).cases
    build_alignment(material, tmp_path / "out")
    before = json.loads((tmp_path / "out" / "run.json").read_text())
    (tmp_path / "bad.jsonl").write_text('{"id": "1", "question": "Which?"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl is unchanged"):
        build_alignment(tmp_path / "bad.jsonl", tmp_path / "out")
    after = json.loads((tmp_path / "out" / "run.json").read_text())
    assert after == before
    with check_rows(sources_of([tmp_path / "out"])) as (_, report):
        assert not report.exceeded
    build_alignment(material, tmp_path / "out", limit=2)
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == {**before, "limit": 2}


def test_a_sentence_keeps_the_full_stop_of_its_script(tmp_path: Path) -> None:
    finding = "\u53f3\u80ba\u4e0a\u53f6\u89c1\u7ed3\u8282\u3002"
    (row,), _ = build(tmp_path, a_case("zh", findings=(finding,)).to_record())
    assert said(row) == finding
