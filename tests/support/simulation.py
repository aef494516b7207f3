"""What the simulated models say: a function of what they are asked, so that a run killed and resumed meets the same world."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from chiron.client.prompts import read_section
from chiron.providers.baselines.search_team import match


@dataclass
class Simulation:
    """Mentors that write four steps to the known answer, interns that are right more often the more steps they see, a strict judge."""

    answers: dict[str, str]
    """Known answer by question: what an intern says when it is right."""
    skill: float = 0.35
    """How likely an intern is right with no reasoning before it."""
    gain: float = 0.15
    """How much likelier with every step it sees."""
    replies: dict[str, str] = field(default_factory=dict)
    """Fixed replies by model, in place of the above."""

    def reply(self, body: dict[str, Any]) -> str:
        """The text that ``body["model"]`` answers."""
        prompt, model = prompt_of(body), str(body["model"])
        if model in self.replies:
            return self.replies[model]
        if "<given_answer>" in prompt:
            return match(prompt)
        steps = prompt.count("### Step ") - 2  # two stand in the instructions
        steps = max(0, steps)
        dice = chance(json.dumps([model, prompt, body.get("temperature")]))
        if "<answer>" in prompt:
            lines = [f"### Step {n}: Sign {n} of {model} ({dice:.4f}) is seen in the image." for n in range(steps + 1, steps + 5)]
            return "\n".join([*lines, f"### The final answer is: {read_section(prompt, 'answer')}"])
        right = dice < self.skill + self.gain * steps
        answer = self.answers.get(read_section(prompt, "question") or "", "unknown") if right else f"Wrong thing {int(dice * 5)}"
        return f"### Step {steps + 1}: It follows from the signs.\n### The final answer is: {answer}"


def prompt_of(body: dict[str, Any]) -> str:
    """All the words of a request."""
    pieces = []
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        pieces += [p["text"] for p in parts if p["type"] == "text"]
    return "\n\n".join(pieces)


def chance(text: str) -> float:
    """A number in [0, 1) that depends on nothing but ``text``."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
