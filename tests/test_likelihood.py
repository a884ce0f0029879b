"""The core claim: SVI loss = hand-written NLL = SciPy's, to the last constant; and what follows from it."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide.initialization import init_to_value
from sklearn.linear_model import Lasso, Ridge
from table import TABLE, eta, fitted, random_params, sample

from neglog import (
    flat,
    losses,
    map_estimate,
    mle,
    models,
    on_features,
    predict,
    predictors,
    weighted,
    with_priors,
)
from neglog.data import prepare
from neglog.guides import Delta
from neglog.objective.coordinates import rescaled
from neglog.objective.objective import Objective

EXACT = 1e-10
"""Relative: sums of 60 terms of order one, each rounded at 1e-16."""
LAW = pytest.mark.parametrize("name", TABLE)


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def svi_loss(model, params, *data, **keywords):
    guide = Delta(model, init_loc_fn=init_to_value(values=params))
    with pyro.get_param_store().scope():
        return Trace_ELBO().loss(model, guide, *data, **keywords)


@LAW
@pytest.mark.parametrize("seed", range(3))
def test_svi_loss_is_the_nll_at_random_parameters(name, seed):
    model = TABLE[name]
    (x, y), params = model.sample(seed=seed), random_params(model, seed=seed)
    nll = model.hand_written(params, x, y).item()
    assert svi_loss(flat(model.model), params, x, y, **model.keywords()) == pytest.approx(nll, rel=EXACT)
    assert -model.scipy(params, x, y).sum() == pytest.approx(nll, rel=EXACT)
    objective = Objective(flat(model.model), prepare(x, y, **model.keywords()))
    assert objective.value(objective.layout.theta(params)) == pytest.approx(nll, rel=EXACT)


@LAW
def test_svi_loss_is_the_nll_at_the_optimum(name):
    model, (x, y) = TABLE[name], TABLE[name].sample()
    fit = fitted(name)
    assert fit.nll == pytest.approx(model.hand_written(fit.params, x, y).item(), rel=EXACT)
    assert fit.nll == pytest.approx(-model.scipy(fit.params, x, y).sum(), rel=EXACT)
    assert fit.loss == fit.nll
    with pyro.get_param_store().scope():
        assert Trace_ELBO().loss(fit.model, fit.guide, x, y, **model.keywords()) == pytest.approx(
            fit.loss, rel=EXACT
        )


@LAW
def test_map_loss_is_the_nll_minus_the_log_prior(name):
    model, (x, y) = TABLE[name], TABLE[name].sample()
    fit = fitted(name, map_estimate)
    given = pyro.condition(model.model, dict(fit.params))
    trace = pyro.poutine.trace(given).get_trace(x, y, **model.keywords())
    log_prior = trace.log_prob_sum(lambda site, _: site in fit.params).item()
    assert fit.nll == pytest.approx(model.hand_written(fit.params, x, y).item(), rel=EXACT)
    assert fit.loss == pytest.approx(fit.nll - log_prior, rel=EXACT)
    assert svi_loss(model.model, dict(fit.params), x, y, **model.keywords()) == pytest.approx(
        fit.loss, rel=EXACT
    )


@LAW
def test_weights_enter_the_loss_as_repeated_rows(name):
    model, (x, y) = TABLE[name], TABLE[name].sample()
    params, keywords = random_params(model), model.keywords()
    weights = torch.arange(len(y), dtype=torch.float64) % 3
    index = torch.repeat_interleave(torch.arange(len(y)), weights.long())
    repeated = {key: value[index] for key, value in keywords.items()}
    once = svi_loss(flat(weighted(model.model, weights)), params, x, y, **keywords)
    twice = svi_loss(flat(model.model), params, x[index], y[index], **repeated)
    assert once == pytest.approx(twice, rel=EXACT)


# Gradients: the loss and the likelihood point the same way.


def gradients(value, parameters):
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters)])


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()


def linear():
    torch.manual_seed(1)
    return torch.nn.Linear(3, 1).double()


@pytest.mark.parametrize("make", [linear, network])
@pytest.mark.parametrize("sigma", [0.1, 1.0, 7.0])
def test_gradient_of_the_mse_is_2_sigma_squared_that_of_the_likelihood(make, sigma):
    x, y = sample()
    module = make()
    parameters = list(module.parameters())
    mse = gradients(losses.mse(module(x)[:, 0], y), parameters)
    nll = gradients(losses.gaussian_nll(module(x)[:, 0], y, sigma), parameters)
    torch.testing.assert_close(mse, 2 * sigma**2 * nll, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("make", [linear, network])
@pytest.mark.parametrize("scale", [0.1, 1.0, 7.0])
def test_gradient_of_the_mae_is_b_times_that_of_the_likelihood(make, scale):
    x, y = sample()
    module = make()
    parameters = list(module.parameters())
    mae = gradients(losses.mae(module(x)[:, 0], y), parameters)
    nll = gradients(losses.laplace_nll(module(x)[:, 0], y, scale), parameters)
    torch.testing.assert_close(mae, scale * nll, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("model", "loss", "factor"),
    [(models.gaussian, losses.mse, lambda s: 2 * s**2), (models.laplace, losses.mae, lambda s: s)],
    ids=["mse", "mae"],
)
@pytest.mark.parametrize("deep", [False, True], ids=["linear", "network"])
def test_gradient_of_the_svi_loss_is_that_of_the_classical_loss(model, loss, factor, deep):
    x, y = sample()
    scale, name = ("sigma", "mean") if model is models.gaussian else ("scale", "location")
    module = network()
    full = on_features(model, module) if deep else model
    objective = Objective(flat(pyro.condition(full, {scale: number(0.7)})), prepare(x, y))
    theta = objective.initial + 0.1
    leaf = theta.clone().requires_grad_()
    params = objective.layout.params(leaf)
    features = x
    if deep:
        state = {key.removeprefix("trunk."): v for key, v in params.items() if key.startswith("trunk.")}
        features = torch.func.functional_call(module, state, (x,))
    prediction = eta(name, params, features)
    (classical,) = torch.autograd.grad(loss(prediction, y), leaf)
    mean_nll = objective.gradient(theta) / len(y)
    torch.testing.assert_close(classical, factor(0.7) * mean_nll, rtol=1e-11, atol=1e-12)


# Penalties: a Normal prior is ridge, a Laplace prior is lasso.


@pytest.mark.parametrize("prior_scale", [0.05, 0.5, 5.0])
def test_normal_prior_is_ridge(prior_scale):
    x, y = sample()
    sigma = 0.8
    prior = dist.Normal(number(0.0), number(prior_scale))
    model = pyro.condition(with_priors(models.gaussian, {"mean.weight": prior}), {"sigma": number(sigma)})
    fit = map_estimate(flat(model, "mean.bias"), x, y)
    ridge = Ridge(alpha=losses.ridge_alpha(sigma, prior_scale), tol=1e-14).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(fit.params["mean.weight"], ridge.coef_, rtol=1e-9)
    assert fit.params["mean.bias"].item() == pytest.approx(ridge.intercept_, rel=1e-9)


@pytest.mark.parametrize("prior_scale", [0.005, 0.02, 0.2])
def test_laplace_prior_is_lasso(prior_scale):
    x, y = sample(columns=6)
    sigma = 0.8
    prior = dist.Laplace(number(0.0), number(prior_scale))
    model = pyro.condition(with_priors(models.gaussian, {"mean.weight": prior}), {"sigma": number(sigma)})
    fit = map_estimate(flat(model, "mean.bias"), x, y)
    alpha = losses.lasso_alpha(sigma, prior_scale, len(y))
    lasso = Lasso(alpha=alpha, tol=1e-14, max_iter=100_000).fit(x.numpy(), y.numpy())
    assert fit.converged
    np.testing.assert_allclose(fit.params["mean.weight"], lasso.coef_, rtol=1e-7, atol=1e-12)
    assert fit.params["mean.bias"].item() == pytest.approx(lasso.intercept_, rel=1e-8)


# What is estimated.


def skewed(rows=20_001):
    generator = torch.Generator().manual_seed(3)
    x = (torch.rand(rows, generator=generator, dtype=torch.float64) > 0.5).double()[:, None]
    noise = torch.empty(rows, dtype=torch.float64).exponential_(generator=generator)
    return x, 2 + 3 * x[:, 0] + noise


def test_gaussian_estimates_the_mean_and_laplace_the_median_of_skewed_noise():
    # Exponential(1) noise has the mean 1 and the median log 2; 20 000 rows leave 0.02 of sampling error.
    x, y = skewed()
    low = torch.zeros(1, 1, dtype=torch.float64)
    assert predict(mle(models.gaussian, x, y), low).mean.item() == pytest.approx(3.0, abs=0.03)
    assert predict(mle(models.laplace, x, y), low).mean.item() == pytest.approx(2 + np.log(2), abs=0.03)


def test_within_groups_they_are_the_very_mean_and_median():
    x, y = skewed(1001)
    zero, one = y[x[:, 0] == 0], y[x[:, 0] == 1]
    design = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    mean = predict(mle(models.gaussian, x, y), design).mean
    torch.testing.assert_close(mean, torch.stack([zero.mean(), one.mean()]), rtol=1e-12, atol=0)
    median = predict(mle(models.laplace, x, y), design).mean
    # With an even number of rows every point between the middle two is a median.
    for group, value in ((zero, median[0]), (one, median[1])):
        assert (group < value - 1e-9).sum() <= len(group) / 2
        assert (group > value + 1e-9).sum() <= len(group) / 2


def test_sigma_squared_is_rss_over_n():
    # d/dsigma [n log sigma + RSS / (2 sigma²)] = 0 gives sigma² = RSS / n; R's lm reports RSS / (n - p).
    x, y = sample()
    fit = mle(models.gaussian, x, y)
    residuals = y - predict(fit, x).mean
    assert fit.params["sigma"].item() ** 2 == pytest.approx((residuals**2).mean().item(), rel=1e-12)


def test_laplace_scale_is_the_mean_absolute_residual():
    # d/db [n log(2b) + Σ|r| / b] = 0 gives b = mean |r|.
    x, y = sample()
    fit = mle(models.laplace, x, y)
    assert fit.params["scale"].item() == pytest.approx(
        (y - predict(fit, x).mean).abs().mean().item(), rel=1e-12
    )


def test_heteroscedastic_variance_by_group_is_each_groups_own():
    x, y = skewed(501)
    fit = mle(models.heteroscedastic, x, y)
    design = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    expected = torch.stack([y[x[:, 0] == g].var(correction=0) for g in (0, 1)])
    torch.testing.assert_close(predict(fit, design).variance, expected, rtol=1e-9, atol=0)


# Formulas of rows


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", ["gaussian", "laplace"])
def test_formulas_of_rows_say_what_the_model_says(name, fixed, weighted):
    x, y = TABLE[name].sample(40)
    scale = {"gaussian": "sigma", "laplace": "scale"}[name]
    model = TABLE[name].model
    model = flat(pyro.condition(model, {scale: number(0.7)}) if fixed else model)
    weights = torch.linspace(0, 3, 40, dtype=torch.float64) if weighted else None
    objective = Objective(model, prepare(x, y, weights=weights))
    coordinates = rescaled(objective, objective.initial)
    z = coordinates.z(objective.initial) + 0.3
    assert objective.backends.formula is not None
    found = [coordinates.value(z), *coordinates.derivatives(z)]
    response = objective.response(coordinates.theta(z))
    objective.__dict__["formula"] = None
    known = [coordinates.value(z), *coordinates.derivatives(z)]
    for ours, run in zip(found, known, strict=True):
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(run), rtol=1e-12, atol=1e-10)
    run = objective.response(coordinates.theta(z))
    torch.testing.assert_close(response.log_prob(objective.data.y), run.log_prob(objective.data.y))


def test_a_response_that_is_more_than_its_location_and_scale_has_no_formula():
    x, y = TABLE["gaussian"].sample(40)

    def halved(x, y=None):
        mean, sigma = predictors.linear("mean", x), predictors.positive("sigma", x)
        with predictors.rows(x):
            return pyro.sample("y", dist.Normal(mean, 0.5 * sigma), obs=y)

    def scaled(x, y=None):
        with pyro.poutine.scale(scale=torch.linspace(1, 2, len(x)).double()):
            return models.gaussian(x, y)

    for model in (halved, scaled, models.heteroscedastic, models.student_t):
        assert Objective(model, prepare(x, y)).backends.formula is None


@pytest.mark.parametrize("name", ["gaussian", "poisson", "laplace"])
def test_a_fit_runs_its_model_three_times(name):
    x, y = TABLE[name].sample(60)
    runs = []

    def counted(x, y=None):
        runs.append(1)
        return TABLE[name].model(x, y)

    mle(counted, x, y)
    runs.clear()
    mle(counted, x, y)
    assert len(runs) <= 3
