"""Writing the page: one HTML file that needs nothing else."""

import json
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from chiron.evaluation.item_page.gathering import VERDICTS, gather
from chiron.evaluation.policy import policy
from chiron.evaluation.runs import Evaluated
from chiron.files import write_atomically
from chiron.report.wording import legible


def write_item_page(models: Sequence[Evaluated], out: Path, folders: Mapping[str, Path]) -> Path:
    """Write the page of all items that these models were asked. Thousands are no burden: a few are drawn at a time.

    Args:
        models: as :func:`chiron.evaluation.runs.read_evaluations` gives them.
        out: the file.
        folders: where each benchmark's images lie.

    Returns:
        The file. Only its owner may read it: it holds patients' data.

    Raises:
        DiskError: it cannot be written.
    """
    gathered = gather(models, folders)
    style = "".join(
        resources.files(package).joinpath("page.css").read_text("utf-8") for package in ("chiron.report", "chiron.evaluation.item_page")
    )
    script = resources.files("chiron.evaluation.item_page").joinpath("page.js").read_text("utf-8")
    env = Environment(
        loader=PackageLoader("chiron.evaluation.item_page", ""),
        autoescape=True,
        finalize=legible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = env.get_template("page.html").generate(
        policy=policy(style, script),
        style=Markup(style),  # noqa: S704 - files of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        data=Markup(_embedded(gathered.data)),  # noqa: S704 - no character of it is markup, see below
        written=time.strftime("%Y-%m-%d %H:%M %z"),
        verdicts=VERDICTS,
        counts=[(name, counts) for name, counts in gathered.verdicts.items()],
        total=len(gathered.items),
    )
    write_atomically(out, page)
    return out


def _embedded(data: object) -> str:
    """JSON that may stand in a ``<script>`` element: nothing in it can end the element or begin a comment in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
