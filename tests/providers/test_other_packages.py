"""A provider of another package is found through its entry point."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from chiron.client.config import OfflineModel
from chiron.errors import InputError
from chiron.mics.api import run_search
from chiron.mics.config import check_config
from chiron.providers.registry import provider_type
from tests.support.cases import known_answers, write_cases
from tests.support.command import chiron_process, environment
from tests.support.plugins import install_plugin

_MODULE = '''
from pathlib import Path
from typing import Literal

from chiron.client.call import Reply
from chiron.client.provider import Endpoint
from chiron.client.config import ProviderConfig
from chiron.client.limiter import Limiter
from chiron.client.provider import ProviderType


class ParrotConfig(ProviderConfig):
    """Answers every call with the content of a file."""

    provider: Literal["parrot"]
    file: str
    max_tokens: int | None = None

    def with_paths_from(self, folder):
        return self.model_copy(update={"file": str(folder / self.file)})


class Parrot:
    def __init__(self, text):
        self.text, self.identity = text, f"parrot:{text}"

    async def complete(self, call):
        return Reply(self.text)

    async def close(self):
        pass


class ParrotProvider(ProviderType[ParrotConfig]):
    config = ParrotConfig

    def build(self, name, config, context):
        return Endpoint(Parrot(Path(config.file).read_text()), Limiter(4))


PARROT = ParrotProvider()
NOT_A_PROVIDER = 7
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package with two plug-ins; return the folder to put on the path."""
    entries = {"parrot": "outside:PARROT", "broken": "outside:NOT_A_PROVIDER"}
    install_plugin(tmp_path / "site", monkeypatch, _MODULE, {"chiron.providers": entries})
    return tmp_path / "site"


def team(**intern: Any) -> dict[str, Any]:
    return {
        "models": {
            "findings": {"provider": "offline", "model": "extractive/findings-first"},
            "parrot": {"provider": "parrot", "file": "answer.txt", **intern},
            "match": {"provider": "offline", "model": "match/normalised"},
        },
        "search": {"mentors": ["findings"], "interns": ["parrot"], "judge": "match", "restarts": 0, "depth": 2},
    }


@pytest.mark.usefixtures("installed")
def test_a_case_is_searched_with_a_model_of_another_package(tmp_path: Path) -> None:
    cases = write_cases(tmp_path, 1)
    (answer,) = known_answers(cases).values()
    (tmp_path / "answer.txt").write_text(f"### Step 1: It is what it is.\n### The final answer is: {answer}")
    config = check_config(team(max_tokens=7), origin=tmp_path / "search.yaml")
    assert config.models["parrot"].token_limit(100) == 7
    summary = run_search(cases, config, tmp_path / "run")
    assert (summary.total, summary.retained, summary.pending) == (1, 1, 0)
    intern = next(spending for spending in summary.spending if spending.model == "parrot")
    assert intern.calls > 0


@pytest.mark.usefixtures("installed")
def test_a_mistake_in_its_configuration_is_named_like_any_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key 'models\.parrot\.max_token'; did you mean 'max_tokens'\?"):
        check_config(team(max_token=7), origin=tmp_path / "search.yaml")


@pytest.mark.usefixtures("installed")
def test_an_entry_point_that_is_not_a_provider_stops_only_those_who_name_it(tmp_path: Path) -> None:
    data = team()
    data["models"]["other"] = {"provider": "broken"}
    with pytest.raises(InputError, match=r"plug-in 'broken' .*outside:NOT_A_PROVIDER is not an instance of ProviderType"):
        check_config(data, origin=tmp_path / "search.yaml")


def test_a_provider_with_the_name_of_a_built_in_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path / "site", monkeypatch, _MODULE, {"chiron.providers": {"offline": "outside:PARROT"}})
    words = r"plug-in 'offline' \(group chiron.providers, package outside\) has the name of a built-in one"
    with pytest.raises(InputError, match=words):
        check_config(team(), origin=tmp_path / "search.yaml")
    with pytest.raises(InputError, match=words):
        provider_type(OfflineModel(provider="offline", model="match/normalised"))


@pytest.mark.slow
def test_the_doctor_asks_it_and_a_machine_without_it_says_so(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "answer.txt").write_text("yes")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(team()))
    path = os.pathsep.join([environment()["PYTHONPATH"], str(installed)])
    found = chiron_process("doctor", "c.yaml", cwd=tmp_path, PYTHONPATH=path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "parrot: model: parrot:yes" in found.stdout
    assert "parrot: image: as intern: answered" in found.stdout
    without = chiron_process("doctor", "c.yaml", cwd=tmp_path)
    assert without.returncode == 2
    assert "models.parrot" in without.stderr
    assert "'parrot'" in without.stderr
