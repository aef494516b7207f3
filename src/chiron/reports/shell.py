"""Page shell of all HTML pages: one template environment, one style sheet, one content security policy; and how pages format values."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from importlib import resources

from jinja2 import BaseLoader, ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_SHELL = "chiron.reports"


def render_page(
    package: str, template: str, *, styles: Sequence[str] = (), script: str | Sequence[str] = (), served: bool = False, **values: object
) -> Iterator[str]:
    """Render a page that needs no other file, and on which only Chiron's own style and script can take effect.

    Every value is escaped, in text and in quoted attributes, and written by :func:`legible`.

    Args:
        package: package that contains the files named below; files of ``chiron.reports`` are found too.
        template: template that extends ``base.html``.
        styles: style sheets to add to ``base.css``.
        script: script at the end of the page, or several that follow one another.
        served: whether a server sends the page, so that it may load images and data from that server.
        **values: variables of the template.

    Returns:
        The page in parts, rendered as they are read, so that values may be generators.
    """
    css = "".join(_file(package, name) for name in ("base.css", *styles))
    js = "".join(_file(package, name) for name in ([script] if isinstance(script, str) else script)) or None
    return (
        environment(package)
        .get_template(template)
        .generate(
            style=Markup(css),  # noqa: S704 - files of this package
            script=None if js is None else Markup(js),  # noqa: S704 - a file of this package
            policy=content_security_policy(css, js, served=served),
            **values,
        )
    )


@cache
def environment(package: str, *, escape: bool = True) -> Environment:
    """Return the environment for a package's templates.

    Args:
        package: package that contains the templates; those of ``chiron.reports`` are found too.
        escape: escape all values for HTML. Only templates of other formats turn this off.
    """
    folders: list[BaseLoader] = [PackageLoader(name, "") for name in dict.fromkeys((package, _SHELL))]
    env = Environment(
        loader=ChoiceLoader(folders),
        autoescape=escape,  # noqa: S701 - off only for formats other than HTML
        finalize=legible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for function in (decimal, signed, count, usd, moment):
        env.filters[function.__name__] = function
    env.globals.update(cost=cost, plural=plural, share=share)
    return env


def content_security_policy(style: str, script: str | None = None, *, served: bool = False) -> str:
    """Return the policy of a page with this ``<style>`` and optional ``<script>``: no other style or script, and no requests.

    A page that is ``served`` may load images and data from its own server, and send its forms there.
    """
    scripts = f" script-src {_source_hash(script)};" if script is not None else ""
    own = "'self'" if served else "'none'"
    images, requests = ("'self' data:", " connect-src 'self';") if served else ("data:", "")
    rules = f"default-src 'none'; img-src {images};{requests} style-src {_source_hash(style)};{scripts}"
    return f"{rules} base-uri 'none'; form-action {own}"


def already_rendered(parts: Iterator[str]) -> Iterator[Markup]:
    """Mark sections that :func:`environment` has rendered as safe."""
    return (Markup(part) for part in parts)  # noqa: S704 - escaped when they were rendered


def embedded_json(data: object) -> Markup:
    """Write JSON for a ``<script type="application/json">`` element. It can neither end the element nor start a comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - contains no markup characters


@cache
def _file(package: str, name: str) -> str:
    places = (resources.files(place).joinpath(name) for place in (package, _SHELL))
    return next(place for place in places if place.is_file()).read_text("utf-8")


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


_DASH = "\N{EN DASH}"
_ILLEGIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def legible(value: object) -> object:
    """Replace invisible characters that change how the surrounding text is displayed.

    Escaping stops markup, but not a right-to-left override that reverses the rest of a line, or a lone surrogate that makes the page
    impossible to encode. Each becomes the replacement character, so that a reader sees that something was there.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return _ILLEGIBLE.sub("\ufffd", value)
    return value


def decimal(value: float | None) -> str:
    """Format a score: ``0.83``, or a dash."""
    return _DASH if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """Format a difference of scores: ``+0.33``, ``-0.17`` with a true minus sign, or a dash."""
    if value is None:
        return _DASH
    return "\N{PLUS-MINUS SIGN}0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def count(value: int) -> str:
    """Format an integer: ``10,000``."""
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    """Format a share: ``33 %``, or a dash if ``whole`` is 0."""
    return f"{100 * part / whole:.0f}\N{NO-BREAK SPACE}%" if whole else _DASH


def usd(value: float) -> str:
    """Format dollars; amounts below one dollar get four decimals, because a call costs so little."""
    return f"${value:,.2f}" if value >= 1 else f"${value:.4f}"


def cost(known_usd: float, possible_usd: float = 0.0, *, priced: bool = True) -> str:
    """Format what calls cost: ``$1.00``, ``at least $1.00, up to $0.2500 more possible``, or ``no price``.

    Args:
        known_usd: USD of the replies.
        possible_usd: USD reserved for calls without a reply, which may be billed.
        priced: whether every reply has a price.
    """
    if not priced and not known_usd and not possible_usd:
        return "no price"
    known = f"{'' if priced else 'at least '}{usd(known_usd) if known_usd else '$0'}"
    return f"{known}, up to {usd(possible_usd)} more possible" if possible_usd else known


def plural(number: int, one: str, many: str) -> str:
    """Format a number with its noun: ``1 case``, ``2 cases``."""
    return f"{number:,} {one if number == 1 else many}"


def moment(text: str) -> str:
    """Format a time of ``run.json`` for people; other text is returned unchanged."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return when.strftime("%Y-%m-%d %H:%M %z").strip()
