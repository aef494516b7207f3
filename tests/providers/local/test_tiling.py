"""Tiles are cut as InternVL's authors cut them."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from chiron.providers.local.tiling import Tiling, grid, normalise, tile_budget

pytestmark = pytest.mark.slow

BUDGETS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12, 24])
SIDES = st.one_of(st.integers(1, 4000), st.sampled_from([224, 448, 449, 633, 634, 896, 1344]))


def plain_grid(width: int, height: int, budget: int, tile: int) -> tuple[int, int]:
    """The published rule, said slowly: walk through all grids by number of tiles and keep the nearest, by area where equally near."""
    grids = {(i, j) for n in range(1, budget + 1) for i in range(1, n + 1) for j in range(1, n + 1) if 1 <= i * j <= budget}
    best, best_difference = (1, 1), float("inf")
    for candidate in sorted(grids, key=lambda g: g[0] * g[1]):
        difference = abs(width / height - candidate[0] / candidate[1])
        if difference < best_difference:
            best, best_difference = candidate, difference
        elif difference == best_difference and width * height > 0.5 * tile**2 * candidate[0] * candidate[1]:
            best = candidate
    return best


@given(SIDES, SIDES, BUDGETS, st.sampled_from([28, 64, 448]))
@settings(max_examples=500)
@example(1, 4000, 6, 448)
@example(4000, 1, 12, 448)
def test_grids_equal_the_plain_rule(width: int, height: int, budget: int, tile: int) -> None:
    assert grid(width, height, budget=budget, tile=tile) == plain_grid(width, height, budget, tile)


def test_grids_equal_the_plain_rule_for_thousands_of_sizes() -> None:
    random = np.random.default_rng(0)
    for width, height in random.integers(1, 3000, size=(10_000, 2)).tolist():
        assert grid(width, height, budget=6, tile=448) == plain_grid(width, height, 6, 448)


def test_squares_by_area() -> None:
    assert grid(448, 448, budget=6, tile=448) == (1, 1)
    assert grid(633, 633, budget=6, tile=448) == (1, 1)  # 633 * 633 < half of four tiles
    assert grid(634, 634, budget=6, tile=448) == (2, 2)
    assert grid(5000, 5000, budget=3, tile=448) == (1, 1)
    # 3 x 3 is filled by more than half from 950 pixels on
    assert grid(900, 900, budget=9, tile=448) == (2, 2)
    assert grid(951, 951, budget=9, tile=448) == (3, 3)


def test_among_grids_of_as_many_tiles_the_order_is_free() -> None:
    """Where an image is equally near to two such grids, a smaller one is nearer; so no hidden order decides."""
    for budget in range(1, 41):
        grids = [(i, j) for i in range(1, budget + 1) for j in range(1, budget // i + 1)]
        for a in grids:
            for b in grids:
                if a < b and a[0] * a[1] == b[0] * b[1]:
                    midway = (a[0] / a[1] + b[0] / b[1]) / 2
                    gap = abs(a[0] / a[1] - midway)
                    assert any(abs(i / j - midway) < gap - 1e-9 for i, j in grids)


@given(SIDES, SIDES, BUDGETS, BUDGETS, st.booleans())
@settings(max_examples=300)
def test_the_number_of_tiles_decides_the_grid(width: int, height: int, one: int, other: int, thumbnail: bool) -> None:
    """Decoded tiles are known by the image and how many they are; two budgets that give as many must give the same."""
    tilings = [Tiling(max_tiles=budget, thumbnail=thumbnail) for budget in (one, other)]
    if len({tiling.grid(width, height, 1) for tiling in tilings}) == 1:
        assert grid(width, height, budget=one, tile=448) == grid(width, height, budget=other, tile=448)


def test_the_budget_is_shared() -> None:
    assert [tile_budget(n, Tiling()) for n in (1, 2, 3, 4, 5, 6, 7, 20)] == [6, 3, 2, 1, 1, 1, 1, 1]


def test_the_count_includes_the_thumbnail() -> None:
    assert Tiling().grid(900, 900, 1) == (1, 5)
    assert Tiling(thumbnail=False).grid(900, 900, 1) == (1, 4)
    assert Tiling(max_tiles=1).grid(900, 900, 1) == (1, 1)


@given(st.integers(1, 200), st.integers(1, 200), BUDGETS, st.booleans(), st.sampled_from(["RGB", "L", "RGBA", "P", "1"]))
@settings(max_examples=60)
def test_tiles_are_the_stretched_image_row_by_row(width: int, height: int, budget: int, thumbnail: bool, mode: str) -> None:
    tiling = Tiling(tile=28, max_tiles=budget, thumbnail=thumbnail)
    noise = np.random.default_rng(width * height).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    columns, rows = grid(width, height, budget=budget, tile=28)
    stretched = image.convert("RGB").resize((columns * 28, rows * 28))  # Pillow's default is bicubic, which the authors rely on
    expected = [np.asarray(stretched.crop((28 * c, 28 * r, 28 * c + 28, 28 * r + 28))) for r in range(rows) for c in range(columns)]
    if thumbnail and len(expected) > 1:
        expected.append(np.asarray(image.convert("RGB").resize((28, 28))))
    tiles = tiling.cut(image, 1)
    assert tiles.dtype == np.uint8
    assert len(tiles) == tiling.tiles(tiling.grid(width, height, 1))
    np.testing.assert_array_equal(tiles, np.stack(expected))


def test_wide_greys_keep_their_shades() -> None:
    ramp = np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)
    tiles = Tiling(tile=64, max_tiles=1).cut(Image.fromarray(ramp), 1)
    assert tiles[0, 0, 0].tolist() == [0, 0, 0]
    assert tiles[0, -1, -1].tolist() == [255, 255, 255]
    assert len(np.unique(tiles)) > 200


def test_pixels_are_normalised_with_imagenets_statistics() -> None:
    tiles = np.random.default_rng(0).integers(0, 256, size=(3, 8, 8, 3), dtype=np.uint8)
    normal = normalise(tiles)
    assert normal.dtype == np.float32
    assert normal.flags.c_contiguous
    expected = (tiles.transpose(0, 3, 1, 2) / 255 - np.array([0.485, 0.456, 0.406])[:, None, None]) / np.array([0.229, 0.224, 0.225])[
        :, None, None
    ]
    np.testing.assert_allclose(normal, expected, atol=1e-6)


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="no grid"):
        grid(0, 5, budget=6, tile=448)
    with pytest.raises(ValueError, match="tile and max_tiles"):
        Tiling(tile=0)
