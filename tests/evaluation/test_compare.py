"""Runs side by side: what stands in the tables, and what is never put into one."""

import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from chiron.cli import compare as command
from chiron.errors import InputError
from chiron.evaluation.comparing import Comparison, compare, reference_of
from chiron.evaluation.items import ItemResult, Verdict
from chiron.evaluation.read_runs import read_evaluations
from chiron.evaluation.statistics import Share
from chiron.evaluation.tables.content import grids
from chiron.evaluation.tables.formats import Grid, cell, html, latex, markdown, show
from tests.support.evaluations import an_item, answers, with_verdict, write_evaluation, write_models


def compared(*runs: Path) -> list[Comparison]:
    return compare(read_evaluations(runs))


def said(comparison: Comparison, model: str, benchmark: str = "vqa_rad", number: int = 0) -> str:
    grid = grids(comparison)[number]
    column = next(i for i, title in enumerate(grid.head) if title.split(" (")[0] == benchmark) - 1
    return "\n".join(dict(grid.rows)[model][column].lines)


def verdicts(right: int, wrong: int, unparsed: int = 0, **changes: object) -> list[ItemResult]:
    kinds = [Verdict.RIGHT] * right + [Verdict.WRONG] * wrong + [Verdict.UNPARSED] * unparsed
    return [with_verdict(an_item(number, **changes), kind) for number, kind in enumerate(kinds)]


def test_three_models(tmp_path: Path) -> None:
    [found] = compared(*write_models(tmp_path))
    good, close, bad = (found.cells[name, "vqa_rad"] for name in ("Good-8B", "Close-2B", "Bad-2B"))
    assert good.is_reference
    assert good.against is None
    assert close.against is not None
    assert bad.against is not None
    assert (close.against.adjusted or 0) > 0.05 > (bad.against.adjusted or 1)
    assert close.against.adjusted is not None
    assert close.against.p is not None
    assert close.against.adjusted >= close.against.p
    assert found.tests == 2
    assert good.accuracy.groups == 100
    assert good.accuracy.share.method == "cluster t"
    assert "***" in said(found, "Bad-2B")
    assert "*" not in said(found, "Close-2B")
    assert "unparsed" in said(found, "Bad-2B")


