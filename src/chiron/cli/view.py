"""`chiron view`."""

import json
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.streams import messages
from chiron.errors import InputError
from chiron.extras import install_command
from chiron.terminal import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chiron.view.access import Gate, Reviewer


def view_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="Folders that contain runs; the current folder by default.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    json_output: Annotated[bool, typer.Option("--json", help='Print one line {"url": ...} on standard output when it listens.')] = False,
    review: Annotated[
        list[str] | None, typer.Option("--review", metavar="NAME", help="Let NAME review paths, through a link of its own; repeatable.")
    ] = None,
    adjudicate: Annotated[
        list[str] | None, typer.Option("--adjudicate", metavar="NAME", help="Let NAME decide where reviews disagree; repeatable.")
    ] = None,
    double: Annotated[float, typer.Option("--double", metavar="SHARE", help="Share of the paths that two reviewers review.")] = 0.0,
    min_score: Annotated[
        float | None, typer.Option("--min-score", metavar="SCORE", help="Also review rejected paths with at least this MICS-Score.")
    ] = None,
) -> None:
    """Look at runs in the browser, also while they are being written. The server is for this computer only.

    Searches, builds, trainings, evaluations and releases under the folders appear on one page. Ctrl-C stops the server. It only reads,
    unless --review or --adjudicate names persons: their reviews are stored in reviews.sqlite in the run directory.
    """
    try:
        from chiron.view.app import serve
        from chiron.view.review_queue import ReviewSettings
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"starlette", "uvicorn"}:
            raise
        raise InputError(f"'chiron view' needs the package '{error.name}', which is not installed: {install_command('view')}") from None

    reviewers = _reviewers(review or [], adjudicate or [])
    if not reviewers and (double or min_score is not None):
        raise InputError("--double and --min-score need reviewers: add --review NAME")
    settings = ReviewSettings(tuple(person.name for person in reviewers if person.reviews), double, min_score)

    def ready(gate: "Gate") -> None:
        links = {person.name: gate.link(reviewer=person) for person in gate.reviewers}
        if json_output:
            print(json.dumps({"url": gate.link(), **({"reviewers": links} if links else {})}, ensure_ascii=False), flush=True)
        else:
            for name, link in links.items():
                messages().print(f"{printable(name)}: {link}", markup=False, soft_wrap=True)
            messages().print(f"{gate.link()}\nThe address is for this computer and ends with this command (Ctrl-C).", markup=False)
        if browser:
            # Some browsers return only when they end, and the page is not answered before this function returns.
            threading.Thread(target=webbrowser.open, args=(gate.link(once=True),), daemon=True).start()

    serve(folders or [Path()], ready, reviewers=reviewers, settings=settings)


def _reviewers(review: list[str], adjudicate: list[str]) -> "Sequence[Reviewer]":
    from chiron.reviews.records import need_reviewer_name
    from chiron.view.access import Reviewer

    names = [need_reviewer_name(name) for name in dict.fromkeys([*review, *adjudicate])]
    return [Reviewer(name, reviews=name in review, adjudicates=name in adjudicate) for name in names]
