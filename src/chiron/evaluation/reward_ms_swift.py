"""Plugin for ms-swift that registers the reward ``chiron_answer``. Pass this file to ``--external_plugins``."""

from collections.abc import Sequence
from typing import Any

from swift.rewards import ORM, orms  # type: ignore[import-not-found]

from chiron.evaluation.reward import answer_reward


class ChironAnswer(ORM):  # type: ignore[misc]  # ms-swift is not typed
    """1.0 if the final answer of a completion is right, else 0.0."""

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        """Reward each completion; see :func:`chiron.evaluation.reward.answer_reward`."""
        return answer_reward(completions, **columns)


orms["chiron_answer"] = ChironAnswer
