"""Stages 1 and 2 on two processes: the same losses as on one, and an even share for each."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiron.demo.curriculum import first_stages, train_recipe
from chiron.demo.data import TINY, make_data
from chiron.training.encoding import Encoded, trained_tokens
from chiron.training.metrics import read_metrics
from chiron.training.packing import Cost, Line, micro_batches, pack

pytestmark = pytest.mark.slow


def encoded(name: str) -> Encoded:
    return Encoded(name, np.arange(3, dtype=np.int32), np.array([-100, 1, 2], dtype=np.int32), (), ())


def count_trained(line: Line) -> int:
    return sum(map(trained_tokens, line))


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


def packed(rows: list[Encoded]) -> list[tuple[Encoded, ...]]:
    return [tuple(rows[i] for i in line) for line in pack([len(row.input_ids) for row in rows], 2000)]


def row(number: int, length: int) -> Encoded:
    ids = np.arange(length, dtype=np.int32)
    return Encoded(str(number), ids, ids, (), ())


@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=1, max_size=12), st.integers(1, 3), st.integers(2, 8))
def test_rows_shared_by_their_cost_stay_whole_and_fit(lengths: list[list[int]], at_once: int, world: int) -> None:
    numbers = iter(range(10**6))
    step = [tuple(row(next(numbers), length) for length in line) for line in lengths]
    shares = [micro_batches(step, at_once, world, rank, lambda row: float(len(row.input_ids) ** 2)) for rank in range(world)]
    lines = [line for share in shares for batch in share for line in batch]
    learned = [row for line in lines if count_trained(line) for row in line]
    assert sorted(row.id for row in learned) == sorted(row.id for line in step for row in line)
    assert len({len(share) for share in shares}) == 1
    assert all(0 < len(batch) <= at_once for share in shares for batch in share)
    longest = max(map(sum, lengths))
    assert all(sum(len(row.input_ids) for row in line) <= longest for line in lines)


def test_no_process_waits_long_for_another() -> None:
    """Sixteen rows for eight processes: the lines that are best for one process would leave five of them idle."""
    lengths = [700, 650, 600, 550, 500, 450, 400, 350, 300, 250, 200, 150, 100, 90, 80, 70]
    step = packed([row(number, length) for number, length in enumerate(lengths)])
    assert len(step) == 3
    shares = [micro_batches(step, 1, 8, rank, by_length) for rank in range(8)]
    costs = [sum(len(row.input_ids) for line in share[0] for row in line) for share in shares]
    assert max(costs) < 1.15 * sum(lengths) / 8


def by_length(row: Encoded) -> float:
    return float(len(row.input_ids))


def test_lines_next_to_each_other_are_not_padded_more_than_before() -> None:
    dice = np.random.default_rng(0)
    step = packed([row(n, int(dice.integers(*((25, 100), (400, 800))[n % 2]))) for n in range(16)])

    def in_use(cost: Cost | None) -> float:
        batches = [batch for rank in range(2) for batch in micro_batches(step, 8, 2, rank, cost)]
        sizes = [[sum(map(by_length, line)) for line in batch] for batch in batches]
        return sum(map(sum, sizes)) / sum(len(batch) * max(batch) for batch in sizes)

    assert in_use(by_length) >= in_use(None)
    assert in_use(by_length) > 0.9


def test_no_process_gets_the_dearest_batch_of_every_round() -> None:
    step = [(row(n, 750 - 30 * n),) for n in range(16)]
    shares = [sum(count_trained(line) for (line,) in micro_batches(step, 1, 8, rank, by_length)) for rank in range(8)]
    assert max(shares) < 1.1 * sum(shares) / 8


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", TINY, seed=0, processes=2)
    recipe = first_stages(data, TINY, seed=0)
    losses = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        heard: list[object] = []
        model = train_recipe(recipe, data, out, processes=processes, watch=heard.append)
        assert (model / "model.safetensors").is_file()
        assert len(heard) == TINY.text_steps + TINY.alignment_steps + 1
        losses.append([line.get("loss", line.get("held_out_loss")) for line in read_metrics(out / "metrics.jsonl")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
