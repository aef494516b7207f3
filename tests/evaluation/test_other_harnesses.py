"""The benchmarks in inspect_ai and for VLMEvalKit."""

import base64
import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from chiron.evaluation.benchmarks.loading import load
from chiron.evaluation.benchmarks.registry import benchmark_of, benchmarks
from chiron.evaluation.protocols.registry import protocol_of
from chiron.evaluation.tsv import export_tsv
from tests.evaluation import published
from tests.support.command import chiron, environment
from tests.support.waiting import PATIENCE


def test_every_benchmark_is_a_task_of_inspect() -> None:
    pytest.importorskip("inspect_ai")
    from chiron.evaluation import inspect_tasks

    for name in benchmarks():
        assert callable(getattr(inspect_tasks, name))


INSPECT = """
import json, sys
from inspect_ai import eval as inspect_eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from chiron.evaluation.benchmarks.registry import benchmark_of
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


def test_a_tsv_holds_the_bytes_of_its_images(tmp_path: Path) -> None:
    data = published.huatuo(tmp_path / "d", {"image": ["images/lost.png"]}, {"image": ["images/brain002206.png"] * 2})
    found = load(benchmark_of("huatuo_omnimed"), data, tmp_path)
    count, left_out = export_tsv(found, protocol_of("huatuo_closed"), tmp_path / "o.tsv")
    csv.field_size_limit(2**24)
    with (tmp_path / "o.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert count == 2 == len(rows)
    assert left_out == [f"huatuo_omnimed-00002: {left_out[0].partition(': ')[2]}"]
    assert "missing" in left_out[0]
    assert list(rows[0]) == ["index", "image", "question", "A", "B", "C", "D", "answer", "category", "split"]
    assert base64.b64decode(rows[0]["image"]) == published.png()
    assert (rows[0]["D"], rows[0]["answer"]) == ("Chronic infarct", "D")
    assert len(json.loads(rows[1]["image"].replace("'", '"'))) == 2


def test_the_command_writes_tsv(tmp_path: Path) -> None:
    published.vqa_rad(tmp_path / "d")
    ended = chiron("eval", "--benchmarks", "vqa_rad", "--data", tmp_path / "d", "--export-tsv", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "vqa_rad.tsv").read_text().splitlines()[0] == "index\timage\tquestion\tA\tB\tanswer\tcategory\tsplit"
