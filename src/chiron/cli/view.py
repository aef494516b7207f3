"""`chiron view`."""

import json
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from chiron.cli.streams import messages
from chiron.errors import InputError

if TYPE_CHECKING:
    from chiron.view.access import Gate


def view_command(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIR]...", help="Folders that contain runs; the current folder by default.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    json_output: Annotated[bool, typer.Option("--json", help='Print one line {"url": ...} on standard output when it listens.')] = False,
) -> None:
    """Look at runs in the browser, also while they are being written. The server is for this computer only, and it only reads.

    Searches, builds, trainings, evaluations and releases under the folders appear on one page. Ctrl-C stops the server.
    """
    try:
        from chiron.view.server import serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"starlette", "uvicorn"}:
            raise
        raise InputError(
            f"'chiron view' needs the package '{error.name}', which is not installed: pip install 'chiron-med[view]'"
        ) from None

    def ready(gate: "Gate") -> None:
        if json_output:
            print(json.dumps({"url": gate.link()}), flush=True)
        else:
            messages().print(f"{gate.link()}\nThe address is for this computer and ends with this command (Ctrl-C).", markup=False)
        if browser:
            # Some browsers return only when they end, and the page is not answered before this function returns.
            threading.Thread(target=webbrowser.open, args=(gate.link(once=True),), daemon=True).start()

    serve(folders or [Path()], ready)
