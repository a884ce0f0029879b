"""Normal lines in closed form: recognised where they are, and nowhere else."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import map_estimate, mle, models, with_priors
from neglog.data import prepare
from neglog.fitting.least_squares import line_of
from neglog.handlers import flat
from neglog.objective.objective import Objective
from neglog.predictors import linear, positive, rows

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 3)) * [1.0, 100.0, 1e-3] + [0.0, 5.0, 1.0]
Y = 7.0 + X @ [1.0, 0.02, 300.0] + RNG.normal(size=60)
WEIGHTS = RNG.integers(0, 4, size=60).astype(float)


def variant(change, x, y=None):
    """A Normal line but for one thing: what stands for the mean and for the scale."""
    mean, sigma = linear("mean", x), positive("sigma", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(*change(mean, sigma)), obs=y)


def named(model):
    found = line_of(Objective(flat(model), prepare(X, Y)))
    return None if found is None else (found.mean, found.scale)


def test_a_normal_line_is_recognised():
    assert named(models.gaussian) == ("mean", "sigma")
    assert named(partial(variant, lambda mean, sigma: (mean, sigma))) == ("mean", "sigma")
    known = pyro.condition(models.gaussian, {"sigma": torch.tensor(2.0, dtype=torch.float64)})
    assert named(known) == ("mean", None)


@pytest.mark.parametrize(
    "change",
    [
        lambda mean, sigma: (mean**2, sigma),
        lambda mean, sigma: (2 * mean, sigma),
        lambda mean, sigma: (mean.flip(0), sigma),
        lambda mean, sigma: (mean, 2 * sigma),
        lambda mean, sigma: (mean, sigma * torch.ones(60, dtype=torch.float64)),
        lambda mean, sigma: (mean, sigma + mean.abs()),
    ],
    ids=["square", "twice", "backwards", "twice the scale", "a scale each", "a scale with the mean"],
)
def test_what_only_looks_like_one_is_not(change):
    assert named(partial(variant, change)) is None


def test_a_scale_of_another_form_is_fitted_by_steps():
    fit = mle(partial(variant, lambda mean, sigma: (mean, 2 * sigma)), X, Y)
    assert fit.n_iter > 0
    torch.testing.assert_close(2 * fit.params["sigma"], mle(models.gaussian, X, Y).params["sigma"])


def test_other_families_and_heads_are_not():
    assert named(models.lognormal) is None
    assert named(models.heteroscedastic) is None
    assert named(models.student_t) is None


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["once", "weighted"])
@pytest.mark.parametrize("intercept", [True, False], ids=["intercept", "none"])
def test_it_is_least_squares_without_a_step(weights, intercept):
    zero = {"mean.bias": torch.tensor(0.0, dtype=torch.float64)}
    fit = mle(models.gaussian if intercept else pyro.condition(models.gaussian, zero), X, Y, weights=weights)
    assert (fit.n_iter, fit.converged) == (0, True)
    each = np.ones(60) if weights is None else weights
    columns = np.column_stack([np.ones(60), X]) if intercept else X
    best = np.linalg.lstsq(columns * np.sqrt(each)[:, None], Y * np.sqrt(each), rcond=None)[0]
    found = fit.params["mean.weight"].numpy()
    found = np.r_[fit.params["mean.bias"].item(), found] if intercept else found
    np.testing.assert_allclose(found, best, rtol=1e-11)
    square = each @ (Y - columns @ best) ** 2 / each.sum()
    np.testing.assert_allclose(fit.params["sigma"].item() ** 2, square, rtol=1e-12)


def test_a_known_scale_stays():
    known = pyro.condition(models.gaussian, {"sigma": torch.tensor(2.0, dtype=torch.float64)})
    fit = mle(known, X, Y)
    assert fit.n_iter == 0
    best = mle(models.gaussian, X, Y)
    torch.testing.assert_close(fit.params["mean.weight"], best.params["mean.weight"], rtol=1e-11, atol=0)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["once", "weighted"])
@pytest.mark.parametrize("of_bias", [False, True], ids=["weights", "all"])
def test_a_ridge_of_known_scale_takes_no_step(weights, of_bias):
    loc, spread = torch.tensor([0.5, 0.0, 200.0]).double(), torch.tensor([0.3, 2.0, 50.0]).double()
    priors = {"mean.weight": dist.Normal(loc, spread), "mean.bias": dist.Normal(loc[0], 3.0)}
    known = pyro.condition(with_priors(models.gaussian, priors), {"sigma": torch.tensor(2.0).double()})
    model = known if of_bias else flat(known, "mean.bias")
    fit = map_estimate(model, X, Y, weights=weights)
    assert (fit.n_iter, fit.converged) == (0, True)
    each, columns = np.ones(60) if weights is None else weights, np.column_stack([np.ones(60), X])
    precision = np.r_[float(of_bias) / 9.0, spread.numpy() ** -2.0]
    curvature = columns.T @ (each[:, None] * columns) / 4.0 + np.diag(precision)
    best = np.linalg.solve(curvature, columns.T @ (each * Y) / 4.0 + precision * np.r_[loc[0], loc])
    np.testing.assert_allclose(
        np.r_[fit.params["mean.bias"], fit.params["mean.weight"]], best, rtol=1e-10, atol=0
    )


def test_a_ridge_whose_strength_is_a_parameter_takes_steps():
    known = pyro.condition(models.gaussian, {"sigma": torch.tensor(2.0).double()})

    def model(x, y=None):
        width = pyro.sample("width", dist.Gamma(torch.tensor(20.0).double(), 0.1))
        return with_priors(known, {"mean.weight": dist.Normal(torch.tensor(0.0).double(), width)})(x, y)

    assert map_estimate(model, X, Y).n_iter > 0


def test_priors_that_count_are_not_passed_over():
    fit = map_estimate(models.gaussian, X, Y)
    assert fit.n_iter > 0
    assert (
        fit.loss
        < map_estimate(models.gaussian, X, Y, start=dict(mle(models.gaussian, X, Y).params)).loss + 1e-9
    )
