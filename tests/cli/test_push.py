"""`chiron push` uploads a model, an adapter or a dataset release as huggingface_hub does, to a fake hub over HTTP."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chiron.cli.app import app
from chiron.errors import InputError
from tests.support.hub import Hub
from tests.support.waiting import PATIENCE


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "hub") as fake:
        yield fake


def folder_of(path: Path, kind: str) -> dict[str, bytes]:
    """Write a folder of a kind; return what must be uploaded."""
    files = {
        "model": {"config.json": b"{}", "model.safetensors": b"w" * 5000, "README.md": b"---\ntags: [medical]\n---\n# A model\n"},
        "adapter": {"adapter_config.json": b"{}", "adapter_model.safetensors": b"a" * 300, "README.md": b"# An adapter\n"},
        "dataset": {"data/cot/train-0.parquet": b"p" * 700, "README.md": b"# A data set\n", "recipe.yaml": b"name: x\n"},
    }[kind]
    for name, content in {**files, ".model/draft.bin": b"no", "data/.hidden": b"no"}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return files


def push(hub: Hub, folder: Path, *options: str, token: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: huggingface_hub reads its environment variables once."""
    names = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token or hub.token, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder.parent / "home")}
    command = [sys.executable, "-m", "chiron", "push", str(folder), "--repo", "we/thing", *options]
    return subprocess.run(command, env={**os.environ, **names}, capture_output=True, text=True, check=False, timeout=PATIENCE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["model", "adapter", "dataset"])
def test_the_files_arrive_as_they_are_without_hidden_ones(hub: Hub, tmp_path: Path, kind: str) -> None:
    files = folder_of(tmp_path / "it", kind)
    done = push(hub, tmp_path / "it", "--private", "--json")
    assert done.returncode == 0, done.stderr
    place = "datasets" if kind == "dataset" else "models"
    assert hub.uploaded == {f"{place}/we/thing": files}
    assert hub.created[0]["visibility" if "visibility" in hub.created[0] else "private"] in ("private", True)
    report = json.loads(done.stdout)
    assert report["files"] == {name: len(content) for name, content in files.items()}
    assert report["url"].startswith(hub.url)


@pytest.mark.slow
def test_nothing_is_uploaded_to_a_public_repository_that_should_be_private(hub: Hub, tmp_path: Path) -> None:
    folder_of(tmp_path / "it", "dataset")
    hub.private["we/thing"] = False
    done = push(hub, tmp_path / "it", "--private")
    assert done.returncode == 2
    assert "exists and is public" in " ".join(done.stderr.split())
    assert hub.uploaded == {}
    assert push(hub, tmp_path / "it").returncode == 0


@pytest.mark.slow
def test_a_token_that_may_not_write_is_explained_and_not_printed(hub: Hub, tmp_path: Path) -> None:
    folder_of(tmp_path / "it", "model")
    done = push(hub, tmp_path / "it", token="hf_wrong")  # noqa: S106
    assert done.returncode == 2
    assert "was not uploaded" in done.stderr
    assert "hf auth login" in " ".join(done.stderr.split())
    assert "hf_wrong" not in done.stdout + done.stderr
    assert hub.uploaded == {}


def test_a_dry_run_lists_files_sizes_and_card_and_needs_no_hub(tmp_path: Path) -> None:
    folder_of(tmp_path / "it", "model")
    done = CliRunner().invoke(app, ["push", str(tmp_path / "it"), "--repo", "we/thing", "--dry-run"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert "5,000  model.safetensors" in lines[2]
    assert "in 3 files" in lines[3]
    assert "# A model" in lines
    assert "draft.bin" not in done.stdout


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "README.md").unlink(), r"README\.md is missing: write a card"),
        (lambda folder: (folder / "config.json").unlink(), r"is not a model \(config\.json\), an adapter"),
        (lambda folder: (folder / "x").symlink_to("/etc/hostname"), "is a link to a file outside"),
    ],
)
def test_a_folder_that_cannot_be_uploaded_says_why(tmp_path: Path, spoil: object, words: str) -> None:
    folder_of(tmp_path / "it", "model")
    spoil(tmp_path / "it")  # type: ignore[operator]
    done = CliRunner().invoke(app, ["push", str(tmp_path / "it"), "--repo", "we/thing", "--dry-run"])
    assert isinstance(done.exception, InputError)
    with pytest.raises(InputError, match=words):
        raise done.exception


def test_the_output_of_a_training_names_its_model(tmp_path: Path) -> None:
    folder_of(tmp_path / "out" / "model", "model")
    done = CliRunner().invoke(app, ["push", str(tmp_path / "out"), "--repo", "we/thing", "--dry-run"])
    assert "did you mean" in str(done.exception)
