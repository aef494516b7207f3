"""Long description of the package: README.md without relative links, which package indexes cannot follow."""

import os
import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")
IMAGE = re.compile(r'<img src="(?!https?:)([^"]+)"([^>]*)>')


def without_relative_links(text: str, repository: str | None = None) -> str:
    """Make relative links absolute, below ``repository`` (a URL such as ``https://example.org/chiron/blob/v1``).

    Without it, a link becomes its text, and an image is removed.
    """
    if repository is None:
        text = LINK.sub(lambda link: "" if link[1] else link[2], text)
        return IMAGE.sub("", text)
    base = repository.rstrip("/")
    text = LINK.sub(lambda link: f"{link[1]}[{link[2]}]({base}/{link[3]})", text)
    return IMAGE.sub(lambda image: f'<img src="{base}/{image[1]}"{image[2]}>', text)


class Readme(MetadataHookInterface):
    """Called by hatchling; the repository is in the environment variable ``CHIRON_REPOSITORY``."""

    def update(self, metadata: dict[str, object]) -> None:
        """Set the field ``readme``."""
        text = (Path(self.root) / "README.md").read_text("utf-8")
        shown = without_relative_links(text, os.environ.get("CHIRON_REPOSITORY"))
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}