def test_a_small_table_worked_by_hand(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", "A", verdicts(9, 1))
    second = write_evaluation(tmp_path / "b", "B", verdicts(1, 7, 2))
    [found] = compared(first, second)
    a, b = found.cells["A", "vqa_rad"], found.cells["B", "vqa_rad"]
    assert (b.accuracy.right, b.accuracy.items, b.accuracy.unparsed) == (1, 10, 2)
    assert a.accuracy.share.interval == pytest.approx((0.596, 0.982), abs=1e-3)  # Wilson, 9 of 10
    assert b.against is not None
    assert b.against.p == pytest.approx(2 / 2**8)  # 8 differ, all one way
    assert b.accuracy.missing_left_out.of == 8
    assert said(found, "B").splitlines()[:2] == ["10.0 [1.8, 40.4]**", "unparsed 20.0 %"]
    assert "(N 10)" in grids(found)[0].head[1]


def test_where_items_share_images_whole_images_are_swapped(tmp_path: Path) -> None:
    """Eight questions, all won, are four fair coins if they are about four images: no star."""
    shared = [replace(r, group=f"image {i // 2}") for i, r in enumerate(verdicts(8, 0))]
    lost = [with_verdict(r, Verdict.WRONG) for r in shared]
    alone = verdicts(8, 0, benchmark="slake")
    runs = (
        write_evaluation(tmp_path / "a", "A", [*shared, *alone]),
        write_evaluation(tmp_path / "b", "B", [*lost, *(with_verdict(r, Verdict.WRONG) for r in alone)]),
    )
    [found] = compared(*runs)
    swapped, single = (found.cells["B", name].against for name in ("vqa_rad", "slake"))
    assert swapped is not None
    assert single is not None
    assert (swapped.test, single.test) == ("image swaps", "McNemar")
    assert (swapped.p, single.p) == pytest.approx((2 / 2**4, 2 / 2**8))
    notes = grids(found)[0].notes
    assert any("swaps the two models' answers for whole images" in note and note.endswith("(vqa_rad).") for note in notes)
    assert any("McNemar's, exact" in note and note.endswith("(slake).") for note in notes)


def test_few_images_are_a_warning(tmp_path: Path) -> None:
    few = write_evaluation(tmp_path / "a", "A", [replace(r, group=f"image {i % 19}") for i, r in enumerate(verdicts(30, 27))])
    enough = write_evaluation(tmp_path / "b", "B", [replace(r, group=f"image {i % 20}") for i, r in enumerate(verdicts(30, 30))])
    [found] = compared(few, enough)
    assert "only 19 images" in said(found, "A")
    assert "only" not in said(found, "B")
    assert any(note.startswith("Fewer than 20 images") for note in grids(found)[0].notes)
    [found] = compared(enough)
    assert not any("20 images" in note for note in grids(found)[0].notes)


def test_items_that_differ_are_not_tested(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", "A", verdicts(40, 0))
    part = write_evaluation(tmp_path / "b", "B", verdicts(0, 30))
    other = write_evaluation(tmp_path / "c", "C", [replace(r, answer="Cyst") for r in verdicts(0, 40)])
    [found] = compared(first, part, other)
    for name in ("B", "C"):
        against = found.cells[name, "vqa_rad"].against
        assert against is not None
        assert against.p is None
        assert "not tested: other items" in said(found, name)
    assert "N 30" in said(found, "B")
    assert found.tests == 0


def test_pending_items_are_shown_and_not_tested(tmp_path: Path) -> None:
    pending = [*verdicts(10, 5), *(with_verdict(an_item(n), Verdict.PENDING) for n in range(15, 20))]
    [found] = compared(write_evaluation(tmp_path / "a", "A", pending), write_evaluation(tmp_path / "b", "B", verdicts(20, 0)))
    assert "5 pending" in said(found, "A")
    assert "not tested: pending items" in said(found, "A")
    assert any("5 answers are pending" in note for note in grids(found)[0].notes)
    assert found.cells["A", "vqa_rad"].accuracy.share.value == 0.5


def test_protocols_never_share_a_table(tmp_path: Path) -> None:
    first = write_evaluation(tmp_path / "a", "A", verdicts(6, 4))
    second = write_evaluation(tmp_path / "b", "B", verdicts(6, 2, 2, protocol="chiron_judge"))
    found = compared(first, second)
    assert [c.protocol for c in found] == ["huatuo_closed", "chiron_judge"]
    assert [c.models for c in found] == [("A",), ("B",)]
    assert "as published (missing left out): 75.0 of 8" in said(found[1], "B")
    assert said(found[1], "B").startswith("60.0")


def test_runs_of_one_model_become_one_unless_they_asked_the_same(tmp_path: Path) -> None:
    real = write_evaluation(tmp_path / "real", "M", verdicts(30, 10))
    blank = write_evaluation(tmp_path / "blank", "M", verdicts(10, 30, control="blank"))
    [together] = read_evaluations([real, blank])
    assert together.name == "M"
    again = write_evaluation(tmp_path / "again", "M", verdicts(29, 11))
    assert [m.name for m in read_evaluations([real, again])] == ["M (real)", "M (again)"]
    [found] = compared(real, blank)
    control = found.controls["M", "blank", "vqa_rad"]
    assert control.difference is not None
    assert control.difference.value == pytest.approx(-0.5)
    assert control.difference.interval is not None
    assert control.difference.interval[1] < 0
    assert "to real run \N{MINUS SIGN}50.0 [" in said(found, "M, blank", number=1)


def configured(folder: Path, items: list[ItemResult], **identity: object) -> Path:
    run = write_evaluation(folder, "local", items)
    (run / "run.json").write_text(json.dumps({"model": "local", "identity": {"model": ["one", 64], "temperature": 0.0, **identity}}))
    return run


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"model": ["another", 64]}, "the model itself"),
        ({"temperature": 0.9}, "temperatures"),
        ({"image_side": 448}, "image sizes"),
        ({"prompts": {"choice": "abc"}}, "prompts"),
        ({"model": ["one", 8]}, "token limits"),
    ],
)
def test_one_name_for_two_models_or_manners_makes_two_rows(tmp_path: Path, other: dict[str, object], told: str) -> None:
    real = configured(tmp_path / "real", verdicts(30, 10))
    blank = configured(tmp_path / "blank", verdicts(10, 30, control="blank"), **other)
    more = configured(tmp_path / "more", verdicts(10, 30, benchmark="slake"))
    assert [m.name for m in read_evaluations([real, blank, more])] == ["local (real + more)", "local (blank)"]
    [found] = compared(real, blank, more)
    assert found.controls["local (blank)", "blank", "vqa_rad"].problem == "no real run"
    assert any(told in note for note in grids(found)[0].notes)


