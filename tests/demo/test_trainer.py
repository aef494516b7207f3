"""Stages 1 and 2 on two processes: the same losses as on one, and an even share for each."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.demo.curriculum import first_stages, train_recipe
from chiron.demo.data import TINY, make_data
from chiron.training.loop import count_trained, micro_batches
from chiron.training.metrics import read_metrics
from chiron.training.rows import Encoded

pytestmark = pytest.mark.slow


def encoded(name: str) -> Encoded:
    return Encoded(name, np.arange(3, dtype=np.int32), np.array([-100, 1, 2], dtype=np.int32), (), ())


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4))
def test_a_steps_lines_are_dealt_out_evenly_and_none_twice(lines: int, at_once: int, world: int) -> None:
    step = [(encoded(str(number)),) for number in range(lines)]
    shares = [micro_batches(step, at_once, world, rank) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    # A spare batch has one line, of which nothing is learned.
    real = [[line for line in batch if count_trained(line)] for batch in batches]
    assert sorted(line[0].id for batch in real for line in batch) == sorted(line[0].id for line in step)
    assert all(0 < len(batch) <= at_once for batch in batches)
    assert max(map(len, real)) - min(map(len, real)) <= 1


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", TINY, seed=0, processes=2)
    recipe = first_stages(data, TINY, seed=0)
    losses = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        heard: list[object] = []
        model = train_recipe(recipe, data.folder, data.images, out, processes=processes, watch=heard.append)
        assert (model / "model.safetensors").is_file()
        assert len(heard) == TINY.text_steps + TINY.alignment_steps + 1
        losses.append([line.get("loss", line.get("held_out_loss")) for line in read_metrics(out / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
