"""Searches whose trees have good and bad candidates: a mentor's words decide whether interns find the answer."""

from pathlib import Path
from typing import Any

from chiron.client.prompts import read_section
from chiron.providers.baselines.models import match
from tests.support.cases import known_answers, write_cases
from tests.support.endpoint import Endpoint
from tests.support.runs import MENTORS, config_of, execute, team
from tests.support.simulation import prompt_of

RIGHT_INTERNS = {"mentor-a": 3, "mentor-b": 1, "mentor-c": 0}
"""Number of interns, of three, that the last new step of a mentor leads to the answer."""


class World:
    """Mentors write numbered steps with their name in it; the last one's author decides which interns are right."""

    def __init__(self, cases: Path, *, blind: int = 1, words: dict[str, int] | None = None, replies: dict[str, str] | None = None) -> None:
        """Create the world.

        Args:
            cases: case file.
            blind: number of interns, of three, that are right without any reasoning.
            words: number of words of each of a mentor's steps.
            replies: fixed replies by model.
        """
        self.answers, self.blind, self.words, self.replies = known_answers(cases), blind, words or {}, replies or {}

    def reply(self, body: dict[str, Any]) -> str:
        prompt, model = prompt_of(body), str(body["model"])
        if model in self.replies:
            return self.replies[model]
        if "<given_answer>" in prompt:
            return match(prompt)
        given = (read_section(prompt, "reasoning") or "").splitlines()
        if "<answer>" in prompt:
            first = len(given) + 1
            said = [f"### Step {n}: {self._step(n, model)}" for n in range(first, first + 4)]
            return "\n".join([*said, f"### The final answer is: {read_section(prompt, 'answer')}"])
        author = next((mentor for mentor in MENTORS if given and mentor in given[-1]), None)
        right = RIGHT_INTERNS[author] if author else self.blind
        known = self.answers[read_section(prompt, "question") or ""]
        answer = known if "abc".index(model[-1]) < right else "Something else"
        return f"### Step {len(given) + 1}: So it is.\n### The final answer is: {answer}"

    def _step(self, number: int, model: str) -> str:
        wanted = self.words.get(model, 8)
        said = f"Sign {number} was noted by {model}".split()
        return " ".join([*said, *(f"w{number}x{n}" for n in range(wanted - len(said)))])


def searched(folder: Path, count: int = 3, *, world: dict[str, Any] | None = None, **how: Any) -> Path:
    """Write cases, search them, and return the run directory."""
    cases = folder / "cases.jsonl" if (folder / "cases.jsonl").exists() else write_cases(folder, count)
    run = folder / str(how.pop("run", "run"))
    with Endpoint(World(cases, **(world or {})).reply) as endpoint:
        execute(cases, config_of(team(endpoint.base_url, **{"temperatures": [0.2], "baseline": True, **how})), run)
    return run
