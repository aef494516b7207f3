"""What every test may ask for."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from chiron.cli.app import main
from tests.support.command import Cli, Ended

# Two busy cores make single examples slow at times; what is tested is what holds, not how fast.
settings.register_profile("chiron", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chiron")

_PUBLISHED = Path(__file__).parents[2] / "shared" / "demo" / "demo.jsonl"


@pytest.fixture
def published() -> Path:
    """The ten published cases, where they lie beside the checkout; they are not ours to ship."""
    if not _PUBLISHED.is_file():
        pytest.skip("the published cases are not beside this checkout")
    return _PUBLISHED


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
