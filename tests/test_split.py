"""Designs of several kinds of columns: the numbers are those of the same columns made dense."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import neglog
from neglog import map_estimate, mle, models, predict, summary
from neglog.errors import DataError, SingularDesignError
from neglog.estimators import LikelihoodClassifier, LikelihoodRegressor, NetworkRegressor
from neglog.formula import learn
from neglog.split.kinds import Dense, Levels, Sparse
from neglog.split.matrix import SplitMatrix
from neglog.split.reading import sparse_design
from neglog.split.tensor import SplitDesign, split

ROWS, LEVELS = 1_500, (5, 20, 50)
"""As many rows and levels as make a design that is not made dense because it is small."""


def made(seed=0):
    """A design of each kind: three categories, one of them sparse and one times a number, and two numbers."""
    draws = np.random.default_rng(seed)
    codes = [draws.integers(0, levels, ROWS).astype(np.int32) for levels in LEVELS]
    scale = draws.normal(size=ROWS)
    third = Sparse(Levels(codes[2], LEVELS[2] - 1).sparse())
    numbers = draws.normal(size=(ROWS, 2))
    design = split(Levels(codes[0], 4), torch.from_numpy(numbers), Levels(codes[1], 19, scale), third)
    return design, 0.2 + 0.3 * numbers[:, 0] + 0.2 * (codes[0] == 2), draws


def test_torch_sees_the_same_numbers_in_each_form():
    x, _, draws = made()
    dense, w = x.dense(), torch.from_numpy(draws.normal(size=(x.shape[1], 3)))
    v = torch.from_numpy(draws.normal(size=ROWS))
    rows, columns = torch.tensor([5, 3, 5, 700]), torch.tensor([70, 0, 8, 30])
    mask = torch.arange(x.shape[1]) % 3 == 1
    for of in (
        lambda x: x @ w[:, 0],
        lambda x: x @ w,
        lambda x: v @ x,
        lambda x: x.T @ v,
        lambda x: x.T @ x,
        lambda x: x.T @ v[:, None],
        lambda x: x[10:700:3] @ w,
        lambda x: x[rows] @ w,
        lambda x: x.index_select(1, columns) @ w[:4],
        lambda x: x[:, mask] @ w[: int(mask.sum())],
        lambda x: x[7],
        lambda x: x[:, 9],
        lambda x: torch.stack(torch.aminmax(x)),
        lambda x: torch.stack(torch.aminmax(x, dim=0)),
        lambda x: x.sum(dim=0),
        lambda x: x.abs().sum(),
        lambda x: x.new_ones(3),
        lambda x: x.to(torch.float32) @ w.float(),
    ):
        torch.testing.assert_close(of(x), of(dense), rtol=1e-12, atol=1e-12)
    weight = w[:, 0].clone().requires_grad_()
    slopes = [torch.autograd.grad((z @ weight).square().sum(), weight)[0] for z in (x, dense)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_weighted_products_are_those_of_dense_columns(order):
    x, _, draws = made(1)
    x = split(*(x.matrix.parts[k] for k in order))
    dense, weights = x.dense(), torch.from_numpy(draws.uniform(-1, 2, ROWS))
    torch.testing.assert_close(
        x.squares(weights), dense.T @ (weights[:, None] * dense), rtol=1e-12, atol=1e-11
    )
    other = torch.from_numpy(draws.normal(size=(ROWS, 12)))
    torch.testing.assert_close(x.crossed(weights, other), dense.T @ (weights[:, None] * other))
    torch.testing.assert_close(x.column_squares(), dense.square().sum(dim=0))


def test_a_design_is_not_written_to_in_silence():
    x, _, _ = made()
    for write in (lambda: x.mul_(2.0), lambda: x.clone().zero_()):
        with pytest.raises(DataError):
            write()


def test_two_categories_of_very_many_cells_are_crossed_as_sparse_ones(monkeypatch):
    monkeypatch.setattr("neglog.split.kinds.MAX_CROSSED", 1_000)
    draws = np.random.default_rng(0)
    left, right = (Levels(draws.integers(0, 101, 300).astype(np.int32), 100) for _ in range(2))
    weights = draws.normal(size=300)
    expected = left.sparse().toarray().T @ (weights[:, None] * right.dense())
    np.testing.assert_allclose(left.crossed(weights, right), expected, atol=1e-14)


def responses(eta, draws):
    return {
        "poisson": draws.poisson(np.exp(eta)).astype(float),
        "gamma": draws.gamma(2, np.exp(eta) / 2),
        "gaussian": eta + draws.normal(size=ROWS),
        "laplace": eta + draws.laplace(size=ROWS),
        "bernoulli": (draws.random(ROWS) < 1 / (1 + np.exp(-eta))).astype(float),
        "categorical": draws.integers(0, 3, ROWS).astype(float),
    }


@pytest.mark.parametrize("name", ["poisson", "gamma", "gaussian", "laplace", "bernoulli", "categorical"])
def test_fits_are_those_of_dense_columns(name):
    x, eta, draws = made(2)
    y, model = torch.from_numpy(responses(eta, draws)[name]), getattr(models, name)
    for estimate in (mle,) if name == "laplace" else (map_estimate, mle):
        fit, dense = estimate(model, x, y), estimate(model, x.dense(), y)
        assert fit.converged
        assert isinstance(fit.objective.data.x, SplitDesign)
        assert fit.nll == pytest.approx(dense.nll, rel=1e-11)
        for site, value in dense.params.items():
            torch.testing.assert_close(fit.params[site], value, rtol=1e-5, atol=1e-5)
    if name in ("poisson", "gamma"):
        for kind in ("observed", "sandwich"):
            errors = [summary(each, cov_type=kind)["std_error"] for each in (fit, dense)]
            np.testing.assert_allclose(*errors, rtol=1e-6)


def test_predictors_with_designs_of_their_own_are_crossed():
    x, eta, draws = made(3)
    y = torch.from_numpy(eta + draws.normal(size=ROWS))
    few = x.index_select(1, torch.arange(4))
    fits = [mle(models.gaussian, {"mean": a, "sigma": b}, y) for a, b in ((x, few), (x.dense(), few.dense()))]
    assert fits[0].nll == pytest.approx(fits[1].nll, rel=1e-11)
    errors = [summary(fit)["std_error"] for fit in fits]
    np.testing.assert_allclose(*errors, rtol=1e-6)


def test_a_formula_holds_codes_and_fits_as_its_dense_design():
    draws = np.random.default_rng(4)
    table = pd.DataFrame({"g": draws.choice(list("abcd"), 3_000), "x": draws.normal(size=3_000)})
    table["site"] = pd.Categorical([f"s{k:02}" for k in draws.integers(0, 40, 3_000)])
    table["y"] = draws.poisson(np.exp(0.3 * table["x"] + 0.2 * (table["g"] == "b"))).astype(float)
    formula = "y ~ g * x + site"
    fit = mle("poisson", formula, table)
    x = fit.objective.data.x
    assert isinstance(x, SplitDesign)
    assert x.matrix.nbytes < x.numel() * 8 / 5
    dense = learn(formula, table).design.main.design(table)
    np.testing.assert_array_equal(x.dense().numpy(), dense.to_numpy())
    alone = mle("poisson", dense, table["y"])
    assert fit.nll == pytest.approx(alone.nll, rel=1e-12)
    assert list(summary(fit).index) == list(summary(alone).index)
    new = table.head(7)
    np.testing.assert_allclose(predict(fit, new).mean, predict(alone, dense.head(7)).mean, rtol=1e-9)


@pytest.mark.parametrize(
    "terms", ["g:h", "g*h*x", "h + g:bs(x, df=4)", "C(g, contr.sum)*h", "0 + g + h:x", "g/h", "2:g + x"]
)
def test_codes_of_interactions_are_formulaics_columns(terms):
    from formulaic import model_matrix

    draws = np.random.default_rng(5)
    table = pd.DataFrame({"g": draws.choice(list("abc"), 80), "h": draws.choice(["u", "v"], 80)})
    table["x"], table["y"] = draws.normal(size=80), draws.normal(size=80)
    found = learn(f"y ~ {terms}", table).design.main.coded(table)
    expected = model_matrix(terms, table).drop(columns="Intercept", errors="ignore")
    assert len(found.matrix.parts) > 1 or "sum" in terms or found.columns[0][0] == "g"
    assert sorted(found.columns) == sorted(expected.columns)
    np.testing.assert_allclose(found.frame()[list(expected.columns)], expected, atol=1e-12)


def sparse_forms(matrix):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its sparse tensors
        places = torch.from_numpy(np.array(matrix.nonzero()))
        coo = torch.sparse_coo_tensor(places, torch.from_numpy(matrix.data), matrix.shape).coalesce()
        return {
            "csr": matrix,
            "csc": matrix.tocsc(),
            "coo": scipy.sparse.coo_array(matrix),
            "torch": coo,
            "torch csr": coo.to_sparse_csr(),
        }


def test_sparse_matrices_and_frames_are_designs():
    draws = np.random.default_rng(6)
    matrix = scipy.sparse.random(3_000, 40, density=0.05, random_state=6, format="csr")
    matrix.data = draws.normal(size=matrix.nnz)
    y = draws.poisson(np.exp(0.3 + matrix.toarray()[:, 0])).astype(float)
    dense = mle("poisson", matrix.toarray(), y)
    for form in sparse_forms(matrix).values():
        fit = mle("poisson", form, y)
        assert isinstance(fit.objective.data.x, SplitDesign)
        assert fit.nll == pytest.approx(dense.nll, rel=1e-12)
        torch.testing.assert_close(predict(fit, form).mean, predict(dense, matrix.toarray()).mean)
    names = [f"v{k}" for k in range(40)]
    frame = pd.DataFrame.sparse.from_spmatrix(matrix, columns=names).assign(z=draws.normal(size=3_000))
    fit = mle("poisson", frame, y)
    alone = mle("poisson", pd.DataFrame(frame.to_numpy(), columns=[*names, "z"]), y)
    pd.testing.assert_frame_equal(summary(fit), summary(alone), rtol=1e-8)
    folds = [neglog.cross_validate("poisson", x, y, folds=3) for x in (matrix, matrix.toarray())]
    assert folds[0].mean == pytest.approx(folds[1].mean)


def test_a_sparse_matrix_of_the_caller_is_not_changed():
    places, starts = np.array([1, 1, 0, 2]), np.array([0, 2, 3, 4])
    matrix = scipy.sparse.csr_array((np.array([1.0, 2.0, 3.0, 4.0]), places, starts), shape=(3, 3))
    held = sparse_design("x", matrix)
    np.testing.assert_array_equal(held.numpy(), [[0, 3, 0], [3, 0, 0], [0, 0, 4]])
    assert matrix.nnz == 4
    np.testing.assert_array_equal(matrix.data, [1, 2, 3, 4])


def test_designs_that_share_a_part_of_their_memory_are_told_apart():
    matrix = scipy.sparse.random(50, 6, density=0.5, random_state=0, format="csr")
    moved = scipy.sparse.csr_array((matrix.data, (matrix.indices + 1) % 6, matrix.indptr), shape=(50, 6))
    first, second = Sparse(scipy.sparse.csr_array(matrix)), Sparse(moved)
    assert split(first).key != split(second).key
    codes = np.arange(50, dtype=np.int32) % 4
    assert split(Levels(codes, 3)).key != split(Levels(codes, 4)).key
    parts, places = (first, Levels(codes, 3)), (np.arange(6), np.arange(6, 9))
    other = (np.arange(3, 9), np.arange(3))
    assert SplitMatrix(parts, places, 50).key != SplitMatrix(parts, other, 50).key


def test_wrong_sparse_designs_are_refused():
    y = np.ones(3)
    with pytest.raises(DataError, match="real"):
        mle("gaussian", scipy.sparse.csr_array(np.eye(3) * 1j), y)
    with pytest.raises(DataError, match="NaN"):
        mle("gaussian", scipy.sparse.csr_array(np.array([[np.nan], [1.0], [2.0]])), y)


def test_estimators_take_sparse_rows():
    draws = np.random.default_rng(7)
    matrix = scipy.sparse.random(2_000, 60, density=0.05, random_state=7, format="csr")
    y = draws.poisson(np.exp(0.3 + matrix.toarray()[:, 0])).astype(float)
    for estimator, response in ((LikelihoodRegressor("poisson"), y), (LikelihoodClassifier(), y > 1)):
        found = estimator.fit(matrix, response).predict(matrix)
        np.testing.assert_allclose(found, estimator.fit(matrix.toarray(), response).predict(matrix.toarray()))
    with pytest.raises(TypeError):
        NetworkRegressor().fit(matrix, y)


def test_a_dependent_level_is_named():
    draws = np.random.default_rng(8)
    table = pd.DataFrame({"g": draws.choice(list("abcdefgh"), 20_000), "y": draws.normal(size=20_000)})
    table["h"] = np.where(table["g"] == "c", "c", "other")
    with pytest.raises(SingularDesignError, match=r"g\[c\]|g\[T\.c\]"):
        mle("gaussian", "y ~ g + h", table)


def test_dense_columns_of_a_kind_are_its_own_memory():
    values = np.ones((3, 2))
    assert Dense(values).take(slice(1, 3)).values.base is values
