"""``chiron build check`` and ``chiron build release`` as they are typed."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from chiron.cli.app import app
from chiron.errors import InputError
from tests.evaluation.published import parquet
from tests.mmrp.making import a_row, a_text_row, write_part
from tests.support.browser import CHROMIUM, FLAGS


def test_check_writes_its_page_and_says_what_it_counted(tmp_path: Path) -> None:
    part = write_part(tmp_path / "cot", [a_row(str(n)) for n in range(4)])
    ended = CliRunner().invoke(app, ["build", "check", str(part), "--json", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["rows"] == 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"check.html", "check.json", "findings.jsonl"}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_of_checks_fits_a_telephone_and_shows_no_checksum(tmp_path: Path) -> None:
    checksum = "0a1b" * 16
    rows = [a_row(str(n), reasoning="nothing", images=(f"{n}/{checksum}.png",), id=f"cot:{n}{checksum}") for n in range(2)]
    part = write_part(tmp_path / "cot", rows)
    assert CliRunner().invoke(app, ["build", "check", str(part), "--limit", "steps=1", "--limit", "final_answer=1"]).exit_code == 0
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.goto((part / "check.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.locator(".scroll").evaluate("e => e.scrollWidth <= e.clientWidth")  # no number is out of sight
        assert "0/0a1b0a1b….png" in page.locator("figcaption").all_inner_texts()


def test_check_fails_over_a_limit_and_has_written_its_page(tmp_path: Path) -> None:
    part = write_part(tmp_path / "cot", [a_row(str(n), reasoning="nothing") for n in range(4)])
    ended = CliRunner().invoke(app, ["build", "check", str(part)])
    assert isinstance(ended.exception, InputError)  # which is exit code 2
    assert "steps" in str(ended.exception)
    assert (part / "check.html").is_file()
    assert CliRunner().invoke(app, ["build", "check", str(part), "--limit", "steps=1", "--limit", "final_answer=1"]).exit_code == 0


@pytest.mark.slow
def test_release_says_what_went_where(tmp_path: Path) -> None:
    part = write_part(tmp_path / "text", [a_text_row(str(n)) for n in range(12)])
    out = tmp_path / "release"
    ended = CliRunner().invoke(
        app, ["build", "release", str(part), "--out", str(out), "--ratios", "0.5,0,0.5", "--json"], catch_exceptions=False
    )
    assert ended.exit_code == 0
    told = json.loads(ended.stdout)
    assert sum(told["rows"].values()) == 12
    assert set(told["rows"]) == {"text/train", "text/test"}
    assert (out / "README.md").is_file()


@pytest.mark.parametrize("options", [["--ratios", "1,1,1"], ["--limit", "nothing=1"], ["--images", "/nowhere"]])
def test_options_that_cannot_be_meant_are_named(options: list[str], tmp_path: Path) -> None:
    part = write_part(tmp_path / "text", [a_text_row("1")])
    ended = CliRunner().invoke(app, ["build", "release", str(part), "--out", str(tmp_path / "out"), *options])
    assert isinstance(ended.exception, InputError)
    assert options[0] in str(ended.exception)
    assert not (tmp_path / "out").exists()


QUESTION = "Which of the many lines in this picture of the left chest is the edge of the scapula?"


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Path]:
    """A part of eight rows, and a folder with VQA-RAD of which one item has the image of row 2 and another the question of row 5."""
    rows = [a_row(str(n), **({"question": QUESTION} if n == 5 else {})) for n in range(8)]
    part = write_part(tmp_path / "cot", rows)
    shared = {"bytes": (part / "images/2/0.png").read_bytes(), "path": "0.png"}
    other = {"bytes": write_part(tmp_path / "else", [a_row("z")]).joinpath("images/z/0.png").read_bytes(), "path": "1.png"}
    records = [
        {"image": shared, "question": "is the heart enlarged?", "answer": "no"},
        {"image": other, "question": QUESTION, "answer": "the third"},
        {"image": other, "question": "is there a mass?", "answer": ""},
    ]
    parquet(tmp_path / "benchmarks" / "vqa_rad" / "data" / "test-00000-of-00001.parquet", records)
    return part, tmp_path / "benchmarks"


@pytest.mark.parametrize("below", [True, False])
def test_what_a_benchmark_on_disk_asks_and_shows_is_found(published: tuple[Path, Path], below: bool) -> None:
    part, benchmarks = published
    options = ["--benchmarks", str(benchmarks)] if below else ["--benchmark", f"vqa_rad={benchmarks / 'vqa_rad'}"]
    ended = CliRunner().invoke(app, ["build", "check", str(part), "--json", *options])
    assert isinstance(ended.exception, InputError)
    told = json.loads(ended.stdout)
    assert told["compared_with"] == {"vqa_rad": 2}
    assert {finding["row"] for finding in told["checks"]["overlap"]["examples"]} == {"cot:2", "cot:5"}
    assert told["checks"]["overlap"]["errors"] == 2
    assert "1 records" in ended.stderr  # the one without an answer
    assert "vqa_rad (2 questions)" in (part / "check.html").read_text()


@pytest.mark.slow
def test_a_release_leaves_out_what_a_benchmark_asks(published: tuple[Path, Path], tmp_path: Path) -> None:
    part, benchmarks = published
    arguments = ["build", "release", str(part), "--out", str(tmp_path / "out"), "--benchmarks", str(benchmarks)]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, InputError)
    assert "overlap" in str(refused.exception)
    made = CliRunner().invoke(app, [*arguments, "--limit", "overlap=1", "--json"], catch_exceptions=False)
    assert json.loads(made.stdout)["left_out"] == {"check: overlap": 2}
    assert "compared with vqa\\_rad (2 questions)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--benchmark", "vqa_rad"], "NAME=DIR"),
        (["--benchmark", "vqarad=."], "did you mean 'vqa_rad'"),
        (["--benchmark", "vqa_rad=nowhere"], "nowhere is not a folder"),
        (["--benchmark", "vqa_rad=."], "vqa_rad is not in"),
        (["--benchmarks", "nowhere"], "not a folder"),
        (["--benchmarks", "."], "no subfolder has the name of a benchmark"),
    ],
)
def test_a_benchmark_that_is_not_there_is_said_before_anything_is_looked_at(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = write_part(tmp_path / "cot", [a_row("1")])
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["build", "check", str(part), *options])
    assert isinstance(ended.exception, InputError)
    assert said in str(ended.exception)
    assert not (part / "check.html").exists()
