"""The notebooks of examples/ run from start to end, offline, each in an empty folder."""

import os
from pathlib import Path

import pytest

import chiron
from tests.support.waiting import PATIENCE

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.ipynb")))
def test_a_notebook_runs_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(next(iter(chiron.__path__))).parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=int(PATIENCE), kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()


def test_there_is_a_notebook_for_each_user_without_stored_output() -> None:
    names = {path.name for path in EXAMPLES.glob("*.ipynb")}
    assert names == {"own_cases_to_paths.ipynb", "dicom_to_dataset.ipynb", "evaluate_an_endpoint.ipynb"}
    cells = [cell for name in names for cell in nbformat.read(EXAMPLES / name, as_version=4).cells]
    assert not any(cell.get("outputs") for cell in cells)
