"""Lasso-type priors: exact optima by their subgradient condition, beside scikit-learn, and along the path."""

import copy
import itertools
import math
import pickle

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge, enet_path
from sklearn.linear_model import lasso_path as sklearns_path

from neglog import (
    distributions,
    flat,
    lasso_path,
    losses,
    map_estimate,
    mle,
    models,
    truncated,
    weighted,
    with_priors,
)
from neglog.data import prepare
from neglog.errors import ConvergenceWarning, DataError, ModelError, UnboundedLikelihoodError
from neglog.fitting.penalised import Penalised, aligned
from neglog.fitting.start import starting_point
from neglog.kinks import corner
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.objective import Objective
from neglog.predictors import linear, rows
from neglog.solvers import Continuation, Newton, ProximalNewton
from neglog.solvers.path import quadratic_path
from neglog.solvers.proximal import Penalty
from neglog.solvers.quadratic import Quadratic

SIGMA = 0.7
SOLVED = 1e-8
"""How far from an optimum the solver may stop, in standard errors."""
ROUNDING = 1e-13
"""How well a sum over some tens of rows is known, relative to the sum of the sizes of its terms."""


def number(value):
    return torch.as_tensor(value, dtype=torch.float64)


def laplace(scale, location=0.0):
    return dist.Laplace(number(location), number(scale))


def elastic_net(l1, l2, location=0.0):
    return distributions.ElasticNet(number(location), number(l1), number(l2))


FAMILIES = {
    "gaussian": (pyro.condition(models.gaussian, {"sigma": number(SIGMA)}), "mean"),
    "poisson": (models.poisson, "log_rate"),
    "bernoulli": (models.bernoulli, "logit"),
}


def penalised(family, prior):
    """A family with this prior of its weights and a flat one of its intercept."""
    model, predictor = FAMILIES[family]
    sites = [f"{predictor}.bias", *(["sigma"] if family == "gaussian" else [])]
    return flat(with_priors(model, {f"{predictor}.weight": prior}), *sites)


def coefficients(fit, family):
    predictor = FAMILIES[family][1]
    return fit.params[f"{predictor}.bias"].numpy(), fit.params[f"{predictor}.weight"].numpy()