def test_settings_that_differ_between_models_are_noted(tmp_path: Path) -> None:
    first, second = write_evaluation(tmp_path / "a", "A", verdicts(6, 4)), write_evaluation(tmp_path / "b", "B", verdicts(6, 4))
    for run, temperature in ((first, 0.0), (second, 0.7)):
        (run / "run.json").write_text(json.dumps({"model": run.name, "identity": {"temperature": temperature}}))
    [found] = compared(first, second)
    assert "Temperatures differ: 0.0 (a), 0.7 (b)." in grids(found)[0].notes


def test_options_and_data_that_differ_are_other_items(tmp_path: Path) -> None:
    def of(name: str, items: list[ItemResult], fingerprint: str) -> Path:
        group = {"benchmark": "vqa_rad", "control": "none", "protocol": "huatuo_closed", "data": {"fingerprint": fingerprint}}
        return write_evaluation(tmp_path / name, name, items, [group])

    first = of("A", verdicts(20, 0), "one")
    same = of("B", verdicts(10, 10), "one")
    options = of("C", verdicts(10, 10, options=("Fracture", "Tumour")), "one")
    data = of("D", verdicts(10, 10), "two")
    [found] = compared(first, same, options, data)
    problems = {name: against.problem for (name, _), cell in found.cells.items() if (against := cell.against) is not None}
    assert problems == {"B": "", "C": "other items", "D": "other items"}


def test_a_control_on_other_items_has_no_difference(tmp_path: Path) -> None:
    items = [*verdicts(30, 10), *verdicts(10, 20, control="blank")]
    [found] = compared(write_evaluation(tmp_path / "a", "A", items))
    assert found.controls["A", "blank", "vqa_rad"].difference is None
    assert "no difference: other items" in said(found, "A, blank", number=1)


def test_rows_that_look_alike_stay_apart(tmp_path: Path) -> None:
    one = write_evaluation(tmp_path / "a", "A", [*verdicts(30, 10), *verdicts(10, 30, control="blank")])
    other = write_evaluation(tmp_path / "b", "A, blank", [*verdicts(20, 20), *verdicts(5, 35, control="blank")])
    grid = grids(compared(one, other)[0])[1]
    assert [(name, cells[0].lines[0].split()[0]) for name, cells in grid.rows] == [
        ("A", "75.0"),
        ("A, blank", "25.0"),
        ("A, blank", "50.0"),
        ("A, blank, blank", "12.5"),
    ]


def test_shuffled_options_tell_how_steady_answers_are(tmp_path: Path) -> None:
    real = verdicts(20, 0)
    steady = [replace(r, control="shuffle-options", seed=0) for r in real]
    fickle = [
        with_verdict(replace(r, control="shuffle-options", seed=1), Verdict.WRONG if i % 2 else Verdict.RIGHT) for i, r in enumerate(real)
    ]
    [found] = compared(write_evaluation(tmp_path / "a", "A", [*real, *steady, *fickle]))
    same = found.controls["A", "shuffle-options", "vqa_rad"].consistency
    assert same is not None
    assert (same.items, same.always_same) == (20, 10)
    assert "same answer 50.0 %" in said(found, "A, shuffle-options", number=1)


def test_seeds(tmp_path: Path) -> None:
    items = [replace(r, seed=seed) for seed, right in enumerate((10, 12, 14)) for r in verdicts(right, 20 - right)]
    [found] = compared(write_evaluation(tmp_path / "a", "A", items))
    accuracy = found.cells["A", "vqa_rad"].accuracy
    assert (accuracy.items, accuracy.asked) == (20, 60)
    assert accuracy.seeds is not None
    assert accuracy.seeds.sd == pytest.approx(0.1)
    assert "3 seeds: sd 10.0, 50.0 to 70.0" in said(found, "A")


def test_a_reference_may_be_named(tmp_path: Path) -> None:
    runs = write_models(tmp_path)
    models = read_evaluations(runs)
    [found] = compare(models, reference=reference_of(models, runs[2]))
    assert found.cells["Bad-2B", "vqa_rad"].is_reference
    against = found.cells["Good-8B", "vqa_rad"].against
    assert against is not None
    assert against.difference is not None
    assert against.difference.value > 0
    with pytest.raises(InputError, match="not one of the compared runs"):
        reference_of(models, tmp_path / "elsewhere")


