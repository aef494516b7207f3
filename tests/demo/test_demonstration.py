"""The whole loop at a size that learns nothing: every part runs, goes on where it was left, and is shown."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from chiron.client.ledger import Ledger
from chiron.demo import data as sizes
from chiron.demo import demonstration, loop, processes
from chiron.demo.data import TINY, make_data
from chiron.demo.demonstration import Demonstration, Progress, demonstrate
from chiron.demo.ladder import LADDER, SHOWN
from chiron.demo.page import count_weights, example_panel, examples, ladder_table, title_of, write_page
from chiron.demo.stage_rows import build_stage_3, write_rows
from chiron.errors import InputError
from chiron.io import read_jsonl
from chiron.mics.run import RunSummary
from chiron.training.metrics import HeldOut, StepMetrics
from tests.support.command import Ended, chiron

pytestmark = pytest.mark.slow


PATH = "### Step 1: The side is left.\n### The final answer is: X"


class Listener:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self.steps: list[str] = []

    def part(self, text: str) -> None:
        self.parts.append(text)

    def step(self, metrics: StepMetrics | HeldOut) -> None:
        self.steps.append(metrics.stage)

    def job(self, name: str, news: StepMetrics | HeldOut | Progress) -> None:
        if isinstance(news, Progress):
            assert 0 <= news.done <= news.of
        else:
            self.steps.append(f"{name}: {news.stage}")


def give_paths(patch: pytest.MonkeyPatch) -> None:
    """Let the searches retain one path, which interns that learned nothing do not."""

    def check(summary: RunSummary) -> None:
        paths = summary.directory / "paths.jsonl"
        if not paths.read_text():
            paths.write_text(json.dumps({"case_id": "seen-000000", "reasoning": PATH}) + "\n")

    patch.setattr(demonstration, "check_search", check)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Demonstration, Listener]]:
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        give_paths(patch)
        yield demonstrate(tmp_path_factory.mktemp("demo") / "tiny-0", TINY, listener), listener


def test_every_rung_has_the_same_cases_and_steps(done: tuple[Demonstration, Listener]) -> None:
    found, listener = done
    assert [s for s in listener.steps if s == "text"] == ["text"] * TINY.text_steps
    assert tuple(rung.name for rung in found.rungs) == SHOWN
    for rung in found.rungs:
        assert rung.measured.seen_share.of == rung.measured.held_out_share.of == TINY.evaluated
        assert all(a.problem is None for a in (*rung.measured.seen, *rung.measured.held_out))
        trained = listener.steps.count(f"{rung.name}: answers")
        assert trained == (0 if rung.name == "base" else TINY.final_steps)
    rows = {rung.name: rung.rows for rung in found.rungs}
    assert rows == {
        "base": 0, "replay_only": 0, "few_true_chains": TINY.annotated, "direct_answers": TINY.cases,
        "mics_paper": 1, "mics_verified": 1, "true_chains": TINY.cases,
    }  # fmt: skip
    assert [intern.rows for intern in found.interns] == [TINY.annotated] * 2
    assert count_weights(found.base / "model") > 10_000


def test_the_ladder_is_written_for_programs(done: tuple[Demonstration, Listener]) -> None:
    ladder = json.loads((done[0].folder / "ladder.json").read_text())
    names = ["base", "replay_only", "few_true_chains", "direct_answers", "mics_paper", "mics_verified", "true_chains"]
    assert [rung["name"] for rung in ladder] == names == list(SHOWN)
    for rung in ladder:
        for part in ("seen", "held_out"):
            low, high = rung[part]["interval"]
            assert rung[part]["n"] == TINY.evaluated
            assert 0 <= low <= rung[part]["right"] / TINY.evaluated <= high <= 1


def run_command(folder: Path, *options: str) -> Ended:
    """Run the command on a finished folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "QUICK", TINY)
        patch.setattr(processes, "cores", lambda: 1)
        ended = chiron("demo", "--quick", "--dir", folder.parent, *options)
    assert ended.returncode == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def command(done: tuple[Demonstration, Listener]) -> Ended:
    return run_command(done[0].folder, "--json")


def test_the_command_prints_the_same_ladder_and_nothing_else(done: tuple[Demonstration, Listener], command: Ended) -> None:
    folder = done[0].folder
    assert json.loads(command.stdout) == json.loads((folder / "ladder.json").read_text())
    assert str(folder / "demo.html") in command.stderr


def test_it_exports_its_tree_and_every_training_signal_and_says_why_one_has_no_row(
    done: tuple[Demonstration, Listener], command: Ended
) -> None:
    folder = done[0].folder
    assert len((folder / "signals" / "tree.jsonl").read_text().splitlines()) == TINY.cases
    rows = {signal.name: signal.rows for signal in done[0].signals}
    assert list(rows) == ["preferences", "rewards", "rl", "reflections"]
    assert rows["rl"] == TINY.cases
    for signal in done[0].signals:
        exported = folder / "signals" / signal.name / "exports" / "trl" / f"{signal.name}.jsonl"
        if signal.rows and signal.name != "reflections":  # these are conversations: rows.jsonl
            assert len(exported.read_text().splitlines()) == signal.rows
        assert bool(signal.why_none) == (signal.rows == 0)
    assert rows["reflections"] == 0  # interns that learned nothing find no step right
    [line] = [line for line in command.stderr.splitlines() if line.startswith("training signals of the search: ")]
    assert f"rewards {rows['rewards']}, rl {rows['rl']}, reflections 0 (no reflection could be built" in line


