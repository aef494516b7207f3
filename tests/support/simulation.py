"""Replies of simulated models. They depend only on the request, so that a resumed run gets the same replies."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from chiron.client.prompts import read_section
from chiron.providers.baselines.models import match


@dataclass
class Simulation:
    """Simulated mentors write four steps to the known answer; interns are right more often with more steps; the judge is strict."""

    answers: dict[str, str]
    """Known answer by question, used for correct intern replies."""
    skill: float = 0.35
    """Probability that an intern is right without any steps."""
    gain: float = 0.15
    """Increase of this probability per step."""
    replies: dict[str, str] = field(default_factory=dict)
    """Fixed replies by model, which override the simulation."""

    def reply(self, body: dict[str, Any]) -> str:
        """Return the reply of ``body["model"]``."""
        prompt, model = prompt_of(body), str(body["model"])
        if model in self.replies:
            return self.replies[model]
        if "<given_answer>" in prompt:
            return match(prompt)
        steps = prompt.count("### Step ") - 2  # the instructions contain two
        steps = max(0, steps)
        dice = chance(json.dumps([model, prompt, body.get("temperature")]))
        if "<answer>" in prompt:
            lines = [f"### Step {n}: Sign {n} of {model} ({dice:.4f}) is seen in the image." for n in range(steps + 1, steps + 5)]
            return "\n".join([*lines, f"### The final answer is: {read_section(prompt, 'answer')}"])
        right = dice < self.skill + self.gain * steps
        answer = self.answers.get(read_section(prompt, "question") or "", "unknown") if right else f"Wrong thing {int(dice * 5)}"
        return f"### Step {steps + 1}: It follows from the signs.\n### The final answer is: {answer}"


def prompt_of(body: dict[str, Any]) -> str:
    """Return the complete text of a request."""
    pieces = []
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        pieces += [p["text"] for p in parts if p["type"] == "text"]
    return "\n\n".join(pieces)


def chance(text: str) -> float:
    """Return a number in [0, 1) that depends only on ``text``."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