def test_judges_that_differ_are_not_tested(tmp_path: Path) -> None:
    def judged(name: str, judge: str) -> Path:
        group = {"benchmark": "vqa_rad", "control": "none", "protocol": "chiron_judge", "judge": judge, "limit": 10, "n_of_benchmark": 251}
        return write_evaluation(tmp_path / name, name, verdicts(6, 4, protocol="chiron_judge"), [group])

    [found] = compared(judged("A", "deepseek"), judged("B", "gpt"))
    assert "not tested: another judge" in said(found, "B")
    notes = "\n".join(grids(found)[0].notes)
    assert "judges differ" in notes
    assert "the first 10 of 251 items" in notes


def test_other_metrics(tmp_path: Path) -> None:
    items = [
        replace(r, scores={"judge:gpt": float(i < 15), "mics_score@1": 0.5, "token_recall": None}) for i, r in enumerate(verdicts(10, 10))
    ]
    [found] = compared(write_evaluation(tmp_path / "a", "A", items))
    grid = grids(found)[1]
    assert [name for name, _ in grid.rows] == ["A, judge:gpt", "A, mics_score@1"]
    assert grid.rows[0][1][0].figure.startswith("0.750 [")
    assert grid.rows[0][1][0].lines[1] == "n 20 of 20"


def test_a_judge_that_always_says_yes_is_not_certain(tmp_path: Path) -> None:
    items = [replace(r, scores={"judge:gpt": 1.0, "mics_score": 0.5}, group=f"image-{i // 2}") for i, r in enumerate(verdicts(10, 10))]
    [found] = compared(write_evaluation(tmp_path / "a", "A", items))
    scores = found.cells["A", "vqa_rad"].scores
    assert scores["judge:gpt"].interval == Share(10, 10).interval
    assert scores["judge:gpt"].method == "Wilson"
    assert scores["mics_score"].interval == Share(5, 10).interval
    assert any("with one answer per image" in note for note in grids(found)[1].notes)


def test_by_label(tmp_path: Path) -> None:
    [found] = compared(write_evaluation(tmp_path / "a", "A", verdicts(20, 10)))
    grid = grids(found, label="modality")[-1]
    assert grid.head == ("model", "CT", "MRI", "X-ray")
    assert [c.lines[1] for c in grid.rows[0][1]] == ["N 10"] * 3
    with pytest.raises(InputError, match=r"no item .* modality"):
        grids(found, label="organ")


def test_all_right_is_not_certain(tmp_path: Path) -> None:
    shared = [replace(r, group="one" if i < 10 else "two") for i, r in enumerate(verdicts(20, 0))]
    alone = [replace(r, group="one") for r in verdicts(10, 10)]
    [found] = compared(write_evaluation(tmp_path / "a", "A", shared), write_evaluation(tmp_path / "b", "B", alone))
    low, high = found.cells["A", "vqa_rad"].accuracy.share.interval or (1, 1)
    assert (low, high) == pytest.approx((0.342, 1.0), abs=1e-3)  # Wilson, 2 of 2: two images
    assert found.cells["B", "vqa_rad"].accuracy.share.interval is None
    assert "[no interval]" in said(found, "B")


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda run: (run / "run.json").unlink(), "not a run directory"),
        (lambda run: (run / "run.json").write_text("{}"), "does not name a model"),
        (lambda run: (run / "items.jsonl").unlink(), "cannot be read"),
        (lambda run: (run / "items.jsonl").write_text(""), "contains no items"),
        (lambda run: (run / "items.jsonl").write_text("{}\n"), "line 1"),
        (lambda run: (run / "items.jsonl").write_text((run / "items.jsonl").read_text() * 2), "occurs 2 times"),
        (lambda run: (run / "results.json").write_text("[]"), "results.json cannot be read"),
    ],
)
def test_broken_runs(tmp_path: Path, break_it: object, match: str) -> None:
    run = write_evaluation(tmp_path / "a", "A", verdicts(2, 2))
    break_it(run)  # type: ignore[operator]
    with pytest.raises(InputError, match=match):
        read_evaluations([run])


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    run = write_evaluation(tmp_path / "a", "A", verdicts(2, 2))
    with pytest.raises(InputError, match="named twice"):
        read_evaluations([run, tmp_path / "." / "a"])