def test_the_search_alone_has_no_ladder_to_print(tmp_path: Path) -> None:
    finished = chiron("demo", "--search-only", "--dir", tmp_path / "d", "--json")
    assert finished.returncode == 2
    assert "--search-only has no ladder for --json" in finished.stderr
    assert not (tmp_path / "d").exists()


def test_the_paper_rule_asks_nothing_that_the_verified_search_did_not_ask(done: tuple[Demonstration, Listener]) -> None:
    with Ledger.read(done[0].run / "ledger.sqlite") as verified, Ledger.read(done[0].folder / "search-paper" / "ledger.sqlite") as paper:
        assert sum(s.calls for s in paper.spending()) <= sum(s.calls for s in verified.spending())


def test_a_second_time_trains_and_asks_nothing_and_shows_the_ladder(
    done: tuple[Demonstration, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = done
    listener = Listener()
    after: list[Demonstration] = []

    def heard(folder: Path, scale: sizes.Scale, _display: object, **options: int) -> Demonstration:
        after.append(demonstrate(folder, scale, listener, **options))
        return after[0]

    monkeypatch.setattr(demonstration, "demonstrate", heard)
    shown = run_command(before.folder)
    assert listener.steps == []
    assert [rung.measured for rung in after[0].rungs] == [rung.measured for rung in before.rungs]
    assert all(title_of(name) in shown.stdout for name in SHOWN)


def test_its_page_shows_the_ladder_and_answers_with_their_images_and_runs_nothing(done: tuple[Demonstration, Listener]) -> None:
    page = write_page(done[0]).read_text()
    assert page.count('<img class="case"') >= 4
    assert page.count('<rect class="interval"') == 2 * (len(SHOWN) + 2)
    assert "default-src &#39;none&#39;" in page
    assert "<script" not in page


def test_its_picture_in_the_terminal_shows_every_rung_and_both_replies(done: tuple[Demonstration, Listener]) -> None:
    out = Console(file=io.StringIO(), width=160)
    out.print(ladder_table(done[0].rungs))
    for example in examples(done[0], 1):
        out.print(example_panel(example, color=False))
    text = out.file.getvalue()  # type: ignore[attr-defined]
    for name in SHOWN:
        assert title_of(name) in text
    assert text.count("wrong no stage 3:") + text.count("right no stage 3:") == 2


def test_retained_paths_become_rows_word_for_word(done: tuple[Demonstration, Listener], tmp_path: Path) -> None:
    data = done[0].data
    rows = build_stage_3(done[0].run, tmp_path / "chains")
    assert rows[0]["messages"][-1]["content"] == PATH
    assert rows[0]["images"] == list(data.seen[0].case.images)
    write_rows(tmp_path / "rows.jsonl", rows)
    assert [line.value for line in read_jsonl(tmp_path / "rows.jsonl")] == rows


def test_an_unknown_policy_is_refused_by_the_search_itself(done: tuple[Demonstration, Listener]) -> None:
    with pytest.raises(InputError, match="policy"):
        loop.team({"x": Path("x")}, done[0].data, seed=0, policy="other")  # type: ignore[arg-type]


def test_the_small_model_has_a_word_for_all_that_it_may_be_asked_to_say(done: tuple[Demonstration, Listener]) -> None:
    from transformers import PreTrainedTokenizerFast

    data = done[0].data
    tokenizer = PreTrainedTokenizerFast.from_pretrained(data.tokenizer)
    for name in ("true_chains", "direct_answers", "answer_then_rationale", "few_true_chains"):
        rows_of = LADDER[name].rows
        assert rows_of is not None
        for row in rows_of(data, done[0].folder, 0):
            reply = row["messages"][-1]["content"]
            assert tokenizer.decode(tokenizer(reply).input_ids) == reply, name


def test_data_are_written_once(done: tuple[Demonstration, Listener]) -> None:
    folder = done[0].folder / "data"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    make_data(folder, TINY, seed=0)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_moved_folder_is_resumed_with_the_rung_that_is_missing(done: tuple[Demonstration, Listener], tmp_path: Path) -> None:
    before, _ = done
    moved = tmp_path / "moved"
    shutil.copytree(before.folder, moved)
    shutil.rmtree(moved / "true_chains")
    (moved / "ladder.json").unlink()
    listener = Listener()
    after = demonstrate(moved, TINY, listener)
    assert listener.steps == ["true_chains: answers"] * TINY.final_steps
    assert (moved / "ladder.json").read_text() == (before.folder / "ladder.json").read_text()
    assert [rung.measured for rung in after.rungs] == [rung.measured for rung in before.rungs]
