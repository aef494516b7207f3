"""Modalities and body systems: named by their usual names and codes, and nowhere by a guess."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.cases.body_systems import BODY_SYSTEMS, body_system_of, body_system_of_case
from chiron.cases.case import BadCase
from chiron.cases.check import check_cases
from chiron.cases.coverage import coverage_of, draw_coverage
from chiron.cases.modalities import MODALITIES, findings_without_images, modalities_in, modalities_of_case, modality_of
from chiron.errors import InputError
from tests.importing.support import jsonl
from tests.support.cases import a_case, write_png


def test_there_are_twelve_and_twenty() -> None:
    assert len({m.slug for m in MODALITIES}) == len({m.name for m in MODALITIES}) == 12
    assert len({s.name for s in BODY_SYSTEMS}) == len({s.short for s in BODY_SYSTEMS}) == 20
    assert all(len(s.short) <= 4 for s in BODY_SYSTEMS)


@given(st.sampled_from(MODALITIES), st.sampled_from([str.upper, str.lower, str.title]))
def test_every_name_and_code_leads_to_its_modality(modality: object, form: object) -> None:
    from chiron.cases.modalities import Modality

    assert isinstance(modality, Modality)
    assert callable(form)
    assert all(modality_of(form(name)) is modality for name in (modality.name, modality.slug, *modality.codes, *modality.names))


def test_no_name_stands_for_two() -> None:
    for groups in (
        [(m.name.lower(), m.slug, *map(str.lower, m.codes), *m.names) for m in MODALITIES],
        [s.names.split("|") for s in BODY_SYSTEMS],
    ):
        for i, names in enumerate(groups):
            assert not set(names) & {name for other in groups[i + 1 :] for name in other}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CT angiography of the head", "CT"),
        ("CT chest with contrast", "CT"),
        ("18F-FDG PET/CT", "PET"),
        ("SPECT/CT", "Nuclear medicine"),
        ("MR angiography", "MRI"),
        ("MRCP", "MRI"),
        ("Chest radiograph", "X-ray"),
        ("barium swallow", "Fluoroscopy"),
        ("cerebral angiogram", "Angiography"),
        ("fluorescein angiography", "Ophthalmic imaging"),
        ("transthoracic echocardiogram", "Ultrasound"),
        ("histopathology of the nodule", "Microscopy"),
        ("colonoscopy", "Endoscopy"),
        ("digital breast tomosynthesis", "Mammography"),
        ("bone scan", "Nuclear medicine"),
        ("CT and MRI", None),
        ("Mr Smith", None),
        ("the patient came to us", None),
        ("pets at home", None),
        ("Annotated image", None),
        ("OT", None),
        ("", None),
    ],
)
def test_modalities_within_texts(text: str, name: str | None) -> None:
    modality = modality_of(text)
    assert (modality.name if modality else None) == name


@given(st.text())
def test_any_text_names_some_or_none(text: str) -> None:
    assert len(modalities_in(text)) <= 12
    body_system_of(text)


def test_a_case_is_placed_by_metadata_before_folders_and_never_by_a_guess() -> None:
    def names(**changes: object) -> list[str]:
        return [m.name for m in modalities_of_case(a_case("c", **changes))]

    assert names(modality="PET, CT") == ["CT", "PET"]
    assert names(modality="mri", images=("1/ct_group1/0.png",)) == ["MRI"]
    assert names(modality="something", images=("1/ct_group1/0.png", "1/x-ray_group2/0.png")) == ["X-ray", "CT"]
    assert names(images=("1/nuclear medicine_group1/0.png",)) == ["Nuclear medicine"]
    assert names(images=("ct/0.png", "us.png")) == []


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"body_system": "Chest"}, "Chest"),
        ({"body_system": "Head and Neck", "history": "Brain tumour."}, "Head & neck"),
        ({"meta": {"body_part": "cspine"}}, "Spine"),
        ({"question": "What is it?", "history": "Headache.", "title": "Subdural haematoma"}, "Central nervous system"),
        ({"question": "Which segment of the liver?", "history": "", "title": None}, "Hepatobiliary"),
        ({"question": "Mass of the liver or the kidney?", "history": "", "title": None}, None),
        ({"question": "What is it?", "history": "Chest pain.", "title": None}, None),
        ({"question": "What is it?", "history": "No kidney stones. Cough.", "title": "Lung nodule"}, "Chest"),
        ({"body_system": "abdomen", "question": "What?", "history": "", "title": None}, None),
    ],
)
def test_body_systems_of_cases(changes: dict[str, object], name: str | None) -> None:
    system = body_system_of_case(a_case("c", **changes))
    assert (system.name if system else None) == name


@pytest.mark.parametrize(
    ("finding", "names"),
    [
        ("MRI shows a lesion.", ["MRI"]),
        ("On ultrasound of the liver shows a cyst.", ["Ultrasound"]),
        ("CT demonstrates a mass. MRI confirms it.", ["MRI"]),
        ("No change since the previous MRI shows stability.", []),
        ("MRI is recommended.", []),
        ("A mass, as CT shows.", []),
    ],
)
def test_findings_of_images_that_are_not_there(finding: str, names: list[str]) -> None:
    case = a_case(modality="CT", findings=(finding,))
    assert [m.name for m in findings_without_images(case)] == names
    assert findings_without_images(a_case(findings=(finding,))) == ()


def test_check_tells_of_them_and_of_endless_findings(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "0.png")
    case = a_case(images=("0.png",), modality="CT", findings=("MRI shows a lesion.", "x" * 10_000))
    (remark,) = check_cases(jsonl(tmp_path / "c.jsonl", case.to_record()))
    assert remark.usable
    assert remark.problem is not None
    assert "findings describe MRI, which the case has no image of" in remark.problem
    assert "10,019 characters" in remark.problem


@pytest.mark.slow
def test_the_map_counts_and_says_what_it_cannot_place(tmp_path: Path) -> None:
    coverage = coverage_of(
        [
            a_case("1", modality="PET, CT", body_system="Chest"),
            a_case("2", modality="CT", body_system="Chest"),
            a_case("3", modality="CT", title=None, question="What?", history=""),
            a_case("4", body_system="Spine", modality=None),
            BadCase(5, None, "broken"),
        ]
    )
    assert (coverage.cases, coverage.bad, coverage.unplaced, coverage.no_modality, coverage.no_system) == (4, 1, 2, 1, 1)
    record = coverage.to_record()
    assert record["map"]["CT"]["Chest"] == 2
    assert record["map"]["PET"]["Chest"] == 1
    assert sum(n for row in record["map"].values() for n in row.values()) == 3
    assert (len(record["map"]), len(record["map"]["CT"])) == (12, 20)
    for name in ("a.svg", "b.png"):
        draw_coverage(coverage, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 2000
    first = (tmp_path / "a.svg").read_bytes()
    draw_coverage(coverage, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_bytes() == first
    assert b"2 of 4 cases placed" in first or b"<svg" in first
    with pytest.raises(InputError, match=r"\.svg, \.png or \.pdf"):
        draw_coverage(coverage, tmp_path / "a.gif")
