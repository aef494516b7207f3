"""Show what jobs will ask, for `--dry-run`, and what another policy would have asked, for `chiron replay --forecast`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from chiron.cli.live import duration
from chiron.cli.runner import print_json, run_with_ui
from chiron.cli.streams import plain_table, results, whole
from chiron.jobs.forecast import CONFIDENCE, FEWEST, STEPS, Forecast, Rehearsal, RoleForecast, forecast
from chiron.jobs.job import AnyJob
from chiron.terminal import printable

if TYPE_CHECKING:
    from chiron.mics.replay import ReplayForecast


def forecast_job(prepare: Callable[..., Any], *, pilot: int | None, limit: int | None, json_output: bool) -> None:
    """Print what a job will ask. With a pilot, run its first cases before.

    Args:
        prepare: prepares the job; takes ``limit`` and ``need_keys``, and returns a job with a rehearsal.
        pilot: number of cases to ask, or ``None``.
        limit: number of cases of the job, or ``None`` for all.
        json_output: whether to print JSON.
    """
    if pilot is not None:
        first: AnyJob = prepare(limit=pilot if limit is None else min(pilot, limit), need_keys=True)
        run_with_ui(first)
    show_forecast([prepare(limit=limit, need_keys=False).rehearsal()], json_output=json_output, sent=pilot is not None)


def show_forecast(rehearsals: Sequence[Rehearsal], *, json_output: bool, sent: bool = False) -> None:
    """Print what prepared jobs will ask. Nothing is sent."""
    expected = forecast(rehearsals)
    if json_output:
        totals = {name: getattr(expected, name) for name in ("usd", "usd_at_least", "usd_at_most", "seconds")}
        print_json({**asdict(expected), **totals})
        return
    console = results()
    console.print(whole(_table(expected.roles)))
    cost = "unknown (a model has no price)" if expected.usd is None else f"${expected.usd:.2f}"
    time = duration(expected.seconds) if expected.seconds is not None else f"unknown {_why_unknown(expected)}"
    calls = sum(role.calls for role in expected.roles)
    console.print(f"{calls:,} calls for {expected.items:,} items, of which {expected.unusable:,} cannot be asked; cost {cost}; time {time}")
    if any(role.calls_at_least < role.calls_at_most for role in expected.roles):
        _show_ranges(expected)
    elif any(role.role in {"intern", "reward_model"} for role in expected.roles):
        console.print(f"Calls of interns, their judge and a reward model assume {STEPS} steps in each reply that is not in the ledger.")
    console.print("Nothing else was sent." if sent else "Nothing was sent.")


def _why_unknown(expected: Forecast) -> str:
    waits = any(role.calls and role.measured and role.seconds is None for role in expected.roles)
    return "(batches take as long as the provider wants)" if waits else "until some calls are answered (try --limit 20)"


def _show_ranges(expected: Forecast) -> None:
    console = results()
    low, high = (sum(getattr(role, f"calls_at_{end}") for role in expected.roles) for end in ("least", "most"))
    ends = expected.usd_at_least, expected.usd_at_most
    cost = "" if ends[0] is None or ends[1] is None else f"; cost at least ${ends[0]:.2f}, at most ${ends[1]:.2f}"
    console.print(f"calls at least {low:,}, at most {high:,}{cost}")
    if expected.answered >= FEWEST:
        console.print(f"These are {CONFIDENCE:.0%} intervals, projected from {expected.answered:,} answered cases.")
    else:
        console.print("These are limits if all replies can be read. --pilot N asks N cases and gives narrower ones.")


def _table(roles: Sequence[RoleForecast]) -> Table:
    figures = ("new calls", "in the ledger", "tokens in", "tokens out", "USD", "time")
    table = plain_table(("role", "model"), figures, "projected from")
    for role in roles:
        most = "" if role.measured or not role.calls else "at most "
        around = f" ({role.calls_at_least:,} - {role.calls_at_most:,})" if role.calls_at_least < role.calls_at_most else ""
        table.add_row(
            role.role,
            Text(printable(role.model)),
            f"{role.calls:,}{around}",
            f"{role.known:,}",
            f"{most}{role.prompt_tokens:,}",
            f"{most}{role.completion_tokens:,}",
            "no price" if role.usd is None else f"{most}{role.usd:.2f}",
            "unknown" if role.seconds is None else duration(role.seconds),
            f"{role.measured:,} replies" if role.measured else "",
        )
    return table


def show_replay_forecast(found: "ReplayForecast", run: Path, policy: Sequence[str], *, json_output: bool) -> None:
    """Print the forecast of another policy as a table, or as JSON."""
    if json_output:
        print_json({"run": str(run), "policy": list(policy), "unknown_share": found.unknown_share, **asdict(found)})
        return
    console = results()
    head = f"forecast of {', '.join(policy)} from {run}: {found.priced} of {found.cases} cases can be priced"
    console.print(escape(printable(head)), soft_wrap=True)
    if found.unknown:
        console.print(f"unknown: {found.unknown_share:.1%} of the cases need replies that the ledger does not have. The first one missing:")
        for words, count in found.unknown.items():
            console.print(f"{count:>6}  {escape(printable(words))}", soft_wrap=True)
    if found.same_paths is None or found.same_paths_interval is None:
        return
    if found.unknown:
        console.print("the figures below cover the other cases only, which may be easier")
    figures = ("recorded", "forecast", "a case (95 % interval)", "change (95 % interval)")
    table = plain_table(("",), figures, gap=1, no_wrap=True)
    for f in found.figures:
        digits = 4 if f.name == "USD" else 0
        low, high = f.per_case_interval
        least, most = f.change_interval or (0.0, 0.0)
        change = "-" if f.change is None else f"{f.change:+.1%} ({least:+.1%} to {most:+.1%})"
        a_case = f"{f.per_case:,.{digits or 1}f} ({low:,.{digits or 1}f} to {high:,.{digits or 1}f})"
        table.add_row(f.name, f"{f.recorded:,.{digits}f}", f"{f.forecast:,.{digits}f}", a_case, change)
    console.print(whole(table))
    low, high = found.same_paths_interval
    console.print(f"same path (or both none): {found.same_paths:.1%} ({low:.1%} to {high:.1%}) of the cases priced")
    console.print(f"retained: {found.retained_recorded} recorded, {found.retained_forecast} forecast")
    if found.unpriced:
        console.print(f"not known, because the endpoints did not report it or have no price: {', '.join(found.unpriced)}")
