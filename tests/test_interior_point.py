"""Least absolute deviations and quantiles by the interior point: exact and certified, few rows or many."""

from functools import partial

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from neglog import flat, map_estimate, mle, models, quantile_process, with_priors
from neglog.data import prepare
from neglog.errors import DataError, SingularDesignError, UnboundedLikelihoodError
from neglog.fitting.choice import choose
from neglog.fitting.start import starting_point
from neglog.objective.objective import Objective
from neglog.solvers import Continuation, InteriorPoint, interior_point, preprocessing
from neglog.solvers.lines import Lines
from neglog.solvers.smoothed_newton import approached
from neglog.solvers.vertex import pivoted, vertex_at

SAME = 1e-9
"""Relative: both are optima of the same linear programme, HiGHS's to its tolerance of 1e-10."""
KINDS = ["normal", "tied", "weighted", "discrete", "rounded", "cauchy", "scaled", "repeated"]


def problem(kind, seed, rows, columns):
    """A design, a response and weights."""
    rng = np.random.default_rng(seed)
    x, weights = rng.standard_normal((rows, columns)), np.ones(rows)
    y = x.sum(1) + rng.standard_normal(rows)
    if kind == "tied":
        x, y = rng.integers(0, 3, (rows, columns)).astype(float), np.round(y)
    elif kind == "weighted":
        weights = rng.choice([0.3, 1.0, 2.0, 5.0], rows)
    elif kind == "discrete":
        x, y = rng.integers(0, 2, (rows, columns)).astype(float), rng.integers(0, 4, rows).astype(float)
    elif kind == "rounded":
        y = np.round(y)
    elif kind == "cauchy":
        y = x.sum(1) + rng.standard_cauchy(rows)
    elif kind == "scaled":
        x, y = x * 10.0 ** rng.uniform(-4, 4, columns), y * 10.0 ** rng.uniform(-4, 4)
    elif kind == "repeated":
        index = rng.integers(0, rows // 3, rows)
        x, y = x[index], y[index]
    return x, y, weights


def programme(x, y, weights, tau):
    """The least pinball loss, by HiGHS; columns of order one, which its tolerances are made for."""
    design = np.column_stack([np.ones(len(y)), x])
    design, size = design / abs(design).max(0), abs(y).max()
    identity, columns = scipy.sparse.identity(len(y)), design.shape[1]
    found = scipy.optimize.linprog(
        np.concatenate([np.zeros(columns), tau * weights, (1 - tau) * weights]),
        A_eq=scipy.sparse.hstack([scipy.sparse.csr_matrix(design), identity, -identity]),
        b_eq=y / size,
        bounds=[(None, None)] * columns + [(0, None)] * (2 * len(y)),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    assert found.status == 0
    return size * found.fun


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(20, 160),
    columns=st.integers(0, 4),
    tau=st.sampled_from([0.1, 0.25, 0.5, 0.9]),
    many=st.sampled_from([10, 10**6]),
)
def test_the_optimum_is_that_of_the_linear_programme(kind, seed, rows, columns, tau, many):
    x, y, weights = problem(kind, seed, rows, columns)
    solver = InteriorPoint(_many=many)
    try:
        fit = mle(partial(models.quantile, tau=tau), x, y, weights=weights, solver=solver)
    except (SingularDesignError, UnboundedLikelihoodError):
        assume(False)
    loss = fit.params["scale"].item() * weights.sum()
    assert fit.converged
    assert "at a vertex" in fit.status
    assert loss == pytest.approx(programme(x, y, weights, tau), rel=SAME)


def test_most_rows_of_many_are_put_into_globs():
    x, y, weights = problem("normal", 0, 3000, 2)
    lines = Lines(x, True, np.eye(3), y, weights, 0.3)
    sizes, take_all = [], preprocessing._by_interior_point

    def noted(part, *rest):
        sizes.append((part.rows, part.globs))
        return take_all(part, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocessing, "_by_interior_point", noted)
        found = preprocessing.optimum(lines, 100, many=200)
    assert max(rows for rows, _ in sizes) < 1000
    assert sizes[-1][1] == 2
    whole = preprocessing.optimum(lines, 100, many=10**6)
    assert sorted(whole.held) == sorted(found.held)
    np.testing.assert_allclose(found.z, whole.z, rtol=1e-12)
    assert found.loss == pytest.approx(lines.loss(lines.y - lines.at(found.z)), rel=1e-13)


def test_two_walks_over_all_rows_find_and_certify_the_line(monkeypatch):
    x, y, weights = problem("weighted", 3, 50_000, 4)
    lines, own, read = Lines(x, True, np.eye(5), y, weights, 0.3), Lines.at, []

    def noted(self, z, rows=slice(None)):
        found = own(self, z, rows)
        if self.rows == len(y):
            read.append(len(found))
        return found

    monkeypatch.setattr(Lines, "at", noted)
    found = preprocessing.optimum(lines, 100)
    # Beyond the two, what is said of the rows that decide alone.
    assert 2 * len(y) <= sum(read) < 2.3 * len(y)
    assert found.violation < 1e-9


@pytest.mark.parametrize("wide", [0.2, 1.0])
def test_rows_that_stray_are_taken_back_from_the_sums(wide, monkeypatch):
    """Of a band that is too narrow, many rows are on the other side of the optimum."""
    x, y, weights = problem("weighted", 4, 30_000, 3)
    lines, strayed, own = Lines(x, True, np.eye(4), y, weights, 0.5), [], preprocessing._misclassified

    def noted(*given):
        rows, loss = own(*given)
        strayed.append(len(rows))
        return rows, loss

    expected = preprocessing.optimum(lines, 100, many=10**6)
    monkeypatch.setattr(preprocessing, "_misclassified", noted)
    monkeypatch.setattr(preprocessing, "FIRST_BAND", wide)
    found = preprocessing.optimum(lines, 100)
    assert max(strayed) > 0
    assert sorted(found.held) == sorted(expected.held)
    assert found.loss == pytest.approx(expected.loss, rel=1e-13)


@pytest.mark.parametrize("tau", [0.1, 0.5])
def test_newton_steps_lead_next_to_the_optimum(tau):
    x, y, weights = problem("weighted", 5, 40_000, 5)
    lines = Lines(x, True, np.eye(6), y, weights, tau)
    best = preprocessing.optimum(lines, 100).z
    off = 0.05 * np.random.default_rng(1).standard_normal(6)
    at = approached(lines, best + off, 0.1)
    left = np.sqrt(np.mean(lines.at(at.z - best) ** 2))
    assert left < 0.03 * np.sqrt(np.mean(lines.at(off) ** 2))
    assert left < preprocessing.SECOND_BAND * at.moved  # so the rows within that are those that decide
    np.testing.assert_allclose(at.residuals, y - lines.at(at.z), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns", "seed"), [(1573, 2, 753075439), (4093, 1, 502837467)])
def test_rows_on_the_line_are_found_where_coefficients_cancel(rows, columns, seed):
    """Of whole numbers hundreds are on the line; where x is 0, rounding of the intercept alone is off it."""
    rng = np.random.default_rng(seed)
    rng.standard_normal((rows, columns))
    noise, x = rng.standard_normal(rows), rng.poisson(1.0, (rows, columns)).astype(float)
    y = x @ rng.standard_normal(columns) + np.round(3 * noise)
    _, triangle = np.linalg.qr(np.column_stack([np.ones(rows), x]) / np.sqrt(rows))
    lines = Lines(x, True, np.linalg.inv(triangle), y, np.ones(rows), 0.5)
    for many in (200, 10**6):
        found = preprocessing.optimum(lines, 100, many=many)
        assert found is not None
        assert len(found.held) > 100
        assert found.loss == pytest.approx(programme(x, y, np.ones(rows), 0.5), rel=SAME)


@pytest.mark.parametrize("kind", ["tied", "discrete", "rounded"])
@pytest.mark.parametrize("tau", [0.05, 0.5, 0.9])
def test_ties_on_the_line_of_many_rows_are_no_trouble(kind, tau):
    """Half of the rows of a sample may be on its line, and no density is there to speak of; nothing warns."""
    for seed in range(4):
        x, y, weights = problem(kind, seed, 5000, seed)
        lines = Lines(x, True, np.eye(seed + 1), y, weights, tau)
        found, whole = (preprocessing.optimum(lines, 100, many=many) for many in (200, 10**6))
        assert found.loss == pytest.approx(whole.loss, rel=1e-12)


@pytest.mark.parametrize("tau", [0.2, 0.5])
def test_a_quantile_starts_at_that_of_the_response(tau):
    x, y, weights = problem("weighted", 6, 300, 2)
    models_of = {"laplace": models.laplace, "quantile": partial(models.quantile, tau=tau)}
    for name, model in models_of.items():
        objective = Objective(flat(model), prepare(x, y, weights=weights))
        params = objective.layout.params(starting_point(objective, None))
        null = mle(model, np.empty((300, 0)), y, weights=weights)
        for site, value in null.params.items():
            if not site.endswith("weight"):
                torch.testing.assert_close(params[site], value, rtol=1e-12, atol=0, msg=name)


def test_a_row_on_the_wrong_side_is_taken_back():
    x, y, weights = problem("normal", 1, 20_000, 2)
    lines = Lines(x, True, np.eye(3), y, weights, 0.5)
    far = preprocessing.Near(preprocessing.optimum(lines, 100).z + 0.1, 0.0)
    found = preprocessing.optimum(lines, 100, near=far)
    assert found.rounds > 1


def test_weights_are_repeated_rows():
    x, y, _ = problem("normal", 2, 90, 3)
    counts = np.random.default_rng(2).integers(0, 4, 90)
    model = partial(models.quantile, tau=0.7)
    weighted = mle(model, x, y, weights=counts.astype(float))
    repeated = mle(model, np.repeat(x, counts, 0), np.repeat(y, counts))
    assert weighted.nll == pytest.approx(repeated.nll, rel=1e-13)
    for name, value in weighted.params.items():
        np.testing.assert_allclose(value, repeated.params[name], rtol=1e-12)
    assert "at a vertex of 4 rows" in weighted.status


def test_the_median_of_an_even_number_is_not_unique_and_halfway():
    fit = mle(models.laplace, np.empty((6, 0)), np.array([1.0, 2.0, 3.0, 7.0, 8.0, 9.0]))
    assert "not unique" in fit.status
    assert fit.params["location.bias"].item() == pytest.approx(5.0, rel=1e-14)
    ties = mle(models.laplace, np.empty((4, 0)), np.array([0.0, 0.0, 1.0, 1.0]))
    assert "not unique" in ties.status
    assert ties.params["location.bias"].item() == pytest.approx(0.5, rel=1e-14)
    odd = mle(models.laplace, np.empty((5, 0)), np.array([0.0, 0.0, 1.0, 1.0, 1.0]))
    assert "unique" not in odd.status
    assert odd.params["location.bias"].item() == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("seed", range(12))
def test_what_is_said_of_uniqueness_is_what_the_programme_says(seed):
    """The ends of the optimal set in each coordinate, which are one and the same where it is a point."""
    x, y, weights = problem("discrete", seed, 20, 1 + seed % 2)
    try:
        fit = mle(models.laplace, x, y)
    except SingularDesignError:
        pytest.skip("dependent columns")
    design, rows = np.column_stack([np.ones(20), x]), len(y)
    columns, best = design.shape[1], programme(x, y, weights, 0.5)
    level = np.concatenate([np.zeros(columns), np.full(2 * rows, 0.5)])[None]
    ends = [
        scipy.optimize.linprog(
            np.concatenate([sign * np.eye(columns)[j], np.zeros(2 * rows)]),
            A_ub=level,
            b_ub=[best * (1 + 1e-9)],
            A_eq=np.hstack([design, np.eye(rows), -np.eye(rows)]),
            b_eq=y,
            bounds=[(None, None)] * columns + [(0, None)] * (2 * rows),
        ).fun
        for j in range(columns)
        for sign in (1, -1)
    ]
    widths = [-low - high for low, high in zip(ends[::2], ends[1::2], strict=True)]
    assert ("not unique" in fit.status) == (max(widths) > 1e-3)


def test_a_vertex_that_is_no_optimum_has_no_certificate_and_pivots_lead_to_one():
    x, y, weights = problem("normal", 3, 200, 2)
    lines = Lines(x, True, np.eye(3), y, weights, 0.5)
    wrong = vertex_at(lines, np.array([0, 1, 2]))
    assert not wrong.certified
    right, pivots = pivoted(lines, wrong, 100)
    assert right.certified
    assert pivots > 0
    np.testing.assert_allclose(right.z, preprocessing.optimum(lines, 100).z, rtol=1e-10)


def test_without_a_vertex_continuation_has_the_last_word(monkeypatch):
    x, y, _ = problem("normal", 4, 40, 2)
    exact = mle(models.laplace, x, y)
    monkeypatch.setattr(interior_point, "optimum", lambda *_: None)
    fit = mle(models.laplace, x, y)
    assert "residuals exactly 0" in fit.status
    assert fit.nll == pytest.approx(exact.nll, rel=1e-12)


def test_a_perfect_fit_has_no_maximum():
    x = np.arange(12.0)[:, None]
    for many in (10, 10**6):
        with pytest.raises(UnboundedLikelihoodError, match="exactly"):
            mle(models.laplace, x, 1 + 2 * x[:, 0], solver=InteriorPoint(_many=many))


def test_other_problems_are_left_to_other_solvers():
    x, y, _ = problem("normal", 5, 60, 2)
    fit = mle(models.laplace, x, y)
    assert isinstance(choose(fit.coordinates), InteriorPoint)
    assert isinstance(choose(map_estimate(models.laplace, x, y).coordinates), Continuation)
    by_scale = mle(models.laplace, {"location": x, "scale": x[:, :1]}, y)
    assert isinstance(choose(by_scale.coordinates), Continuation)
    for model in (models.gaussian, with_priors(models.laplace, {})):
        with pytest.raises(DataError, match=r"`InteriorPoint`.*Laplace"):
            map_estimate(model, x, y, solver=InteriorPoint())


@pytest.mark.parametrize("many", [10**6, 60])
def test_quantiles_are_those_of_single_fits(many, monkeypatch):
    monkeypatch.setattr(InteriorPoint.__init__, "__defaults__", (100, many, None))
    x, y, weights = problem("weighted", 6, 400, 1)
    taus = [0.9, 0.1, 0.5, 0.52, 0.54]
    fits = quantile_process(x, y, taus, weights=weights)
    assert list(fits) == sorted(taus)
    for tau, fit in fits.items():
        alone = mle(partial(models.quantile, tau=tau), x, y, weights=weights)
        assert fit.converged
        assert "at a vertex" in fit.status
        assert fit.nll == pytest.approx(alone.nll, rel=1e-12)


def test_lines_that_cross_are_counted():
    rng = np.random.default_rng(7)
    x = rng.uniform(-1, 1, (200, 1))
    y = x[:, 0] * rng.standard_normal(200)
    fits = quantile_process(x, y, [0.25, 0.75])
    lines = {
        tau: fit.params["quantile.bias"].item() + x[:, 0] * fit.params["quantile.weight"].item()
        for tau, fit in fits.items()
    }
    crossed = int((lines[0.75] < lines[0.25]).sum())
    assert dict(fits.crossings) == ({(0.25, 0.75): crossed} if crossed else {})
    few = quantile_process(x[:12], y[:12], [0.4, 0.5, 0.6])
    assert "cross" in few.note
    assert quantile_process(x, y + 100 * (y > 0), [0.1, 0.9]).note == ""


def test_quantiles_need_a_tau_between_0_and_1():
    x, y, _ = problem("normal", 8, 30, 1)
    for taus in ([], [0.5, 1.0], [float("nan")]):
        with pytest.raises(DataError, match=r"`taus`.* 0 and 1"):
            quantile_process(x, y, taus)
