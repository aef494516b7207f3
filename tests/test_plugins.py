"""Objects that other packages provide through entry points."""

import sys
from pathlib import Path

import pytest

from chiron.errors import InputError
from chiron.plugins import load, plugins, with_plugins
from tests.support.plugins import install_plugin

GROUP = "chiron.tests"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with a good plug-in, one of the wrong type, and one whose module does not exist."""
    entries = {"good": "outside:WORD", "number": "outside:NUMBER", "gone": "outside_gone:WORD"}
    install_plugin(tmp_path, monkeypatch, "WORD = 'hello'\nNUMBER = 7\n", {GROUP: entries})


@pytest.mark.usefixtures("outside")
def test_a_plug_in_of_an_installed_package_is_found_and_loaded_by_name() -> None:
    assert set(plugins(GROUP)) == {"good", "number", "gone"}
    assert load(GROUP, "good", str) == "hello"


@pytest.mark.usefixtures("outside")
def test_a_plug_in_that_fails_names_itself_its_group_its_package_and_what_to_do() -> None:
    with pytest.raises(InputError) as failed:
        load(GROUP, "gone", str)
    assert str(failed.value) == (
        "plug-in 'gone' (group chiron.tests, package outside) cannot be loaded: ModuleNotFoundError: No module named 'outside_gone':"
        " update or uninstall the package"
    )
    with pytest.raises(InputError, match=r"'number' \(group chiron.tests, .*\) cannot be loaded: outside:NUMBER is not an instance of str"):
        load(GROUP, "number", str)


def test_a_plug_in_that_ends_the_process_at_import_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path, monkeypatch, "raise SystemExit('no license')\n", {GROUP: {"exits": "outside:WORD"}})
    with pytest.raises(InputError, match=r"plug-in 'exits' .* cannot be loaded: SystemExit: no license"):
        load(GROUP, "exits", str)


def test_an_unknown_plug_in_is_the_users_error() -> None:
    with pytest.raises(InputError, match=r"plug-in 'none' .* is not installed"):
        load(GROUP, "none", str)


def test_plug_ins_follow_the_built_in_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path, monkeypatch, "WORD = 'hello'\n", {GROUP: {"greeting": "outside:WORD"}})
    assert with_plugins(GROUP, {"built": "in"}, str) == {"built": "in", "greeting": "hello"}
    with pytest.raises(InputError, match=r"'greeting' .* has the name of a built-in one"):
        with_plugins(GROUP, {"greeting": "mine"}, str)


def test_two_packages_with_the_same_plug_in_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("outside", "other"):
        install_plugin(tmp_path / package, monkeypatch, "WORD = 'hello'\n", {GROUP: {"same": f"{package}:WORD"}}, package=package)
    with pytest.raises(InputError, match="two packages provide the plug-in 'same'"):
        plugins(GROUP)


@pytest.mark.usefixtures("outside")
def test_the_entry_points_of_all_packages_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugins(GROUP)
    monkeypatch.setattr("importlib.metadata.distributions", lambda **_: pytest.fail("they were read again"))
    assert set(plugins(GROUP)) == {"good", "number", "gone"}


def test_a_package_that_is_installed_later_is_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``%pip install`` in a notebook, into a folder that packages were read from."""
    install_plugin(tmp_path, monkeypatch, "WORD = 'hello'\n", {GROUP: {"first": "outside:WORD"}})
    assert set(plugins(GROUP)) == {"first"}
    path = list(sys.path)
    install_plugin(tmp_path, monkeypatch, "WORD = 'hello'\n", {GROUP: {"second": "other:WORD"}}, package="other")
    monkeypatch.setattr(sys, "path", path)
    assert set(plugins(GROUP)) == {"first", "second"}
