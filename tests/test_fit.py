"""Fits: laws that hold for every model, and the roads that meet."""

import dataclasses
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import Predictive, Trace_ELBO
from table import REAL, SMOOTH_STRUCTURES, STRUCTURES, TABLE, fast_svi, fitted, random_params, sample
from torch import nn

from neglog import log_likelihood, map_estimate, mle, models, on_features, predict, with_priors
from neglog.errors import ConvergenceWarning, DataError, ModelError
from neglog.predictors import linear, positive, rows
from neglog.solvers import LBFGS, SVI, Continuation, Newton

LAW = pytest.mark.parametrize("name", TABLE)
REALS = pytest.mark.parametrize("name", REAL)
SMOOTH = [name for name, model in TABLE.items() if model.smooth]
LITERAL = ["beta"]
"""What the literal path is run on, in hundreds of steps; in test_cases.py it meets references of others."""


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def same(first, second, rtol=1e-7, atol=1e-9):
    assert first.keys() == second.keys()
    for site, value in first.items():
        torch.testing.assert_close(
            value, second[site], rtol=rtol, atol=atol, msg=lambda m, s=site: f"{s}: {m}"
        )


@cache
def by_newton(name, estimate):
    x, y = TABLE[name].sample()
    return estimate(TABLE[name].model, x, y, solver=Newton(), **TABLE[name].keywords())


# The roads meet.


ROADS = [(name, LBFGS(), mle) for name in SMOOTH]
ROADS += [(name, LBFGS(), map_estimate) for name in SMOOTH_STRUCTURES]
ROADS += [(name, fast_svi(), mle) for name in LITERAL]
ROADS += [("heteroscedastic", fast_svi(), map_estimate)]


@pytest.mark.parametrize(
    ("name", "solver", "estimate"), ROADS, ids=[f"{n}-{type(s).__name__}-{e.__name__}" for n, s, e in ROADS]
)
def test_three_roads_one_optimum(name, solver, estimate):
    model, keywords = TABLE[name].model, TABLE[name].keywords()
    x, y = TABLE[name].sample()
    newton = by_newton(name, estimate)
    other = estimate(model, x, y, solver=solver, **keywords)
    assert newton.converged
    assert other.converged
    # SVI claims to be within a hundredth of a standard error, where the loss is ½ · 0.01² above its minimum.
    literal = isinstance(solver, SVI)
    assert other.loss == pytest.approx(newton.loss, **({"abs": 5e-5} if literal else {"rel": 1e-10}))
    same(other.params, newton.params, rtol=1e-4, atol=1e-4 if literal else 1e-5)


def test_svi_meets_the_exact_least_absolute_deviations():
    x, y = sample()
    exact = mle(models.laplace, x, y)
    with pytest.warns(ConvergenceWarning, match="not certified"):
        svi = mle(models.laplace, x, y, solver=fast_svi(160, last=1e-4))
    assert exact.loss - 1e-9 <= svi.loss < exact.loss + 1e-3
    same(svi.params, exact.params, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("solver", [Newton(max_steps=30), LBFGS(max_steps=30), SVI(steps=20)])
def test_no_solver_for_smooth_losses_claims_a_corner(solver):
    x, y = sample()
    with pytest.warns(ConvergenceWarning, match="`laplace` did not converge"):
        assert not mle(models.laplace, x, y, solver=solver).converged


@pytest.mark.parametrize("solver", [Newton(max_steps=2), LBFGS(max_steps=2), SVI(steps=2)])
def test_a_solver_that_stops_early_says_so(solver):
    x, y = sample()
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        fit = mle(models.heteroscedastic, x, y, solver=solver)
    assert not fit.converged
    assert fit.n_iter == 2
    assert "2 steps" in fit.status


# Least absolute deviations against a linear programme.


def lad_by_linear_programme(x, y, weights=None):
    """minimise Σ w (u + v) subject to X b + u - v = y, u, v >= 0."""
    design = np.column_stack([np.ones(len(y)), x])
    rows_, columns = design.shape
    weights = np.ones(rows_) if weights is None else weights
    eye = np.eye(rows_)
    cost = np.concatenate([np.zeros(columns), weights, weights])
    bounds = [(None, None)] * columns + [(0, None)] * (2 * rows_)
    solved = scipy.optimize.linprog(cost, A_eq=np.hstack([design, eye, -eye]), b_eq=y, bounds=bounds)
    return solved.fun


@given(
    rows_=st.integers(8, 60),
    columns=st.integers(0, 3),
    seed=st.integers(0, 10_000),
    ties=st.booleans(),
    weighted=st.booleans(),
)
@settings(max_examples=25)
def test_least_absolute_deviations_is_the_linear_programme(rows_, columns, seed, ties, weighted):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows_, columns))
    y = generator.standard_cauchy(rows_)
    if ties:  # whole numbers make many residuals vanish together
        x, y = np.round(2 * x), np.clip(np.round(3 * y), -50, 50)
    weights = generator.integers(1, 4, rows_).astype(float) if weighted else np.ones(rows_)
    if ties and np.linalg.matrix_rank(np.column_stack([np.ones(rows_), x])) <= columns:
        return  # rounding has made columns equal; that they are refused is tested elsewhere
    fit = mle(models.laplace, x, y, weights=weights)
    residuals = np.abs(y - predict(fit, x).mean.numpy())
    optimum = lad_by_linear_programme(x, y, weights)
    assert fit.converged, fit.status
    assert (weights * residuals).sum() == pytest.approx(optimum, rel=1e-9)


