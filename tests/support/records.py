"""Write JSON Lines."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from chiron.io import write_atomically


def write_lines(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write records to a file, one per line, as they come."""
    write_atomically(path, (json.dumps(record, ensure_ascii=False) + "\n" for record in records))