def response(family, eta, generator):
    if family == "gaussian":
        return eta + SIGMA * generator.normal(size=len(eta))
    if family == "poisson":
        return generator.poisson(np.exp(eta)).astype(float)
    return (generator.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(float)


def residual_and_curvature(family, eta, y):
    """The derivatives of a row's NLL in its predictor, by hand."""
    if family == "gaussian":
        return (eta - y) / SIGMA**2, np.full(len(y), SIGMA**-2)
    mean = np.exp(eta) if family == "poisson" else 1 / (1 + np.exp(-eta))
    return mean - y, mean if family == "poisson" else mean * (1 - mean)


def sizes_of_terms(family, eta, y):
    scale = SIGMA**2 if family == "gaussian" else 1.0
    return (
        np.abs(eta) + np.abs(y) + (0 if family == "gaussian" else 1) + np.exp(eta * (family == "poisson"))
    ) / scale


def check_subgradient(fit, family, x, y, l1, l2=0.0, location=0.0):
    """The subgradient condition of the whole loss at the fit, by hand."""
    bias, weight = coefficients(fit, family)
    eta = x @ weight + bias
    residual, curvature = residual_and_curvature(family, eta, y)
    slack = SOLVED * np.sqrt(curvature @ x**2) + ROUNDING * (sizes_of_terms(family, eta, y) @ np.abs(x) + l1)
    away = weight - location
    slope = residual @ x + l2 * away
    held = away == 0
    assert (np.abs(slope[held]) <= (l1 + slack)[held]).all()
    np.testing.assert_array_less(np.abs(slope + l1 * np.sign(away))[~held], slack[~held] + 1e-300)
    assert (
        abs(residual.sum())
        <= SOLVED * math.sqrt(curvature.sum()) + ROUNDING * sizes_of_terms(family, eta, y).sum()
    )
    return held


def problem(family, n, p, seed, *, correlation=0.5, decades=0.0, duplicates=False):
    """Correlated columns of sizes over some decades, and a response to some of them."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=(n, 1))
    x = math.sqrt(1 - correlation) * generator.normal(size=(n, p)) + math.sqrt(correlation) * common
    if duplicates:
        x[:, p // 2 :] = x[:, : p - p // 2]
    weight = np.where(np.arange(p) < 3, 0.4, 0.0)
    y = response(family, 0.3 + x @ weight, generator)
    return x * 10.0 ** (decades * (np.arange(p) / max(1, p - 1) - 0.5)), y


def slopes_at_the_null(family, x, y):
    mean = y.mean()
    eta = {"gaussian": mean, "poisson": np.log(max(mean, 1e-300)), "bernoulli": 0.0}[family]
    if family == "bernoulli":
        eta = np.log(mean / (1 - mean))
    return residual_and_curvature(family, np.full(len(y), eta), y)[0] @ x


# The optimum


@settings(max_examples=30)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    n=st.integers(12, 50),
    p=st.integers(1, 60),
    seed=st.integers(0, 10_000),
    correlation=st.sampled_from([0.0, 0.5, 0.99]),
    decades=st.sampled_from([0.0, 8.0]),
    duplicates=st.booleans(),
    share=st.sampled_from([1.5, 0.5, 0.1, 0.01]),
    ridge=st.sampled_from([0.0, 0.0, 0.3]),
)
def test_the_subgradient_condition_holds(family, n, p, seed, correlation, decades, duplicates, share, ridge):
    x, y = problem(family, n, p, seed, correlation=correlation, decades=decades, duplicates=duplicates)
    y[:2] = 0.0, 1.0  # not all alike
    # Each column has a prior of its own, in the units of its weight.
    size = np.abs(x).max(0)
    l1 = share * np.abs(slopes_at_the_null(family, x, y) / size).max() * size
    l2 = ridge * np.square(x).sum(0)
    prior = elastic_net(l1, l2) if ridge else laplace(1 / l1)
    fit = map_estimate(penalised(family, prior), x, y)
    assert fit.converged, fit.status
    held = check_subgradient(fit, family, x, y, l1, l2)
    assert f"{held.sum()} of {p} coefficients exactly 0" in fit.status
    assert fit.k == len(held) - held.sum() + 1
    if share > 1:
        assert held.all()


@pytest.mark.parametrize("prior", ["laplace", "elastic_net"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_coefficients_at_the_corner_are_exactly_at_the_location(family, prior):
    x, y = problem(family, 80, 6, 3)
    location = np.array([0.1, -1 / 3, 0.0, 1e3, 7e-9, 0.3])
    scale = np.array([1e-3, 0.02, 0.1, 1e-6, 1e-4, 5.0])
    l2 = 0.7 if prior == "elastic_net" else 0.0
    given = elastic_net(1 / scale, l2, location) if l2 else laplace(scale, location)
    x[:, 3] /= 1e3  # so that a weight of a thousand is no more than the others
    fit = map_estimate(penalised(family, given), x, y)
    assert fit.converged, fit.status
    held = check_subgradient(fit, family, x, y, 1 / scale, l2, location)
    assert held[[0, 3]].all()
    assert not held.all()
    assert "exactly at their priors' location" in fit.status


def test_any_location_is_landed_on_exactly():
    generator = np.random.default_rng(0)
    location = generator.normal(size=40) * 10.0 ** generator.uniform(-3, 3, 40)
    x, y = problem("gaussian", 60, 40, 1)
    fit = map_estimate(penalised("gaussian", laplace(1e-9, location)), x, y)
    assert fit.converged
    assert (coefficients(fit, "gaussian")[1] == location).all()
    assert fit.k == 1


def test_columns_far_from_zero_lose_no_digits():
    x, y = problem("poisson", 80, 5, 6)
    near = map_estimate(penalised("poisson", laplace(0.05)), x, y)
    far = map_estimate(penalised("poisson", laplace(0.05)), x + 1e6, y)
    assert far.converged
    # The columns themselves are known to 1e6 times the rounding of 1.
    for found, expected in zip(
        coefficients(far, "poisson")[1], coefficients(near, "poisson")[1], strict=True
    ):
        assert found == pytest.approx(expected, rel=1e-7, abs=0)


def kinds_of_models():
    x, y = problem("gaussian", 120, 5, 11)
    counts = problem("poisson", 120, 5, 11)[1] * (1 + np.arange(120) % 3)
    both = np.stack([y, y[::-1]], 1)
    prior = laplace(0.05)
    noise = {"mean.weight": prior, "log_variance.weight": prior}

    def own(x, y=None):
        location = linear("location", x, bias=dist.Laplace(number(0.0), 0.1))
        with rows(x):
            return pyro.sample("y", distributions.StudentT(number(4.0), location, number(0.6)), obs=y)

    yield "sigma free", with_priors(models.gaussian, {"mean.weight": prior}), x, y
    yield "two predictors", with_priors(models.heteroscedastic, noise), {"mean": x, "log_variance": x}, y
    yield "dispersion", with_priors(models.negative_binomial, {"log_mean.weight": prior}), x, counts
    yield "outputs", with_priors(models.multivariate_gaussian, {"mean.weight": prior}), x[:60, :1], both[:60]
    yield "intercept", with_priors(own, {"location.weight": prior}), x, y
    yield "intercept alone", own, x, y
    yield (
        "one of two",
        with_priors(models.heteroscedastic, {"mean.weight": prior}),
        {"mean": x, "log_variance": x},
        y,
    )
    yield "no intercept", pyro.condition(penalised("gaussian", prior), {"mean.bias": number(0.0)}), x, y


@pytest.mark.parametrize(("model", "x", "y"), [pytest.param(*m, id=name) for name, *m in kinds_of_models()])
def test_it_meets_the_softened_path_that_lands(model, x, y):
    fit, other = map_estimate(model, x, y), map_estimate(model, x, y, solver=Continuation())
    assert fit.converged, fit.status
    assert other.converged, other.status
    assert "coefficients exactly 0" in fit.status
    assert fit.loss == pytest.approx(other.loss, rel=1e-12, abs=1e-10)
    for name, value in fit.params.items():
        torch.testing.assert_close(value, other.params[name], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(value == 0, other.params[name] == 0)
    assert fit.losses[-1] == pytest.approx(fit.loss, rel=1e-9)


def test_weights_are_frequencies():
    x, y = problem("poisson", 60, 8, 5)
    count = np.arange(60) % 3
    weighted = map_estimate(penalised("poisson", laplace(0.1)), x, y, weights=count.astype(float))
    repeated = map_estimate(penalised("poisson", laplace(0.1)), np.repeat(x, count, 0), np.repeat(y, count))
    torch.testing.assert_close(
        weighted.params["log_rate.weight"], repeated.params["log_rate.weight"], rtol=1e-9, atol=1e-12
    )
    assert weighted.k == repeated.k


def test_many_rows_begin_with_a_sample():
    x, y = problem("bernoulli", 60_000, 4, 2)
    fit = map_estimate(penalised("bernoulli", laplace(0.005)), x, y)
    assert fit.converged
    check_subgradient(fit, "bernoulli", x, y, 200.0)


# Beside other software


@pytest.mark.parametrize("alpha", [0.5, 0.05, 1e-3])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.05])
def test_scikit_learns_elastic_net(alpha, share):
    x, y = problem("gaussian", 90, 12, 1)
    l1, l2 = losses.elastic_net_rates(SIGMA, alpha, share, len(y))
    fit = map_estimate(penalised("gaussian", elastic_net(l1, l2)), x, y)
    theirs = (
        Lasso(alpha=alpha, tol=1e-15, max_iter=1_000_000).fit(x, y)
        if share == 1
        else ElasticNet(alpha=alpha, l1_ratio=share, tol=1e-15, max_iter=1_000_000).fit(x, y)
    )
    bias, weight = coefficients(fit, "gaussian")
    np.testing.assert_allclose(weight, theirs.coef_, rtol=1e-7, atol=1e-10)
    assert bias == pytest.approx(theirs.intercept_, rel=1e-8)


@pytest.mark.parametrize("scale", [0.05, 0.3])
def test_scikit_learns_logistic_regression(scale):
    x, y = problem("bernoulli", 150, 5, 4, correlation=0.3)
    fit = map_estimate(penalised("bernoulli", laplace(scale)), x, y)
    settings = {"C": scale, "l1_ratio": 1.0, "solver": "saga", "tol": 1e-13, "max_iter": 100_000}
    theirs = LogisticRegression(**settings, random_state=0).fit(x, y)
    bias, weight = coefficients(fit, "bernoulli")
    np.testing.assert_allclose(weight, theirs.coef_[0], rtol=1e-7, atol=1e-9)
    assert bias == pytest.approx(theirs.intercept_[0], rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_ridge_is_its_closed_form(scale):
    x, y = problem("gaussian", 70, 9, 8)
    fit = map_estimate(penalised("gaussian", dist.Normal(number(0.0), number(scale))), x, y)
    alpha = losses.ridge_alpha(SIGMA, scale)
    centred = x - x.mean(0)
    weight = np.linalg.solve(centred.T @ centred + alpha * np.eye(9), centred.T @ (y - y.mean()))
    np.testing.assert_allclose(coefficients(fit, "gaussian")[1], weight, rtol=1e-10)
    np.testing.assert_allclose(weight, Ridge(alpha=alpha, tol=1e-14).fit(x, y).coef_, rtol=1e-9)
    assert "Newton decrement" in fit.status


def test_the_corner_of_an_elastic_net_is_its_density_and_its_information():
    density = distributions.ElasticNet(number(0.4), number(1.3), number(0.6))
    at = corner(density)
    y = torch.linspace(-30, 30, 600_001, dtype=torch.float64) + 0.4
    u = (y - at.loc) / at.scale
    log_prob = at.constant - at.steepness * u.abs() - at.smooth(u)
    torch.testing.assert_close(log_prob, density.log_prob(y), rtol=1e-12, atol=1e-12)
    score = 1.3 * (y - 0.4).sign() + 0.6 * (y - 0.4)
    squared = torch.trapezoid(score**2 * log_prob.exp(), y)
    torch.testing.assert_close(at.information / at.scale**2, squared, rtol=1e-4, atol=0)


# The path


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize(("n", "p"), [(80, 10), (30, 50)])
def test_the_path_is_scikit_learns(share, n, p):
    x, y = problem("gaussian", n, p, 7)
    prior = elastic_net(share, 1 - share) if share < 1 else laplace(1.0)
    path = lasso_path(penalised("gaussian", prior), x, y, n_strengths=40, ratio=1e-2)
    centred, settings = x - x.mean(0), {"alphas": 40, "eps": 1e-2, "tol": 1e-15, "max_iter": 1_000_000}
    alphas, weights, *_ = (
        enet_path(centred, y - y.mean(), l1_ratio=share, **settings)
        if share < 1
        else sklearns_path(centred, y - y.mean(), **settings)
    )
    np.testing.assert_allclose(path.strengths * SIGMA**2 / n, alphas, rtol=1e-12)
    np.testing.assert_allclose(path.params["mean.weight"].T, weights, rtol=1e-7, atol=1e-9)
    assert path.converged.all()
    assert path.nonzeros[0] == 0
    assert (path.nonzeros == (path.params["mean.weight"] != 0).sum(1)).all()


PATHS = {
    "gaussian": penalised("gaussian", laplace(1.0)),
    "sigma free": flat(with_priors(models.gaussian, {"mean.weight": laplace(1.0)}), "mean.bias", "sigma"),
    "ridge on the intercept": with_priors(models.gaussian, {"mean.weight": elastic_net(1.0, 0.1)}),
    "poisson": penalised("poisson", laplace([1.0, 2.0, 0.5, 1.0, 1.0, 3.0], 0.1)),
    "bernoulli": penalised("bernoulli", laplace(1.0)),
}


@pytest.mark.parametrize("name", PATHS)
def test_every_point_of_the_path_is_a_map_estimate(name):
    family = name if name in FAMILIES else "gaussian"
    x, y = problem(family, 100, 6, 12)
    path = lasso_path(PATHS[name], x, y, n_strengths=12, ratio=1e-2)
    assert path.converged.all()
    assert path.nonzeros[0] == 0
    for i in (1, 11):  # at the first a coefficient is about to leave its corner, by rounding
        cold = map_estimate(path.model_at(i), x, y)
        fit = path.fit(i)
        assert fit.converged
        assert fit.n_iter <= 1
        for found in (cold, fit):
            assert path.nll[i].item() == pytest.approx(found.nll, rel=1e-11)
            assert path.k[i] == found.k
            assert path.aic[i].item() == pytest.approx(found.aic, rel=1e-11)
            assert path.bic[i].item() == pytest.approx(found.bic, rel=1e-11)
            for site, values in path.params.items():
                torch.testing.assert_close(values[i], found.params[site], rtol=1e-7, atol=1e-9)
    # Beyond the first strength nothing moves; just within it something does.
    beyond, within = (
        lasso_path(PATHS[name], x, y, strengths=[float(path.strengths[0]) * t]) for t in (1.001, 0.999)
    )
    assert (int(beyond.nonzeros), int(within.nonzeros)) == (0, 1)


def test_the_path_is_continuous():
    x, y = problem("poisson", 60, 10, 6)
    path = lasso_path(penalised("poisson", laplace(1.0)), x, y, n_strengths=60, ratio=1e-2)
    steps = path.params["log_rate.weight"].diff(dim=0).abs().amax(1)
    # In steps of 8 % nothing jumps: no step is much of the whole way.
    assert steps.max() < 0.15 * path.params["log_rate.weight"].abs().max()
    assert (path.nll.diff() <= 1e-9).all()


def test_a_free_sigma_changes_the_alpha_that_a_strength_amounts_to():
    x, y = problem("gaussian", 120, 6, 9)
    path = lasso_path(PATHS["sigma free"], x, y, n_strengths=8, ratio=0.05)
    for i in range(8):
        sigma, strength = float(path.params["sigma"][i]), float(path.strengths[i])
        alpha = losses.lasso_alpha(sigma, 1 / strength, len(y))
        theirs = Lasso(alpha=alpha, tol=1e-15, max_iter=1_000_000).fit(x, y)
        np.testing.assert_allclose(path.params["mean.weight"][i], theirs.coef_, rtol=1e-6, atol=1e-9)
    assert (path.params["sigma"].diff() < 0).all()


@pytest.mark.parametrize(("family", "most"), [("gaussian", 2), ("poisson", 10_000)])
def test_a_quadratic_is_read_from_the_rows_once(monkeypatch, family, most):
    calls = []
    for name in ("value_and_gradient", "derivatives"):
        own = getattr(Coordinates, name)
        monkeypatch.setattr(Coordinates, name, lambda self, z, own=own: calls.append(1) or own(self, z))
    x, y = problem(family, 60, 5, 0)
    path = lasso_path(penalised(family, laplace(1.0)), x, y, n_strengths=25)
    assert len(path.strengths) == 25
    assert len(calls) <= most
    assert (len(calls) > 25) == (family == "poisson")


def test_the_path_ends_where_the_likelihood_has_no_maximum():
    x, y = problem("gaussian", 12, 30, 2)
    with pytest.warns(ConvergenceWarning, match="strength .* no maximum"):
        path = lasso_path(PATHS["sigma free"], x, y, n_strengths=30)
    assert 0 < len(path.strengths) < 30
    assert path.converged.all()
    assert all(len(values) == len(path.strengths) for values in path.params.values())


def test_a_path_is_pickled_without_its_rows():
    x, y = problem("gaussian", 30, 2, 0)
    path = lasso_path(PATHS["gaussian"], x, y, n_strengths=2)
    again, copied = pickle.loads(pickle.dumps(path)), copy.deepcopy(path)
    assert not again.arguments
    for found in (again, copied):
        assert torch.equal(found.bic, path.bic)
        assert torch.equal(found.params["mean.weight"], path.params["mean.weight"])
    with pytest.raises(DataError, match="`fit` needs the rows"):
        again.fit(1)
    assert copied.fit(1).loss == path.fit(1).loss


# The quadratic in memory


def brute_force(hessian, gradient, l1, x):
    """The least value over all faces: which are zero, and the signs of the others."""
    best = math.inf

    def value(v):
        return gradient @ (v - x) + 0.5 * (v - x) @ hessian @ (v - x) + l1 @ np.abs(v)

    for signs in itertools.product((-1, 0, 1), repeat=len(x)):
        signs = np.array(signs)
        free = (signs != 0) | (l1 == 0)
        v = np.zeros(len(x))
        right = (hessian @ x - gradient - l1 * signs)[free]
        v[free] = np.linalg.lstsq(hessian[np.ix_(free, free)], right, rcond=1e-10)[0]
        best = min(best, value(v))
    return best, value


@settings(max_examples=100)
@given(
    seed=st.integers(0, 10_000),
    size=st.integers(1, 5),
    rank=st.integers(1, 5),
    free=st.integers(0, 1),
    share=st.sampled_from([0.01, 0.3, 2.0]),
)
def test_the_quadratic_is_minimised_exactly(seed, size, rank, free, share):
    generator = np.random.default_rng(seed)
    root = generator.normal(size=(rank, size)) * 10.0 ** generator.uniform(-3, 3, size)
    hessian, x = root.T @ root, generator.normal(size=size) * (generator.random(size) < 0.5)
    gradient = root.T @ generator.normal(size=rank)  # as of rows: the quadratic is bounded
    l1 = share * np.abs(gradient).max() * generator.uniform(0.5, 1.5, size)
    l1[: free if rank >= size else 0] = 0.0
    v = Quadratic(hessian, gradient, l1, x).minimise()
    best, value = brute_force(hessian, gradient, l1, x)
    assert value(v) <= best + 1e-10 * (1 + abs(best))


def test_a_face_without_a_border_is_left():
    # Along v[0] + v[1] there is no curvature and no corner: the quadratic falls for ever, which is no loop.
    hessian = np.array([[1.0, -1.0], [-1.0, 1.0]])
    v = Quadratic(hessian, np.array([1.0, 1.0]), np.zeros(2), np.zeros(2)).minimise()
    assert np.isfinite(v).all()
    assert v.sum() < 0


# The solver on functions of its own


class Function:
    """A smooth function of one vector with a penalty, differentiated by autograd."""

    rows = 1

    def __init__(self, function, l1, l2=0.0, bound=-math.inf):
        self.function, self.size, self.bound, self.smooth = function, len(l1), bound, self
        l1 = number(l1)
        self.penalty = Penalty(l1, torch.full_like(l1, l2), torch.zeros_like(l1))

    def value_and_gradient(self, z):
        leaf = z.clone().requires_grad_()
        value = self.function(leaf)
        return float(value.detach()), torch.autograd.grad(value, leaf)[0]

    def derivatives(self, z):
        return *self.value_and_gradient(z), torch.autograd.functional.hessian(self.function, z)

    def sample(self):
        return None

    def is_exact(self, value):
        return True

    def check(self, z):
        if float(self.function(z)) < self.bound:
            raise UnboundedLikelihoodError("it falls without end.")


def rosenbrock(z):
    return (100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2).sum()


def test_rosenbrocks_valley_with_corners():
    function = Function(rosenbrock, [0.0, 0.3])
    found = ProximalNewton().minimise(function, number([-1.2, 1.0]))
    assert found.converged
    slope = function.value_and_gradient(found.z)[1]
    torch.testing.assert_close(slope, number([0.0, -0.3]), rtol=0, atol=1e-6)
    assert all(later <= earlier for earlier, later in itertools.pairwise(found.losses))


def test_a_saddle_is_left_or_told():
    def saddle(z):
        return z[0] ** 2 - z[1] ** 2 + 0.25 * z[1] ** 4

    stuck = ProximalNewton().minimise(Function(saddle, [0.1, 0.0]), number([1.0, 0.0]))
    assert not stuck.converged
    assert "not positive definite" in stuck.status
    found = ProximalNewton().minimise(Function(saddle, [0.1, 0.0]), number([1.0, 0.1]))
    assert found.converged
    assert found.z[0] == 0
    assert found.z[1].item() == pytest.approx(math.sqrt(2))


def test_what_falls_for_ever_is_told_by_the_problem():
    function = Function(lambda z: -torch.exp(z).sum(), [0.5, 0.5], bound=-1e6)
    with pytest.raises(UnboundedLikelihoodError, match="without end"):
        ProximalNewton().minimise(function, number([1.0, 1.0]))


def test_a_trial_beyond_the_domain_is_a_step_too_far():
    found = ProximalNewton().minimise(Function(lambda z: (z - 3 * torch.log(z)).sum(), [1.0]), number([20.0]))
    assert found.converged
    assert found.z.item() == pytest.approx(1.5, rel=1e-7)


def test_steps_are_limited():
    found = ProximalNewton(max_steps=3).minimise(Function(rosenbrock, [0.0, 0.3]), number([-1.2, 1.0]))
    assert not found.converged
    assert found.steps == 3


def test_curvature_that_is_no_number_is_told():
    found = ProximalNewton().minimise(Function(lambda z: (z * math.nan).sum(), [1.0]), number([1.0]))
    assert not found.converged
    assert "not finite" in found.status


def test_alike_columns_leave_the_optimum_open_and_say_so():
    x, y = problem("gaussian", 40, 4, 3, duplicates=True)
    fit = map_estimate(penalised("gaussian", laplace(0.05)), x, y)
    assert fit.converged
    assert "need not be unique" in fit.status
    assert "unique" not in map_estimate(penalised("gaussian", elastic_net(20.0, 1.0)), x, y).status


# What is refused


def test_corners_of_the_response_go_elsewhere():
    x, y = problem("gaussian", 40, 3, 0)
    both = with_priors(models.laplace, {"location.weight": laplace(0.02)})
    assert "residuals exactly 0" in map_estimate(both, x, y).status
    for model in (both, flat(models.gaussian)):
        with pytest.raises(DataError, match=r"`ProximalNewton`.*Laplace or ElasticNet"):
            map_estimate(model, x, y, solver=ProximalNewton())
        with pytest.raises(ModelError, match="Laplace or ElasticNet prior"):
            lasso_path(model, x, y)


def test_a_prior_whose_scale_is_estimated_is_another_problem():
    def hierarchical(x, y=None):
        spread = pyro.sample("spread", dist.LogNormal(number(0.0), number(1.0)))
        weight = pyro.sample("w", dist.Laplace(torch.zeros(x.shape[1]).double(), spread).to_event(1))
        with rows(x):
            return pyro.sample("y", dist.Normal(x @ weight, 1.0), obs=y)

    x, y = problem("gaussian", 40, 3, 0)
    with pytest.raises(DataError, match="whose parameters are numbers"):
        map_estimate(hierarchical, x, y, solver=ProximalNewton())


@pytest.mark.parametrize(
    "strengths", [[], [1.0, 2.0], [1.0, 1.0], [1.0, 0.0], [math.nan], [[1.0]], [math.inf]]
)
def test_strengths_are_positive_and_descending(strengths):
    x, y = problem("gaussian", 20, 2, 0)
    with pytest.raises(DataError, match="`strengths`"):
        lasso_path(PATHS["gaussian"], x, y, strengths=strengths)


@pytest.mark.parametrize("grid", [{"n_strengths": 0}, {"ratio": 0.0}, {"ratio": 1.0}, {"ratio": math.nan}])
def test_a_grid_needs_points_and_a_length(grid):
    x, y = problem("gaussian", 20, 2, 0)
    with pytest.raises(DataError, match=r"`n_strengths`.*`ratio`"):
        lasso_path(PATHS["gaussian"], x, y, **grid)


def test_columns_that_tell_nothing_have_no_path():
    x = np.tile([[1.0], [-1.0]], (8, 1))
    y = np.repeat([1.0, -1.0], 8)
    with pytest.raises(DataError, match="no column carries information on `y`"):
        lasso_path(PATHS["gaussian"], x, y)


def test_intercepts_that_run_away_are_told_under_a_lasso_too():
    x, _ = problem("bernoulli", 30, 2, 0)
    with pytest.raises(UnboundedLikelihoodError, match="Intercept"):
        map_estimate(penalised("bernoulli", laplace(1.0)), x, np.ones(30))


@pytest.mark.parametrize(
    ("share", "message"), [(0.0, "not 0. At 0"), (1.5, "not 1.5"), (math.nan, "not nan")]
)
def test_shares_of_the_l1_penalty(share, message):
    with pytest.raises(DataError, match=f"`l1_ratio` must be .*{message}"):
        losses.elastic_net_rates(1.0, 1.0, share, 10)


def test_an_ordinary_fit_counts_all_parameters():
    x, y = problem("gaussian", 40, 3, 0)
    assert mle(models.gaussian, x, y, solver=Newton()).k == 5


@pytest.mark.parametrize("seed", range(6))
def test_the_path_from_kink_to_kink_is_that_of_the_search(seed):
    """At every strength, what the path says is what feature-sign search finds there from nothing."""
    generator = np.random.default_rng(seed)
    rows, columns = (40, 12) if seed < 4 else (9, 12)  # the last have directions without curvature
    x = generator.normal(size=(rows, columns))
    x[:, 1] = x[:, 0] + 0.05 * x[:, 1]
    hessian, gradient = x.T @ x, -x.T @ generator.normal(size=rows)
    l1 = generator.choice([0.0, 0.5, 1.0, 2.0], columns) if seed % 2 else np.ones(columns)
    strengths = np.abs(gradient).max() * np.geomspace(2, 1e-3, 80)
    found = quadratic_path(hessian, gradient, l1, strengths)
    for strength, v in zip(strengths, found, strict=True):
        alone = Quadratic(hessian, gradient, strength * l1, np.zeros(columns)).minimise()
        values = [gradient @ w + 0.5 * w @ hessian @ w + strength * l1 @ np.abs(w) for w in (v, alone)]
        assert values[0] == pytest.approx(values[1], rel=1e-11, abs=1e-11)
        if seed < 4:
            np.testing.assert_array_equal(v == 0, alone == 0)
            np.testing.assert_allclose(v, alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_parabola_is_the_loss_itself(weights, offset, monkeypatch):
    monkeypatch.setattr("neglog.objective.objective.BLOCK_ROWS", 40)
    x, y = problem("gaussian", 100, 6, 3)
    data = prepare(x, y + offset, weights=1.0 + np.arange(100) % 3 if weights else None)
    objective = Objective(penalised("gaussian", laplace(0.05)), data)
    whole = Penalised(aligned(rescaled(objective, starting_point(objective, None))))
    assert whole.curve is not None
    z = whole.curve.middle + torch.linspace(-1, 1, whole.size, dtype=torch.float64)
    monkeypatch.setattr("neglog.fitting.penalised.parabola", lambda _: None)
    by_rows = Penalised(whole.coordinates).smooth
    for found, expected in zip(whole.curve.derivatives(z), by_rows.derivatives(z), strict=True):
        size = float(torch.as_tensor(expected).abs().max())
        rounding = (1e-12 + 1e-15 * offset) * size  # of y, whose last digit is a share of the offset
        torch.testing.assert_close(
            torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-10, atol=rounding
        )


def test_only_a_normal_line_of_known_scale_is_a_parabola():
    x, y = problem("gaussian", 60, 3, 4)
    counts, classes = (problem(family, 60, 3, 4)[1] for family in ("poisson", "bernoulli"))

    def scaled_by_rows(x, y=None):
        mean = linear("mean", x)
        with rows(x):
            return pyro.sample("y", dist.Normal(mean, 1.0 + (x[:, 0] > 0)), obs=y)

    def scaled_by_weights(x, y=None):
        mean = linear("mean", x)
        with rows(x), pyro.poutine.scale(scale=2.0):
            return pyro.sample("y", dist.Normal(mean, number(0.7)), obs=y)

    def curve(model, y):
        objective = Objective(model, prepare(x, y))
        return Penalised(aligned(rescaled(objective, starting_point(objective, None)))).curve

    def under(model):
        return flat(with_priors(model, {"mean.weight": laplace(0.05)}), "mean.bias")

    assert curve(penalised("poisson", laplace(0.05)), counts) is None
    assert curve(penalised("bernoulli", laplace(0.05)), classes) is None
    assert curve(flat(with_priors(models.gaussian, {"mean.weight": laplace(1.0)}), "mean.bias"), y) is None
    assert curve(under(scaled_by_rows), y) is None
    twice = curve(under(scaled_by_weights), y)
    assert twice is not None
    fit = map_estimate(under(scaled_by_weights), x, y)
    both = map_estimate(penalised("gaussian", laplace(0.05)), np.repeat(x, 2, 0), np.repeat(y, 2))
    torch.testing.assert_close(fit.params["mean.weight"], both.params["mean.weight"], rtol=1e-9, atol=1e-12)
    priors = {"mean.weight": laplace(0.05), "mean.bias": dist.Normal(number(0.0), 1.0)}
    assert curve(with_priors(scaled_by_weights, priors), y) is None


# Offsets


def _counts_with_exposure():
    rng = np.random.default_rng(5)
    x, t = rng.normal(size=(200, 3)), rng.uniform(0.5, 4.0, 200)
    table = pd.DataFrame(x, columns=["a", "b", "c"]).assign(
        y=rng.poisson(t * np.exp(0.5 * x[:, 0])), t=t, log_t=np.log(t)
    )
    return x, table


def test_a_path_with_an_offset_meets_the_conditions_of_the_lasso():
    """X'(y - exp(offset + x w + b)) is the strength times the sign of w, or below it where w is 0."""
    x, table = _counts_with_exposure()
    y, log_t = table["y"].to_numpy(), table["log_t"].to_numpy()
    path = lasso_path("poisson", x, y, offset=log_t, n_strengths=8)
    for strength, weight, bias in zip(
        path.strengths.tolist(),
        path.params["log_rate.weight"].numpy(),
        path.params["log_rate.bias"].numpy(),
        strict=True,
    ):
        residual = y - np.exp(log_t + x @ weight + bias)
        slope = x.T @ residual / strength
        assert abs(residual.sum()) <= 1e-6 * y.sum()
        assert np.abs(slope[weight != 0] - np.sign(weight[weight != 0])).max(initial=0.0) <= 1e-6
        assert np.abs(slope).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("formula", "keywords"),
    [
        ("y ~ a + b + c", {"offset": "log_t"}),
        ("y ~ a + b + c + offset(log_t)", {}),
        ("y ~ a + b + c + offset(log(t))", {}),
        ("y ~ a + b + c", {"exposure": "t"}),
    ],
)
def test_an_offset_of_a_path_by_name_in_the_formula_or_as_an_exposure(formula, keywords):
    x, table = _counts_with_exposure()
    expected = lasso_path("poisson", x, table["y"], offset=table["log_t"], n_strengths=4)
    path = lasso_path("poisson", formula, table, n_strengths=4, **keywords)
    assert torch.allclose(path.nll, expected.nll, rtol=1e-10)
    assert path.fit(2).nll == pytest.approx(path.nll[2].item())


