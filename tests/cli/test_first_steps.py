"""The first commands of a new user: a configuration, its schema, and the completion of the shell."""

import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from chiron.cli.app import app
from chiron.cli.schema import SchemaKind, json_schema
from chiron.mics.prompts import TEMPLATES, template
from chiron.reports.thumbnails import Thumbnail
from tests.support.cases import write_cases
from tests.support.command import CHIRON, Cli, chiron, environment
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "src" / "chiron" / "training" / "recipes"


def faults(kind: SchemaKind, data: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(json_schema(kind)).iter_errors(data)]


@pytest.mark.parametrize("kind", list(SchemaKind))
def test_every_schema_is_a_schema(kind: SchemaKind) -> None:
    Draft202012Validator.check_schema(json_schema(kind))


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_fits_the_schema_that_it_names(name: str) -> None:
    text = template(name)
    assert text.startswith("# yaml-language-server: $schema=chiron.schema.json\n")
    assert faults(SchemaKind.CONFIGURATION, yaml.safe_load(text)) == []


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_fits_the_schema(path: Path) -> None:
    assert path.read_text("utf-8").startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert faults(SchemaKind.RECIPE, yaml.safe_load(path.read_text("utf-8"))) == []


def test_the_published_figures_fit_the_schema() -> None:
    rows = yaml.safe_load((ROOT / "src/chiron/evaluation/published.yaml").read_text("utf-8"))
    assert faults(SchemaKind.PUBLISHED, rows) == []
    assert faults(SchemaKind.PUBLISHED, [{**rows[0], "values": {"path_vqa": 101}}]) != []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("search", "detph", 3),
        ("search", "depth", 0),
        ("search", "depth", True),
        ("search", "policy", "papper"),
        ("search", "mentors", []),
        ("build", "author", None),
        ("evaluation", "family", "none of these"),
        ("models", "match", {"provider": "offline"}),
        ("models", "match", {"provider": "opnai", "model": "x"}),
    ],
)
def test_the_schema_refuses_what_the_configuration_refuses(section: str, key: str, value: Any) -> None:
    data = yaml.safe_load(template("offline"))
    data[section][key] = value
    assert faults(SchemaKind.CONFIGURATION, data) != []


@pytest.mark.parametrize("change", [{"stages": []}, {"precision": "fp8"}, {"epochs": 3}, {"adapter": {"rank": "many"}}])
def test_the_schema_refuses_a_wrong_recipe(change: dict[str, Any]) -> None:
    data = yaml.safe_load((RECIPES / "chiron-o1-2b.yaml").read_text("utf-8"))
    assert faults(SchemaKind.RECIPE, {**data, **change}) != []


def test_an_editor_shows_what_a_key_means() -> None:
    schema = json_schema(SchemaKind.CONFIGURATION)
    assert schema["$defs"]["SearchConfig"]["properties"]["temperatures"]["description"] == "Temperatures of the interns."
    assert schema["$defs"]["SearchConfig"]["properties"]["seed"]["description"] == "Seed of all random choices."  # inherited


def test_the_schema_is_printed_or_written(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["schema", "recipe"])
    assert json.loads(printed.stdout)["title"] == "Chiron recipe"
    CliRunner().invoke(app, ["schema", "recipe", "--out", str(tmp_path / "r.json")])
    assert (tmp_path / "r.json").read_text() == printed.stdout


@pytest.mark.slow
def test_init_writes_the_schema_and_ends_with_the_command_to_run_next(tmp_path: Path) -> None:
    out = tmp_path / "my config.yaml"
    done = CliRunner().invoke(app, ["init", "--template", "openai", "--out", str(out)])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == f"chiron doctor '{out}'"
    assert out.read_text() == template("openai")
    assert json.loads((tmp_path / "chiron.schema.json").read_text()) == json_schema(SchemaKind.CONFIGURATION)


@pytest.mark.parametrize(("name", "words"), [("offline", "check it with"), ("practice", "check it with"), ("vllm", "edit the models")])
def test_init_asks_to_edit_models_only_where_there_is_something_to_edit(tmp_path: Path, cli: Cli, name: str, words: str) -> None:
    assert words in cli(["init", name, "--out", str(tmp_path / "c.yaml")]).stdout


