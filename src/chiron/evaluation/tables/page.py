"""Tables as an HTML page that needs nothing else."""

from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from chiron.evaluation.policy import policy
from chiron.evaluation.tables.grid import Grid
from chiron.report.wording import legible


def html(grids: Sequence[Grid]) -> str:
    """One page with every table. Whatever stands in them is escaped, and nothing on it can run or be fetched."""
    env = Environment(
        loader=PackageLoader("chiron.evaluation.tables", ""),
        autoescape=True,
        finalize=legible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = resources.files("chiron.evaluation.tables").joinpath("page.css").read_text("utf-8")
    return env.get_template("page.html").render(grids=grids, style=Markup(style), policy=policy(style))  # noqa: S704 - a file of this package
