"""Records of conversations as training frameworks store them: LLaVA, ShareGPT, LLaMA-Factory, and instruction/output pairs."""

from collections.abc import Iterator, Mapping
from typing import Any

from chiron.cases.importing.records import LeaveOut, Why

_LISTS = ("conversations", "conversation", "messages")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant", "system": "system"}
_IMAGE_MARK = "<image>"
SEVERAL = "conversations of several exchanges, of which the first was taken"


def is_conversation(record: Mapping[str, Any]) -> bool:
    """Whether a record holds a list of turns."""
    return any(isinstance(record.get(name), list) for name in _LISTS)


def unrolled(record: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """A record with its first exchange as ``question`` and ``answer``, and whether there are more exchanges.

    Images within the turns become ``images``, unless the record lists its images itself.

    Raises:
        LeaveOut: a turn is not one of a user, an assistant or a system.
    """
    name = next((name for name in _LISTS if isinstance(record.get(name), list)), None)
    if name is None:
        return _instruction(record), False
    rest = {key: value for key, value in record.items() if key != name}
    images: list[Any] = []
    turns = [_turn(turn, name, images) for turn in record[name]]
    question = next((at for at, (role, _) in enumerate(turns) if role == "user"), None)
    answer = next((at for at, (role, _) in enumerate(turns) if role == "assistant" and question is not None and at > question), None)
    if question is not None:
        rest["question"] = _without_marks(turns[question][1])
    if answer is not None:
        rest["answer"] = turns[answer][1]
    if images:
        rest.setdefault("images", images)
    return rest, sum(role == "user" for role, _ in turns) > 1


def _instruction(record: Mapping[str, Any]) -> dict[str, Any]:
    """The instruction with its input, where a record has both."""
    if not (isinstance(record.get("instruction"), str) and isinstance(given := record.get("input"), str)):
        return {key: _without_marks(value) if key in {"question", "query", "instruction"} else value for key, value in record.items()}
    rest = {key: value for key, value in record.items() if key not in {"instruction", "input"}}
    return {**rest, "question": _without_marks("\n".join(text for text in (record["instruction"], given) if text.strip()))}


def _turn(turn: Any, where: str, images: list[Any]) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise LeaveOut(Why.RECORD, f"field '{where}' must be a list of turns: objects with role and content, or from and value")
    role = _ROLES.get(str(turn.get("role", turn.get("from"))).casefold())
    if role is None:
        raise LeaveOut(Why.RECORD, f"field '{where}' has a turn that is not of a user, an assistant or a system")
    content = next((turn[key] for key in ("content", "value", "text") if key in turn), "")
    return role, content if isinstance(content, str) else "".join(_parts(content, where, images))


def _parts(content: Any, where: str, images: list[Any]) -> Iterator[str]:
    """The text of a list of parts; paths of images in it are added to ``images``."""
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        raise LeaveOut(Why.RECORD, f"field '{where}' has a turn whose content is neither text nor a list of parts")
    for part in content:
        if isinstance(text := part.get("text"), str):
            yield text
        elif (image := part.get("image", part.get("image_url", part.get("path")))) is not None:
            images.append(image.get("url") if isinstance(image, Mapping) else image)


def _without_marks(text: Any) -> Any:
    """A question without the marks of images before and after it. One with a mark within it keeps all of them: they show which is where."""
    if not isinstance(text, str):
        return text
    bare = text.strip()
    while bare.startswith(_IMAGE_MARK) or bare.endswith(_IMAGE_MARK):
        bare = bare.removeprefix(_IMAGE_MARK).removesuffix(_IMAGE_MARK).strip()
    return text if _IMAGE_MARK in bare else bare
