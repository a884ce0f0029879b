"""Designs in their own coordinates, against the matrices that they stand for."""

import pytest
import torch

from neglog import basis, mle, models
from neglog.basis import Basis, triangle_of


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


def test_dependent_or_few_columns_are_left_to_householder():
    x = columns()
    assert triangle_of(x[:100], True) is None
    near = torch.cat([x, x[:, :1] + 1e-8 * x[:, 1:2]], dim=1)
    assert triangle_of(near, True) is None
    assert triangle_of(x + 1e8, True) is None
    assert triangle_of(torch.zeros_like(x), False) is None


@pytest.mark.parametrize("one", [False, True])
def test_columns_that_lose_digits_are_decomposed_block_by_block(one, monkeypatch):
    monkeypatch.setattr(basis, "BLOCK", 700)
    x = columns() + 1e4
    whole = torch.cat([torch.ones(len(x), int(one), dtype=torch.float64), x], dim=1)
    for extra in (None, torch.linspace(1, 50, whole.shape[1], dtype=torch.float64)):
        rows = whole if extra is None else torch.cat([whole, torch.diag(extra)])
        expected, found = torch.linalg.qr(rows, mode="r").R, triangle_of(x, one, extra)
        signs = expected.diagonal().sign()[:, None], found.diagonal().sign()[:, None]
        torch.testing.assert_close(found * signs[1], expected * signs[0], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("far", [2.0, 1e4])
@pytest.mark.parametrize("model", [models.gaussian, models.heteroscedastic, models.laplace])
def test_both_ways_reach_one_optimum(model, far, monkeypatch):
    x = columns(2_000, 4) + far
    y = x @ torch.linspace(-1, 1, 4, dtype=torch.float64) + columns(2_000, 1, seed=9)[:, 0]
    exact = mle(model, x, y)
    monkeypatch.setattr(basis, "LARGE", 0)
    large = mle(model, x, y)
    assert large.converged
    assert large.nll == pytest.approx(exact.nll, rel=1e-13)
    for site, value in exact.params.items():
        torch.testing.assert_close(large.params[site], value, rtol=1e-9, atol=1e-10 * far)