@pytest.mark.parametrize("name", ["vllm", "paper"])
def test_a_vllm_command_of_a_template_can_be_pasted(name: str) -> None:
    (command,) = re.findall(r"vllm serve .*", template(name))
    assert json.loads(shlex.split(command)[-1]) == {"image": 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no template is named: use --template NAME, with one of one-key, openai"),
        (("--template", "opnai"), "unknown template 'opnai'; did you mean 'openai'?"),
        (("paper", "--template", "vllm"), "two templates are named, 'paper' and 'vllm'"),
    ],
)
def test_a_wrong_template_is_one_clear_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = chiron("init", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def on_a_terminal(folder: Path, *replies: str) -> int:
    """Run 'chiron init' on a pseudo-terminal, and answer its questions."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*CHIRON, "init"], cwd=folder, env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True)
    os.close(theirs)
    os.write(ours, "".join(f"{reply}\n" for reply in replies).encode())
    try:
        while os.read(ours, 4096):
            pass
    except OSError:
        pass  # the terminal was closed at the end of the process
    finally:
        os.close(ours)
    return process.wait(timeout=PATIENCE)


@pytest.mark.slow
def test_on_a_terminal_init_asks_for_the_address_the_key_and_the_models(tmp_path: Path) -> None:
    replies = ["http://127.0.0.1:9/v1", "MY_KEY", "big: one", "big-2", "small-1", "small-2", "fair"]
    assert on_a_terminal(tmp_path, "1", *replies) == 0
    models = yaml.safe_load((tmp_path / "chiron.yaml").read_text())["models"]
    assert {model["base_url"] for model in models.values()} == {"http://127.0.0.1:9/v1"}
    assert {model["api_key_env"] for model in models.values()} == {"MY_KEY"}
    assert [model["model"] for model in models.values()] == replies[2:]


@pytest.mark.slow
def test_a_key_in_place_of_its_variable_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    assert on_a_terminal(tmp_path, "one-key", "http://127.0.0.1:9/v1", "sk-proj-0123456789abcdef") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_shell_completes_commands_and_options() -> None:
    for typed, word in (
        ("chiron sea", "search"),
        ("chiron search --con", "--config"),
        ("chiron build te", "text"),
        ("chiron init -t off", "offline"),
    ):
        count = str(len(typed.split()) - 1)
        asked = environment(_CHIRON_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=count)
        script = Path(sys.executable).with_name("chiron")
        done = subprocess.run([script], env=asked, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert word in done.stdout.split()


@pytest.mark.slow
def test_a_folder_that_holds_something_else_does_not_become_a_run_directory(tmp_path: Path, cli: Cli) -> None:
    cases = write_cases(tmp_path / "c", 2)
    (tmp_path / "o.yaml").write_text(template("offline"))
    start = ["search", str(cases), "--config", str(tmp_path / "o.yaml"), "--run"]
    before = sorted(path.name for path in (tmp_path / "c").iterdir())
    refused = cli([*start, str(tmp_path / "c")])
    assert refused.returncode == 2
    assert "is not a run directory, and contains other files (cases.jsonl" in refused.stderr
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == before
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".DS_Store").touch()
    assert cli([*start, str(tmp_path / "r")]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", [("search", "--run"), ("build text", "--out")])
def test_an_empty_file_of_cases_is_called_empty(tmp_path: Path, cli: Cli, command: tuple[str, str]) -> None:
    (tmp_path / "cases.jsonl").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "o.yaml").write_text(template("offline"))
    ended = cli([*command[0].split(), str(tmp_path / "cases.jsonl"), "--config", str(tmp_path / "o.yaml"), command[1], str(tmp_path / "r")])
    assert ended.returncode == 2
    assert f"{tmp_path / 'cases.jsonl'} is empty" in ended.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_a_narrow_terminal_does_not_break_numbers(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "c", 12)
    (tmp_path / "o.yaml").write_text(template("offline"))
    asked = ("search", cases, "--config", tmp_path / "o.yaml", "--run", tmp_path / "r", "--dry-run")
    counts = [role["known"] + role["prompt_tokens"] for role in json.loads(chiron(*asked, "--json").stdout)["roles"]]
    shown = chiron(*asked, COLUMNS="40").stdout
    assert all(f"at most {count:,}" in shown for count in counts if count)


def test_a_caption_does_not_consist_of_a_checksum() -> None:
    assert Thumbnail(f"study/{'0a1b' * 16}.png").caption == "study/0a1b0a1b….png"
    assert Thumbnail("a/b/c/1.png").caption == "c/1.png"
