"""The templates, the style and the script of the page, and the rule that nothing else may run in it."""

import base64
import hashlib
from collections.abc import Iterator
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from chiron.report import wording


def environment() -> Environment:
    """Templates that escape whatever they are given, in text and in (always quoted) attributes."""
    env = Environment(
        loader=PackageLoader("chiron.report", ""),
        autoescape=True,
        finalize=wording.legible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for filtering in (wording.decimal, wording.signed, wording.count, wording.usd, wording.moment):
        env.filters[filtering.__name__] = filtering
    env.globals.update(plural=wording.plural, share=wording.share)
    return env


def trimmings() -> dict[str, Any]:
    """Style and script, ours and so not escaped, and a content security policy that lets these two work and nothing else."""
    style, script = (resources.files("chiron.report").joinpath(name).read_text("utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    return {
        "style": Markup(style),  # noqa: S704 - a file of this package
        "script": Markup(script),  # noqa: S704 - a file of this package
        "policy": policy,
    }


def rendered(chunks: Iterator[str]) -> Iterator[Markup]:
    """Pieces of sections that :func:`environment` rendered before, to be taken as they are."""
    return (Markup(chunk) for chunk in chunks)  # noqa: S704 - escaped when they were rendered


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
