"""``chiron doctor`` looks at whatever models a file's sections name, whichever sections those are."""

from pathlib import Path
from typing import Any

import pytest

from chiron.cli.models import doctor_command as command
from chiron.errors import InputError
from tests.support.endpoint import Endpoint
from tests.support.runs import write_config

OFFLINE = {"provider": "offline", "model": "match/normalised"}
BROKEN = {"provider": "offline", "model": "match/unheard-of"}


def file(path: Path, models: dict[str, Any], **sections: Any) -> Path:
    return write_config(path / "c.yaml", {"models": models, **sections})


@pytest.mark.parametrize(
    ("sections", "looked_at"),
    [
        ({"build": {"author": "a", "reader": "b"}}, {"a", "b"}),
        ({"build": {"author": "a"}, "search": {"mentors": ["b"], "interns": ["b"], "judge": "c"}}, {"a", "b", "c"}),
        ({"search": {"mentors": ["b"], "interns": ["b"], "judge": "b"}}, {"b"}),
        ({"evaluation": {"judge": "a"}}, {"a", "b", "c"}),
        ({"evaluation": None}, {"a", "b", "c"}),
        ({}, {"a", "b", "c"}),
    ],
)
def test_the_models_of_every_section_are_looked_at(
    sections: dict[str, Any], looked_at: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(file(tmp_path, dict.fromkeys("abc", OFFLINE), **sections), ask=False)
    said = capsys.readouterr().out
    assert {name for name in "abc" if f"ok  {name}: embedded" in said} == looked_at
    assert {name for name in "abc" if f"{name}: not checked" in said} == set("abc") - looked_at


@pytest.mark.parametrize("section", [{"build": {"author": "b"}}, {"evaluation": {"judge": "b"}}, {}])
def test_a_model_of_any_section_that_is_not_there_is_a_fault(
    section: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="1 fault, marked above"):
        command(file(tmp_path, {"a": OFFLINE, "b": BROKEN}, **section), ask=False)
    assert "FAULT  b:" in capsys.readouterr().out


def test_an_image_is_shown_to_those_who_will_get_some(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Endpoint(lambda _: "red", models=("x",)) as endpoint:
        models = {name: {"provider": "openai", "base_url": endpoint.base_url, "model": "x"} for name in ("author", "judge", "measured")}
        command(file(tmp_path, models, build={"author": "author"}, evaluation={"judge": "judge"}), ask=True)
    said = capsys.readouterr().out
    assert [f"{name}: {what}:" in said for name, what in (("author", "text"), ("judge", "text"), ("measured", "image"))] == [True] * 3


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"build": {"author": "d"}}, "build.author names 'd'"),
        ({"build": {"author": "a", "prompts": {"nonsense": "x.txt"}}}, "unknown prompt 'nonsense'"),
        ({"evaluation": {"judge": "d"}}, "evaluation.judge names 'd'"),
        ({"evaluation": {"prompts": {"nonsense": "x.txt"}}}, "unknown prompt 'nonsense'"),
        ({"biuld": {"author": "a"}}, "unknown key 'biuld'; did you mean 'build'"),
    ],
)
def test_what_is_wrong_in_any_section_is_named(sections: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        command(file(tmp_path, {"a": OFFLINE}, **sections), ask=False)


def test_a_file_without_a_model_is_nothing_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no models"):
        command(file(tmp_path, {}), ask=False)
