"""Benchmarks and protocols from outside the package: through entry points, and from a file named on the command line."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from chiron.cli.eval_output import show_benchmarks
from chiron.errors import InputError
from chiron.evaluation.api import evaluate
from chiron.evaluation.benchmarks.loading import load
from chiron.evaluation.comparing import compare
from chiron.evaluation.config import load_evaluation
from chiron.evaluation.items import BadItem, Item
from chiron.evaluation.read_runs import read_evaluations
from chiron.evaluation.registry import benchmark_of, benchmarks, protocol_of, protocols
from chiron.evaluation.tables.content import grids
from tests.evaluation import published
from tests.support.command import chiron
from tests.support.endpoint import Endpoint
from tests.support.plugins import install_plugin
from tests.support.simulation import prompt_of

BENCHMARK = """
from chiron.evaluation.benchmarks.benchmark import Benchmark
from chiron.evaluation.items import Item


def _item(row):
    return Item(row.name, row.text("question"), row.text("answer"), row.images("image"))


ORGANS = Benchmark(
    name="organs", title="Organs", size="3 questions", n=3, license="CC0-1.0", files=("organs.jsonl",), columns=("question",),
    read=_item, protocol="one_word", instructions="write it yourself",
)
BENCHMARKS = (ORGANS,)
"""
PROTOCOL = """
from chiron.evaluation.items import user_message
from chiron.evaluation.protocols.protocol import Protocol, matched_phrase


class OneWord(Protocol):
    name = "one_word"
    description = "one word, matched exactly"
    own_prompts = {"one_word": "Answer with one word.\\n$question"}
    leaves_out_unparsed = True
    notes = ("A note of the protocol's own.",)

    def messages(self, item, pictures, prompts):
        return (user_message(self.own_prompts["one_word"], item, pictures),)

    def read(self, item, reply, family):
        return matched_phrase(item, reply, family)


