"""The benchmarks in inspect_ai and for VLMEvalKit."""

import base64
import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chiron.cases.images import ImageFolder
from chiron.errors import InputError
from chiron.evaluation.benchmarks.benchmark import Benchmark
from chiron.evaluation.benchmarks.loading import LoadedBenchmark, load
from chiron.evaluation.items import Item
from chiron.evaluation.registry import benchmark_of, benchmarks, protocol_of
from chiron.evaluation.tsv import export_tsv
from chiron.providers.local.dialogue import Turn
from tests.evaluation import published
from tests.support.command import chiron, environment
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


def test_every_benchmark_is_a_task_of_inspect() -> None:
    pytest.importorskip("inspect_ai")
    from chiron.evaluation import inspect_tasks

    for name in benchmarks():
        assert callable(getattr(inspect_tasks, name))


INSPECT = """
import json, sys
from inspect_ai import eval as inspect_eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from chiron.evaluation.registry import benchmark_of
from chiron.evaluation.inspect_tasks import task_of
replies = [ModelOutput.from_content("mockllm/model", text) for text in ("The answer is A.", "B", "Yes and no", "(b) no")]
for reply in replies:
    reply.usage = ModelUsage()  # else the mock counts tokens by a vocabulary that it downloads
model = get_model("mockllm/model", custom_outputs=replies)
task = task_of(benchmark_of("vqa_rad"), sys.argv[1])
(log,) = inspect_eval(task, model=model, log_dir=sys.argv[2], display="none", max_connections=1, max_samples=1)
scores = [[sample.scores["chiron"].value, sample.scores["chiron"].answer] for sample in log.samples]
print(json.dumps([log.status, scores, [part.type for part in log.samples[0].input[0].content]]))
"""


