"""The whole loop at a size that learns nothing: every part runs, goes on where it was left, and is shown."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from chiron.demo import loop
from chiron.demo.data import TINY, make_data
from chiron.demo.demonstration import BEFORE, Demonstration, Progress, demonstrate
from chiron.demo.page import count_weights, write_page
from chiron.demo.stage_rows import build_stage_3, write_rows
from chiron.errors import InputError
from chiron.mics.run import Run, RunSummary
from chiron.training.metrics import HeldOut, StepMetrics
from experiments.arms import ARMS

pytestmark = pytest.mark.slow


class Listener:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self.steps: list[str] = []

    def part(self, text: str) -> None:
        self.parts.append(text)

    def step(self, metrics: StepMetrics | HeldOut) -> None:
        self.steps.append(metrics.stage)

    def arm(self, name: str, news: StepMetrics | HeldOut | Progress) -> None:
        if isinstance(news, Progress):
            assert 0 < news.answered <= news.of
        else:
            self.steps.append(news.stage)


def conduct(run: Run) -> RunSummary:
    # A model that has learned nothing retains nothing; stage 3 gets a path all the same.
    summary = asyncio.run(run.execute())
    paths = run.directory.path / "paths.jsonl"
    if not paths.read_text():
        case = "seen-000000"
        paths.write_text(json.dumps({"case_id": case, "reasoning": "### Step 1: The side is left.\n### The final answer is: X"}) + "\n")
    return summary


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Demonstration, Listener]:
    listener = Listener()
    return demonstrate(tmp_path_factory.mktemp("mini") / "d", TINY, listener, conduct), listener


def test_every_part_runs_once(done: tuple[Demonstration, Listener]) -> None:
    demonstration, listener = done
    assert [s for s in listener.steps if s == "text"] == ["text"] * TINY.text_steps
    assert [s for s in listener.steps if s == "answers"] == ["answers"] * TINY.final_steps * 2
    assert (
        demonstration.summary.total
        == TINY.cases
        == demonstration.summary.rejected + demonstration.summary.unsolved + demonstration.summary.retained
    )
    for arm in demonstration.arms:
        assert arm.measured.seen_share.of == arm.measured.held_out_share.of == TINY.evaluated
        assert all(a.problem is None for a in (*arm.measured.seen, *arm.measured.held_out))
    assert count_weights(demonstration.arms[0].model) > 10_000
    before = demonstration.arms[-1]
    assert (before.name, before.rows, before.model) == (BEFORE, 0, demonstration.base / "model")


def test_a_second_time_trains_and_asks_nothing(done: tuple[Demonstration, Listener]) -> None:
    before, _ = done
    listener = Listener()
    after = demonstrate(before.folder, TINY, listener, conduct)
    assert listener.steps == []
    assert [a.measured for a in after.arms] == [a.measured for a in before.arms]


def test_its_page_shows_answers_with_their_images_and_runs_nothing(done: tuple[Demonstration, Listener]) -> None:
    page = write_page(done[0]).read_text()
    assert page.count('<img class="case"') >= 4
    assert page.count('<img class="curve"') == 3
    assert "default-src &#39;none&#39;" in page
    assert "<script" not in page


def test_retained_paths_become_rows_word_for_word(done: tuple[Demonstration, Listener], tmp_path: Path) -> None:
    data = done[0].data
    rows = build_stage_3(done[0].run, tmp_path / "chains")
    assert rows[0]["messages"][-1]["content"] == "### Step 1: The side is left.\n### The final answer is: X"
    assert rows[0]["images"] == list(data.seen[0].case.images)
    assert write_rows(tmp_path / "rows.jsonl", rows) == rows


def test_an_unknown_policy_is_refused_by_the_search_itself(done: tuple[Demonstration, Listener]) -> None:
    with pytest.raises(InputError, match="policy"):
        loop.team({"x": Path("x")}, done[0].data, seed=0, policy="other")  # type: ignore[arg-type]


def test_the_small_model_has_a_word_for_all_that_it_may_be_asked_to_say(done: tuple[Demonstration, Listener]) -> None:
    from transformers import PreTrainedTokenizerFast

    data = done[0].data
    tokenizer = PreTrainedTokenizerFast.from_pretrained(data.tokenizer)
    for name in ("true chains", "direct answers", "answer, then rationale"):
        for row in ARMS[name](data, done[0].folder, 0):
            said = row["messages"][-1]["content"]
            assert tokenizer.decode(tokenizer(said).input_ids) == said, name


def test_data_are_written_once(done: tuple[Demonstration, Listener]) -> None:
    folder = done[0].folder / "data"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    make_data(folder, TINY, seed=0)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_that_was_moved_is_gone_on_with(done: tuple[Demonstration, Listener], tmp_path: Path) -> None:
    before, _ = done
    shutil.copytree(before.folder, tmp_path / "moved")
    listener = Listener()
    after = demonstrate(tmp_path / "moved", TINY, listener, conduct)
    assert listener.steps == []
    assert [a.measured for a in after.arms] == [a.measured for a in before.arms]