HOSTILE = 'x_$\\input{/etc/passwd}%&#{}~^ | <script>alert(1)</script> `id` [a](b) "q"\x1b[31m\n\\end{tabular}'
GRID = Grid(HOSTILE, (HOSTILE, HOSTILE), ((HOSTILE, (cell(HOSTILE, HOSTILE, strong=True),)),), (HOSTILE,))


def compiled(folder: Path, *grids: Grid) -> str:
    """Compile the tables in an article and return what LaTeX printed."""
    text = f"\\documentclass{{article}}\\usepackage{{booktabs,graphicx}}\\begin{{document}}\n{latex(grids)}\\end{{document}}\n"
    (folder / "t.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs TeX Live")
def test_latex_compiles_and_no_table_leaves_the_page(tmp_path: Path) -> None:
    compiled(tmp_path, GRID)
    wide = Grid("Wide", ("model", *"abcdefgh"), (("m", (cell("79.0 [73.0, 84.5]", "unparsed 1.5 %"),) * 8),), ("A short note.",))
    rows = tuple((f"m{n}", (cell("1"),)) for n in range(30))
    printed = compiled(tmp_path, wide, Grid("Long", ("model", "a"), rows, ("A note of seven-and-more words, as a text. " * 20,) * 4))
    assert "Output written" in printed
    assert "Float too large" not in printed
    assert "Overfull" not in printed


def test_a_wide_latex_table_is_shrunk_and_long_notes_follow_it() -> None:
    text = latex([Grid("T", ("model", "a"), (), ("short",)), Grid("T", ("model", "a"), (), ("long " * 400,))])
    first, second = text.split("\\begin{table}")[1:]
    assert r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\begin{tabular}" in first
    assert first.index("short") < first.index(r"\end{table}")
    assert second.index("long") > second.index(r"\end{table}")


def test_latex_is_escaped() -> None:
    text = latex([GRID])
    assert "\\input" not in text
    assert "\x1b" not in text
    assert text.count("\\end{tabular}") == 1
    # Known only to encodings that take a package to load.
    assert "textquotedbl" not in text
    # Whatever is special stands escaped or in our own commands.
    for bad in ("_", "#", "&", "%"):
        assert not re.search(rf"(?<!\\){bad}", text.replace(" & ", "").replace(r"\&", ""))


def test_markdown_is_escaped() -> None:
    text = markdown([GRID])
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)
    assert re.search(r"(?<!\\)<(?!br>)", text) is None
    assert "\x1b" not in text


def test_html_is_escaped() -> None:
    text = html([GRID])
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "default-src 'none'" in text or "default-src &#39;none&#39;" in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_narrow_terminal_gets_fewer_columns_and_whole_figures(width: int) -> None:
    figures = [f"{n}4.3 [{n}1.25, {n}7.75]***" for n in range(1, 7)]
    table = Grid("Accuracy", ("model", *(f"benchmark_{n} (N 12,345)" for n in range(1, 7))), (("Good-8B", tuple(map(cell, figures))),))
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as caught:
        show([table], console)
    lines = caught.get().splitlines()
    assert all(any(figure in line for line in lines) for figure in (*figures, *table.head))
    assert all(len(line) <= width for line in lines)
    assert sum(line.startswith("Good-8B") for line in lines) == {40: 6, 60: 3, 80: 3, 200: 1}[width]


def run_command(*args: object) -> str:
    import typer

    app = typer.Typer()
    app.command()(command.command)
    done = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    runs = write_models(tmp_path)
    assert "Good-8B" in run_command(*runs)
    assert run_command(*runs, "--format", "markdown").startswith("### Accuracy")
    assert "\\begin{tabular}" in run_command(*runs, "--format", "latex")
    assert json.loads(run_command(*runs, "--format", "json", "--by", "modality"))[0]["head"][1] == "vqa_rad (N 200)"
    shown = run_command(
        *runs, "--published", "comparable", "--format", "html", "--out", tmp_path / "t.html", "--items", tmp_path / "i.html"
    )
    assert shown.strip().endswith("t.html")
    assert 'class="published"' in (tmp_path / "t.html").read_text()
    assert "q199" in (tmp_path / "i.html").read_text()


def test_known_accuracies_are_found() -> None:
    assert sum(r.right for r in answers(0.8, 2000, seed=1)) / 2000 == pytest.approx(0.8, abs=0.04)
