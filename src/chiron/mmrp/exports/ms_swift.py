"""ms-swift: ``messages`` and ``images``."""

from typing import Any

from chiron.mmrp.exports.export import IMAGES, Export, ReleasedRow, message_faults, messages


def ms_swift_row(row: ReleasedRow) -> dict[str, Any]:
    """Convert to ``{"messages", "images": [relative to the release]}``; ms-swift resolves paths from its working directory."""
    return {"messages": messages(row), "images": [f"{IMAGES}/{image.name}" for image in row.images]}


EXPORT = Export("ms-swift", "ms-swift. Start it in this folder.", ms_swift_row, message_faults)
