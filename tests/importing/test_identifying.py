"""What may identify somebody is found; what only looks so is left alone; and what it says is never repeated."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.importing.phi_filter import find_identifying, identifiers, names
from chiron.importing.phi_patterns import PhiKind

KINDS = {
    "name": PhiKind.NAME,
    "date": PhiKind.DATE,
    "phone": PhiKind.PHONE,
    "email": PhiKind.EMAIL,
    "record": PhiKind.RECORD,
    "address": PhiKind.ADDRESS,
    "age": PhiKind.AGE,
    "web": PhiKind.WEB,
}
LABELLED = [line.split("\t") for line in (Path(__file__).parent / "sentences.tsv").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(("label", "sentence"), LABELLED)
def test_labelled_sentences(label: str, sentence: str) -> None:
    kinds = {mark.kind for mark in find_identifying(sentence)}
    assert (not kinds) if label == "none" else KINDS[label] in kinds


def test_the_labelled_set_is_large_enough_to_mean_something() -> None:
    counts = Counter(label for label, _ in LABELLED)
    assert counts["none"] >= 50
    assert all(counts[label] >= 2 for label in KINDS)


@given(st.text())
def test_marks_lie_within_the_text(text: str) -> None:
    for mark in find_identifying(text, {"smith"}):
        assert 0 <= mark.start < mark.end <= len(text)
        assert mark.line == text.count("\n", 0, mark.start) + 1


@given(
    st.dates(),
    st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%Y-%m-%d", "%d.%m.%Y", "%d %B %Y", "%B %d, %Y", "%d-%m-%Y", "%d %b %Y", "%B %Y"]),
)
def test_full_dates_are_found_in_every_usual_form(day: object, form: str) -> None:
    from datetime import date

    assert isinstance(day, date)
    if day.year >= 1900 and day.year < 2100:
        assert PhiKind.DATE in {mark.kind for mark in find_identifying(f"Compared with {day.strftime(form)}, no change.")}


@given(st.sampled_from("CTL"), st.integers(1, 12), st.sampled_from("-/"), st.booleans())
def test_vertebral_levels_are_nobody(region: str, level: int, between: str, repeated: bool) -> None:
    second = f"{region if repeated else ''}{level + 1}"
    assert not find_identifying(f"Disc protrusion at {region}{level}{between}{second} with stenosis.")


@pytest.mark.slow
@given(
    st.lists(st.decimals(0, 400, places=1), min_size=1, max_size=3),
    st.sampled_from(["mm", "cm", "ml", "HU", "%"]),
    st.sampled_from([" x ", "x", " to "]),
)
def test_measurements_are_nobody(sizes: list[object], unit: str, between: str) -> None:
    assert not find_identifying(f"The lesion measures {between.join(map(str, sizes))} {unit}.")


@given(st.integers(0, 89), st.sampled_from(["years", "months", "weeks", "days"]))
def test_ages_and_durations_are_nobody(number: int, unit: str) -> None:
    assert not find_identifying(f"A {number}-year-old woman with pain for {number} {unit}, worse for {number % 7}/7.")


def test_what_the_source_calls_the_patient_is_looked_for() -> None:
    known = identifiers("Featherstone^Agatha", "PAT-998877", None, "A", "12")
    marks = find_identifying("Mass in the breast of FEATHERSTONE,\nnumber pat-998877.", known)
    assert [(m.kind, m.line) for m in marks] == [(PhiKind.NAME, 1), (PhiKind.RECORD, 2)]
    assert not find_identifying("A mass of 12 mm.", known)
    assert not find_identifying("The chest and the left knee of a patient.", identifiers("Patient^Chest", "the left"))


@pytest.mark.slow
def test_long_text_does_not_take_long() -> None:
    import time

    began = time.process_time()
    for piece in ("1", "12/", "a.b@", "Dr. ", "9-", "Mr A", "Patient ", "14 Aa ", "+1 ", "A^", "1.2."):
        find_identifying(piece * 20_000)
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Müller^Jörg", "Mueller"),
        ("Müller^Jörg", "MUELLER"),
        ("Müller^Jörg", "Mu\u0308ller"),
        ("Müller^Jörg", "Müllers"),
        ("Müller^Jörg", "Muller's"),
        ("Mueller^Joerg", "Müller"),
        ("Mu\u0308ller^Jo\u0308rg", "JÖRG"),
        ("Sørensen^Łukasz", "Sorensen"),
        ("Groß^Anna", "GROSS"),
        ("Lefèvre^Zoé", "lefevre"),
        ("García-López^Ana", "Garcia Lopez"),
    ],
)
def test_a_known_name_is_found_in_any_spelling(header: str, said: str) -> None:
    assert find_identifying(f"The mass of {said} has grown.", names(header))
    assert not find_identifying("The mass of somebody else has grown.", names(header))


def test_offsets_are_those_of_the_text_that_was_given() -> None:
    text = "Ga\u0308nzlich unverändert seit dem 3. Ma\u0308rz 2018."
    (mark,) = find_identifying(text)
    assert text[mark.start : mark.end] == "3. Ma\u0308rz 2018"
