"""Suites over real HTTP: all columns of a published table by one command, resumed, forecast, and honest about what is missing."""

import hashlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from chiron.errors import InputError
from chiron.evaluation.api import evaluate_suite
from chiron.evaluation.bertscore import Encoder
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.statistics import Share, mean_interval
from chiron.evaluation.suite_run import folder_of
from chiron.evaluation.suites.suite import Column, Suite
from chiron.evaluation.tables.formats import Grid
from tests.evaluation import published
from tests.support.command import CHIRON, Cli, chiron, environment, wait_for
from tests.support.endpoint import Endpoint
from tests.support.simulation import prompt_of

ENDINGS = ("txt", "md", "tex", "html")


def answers(body: dict[str, Any]) -> str:
    """Right more often the later the model's name is in the alphabet, and the same whenever it is asked the same."""
    if body["model"] == "judge":
        return "yes"
    if body["model"] == "intern":
        return "### The final answer is: a fracture"
    if "Modality" in prompt_of(body):
        return "### Step 1: The bone is broken.\n### Step 2: It healed badly.\n### The final answer is: a break"
    chance = int(hashlib.sha256(json.dumps(body).encode()).hexdigest(), 16) % 100
    return "A" if chance < 40 + 5 * ord(str(body["model"])[-1]) % 50 else "B" if chance < 95 else "A picture."


def write(
    folder: Path, url: str, *, names: tuple[str, ...] = ("a", "b", "judge", "intern"), price: bool = False, **evaluation: Any
) -> Path:
    common = {"provider": "openai", "base_url": url, "timeout": 10.0, "image_tokens": 100}
    priced = {"price": {"input": 1.0, "output": 2.0}} if price else {}
    path = folder / "c.yaml"
    models = {name: {**common, **priced, "model": name} for name in names}
    path.write_text(yaml.safe_dump({"models": models, "evaluation": evaluation}))
    return path


def command(folder: Path, config: Path, *more: object, suite: str = "table1", models: tuple[str, ...] = ("a", "b")) -> list[str]:
    named = [part for name in models for part in ("--model", name)]
    start = ["eval", "--suite", suite, *named, "--config", config, "--data", folder / "d", "--run", folder / "run"]
    return [str(part) for part in (*start, *more)]


def tables(stdout: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stdout)["tables"]
    return found


def cells(table: dict[str, Any], model: str) -> dict[str, list[str]]:
    row = dict(table["rows"])[model]
    return {title: cell["lines"] for title, cell in zip(table["head"][1:], row, strict=True)}


def written(folder: Path) -> list[str]:
    return [(folder / "run" / f"table1.{ending}").read_text() for ending in ENDINGS]


def rows(grids: list[Grid], model: str) -> dict[str, tuple[str, ...]]:
    cells = dict(grids[0].rows)[model]
    return {title: cell.lines for title, cell in zip(grids[0].head[1:], cells, strict=True)}


@pytest.mark.slow
def test_one_command_measures_every_model_on_every_column_and_running_it_again_asks_nothing(tmp_path: Path, cli: Cli) -> None:
    published.table1(tmp_path / "d", 20)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        ended = cli(command(tmp_path, config, "--json"))
        assert ended.returncode == 0, ended.stderr
        first = written(tmp_path)
        assert endpoint.seen.requests == len(endpoint.seen.answered) == 2 * 5 * 20
        again = cli(command(tmp_path, config))
        assert (again.returncode, endpoint.seen.requests) == (0, 200)
    ours, theirs = tables(ended.stdout)
    assert ours["head"] == ["model", "VQA-RAD", "SLAKE", "PathVQA", "PMC-VQA", "MMMU (H&M)", "AVG"]
    for model in ("a", "b"):
        row = cells(ours, model)
        figures = [float(row[title][0].split()[0]) for title in ours["head"][1:]]
        assert figures[-1] == pytest.approx(sum(figures[:-1]) / 5, abs=0.06)
        assert all("N 20" in lines and any("unparsed" in line for line in lines) for title, lines in row.items() if title != "AVG")
        assert row["AVG"][1] == "over 5 columns"
    assert not theirs["measured"]
    assert len(theirs["rows"]) == 22
    assert sum("protocol huatuo_closed" in note for note in ours["notes"]) == 5
    assert written(tmp_path) == first
    assert "Chiron-o1-8B" in again.stdout
    assert (tmp_path / "run" / "a" / "huatuo_slake" / "ledger.sqlite").is_file()


