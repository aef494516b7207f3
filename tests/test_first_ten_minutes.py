"""A radiologist's own studies and spreadsheet, to reviewed chains of thought in a release: offline, with the practice team."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest

from chiron.mmrp.row import ROWS, MmrpRow, read_rows
from chiron.providers.baselines.practice import PRACTICE_TEXT
from tests.importing.dicoms import axial, write_dicom
from tests.mmrp.building import lines
from tests.support.command import Cli, Ended
from tests.view.test_review import ACCEPT, REJECT, Desk, desks, title

REPORTS = (
    ("Weight loss.", "A mass of 2 cm in the right upper lobe with spiculated margins. No effusion.", "Lung cancer"),
    ("Shortness of breath.", "Fluid in both pleural spaces. The heart is enlarged.", "Pulmonary edema"),
    ("Sudden chest pain.", "A filling defect in the left lower lobe artery.", "Pulmonary embolism"),
    ("Dry cough.", "Bilateral hilar lymph nodes and perilymphatic nodules.", "Sarcoidosis"),
    ("", "Consolidation with air bronchograms in the right lower lobe.", "Pneumonia"),
    ("A fall.", "A rim of air between the left lung and the chest wall. Two fractured ribs.", "Pneumothorax"),
)
EDIT = "The right upper lobe has a mass."


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A folder with one CT study for each report, and the reports in a spreadsheet."""
    book = openpyxl.Workbook()
    book.active.append(["Accession Number", "Clinical history", "Findings", "Diagnosis"])
    for number, report in enumerate(REPORTS):
        book.active.append([f"A10{number}", *report])
        for height in range(2):
            write_dicom(
                tmp_path / "studies" / f"{number}" / f"{height}.dcm",
                np.random.default_rng([number, height]).integers(-1000, 400, (32, 32)).astype(np.int16),
                **axial(5.0 * height, height + 1),
                AccessionNumber=f"A10{number}",
                PatientID=f"PAT-{number}",
                StudyInstanceUID=f"1.2.{number}",
                SeriesInstanceUID=f"1.2.{number}.1",
            )
    book.save(tmp_path / "reports.xlsx")
    (tmp_path / "salt").write_text("0" * 64)  # the same pseudonyms, and so the same ties, in every run
    return tmp_path


def done(cli: Cli, command: str, *arguments: object) -> Ended:
    ended = cli([*command.split(), *map(str, arguments)])
    assert ended.returncode == 0, ended.stderr
    return ended


def searched(cli: Cli, folder: Path, template: str) -> Ended:
    question = ("--questions", folder / "reports.xlsx", "--question", "What is the diagnosis?", "--salt", folder / "salt")
    done(cli, "cases import", folder / "studies", *question, "--out", folder / "ct")
    done(cli, "init", template, "--out", folder / f"{template}.yaml")
    return done(cli, "search", folder / "ct" / "cases.jsonl", "--config", folder / f"{template}.yaml", "--run", folder / "run")


def review(desk: Desk, address: str, first: dict[str, str] = ACCEPT) -> str:
    """Accept all but the first step, for which the verdict is given; return the address of the next path."""
    steps = desk.page(address).count("data-step=") - 1
    answer = desk.send(address, "submit", first, *[ACCEPT] * (steps - 1))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["next"])


def work_off(desk: Desk, task: str, verdicts: dict[str, dict[str, str]]) -> list[str]:
    """Give a verdict on every path that waits; return the cases."""
    address, cases = desk.next(task), []
    while address != "/review":
        cases.append(title(desk.page(address)))
        address = review(desk, address, verdicts.get(cases[-1], ACCEPT))
    return cases


def rows_of(cli: Cli, run: Path, reviews: str) -> dict[str, MmrpRow]:
    out = run.parent / f"cot-{reviews}"
    done(cli, "build cot", run, "--out", out, "--reviews", reviews)
    return {row.case_id: row for row in read_rows(out / ROWS)}


@pytest.mark.slow
def test_own_studies_are_searched_reviewed_and_released_without_a_key(hospital: Path, cli: Cli) -> None:
    assert "practice text, not medical reasoning" in searched(cli, hospital, "practice").stderr
    paths = {path["case_id"]: path["reasoning"] for path in lines(hospital / "run" / "paths.jsonl")}
    assert len(paths) >= 3
    edited, refused, skipped, *_ = paths

    edit = {**ACCEPT, "verdict": "edit", "text": EDIT}
    with desks(hospital, double=1.0) as people:
        anna, ben, cleo = people.values()
        assert set(work_off(anna, "review", {edited: edit, refused: REJECT})) == set(paths)
        assert set(work_off(ben, "review", {})) == set(paths)
        assert sorted(work_off(cleo, "adjudicate", {edited: edit, refused: REJECT})) == sorted([edited, refused])

    every, reviewed = rows_of(cli, hospital / "run", "ignore"), rows_of(cli, hospital / "run", "require")
    assert set(every) == set(paths)
    assert set(reviewed) == set(paths) - {refused}
    assert reviewed[edited].reasoning == re.sub(r"(?<=### Step 1: ).*", EDIT, every[edited].reasoning)
    assert reviewed[skipped].reasoning == every[skipped].reasoning
    status = {case: row.provenance.review["status"] for case, row in reviewed.items() if row.provenance.review is not None}
    assert status == {case: "edited" if case == edited else "accepted" for case in reviewed}

    done(cli, "build check", hospital / "cot-require", "--out", hospital / "checked")
    release = done(cli, "build release", hospital / "cot-require", "--out", hospital / "mmrp", "--ratios", "1,0,0")
    assert f"{len(reviewed)} of {len(reviewed)} rows are practice text" in release.stderr
    card = (hospital / "mmrp" / "README.md").read_text()
    assert f"Practice text, not data: {len(reviewed)} of {len(reviewed)} rows." in card
    assert "- practice-text\n" in card
    refused_upload = cli(["push", str(hospital / "mmrp"), "--repo", "we/practice", "--dry-run"])
    assert (refused_upload.returncode, "practice text" in refused_upload.stderr) == (2, True)
    assert f"accepted\n{len(reviewed) - 1} as they are and 1 with edits" in card


@pytest.mark.slow
def test_every_step_of_a_practice_path_says_what_it_is(hospital: Path, cli: Cli) -> None:
    searched(cli, hospital, "practice")
    for path in lines(hospital / "run" / "paths.jsonl"):
        steps = [line for line in path["reasoning"].splitlines() if line.startswith("### Step")]
        assert len(steps) >= 3
        assert all(PRACTICE_TEXT in step for step in steps)


@pytest.mark.slow
def test_a_search_without_a_path_by_embedded_baselines_says_what_to_do_instead(hospital: Path, cli: Cli) -> None:
    ended = searched(cli, hospital, "offline")
    assert lines(hospital / "run" / "paths.jsonl") == []
    assert "chiron init practice" in ended.stderr
    assert "chiron init practice" in json.dumps(summary(cli, hospital))


def summary(cli: Cli, folder: Path) -> Any:
    """Search again, and return the summary for programs."""
    again = done(cli, "search", folder / "ct" / "cases.jsonl", "--config", folder / "offline.yaml", "--run", folder / "run", "--json")
    return json.loads(again.stdout)