def test_least_absolute_deviations_with_a_scale_of_its_own_beats_every_neighbour():
    x, y = sample(200, 2)
    fit = mle(models.laplace, {"location": x, "scale": x[:, :1]}, y)
    assert fit.converged
    objective, theta = fit.objective, fit.objective.layout.theta(fit.params)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-1, 1e-3, 1e-5):
        for _ in range(50):
            step = size * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
            assert objective.value(theta + step) >= fit.loss - 1e-10


def test_ridge_on_absolute_deviations_is_certified():
    x, y = sample(80, 3)
    fit = map_estimate(models.laplace, x, y)
    assert fit.converged
    objective, theta = fit.objective, fit.objective.layout.theta(fit.params)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        step = 1e-3 * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
        assert objective.value(theta + step) >= fit.loss


# Units.


UNITS = [(name, None) for name in REAL] + [("heteroscedastic", fast_svi())]


@pytest.mark.parametrize(
    ("name", "estimates"), UNITS, ids=[f"{n}-{'SVI' if s else 'exact'}" for n, s in UNITS]
)
def test_units_do_not_matter(name, estimates):
    entry, (x, y) = TABLE[name], sample(80)
    factor, size = torch.tensor([1e8, 1.0, 1e-8], dtype=torch.float64), 1e6
    plain = mle(entry.model, x, y, solver=estimates)
    scaled = mle(entry.model, x * factor, y * size, solver=estimates)
    rtol = 1e-9 if estimates is None else 1e-5
    assert scaled.converged
    assert scaled.nll == pytest.approx(plain.nll + len(y) * np.log(size), rel=1e-10)
    location = f"{entry.location}.weight"
    torch.testing.assert_close(
        scaled.params[location] * factor, plain.params[location] * size, rtol=rtol, atol=0
    )
    if entry.scale in plain.params:
        assert scaled.params[entry.scale].item() == pytest.approx(
            plain.params[entry.scale].item() * size, rel=rtol
        )


@LAW
def test_a_shift_of_a_column_moves_the_intercept_alone(name):
    entry, (x, y), keywords = TABLE[name], TABLE[name].sample(80), TABLE[name].keywords(80)
    plain, moved = mle(entry.model, x, y, **keywords), mle(entry.model, x + 1e4, y, **keywords)
    torch.testing.assert_close(
        moved.params[f"{entry.location}.weight"],
        plain.params[f"{entry.location}.weight"],
        rtol=1e-8,
        atol=1e-10,
    )
    # Shifted columns are rounded at 1e4 · 2e-16, and scores are of order one for each number in y.
    assert moved.nll == pytest.approx(plain.nll, abs=2e-12 * y.numel())


# Weights.


