"""What every test may ask for."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from chiron.cli.app import main
from chiron.client.attempts import RetryPolicy
from tests.support.browser import CHROMIUM, FLAGS
from tests.support.command import Cli, Ended

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The models of tests are too small for threads, and sums over another number of them differ in the last bit. Read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell starts what it puts into the background with this signal ignored, and all processes inherit that; tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Two busy cores make single examples slow at times; what is tested is what holds, not how fast.
settings.register_profile("chiron", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chiron")

_FIRST = {"demo", "training", "jobs", "view"}
"""Folders with long files, which would keep one process busy at the end while the other has nothing to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name not in _FIRST)


def pytest_collection_finish() -> None:
    """Full collections, of which every training makes some, would go through the million objects of loaded packages each time."""
    gc.collect()
    gc.freeze()


_PUBLISHED = Path(__file__).parents[2] / "shared" / "demo" / "demo.jsonl"


@pytest.fixture
def published() -> Path:
    """The ten published cases, where they lie beside the checkout; they are not ours to ship."""
    if not _PUBLISHED.is_file():
        pytest.skip("the published cases are not beside this checkout")
    return _PUBLISHED


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """A headless Chromium. Modules that use it skip without one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry after a fiftieth of the usual wait, in tests of what retries lead to."""
    usual = RetryPolicy.wait_before
    monkeypatch.setattr(RetryPolicy, "wait_before", lambda *given: usual(*given) / 50)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run the command line in this process, which is faster than starting one."""

    def run(arguments: list[str]) -> Ended:
        monkeypatch.setattr(sys, "argv", ["chiron", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return Ended(int(left.value.code or 0), printed.out, printed.err)

    return run
