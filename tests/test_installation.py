"""What a fresh clone installs, and what a dependency's next release may change."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.testing import CliRunner

from chiron.cli.app import app
from chiron.cli.demo import NEEDED
from chiron.errors import InputError
from hatch_build import LINK, without_relative_links
from tests.support.command import environment

ROOT = Path(__file__).parents[1]


def locked() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return dict(re.fullmatch(r"([A-Za-z0-9._-]+)==([^\s+]+)", line).groups() for line in lines)  # type: ignore[union-attr,misc]


def installed_for(requirement: Requirement, found: set[tuple[str, frozenset[str]]]) -> None:
    """Add to ``found`` what a requirement brings along on this machine, itself included."""
    wanted = (canonicalize_name(requirement.name), frozenset(requirement.extras))
    if wanted in found:
        return
    try:
        further = requires(requirement.name) or []
    except PackageNotFoundError:
        return  # only for another platform
    found.add(wanted)
    for line in further:
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            installed_for(one, found)


@pytest.mark.slow
def test_every_package_that_a_fresh_clone_installs_is_locked_to_one_version() -> None:
    found: set[tuple[str, frozenset[str]]] = set()
    installed_for(Requirement("chiron-med[dev,docs,ray]"), found)
    needed = {name for name, _ in found} - {"chiron-med", "pip", "setuptools"}
    assert "transformers" in needed
    assert needed | {"hatchling", "editables"} <= {canonicalize_name(name) for name in locked()}, "run: make constraints"


def test_the_demonstration_has_what_it_needs_in_a_fresh_clone() -> None:
    extras = re.search(r"^\$\(VENV\)/demo\.stamp:.*?'\.(\[.+?\])'", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)
    assert extras is not None
    found: set[tuple[str, frozenset[str]]] = set()
    installed_for(Requirement(f"chiron-med{extras[1]}"), found)
    of_module = packages_distributions()
    needed = {canonicalize_name(of_module[module][0]) for module in NEEDED}
    assert needed <= {name for name, _ in found}


@pytest.mark.parametrize("module", ["datasets", "scipy", "torch"])
def test_the_demonstration_names_a_missing_package_before_it_begins(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = CliRunner().invoke(app, ["demo", "--dir", str(tmp_path / "demo")])
    assert isinstance(done.exception, InputError)
    assert f"needs the package '{module}'" in str(done.exception)
    assert "chiron-med[train,data]" in str(done.exception)
    assert not (tmp_path / "demo").exists()


def test_what_each_extra_and_the_makefile_name_is_locked() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {canonicalize_name(Requirement(line).name) for lines in extras.values() for line in lines} - {"chiron-med"}
    packagers = re.search(r"^PACKAGERS := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert packagers is not None
    named |= {canonicalize_name(name) for name in packagers[1].split()}
    assert named <= {canonicalize_name(name) for name in locked()}, "run: make constraints"


def test_the_lock_names_no_build_of_torch() -> None:
    assert re.fullmatch(r"[\d.]+", locked()["torch"])


PROGRAM = """
import types
module = types.ModuleType("{module}")
exec("import warnings; work = lambda: warnings.warn('it is wrong', {category})", module.__dict__)
def test_it(): module.work()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "category", "passes"),
    [
        ("chiron.mics.team", "UserWarning", False),
        ("tests.somewhere", "RuntimeWarning", False),
        ("bench.build", "UserWarning", False),
        ("chironomid", "UserWarning", True),
        ("transformers.deprecation", "FutureWarning", True),
        # A library blames the line that called it, which is a line of this project.
        ("chiron.providers.local", "FutureWarning", True),
        ("chiron.providers.local", "DeprecationWarning", True),
    ],
)
def test_a_dependencys_deprecation_is_listed_and_our_own_warning_fails(tmp_path: Path, module: str, category: str, passes: bool) -> None:
    (tmp_path / "test_it.py").write_text(PROGRAM.format(module=module, category=category))
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == (0 if passes else 1), done.stdout
    assert "it is wrong" in done.stdout


def test_package_indexes_get_no_relative_link() -> None:
    text = '[a](docs/a.md#b) ![c](c.png) [d](#d) [e](https://e.org) <img src="f.png" width="5" alt="f">'
    assert without_relative_links(text) == "a  [d](#d) [e](https://e.org) "
    linked = without_relative_links(text, "https://x.org/y/")
    assert linked.startswith("[a](https://x.org/y/docs/a.md#b) ![c](https://x.org/y/c.png) [d](#d)")
    assert '<img src="https://x.org/y/f.png" width="5" alt="f">' in linked
    readme = without_relative_links((ROOT / "README.md").read_text())
    assert not LINK.search(readme)
    assert "docs/images" not in readme


def test_an_image_copies_files_that_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copies = [line.split()[1:-1] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    sources = [name.removeprefix("./") for names in copies for name in names]
    assert "src" in sources
    assert [name for name in sources if not (ROOT / name).exists()] == []
    assert {f"!{name}" for name in sources} == {line for line in ignored if line.startswith("!")}