@pytest.mark.parametrize(
    ("estimate", "name"),
    [(mle, name) for name in TABLE] + [(map_estimate, name) for name in ("gaussian", "laplace", "poisson")],
)
def test_weight_two_is_the_row_twice(name, estimate):
    entry, (x, y), keywords = TABLE[name], TABLE[name].sample(), TABLE[name].keywords()
    weights = torch.arange(len(y)) % 3
    index = torch.repeat_interleave(torch.arange(len(y)), weights)
    again = {key: value[index] for key, value in keywords.items()}
    weighted = estimate(entry.model, x, y, weights=weights, **keywords)
    repeated = estimate(entry.model, x[index], y[index], **again)
    same(weighted.params, repeated.params)
    for number_ in ("nll", "loss", "aic", "bic", "n", "k"):
        assert getattr(weighted, number_) == pytest.approx(getattr(repeated, number_), rel=1e-10), number_


# Forms of a model.


# Rows that are drawn with an intercept far from 0 may have no fit without one.
@pytest.mark.parametrize("name", [name for name, e in TABLE.items() if e.intercept and not e.drawn])
def test_no_intercept_is_a_bias_conditioned_at_zero(name):
    entry, (x, y), keywords = TABLE[name], TABLE[name].sample(), TABLE[name].keywords()
    bias = f"{entry.location}.bias"
    through = pyro.condition(entry.model, {bias: torch.zeros_like(random_params(entry)[bias])})
    fit, free = mle(through, x, y, **keywords), fitted(name)
    assert bias not in fit.params
    assert fit.k == free.k - free.params[bias].numel()
    assert fit.loss == fit.nll >= free.nll
    if entry.real and name != "quantile":
        assert predict(fit, torch.zeros(1, 3).double()).mean.item() == 0.0


@pytest.mark.parametrize("name", [*STRUCTURES, "multivariate_heteroscedastic"])
def test_one_design_is_the_same_as_that_design_for_each_predictor(name):
    entry, (x, y), keywords = TABLE[name], TABLE[name].sample(), TABLE[name].keywords()
    whole = fitted(name)
    each = {entry.location: x} | dict.fromkeys(entry.others, x)
    same(mle(entry.model, each, y, **keywords).params, whole.params, rtol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "heteroscedastic"])
def test_a_design_without_columns_is_an_intercept(name):
    entry, (x, y) = TABLE[name], sample()
    fit = mle(entry.model, x[:, :0], y)
    assert fit.params[f"{entry.location}.weight"].shape == (0,)
    residual = y - predict(fit, x[:, :0]).mean
    # The mean balances the residuals, the median their signs.
    assert abs((residual if entry.smooth else residual.sign()).mean().item()) < 1e-9


def test_a_scale_with_a_design_is_the_heteroscedastic_model():
    x, y = sample()
    by_sigma = mle(models.gaussian, {"mean": x, "sigma": x}, y)
    by_variance = mle(models.heteroscedastic, x, y)
    assert by_sigma.nll == pytest.approx(by_variance.nll, rel=1e-12)
    torch.testing.assert_close(
        2 * by_sigma.params["log_sigma.weight"], by_variance.params["log_variance.weight"]
    )


def test_a_model_of_ones_own_with_linear_predictors():
    def student(x, y=None):
        location, scale = linear("location", x), positive("scale", x)
        with rows(x):
            return pyro.sample("y", dist.StudentT(4.0, location, scale), obs=y)

    x, y = sample()
    fit = mle(student, x, y)
    assert fit.converged

    def nll(theta):
        location = theta[0] + x.numpy() @ theta[1:4]
        return -scipy.stats.t.logpdf(y, 4.0, location, np.exp(theta[4])).sum()

    best = scipy.optimize.minimize(nll, np.zeros(5), method="BFGS", options={"gtol": 1e-8})
    assert fit.nll == pytest.approx(best.fun, abs=1e-8)


