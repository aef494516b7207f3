"""What hangs together is never divided, and stays where it is."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.dedup.near_texts import JACCARD
from chiron.errors import InputError
from chiron.mmrp.dataset_index import DatasetIndex, sources_of
from chiron.mmrp.row import MmrpRow
from chiron.mmrp.splits import SPLITS, Split, capped, cells, curriculum_key, read_ratios, split_rows, weights
from chiron.providers.local.dialogue import Turn
from tests.mmrp.making import a_row, a_text_row, draw_image, write_part


def survey_of(folder: Path, rows: list[MmrpRow], *, draw: bool = True) -> DatasetIndex:
    return DatasetIndex(sources_of([write_part(folder, rows, draw=draw)]))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        draw_image(folder / f"{number}.png", str(number))
    return folder


@pytest.mark.slow
@settings(max_examples=40)
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.lists(st.integers(0, 7), max_size=2)), min_size=1, max_size=25),
    seed=st.integers(0, 1000),
)
def test_no_patient_case_or_image_is_on_two_sides(
    rows: list[tuple[int, int, list[int]]], seed: int, tmp_path_factory: pytest.TempPathFactory, pictures: Path
) -> None:
    made = [
        a_row(f"r{number}", case_id=f"c{case}", patient=f"p{patient}", images=tuple(f"{image}.png" for image in images))
        for number, (case, patient, images) in enumerate(rows)
    ]
    part = write_part(tmp_path_factory.mktemp("part"), made, draw=False)
    with DatasetIndex(sources_of([part], pictures)) as survey:
        division = split_rows(survey, range(len(made)), ratios=(0.4, 0.3, 0.3), seed=seed)
    assert set(division.split) == set(range(len(made)))
    for a in range(len(made)):
        for b in range(a):
            tied = made[a].patient == made[b].patient or made[a].case_id == made[b].case_id or set(made[a].images) & set(made[b].images)
            if tied:
                assert division.split[a] == division.split[b]
                assert division.group[a] == division.group[b]


def test_a_groups_name_says_nothing_of_its_patients(tmp_path: Path) -> None:
    rows = [a_text_row(str(n), patient=f"MRN{n // 3:07d}") for n in range(30)]
    others = [replace(row, patient=f"someone else {row.patient}") for row in rows]
    names = []
    for folder, them in (("a", rows), ("b", others)):
        with survey_of(tmp_path / folder, them) as survey:
            names.append(split_rows(survey, range(30), seed=3).group)
    assert names[0] == names[1]
    assert len(set(names[0].values())) == 10


def test_copies_of_an_image_under_other_names_and_patients_stay_together(tmp_path: Path) -> None:
    rows = [a_row(str(n)) for n in range(30)]
    for n in range(0, 30, 2):
        draw_image(tmp_path / "images" / f"{n}/0.png", f"pair {n}")
        draw_image(tmp_path / "images" / f"{n + 1}/0.png", f"pair {n}", side=128)
    with survey_of(tmp_path, rows, draw=False) as survey:
        split = split_rows(survey, range(30), ratios=(0.4, 0.3, 0.3)).split
    assert all(split[n] == split[n + 1] for n in range(0, 30, 2))
    assert set(split.values()) == set(SPLITS)


@pytest.mark.slow
def test_rows_stay_where_they_are_when_others_come(tmp_path: Path) -> None:
    rows = [a_text_row(str(n), patient=f"p{n % 60}") for n in range(90)]
    more = [a_text_row(f"new{n}", patient=f"q{n}") for n in range(50)]
    with survey_of(tmp_path / "a", rows) as survey:
        before = split_rows(survey, range(90), ratios=(0.5, 0.25, 0.25)).split
    with survey_of(tmp_path / "b", more + rows) as survey:
        after = split_rows(survey, range(140), ratios=(0.5, 0.25, 0.25)).split
    assert [before[n] for n in range(90)] == [after[n + 50] for n in range(90)]


@pytest.mark.slow
def test_shares_are_met_about_and_the_seed_matters(tmp_path: Path) -> None:
    with survey_of(tmp_path, [a_text_row(str(n)) for n in range(400)]) as survey:
        split = split_rows(survey, range(400), ratios=(0.8, 0.1, 0.1)).split
        other = split_rows(survey, range(400), ratios=(0.8, 0.1, 0.1), seed=1).split
        alone = split_rows(survey, range(400), ratios=(1.0, 0.0, 0.0)).split
    assert 280 <= sum(side == "train" for side in split.values()) <= 360
    assert split != other
    assert set(alone.values()) == {"train"}


def variants(family: int, count: int, random: np.random.Generator) -> list[MmrpRow]:
    """Rows of as many patients that differ in a word or two of eighty, or in more than makes them near."""
    words = [f"f{family}w{n}" for n in range(80)]
    made = []
    for number in range(count):
        said = list(words)
        for at in random.choice(80, random.choice([1, 2, 3, 6]), replace=False):
            said[at] = f"other{random.integers(10**9)}"
        name = f"{family}-{number}"
        made.append(a_text_row(name, turns=(Turn("user", " ".join(said)), Turn("assistant", "B"))))
    return made


def crossing(survey: DatasetIndex, division: Split) -> list[tuple[int, int]]:
    """By comparing all with all: rows on different sides that say nearly the same."""
    return [
        (a, b)
        for a, b in combinations(division.split, 2)
        if division.split[a] != division.split[b] and survey.texts.likeness(survey.entries[a].text, survey.entries[b].text) >= JACCARD
    ]


@pytest.mark.slow
@settings(max_examples=40)
@given(sizes=st.lists(st.integers(3, 8), min_size=1, max_size=6), seed=st.integers(0, 10**6))
def test_no_two_rows_that_say_nearly_the_same_are_on_two_sides(
    sizes: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    random = np.random.default_rng(seed)
    rows = [row for family, size in enumerate(sizes) for row in variants(family, size, random)]
    rows += [replace(rows[0], id="text:again", case_id="again", patient="again"), a_text_row("alone")]
    with survey_of(tmp_path_factory.mktemp("part"), [rows[at] for at in random.permutation(len(rows))]) as survey:
        everything = range(len(rows))
        some = [position for position in everything if random.random() < 0.8]  # others have errors, say
        for positions in (everything, some):
            division = split_rows(survey, positions, ratios=(0.4, 0.3, 0.3), seed=seed)
            assert crossing(survey, division) == []
            assert set(division.split) | set(division.left_out) == set(positions)
            for position in division.left_out:
                # Whoever leaves was near something: the row that is like no other stays.
                assert survey.entries[position].id != "text:alone"


@pytest.mark.slow
def test_a_family_of_two_hundred_is_on_one_side(tmp_path: Path) -> None:
    rows = variants(0, 200, np.random.default_rng(1))
    with survey_of(tmp_path, rows) as survey:
        division = split_rows(survey, range(200), ratios=(0.4, 0.3, 0.3))
        assert crossing(survey, division) == []
    assert len(division.split) >= 40


def test_words_that_two_sides_share_leave_the_smaller_one(tmp_path: Path) -> None:
    rows = [a_text_row(str(n)) for n in range(60)]
    with survey_of(tmp_path / "a", rows) as survey:
        plain = split_rows(survey, range(60), ratios=(0.5, 0.25, 0.25)).split
    a = next(n for n in plain if plain[n] == "test")
    b = next(n for n in plain if plain[n] == "train")
    rows[a] = replace(rows[a], turns=rows[b].turns)
    with survey_of(tmp_path / "b", rows) as survey:
        division = split_rows(survey, range(60), ratios=(0.5, 0.25, 0.25))
    assert division.left_out == {a: f"nearly the same text as {rows[b].id} of train"}
    assert division.split == {n: side for n, side in plain.items() if n != a}


@pytest.mark.parametrize("text", ["", "0.9,0.1", "0.9,0.2,0.1", "a,b,c", "1.5,-0.5,0", "nan,0,1"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="three shares"):
        read_ratios(text)


def test_rows_stand_from_easy_to_hard(tmp_path: Path) -> None:
    rows = [
        a_row("hard", difficulty=1.0),
        a_row("deep", difficulty=0.5, depth=3),
        a_row("unknown", difficulty=None, depth=None),
        a_row("easy", difficulty=0.0),
        a_text_row("first"),
    ]
    with survey_of(tmp_path, rows) as survey:
        order = [entry.case_id for entry in sorted(survey.entries, key=curriculum_key)]
    assert order == ["first", "easy", "unknown", "deep", "hard"]


def test_balance_by_weight_and_by_cap(tmp_path: Path) -> None:
    rows = [a_text_row(str(n), modalities=("CT",) if n < 90 else ("MRI",)) for n in range(100)]
    rows += [replace(rows[0], id="text:both", modalities=("CT", "MRI"))]
    with survey_of(tmp_path, rows) as survey:
        entries = survey.entries
    drawn = weights(entries)
    assert sum(drawn) / len(drawn) == pytest.approx(1)
    assert drawn[0] < drawn[95] == pytest.approx(drawn[100])
    stay = capped(entries, 20, seed=3)
    held = [sum(cell in cells(entries[n]) for n in stay) for cell in (("CT", "chest"), ("MRI", "chest"))]
    assert held == [20, 10 + (100 in stay)]
    assert stay == sorted(stay) == capped(entries, 20, seed=3)
    assert stay != capped(entries, 20, seed=4)


def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    with survey_of(tmp_path, [a_text_row("1"), a_text_row("2")]) as survey:
        write_part(tmp_path, [a_text_row("something else"), a_text_row("2")])
        with pytest.raises(InputError, match="changed while it was read"):
            list(survey.records([0, 1]))
