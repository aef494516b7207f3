"""A configuration is right, or its first fault is said with its place and the mend."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from chiron.errors import InputError
from chiron.mics.config import load_config
from chiron.mics.templates import NAMES, template
from tests.support.runs import team, write_config

GOOD = team("http://127.0.0.1:9/v1")


def changed(path: str, value: Any) -> dict[str, Any]:
    data = deepcopy(GOOD)
    *parents, last = path.split(".")
    place = data
    for name in parents:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_that_init_writes_is_in_order(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_text(template(name))
    config = load_config(tmp_path / "c.yaml")
    assert config.search.mentors


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("search.temperatrues", [1.0], "unknown key 'search.temperatrues'; did you mean 'temperatures'"),
        ("models.judge.base_urll", "x", "unknown key 'models.judge.base_urll'; did you mean 'base_url'"),
        ("modles", {}, "unknown key 'modles'; did you mean 'models'"),
        ("search.max_tokens", {"mentors": 5}, "unknown key 'search.max_tokens.mentors'; did you mean 'mentor'"),
        ("search.judge", "jugde", "search.judge names 'jugde', which is not under models; did you mean 'judge'"),
        ("search.mentors", [], "search.mentors"),
        ("search.mentors", ["mentor-a", "mentor-a"], "twice"),
        ("search.interns", None, "search.interns"),
        ("search.depth", 0, "search.depth"),
        ("search.temperatures", [3.0], "search.temperatures"),
        ("search.policy", "papper", "search.policy"),
        ("search.budget_usd", 5, "models.mentor-a has none"),
        ("models.judge.provider", "opnai", "models.judge"),
        ("models.judge.base_url", "localhost:8000", "http://"),
        ("models.judge.base_url", "http://h/v1/chat/completions", "must end before"),
        ("models.judge.base_url", "https://me:secret@h/v1", "api_key_env"),
        ("models.judge.parameters", {"n": 8}, "parameters holds 'n'"),
        ("models.judge.model", "a\ud800", "models.judge.model holds half a character"),
        ("models.judge.parameters", {"x": ["secret\ud800"]}, "models.judge.parameters.x holds half a character"),
        ("models.\x1b[2J", GOOD["models"]["judge"], "the name '\\x1b[2J' holds characters that cannot be printed"),
        ("models.judge.headers", {"Authorization": "Bearer x"}, "api_key_env"),
    ],
)
def test_the_first_fault_is_named_with_its_place(tmp_path: Path, path: str, value: Any, words: str) -> None:
    file = write_config(tmp_path / "c.yaml", changed(path, value))
    with pytest.raises(InputError) as caught:
        load_config(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("", "empty"), ("a: [", "not valid YAML"), ("- 1", "no mapping")])
def test_what_is_no_configuration_is_said_so(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(InputError, match="chiron init"):
        load_config(tmp_path / "none.yaml")


def test_prompts_lie_beside_the_configuration(tmp_path: Path) -> None:
    file = write_config(tmp_path / "c.yaml", changed("search.prompts", {"judge": "mine/judge.txt"}))
    assert load_config(file).search.prompts == {"judge": str(tmp_path / "mine/judge.txt")}


def test_a_seed_from_the_command_line_goes_before_the_files(tmp_path: Path) -> None:
    assert load_config(write_config(tmp_path / "c.yaml", GOOD), seed=7).search.seed == 7
