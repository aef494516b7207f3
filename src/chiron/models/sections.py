"""Named sections in prompts: ``<question>...</question>``. Written by the search, read by models, the embedded ones included.

Case text and model output are hostile: nothing that they hold can open or close a section.
"""

import re

NAMES = ("question", "history", "findings", "answer", "reasoning", "known_answer", "given_answer")
_TAG = re.compile(rf"<(\s*/?\s*(?:{'|'.join(NAMES)})\b[^>]*>?)", re.IGNORECASE)


def section(name: str, text: str) -> str:
    """``text`` as a section that no text can break out of."""
    return f"<{name}>\n{harmless(text)}\n</{name}>"


def harmless(text: str) -> str:
    """``text`` without anything that a reader could take for a section's mark; ``<25%`` stays what it is."""
    return _TAG.sub("\u2039\\1", text)


def read_section(prompt: str, name: str) -> str | None:
    """What stands in the last section of that name, ``None`` if there is none."""
    found = re.findall(rf"<{name}>\n(.*?)\n</{name}>", prompt, flags=re.DOTALL)
    return found[-1] if found else None