def test_an_offset_of_a_gaussian_path_is_taken_from_the_response():
    x, y = problem("gaussian", 60, 3, 0)
    shift = np.linspace(-3, 3, 60)
    path = lasso_path("gaussian", x, np.asarray(y) + shift, offset=shift, n_strengths=6)
    plain = lasso_path("gaussian", x, y, n_strengths=6)
    assert torch.allclose(path.params["mean.weight"], plain.params["mean.weight"], atol=1e-10)
    assert torch.allclose(path.nll, plain.nll)


def test_a_model_with_known_constants_weights_or_bounds_has_the_default_priors():
    x, y = problem("gaussian", 60, 3, 0)
    sigma = pyro.condition(models.gaussian, {"sigma": number(1.0)})
    prior = {"mean.weight": laplace(1.0)}
    own = flat(with_priors(sigma, prior), "mean.bias", "sigma")
    assert torch.equal(lasso_path(sigma, x, y, n_strengths=6).nll, lasso_path(own, x, y, n_strengths=6).nll)
    for wrapped in (weighted("gaussian", 1.0), truncated("gaussian", lower=-1e3)):
        assert torch.allclose(
            lasso_path(wrapped, x, y, n_strengths=3).nll, lasso_path("gaussian", x, y, n_strengths=3).nll
        )


def test_the_remedy_of_a_path_without_priors_names_the_coefficients_of_the_model():
    x, table = _counts_with_exposure()
    with pytest.raises(ModelError, match=r"log_rate\.weight"):
        lasso_path(flat("poisson"), x, table["y"])
