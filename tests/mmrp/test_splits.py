"""What hangs together is never divided, and stays where it is; with millions of rows too."""

import hashlib
import json
import resource
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.dedup.near_texts import JACCARD
from chiron.errors import DiskError, InputError
from chiron.mmrp.checking import check_rows
from chiron.mmrp.dataset_index import DatasetIndex, sources_of
from chiron.mmrp.row import MmrpRow
from chiron.mmrp.splits import RATIOS, SPLITS, Split, capped, cells, curriculum_key, read_ratios, split_rows, weights
from chiron.providers.local.dialogue import Turn
from tests.mmrp.making import a_row, a_text_row, draw_image, write_part


def survey_of(folder: Path, rows: list[MmrpRow], *, draw: bool = True) -> closing[DatasetIndex]:
    return closing(DatasetIndex(sources_of([write_part(folder, rows, draw=draw)])))


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
    with closing(DatasetIndex(sources_of([part], pictures))) as survey:
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
        entries = list(survey.entries)
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


def in_memory(rows: Sequence[MmrpRow], links: Sequence[tuple[int, int]], seed: int) -> tuple[dict[int, str], dict[int, str], set[int]]:
    """Split, group and rows that are left out, by position, with everything in dictionaries. ``links``: rows with nearly the same words."""
    group_of = list(range(len(rows)))
    tied = [
        (a, b) for a, b in combinations(range(len(rows)), 2) if rows[a].patient == rows[b].patient or rows[a].case_id == rows[b].case_id
    ]
    families = list(range(len(rows)))
    for labels, pairs in ((group_of, tied), (families, links)):
        for a, b in pairs:
            old, new = max(labels[a], labels[b]), min(labels[a], labels[b])
            labels[:] = [new if label == old else label for label in labels]
    split, names = dict[int, str](), dict[int, str]()
    for position, group in enumerate(group_of):
        members = [row for row, other in zip(rows, group_of, strict=True) if other == group]
        patient, case = min(row.patient for row in members), min(row.case_id for row in members)
        number = int.from_bytes(hashlib.blake2b(f"{seed}\0{patient}".encode(), digest_size=16).digest()[:8], "big") / 2**64
        split[position] = "train" if number < RATIOS[0] else "validation" if number < RATIOS[0] + RATIOS[1] else "test"
        names[position] = hashlib.blake2b(case.encode(), digest_size=16).hexdigest()[:12]
    first = {family: min(SPLITS.index(split[n]) for n in split if families[n] == family) for family in families}
    left_out = {n for n in split if SPLITS.index(split[n]) != first[families[n]]}
    return {n: side for n, side in split.items() if n not in left_out}, names, left_out


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(*(st.integers(0, 12) for _ in range(3)), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=20),
    seed=st.integers(0, 1000),
)
def test_findings_and_splits_are_those_of_a_computation_in_memory(
    rows: list[tuple[int, int, int, int, int]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    made = []
    for name, case, patient, family, changed in rows:
        words = " ".join([*(f"f{family}w{n}" for n in range(80)), f"changed{changed}"])
        made.append(a_text_row(str(name), case_id=f"c{case}", patient=f"p{patient}", turns=(Turn("user", words), Turn("assistant", "B"))))
    ids, said = [row.id for row in made], [row.turns[0].text for row in made]
    repeated = {n for n in range(len(made)) if ids[n] in ids[:n]}
    contents = [n for n in range(len(made)) if n not in repeated]
    same = {n: m for n in contents for m in reversed(contents) if m < n and said[m] == said[n]}
    near = {
        said.index(said[n])
        for n in range(len(made))
        if any(rows[m][3] == rows[n][3] and said[m] != said[n] for m in range(said.index(said[n])))
    }
    with check_rows(sources_of([write_part(tmp_path_factory.mktemp("part"), made)])) as (survey, report):
        findings = [json.loads(line) for line in report.findings()]
        division = split_rows(survey, range(len(made)), seed=seed)
    assert [f["row"] for f in findings if f["detail"] == "an earlier row has the same id"] == [ids[n] for n in sorted(repeated)]
    assert {(f["row"], f["detail"]) for f in findings if f["detail"].startswith("the same words")} == {
        (ids[n], f"the same words and images as '{ids[m]}'") for n, m in same.items()
    }
    assert report.counts["near_duplicates"].rows == near
    links = [(a, b) for a, b in combinations(range(len(made)), 2) if rows[a][3] == rows[b][3]]
    assert (division.split, division.group, set(division.left_out)) == in_memory(made, links, seed)


@pytest.mark.slow
def test_memory_holds_little_of_a_row(tmp_path: Path) -> None:
    def memory(count: int) -> int:
        """Bytes that the index of so many rows holds after all checks of all rows."""
        rows = list[MmrpRow]()
        for n in range(count):
            question = " ".join(f"w{at}" for at in np.random.default_rng(n).integers(0, 100, 30))  # the hashes of some words stay in memory
            rows.append(a_text_row(f"row {n}", question=question, turns=(Turn("user", question), Turn("assistant", "B"))))
        sources = sources_of([write_part(tmp_path / str(count), rows)])
        del rows
        tracemalloc.start()
        try:
            with check_rows(sources):
                return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    memory(1)  # loads what is loaded once
    assert (memory(1500) - memory(500)) / 1000 < 450


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("rows", "size"), [(6, 500), (400, 20_000)])
def test_a_disk_that_is_full_is_named_and_nothing_is_left_on_it(rows: int, size: int, tmp_path: Path) -> None:
    part = write_part(tmp_path / "part", [a_text_row(str(n)) for n in range(rows)])
    (tmp_path / "out").mkdir()
    with files_of_at_most(size), pytest.raises(DiskError, match=r"out cannot be written \(.*: free space on its disk"):  # noqa: SIM117
        with check_rows(sources_of([part]), spool=tmp_path / "out"):
            pass
    assert list((tmp_path / "out").iterdir()) == []
