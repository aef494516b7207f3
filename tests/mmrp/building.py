"""Authors and readers behind a real endpoint, and builds on them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chiron.client.prompts import read_section
from chiron.mmrp.config import BuildFile
from tests.support.cases import a_case
from tests.support.simulation import prompt_of

RIGHT, WRONG = "Rib fracture", ("Pneumothorax", "Pleural effusion", "Lung cancer")
QUESTION = "Which injury explains the pain?"


def build_config(base_url: str, *, model: dict[str, Any] | None = None, **build: Any) -> BuildFile:
    common = {"provider": "openai", "base_url": base_url, "timeout": 10.0, **(model or {})}
    models = {name: {**common, "model": name} for name in ("author", "reader")}
    return BuildFile.check({"models": models, "build": {"author": "author", "reader": "reader", **build}}, origin=Path("test.yaml"))


def written(**changes: Any) -> dict[str, Any]:
    """A question as an author writes it."""
    return {
        "question": QUESTION,
        "options": [RIGHT, *WRONG],
        "answer": RIGHT,
        "reasoning": ["A fall hurts the chest.", "The cortex of a rib is interrupted."],
        **changes,
    }


def reply(*questions: dict[str, Any]) -> str:
    return json.dumps({"questions": list(questions)})


class Models:
    """An author that says what it is given, and a reader that knows the right option when it sees the case."""

    def __init__(self, *replies: str | Callable[[str], str], blind: str = "", every: tuple[str, ...] = (RIGHT,), told: str = RIGHT) -> None:
        self.replies = replies or (reply(written()),)
        self.blind, self.every, self.told = blind, every, told
        self.authored: dict[str, int] = {}

    def answer(self, body: dict[str, Any]) -> str:
        prompt = prompt_of(body)
        if body["model"] == "author":
            nth = self.authored[prompt] = self.authored.get(prompt, 0) + 1
            said = self.replies[min(nth, len(self.replies)) - 1]
            return said if isinstance(said, str) else said(prompt)
        listed = dict(line.split(". ", 1)[::-1] for line in (read_section(prompt, "options") or "").splitlines())
        if read_section(prompt, "findings") is None:
            return listed.get(self.blind, "no idea")
        names = self.every if "all right options" in prompt else (self.told,)
        return ", ".join(listed[name] for name in names if name in listed) or "none"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_material(path: Path, **changes: Any) -> Path:
    """One case, as it is said to be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(a_case(**changes).to_record()) + "\n")
    return path


def write_different(folder: Path, count: int) -> Path:
    """Cases that differ in their findings, so that no two of them share a call."""
    path = folder / "cases.jsonl"
    records = [a_case(f"case-{n:05d}", findings=(f"The cortex of rib {n + 1} is interrupted.",)).to_record() for n in range(count)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
