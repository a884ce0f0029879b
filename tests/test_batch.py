"""Many data sets at once: each as if it were alone, exact, and told apart from those without an answer."""

import math
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import linprog
from table import TABLE

from neglog import flat, mle, mle_batch, models, on_features, summary
from neglog.batches import batch, graph_gradients, likelihoods, normal_equations, optima
from neglog.batches.layout import in_theta, lay_out
from neglog.batches.stack import prepare_stack
from neglog.data import prepare
from neglog.errors import (
    ConvergenceWarning,
    DataError,
    ModelError,
    SingularDesignError,
    UnboundedLikelihoodError,
)
from neglog.labels import site_labels
from neglog.objective.objective import Objective
from neglog.predictors import linear, positive, rows
from neglog.solvers import Newton
from neglog.solvers.batched_newton import chords, newton_together
from neglog.solvers.interior import quantile_regressions

SETS, ROWS = 2, 60
SAME = {"rtol": 1e-8, "atol": 1e-8}
"""Both solvers stop within 1e-8 standard errors of the optimum."""


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stacked(case, sets=SETS):
    drawn = [case.sample(ROWS, seed=seed) for seed in range(sets)]
    return torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn])


def counts(sets=SETS, seed=5):
    """How often each row is drawn in a bootstrap."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(ROWS, (sets, ROWS), generator=generator)
    return torch.stack([torch.bincount(draw, minlength=ROWS) for draw in draws]).double()


def lines(sets=4, number=30):
    x = normal(sets, number, 2)
    return x, 1 + 2 * x[..., 0] + normal(sets, number, seed=1)


def assert_alike(fit, s, alone):
    assert set(fit.params) == set(alone.params)
    for name, value in alone.params.items():
        torch.testing.assert_close(
            fit.params[name][s], value, **SAME, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert fit.nll[s].item() == pytest.approx(alone.nll, rel=1e-11)
    assert bool(fit.converged[s]) == alone.converged


def assert_as_sure(fit, s, alone):
    """Standard errors and intervals are those of the summary; second derivatives double the digits lost."""
    table, errors, ends = summary(alone, level=0.9), fit.standard_errors, fit.interval(0.9)
    for site, labels in site_labels(alone).items():
        known = table.loc[labels]
        np.testing.assert_allclose(errors[site][s].reshape(-1), known["std_error"], rtol=1e-6)
        for side, end in zip(("lower", "upper"), ends[site], strict=True):
            np.testing.assert_allclose(end[s].reshape(-1), known[side], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "bootstrap"),
    [
        *(pytest.param(name, True, id=f"{name}-weights") for name in TABLE),
        *(pytest.param(name, False, id=f"{name}-plain") for name in ("gaussian", "laplace", "poisson")),
    ],
)
def test_every_data_set_is_fitted_as_if_it_were_alone(name, bootstrap):
    case = TABLE[name]
    (x, y), keywords = stacked(case), case.keywords(ROWS)
    weights = counts() if bootstrap else None
    if case.outputs:
        with pytest.raises(ModelError, match=r"vector.* Loop over `mle`"):
            mle_batch(case.model, x, y, weights=weights, **keywords)
        return
    fit = mle_batch(case.model, x, y, weights=weights, cov_type="observed", **keywords)
    for s in range(SETS):
        alone = mle(case.model, x[s], y[s], weights=None if weights is None else weights[s], **keywords)
        assert_alike(fit, s, alone)
    assert_as_sure(fit, s, alone)


def test_standard_errors_do_not_suffer_from_columns_far_from_0():
    x, y = lines()
    near, far = (mle_batch(models.gaussian, x + shift, y, cov_type="observed") for shift in (0.0, 1e5))
    first, second = near.standard_errors["mean.weight"], far.standard_errors["mean.weight"]
    torch.testing.assert_close(first, second, rtol=1e-8, atol=0)


def test_a_data_set_without_an_optimum_has_infinite_errors():
    x, y = lines()
    y[1] = 3.0 * x[1, :, 0]
    with pytest.warns(ConvergenceWarning):
        fit = mle_batch(models.gaussian, x, y, cov_type="observed")
    assert torch.isfinite(fit.standard_errors["mean.weight"]).all(1).tolist() == [True, False, True, True]
    lower, upper = fit.interval()["mean.weight"]
    assert (lower[1] == -math.inf).all()
    assert (upper[1] == math.inf).all()
    low, high = fit.interval()["sigma"]
    assert low[1] == 0
    assert high[1] == math.inf


def test_standard_errors_are_there_when_they_are_asked_for():
    fit = mle_batch(models.gaussian, *lines())
    with pytest.raises(ModelError, match="cov_type='observed'"):
        fit.standard_errors  # noqa: B018
    with pytest.raises(ModelError, match="`level` must be between 0 and 1"):
        fit.interval(95)


@pytest.mark.parametrize("name", [name for name, case in TABLE.items() if not case.outputs])
def test_derivatives_are_those_of_each_objective(name):
    case = TABLE[name]
    (x, y), keywords = stacked(case), case.keywords(ROWS)
    weights = 0.5 + counts()
    stack = prepare_stack(x, y, weights=weights, **keywords)
    layout, _ = lay_out(flat(case.model), stack)
    theta = layout.initial(SETS) + 0.2 * normal(SETS, layout.objective.size)
    values, gradients, hessians = in_theta(layout, stack).derivatives(theta)
    for s in range(SETS):
        alone = Objective(flat(case.model), prepare(x[s], y[s], weights=weights[s], **keywords))
        value, gradient = alone.value(theta[s]), alone.gradient(theta[s])
        assert float(values[s]) == pytest.approx(value, rel=1e-12)
        torch.testing.assert_close(gradients[s], gradient, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(hessians[s], alone.hessian(theta[s]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["student_t", "negative_binomial", "beta"])
def test_the_newton_decrement_certifies_an_optimum(name):
    case = TABLE[name]
    (x, y), keywords = stacked(case), case.keywords(ROWS)
    fit = mle_batch(case.model, x, y, **keywords)
    for s in range(SETS):
        objective = mle(case.model, x[s], y[s], **keywords).objective
        theta = objective.layout.theta({name: value[s] for name, value in fit.params.items()})
        gradient = objective.gradient(theta)
        decrement = gradient @ torch.linalg.solve(objective.hessian(theta), gradient)
        assert float(decrement.abs().sqrt()) < 1e-8


def test_quantreg_by_linear_programming():
    x, y = normal(ROWS, 2), normal(4, ROWS, seed=1).round()  # rounded: many residuals vanish together
    weights = counts(4)
    columns = torch.cat([torch.ones(ROWS, 1), x], dim=1)
    for tau in (0.1, 0.5, 0.85):
        found = quantile_regressions(columns, y, tau, weights)
        assert found.certified.all()
        for s in range(4):
            residuals = y[s] - columns @ found.coefficients[s]
            loss = (weights[s] * residuals * (tau - (residuals < 0).double())).sum()
            above, below = tau * weights[s], (1 - tau) * weights[s]
            expected = linprog(
                np.concatenate([np.zeros(3), above.numpy(), below.numpy()]),
                A_eq=np.hstack([columns.numpy(), np.eye(ROWS), -np.eye(ROWS)]),
                b_eq=y[s].numpy(),
                bounds=[(None, None)] * 3 + [(0, None)] * (2 * ROWS),
            )
            assert float(loss) == pytest.approx(expected.fun, rel=1e-10)


@pytest.mark.parametrize("columns", [0, 1, 2])
def test_medians_that_are_not_unique_are_those_of_single_fits(columns):
    """The batch stopped at one of the optimal vertices, a single fit in the midst of them."""
    generator = torch.Generator().manual_seed(23 + columns)
    x = torch.randint(0, 3, (6, columns), generator=generator).double()
    y = torch.randint(0, 6, (6, 6), generator=generator).double()
    fit, open_ends = mle_batch(models.laplace, x, y), 0
    for s in range(6):
        alone = mle(models.laplace, x, y[s])
        open_ends += "not unique" in alone.status
        assert_alike(fit, s, alone)
    assert open_ends


def test_a_line_that_could_be_better_is_not_certified():
    x, y = lines(20)
    weights = torch.ones_like(y)
    early, late = (quantile_regressions(x, y, 0.5, weights, max_steps=steps) for steps in (2, 60))
    losses = [(y - (x @ found.coefficients[..., None])[..., 0]).abs().sum(-1) for found in (early, late)]
    assert late.certified.all()
    assert 0 < early.certified.sum() < 20
    assert torch.equal(early.certified, losses[0] <= losses[1] * (1 + 1e-12))


def test_what_the_interior_point_leaves_is_done_one_by_one(monkeypatch):
    x, y = lines(2)
    expected = mle_batch(models.laplace, x, y)
    monkeypatch.setattr(optima, "quantile_regressions", partial(quantile_regressions, max_steps=0))
    weights = torch.ones_like(y)
    for fit in (mle_batch(models.laplace, x, y), mle_batch(models.laplace, x, y, weights=weights)):
        assert fit.converged.all()
        for name, value in expected.params.items():
            torch.testing.assert_close(fit.params[name], value, rtol=1e-9, atol=1e-9)


def test_a_mapping_of_designs_shared_and_not():
    x, y = lines()
    z = x[0, :, :1]
    model = partial(models.student_t, df=4.0)
    fit = mle_batch(model, {"location": x, "scale": z}, y)
    for s in range(len(y)):
        assert_alike(fit, s, mle(model, {"location": x[s], "scale": z}, y[s]))


def test_exposure_by_data_set():
    x = normal(3, 40, 1)
    exposure = normal(3, 40, seed=1).exp()
    y = torch.poisson(exposure * torch.exp(0.5 * x[..., 0]), generator=torch.Generator().manual_seed(0))
    fit = mle_batch(models.poisson, x, y, exposure=exposure)
    for s in range(3):
        assert_alike(fit, s, mle(models.poisson, x[s], y[s], exposure=exposure[s]))


@pytest.mark.parametrize("model", [models.gaussian, models.laplace, models.huber], ids=lambda m: m.__name__)
def test_a_shared_design_is_as_good_as_copies_of_it(model):
    x, y = lines()
    shared = mle_batch(model, x[0], y)
    copied = mle_batch(model, x[:1].repeat(len(y), 1, 1), y)
    for name, value in shared.params.items():
        torch.testing.assert_close(value, copied.params[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", [models.student_t, models.laplace], ids=lambda m: m.__name__)
def test_a_shared_response_with_weights_is_a_bootstrap(model):
    x, y = lines(1, ROWS)
    model = partial(model, df=4.0) if model is models.student_t else model
    weights = counts(3)
    fit = mle_batch(model, x[0], y[0], weights=weights)
    for s in range(3):
        index = torch.repeat_interleave(torch.arange(ROWS), weights[s].long())
        alone = mle(model, x[0, index], y[0, index])  # the rows drawn, written out
        assert_alike(fit, s, alone)


@pytest.mark.parametrize("model", [models.huber, models.laplace], ids=lambda m: m.__name__)
def test_neither_order_nor_company_matters(model, monkeypatch):
    x, y = lines(7)
    fit = mle_batch(model, x, y)
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    permuted = mle_batch(model, x[order], y[order])
    monkeypatch.setattr(batch, "MAX_STACKED_NUMBERS", 1)  # one by one
    single = mle_batch(model, x, y)
    for name, value in fit.params.items():
        torch.testing.assert_close(permuted.params[name], value[order], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(single.params[name], value, rtol=1e-10, atol=1e-10)
    assert torch.equal(permuted.converged, fit.converged[order])


def test_conditioned_sites_stay_where_they_are():
    x, y = lines()
    slopes = torch.tensor([2.0, 0.5], dtype=torch.float64)
    held = pyro.condition(models.gaussian, {"mean.weight": slopes})
    fit = mle_batch(held, x, y)
    assert set(fit.params) == {"mean.bias", "sigma"}
    torch.testing.assert_close(fit.params["mean.bias"], (y - x @ slopes).mean(-1), rtol=1e-10, atol=1e-10)
    held = pyro.condition(models.laplace, {"scale": torch.tensor(2.0, dtype=torch.float64)})
    assert_alike(mle_batch(held, x, y), 2, mle(held, x[2], y[2]))


def squares(x, y=None):
    mean, sigma = linear("mean", x**2), positive("sigma", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def fanning(x, y=None):
    mean, sigma = linear("mean", x), positive("sigma", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, sigma * (1 + x[:, 0].abs())), obs=y)


def test_a_model_of_ones_own_may_compute_its_design():
    x, y = lines()
    fit = mle_batch(squares, x, y)
    for s in range(len(y)):
        assert_alike(fit, s, mle(squares, x[s], y[s]))


def test_a_design_that_enters_elsewhere_must_be_shared():
    x, y = lines()
    assert_alike(mle_batch(fanning, x[0], y), 1, mle(fanning, x[0], y[1]))
    alike = torch.cat([x[:1], x[1:3], x[:1]])  # the first and the last, which are looked at, agree
    with pytest.raises(ModelError, match=r"`fanning` cannot .* fixed designs .* Loop over `mle`"):
        mle_batch(fanning, alike, y)


def test_models_that_cannot_be_fitted_together():
    x, y = lines()
    net = on_features(models.gaussian, torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"many data sets at once.* Loop over `mle`"):
        mle_batch(net, x, y)
    with pytest.raises(ModelError, match=r"`laplace`.* one linear predictor and one scale"):
        mle_batch(models.laplace, {"location": x, "scale": x}, y)
    with pytest.raises(ModelError, match=r"shape \(4, 30, 1\): vector-valued"):
        mle_batch(models.gaussian, x, y[..., None])

    def two_outputs(x, y=None):
        both = linear("mean", x, 2)
        with rows(x):
            return pyro.sample("y", dist.Normal(both[:, 0], torch.exp(both[:, 1])), obs=y)

    with pytest.raises(ModelError, match="it has a vector-valued predictor"):
        mle_batch(two_outputs, x, y)

    def constant(x, y=None):
        sigma = positive("sigma", x)
        with rows(x):
            return pyro.sample("y", dist.Normal(torch.zeros(len(x), dtype=x.dtype), sigma), obs=y)

    with pytest.raises(ModelError, match="it has no linear predictor"):
        mle_batch(constant, x, y)


# What has no answer is told, and leaves the others alone


def separated():
    x, y = lines()
    return models.bernoulli, x, torch.cat([(x[:1, :, 0] > 0).double(), (y[1:] > 1).double()])


def nothing_counted():
    x, y = lines()
    return models.poisson, x, torch.cat([torch.zeros(1, 30).double(), y[1:].abs().round()])


def followed_exactly(model):
    x, y = lines()
    return model, x, torch.cat([1 + x[:1, :, 0], y[1:]])


def all_alike():
    x, y = lines()
    return models.gaussian, x, torch.cat([torch.full((1, 30), 3.0), y[1:]])


def dependent(model):
    x, y = lines()
    return model, torch.cat([x[:1, :, :1].repeat(1, 1, 2), x[1:]]), y


def underdispersed():
    x, y = normal(4, 30, 1), lines()[1]
    even = 3.0 + torch.arange(30) % 2
    return models.negative_binomial, x, torch.cat([even[None], y[1:].exp().round()])


@pytest.mark.parametrize(
    "build",
    [
        separated,
        nothing_counted,
        all_alike,
        underdispersed,
        partial(followed_exactly, models.gaussian),
        partial(followed_exactly, models.laplace),
        partial(followed_exactly, models.huber),
        partial(dependent, models.gaussian),
        partial(dependent, models.laplace),
    ],
    ids=lambda build: getattr(build, "__name__", None) or f"{build.func.__name__}-{build.args[0].__name__}",
)
def test_a_data_set_without_an_answer_is_told(build):
    model, x, y = build()
    with pytest.warns(ConvergenceWarning, match=r"certified for 1 of 4 data sets, the first of them 0"):
        fit = mle_batch(model, x, y)
    assert fit.converged.tolist() == [False, True, True, True]
    assert torch.isfinite(fit.nll).all()
    assert all(torch.isfinite(value).all() for value in fit.params.values())
    for s in (1, 3):
        assert_alike(fit, s, mle(model, x[s], y[s]))


def test_a_spread_of_nothing_is_told_wherever_the_solver_stopped(monkeypatch):
    def sure_of_itself(*arguments, **settings):
        found = newton_together(*arguments, **settings)
        return replace(found, converged=torch.ones_like(found.converged))

    monkeypatch.setattr(optima, "newton_together", sure_of_itself)
    monkeypatch.setattr(optima, "runs_away", lambda white, found: torch.zeros_like(found.converged))
    model, x, y = all_alike()
    with pytest.warns(ConvergenceWarning, match="1 of 4 data sets, the first of them 0"):
        mle_batch(model, x, y)


def test_at_a_border_the_coefficients_are_those_of_the_limit():
    model, x, y = underdispersed()
    with pytest.warns(ConvergenceWarning, match="1 of 4"):
        fit = mle_batch(model, x, y)
    limit = mle(models.poisson, x[0], y[0])
    assert fit.params["dispersion"][0] < 1e-6
    torch.testing.assert_close(
        fit.params["log_mean.weight"][0], limit.params["log_rate.weight"], rtol=1e-4, atol=1e-6
    )


def test_resamples_that_lose_a_column_are_told():
    x = (torch.arange(30) < 2).double()[:, None]
    weights = torch.stack([torch.ones(30), (torch.arange(30) > 4).double()])
    for model in (models.gaussian, models.laplace):
        with pytest.warns(ConvergenceWarning, match="1 of 2 data sets, the first of them 1"):
            fit = mle_batch(model, x, normal(30), weights=weights)
        assert fit.converged.tolist() == [True, False]
        assert torch.isfinite(fit.params[next(iter(fit.params))]).all()


def test_designs_that_all_share_are_refused_by_column():
    x, y = lines()
    with pytest.raises(SingularDesignError, match="columns x0, x1 of `mean`"):
        mle_batch(models.gaussian, x[0, :, :1].repeat(1, 2), y)
    with pytest.raises(SingularDesignError, match=r"3 coefficients .* 2 rows"):
        mle_batch(models.gaussian, x[:, :2], y[:, :2])


def test_sums_under_weights_are_as_exact_as_rows(monkeypatch):
    """Half leave out the rows that are far from all lines, and then a column is nearly constant."""
    x, y = normal(ROWS, 3), normal(ROWS, seed=1)
    x[3:, 2] = 1 + 1e-4 * x[3:, 2]
    y[:3] += 1e6
    weights = counts(20)
    weights[::2, :3], weights[1::2, 0] = 0.0, 1.0
    fit = mle_batch(models.gaussian, x, y, weights=weights)
    for s in range(20):
        assert_alike(fit, s, mle(models.gaussian, x, y, weights=weights[s]))
    rows = normal_equations._by_row
    seen = []
    monkeypatch.setattr(normal_equations, "_by_row", lambda some: seen.append(some.stack.count) or rows(some))
    mle_batch(models.gaussian, x, y, weights=weights)
    assert 10 <= sum(seen) < 20  # what has lost digits, and no more


@pytest.mark.parametrize("name", ["poisson", "binomial"])
def test_rows_that_are_replayed_are_those_of_the_model(name, monkeypatch):
    """Under weights alone; in pieces of one and two data sets too, and with predictors that overflow."""
    case = TABLE[name]
    (x, y), weights, keywords = case.sample(ROWS), counts(5), case.keywords(ROWS)
    expected = mle_batch(case.model, x, y, weights=weights, **keywords)
    monkeypatch.setattr(graph_gradients, "MIN_REPLAYED_ROWS", 0)
    used = []
    gradients = graph_gradients.Replayed.gradients
    monkeypatch.setattr(
        graph_gradients.Replayed, "gradients", lambda *given: used.append(len(given[2])) or gradients(*given)
    )
    for piece in (1, 2 * ROWS, 10**6):
        monkeypatch.setattr(likelihoods, "PIECE", piece)
        fit = mle_batch(case.model, x, y, weights=weights, **keywords)
        assert fit.converged.all()
        for field in (*fit.params, "nll"):
            found, known = ((one.params | {"nll": one.nll})[field] for one in (fit, expected))
            torch.testing.assert_close(found, known, **SAME)
    assert used[0] == 5
    for away in (2.0, 1e3):  # beyond where the chords lead anywhere, and where the density is a number
        start = {site: value[0] + away for site, value in expected.params.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = mle_batch(case.model, x, y, weights=weights, start=start, **keywords)
        assert fit.converged.all() or away > 2
        for site, value in expected.params.items():
            torch.testing.assert_close(fit.params[site][fit.converged], value[fit.converged], **SAME)


def test_chords_that_do_not_shrink_claim_nothing():
    """The first has the Hessian of its parabola, the second a tenth of it, the third is no number."""
    slopes = torch.tensor([1.0, 1.0, math.nan])
    found = chords(
        lambda z, index: slopes[index, None] * z,
        torch.ones(3, 1),
        torch.tensor([1.0, 0.1, 1.0])[:, None, None],
        torch.ones(3),
    )
    z, converged, steps = found
    assert converged.tolist() == [True, False, False]
    assert z[0].item() == 0
    assert steps[0] == 1


@pytest.mark.parametrize("model", [models.gaussian, models.poisson, models.gamma], ids=lambda m: m.__name__)
def test_sums_in_parts_are_sums(model, monkeypatch):
    case = TABLE[model.__name__]
    (x, y), weights = case.sample(ROWS), counts(4)
    whole = mle_batch(model, x, y, weights=weights)
    monkeypatch.setattr(normal_equations, "PART", 100)
    monkeypatch.setattr(likelihoods, "PART", 100)
    parts = mle_batch(model, x, y, weights=weights)
    assert parts.converged.all()
    for name, value in whole.params.items():
        torch.testing.assert_close(parts.params[name], value, **SAME)


def test_rows_of_weight_zero_may_hold_anything():
    case = TABLE["binomial"]
    (x, y), trials = stacked(case), case.keywords(ROWS)["trials"].repeat(SETS, 1)
    weights = counts()
    expected = mle_batch(models.binomial, x, y, weights=weights, trials=trials)
    gone = weights == 0
    for value in (x, y, trials):
        value[gone] = math.nan
    fit = mle_batch(models.binomial, x, y, weights=weights, trials=trials)
    for name, value in expected.params.items():
        torch.testing.assert_close(fit.params[name], value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fit.nll, expected.nll)


# What the data must be


def spoiled(value, s, row, bad):
    value = value.clone()
    value[s, row] = bad
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: {"y": spoiled(y, 2, 7, math.nan)}, r"`y` is NaN .* first in row 7 of data set 2"),
        (lambda x, y: {"x": spoiled(x, 1, 3, math.inf)}, r"`x` is NaN .* first in row 3 of data set 1"),
        (lambda x, y: {"y": y[:3]}, r"numbers of data sets: \{'x': 4, 'y': 3\}"),
        (lambda x, y: {"y": y[:, :9]}, r"numbers of rows: \{'x': 30, 'y': 9\}"),
        (lambda x, y: {"weights": -torch.ones_like(y)}, r"row 0 of data set 0 has -1"),
        (lambda x, y: {"weights": spoiled(torch.ones_like(y), 3, slice(None), 0)}, "all .* 0 in data set 3"),
        (lambda x, y: {"x": x[0], "y": y[0]}, "none of .* For a single data set, use `mle`"),
        (lambda x, y: {"y": y.long()}, "data set 0: `y` holds integers"),
        (lambda x, y: {"x": x.long()}, "`x` holds int64"),
        (lambda x, y: {"x": {}}, "`x` is an empty mapping"),
        (lambda x, y: {"x": x[..., 0, :0]}, r"different numbers of rows"),
        (lambda x, y: {"x": x[:0], "y": y[:0]}, "there are no data sets"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(change, message):
    x, y = lines()
    with pytest.raises(DataError, match=message):
        mle_batch(models.gaussian, **{"x": x, "y": y} | change(x, y))


def test_a_y_outside_the_support_is_named_by_data_set_and_row():
    x, y = lines()
    with pytest.raises(DataError, match=r"data set 2: `poisson` needs .* row 5 has y = -1"):
        mle_batch(models.poisson, x, spoiled(y.abs().round(), 2, 5, -1.0))
    with pytest.raises(ModelError, match="no predictor 'mu'"):
        mle_batch(models.gaussian, {"mu": x}, y)


def test_nothing_global_changes():
    x, y = lines()
    before = torch.get_rng_state(), torch.distributions.Distribution._validate_args
    mle_batch(models.gaussian, x, y)
    with pytest.raises(ModelError):
        mle_batch(models.laplace, {"location": x, "scale": x}, y)
    assert torch.equal(before[0], torch.get_rng_state())
    assert torch.distributions.Distribution._validate_args == before[1]


# Newton's method on many problems


class Functions:
    """Functions of vectors as problems; `which` are the ones of this batch."""

    def __init__(self, functions, which=None):
        self.functions = functions
        self.which = list(range(len(functions))) if which is None else which

    @property
    def rows(self):
        return torch.ones(len(self.which), dtype=torch.float64)

    def take(self, index):
        return Functions(self.functions, [self.which[i] for i in index.tolist()])

    def _each(self, of, z):
        return torch.stack([of(self.functions[i], at) for i, at in zip(self.which, z, strict=True)])

    def values(self, z):
        return self._each(lambda function, at: function(at), z)

    def gradients(self, z):
        return self.values(z), self._each(torch.autograd.functional.jacobian, z)

    def derivatives(self, z):
        return *self.gradients(z), self._each(torch.autograd.functional.hessian, z)

    def bounded(self, z):
        return self.values(z) > -1e6


class One:
    """One function as `Newton` takes it."""

    rows = 1

    def __init__(self, function, size):
        self.function, self.size = function, size

    def value(self, z):
        return float(self.function(z))

    def value_and_gradient(self, z):
        return self.value(z), torch.autograd.functional.jacobian(self.function, z)

    def hessian(self, z):
        return torch.autograd.functional.hessian(self.function, z)

    def derivatives(self, z):
        return *self.value_and_gradient(z), self.hessian(z)

    def sample(self):
        return None

    def check(self, z):
        return None


def rosenbrock(z):
    return 100 * (z[1] - z[0] ** 2) ** 2 + (1 - z[0]) ** 2


def bowl(z):
    return (z * z).sum() - z[0]


def saddle(z):
    return z[0] ** 2 - z[1] ** 2 + 0.25 * z[1] ** 4


def abyss(z):
    return -((z**2).sum() ** 2)


def undefined(z):
    return torch.log(-1 - (z**2).sum())


def test_many_newtons_end_where_one_does():
    functions = [rosenbrock, bowl, saddle]
    start = torch.tensor([[-1.2, 1.0], [3.0, 4.0], [1.0, 0.1]], dtype=torch.float64)
    found = newton_together(Functions(functions), start)
    for s, function in enumerate(functions):
        alone = Newton().minimise(One(function, 2), start[s])
        assert bool(found.converged[s]) == alone.converged is True
        torch.testing.assert_close(found.z[s], alone.z, rtol=1e-10, atol=1e-12)
        assert float(found.value[s]) == pytest.approx(alone.value, abs=1e-12)


def test_a_problem_without_a_minimum_does_not_disturb_the_others():
    start = torch.tensor([[-1.2, 1.0]] * 3, dtype=torch.float64)
    found = newton_together(Functions([abyss, rosenbrock, undefined]), start)
    assert found.converged.tolist() == [False, True, False]
    torch.testing.assert_close(found.z[1], torch.ones(2, dtype=torch.float64), rtol=1e-8, atol=0)
    assert torch.equal(found.z[2], start[2])
    assert found.steps.tolist()[::2] == [4, 0]  # the fifth step asks whether there is an end
    on_the_saddle = newton_together(Functions([saddle]), torch.zeros(1, 2, dtype=torch.float64))
    assert not on_the_saddle.converged.any()


def test_steps_that_run_out_claim_nothing():
    start = torch.tensor([[-1.2, 1.0], [0.5, 0.0]], dtype=torch.float64)
    found = newton_together(Functions([rosenbrock, bowl]), start, max_steps=3)
    assert found.converged.tolist() == [False, True]
    assert found.steps.tolist() == [3, 0]
    assert found.value[0] < rosenbrock(start[0])


def test_objectives_alone_are_the_same_functions():
    x, y = lines()
    fit = mle_batch(models.huber, x, y)
    alone = mle(models.huber, x[1], y[1]).objective
    assert isinstance(alone, Objective)
    theta = alone.layout.theta({name: value[1] for name, value in fit.params.items()})
    assert float(fit.nll[1]) == pytest.approx(float(alone.terms(theta)[0]), rel=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "heteroscedastic", "huber"])
def test_rows_with_a_scale_of_their_own_have_the_verdict_of_a_single_fit(name):
    """A batch stopped at a local optimum, where the likelihood of that row had not begun to rise."""
    row = TABLE[name]
    x, y = row.sample(12, 2)
    marked = torch.zeros((12, 1), dtype=x.dtype)
    marked[3] = 1.0
    for column in (marked, 1.0 - marked):
        designs = {row.location: x[:, :1], row.scale: column}
        for fit in (lambda at: mle(row.model, at, y), lambda at: mle_batch(row.model, at, y[None])):
            with pytest.raises(UnboundedLikelihoodError, match="row 3 alone"):
                fit(designs)
    own = torch.stack([marked, x[:, 1:]])
    with pytest.warns(ConvergenceWarning, match="1 of 2 data sets"):
        found = mle_batch(row.model, {row.location: x[:, :1], row.scale: own}, y)
    assert found.converged.tolist() == [False, True]


def test_lines_that_follow_all_rows_are_not_looked_for_one_by_one(monkeypatch):
    """Constant responses have no maximum: nothing is left to a solver of single data sets."""
    monkeypatch.setattr("neglog.batches.optima._alone", None)
    x = torch.randn((40, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros((5, 40), dtype=torch.float64)
    y[1:3] += 7.0
    with pytest.warns(ConvergenceWarning):
        fit = mle_batch(models.laplace, x, y)
    assert not fit.converged.any()


def test_errors_of_batches_name_the_column_and_the_data_set():
    """Many data sets are held to the checks of a single one; row 4 was named without its column."""
    x, y = torch.zeros((3, 10, 2), dtype=torch.float64), torch.ones((3, 10), dtype=torch.float64)
    exposure = torch.ones_like(y)
    x[1, 4, 1], exposure[2, 3] = torch.nan, -1.0
    with pytest.raises(DataError, match=r"row 4 of data set 1 of column 'x1'.*weight 0"):
        mle_batch(models.poisson, x, y)
    with pytest.raises(DataError, match=r"`exposure` must be not negative.*row 3 of data set 2 has -1"):
        mle_batch(models.poisson, x[0], y, exposure=exposure)
