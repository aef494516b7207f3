"""Published figures: each with source, protocol and its real name, and set apart."""

from pathlib import Path

import pytest

from chiron.errors import InputError
from chiron.evaluation.published import few, published, published_grids, read_published
from chiron.evaluation.registry import benchmarks
from tests.support.command import chiron
from tests.support.evaluations import answers, write_evaluation


def test_every_row_says_where_it_is_from() -> None:
    for row in published():
        assert "arXiv" in row.source
        assert row.protocol in {"huatuo_closed", "chiron_judge"}
        assert row.values.keys() <= benchmarks().keys()


def test_the_two_mislabelled_rows_stand_under_their_real_names() -> None:
    rows = {row.model: row for row in published()}
    assert "calls this row LLaVA-v1.5-7B" in rows["LLaVA-v1.5-LLaMA3-8B"].note
    assert "calls this row HuatuoGPT-Vision-7B" in rows["LLaVA-v1.5-LLaMA3-8B + PubMedVision"].note
    assert list(rows["HuatuoGPT-Vision-7B"].values.values()) == [63.7, 76.2, 57.9, 54.3, 50.6]
    assert "LLaVA-v1.5-7B" not in rows


def test_protocols_have_tables_of_their_own() -> None:
    grids = published_grids(published(), ["slake", "huatuo_slake"])
    assert len(grids) == 2
    for grid in grids:
        assert not grid.measured
        assert grid.title.startswith("Published, not measured here")
        assert grid.head[1] == "huatuo_slake"
        assert all(any(note.startswith(f"{name}: ") for note in grid.notes) for name, _ in grid.rows)


@pytest.mark.slow
def test_the_command_shows_rows_of_ones_own_and_says_how_few_there_are(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path / "run", "ours", answers(0.6, 20))
    (tmp_path / "p.yaml").write_text("- {model: Somebody's, protocol: theirs, source: a letter, values: {vqa_rad: 71}}")
    ended = chiron("compare", run, "--published-from", tmp_path / "p.yaml", "--format", "markdown")
    assert ended.returncode == 0, ended.stderr
    assert "protocol theirs" in ended.stdout
    assert "| 71.0 |" in ended.stdout
    assert "6 rows with 18 figures" in " ".join(ended.stderr.split())
    assert "--published-from FILE" in few(published())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- {model: A, protocol: p, source: s, values: {slake: 120}}", "slake"),
        ("- {model: A, protocol: p, values: {slake: 12}}", "source"),
        ("- {model: A, protocol: p, source: s, values: {slake: 12}, vallues: 1}", "vallues"),
        ("model: A", "published figures"),
        ("- [", "not valid YAML"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=match):
        read_published(tmp_path / "p.yaml")
