"""``chiron report``: the page of a run."""

from chiron.cli.status import RunDirArgument
from chiron.report.page import write_report


def command(
    run: RunDirArgument,
) -> None:
    """Write the report of a run anew, also while it goes on."""
    print(write_report(run))
