from collections import Counter
from hashlib import sha256
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiron.phantom.world import COMBINATIONS, DIAGNOSES, HELD_OUT_EACH, Attributes, World, split

NAMES = ("side", "level", "size", "density", "margin")


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**40))
def test_every_world_is_fair(seed: int) -> None:
    rules = World(seed).rules()
    assert [r.attributes for r in rules] == list(COMBINATIONS)
    assert Counter(r.diagnosis for r in rules) == dict.fromkeys(DIAGNOSES, 12)
    for name in NAMES:
        met = Counter((getattr(r.attributes, name), r.diagnosis) for r in rules)
        # A single value leaves every diagnosis as likely as it was.
        assert set(met.values()) == {108 // 9 // len({value for value, _ in met})}
        assert len(met) == 9 * len({value for value, _ in met})


@pytest.mark.slow
@pytest.mark.parametrize("pair", list(combinations(NAMES, 2)))
def test_two_attributes_leave_doubt(pair: tuple[str, str]) -> None:
    for seed in range(3):
        rules = World(seed).rules()
        values = Counter(tuple(getattr(r.attributes, n) for n in pair) for r in rules)
        met = Counter((tuple(getattr(r.attributes, n) for n in pair), r.diagnosis) for r in rules)
        assert all(times * 2 <= values[held] for (held, _), times in met.items())


def test_a_world_is_its_seed() -> None:
    """The same table on every machine and in every version, because runs and releases name the seed only."""
    tables = ["".join(r.diagnosis for r in World(seed).rules()) for seed in range(4)]
    assert sha256(tables[3].encode()).hexdigest().startswith("675644a296ce1e11")
    assert len(set(tables)) == 4


def test_diagnose_follows_the_rules() -> None:
    world = World(1)
    assert all(world.diagnose(r.attributes) == r.diagnosis for r in world.rules())
    with pytest.raises(KeyError):
        world.diagnose(Attributes("left", "upper", "small", "dark", "fuzzy"))  # type: ignore[arg-type]


def test_no_two_diagnoses_share_a_word() -> None:
    words = [word.lower() for name in DIAGNOSES for word in name.split()]
    assert len(words) == len(set(words))


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**40))
def test_nothing_but_the_combination_is_new_in_a_held_out_case(seed: int) -> None:
    world = World(seed)
    parts = split(world)
    assert sorted([*parts.seen, *parts.held_out], key=COMBINATIONS.index) == list(COMBINATIONS)
    assert Counter(map(world.diagnose, parts.held_out)) == dict.fromkeys(DIAGNOSES, HELD_OUT_EACH)
    for name in NAMES:
        counts = Counter(getattr(a, name) for a in parts.held_out)
        assert counts.keys() == {getattr(a, name) for a in COMBINATIONS}
        assert len(set(counts.values())) == 1
    assert split(World(seed)) == parts
