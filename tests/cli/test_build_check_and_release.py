"""``chiron build check`` and ``chiron build release`` as they are typed."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from chiron.cli import build_check, build_release
from chiron.errors import InputError
from tests.mmrp.making import a_row, a_text_row, write_part

app = typer.Typer()
app.command("check")(build_check.command)
app.command("release")(build_release.command)


def test_check_writes_its_page_and_says_what_it_counted(tmp_path: Path) -> None:
    part = write_part(tmp_path / "cot", [a_row(str(n)) for n in range(4)])
    ended = CliRunner().invoke(app, ["check", str(part), "--json", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert ended.exit_code == 0
    assert json.loads(ended.stdout)["rows"] == 4
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"check.html", "check.json", "findings.jsonl"}


def test_check_fails_over_a_limit_and_has_written_its_page(tmp_path: Path) -> None:
    part = write_part(tmp_path / "cot", [a_row(str(n), reasoning="nothing") for n in range(4)])
    ended = CliRunner().invoke(app, ["check", str(part)])
    assert isinstance(ended.exception, InputError)  # which is exit code 2
    assert "steps" in str(ended.exception)
    assert (part / "check.html").is_file()
    assert CliRunner().invoke(app, ["check", str(part), "--limit", "steps=1", "--limit", "final_answer=1"]).exit_code == 0


def test_release_says_what_went_where(tmp_path: Path) -> None:
    part = write_part(tmp_path / "text", [a_text_row(str(n)) for n in range(12)])
    out = tmp_path / "release"
    ended = CliRunner().invoke(app, ["release", str(part), "--out", str(out), "--ratios", "0.5,0,0.5", "--json"], catch_exceptions=False)
    assert ended.exit_code == 0
    told = json.loads(ended.stdout)
    assert sum(told["rows"].values()) == 12
    assert set(told["rows"]) == {"text/train", "text/test"}
    assert (out / "README.md").is_file()


@pytest.mark.parametrize("options", [["--ratios", "1,1,1"], ["--limit", "nothing=1"], ["--images", "/nowhere"]])
def test_options_that_cannot_be_meant_are_named(options: list[str], tmp_path: Path) -> None:
    part = write_part(tmp_path / "text", [a_text_row("1")])
    ended = CliRunner().invoke(app, ["release", str(part), "--out", str(tmp_path / "out"), *options])
    assert isinstance(ended.exception, InputError)
    assert options[0] in str(ended.exception)
    assert not (tmp_path / "out").exists()
