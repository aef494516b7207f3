from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from chiron.phantom.drawing import MODALITIES, draw
from chiron.phantom.wording import PLACES
from chiron.phantom.world import COMBINATIONS, DENSITIES, LEVELS, MARGINS, SIZES, Attributes, Level

modalities = pytest.mark.parametrize("modality", MODALITIES)
sizes = pytest.mark.parametrize("size", [64, 256])
BRIGHT = Attributes("left", "middle", "medium", "bright", "smooth")


@lru_cache(maxsize=64)
def picture(modality: str, attributes: Attributes, size: int = 256, *, seed: int = 0, view: int = 0) -> NDArray[Any]:
    return draw(modality, attributes, np.random.default_rng(seed), size, view=view).astype(float)


def mask(modality: str, attributes: Attributes, size: int, seed: int = 0) -> NDArray[np.bool_]:
    """Where the lesion is: what changes if nothing but its density does."""
    bright, dark = (picture(modality, replace(attributes, density=d), size, seed=seed) for d in ("bright", "dark"))
    return np.asarray(bright - dark > 60)


@modalities
@settings(max_examples=4, deadline=None)
@given(attributes=st.sampled_from(COMBINATIONS), size=st.integers(32, 100), seed=st.integers(0, 2**32))
def test_any_lesion_can_be_drawn_at_any_size(modality: str, attributes: Attributes, size: int, seed: int) -> None:
    tones = draw(modality, attributes, np.random.default_rng(seed), size)
    assert tones.shape == (size, size)
    assert tones.dtype == np.uint8
    assert np.array_equal(tones, draw(modality, attributes, np.random.default_rng(seed), size))


@modalities
@sizes
def test_the_lesion_is_on_its_side_and_the_patients_left_is_on_the_right(modality: str, size: int) -> None:
    for seed, attributes in enumerate((BRIGHT, replace(BRIGHT, size="large", margin="spiculated"))):
        left = mask(modality, attributes, size, seed)
        right = mask(modality, replace(attributes, side="right"), size, seed)
        half = size // 2
        assert left[:, half:].sum() > 30 * max(1, left[:, :half].sum())
        assert right[:, :half].sum() > 30 * max(1, right[:, half:].sum())


@modalities
@sizes
def test_levels_are_apart(modality: str, size: int) -> None:
    def center(level: Level) -> float:
        rows = np.nonzero(mask(modality, replace(BRIGHT, level=level), size))[0]
        return float(rows.mean() / size)

    upper, middle, lower = map(center, LEVELS)
    assert upper + 0.08 < middle < lower - 0.08


@modalities
@sizes
def test_densities_are_far_apart(modality: str, size: int) -> None:
    where = mask(modality, BRIGHT, size)
    dark, grey, bright = (picture(modality, replace(BRIGHT, density=d), size)[where].mean() for d in DENSITIES)
    assert dark + 35 < grey < bright - 35


@modalities
@sizes
def test_a_grey_lesion_shows_by_its_rim(modality: str, size: int) -> None:
    grey = replace(BRIGHT, density="grey")
    without = picture(modality, replace(grey, side="right"), size)
    changed = picture(modality, grey, size)[:, size // 2 :] - without[:, size // 2 :]
    # A rim of this lesion is about 2 pi * 0.1 * size pixels long.
    assert (changed > 40).sum() > 0.4 * size


@modalities
@sizes
def test_sizes_are_far_apart(modality: str, size: int) -> None:
    for seed, margin in enumerate(MARGINS):
        lesions = [Attributes("right", "middle", s, "bright", margin) for s in SIZES]
        small, medium, large = (mask(modality, a, size, seed).sum() for a in lesions)
        assert small * 1.45 < medium
        assert medium * 1.45 < large


@modalities
@sizes
def test_margins_differ_in_outline(modality: str, size: int) -> None:
    def raggedness(attributes: Attributes) -> float:
        where = mask(modality, attributes, size).astype(int)
        outline = np.abs(np.diff(where, axis=0)).sum() + np.abs(np.diff(where, axis=1)).sum()
        return float(outline / np.sqrt(where.sum()))

    for lesion in (SIZES[0], SIZES[2]):
        attributes = Attributes("left", "middle", lesion, "bright", "smooth")
        assert raggedness(replace(attributes, margin="spiculated")) > 1.2 * raggedness(attributes)


def test_a_picture_is_nearer_to_its_own_modality_than_to_any_other() -> None:
    lesions = [BRIGHT, Attributes("right", "lower", "medium", "dark", "spiculated"), Attributes("left", "upper", "small", "grey", "smooth")]
    shown = [(m, picture(m, a, 64, seed=seed)) for m in MODALITIES for seed, a in enumerate(lesions)]
    within: list[float] = []
    between: list[float] = []
    for k, (modality, tones) in enumerate(shown):
        for other, other_tones in shown[:k]:
            (within if other == modality else between).append(float(np.abs(tones - other_tones).mean()))
    assert max(within) < min(between)


@modalities
def test_another_view_is_the_same_lesion_in_another_picture(modality: str) -> None:
    first, second = picture(modality, BRIGHT), picture(modality, BRIGHT, view=1)
    assert np.abs(first - second).mean() > 1
    where = mask(modality, BRIGHT, 256)
    again = np.asarray(second - picture(modality, replace(BRIGHT, density="dark"), view=1) > 60)
    assert (where & again).sum() > 0.75 * (where | again).sum()


def test_the_mark_stands_at_the_right_of_the_image() -> None:
    for modality in MODALITIES:
        corner = picture(modality, BRIGHT)[8:24, 236:254]
        assert (corner > 200).sum() > 30


def test_every_modality_looks_at_a_place() -> None:
    assert tuple(PLACES) == MODALITIES
    with pytest.raises(KeyError):
        draw("PET", BRIGHT, np.random.default_rng(0), 64)