def test_inspect_asks_and_scores_as_the_protocol_does(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    published.vqa_rad(tmp_path / "d")
    # In a process of its own: inspect leaves streams unclosed, which is an error here.
    command = [sys.executable, "-c", INSPECT, str(tmp_path / "d"), str(tmp_path / "logs")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment())
    assert ended.returncode == 0, ended.stderr
    status, scores, parts = json.loads(ended.stdout.splitlines()[-1])
    assert status == "success"
    assert scores == [["C", "yes"], ["C", "no"], ["I", None], ["C", "no"]]
    assert parts == ["image", "text"]


def test_inspect_sends_the_turns_of_a_conversation_one_by_one(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    from chiron.evaluation.inspect_tasks import task_of

    published.jsonl(tmp_path / "d" / "q.jsonl", [{"q": "Where?"}])
    turns = (Turn("system", "Be brief."), Turn("user", "What is it?"), Turn("assistant", "A cyst."), Turn("user", "Where?"))
    own = Benchmark(
        "own", "own", "1", 1, "", ("q.jsonl",), ("q",), lambda row: Item("1", row.text("q"), "liver", asked=turns), needs_image=False
    )
    (sample,) = task_of(own, str(tmp_path / "d"), "exact").dataset
    assert [(message.role, message.text) for message in sample.input if not isinstance(message, str)] == [(t.role, t.text) for t in turns]


COMMAND = """
import runpy, sys
import tiktoken

class Vocabulary:
    def encode(self, text, **_):
        return text.split()

tiktoken.get_encoding = lambda _: Vocabulary()  # the mock counts tokens by one that it would download
sys.argv[0] = "inspect"
runpy.run_module("inspect_ai", run_name="__main__")
"""


def test_inspects_own_command_finds_the_tasks(tmp_path: Path) -> None:
    """Through the entry point, by the name that the documentation gives."""
    pytest.importorskip("inspect_ai")
    published.vqa_rad(tmp_path / "d")
    more = ["--model", "mockllm/model", "-T", f"data={tmp_path / 'd'}", "--display", "plain", "--log-dir", str(tmp_path / "logs")]
    command = [sys.executable, "-c", COMMAND, "eval", "chiron/vqa_rad", *more, "--log-format", "json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment(), cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (written,) = (tmp_path / "logs").glob("*.json")
    log = json.loads(written.read_text())
    assert (log["status"], log["eval"]["task"], log["eval"]["dataset"]["samples"]) == ("success", "vqa_rad", 4)
    assert {sample["scores"]["chiron"]["value"] for sample in log["samples"]} == {"I"}  # the mock answers no question


def written_rows(path: Path) -> list[dict[str, str]]:
    limit = csv.field_size_limit(2**24)  # of the whole process
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))
    finally:
        csv.field_size_limit(limit)


def test_a_tsv_holds_the_bytes_of_its_images(tmp_path: Path) -> None:
    data = published.huatuo(tmp_path / "d", {"image": ["images/lost.png"]}, {"image": ["images/brain002206.png"] * 2})
    found = load(benchmark_of("huatuo_omnimed"), data, tmp_path)
    count, left_out = export_tsv(found, protocol_of("huatuo_closed"), tmp_path / "o.tsv")
    rows = written_rows(tmp_path / "o.tsv")
    assert count == 2 == len(rows)
    assert left_out == [f"huatuo_omnimed-00002: {left_out[0].partition(': ')[2]}"]
    assert "missing" in left_out[0]
    assert list(rows[0]) == ["index", "id", "image", "question", "A", "B", "C", "D", "answer", "category", "split"]
    assert base64.b64decode(rows[0]["image"]) == published.png()
    assert (rows[0]["D"], rows[0]["answer"]) == ("Chronic infarct", "D")
    assert len(json.loads(rows[1]["image"].replace("'", '"'))) == 2


def exported(tmp_path: Path, *items: Item, protocol: str = "exact") -> tuple[list[dict[str, str]], list[str]]:
    """The rows that are written of these items, and what was left out."""
    (tmp_path / "1.png").write_bytes(published.png())
    loaded = LoadedBenchmark("slake", items, tmp_path, ImageFolder(tmp_path).check)
    _, left_out = export_tsv(loaded, protocol_of(protocol), tmp_path / "o.tsv")
    return written_rows(tmp_path / "o.tsv"), left_out


CHOICE = Item("x/1", "Which organ?", "Lung", ("1.png",), ("Lung", "None"), 0, "choice")
OPEN = Item("x/2", "Which organ?", "Lung", ("1.png",))


def test_a_choice_file_has_no_row_without_options(tmp_path: Path) -> None:
    rows, left_out = exported(tmp_path, CHOICE, OPEN, replace(CHOICE, id="x/3"))
    assert [(row["index"], row["id"], row["answer"]) for row in rows] == [("0", "x/1", "A"), ("1", "x/3", "A")]
    assert left_out == ["x/2: it has no options, and VLMEvalKit reads this file as multiple choice"]


def test_open_questions_alone_are_a_file_without_options(tmp_path: Path) -> None:
    rows, left_out = exported(tmp_path, OPEN, replace(OPEN, id="x/4", answer="NA"))
    assert list(rows[0]) == ["index", "id", "image", "question", "answer", "category", "split"]
    assert [row["answer"] for row in rows] == ["Lung", "NA "]  # bare, pandas takes it for an empty cell
    assert left_out == []


def test_an_option_that_pandas_takes_for_an_empty_cell_survives(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    exported(tmp_path, CHOICE, replace(CHOICE, id="x/3", options=("Lung", "Liver", "N/A")))
    table = pandas.read_csv(tmp_path / "o.tsv", sep="\t")  # as VLMEvalKit does
    assert [text.strip() for text in table["B"]] == ["None", "Liver"]
    assert table["C"].isna().tolist() == [True, False]


def test_numbers_are_read_as_they_are_written(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    numbers = replace(CHOICE, id="007", options=("1.50", "2"))
    exported(tmp_path, numbers, replace(numbers, id="008", options=("0.5", "007", "3")))
    table = pandas.read_csv(tmp_path / "o.tsv", sep="\t")  # as VLMEvalKit does
    cells = {name: [text if pandas.isna(text) else str(text).strip() for text in table[name]] for name in ("id", "A", "B", "C")}
    assert (cells["id"], cells["A"], cells["B"], cells["C"][1]) == (["007", "008"], ["1.50", "0.5"], ["2", "007"], "3")
    assert pandas.isna(cells["C"][0])


def test_open_questions_without_images_are_refused(tmp_path: Path) -> None:
    """VLMEvalKit's form for open questions reads an image of every row."""
    with pytest.raises(InputError, match="slake has open questions without images, for which VLMEvalKit has no form"):
        exported(tmp_path, replace(OPEN, images=()))


def test_text_questions_have_no_column_of_images(tmp_path: Path) -> None:
    """VLMEvalKit skips rows whose image is empty, and reads a file without that column as one of texts."""
    bare = replace(CHOICE, images=())
    rows, _ = exported(tmp_path, bare)
    assert "image" not in rows[0]
    rows, left_out = exported(tmp_path, CHOICE, replace(bare, id="x/5"))
    assert [row["id"] for row in rows] == ["x/1"]
    assert left_out == ["x/5: it has no image, and VLMEvalKit skips such a row of this file"]


def test_the_command_writes_tsv(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    ended = chiron("eval", "--benchmarks", "vqa_rad", "--data", tmp_path / "d", "--export-tsv", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "vqa_rad.tsv").read_text().splitlines()[0] == "index\tid\timage\tquestion\tA\tB\tanswer\tcategory\tsplit"