ONE_WORD = OneWord()
PROTOCOLS = (ONE_WORD,)
"""


def write_data(folder: Path) -> Path:
    folder.mkdir()
    (folder / "1.png").write_bytes(published.png())
    records = [{"question": f"Organ {n}?", "answer": answer, "image": "1.png"} for n, answer in enumerate(("heart", "lung", "liver"))]
    (folder / "organs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def reply(body: dict[str, Any]) -> str:
    return "heart" if "Organ 0?" in prompt_of(body) else "kidney" if "Organ 1?" in prompt_of(body) else "### Step 1: I look."


def config_of(folder: Path, url: str) -> Path:
    (folder / "models.yaml").write_text(json.dumps({"models": {"m": {"provider": "openai", "base_url": url, "model": "m"}}}))
    return folder / "models.yaml"


def test_an_installed_package_adds_a_benchmark_and_a_protocol_with_its_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"chiron.benchmarks": {"organs": "outside:ORGANS"}, "chiron.protocols": {"one_word": "outside:ONE_WORD"}}
    install_plugin(tmp_path / "site", monkeypatch, BENCHMARK + PROTOCOL, entries)
    data = write_data(tmp_path / "d")
    with Endpoint(reply) as endpoint:
        config = load_evaluation(config_of(tmp_path, endpoint.base_url), "m")
        summary = evaluate("m", ["organs"], tmp_path / "run", config, data=data)
        assert all(prompt_of(body).startswith("Answer with one word.\nOrgan ") for body in endpoint.seen.bodies)
    [group] = summary.groups
    assert (group["protocol"], group["n"], group["right"]) == ("one_word", 3, 1)
    assert group["published_accuracy"] == 1 / 2
    assert group["prompts"] == {"one_word": hashlib.sha256(b"Answer with one word.\n$question").hexdigest()}
    identity = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]
    assert (identity["protocol"], identity["prompts"]) == ("one_word", group["prompts"])
    table, *_ = [grid for found in compare(read_evaluations([tmp_path / "run"])) for grid in grids(found)]
    assert "A note of the protocol's own." in table.notes
    assert "as published (missing left out): 50.0 of 2" in table.rows[0][1][0].lines


@pytest.mark.slow
def test_a_file_named_on_the_command_line_adds_a_benchmark_and_its_protocol(tmp_path: Path) -> None:
    file = tmp_path / "my.py"
    file.write_text(BENCHMARK + PROTOCOL)
    data = write_data(tmp_path / "d")
    with Endpoint(reply) as endpoint:
        config = config_of(tmp_path, endpoint.base_url)
        base = ("eval", "--model", "m", "--config", config, "--benchmarks", "organs", "--data", data, "--run", tmp_path / "run")
        ended = chiron(*base)
        assert ended.returncode == 2
        assert "unknown benchmark 'organs'" in ended.stderr
        ended = chiron(*base, "--benchmark-file", file, "--json")
        assert ended.returncode == 0, ended.stderr
    assert [(group["protocol"], group["right"]) for group in json.loads(ended.stdout)["groups"]] == [("one_word", 1)]
    listed = json.loads(chiron("eval", "--list", "--benchmark-file", file, "--json").stdout)
    assert "organs" in {b["name"] for b in listed["benchmarks"]}
    assert {"name": "one_word", "description": "one word, matched exactly", "judged": False} in listed["protocols"]
    compared = chiron("compare", tmp_path / "run", "--benchmark-file", file, "--format", "markdown").stdout
    assert "A note of the protocol's own" in compared
    ended = chiron("eval", "--benchmark-file", file, "--benchmarks", "organs", "--data", data, "--export-tsv", tmp_path / "tsv")
    assert ended.stdout.startswith("3 questions"), ended.stderr


def test_a_file_may_be_named_in_python(tmp_path: Path) -> None:
    file = tmp_path / "my.py"
    file.write_text(BENCHMARK + PROTOCOL)
    with Endpoint(reply) as endpoint:
        config = load_evaluation(config_of(tmp_path, endpoint.base_url), "m")
        summary = evaluate("m", ["organs"], tmp_path / "run", config, data=write_data(tmp_path / "d"), benchmark_files=[file])
    assert [group["benchmark"] for group in summary.groups] == ["organs"]
    assert "organs" not in benchmarks()
    assert "one_word" not in protocols()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def", "cannot be imported (SyntaxError"),
        ("import no_such_module", "cannot be imported (ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "cannot be imported (SystemExit: 3)"),
        ("x = 1", "none of BENCHMARKS, PROTOCOLS, SUITES"),
        ("BENCHMARKS = ('organs',)", "every entry must be an instance of Benchmark"),
        (BENCHMARK.replace('"organs"', '"slake"'), "contains 'slake', which exists already"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "my.py"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(words)) as raised:
        benchmark_of("slake", [file])
    assert str(file) in str(raised.value)


def test_a_file_that_does_not_exist_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a Python file"):
        benchmarks([tmp_path / "nowhere.py"])


def test_an_entry_point_with_another_name_than_its_object_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path / "site", monkeypatch, BENCHMARK, {"chiron.benchmarks": {"bodies": "outside:ORGANS"}})
    with pytest.raises(InputError, match=r"plug-in 'bodies' .* provides 'organs'"):
        benchmark_of("bodies")


def test_a_damaged_plug_in_affects_only_those_who_name_it_or_list_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {
        "chiron.benchmarks": {"organs": "outside:ORGANS", "broken": "outside:GONE"},
        "chiron.protocols": {"one_word": "outside:ONE_WORD", "two_words": "outside:GONE"},
    }
    install_plugin(tmp_path / "site", monkeypatch, BENCHMARK + PROTOCOL, entries)
    assert (benchmark_of("slake").name, benchmark_of("organs").name) == ("slake", "organs")
    assert (protocol_of("exact").name, protocol_of("one_word").name) == ("exact", "one_word")
    assert "broken" in benchmarks()
    for look_up in (lambda: benchmark_of("broken"), lambda: protocol_of("two_words"), lambda: show_benchmarks([], json_output=False)):
        with pytest.raises(InputError, match=r"plug-in '\w+' .* cannot be loaded"):
            look_up()


def documented(page: str, section: str, folder: Path) -> Path:
    """Write the Python code of a section of the documentation into a file."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text("utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    file = folder / "documented.py"
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    file.write_text(code)
    return file


def test_the_protocol_of_the_contributing_page_works(tmp_path: Path) -> None:
    protocol = protocol_of("phrase", [documented("contributing.md", "Add a protocol: one file", tmp_path)])
    item = Item("1", "Which organ?", "heart")
    [message] = protocol.messages(item, (), prompts=None)  # type: ignore[arg-type]
    assert message.text == "Answer with a few words.\nWhich organ?"
    assert protocol.read(item, "The heart.", None).right


def test_every_record_of_the_documented_benchmark_is_counted_bad_ones_too(tmp_path: Path) -> None:
    benchmark = benchmark_of("chest_yes", [documented("evaluation.md", "Adding a benchmark", tmp_path)])
    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    (data / "images" / "1.png").write_bytes(published.png())
    good = {"image": "images/1.png", "question": "Is there a fracture?", "answer": "Yes", "view": "AP"}
    changes: list[dict[str, Any]] = [{}, {"answer": "no"}, {"answer": "maybe"}, {"answer": ""}, {"image": ""}, {"question": None}]
    lines = [*(json.dumps(good | change) for change in changes), "{broken"]
    (data / "test.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    loaded = load(benchmark, data, tmp_path / "run")
    counted = protocol_of(benchmark.protocol).select(loaded.items)
    assert len(loaded.items) == len(counted) == len(lines)
    assert [type(item) for item in counted] == [Item, Item, *[BadItem] * 5]
    first = counted[0]
    assert isinstance(first, Item)
    assert (first.answer, first.group, dict(first.labels)) == ("yes", "images/1.png", {"view": "AP"})
    assert "neither yes nor no" in next(item.problem for item in counted if isinstance(item, BadItem))
    assert any("questions, the published ones 500" in note for note in loaded.notes)
