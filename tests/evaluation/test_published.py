"""Published figures: each with source, protocol and its real name, and set apart."""

from pathlib import Path

import pytest
import yaml

from chiron.errors import InputError
from chiron.evaluation.published import UNKNOWN, Published, comparable, few, published, published_grids, read_published
from chiron.evaluation.registry import suite_of, suites
from tests.evaluation.test_compare import run_command
from tests.support.command import chiron
from tests.support.evaluations import answers, write_evaluation

SHARED = Path(__file__).parents[3] / "shared" / "facts" / "published_tables.yaml"


def table(name: str) -> list[Published]:
    return [row for row in published() if row.table == name]


def test_every_row_says_where_it_is_from() -> None:
    keys = {column.key for suite in suites().values() for column in suite.columns}
    for row in published():
        assert "arXiv" in row.source
        assert row.protocol in {UNKNOWN, "huatuo_closed", "chiron_judge"}
        assert row.values.keys() <= keys
        assert row.protocol != UNKNOWN or "does not say how" in row.note


def test_the_mislabelled_rows_say_what_was_measured() -> None:
    rows = {row.printed: row for row in table("table1") if row.printed}
    assert {name: row.model for name, row in rows.items()} == {
        "GTP-4o": "GPT-4o",
        "LLaVA-v1.5-7B": "LLaVA-v1.5-LLaMA3-8B",
        "LLaVA-Med": "LLaVA-Med-7B",
        "HuatuoGPT-Vision-7B": "LLaVA-v1.5-LLaMA3-8B + PubMedVision",
    }
    (real,) = [row for row in published() if row.model == "HuatuoGPT-Vision-7B"]
    assert list(real.values.values()) == [63.7, 76.2, 57.9, 54.3, 50.6]
    assert not real.table


def test_only_three_printed_averages_do_not_agree_with_their_rows_and_their_notes_say_so() -> None:
    columns = [column.key for column in suite_of("table1").averaged]
    wrong = set()
    for row in table("table1"):
        values = [row.values[key] for key in columns if key in row.values]
        assert row.average is not None
        if abs(sum(values) / len(values) - row.average) > 0.0501:
            wrong.add(row.printed or row.model)
            assert f"printed {row.average}" in row.note
        assert ("over the other four" in row.note) == (len(values) == 4)
    assert wrong == {"GTP-4o", "Yi-VL-34B", "Med-Flamingo"}


@pytest.mark.skipif(not SHARED.exists(), reason="the recorded tables are not at hand")
def test_all_rows_of_both_tables_are_as_printed() -> None:
    recorded = yaml.safe_load(SHARED.read_text())
    for name, count in (("table1", 22), ("table2", 6)):
        suite, rows = suite_of(name), table(name)
        assert len(rows) == count
        for row, printed in zip(rows, recorded[name]["rows"], strict=True):
            assert (row.printed or row.model, row.group) == (printed["model"], printed.get("group", ""))
            ours = [row.values.get(column.key) for column in suite.columns]
            assert [*ours, row.average][: len(printed["values"])] == printed["values"]
            assert row.text_only == (row.model in recorded[name].get("text_only", ()))


@pytest.mark.parametrize(("form", "group"), [("terminal", "Medical MLLM"), ("markdown", "*Medical MLLM*"), ("latex", "{Medical MLLM}")])
def test_compare_prints_a_paper_table_as_it_stands_without_any_run(form: str, group: str) -> None:
    text = run_command("--published", "table1", "--format", form)
    lines = [line.strip() for line in text.splitlines()]
    assert group in text
    assert "its figures give 51.08" in text
    assert "over 4 columns" in text
    order = [next(n for n, line in enumerate(lines) if name in line) for name in ("Gemini", "Open", "Yi", "RadFM", "Reasoning")]
    assert order == sorted(order)
    assert sum("unknown" in line or "closed" in line or "judge" in line for line in lines) >= 22


def test_table_two_marks_text_only_models_with_an_asterisk(tmp_path: Path) -> None:
    run_command("--published", "table2", "--format", "html", "--out", tmp_path / "t.html")
    text = (tmp_path / "t.html").read_text()
    assert 'class="published"' in text
    assert "HuatuoGPT-o1*" in text
    assert "* A text-only model" in text
    assert "Chiron-o1-8B*" not in text


def test_an_unknown_table_and_no_run_are_refused() -> None:
    with pytest.raises(InputError, match="unknown suite 'tabel1'; did you mean 'table1'"):
        run_command("--published", "tabel1")
    with pytest.raises(InputError, match="no run directory"):
        run_command("--published", "comparable")


def test_protocols_have_tables_of_their_own() -> None:
    grids = published_grids(comparable(published()), ["slake", "huatuo_slake"])
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
    assert "14 rows with 66 figures" in " ".join(ended.stderr.split())
    assert "--published-from FILE" in few(comparable(published()))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- {model: A, protocol: p, source: s, values: {slake: 120}}", "slake"),
        ("- {model: A, protocol: p, values: {slake: 12}}", "source"),
        ("- {model: A, protocol: p, source: s, values: {slake: 12}, vallues: 1}", "vallues"),
        ("model: A", "p.yaml: the file is not a list"),
        ("- [", "not valid YAML"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=match):
        read_published(tmp_path / "p.yaml")
