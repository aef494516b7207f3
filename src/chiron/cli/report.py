"""``chiron report``: the page of a run."""

from chiron.cli.status import RunDirArgument


def command(
    run: RunDirArgument,
) -> None:
    """Write the report of a run anew, also while it goes on."""
    from chiron.report.page import write_report

    print(write_report(run))
