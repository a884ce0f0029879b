"""Designs in their own coordinates, against the matrices that they stand for."""

import pytest
import torch

from neglog import mle, models
from neglog.objective import basis
from neglog.objective.basis import Basis, are_alike, spread_of, triangle_of


def columns(rows=20_011, count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((rows, count), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("rows", [7, 8192, 20_011])
def test_a_basis_is_the_matrix_it_stands_for(one, rows):
    x = columns(rows)
    transform = torch.triu(columns(6 + one, 6 + one, seed=1))
    other = Basis(columns(rows, 2, seed=2), not one, torch.eye(2 + (not one), dtype=torch.float64))
    found = Basis(x, one, transform)
    ones = torch.ones(rows, int(one), dtype=torch.float64)
    dense = torch.cat([ones, x], dim=1) @ transform
    weights, z = columns(rows, 1, seed=3)[:, 0], columns(6 + one, 1, seed=4)[:, 0]
    torch.testing.assert_close(found.dense(), dense)
    torch.testing.assert_close(found.at(z), dense @ z)
    torch.testing.assert_close(found.gather(weights), dense.T @ weights)
    torch.testing.assert_close(found.cross(weights, found), dense.T @ (weights[:, None] * dense))
    torch.testing.assert_close(found.cross(weights, other), dense.T @ (weights[:, None] * other.dense()))


@pytest.mark.parametrize("one", [False, True])
def test_the_triangle_is_that_of_a_qr(one):
    x = columns() * torch.tensor([1e-3, 1.0, 1e3, 1.0, 1.0, 3.0]).double()
    whole = torch.cat([torch.ones(len(x), int(one), dtype=torch.float64), x], dim=1)
    expected = torch.linalg.qr(whole, mode="r").R
    found = triangle_of(x, one)
    torch.testing.assert_close(found, expected * expected.diagonal().sign()[:, None], rtol=1e-9, atol=1e-9)
    extra = torch.linspace(1, 50, whole.shape[1], dtype=torch.float64)
    expected = torch.linalg.qr(torch.cat([whole, torch.diag(extra)]), mode="r").R
    expected = expected * expected.diagonal().sign()[:, None]
    torch.testing.assert_close(triangle_of(x, one, extra), expected, rtol=1e-9, atol=1e-9)


def test_single_precision_is_for_columns_of_sizes_that_it_holds():
    triangle = torch.linalg.qr(columns()).R
    assert are_alike(triangle)
    assert not are_alike(1e-30 * triangle)  # their squares would vanish
    assert not are_alike(1e30 * triangle)
    assert not are_alike(triangle * torch.tensor([1e-8] + 5 * [1.0]).double())


def test_dependent_or_few_columns_are_left_to_householder():
    x = columns()
    assert triangle_of(x[:100], True) is None
    assert triangle_of(torch.cat([x, x[:, :1] + x[:, 1:2]], dim=1), True) is None
    assert triangle_of(torch.zeros_like(x), False) is None


@pytest.mark.parametrize("one", [False, True])
def test_a_triangle_is_undone_row_by_row(one, monkeypatch):
    monkeypatch.setattr(basis, "SOLVED_ROWS", 300)
    x = columns()
    near = torch.cat([x, x[:, :1] + 1e-8 * columns(len(x), 1, seed=5)], dim=1) + 3.0
    triangle = triangle_of(near, one)
    found = Basis(near, one, torch.eye(len(triangle)).double(), triangle)
    dense, unit = found.dense(), torch.eye(len(triangle)).double()
    lost = 16 * torch.finfo(near.dtype).eps / spread_of(triangle)
    assert 1e-7 < lost < 1e-4
    torch.testing.assert_close(dense.T @ dense, unit, rtol=0, atol=lost)
    z, values = columns(len(triangle), 1)[:, 0], columns(len(x), 1, seed=2)[:, 0]
    part = slice(100, 900)
    torch.testing.assert_close(found.at(z, part), dense[part] @ z, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.gather(values[part], part), dense[part].T @ values[part])
    torch.testing.assert_close(found.cross(values, found), dense.T @ (values[:, None] * dense))
    other = Basis(near, one, unit, 2 * triangle)
    for _ in range(2):  # the second is remembered
        torch.testing.assert_close(found.cross(torch.ones_like(values), found), dense.T @ dense)
        torch.testing.assert_close(found.cross(torch.ones_like(values), other), dense.T @ dense / 2)


@pytest.mark.parametrize("one", [False, True])
def test_columns_that_lose_digits_are_decomposed_block_by_block(one, monkeypatch):
    monkeypatch.setattr(basis, "DECOMPOSED_ROWS", 700)
    x = columns() + 1e4
    whole = torch.cat([torch.ones(len(x), int(one), dtype=torch.float64), x], dim=1)
    for extra in (None, torch.linspace(1, 50, whole.shape[1], dtype=torch.float64)):
        rows = whole if extra is None else torch.cat([whole, torch.diag(extra)])
        expected, found = torch.linalg.qr(rows, mode="r").R, triangle_of(x, one, extra)
        signs = expected.diagonal().sign()[:, None], found.diagonal().sign()[:, None]
        torch.testing.assert_close(found * signs[1], expected * signs[0], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("far", [2.0, 1e4, 1e8])
@pytest.mark.parametrize("model", [models.gaussian, models.heteroscedastic, models.laplace])
def test_both_ways_reach_one_optimum(model, far, monkeypatch):
    x = columns(2_000, 4) + far
    y = x @ torch.linspace(-1, 1, 4, dtype=torch.float64) + columns(2_000, 1, seed=9)[:, 0]
    exact = mle(model, x, y)
    monkeypatch.setattr(basis, "MIN_LARGE_DESIGN", 0)
    large = mle(model, x, y)
    assert large.converged
    rounding = 4 * far * torch.finfo(y.dtype).eps * len(y) ** 0.5  # of coefficients times such columns
    assert large.nll == pytest.approx(exact.nll, rel=1e-13, abs=rounding)
    for site, value in exact.params.items():
        size = far if site.endswith("bias") else 1.0
        close = size * (1e-9 + 4 * far * torch.finfo(y.dtype).eps)  # the columns themselves are rounded
        torch.testing.assert_close(large.params[site], value, rtol=1e-9, atol=close)
