"""``ask`` function that replies from a table, to test the search in isolation."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from chiron.cases.case import Case
from chiron.client.call import Call, ImagePart, Reply, RoleModel
from chiron.client.failures import Transient
from chiron.client.prompts import read_section
from chiron.conversation.reasoning import Reasoning, parse_reasoning, render_reasoning
from chiron.mics.result import SearchResult
from chiron.mics.search import search
from chiron.mics.team import Policy, Team
from tests.support.cases import a_case

MENTORS, INTERNS = ("A", "B", "C"), ("x", "y", "z")
TEAM = Team(tuple(RoleModel(m, m, 512) for m in MENTORS), tuple(RoleModel(i, i, 512) for i in INTERNS), RoleModel("judge", "judge", 8))
CASE = a_case(answer="Mondor disease")

CUT = "<cut>"
"""Marker at the end of a reply that reached the token limit."""
MentorReply = str | tuple[str, ...] | None
"""Literal text, steps that lead to the known answer, or None for no reply."""


@dataclass
class Table:
    """Replies to calls and records them in order."""

    mentor: Callable[[str, tuple[str, ...], int], MentorReply]
    """(mentor, prefix, sample index) -> reply."""
    intern: Callable[[str, tuple[str, ...], float, int], bool | str | None]
    """(intern, prefix, temperature, sample index) -> right or wrong, an answer, or None for no reply."""
    judge: Callable[[str, int], str | None] = lambda given, _: "yes" if given == CASE.answer else "no"
    """(given answer, sample index) -> reply."""
    case: Case = field(default_factory=lambda: CASE)
    shuffle: random.Random | None = None
    calls: list[Call] = field(default_factory=list)

    async def __call__(self, call: Call) -> Reply:
        self.calls.append(call)
        if self.shuffle is not None:
            for _ in range(self.shuffle.randrange(5)):
                await asyncio.sleep(0)
        text = self._answer(call)
        if text is None:
            raise Transient("no reply")
        return Reply(text.removesuffix(CUT), "length" if text.endswith(CUT) else "stop")

    def _answer(self, call: Call) -> str | None:
        prompt = call.messages[-1].text
        if call.role == "judge":
            return self.judge(read_section(prompt, "given_answer") or "", call.draw)
        prefix = prefix_of(call)
        if call.role == "mentor":
            reply = self.mentor(call.model, prefix, call.draw)
            return render_reasoning(reply, self.case.answer) if isinstance(reply, tuple) else reply
        said = self.intern(call.model, prefix, call.temperature, call.draw)
        if said is None:
            return None
        answer = said if isinstance(said, str) else self.case.answer if said else "Something else"
        return f"### Step {len(prefix) + 1}: so\n### The final answer is: {answer}"

    def count(self, role: str) -> int:
        return sum(c.role == role for c in self.calls)

    def search(self, policy: Policy | None = None, team: Team = TEAM) -> SearchResult:
        pictures = tuple(ImagePart(f"{n:064x}", 512) for n in range(len(self.case.images)))
        return asyncio.run(search(self.case, team, self, policy if policy is not None else Policy(), pictures=pictures))


def prefix_of(call: Call) -> tuple[str, ...]:
    reasoning: Reasoning = parse_reasoning(read_section(call.messages[-1].text, "reasoning") or "")
    return reasoning.steps


def steps(mentor: str, count: int = 6) -> tuple[str, ...]:
    return tuple(f"{mentor}{n}" for n in range(1, count + 1))


def own_paths(mentor: str, prefix: tuple[str, ...], draw: int) -> MentorReply:
    """Continue with steps that contain the mentor's name."""
    return tuple(f"{mentor}{n}" for n in range(len(prefix) + 1, len(prefix) + 5))
