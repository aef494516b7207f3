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
STEPS = 4
"""Number of steps of a mentor's reply."""
UNCLEAR = "It depends"
"""Answer to which the judge gives no verdict."""
SYNONYM = "A broken rib"
"""Answer that the judge accepts, although its words are not those of the known one."""


class World:
    """Mentors write numbered steps with their name in it; the last one's author decides which interns are right."""

    def __init__(
        self,
        cases: Path,
        *,
        blind: int = 1,
        words: dict[str, int] | None = None,
        replies: dict[str, str] | None = None,
        steps: dict[str, str] | None = None,
        endings: dict[str, str] | None = None,
        whole: dict[str, int] | None = None,
        unclear: str | None = None,
        again: dict[str, int] | None = None,
    ) -> None:
        """Create the world.

        Args:
            cases: case file.
            blind: number of interns, of three, that are right without any reasoning.
            words: number of words of each of a mentor's steps.
            replies: fixed replies by model.
            steps: text at the end of each of a mentor's first two steps.
            endings: final answers by mentor; by default the known answer.
            whole: number of interns that the whole path of a mentor leads to the answer, by mentor.
            unclear: mentor after whose steps two of three interns give an answer without a verdict.
            again: number of interns that a mentor's step leads to the answer when they are asked once more, as in a second attempt.
        """
        self.answers, self.blind, self.words, self.replies = known_answers(cases), blind, words or {}, replies or {}
        self.steps, self.endings, self.whole, self.unclear = steps or {}, endings or {}, whole or {}, unclear
        self.again, self.asked = again or {}, set[tuple[str, str]]()

    def reply(self, body: dict[str, Any]) -> str:
        prompt, model = prompt_of(body), str(body["model"])
        if model in self.replies:
            return self.replies[model]
        if "<given_answer>" in prompt:
            return {UNCLEAR: "perhaps", SYNONYM: "yes"}.get(read_section(prompt, "given_answer") or "") or match(prompt)
        given = (read_section(prompt, "reasoning") or "").splitlines()
        if "<answer>" in prompt:
            first = len(given) + 1
            said = [f"### Step {n}: {self._step(n, model)}" for n in range(first, first + STEPS)]
            return "\n".join([*said, f"### The final answer is: {self.endings.get(model) or read_section(prompt, 'answer')}"])
        return f"### Step {len(given) + 1}: So it is.\n### The final answer is: {self._answer(prompt, given, model)}"

    def _answer(self, prompt: str, given: list[str], model: str) -> str:
        author, intern = next((mentor for mentor in MENTORS if given and mentor in given[-1]), ""), "abc".index(model[-1])
        if author == self.unclear and intern:
            return UNCLEAR
        right = self.whole.get(author) if len(given) == STEPS else None
        if author in self.again and (prompt, model) in self.asked:
            right = self.again[author]
        self.asked.add((prompt, model))
        if right is None:
            right = RIGHT_INTERNS[author] if author else self.blind
        return self.answers[read_section(prompt, "question") or ""] if intern < right else "Something else"

    def _step(self, number: int, model: str) -> str:
        wanted = self.words.get(model, 8)
        said = f"Sign {number} was noted by {model}".split()
        added = self.steps.get(model, "").split() if number < 3 else []
        return " ".join([*said, *(f"w{number}x{n}" for n in range(wanted - len(said))), *added])


def searched(folder: Path, count: int = 3, *, world: dict[str, Any] | None = None, **how: Any) -> Path:
    """Write cases, search them, and return the run directory. ``cut_off``: model whose replies end at its limit."""
    cases = folder / "cases.jsonl" if (folder / "cases.jsonl").exists() else write_cases(folder, count)
    run = folder / str(how.pop("run", "run"))
    cut_off = how.pop("cut_off", None)
    with Endpoint(World(cases, **(world or {})).reply, finish=lambda model: "length" if model == cut_off else "stop") as endpoint:
        execute(cases, config_of(team(endpoint.base_url, **{"temperatures": [0.2], "baseline": True, **how})), run)
    return run
