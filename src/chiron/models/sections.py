"""Named sections in prompts: ``<question>...</question>``. Written by whoever asks, read by models, the embedded ones included.

Case text and model output are hostile: nothing that they hold can open or close a section.
"""

import re

NAMES = (
    "question", "history", "findings", "answer", "reasoning", "known_answer", "given_answer", "title", "manner", "options",
)  # fmt: skip
_TAG = re.compile(rf"<(?=\s{{0,8}}/?\s{{0,8}}(?:{'|'.join(NAMES)})\b)", re.IGNORECASE)


def section(name: str, text: str) -> str:
    """``text`` as a section that no text can break out of."""
    return f"<{name}>\n{harmless(text)}\n</{name}>"


def harmless(text: str) -> str:
    """``text`` without anything that a reader could take for a section's mark; ``<25%`` stays what it is."""
    return _TAG.sub("\u2039", text)


def read_section(prompt: str, name: str) -> str | None:
    """What stands in the last section of that name, ``None`` if there is none."""
    begin = prompt.rfind(f"<{name}>\n")
    if begin < 0:
        return None
    begin += len(name) + 3
    end = prompt.find(f"\n</{name}>", begin - 1)
    return prompt[begin:end] if end >= begin else "" if end == begin - 1 else None
