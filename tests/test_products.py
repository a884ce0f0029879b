"""Products of tall matrices are what a dense product says, whatever their widths and lengths."""

import pytest
import torch

from neglog.objective.basis import Basis, placed
from neglog.objective.products import (
    TALL,
    WEIGHTS_AT_ONCE,
    gathered,
    mixed_products,
    plain_products,
    symmetric_products,
)

ROWS = [1, 7, 2 * TALL - 1, 2 * TALL, 5 * TALL + 3, 40_000]
WIDTHS = [0, 1, 5, 11, 12, 20, 25]
SIX_DIGITS = 1e-6


def drawn(rows, width, count):
    generator = torch.Generator().manual_seed(rows + width)
    columns = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return columns, [torch.rand(rows, generator=generator, dtype=torch.float64) for _ in range(count)]


def whole(columns, one):
    return torch.cat([columns.new_ones(len(columns), int(one)), columns], dim=1)


def assert_are(found, expected, digits=1e-13):
    size = max((float(each.abs().max()) for each in expected if each.numel()), default=1.0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=digits, atol=digits * size)


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_products_of_many_weights_are_those_of_each(rows, width, one):
    columns, weights = drawn(rows, width, WEIGHTS_AT_ONCE + 1)
    dense = whole(columns, one)
    expected = [dense.T @ (w[:, None] * dense) for w in weights]
    assert_are(symmetric_products(columns, one, weights), expected)
    assert_are(symmetric_products(columns, one, weights[:1]), expected[:1])
    assert_are(symmetric_products(columns, one, weights, rough=True), expected, SIX_DIGITS)
    assert_are(gathered(columns, one, weights), [dense.T @ w for w in weights])
    assert_are(plain_products(columns, one, weights[0]), [dense.T @ dense, dense.T @ weights[0]])
    assert_are(
        [mixed_products(columns, weights[0], columns, one, True)],
        [dense.T @ (weights[0][:, None] * whole(columns, True))],
    )


def test_rough_products_are_exact_where_single_precision_does_not_reach():
    columns, (weights,) = drawn(5000, 3, 1)
    huge = 1e30 * columns
    assert_are(
        symmetric_products(huge, True, [weights], rough=True), symmetric_products(huge, True, [weights])
    )
    (found,) = symmetric_products(columns, True, [torch.zeros_like(weights)], rough=True)
    assert not found.any()


def test_rough_products_hold_for_weights_of_any_size():
    columns, (weights,) = drawn(5000, 3, 1)
    for size in (1e-300, 1e300):
        (found,) = symmetric_products(columns, True, [size * weights], rough=True)
        assert_are([found / size], symmetric_products(columns, True, [weights]), SIX_DIGITS)


def test_what_was_multiplied_before_is_known_and_nothing_else():
    columns, (y, other) = drawn(6000, 4, 2)
    basis = Basis(columns, True, torch.eye(5, dtype=torch.float64))
    rows = slice(1000, 6000)
    dense = whole(columns, True)[rows]
    assert_are([basis.multiply(y[rows], rows)], [dense.T @ dense])
    (key,) = [key for key in basis.known if key[0] == placed(y[rows])]
    basis.known[key] = y[rows], torch.full((5,), 7.0, dtype=torch.float64)
    assert_are([basis.gather(y[rows], rows)], [torch.full((5,), 7.0, dtype=torch.float64)])
    assert_are([basis.gather(other[rows], rows)], [dense.T @ other[rows]])
    assert_are([basis.gather(y)], [whole(columns, True).T @ y])
    assert_are([basis.gather(y[:5000], slice(0, 5000))], [whole(columns, True)[:5000].T @ y[:5000]])
