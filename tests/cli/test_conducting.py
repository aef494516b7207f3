"""How work that ended is told: in words on standard error, and in the exit code."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chiron.cli.eval_output import figures_table
from chiron.cli.runner import closing_code, spending_table
from chiron.cli.streams import results
from chiron.client.failures import BudgetSpent, ConfigurationError, EndpointDown, TooManyCrashes, UserStopped
from chiron.client.ledger import Spending
from chiron.demo.page import ladder_table
from chiron.errors import DiskError
from chiron.jobs.job import JobSummary


def a_summary(**changes: Any) -> JobSummary:
    values = {
        "directory": Path(), "total": 3, "pending": 0, "pending_because": None, "refused": 0, "crashed": 0, "outcomes": {}, "spending": (),
        "spent_usd": 0.0, "possibly_spent_usd": 0.0, "seconds": 1.0,
    }  # fmt: skip
    return JobSummary(**{**values, **changes})


@pytest.mark.parametrize(
    ("ended", "code", "words"),
    [
        (a_summary(), 0, ""),
        (a_summary(pending=3, pending_because="no \x1b[31manswer"), 3, "3 pending, most of them because no \\x1b[31manswer"),
        (
            a_summary(pending=3, refused=3, pending_because="HTTP 400"),
            2,
            "3 pending, most of them because HTTP 400; the calls will be refused again",
        ),
        (a_summary(pending=3, refused=1), 3, "run the same command again to resume (1 of them will be refused again"),
        (a_summary(pending=3, crashed=3), 1, "3 pending; chiron failed on all of them because of a bug"),
        (a_summary(pending=3, crashed=1, refused=2), 1, "3 pending; chiron failed on 1 of them because of a bug"),
        (a_summary(pending=3, crashed=2), 3, "run the same command again to resume"),
        (a_summary(pending=3, halted=UserStopped("stopped")), 130, "run the same command again"),
        (a_summary(pending=3, halted=BudgetSpent("spent")), 3, "stopped: spent"),
        (a_summary(pending=3, halted=EndpointDown("down")), 3, "stopped: down"),
        (a_summary(pending=3, halted=ConfigurationError("no key")), 2, "stopped: no key"),
        (a_summary(pending=3, halted=DiskError("full")), 2, "stopped: full"),
        (a_summary(pending=3, halted=TooManyCrashes("10 in a row")), 1, "stopped: 10 in a row"),
        (a_summary(notes=("[red]look[/red]",)), 0, "note: [red]look[/red]"),
    ],
)
def test_words_and_exit_code(ended: JobSummary, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert closing_code(ended) == code
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def spent(**changes: Any) -> Spending:
    values = {
        "model": "a model of a long name", "role": "mentor", "calls": 12345, "copied": 0, "prompt_tokens": 1234567,
        "completion_tokens": 7654321, "cost_usd": 0.0, "priced": False, "seconds": 12345.0, "retries": 0, "failed": 0,
    }  # fmt: skip
    return Spending(**{**values, **changes})


@pytest.mark.parametrize("columns", ["40", "80", "150"])
def test_no_figure_is_cut_off_on_a_narrow_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, as far as rich can tell
    results().print(spending_table((spent(), spent(role="intern", retries=17))))
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for words in ("a model of a long name", "12,345", "1,234,567", "7,654,321", "1.00", "retries", "17"):
        assert words in said


GROUP = {
    "benchmark": "a_benchmark_of_a_long_name", "control": "shuffle-options", "seeds": 3, "n": 12345, "n_of_benchmark": 67890,
    "accuracy": 0.8125, "interval": [0.7625, 0.8375], "unparsed_rate": 0.0125, "verdicts": {"unusable": 1234, "pending": 5678},
    "scores": {"bertscore": {"mean": 0.912}},
}  # fmt: skip


@pytest.mark.parametrize("columns", ["40", "60", "80"])
def test_no_figure_of_an_evaluation_or_a_ladder_is_broken_on_a_narrow_terminal(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", "1")
    share = SimpleNamespace(value=0.8125, interval=(0.7625, 0.8375))
    student = SimpleNamespace(name="mics_verified", rows=12345, measured=SimpleNamespace(seen_share=share, held_out_share=share))
    results().print(figures_table((cast("Any", GROUP),)))
    results().print(ladder_table([cast("Any", student)]))
    said = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    for words in ("a_benchmark_of_a_long_name", "12345 of 67890", "81.2%", "76.2% - 83.8%", "1234", "5678", "bertscore 0.912"):
        assert words in said
    assert said.count("0.81 [0.76, 0.84]") == 2


def test_what_there_is_none_of_has_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    results().print(spending_table((spent(),)))
    bare = capsys.readouterr().out
    results().print(spending_table((spent(), spent(role="judge", copied=1, retries=2, failed=3, cut_off=4, priced=True, cost_usd=0.5))))
    full = capsys.readouterr().out
    for title in ("replayed", "retries", "failed", "cut off", "USD"):
        assert title not in bare
        assert title in full
    assert "0.5000" in full
