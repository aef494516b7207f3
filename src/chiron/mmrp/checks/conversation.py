"""A conversation that a trainer can read: turns in order, something said in each, and text that a file can hold."""

import json
from collections.abc import Iterator

from chiron.mmrp.checks.finding import Finding
from chiron.mmrp.row import MmrpRow


def look(row: MmrpRow) -> Iterator[Finding]:
    """What every trainer would refuse."""
    roles = [turn.role for turn in row.turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        yield Finding("conversation", row.id, "user and assistant do not take turns, the user first and the assistant last")
    if any(not turn.text.strip() for turn in row.turns):
        yield Finding("conversation", row.id, "an empty turn")
    try:
        json.dumps(row.to_record(), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        yield Finding("conversation", row.id, "text with half a character (a lone surrogate)")
