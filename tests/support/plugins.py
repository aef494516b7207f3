"""Install a package with entry points into a temporary folder, as ``pip install`` would."""

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest


def documented_module(section: str) -> str:
    """Return the first Python example in a section of docs/contributing.md."""
    text = (Path(__file__).parents[2] / "docs" / "contributing.md").read_text("utf-8").partition(f"## {section}\n")[2]
    return text.partition("```python\n")[2].partition("```")[0]


def install_plugin(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, entries: Mapping[str, Mapping[str, str]], *, package: str = "outside"
) -> None:
    """Write ``package``.py and its metadata to ``folder`` and put the folder on ``sys.path``.

    Args:
        folder: empty or shared folder.
        monkeypatch: undoes the change of ``sys.path`` after the test.
        source: contents of the module.
        entries: entry points: group, then name, then object (``outside:CHECK``).
        package: name of the module and of the distribution.
    """
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{package}.py").write_text(source, "utf-8")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", "utf-8")
    lines = [line for group, named in entries.items() for line in (f"[{group}]", *(f"{name} = {value}" for name, value in named.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, package, raising=False)
