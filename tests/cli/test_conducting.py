"""How work that ended is told: in words on standard error, and in the exit code."""

from dataclasses import dataclass

import pytest

from chiron.cli.conducting import closing_code
from chiron.errors import DiskError
from chiron.models.failures import BudgetSpent, BugEverywhere, EndpointDown, Halted, Misconfigured, Stopping


@dataclass(frozen=True)
class Ended:
    pending: int = 0
    pending_because: str | None = None
    halted: Halted | DiskError | None = None
    notes: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("ended", "code", "words"),
    [
        (Ended(), 0, ""),
        (Ended(pending=3, pending_because="no \x1b[31manswer"), 3, "3 pending, most of them because no \\x1b[31manswer"),
        (Ended(pending=3, halted=Stopping("stopped")), 130, "run the same command again"),
        (Ended(pending=3, halted=BudgetSpent("spent")), 3, "stopped: spent"),
        (Ended(pending=3, halted=EndpointDown("down")), 3, "stopped: down"),
        (Ended(pending=3, halted=Misconfigured("no key")), 2, "stopped: no key"),
        (Ended(pending=3, halted=DiskError("full")), 2, "stopped: full"),
        (Ended(pending=3, halted=BugEverywhere("10 in a row")), 1, "stopped: 10 in a row"),
        (Ended(notes=("[red]look[/red]",)), 0, "note: [red]look[/red]"),
    ],
)
def test_words_and_exit_code(ended: Ended, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert closing_code(ended) == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""
