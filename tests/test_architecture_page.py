"""Every file that docs/architecture.md names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "chiron"


def test_the_architecture_page_names_existing_files() -> None:
    named = re.findall(r"`([a-z_]+(?:/[a-z_]+)*(?:\.py|/))`", (ROOT / "docs" / "architecture.md").read_text("utf-8"))
    assert len(named) > 50
    missing = [name for name in named if not (ROOT / name).exists() and not list(PACKAGE.rglob(name.rstrip("/")))]
    assert missing == []
