"""The answer rules of other harnesses, written anew from descriptions of what they do, to see where each fails. Not their code."""

import random
import re
from collections.abc import Sequence

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def mmmu(reply: str, options: Sequence[str], *, seed: str) -> str:
    """MMMU's parser: of several letters (or option texts) the last; of none a random one, here seeded."""
    letters = _LETTERS[: len(options)]
    padded = f" {reply.strip(',.!?;:')} "
    at = {c: place for c in letters if (place := max(padded.rfind(f"({c})"), padded.rfind(f" {c} "), padded.rfind(f"{c}."))) >= 0}
    if not at and len(reply.split()) > 5:
        at = {c: place for c, text in zip(letters, options, strict=False) if (place := padded.lower().rfind(text.lower())) >= 0}
    return max(at, key=at.__getitem__) if at else random.Random(seed).choice(letters)


def vlmevalkit(reply: str, options: Sequence[str]) -> str:
    """VLMEvalKit without a judge: the sole letter or text, else "answer is X" for A to D alone; a miss becomes Z, which is wrong."""
    letters = _LETTERS[: len(options)]
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    found = [c for c in letters if c in words]
    if len(found) == 1 and not (found == ["A"] and len(words) > 3):
        return found[0]
    if declared := re.search(r"answer is:? ?\(?([A-D])\b", reply, re.IGNORECASE):
        return declared[1].upper()
    texts = [c for c, text in zip(letters, options, strict=False) if text.lower() in reply.lower()]
    return texts[0] if len(texts) == 1 else "Z"


def huatuo_vision(reply: str, options: Sequence[str]) -> str | None:
    """HuatuoGPT-Vision: the first letter that stands alone, in the case in which it stands; else an option's text."""
    if found := re.search(r"(?<![A-Za-z])([A-Za-z])(?![A-Za-z])", reply):
        return found[1]
    return next((c for c, text in zip(_LETTERS, options, strict=False) if text.lower() in reply.lower()), None)


def medevalkit_yes_no(reply: str) -> str | None:
    """MedEvalKit's closed questions: the letters "no" anywhere are a no, else "yes" anywhere is a yes."""
    text = reply.lower()
    return "no" if "no" in text else "yes" if "yes" in text else None
