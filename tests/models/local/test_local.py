"""The provider ``local``: calls in, replies out, whatever goes wrong in between."""

from pathlib import Path

import pytest

from chiron.models.local.provider import Local
from tests.models.local.checkpoints import a_call, ask, config_of, write_internvl, write_pictures


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_internvl(tmp_path_factory.mktemp("model"))


def test_calls_made_together_are_answered_together(checkpoint: Path, tmp_path: Path) -> None:
    store, pictures = write_pictures(tmp_path, 2)
    calls = [a_call(*pictures[:n], "What is it?", temperature=t, draw=d) for n in (0, 1, 2) for t in (0.0, 0.7) for d in (0, 1)]
    provider = Local("m", config_of(checkpoint, batch=8), store)
    together = ask(provider, *calls)
    alone = [ask(Local("m", config_of(checkpoint), store), call)[0] for call in calls[:6:3]]
    assert [r.text for r in together[:6:3]] == [r.text for r in alone]
    assert all(r.served_by == checkpoint.name and r.usage.prompt_tokens and r.usage.completion_tokens for r in together)
