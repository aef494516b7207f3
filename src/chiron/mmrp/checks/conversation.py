"""Check that trainers can read the conversation: alternating turns, none empty, and text that can be encoded."""

import json
import re
from collections.abc import Iterator

from chiron.mmrp.checks.check import Check, Finding
from chiron.mmrp.row import MmrpRow

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TEMPLATE = re.compile(r"<\|\w{2,24}\|>|<IMG_CONTEXT>|</?img>")
"""Chat-template tokens. Tokenizers interpret them anywhere in a text, so such text could impersonate another speaker."""


def look(row: MmrpRow) -> Iterator[Finding]:
    """Yield faults that every trainer rejects."""
    roles = [turn.role for turn in row.turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2):
        yield Finding("conversation", row.id, "user and assistant do not alternate, or the conversation does not end with the assistant")
    if any(not turn.text.strip() for turn in row.turns):
        yield Finding("conversation", row.id, "an empty turn")
    if any(_CONTROL.search(turn.text) for turn in row.turns):
        yield Finding("conversation", row.id, "a control character in a turn")
    if mark := next((found for turn in row.turns if (found := _TEMPLATE.search(turn.text))), None):
        yield Finding("conversation", row.id, f"a chat template token, {mark.group()}, in a turn")
    try:
        json.dumps(row.to_record(), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        yield Finding("conversation", row.id, "a lone surrogate, which cannot be encoded")


CHECKS = (Check("conversation", "Turns out of order, empty, or with text that cannot be stored", 0.0, look),)
