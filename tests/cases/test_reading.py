"""A file of cases is read line by line; what is wrong is said by line, and stops nothing else."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.cases.case import BadCase, Case
from chiron.cases.formats import CaseProblem, parse_case
from chiron.cases.images import image_folder
from chiron.cases.reader import read_cases
from chiron.cases.summary import check_cases
from chiron.errors import InputError
from tests.support.cases import a_case, write_cases, write_png

PUBLISHED = {
    "rid": "7",
    "messages": [
        {"role": "user", "content": "**Question:** What is the most likely diagnosis?"},
        {"role": "assistant", "content": "**Correct Answer:** Rib fracture."},
    ],
    "images": ["7/x-ray_group1/0.jpeg", "7/x-ray_group1/1.jpeg"],
    "title": "Rib fracture",
    "certainty": "Diagnosis certain",
    "presentation": "Fell from a ladder.<br/>Pain.",
    "age_label": "45 years",
    "gender_label": "Male",
    "caption": ["According to the <image>\n<image>\n, a rib\xa0is broken (<25% displaced).", "On the <image>\nnothing else."],
}


def write(path: Path, *records: object) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n", encoding="utf-8")
    return path


def test_the_published_format_is_read_as_it_is() -> None:
    case = parse_case(PUBLISHED)
    assert case.id == "7"
    assert case.question == "What is the most likely diagnosis?"
    assert case.answer == "Rib fracture."
    assert case.history == "Fell from a ladder.\nPain."
    assert (case.age, case.sex, case.title) == ("45 years", "Male", "Rib fracture")
    assert case.findings == ("According to image 1 and image 2, a rib is broken (<25% displaced).", "On image 3 nothing else.")
    assert case.meta["certainty"] == "Diagnosis certain"


@pytest.mark.parametrize("piece", [" ", "*", "* ", "\n", "<image>", "<image> ", "image 1 ", "<br "])
def test_no_case_takes_long_to_read(piece: str) -> None:
    """A question behind a hundred thousand blanks once took minutes."""
    text = piece * 100_000
    # A question that marks more images than the case has is not a case.
    around = text.replace("<image>", "<Image>")
    messages = [{"role": "user", "content": f"{around}What?{around}"}, {"role": "assistant", "content": f"{text}Correct Answer: x{text}"}]
    began = time.process_time()
    case = parse_case({**PUBLISHED, "messages": messages, "caption": [text, f"{text}."], "presentation": text})
    assert time.process_time() - began < 5
    assert "What?" in case.question


def test_marks_are_taken_off_whatever_stands_around_them() -> None:
    messages = [{"role": "user", "content": "  ** Question :**  What? "}, {"role": "assistant", "content": "\n**Answer**: Rib\n"}]
    case = parse_case({**PUBLISHED, "messages": messages})
    assert (case.question, case.answer) == ("What?", "Rib")


def test_tidy_cases_survive_being_written_and_read() -> None:
    case = a_case(meta={"patient": "p1"})
    assert parse_case(json.loads(json.dumps(case.to_record()))) == case


@pytest.mark.slow
@given(
    st.dictionaries(
        st.sampled_from(["id", "rid", "question", "answer", "images", "messages", "history", "findings", "age", "caption"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=20),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
            max_leaves=8,
        ),
    )
)
def test_no_record_does_worse_than_a_named_problem(record: dict[str, object]) -> None:
    try:
        case = parse_case(record)
    except CaseProblem as problem:
        said = str(problem)
    else:
        said = f"{case.id}{case.question}{case.answer}{case.images}"
        assert all((case.id, case.question, case.answer, case.images))
    assert said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": []}, "no images"),
        ({"images": None}, "no images"),
        ({"question": " "}, "no question"),
        ({"answer": ""}, "no answer"),
        ({"id": ""}, "needs an id"),
        ({"id": "a\x1b[2Jb"}, "printable"),
        ({"id": "a\x7fb"}, "printable"),
        ({"id": "a\x9b2Jb"}, "printable"),
        ({"id": "a\nb"}, "printable"),
        ({"id": "a\u202eb"}, "printable"),
        ({"findings": [1]}, "findings"),
        ({"images": ["a.png", ""]}, "images"),
        ({"history": ["x"]}, "history"),
    ],
)
def test_a_case_that_lacks_something_is_named_and_the_others_go_on(tmp_path: Path, change: dict[str, object], words: str) -> None:
    good, bad = a_case("good").to_record(), {**a_case("bad").to_record(), **change}
    first, second = read_cases(write(tmp_path / "c.jsonl", bad, good))
    assert isinstance(first, BadCase)
    assert first.line == 1
    assert words in first.problem
    assert isinstance(second, Case)


def test_broken_lines_and_duplicate_ids_are_found_by_line(tmp_path: Path) -> None:
    record = a_case("same").to_record()
    found = list(read_cases(write(tmp_path / "c.jsonl", record, '{"id": "x", ', "", record, [1, 2], "null")))
    assert isinstance(found[0], Case)
    bad = [f for f in found[1:] if isinstance(f, BadCase)]
    assert [b.line for b in bad] == [2, 4, 5, 6]
    assert "broken JSON at column" in bad[0].problem
    assert "already used on line 1" in bad[1].problem
    assert "JSON object" in bad[2].problem


def test_a_first_line_that_is_a_list_is_a_bad_case_like_any_other(tmp_path: Path) -> None:
    record = a_case("good").to_record()
    bad, good = read_cases(write(tmp_path / "c.jsonl", [1, 2], record))
    assert isinstance(bad, BadCase)
    assert "but this is a list" in bad.problem
    assert isinstance(good, Case)
    assert good.line == 2
    assert [type(c) for c in read_cases(write(tmp_path / "c.json", json.dumps([record], indent=1)))] == [Case]
    with pytest.raises(InputError, match="not valid JSON"):
        list(read_cases(write(tmp_path / "c.json", "[", json.dumps(record), json.dumps(record), "]")))


def test_no_id_is_a_bad_cases_label(tmp_path: Path) -> None:
    """A case of the id "line 2" once took the place of what is wrong with line 2."""
    ids = ["line 2", " line 2", "line 3 (line 2)"]
    good, broken, twice, other = read_cases(
        write(tmp_path / "c.jsonl", a_case(ids[0]).to_record(), "{", a_case(ids[1]).to_record(), a_case(ids[2]).to_record())
    )
    assert isinstance(good, Case)
    assert isinstance(other, Case)
    assert isinstance(broken, BadCase)
    assert isinstance(twice, BadCase)
    assert len({good.id, other.id, broken.label, twice.label}) == 4
    assert broken.label.strip() == "line 2"


def test_a_name_too_long_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be reached"):
        list(read_cases(tmp_path / ("n" * 300)))
    with pytest.raises(InputError, match="cannot be reached"):
        image_folder(write_cases(tmp_path, 1), tmp_path / ("n" * 300))


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(json.dumps(a_case().to_record()).encode() + b"\n" + '{"id": "ü"}'.encode("latin-1") + b"\n")
    good, bad = read_cases(path)
    assert isinstance(good, Case)
    assert isinstance(bad, BadCase)
    assert "UTF-8" in bad.problem


def test_a_json_list_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([a_case("a").to_record(), {"id": "b"}]).encode())
    good, bad = read_cases(path)
    assert isinstance(good, Case)
    assert isinstance(bad, BadCase)
    assert bad.line == 2


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        list(read_cases(tmp_path / "none.jsonl"))


def test_checking_finds_bad_images_and_marks_without_images(tmp_path: Path) -> None:
    path = write_cases(tmp_path, 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (tmp_path / "images" / lines[0]["images"][0]).write_bytes(b"")
    lines[1]["findings"] = ["According to image 2, nothing."]
    write(path, *lines)
    remarks = list(check_cases(path))
    assert [r.usable for r in remarks] == [False, True, True]
    assert "empty" in str(remarks[0].problem)
    assert "image 2" in str(remarks[1].problem)
    assert remarks[2].problem is None


def test_the_ten_published_cases_are_read(published: Path) -> None:
    remarks = list(check_cases(published))
    assert len(remarks) == 10
    assert all(r.usable for r in remarks)


def test_an_edited_case_has_another_fingerprint() -> None:
    assert a_case().fingerprint == a_case().fingerprint
    assert a_case().fingerprint != a_case(history="Fell from a tree.").fingerprint


def test_the_image_folder_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", a_case().to_record())
    with pytest.raises(InputError, match="--images"):
        list(check_cases(path))
    write_png(tmp_path / "elsewhere" / "c1" / "0.png")
    assert [r.usable for r in check_cases(path, tmp_path / "elsewhere")] == [True]
