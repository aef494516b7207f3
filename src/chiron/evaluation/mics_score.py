"""The MICS-Score of a model's own reasoning: interns go on from its steps without its final answer, and a judge compares."""

from dataclasses import dataclass

from chiron.conversation.reasoning import parse_reasoning
from chiron.evaluation.item import Item
from chiron.evaluation.prompts import EvaluationPrompts
from chiron.evaluation.protocols.protocol import Finding
from chiron.evaluation.rendering import as_case
from chiron.mics.panel import Panel, together
from chiron.mics.score import Score
from chiron.mics.team import Policy, Team
from chiron.mics.words import steps_before_answer
from chiron.models.call import Ask, Picture, Reply
from chiron.models.failures import Transient


@dataclass(frozen=True)
class MicsColumn:
    """``mics_score``: of all steps up to the first that names the known answer; ``mics_score@k``: after step k; ``@0``: with none.

    ``mics_score_whole`` is the paper's Eq. 4 as printed: the interns see every step, also those that name the answer.

    Following a step that names the answer is copying, so what comes from there on is never shown. A reply without steps, or one that names
    the answer in its first, has the score of no reasoning at all.
    """

    team: Team
    policy: Policy
    prompts: EvaluationPrompts

    async def scores(self, item: Item, pictures: tuple[Picture, ...], reply: Reply, finding: Finding, ask: Ask) -> dict[str, float | None]:
        """As :class:`~chiron.evaluation.asking.Column`."""
        del finding
        steps = parse_reasoning(reply.text).steps
        shown = steps_before_answer(steps, item.answer)
        panel = Panel(as_case(item), pictures, self.team, ask, self.policy, self.prompts.search)
        prefixes = [*(shown[:depth] for depth in range(len(shown) + 1)), *([steps] if steps != shown else [])]
        values = [_value(score) for score in await together(panel.score(prefix, restart=0) for prefix in prefixes)]
        guarded = values[: len(shown) + 1]
        by_depth = {f"mics_score@{depth}": value for depth, value in enumerate(guarded)}
        return {"mics_score": guarded[-1], "mics_score_whole": values[-1], **by_depth}


def _value(score: Score) -> float:
    if not score.has_quorum:
        problem = next((e.problem for e in score.evaluations if e.correct is None and e.problem), "no interns")
        raise Transient(f"the reasoning has {score.answered} of {score.planned} evaluations: {problem}")
    return score.value