def test_a_model_of_ones_own_without_linear_predictors():
    # Michaelis-Menten on the Puromycin data (Treloar 1974, as in Bates & Watts 1988): R's nls gives
    # Vm = 212.7 and K = 0.06412 for the treated cells.
    def michaelis_menten(x, y=None):
        vm = pyro.sample("vm", dist.LogNormal(x.new_tensor(5.0), 2.0))
        k = pyro.sample("k", dist.LogNormal(x.new_tensor(-2.0), 2.0))
        sigma = pyro.sample("sigma", dist.LogNormal(x.new_tensor(2.0), 2.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(vm * x[:, 0] / (k + x[:, 0]), sigma), obs=y)

    x = np.repeat([0.02, 0.06, 0.11, 0.22, 0.56, 1.10], 2)[:, None]
    y = np.array([76, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200.0])
    fit = mle(michaelis_menten, x, y)
    assert fit.converged
    assert fit.params["vm"].item() == pytest.approx(212.7, abs=0.05)
    assert fit.params["k"].item() == pytest.approx(0.06412, abs=5e-6)


def network(hidden=5):
    torch.manual_seed(0)
    return on_features(models.gaussian, nn.Sequential(nn.Linear(3, hidden), nn.Tanh()))


def test_a_network_is_fitted_by_lbfgs():
    x, y = sample()
    fit = map_estimate(network(), x, y)
    assert fit.loss < map_estimate(models.gaussian, x, y).loss + 60
    gradient = fit.objective.gradient(fit.objective.layout.theta(fit.params))
    assert fit.converged
    assert gradient.abs().max() < 1e-4


def test_a_networks_units_do_not_matter_in_the_response():
    x, y = sample()
    optim = SVI(steps=30)
    losses_ = []
    for size in (1.0, 1e6):
        start = {
            "mean.bias": size,
            "sigma": 2 * size,
        }  # no optimum, where Adam would step by rounding's signs
        with pytest.warns(ConvergenceWarning, match="did not converge"):
            fit = mle(network(), x, y * size, solver=optim, start=start)
        losses_.append(fit.nll - len(y) * np.log(size))
    assert losses_[1] == pytest.approx(losses_[0], rel=1e-8)


# A start.


@REALS
def test_a_start_does_not_move_the_optimum(name):
    entry, (x, y) = TABLE[name], sample()
    start = {f"{entry.location}.weight": torch.tensor([5.0, -5.0, 5.0]), f"{entry.location}.bias": 30.0}
    same(mle(entry.model, x, y, start=start).params, mle(entry.model, x, y).params)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"slope": 1.0}, "'slope', which `gaussian` does not sample; its sites are 'mean.weight'"),
        ({"mean.weight": 1.0}, r"'mean.weight' the shape \(\); it needs \(3,\)"),
        ({"sigma": -1.0}, "'sigma' the value -1.0, outside"),
        ({"sigma": 0.0}, "on the border"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(start, message):
    with pytest.raises(ModelError, match=message):
        mle(models.gaussian, *sample(), start=start)


# Results are values.


def test_a_fit_is_frozen():
    fit = mle(models.gaussian, *sample())
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.nll = 0.0
    with pytest.raises(TypeError):
        fit.params["sigma"] = number(1.0)


def test_information_criteria():
    x, y = sample()
    fit = mle(models.gaussian, x, y)
    assert fit.k == 5
    assert fit.n == 60
    assert fit.aic == 2 * 5 + 2 * fit.nll
    assert fit.bic == pytest.approx(5 * np.log(60) + 2 * fit.nll)


@LAW
def test_the_guide_stands_at_the_optimum(name):
    (x, y), keywords = TABLE[name].sample(), TABLE[name].keywords()
    fit = fitted(name)
    with pyro.get_param_store().scope():
        same(fit.guide(x, y, **keywords), dict(fit.params), rtol=1e-14)
        draws = Predictive(fit.model, guide=fit.guide, num_samples=3)(x, **keywords)
    assert draws["y"].shape[0] == 3


def test_guides_of_two_fits_do_not_read_each_others_values():
    x, y = sample()
    fits = [
        mle(model, x, y * size) for size in (1.0, 5.0) for model in (models.gaussian, models.heteroscedastic)
    ]
    with pyro.get_param_store().scope():
        for fit in fits:
            assert Trace_ELBO().loss(fit.model, fit.guide, x, fit.objective.data.y) == pytest.approx(fit.loss)


@LAW
def test_prediction_is_a_distribution_of_each_row(name):
    (x, y), keywords = TABLE[name].sample(), TABLE[name].keywords()
    fit = fitted(name)
    response = predict(fit, x, **keywords)
    assert response.batch_shape == (60,)
    assert isinstance(response, torch.distributions.Distribution)
    rows_ = log_likelihood(fit, x, y, **keywords)
    torch.testing.assert_close(rows_, response.log_prob(y))
    assert -rows_.sum().item() == pytest.approx(fit.nll, rel=1e-12)


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_same_call_gives_the_same_digits(name):
    (x, y), keywords = TABLE[name].sample(), TABLE[name].keywords()
    first, second = fitted(name), mle(TABLE[name].model, x, y, **keywords)
    same(first.params, second.params, rtol=0, atol=0)


def test_nothing_global_changes():
    x, y = sample()
    pyro.get_param_store().clear()
    pyro.param("mine", torch.tensor(1.0))
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for name, solver in (("gaussian", None), ("laplace", None), ("gaussian", SVI(steps=30, batch_size=30))):
        with pytest.warns(ConvergenceWarning) if solver else torch.no_grad():
            fit = mle(TABLE[name].model, x, y, solver=solver)
    assert fit.guide is not None
    predict(fit, x)
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.get_default_dtype() == torch.float32
    pyro.get_param_store().clear()


def test_fits_under_no_grad():
    x, y = sample()
    with torch.no_grad():
        same(mle(models.gaussian, x, y).params, mle(models.gaussian, x, y).params)


# Solvers by name.


def test_what_is_no_solver_is_refused():
    with pytest.raises(DataError, match="`solver`"):
        mle(models.gaussian, *sample(), solver="newton")


def test_continuation_needs_corners():
    with pytest.raises(DataError, match=r"`Continuation`.*Laplace"):
        mle(models.gaussian, *sample(), solver=Continuation())


def test_priors_can_be_swapped_for_a_map_estimate():
    x, y = sample()
    tight = with_priors(models.gaussian, {"mean.weight": dist.Normal(number(0.0), number(1e-4))})
    assert map_estimate(tight, x, y).params["mean.weight"].abs().max() < 1e-3


# What else belongs to the rows.


def test_rows_keep_what_belongs_to_them():
    x, y = TABLE["poisson"].sample()
    exposure = TABLE["poisson"].keywords()["exposure"]
    fit = mle(models.poisson, x, y, exposure=exposure)
    assert fit.keywords == ("exposure",)
    torch.testing.assert_close(
        predict(fit, x, exposure=2 * exposure).mean, 2 * predict(fit, x, exposure=exposure).mean
    )
    with pytest.raises(DataError, match=r"fitted with `exposure`"):
        predict(fit, x)
    with pytest.raises(DataError, match="`exposure` has 59 rows"):
        mle(models.poisson, x, y, exposure=exposure[:-1])


def test_a_rate_is_that_of_the_counts_over_the_exposure():
    # With an intercept alone the maximum of Σ y log(e m) - e m is m = Σ y / Σ e.
    y, exposure = torch.tensor([3.0, 0.0, 5.0]), torch.tensor([1.0, 2.0, 4.0])
    fit = mle(models.poisson, torch.empty(3, 0), y, exposure=exposure)
    assert fit.params["log_rate.bias"].exp().item() == pytest.approx(8 / 7, rel=1e-12)


def test_two_quantiles_of_a_sample_are_order_statistics():
    from functools import partial

    y = torch.arange(101, dtype=torch.float64) ** 2
    for tau, rank in ((0.25, 25), (0.9, 90)):
        fit = mle(partial(models.quantile, tau=tau), torch.empty(101, 0).double(), y)
        assert fit.params["quantile.bias"].item() == pytest.approx(rank**2, rel=1e-12)


def test_constants_of_a_model_are_bound_and_not_given_by_row():
    with pytest.raises(DataError, match=r"`delta` .* one value for each row"):
        mle(models.huber, *sample(), delta=2.0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x, y=None: models.huber(x, y, delta=0.0), r"`delta` .* positive"),
        (lambda x, y=None: models.student_t(x, y, df=-1.0), r"`df` .* positive"),
        (lambda x, y=None: models.quantile(x, y, tau=1.0), "`tau` must be between 0 and 1"),
        (models.binomial, "`binomial` needs the number of trials"),
    ],
)
def test_constants_beyond_their_range_are_refused(model, message):
    with pytest.raises(ModelError, match=message):
        mle(model, *sample())
