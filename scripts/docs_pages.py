"""Hooks of mkdocs: pages that are made from the code and from files outside of docs/, and links to the code.

The links of the pages work in a checkout. On the site, a link to a file that is not a page becomes the file's name, or, if the environment
variable ``CHIRON_REPOSITORY`` has a URL such as ``https://example.org/chiron/blob/v1``, a link below it.
"""

import os
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

import chiron
from chiron.cli.app import app

ROOT = Path(__file__).parents[1]
OUTSIDE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "bench/README.md": "benchmarks.md"}
"""Pages made from files outside of docs/, by their path in a checkout."""
LINK = re.compile(r"(!?\[[^\]]*\])\((?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?\)")
IMAGE = re.compile(r'<img src="docs/([^"]+)"')
ROLE = re.compile(r":(?:func|class|attr|meth|data|mod):<code>~?([\w.]+)</code>")
FENCE = re.compile(r"(^ *```.*?^ *```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that docs/ does not have."""
    made = {
        **{page: (ROOT / source).read_text("utf-8") for source, page in OUTSIDE.items()},
        "cli.md": "# Commands\n\n" + commands(),
        "api.md": api(),
        "gallery.md": gallery(),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Point links at the site's pages."""
    source = next((source for source, made in OUTSIDE.items() if made == page.file.src_uri), f"docs/{page.file.src_uri}")
    folder = PurePosixPath(source).parent
    parts = FENCE.split(IMAGE.sub(r'<img src="\1"', markdown))
    return "".join(part if FENCE.fullmatch(part) else LINK.sub(lambda link: linked(link, folder), part) for part in parts)


def on_page_content(html: str, **_: object) -> str:
    """Show the roles of docstrings as code."""
    return ROLE.sub(lambda role: f"<code>{role[1].rpartition('.')[2]}</code>", html)


def linked(link: re.Match[str], folder: PurePosixPath) -> str:
    """Return a link of a file in ``folder`` as it is on the site."""
    label, target, anchor = link[1], normpath(str(folder / link[2])), link[3] or ""
    if target in OUTSIDE:
        return f"{label}({OUTSIDE[target]}{anchor})"
    if target.startswith("docs/"):
        return f"{label}({target.removeprefix('docs/')}{anchor})"
    if not (ROOT / target).exists():
        return link[0]  # mkdocs reports it
    repository = os.environ.get("CHIRON_REPOSITORY")
    return f"{label}({repository.rstrip('/')}/{target}{anchor})" if repository else f"{label.lstrip('!')[1:-1]} (`{target}`)"


def commands() -> str:
    """Return the reference of all commands, as typer writes it."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="chiron"), name="chiron")
    return re.sub(r"^# `chiron`\n+", "", text)


def api() -> str:
    """Return the reference of the public names, which mkdocstrings fills."""
    found = {name: getattr(chiron, name) for name in sorted(chiron.__all__) if not name.startswith("__")}
    places = [f"::: {value.__module__}.{value.__qualname__}" for value in found.values() if hasattr(value, "__qualname__")]
    return "# Python reference\n\nEverything here is imported from `chiron`.\n\n" + "\n\n".join(places) + "\n"


def gallery() -> str:
    """Return a page with the pictures of all pages, each with its description there."""
    shown: dict[str, tuple[str, str]] = {}
    for page in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]:
        for label, name in re.findall(r"!\[([^\]]*)\]\((?:docs/)?(images/[^)]+)\)", page.read_text("utf-8")):
            shown.setdefault(name, (label, OUTSIDE.get(page.name, page.name)))
    pictures = [f"## {label}\n\n![{label}]({name})\n\nFrom [{page}]({page})\n" for name, (label, page) in sorted(shown.items())]
    return "# Pictures\n\n" + "\n".join(pictures)