@pytest.mark.slow
def test_a_column_without_data_says_so_and_there_is_no_average_over_the_others(tmp_path: Path, cli: Cli) -> None:
    published.table1(tmp_path / "d", 3, without=("SLAKE_test", "MMMU"))
    with Endpoint(answers) as endpoint:
        ended = cli(command(tmp_path, write(tmp_path, endpoint.base_url), "--json", models=("a",)))
    assert ended.returncode == 2
    (ours, _) = tables(ended.stdout)
    row = cells(ours, "a")
    assert row["SLAKE"] == row["MMMU (H&M)"] == ["\N{EN DASH}", "no data"]
    assert "N 3" in row["PathVQA"]
    assert row["AVG"] == ["\N{EN DASH}", "3 of 5 columns"]
    assert any(note.startswith("huatuo_slake, no data: ") and "download" in note for note in ours["notes"])
    assert endpoint.seen.requests == 9
    assert "left out: huatuo_slake" in " ".join(ended.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--suite", "tabel1"), "unknown suite 'tabel1'; did you mean 'table1'? choose one of table1, table2"),
        (("--model", "a"), "--model a is given twice"),
        (("--model", "c"), "model 'c' is not under models"),
        (("--protocol", "exact"), "--protocol cannot be used with --suite"),
        (("--control", "blank"), "--control cannot be used with --suite"),
        (("--benchmarks", "slake"), "--benchmarks cannot be used with --suite"),
        (("--data", "nowhere"), "suite 'table1' has no data: data folder nowhere does not exist"),
        (("--interns", "intern"), "interns need a judge"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_asked(tmp_path: Path, more: tuple[str, ...], words: str, cli: Cli) -> None:
    published.table1(tmp_path / "d", 1)
    with Endpoint(answers) as endpoint:
        ended = cli(command(tmp_path, write(tmp_path, endpoint.base_url), *more))
        assert endpoint.seen.requests == 0
    assert ended.returncode == 2
    assert words in " ".join(ended.stderr.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_dry_run_forecasts_and_sends_and_writes_nothing(tmp_path: Path, cli: Cli) -> None:
    published.table1(tmp_path / "d", 6)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, price=True)
        before = json.loads(cli(command(tmp_path, config, "--dry-run", "--json")).stdout)
        assert endpoint.seen.requests == 0
        assert not (tmp_path / "run").exists()
        cli(command(tmp_path, config, "--limit", "2"))
        asked = endpoint.seen.requests
        after = json.loads(cli(command(tmp_path, config, "--dry-run", "--json")).stdout)
        assert endpoint.seen.requests == asked == 20
        shown = cli(command(tmp_path, config, "--dry-run")).stdout
        assert cli(command(tmp_path, config)).returncode == 0
        assert endpoint.seen.requests == 60
    assert [(r["model"], r["calls"], r["known"], r["measured"]) for r in before["roles"]] == [("a", 30, 0, 0), ("b", 30, 0, 0)]
    assert (before["seconds"], before["items"], before["unusable"]) == (None, 60, 0)
    assert before["roles"][0]["prompt_tokens"] > 30 * 100
    assert [(r["model"], r["calls"], r["known"], r["measured"]) for r in after["roles"]] == [("a", 20, 10, 10), ("b", 20, 10, 10)]
    assert 0 < after["usd"] < before["usd"]
    assert after["seconds"] > 0
    assert "40 calls for 60 items" in shown
    assert "Nothing was sent." in shown


def test_a_single_evaluation_is_forecast_with_every_model_that_it_asks(tmp_path: Path, cli: Cli) -> None:
    """Also a control, and each role that scores answers; a missing API key is no obstacle."""
    published.vqa_rad(tmp_path / "d")
    roles = ("ranker", "reward", "grader")
    config = write(tmp_path, "http://127.0.0.1:9", names=("a", "judge", *roles))
    config.write_text(config.read_text().replace("model: a\n", "model: a\n    api_key_env: NO_SUCH_KEY\n"))
    start = ["eval", "--model", "a", "--config", str(config), "--benchmarks", "vqa_rad", "--data", str(tmp_path / "d")]
    scored = ["--protocol", "exact", "--ranker", "ranker", "--reward-model", "reward", "--graders", "grader", "--judge", "judge"]
    ended = cli([*start, *scored, "--run", str(tmp_path / "run"), "--dry-run", "--json"])
    assert ended.returncode == 0, ended.stderr
    calls = {role["role"]: role["calls"] for role in json.loads(ended.stdout)["roles"]}
    assert calls == {"model": 8, "ranker": 8, "reward_model": 3 * 8, "grader": 4, "judge": 8}
    ended = cli([*start, "--run", str(tmp_path / "run"), "--control", "blank", "--limit", "2", "--dry-run"])
    assert "2 calls for 2 items, of which 0 cannot be asked" in " ".join(ended.stdout.split())
    assert "Nothing was sent." in ended.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_forecast_costs_at_most_what_the_price_says(tmp_path: Path, cli: Cli) -> None:
    published.table1(tmp_path / "d", 2)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, price=True)
        expected = json.loads(cli(command(tmp_path, config, "--dry-run", "--json")).stdout)
        done = json.loads(cli(command(tmp_path, config, "--json")).stdout)
    for role in expected["roles"]:
        assert role["usd"] == pytest.approx((role["prompt_tokens"] + 2 * role["completion_tokens"]) / 1e6)
    assert 0 < sum(run["spent_usd"] for run in done["evaluations"]) < expected["usd"]


def medxpert(folder: Path, count: int = 4) -> None:
    """The second half of the questions of each kind has two images."""
    kinds = ("Reasoning", "Understanding")
    rows = [
        {
            **published.MEDXPERT,
            "id": f"MM-{kind}-{n}",
            "question_type": kind,
            "images": [f"{kind}-{n}-{k}.png" for k in range(1 + (2 * n >= count))],
        }
        for kind in kinds
        for n in range(count)
    ]
    names = [name for row in rows for name in row["images"]]
    for kind in kinds:
        published.jsonl(folder / f"medxpertqa_{kind.lower()}" / "test.jsonl", rows)
        published.zipped(folder / f"medxpertqa_{kind.lower()}" / "images.zip", *names)


def table2(folder: Path) -> None:
    medxpert(folder)
    published.jsonl(folder / "mmrp_text" / "t.jsonl", [{"id": f"t{n}", "question": f"Number {n}?", "answer": "A"} for n in range(3)])
    row = {"question": "Modality 1: <image>\nWhat is it?", "reasoning": "### Step 1: x", "answer": "a fracture", "answer_type": "OPEN"}
    published.jsonl(folder / "mmrp_reasoning" / "r.jsonl", [{**row, "id": f"r{n}", "img_name": f"c/{n}.png"} for n in range(3)])
    published.zipped(folder / "mmrp_reasoning" / "images.zip", *(f"c/{n}.png" for n in range(3)))


@pytest.mark.slow
def test_a_text_only_model_has_an_asterisk_and_sees_no_image_and_a_model_of_one_image_gets_no_more(tmp_path: Path, cli: Cli) -> None:
    table2(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, max_images={"a": 0, "b": 1})
        ended = cli(command(tmp_path, config, "--json", "--judge", "judge", suite="table2"))
        assert ended.returncode == 0, ended.stderr
        text = [body for body in endpoint.seen.bodies if body["model"] == "a"]
        assert len(text) == 3
        assert "image_url" not in json.dumps(text)
        most = [json.dumps(body).count('"image_url":') for body in endpoint.seen.bodies if body["model"] == "b"]
        assert max(most) <= 2  # one part of type image_url has the key once, in it
    ours, theirs = tables(ended.stdout)
    row = cells(ours, "a*")
    assert row["MedXpertQA-MM Reasoning ACC"] == row["MMRP reasoning ACC"] == ["\N{EN DASH}", "text only"]
    assert "N 3" in row["MMRP pure text ACC"]
    assert any(note.startswith("* A text-only model") for note in ours["notes"])
    one = cells(ours, "b")
    assert "2 unusable" in one["MedXpertQA-MM Reasoning ACC"]
    assert "N 4" in one["MedXpertQA-MM Reasoning ACC"]
    assert any(note.startswith("4 questions cannot be asked") for note in ours["notes"])
    assert [name for name, _ in theirs["rows"]][:2] == ["MedReason*", "HuatuoGPT-o1*"]
    assert "AVG" not in ours["head"]


@pytest.mark.slow
def test_columns_of_a_judge_interns_and_an_encoder_name_what_they_need_and_only_they_ask_them(tmp_path: Path) -> None:
    table2(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        without = evaluate_suite("table2", {"a": load_evaluation(config, "a")}, tmp_path / "run", data=tmp_path / "d")
        assert {body["model"] for body in endpoint.seen.bodies} == {"a"}
        row = rows(without, "a")
        assert row["MMRP reasoning ACC"] == ("\N{EN DASH}", "needs --judge")
        assert row["MMRP reasoning BERTScore"] == ("\N{EN DASH}", "needs --judge")
        asked = endpoint.seen.requests
        full = load_evaluation(config, "a", judge="judge", interns=["intern"])
        grids = evaluate_suite("table2", {"a": full}, tmp_path / "run", data=tmp_path / "d")
        later = endpoint.seen.bodies[asked:]
    row = rows(grids, "a")
    assert row["MMRP reasoning ACC"][0].startswith("100.0 [")
    assert "as published (missing left out): 100.0 of 3" in row["MMRP reasoning ACC"]
    assert row["MMRP reasoning MICS-Score"][:2] == (row["MMRP reasoning MICS-Score"][0], "n 3 of 3")
    assert row["MMRP reasoning MICS-Score"][0].startswith("100.0 [")
    assert row["MMRP reasoning BERTScore"] == ("\N{EN DASH}", "needs --bertscore")
    # Only the three questions with a judged column were asked again, and no closed question was judged.
    assert sum(body["model"] == "a" for body in later) == 3
    assert all("a fracture" in json.dumps(body) or "What is it?" in json.dumps(body) for body in later)
    assert any(note.startswith("MMRP reasoning MICS-Score: mean over the answers that have it (n)") for note in grids[0].notes)
    assert any("judge judge" in note for note in grids[0].notes)


def test_a_suite_of_ones_own_comes_from_a_file_and_has_one_protocol_a_benchmark(tmp_path: Path, cli: Cli) -> None:
    published.table1(tmp_path / "d", 2)
    (tmp_path / "mine.py").write_text(
        "from chiron.evaluation.suites.suite import Column, Suite\n"
        "SUITES = (Suite('mine', 'My table', (Column('RAD', 'huatuo_vqa_rad', 'huatuo_closed', 'test'),)),)\n"
    )
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        ended = cli(command(tmp_path, config, "--json", "--benchmark-file", tmp_path / "mine.py", suite="mine"))
    assert ended.returncode == 0, ended.stderr
    (ours,) = tables(ended.stdout)  # no published row belongs to it
    assert ours["title"] == "Measured here: My table, in percent"
    assert ours["head"] == ["model", "RAD", "AVG"]
    with pytest.raises(InputError, match="two protocols"):
        Suite("s", "t", (Column("x", "b", "exact", "test"), Column("y", "b", "huatuo_closed", "test")))


def test_the_suite_of_the_contributing_page_is_found_and_listed(tmp_path: Path, cli: Cli) -> None:
    page = (Path(__file__).parents[2] / "docs" / "contributing.md").read_text("utf-8").partition("## Add a suite")[2]
    (tmp_path / "chest.py").write_text(page.partition("```python\n")[2].partition("```")[0], "utf-8")
    listed = json.loads(cli(["eval", "--list", "--json", "--benchmark-file", str(tmp_path / "chest.py")]).stdout)["suites"]
    assert [suite["name"] for suite in listed] == ["table1", "table2", "chest"]
    assert [column["benchmark"] for column in listed[-1]["columns"]] == ["vqa_rad", "slake"]


def refuse(model: str, status: int) -> Any:
    def override(body: dict[str, Any], _: int) -> web.Response | None:
        return web.json_response({"error": {"message": "no such key"}}, status=status) if body["model"] == model else None

    return override


@pytest.mark.slow
def test_a_model_whose_key_is_refused_does_not_keep_the_others_from_the_table(tmp_path: Path, cli: Cli) -> None:
    published.table1(tmp_path / "d", 2)
    with Endpoint(answers, override=refuse("a", 401)) as endpoint:
        config = write(tmp_path, endpoint.base_url)
        ended = cli(command(tmp_path, config, "--json"))
        assert ended.returncode == 2
        ours = tables(ended.stdout)[0]
        assert cells(ours, "b")["AVG"][1] == "over 5 columns"
        assert cells(ours, "a")["AVG"][0] == "\N{EN DASH}"
        assert cells(ours, "a")["SLAKE"] == ["\N{EN DASH}", "not asked yet"]
        assert any(note.startswith("Answers are pending") for note in ours["notes"])
        endpoint.override = None
        ended = cli(command(tmp_path, config, "--json"))
    assert ended.returncode == 0, ended.stderr
    assert cells(tables(ended.stdout)[0], "a")["AVG"][1] == "over 5 columns"


@pytest.mark.slow
def test_a_budget_is_for_the_whole_suite(tmp_path: Path, cli: Cli) -> None:
    published.table1(tmp_path / "d", 10)
    with Endpoint(answers) as endpoint:
        config = write(tmp_path, endpoint.base_url, price=True, budget_usd=0.005)
        ended = cli(command(tmp_path, config, "--json"))
    assert ended.returncode != 0
    spent = sum(run["spent_usd"] for run in json.loads(ended.stdout)["evaluations"])
    assert 0 < spent <= 0.005
    assert "budget" in ended.stderr


@pytest.mark.slow
def test_killed_twice_and_interrupted_once_the_same_command_gives_the_same_table(tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        published.table1(tmp_path / name / "d", 16)
    with Endpoint(answers) as endpoint:
        assert chiron(*command(tmp_path / "whole", write(tmp_path, endpoint.base_url))).returncode == 0
        asked = endpoint.seen.requests
        endpoint.latency = lambda _: 0.05
        full = command(tmp_path / "broken", write(tmp_path, endpoint.base_url))
        for later, number in ((20, signal.SIGKILL), (70, signal.SIGINT), (110, signal.SIGKILL)):
            process = subprocess.Popen([*CHIRON, *full], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
            wait_for(endpoint, asked + later, process)
            os.kill(process.pid, number)
            assert process.wait() == (130 if number == signal.SIGINT else -number)
        ended = chiron(*full)
        assert ended.returncode == 0, ended.stderr
        # What was in flight at a kill is asked again, and nothing else.
        assert endpoint.seen.requests - asked <= 160 + 2 * 32
    assert written(tmp_path / "broken") == written(tmp_path / "whole")


HOSTILE = ["../../evil", "<script>alert(1)</script>", r"a & b \input{x} $1 | # \x1b[31m", "-", "..", "A/b", "a/b", "x" * 190]


@pytest.mark.slow
def test_hostile_model_names_stay_text_in_every_format_and_never_become_a_path(tmp_path: Path) -> None:
    published.table1(tmp_path / "d", 1, without=("MMMU", "SLAKE_test", "PathVQA_test"))
    with Endpoint(lambda _: "A") as endpoint:
        config = write(tmp_path, endpoint.base_url, names=tuple(HOSTILE))
        models = {name: load_evaluation(config, name) for name in HOSTILE}
        evaluate_suite("table1", models, tmp_path / "run" / "deep", data=tmp_path / "d")
    folders = {path.name for path in (tmp_path / "run" / "deep").iterdir() if path.is_dir()}
    assert folders == {folder_of(name) for name in HOSTILE}
    assert len(folders) == len(HOSTILE)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"deep"}
    text, md, tex, page = ((tmp_path / "run" / "deep" / f"table1.{ending}").read_text() for ending in ENDINGS)
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert r"\input" not in tex
    assert r"\textbackslash{}input\{x\} \$1 \textbar{} \#" in tex
    assert r"\<script\>" in md
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in md.splitlines() if line.startswith("|")} == {8, 9}
    assert "Chiron-o1-8B" in text


def test_the_interval_of_a_mean_combines_those_of_its_parts() -> None:
    one = Share(70, 100)
    assert mean_interval([(one.value, one.interval)]) == pytest.approx(one.interval)
    low, high = mean_interval([(one.value, one.interval)] * 4)
    assert (0.7 - low, high - 0.7) == pytest.approx(((0.7 - one.interval[0]) / 2, (one.interval[1] - 0.7) / 2))
    sure = mean_interval([(0.5, (0.5, 0.5)), (one.value, one.interval)])
    assert sure == pytest.approx((0.6 - (0.7 - one.interval[0]) / 2, 0.6 + (one.interval[1] - 0.7) / 2))


def test_the_interval_of_a_mean_covers_it() -> None:
    import random

    luck = random.Random(0)
    shares, sizes, covered = (0.9, 0.6, 0.75, 0.4, 0.5), (25, 40, 100, 60, 30), 0
    for _ in range(150):
        measured = [Share(sum(luck.random() < p for _ in range(n)), n) for p, n in zip(shares, sizes, strict=True)]
        low, high = mean_interval([(share.value, share.interval) for share in measured])
        covered += low <= sum(shares) / 5 <= high
    assert 0.9 <= covered / 150 <= 1


@pytest.mark.slow
def test_bertscore_is_a_column_with_an_encoder(tmp_path: Path, encoder_folder: Path) -> None:
    table2(tmp_path / "d")
    with Endpoint(answers) as endpoint:
        config = load_evaluation(write(tmp_path, endpoint.base_url), "a", judge="judge")
        encoder = Encoder(str(encoder_folder), None, None)
        grids = evaluate_suite("table2", {"a": config}, tmp_path / "run", data=tmp_path / "d", encoder=encoder)
    figure, answered = rows(grids, "a")["MMRP reasoning BERTScore"][:2]
    assert answered == "n 3 of 3"
    assert 0 < float(figure.split()[0]) < 100
