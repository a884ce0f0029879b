"""A response that was not, or not fully, observed: missing, censored, truncated."""

import dataclasses
import math
import warnings
from functools import partial

import mpmath as mp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.optimize
import scipy.stats
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from quadrature import panels
from table import STRUCTURES, TABLE, fast_svi, fitted, number, random_params, sample

from neglog import (
    censored,
    covariance,
    datasets,
    flat,
    handlers,
    log_likelihood,
    map_estimate,
    masked,
    mle,
    models,
    on_features,
    predict,
    summary,
    truncated,
    weighted,
    with_priors,
)
from neglog import distributions as own
from neglog.distributions import Censored, MarginalNormal, Truncated
from neglog.distributions.tails import log_tails
from neglog.errors import ConvergenceWarning, DataError, ModelError, UnboundedLikelihoodError
from neglog.export import load, save
from neglog.fitting import pipeline as fitting
from neglog.objective.corners import Cornered
from neglog.predictors import linear, positive, rows
from neglog.solvers import SVI
from neglog.validation import cross_validate

pytestmark = pytest.mark.usefixtures("seeded")

INF = math.inf
NAN = math.nan
ROUNDING = 1e-12
"""Two ways to compute one sum differ by its rounding."""
QUADRATURE = 1e-9
"""Moments are integrals over a few hundred nodes."""


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def none(count):
    return torch.empty((count, 0), dtype=torch.float64)


def close(ours, theirs, rtol=ROUNDING, atol=ROUNDING):
    torch.testing.assert_close(
        torch.as_tensor(ours, dtype=torch.float64),
        torch.as_tensor(theirs, dtype=torch.float64),
        rtol=rtol,
        atol=atol,
    )


def response(entry):
    """The distribution of y that a model of the table draws at some parameters, and draws of it."""
    x, y = entry.sample()
    given = partial(pyro.condition(entry.model, random_params(entry)), **entry.keywords())
    return poutine.trace(given).get_trace(x).nodes["y"]["fn"], y


def has_tails(entry):
    fn, y = response(entry)
    if fn.event_shape:
        return False
    try:
        log_tails(own.observed.tailed(fn), y)
    except ModelError:
        return False
    return True


WITH_TAILS = [name for name, entry in TABLE.items() if has_tails(entry)]
LAW = pytest.mark.parametrize("name", WITH_TAILS)

FAMILIES = {
    "Normal": own.Normal(number(0.3), number(1.2)),
    "Laplace": own.Laplace(number(0.3), number(1.2)),
    "AsymmetricLaplace": own.AsymmetricLaplace(number(0.3), number(1.2), number(0.3)),
    "Logistic": own.Logistic(number(0.3), number(1.2)),
    "StudentT": own.StudentT(number(5.0), number(0.3), number(1.2)),
    "Huber": own.Huber(number(0.3), number(1.2), number(1.345)),
    "LogNormal": own.LogNormal(number(0.3), number(0.6)),
    "Gamma": own.Gamma(number(2.5), number(1.5)),
    "Weibull": own.Weibull(number(1.5), number(1.7)),
    "InverseGaussian": own.InverseGaussian(number(1.5), number(3.0)),
    "Beta": own.Beta(number(2.5), number(1.5)),
    "Poisson": own.Poisson(number(3.5)),
    "NegativeBinomial2": own.NegativeBinomial2(number(3.5), number(0.6)),
    "Binomial": own.Binomial(number(9.0), logits=number(0.3)),
    "Bernoulli": own.Bernoulli(logits=number(0.3)),
    "Pyro's Normal": dist.Normal(number(0.3), number(1.2)),
    "Pyro's Exponential": dist.Exponential(number(0.7)),
    "Pyro's Poisson": dist.Poisson(number(3.5)),
    "Pyro's Gumbel": dist.Gumbel(number(0.3), number(1.2)),
}
EVERY = pytest.mark.parametrize("name", FAMILIES)


def inside(fn):
    """Two bounds with about a third of the probability between them."""
    if fn.support is dist.constraints.boolean:
        return 1.0, 1.0
    draws = fn.sample((4001,)).sort().values
    low, high = float(draws[1300]), float(draws[2600])
    return (low, high + 1.0) if fn.support.is_discrete else (low, high)


# masked


def with_holes(y, places=(3, 17, 18)):
    y = y.clone()
    y[list(places)] = NAN
    return y


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_missing_row_is_an_absent_row(name):
    entry, (x, y) = TABLE[name], TABLE[name].sample()
    keep = [row for row in range(len(y)) if row not in (3, 17, 18)]
    ours = mle(masked(entry.model), x, with_holes(y), **entry.keywords())
    theirs = mle(
        entry.model, x[keep], y[keep], **{key: value[keep] for key, value in entry.keywords().items()}
    )
    for site, value in theirs.params.items():
        close(ours.params[site], value)
    close(ours.nll, theirs.nll)
    close(ours.aic, theirs.aic)
    assert ours.n == theirs.n == len(keep)


@pytest.mark.parametrize("name", TABLE)
def test_what_is_complete_is_left_alone(name):
    entry, (x, y) = TABLE[name], TABLE[name].sample()
    given = partial(pyro.condition(entry.model, random_params(entry)), **entry.keywords())
    for data in ((x, y), (x,)):
        pyro.set_rng_seed(1)
        ours = poutine.trace(masked(given)).get_trace(*data)
        pyro.set_rng_seed(1)
        theirs = poutine.trace(given).get_trace(*data)
        assert ours.log_prob_sum() == theirs.log_prob_sum()
        assert torch.equal(ours.nodes["y"]["value"], theirs.nodes["y"]["value"])


def test_missing_values_are_refused_by_default():
    x, y = sample()
    with pytest.raises(
        DataError, match=r"NaN or infinite in 3 of 60 places, first in row 3.*masked\(model\)"
    ):
        mle(models.gaussian, x, with_holes(y))
    fit = mle(models.gaussian, x, y)
    with pytest.raises(DataError, match=r"first in row 3.*masked\(model\)"):
        log_likelihood(fit, x, with_holes(y))


def test_something_must_be_known():
    x, y = sample()
    with pytest.raises(DataError, match="missing in every row"):
        mle(masked(models.gaussian), x, y * NAN)


def test_an_infinite_response_is_no_missing_one():
    x, y = sample()
    y[5] = INF
    with pytest.raises(DataError, match="first in row 5"):
        mle(masked(models.gaussian), x, y)


ORDERS = {
    "outside": lambda model, w: masked(weighted(with_priors(model, {"sigma": dist.HalfNormal(2.0)}), w)),
    "between": lambda model, w: weighted(masked(with_priors(model, {"sigma": dist.HalfNormal(2.0)})), w),
    "inside": lambda model, w: with_priors(weighted(masked(model), w), {"sigma": dist.HalfNormal(2.0)}),
}


@pytest.mark.parametrize("order", ORDERS)
def test_masked_nests_in_any_order(order):
    x, y = sample()
    weights = 1.0 + torch.arange(60) % 3
    keep = ~torch.isnan(with_holes(y))
    params = random_params(TABLE["gaussian"])

    def total(x, y, weights):
        model = flat(pyro.condition(ORDERS[order](models.gaussian, weights), params), "mean.weight")
        return poutine.trace(model).get_trace(x, y).log_prob_sum()

    close(total(x, with_holes(y), weights), total(x[keep], y[keep], weights[keep]))


def test_masked_networks_start_and_fit_as_without_the_rows():
    x, y = sample()
    torch.manual_seed(2)
    trunk = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh())
    keep = ~torch.isnan(with_holes(y))
    steps = SVI(steps=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = mle(on_features(models.gaussian, trunk), x[keep], y[keep], solver=steps)
        for net in (masked(on_features(models.gaussian, trunk)), on_features(masked(models.gaussian), trunk)):
            close(mle(net, x, with_holes(y), solver=steps).loss, theirs.loss)


def test_minibatches_pass_over_missing_rows():
    x, y = sample()
    exact = mle(masked(models.gaussian), x, with_holes(y))
    with pytest.warns(ConvergenceWarning):
        literal = mle(
            masked(models.gaussian), x, with_holes(y), solver=dataclasses.replace(fast_svi(80), batch_size=20)
        )
    close(literal.nll, exact.nll, rtol=1e-3)
    assert literal.n == 57


def test_weights_of_missing_rows_do_not_count():
    x, y = sample()
    weights = 1.0 + torch.arange(60, dtype=torch.float64) % 3
    keep = ~torch.isnan(with_holes(y))
    ours = mle(masked(models.gaussian), x, with_holes(y), weights=weights)
    theirs = mle(models.gaussian, x[keep], y[keep], weights=weights[keep])
    close(ours.nll, theirs.nll)
    assert ours.n == theirs.n == weights[keep].sum()


def test_raw_pyro_is_not_poisoned_by_nan():
    x, y = sample(20, 1)
    model, holes = masked(models.gamma), with_holes(y.exp())
    guide = AutoDelta(model)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    losses = [svi.step(x, holes) for _ in range(20)]
    assert losses[-1] < losses[0]
    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=4, warmup_steps=4, disable_progbar=True)
    mcmc.run(x, holes)
    draws = Predictive(model, mcmc.get_samples())(x)["y"]
    assert draws.shape == (4, 20)
    assert bool(torch.isfinite(draws).all())


def test_a_missing_row_has_no_log_likelihood():
    x, y = sample()
    fit = mle(masked(models.gaussian), x, with_holes(y))
    each = log_likelihood(fit, x, with_holes(y))
    assert each[[3, 17, 18]].tolist() == [0.0, 0.0, 0.0]
    close(each.sum(), -fit.nll)
    assert log_likelihood(fit, x[3:4], y[3:4] * NAN).tolist() == [0.0]
    assert predict(fit, x).mean.shape == (60,)


def test_cross_validation_scores_what_is_known():
    x, y = sample()
    keep = ~torch.isnan(with_holes(y))
    ours = cross_validate(masked(models.gaussian), x, with_holes(y), folds=3)
    assert ours.weights.sum() == 57
    assert ours.scores[~keep].tolist() == [0.0, 0.0, 0.0]
    theirs = cross_validate(models.gaussian, x[keep], y[keep], folds=3)
    close(ours.scores[keep], theirs.scores)
    close(ours.mean, theirs.mean)


# masked vectors


def covariances(count, size):
    root = torch.randn((count, size, size), dtype=torch.float64)
    return root @ root.mT + 0.1 * torch.eye(size, dtype=torch.float64)


def test_the_marginal_of_a_normal_vector_is_exact():
    patterns = torch.cartesian_prod(*[torch.tensor([True, False])] * 4)
    cov, loc = covariances(len(patterns), 4), torch.randn((len(patterns), 4), dtype=torch.float64)
    value = torch.randn((len(patterns), 4), dtype=torch.float64)
    normal = dist.MultivariateNormal(loc, cov)
    ours = MarginalNormal(normal, patterns).log_prob(value)
    for row, known in enumerate(patterns):
        if bool(known.any()):
            mean, part = loc[row][known].numpy(), cov[row][known][:, known].numpy()
            expected = scipy.stats.multivariate_normal(mean, part).logpdf(value[row][known].numpy())
            close(ours[row], expected, rtol=1e-11)
    assert ours[-1] == 0.0


def correlated(x, y=None):
    mean = linear("mean", x)
    with rows(x):
        both = torch.stack([mean, -mean], -1)
        cov = tensor([1.0, 0.6], [0.6, 2.0])
        return pyro.sample("y", dist.MultivariateNormal(both, cov), obs=y)


def test_masked_takes_the_marginal_of_what_is_known():
    x, _ = sample(5, 2)
    y = tensor([1.0, 2.0], [NAN, 1.0], [0.5, NAN], [NAN, NAN], [0.1, 0.2])
    params = {"mean.weight": tensor(0.5, -1.0).requires_grad_(), "mean.bias": number(0.2)}
    trace = poutine.trace(masked(pyro.condition(correlated, params))).get_trace(x, y)
    trace.compute_log_prob()
    mean = x @ params["mean.weight"] + 0.2
    found = trace.nodes["y"]["log_prob"]
    close(found[1], dist.Normal(-mean[1], math.sqrt(2)).log_prob(y[1, 1]))
    close(found[2], dist.Normal(mean[2], 1.0).log_prob(y[2, 0]))
    assert found[3] == 0.0
    (gradient,) = torch.autograd.grad(found.sum(), params["mean.weight"])
    assert bool(torch.isfinite(gradient).all())


def test_two_normals_of_which_the_second_has_holes_have_a_closed_form():
    # Anderson (1957): the first as if it were alone, the second by its regression on the first.
    first = torch.randn(40, dtype=torch.float64)
    second = 0.5 + 0.8 * first + 0.4 * torch.randn(40, dtype=torch.float64)
    seen = torch.arange(40) % 3 > 0
    y = torch.stack([first, torch.where(seen, second, NAN)], -1)
    fit = mle(masked(models.multivariate_gaussian), none(40), y)
    slope, start = np.polyfit(first[seen].numpy(), second[seen].numpy(), 1)
    assert fit.converged
    close(fit.params["mean.bias"], [first.mean(), start + slope * first.mean()], rtol=1e-8)
    rest = (second - start - slope * first)[seen].square().mean()
    variance = torch.stack([first.var(correction=0), rest + slope**2 * first.var(correction=0)])
    close(fit.params["scale"] ** 2, variance, rtol=1e-8)
    assert fit.n == 40


def test_a_row_of_which_nothing_is_known_is_absent():
    y = torch.randn((30, 2), dtype=torch.float64)
    y[4], y[7, 1] = NAN, NAN
    keep = [row for row in range(30) if row != 4]
    ours = mle(masked(models.multivariate_gaussian), none(30), y)
    theirs = mle(masked(models.multivariate_gaussian), none(29), y[keep])
    close(ours.nll, theirs.nll)
    assert ours.n == 29
    assert log_likelihood(ours, none(30), y)[4] == 0.0


def independent(x, y=None):
    rate = torch.exp(linear("log_rate", x))
    with rows(x):
        return pyro.sample("y", dist.Poisson(torch.stack([rate, 2 * rate], -1)).to_event(1), obs=y)


def test_independent_entries_are_masked_one_by_one():
    y = tensor([1.0, NAN], [NAN, 4.0], [2.0, 3.0], [NAN, NAN])
    fit = mle(masked(independent), none(4), y)
    # What is known are counts of 1, 2, 2, 1 units.
    close(fit.params["log_rate.bias"].exp(), (1 + 4 + 2 + 3) / (1 + 2 + 1 + 2), rtol=1e-8)
    assert fit.n == 3


def test_half_of_a_share_is_refused():
    def shares(x, y=None):
        size = positive("size", x)
        with rows(x):
            return pyro.sample("y", dist.Dirichlet(size * torch.ones((2, 3)).double()), obs=y)

    with pytest.raises(ModelError, match="under `Dirichlet`"):
        masked(pyro.condition(shares, {"size": number(1.0)}))(
            none(2), tensor([0.2, 0.3, 0.5], [NAN, 0.3, 0.5])
        )
    holes = tensor([0.2, 0.3, 0.5], [NAN, NAN, NAN])
    trace = poutine.trace(masked(pyro.condition(shares, {"size": number(1.0)}))).get_trace(none(2), holes)
    trace.compute_log_prob()
    close(trace.nodes["y"]["log_prob"], [math.log(2), 0.0])


# Laws of bounds


@LAW
def test_bounds_that_nothing_reaches_change_nothing(name):
    fn, y = response(TABLE[name])
    low, high = float(y.min()) - 1, float(y.max()) + 1
    assert torch.equal(Censored(fn, low, high).log_prob(y), fn.log_prob(y))
    assert torch.equal(Truncated(fn).log_prob(y), fn.log_prob(y))
    assert torch.equal(
        Truncated(fn, y.new_full(y.shape, -INF), y.new_full(y.shape, INF)).log_prob(y), fn.log_prob(y)
    )


@EVERY
def test_probabilities_sum_to_one(name):
    fn = FAMILIES[name]
    low, high = inside(fn)
    seen, cut = Censored(fn, low, high), Truncated(fn, low, high)
    if fn.support.is_discrete:
        values = torch.arange(math.ceil(low), math.floor(high) + 1, dtype=torch.float64)
        masses, whole = [own.log_prob(values).exp().sum() for own in (seen, cut)]
    else:
        y, weights = panels(low, high)
        masses = (seen.log_prob(y).exp() * weights).sum() + seen.log_prob(tensor(low, high)).exp().sum()
        whole = (cut.log_prob(y).exp() * weights).sum()
    close(masses, 1.0, atol=1e-10)
    close(whole, 1.0, atol=1e-10)


@EVERY
def test_a_censored_row_has_the_probability_of_its_side(name):
    fn = FAMILIES[name]
    low, high = inside(fn)
    at, tails = tensor(low, high), own.observed.tailed(fn)
    lower, upper = (tail.exp() for tail in log_tails(tails, at))
    mass = fn.log_prob(at[1]).exp() if fn.support.is_discrete else 0.0
    beyond = tensor(low - 3, high + 3)
    seen = Censored(fn, low, high)
    if low < high:
        close(seen.log_prob(at).exp(), torch.stack([lower[0], upper[1] + mass]))
        assert torch.equal(seen.log_prob(beyond), seen.log_prob(at))


def test_a_bound_need_not_be_a_value_that_can_be_drawn():
    rate = number(3.5).requires_grad_()
    between = Censored(own.Poisson(rate), 2.5, 7.5).log_prob(tensor(2.5, 7.5, 0.0))
    close(between.exp(), scipy.stats.poisson(3.5).cdf([2, 7, 2]) * [1, -1, 1] + [0, 1, 0])
    assert bool(torch.isfinite(torch.autograd.grad(between.sum(), rate)[0]))
    shape = number(2.5).requires_grad_()
    at_ends = Censored(own.Beta(shape, number(1.5)), 0.0, 1.0).log_prob(tensor(0.5, 0.0, 1.0))
    assert at_ends[1:].tolist() == [-INF, -INF]
    assert bool(torch.isfinite(torch.autograd.grad(at_ends[0], shape)[0]))


@EVERY
def test_tails_follow_from_each_other(name):
    fn = FAMILIES[name]
    low, high = inside(fn)
    for bounded in (Censored(fn, low, high), Truncated(fn, low, high)):
        values = tensor(low - 1, low, 0.5 * (low + high), high, high + 1)
        close(bounded.cdf(values) + bounded.sf(values), torch.ones(5))
        close(bounded.log_cdf(values).exp(), bounded.cdf(values))
        assert bounded.cdf(values)[[0, 3, 4]].tolist() == [0.0, 1.0, 1.0]


@EVERY
def test_quantiles_invert_the_cdf(name):
    fn = FAMILIES[name]
    low, high = inside(fn)
    q = torch.linspace(0.02, 0.98, 13, dtype=torch.float64)
    cut = Truncated(fn, low, high)
    found = cut.icdf(q)
    if fn.support.is_discrete:
        assert bool((cut.cdf(found) >= q - 1e-12).all())
        assert bool((cut.cdf(found - 1) < q).all())
    else:
        close(cut.cdf(found), q, atol=1e-11)
    assert cut.icdf(tensor(0.0, 1.0)).tolist() == [
        low,
        high if not fn.support.is_discrete else math.floor(high),
    ]


@EVERY
@pytest.mark.parametrize("bounded", [Censored, Truncated])
@pytest.mark.parametrize("sides", ["lower", "upper", "both"])
def test_moments_are_those_of_the_density(name, bounded, sides):
    fn = FAMILIES[name]
    low, high = inside(fn)
    low, high = (-INF if sides == "upper" else low), (INF if sides == "lower" else high)
    one = bounded(fn, low, high)
    start, end = (float(e) for e in one._ends())
    if fn.support.is_discrete:
        y = torch.arange(max(start, 0), min(end, 200) + 1, dtype=torch.float64)
        masses = one.log_prob(y).exp()
    else:
        y, weights = panels(max(start, -2000.0), min(end, 2000.0))
        masses = one.log_prob(y).exp() * weights
        if bounded is Censored:
            at = tensor(*[bound for bound in (low, high) if math.isfinite(bound)])
            y, masses = torch.cat([y, at]), torch.cat([masses, one.log_prob(at).exp()])
    mean = (masses * y).sum()
    variance = (masses * (y - mean) ** 2).sum()
    # The second derivative of Huber's density jumps; the heavy tail is cut.
    rough = {"StudentT": 1e-5, "Huber": 1e-5}.get(name, QUADRATURE)
    close(one.mean, mean, rtol=rough, atol=rough)
    close(one.variance, variance, rtol=rough, atol=rough)


@EVERY
@pytest.mark.parametrize("bounded", [Censored, Truncated])
def test_draws_have_the_moments_they_should(name, bounded):
    fn = FAMILIES[name]
    one = bounded(fn, *inside(fn)).expand([2])
    draws = one.sample((1000,))
    assert draws.shape == (1000, 2)
    error = (one.variance / 1000).sqrt()
    assert bool(((draws.mean(0) - one.mean).abs() <= 4.5 * error + ROUNDING).all())
    assert bool(one.support.check(draws).all())


@pytest.mark.parametrize(
    "name", [name for name in FAMILIES if name != "Pyro's Gumbel"]
)  # with a cdf of its own
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_a_thousand_scales_away_numbers_are_finite(name, side):
    fn = FAMILIES[name]
    family = own.observed.tailed(fn)
    parameters = [p.clone().requires_grad_() for p in family._given]
    family._given = tuple(parameters)
    bound = {"Beta": 0.5 + side * (0.5 - 1e-9), "Bernoulli": 0.5 + side * 0.5}.get(name)
    if bound is None:
        bound = side * 1e3 if side > 0 or fn.support is dist.constraints.real else 1e-100
    bound = 9.0 if name == "Binomial" and side > 0 else math.ceil(bound) if fn.support.is_discrete else bound
    one = Censored(family, -INF, bound) if side > 0 else Censored(family, bound, INF)
    edge = one.log_prob(number(bound))
    more = Truncated(family, bound, INF) if side > 0 else Truncated(family, -INF, bound)
    mass = more.log_mass
    for value in (edge, mass):
        assert bool(torch.isfinite(value))
        first = torch.autograd.grad(
            value, parameters, create_graph=True, allow_unused=True, materialize_grads=True
        )
        assert all(bool(torch.isfinite(part).all()) for part in first)
        total = sum(part.sum() for part in first)
        if total.requires_grad:
            second = torch.autograd.grad(
                total, parameters, allow_unused=True, materialize_grads=True, retain_graph=True
            )
            assert all(bool(torch.isfinite(part).all()) for part in second)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (own.Normal(number(0.0), number(1.0)), scipy.stats.norm),
        (own.Logistic(number(0.0), number(1.0)), scipy.stats.logistic),
        (own.Laplace(number(0.0), number(1.0)), scipy.stats.laplace),
        (own.StudentT(number(4.0), number(0.0), number(1.0)), scipy.stats.t(4)),
    ],
)
def test_log_tails_are_scipys_far_out(ours, theirs):
    at = tensor(-600.0, -40.0, -5.0, -0.5, 0.0, 0.5, 5.0, 30.0)
    close(ours.log_cdf(at), theirs.logcdf(at.numpy()), rtol=1e-12)
    close(ours.log_sf(at), theirs.logsf(at.numpy()), rtol=1e-12)


def test_a_hazard_too_small_for_a_float_has_a_log():
    scale, shape = number(1.5).requires_grad_(), number(40.0).requires_grad_()
    value = own.Weibull(scale, shape).log_cdf(number(1e-10))
    close(value, 40 * math.log(1e-10 / 1.5))
    first = torch.autograd.grad(value, (scale, shape))
    close(torch.stack(first), [-40 / 1.5, math.log(1e-10 / 1.5)])


def test_derivatives_of_the_log_of_a_tiny_probability():
    # d log Φ(z) / dz = λ = φ / Φ and d² = -λ (z + λ), with λ = -z + 1 / z - ... far down; by mpmath.
    for z in (-1e6, -1e3, -35.0, -29.9, -8.0, -1.0, 0.5):
        at = number(z).requires_grad_()
        value = own.Normal(number(0.0), number(1.0)).log_cdf(at)
        (first,) = torch.autograd.grad(value, at, create_graph=True)
        (second,) = torch.autograd.grad(first, at)
        with mp.workdps(60):
            exact = mp.mpf(z)
            ratio = mp.npdf(exact) / (mp.erfc(-exact / mp.sqrt(2)) / 2)
            close(first, float(ratio), rtol=1e-13)
            close(second, float(-ratio * (exact + ratio)), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 2.0), (0.0, INF), (-INF, -3.0), (10.0, INF), (10.0, 10.5), (-1e-3, 1e-3)]
)
def test_a_truncated_normal_is_scipys(low, high):
    ours, theirs = (
        Truncated(own.Normal(number(0.0), number(1.0)), low, high),
        scipy.stats.truncnorm(low, high),
    )
    q = tensor(0.01, 0.3, 0.7, 0.99)
    at = torch.tensor(theirs.ppf(q.numpy()))
    close(ours.log_prob(at), theirs.logpdf(at.numpy()), rtol=1e-11)
    close(ours.icdf(q), at, rtol=1e-12)
    close(ours.mean, theirs.mean(), rtol=1e-10)
    close(ours.variance, theirs.var(), rtol=1e-6)  # SciPy's own loses digits in narrow intervals


def test_draws_from_far_out_in_a_tail():
    # Beyond 40 the excess over the bound is exponential, of rate 40.
    draws = Truncated(own.Normal(number(0.0), number(1.0)), 40.0).sample((2000,))
    assert bool((draws >= 40).all())
    assert scipy.stats.kstest(40 * (draws.numpy() - 40), "expon").pvalue > 1e-3


def test_an_infinite_mean_stays_infinite():
    cauchy = own.StudentT(number(1.0), number(0.0), number(1.0))
    assert not math.isfinite(Truncated(cauchy, lower=0.0).variance)
    close(Truncated(cauchy, -1.0, 1.0).mean, 0.0)
    # ∫ y² / (1 + y²) over ±1 is 2 - π/2, and of the density without it π/2.
    close(Truncated(cauchy, -1.0, 1.0).variance, (2 - math.pi / 2) / (math.pi / 2), rtol=QUADRATURE)


# censored


REMISSION = {
    # Weeks of remission of leukaemia: treated with 6-MP, of whom some were still in remission, and controls.
    # Freireich et al. (1963), in Gehan (1965).
    "treated": [6, 6, 6, 7, 10, 13, 16, 22, 23],
    "still": [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35],
    "control": [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23],
}


def remission():
    time = torch.tensor([*REMISSION["treated"], *REMISSION["still"], *REMISSION["control"]]).double()
    event = torch.ones(42, dtype=torch.bool)
    event[9:21] = False
    treated = (torch.arange(42) < 21).double()[:, None]
    return treated, time, event


def exponential(x, y=None):
    rate = torch.exp(-linear("log_mean", x))
    with rows(x):
        return pyro.sample("y", dist.Exponential(rate), obs=y)


def test_a_censored_exponential_counts_events_over_time():
    treated, time, event = remission()
    bound = torch.where(event, INF, time)
    fit = mle(censored(exponential), treated, time, upper=bound)
    means = predict(fit, tensor([1.0], [0.0]), upper=tensor(INF, INF)).base_dist.mean
    close(means, [359 / 9, 182 / 21], rtol=1e-9)
    as_weibull = pyro.condition(models.weibull, {"shape": number(1.0)})
    close(mle(censored(as_weibull), treated, time, upper=bound).nll, fit.nll)
    error = summary(mle(censored(exponential), none(21), time[:21], upper=bound[:21]))["std_error"].iloc[0]
    close(error, 1 / math.sqrt(9), rtol=1e-6)  # of the log of a mean that r events tell: 1 / √r


def test_a_censored_weibull_is_survregs():
    # R: survreg(Surv(time, cens) ~ treat, MASS::gehan) has (Intercept) 3.516 (0.252) for 6-MP, treatcontrol
    # -1.267 (0.311), Log(scale) -0.312, log-likelihood -106.6: Venables & Ripley (2002), section 13.2.
    treated, time, event = remission()
    fit = mle(censored(models.weibull), 1 - treated, time, upper=torch.where(event, INF, time))
    found = summary(fit)
    assert fit.converged
    assert round(-fit.nll, 1) == -106.6
    assert found.loc[("log_scale", "Intercept"), ["estimate", "std_error"]].round(3).tolist() == [
        3.516,
        0.252,
    ]
    assert found.loc[("log_scale", "x0"), ["estimate", "std_error"]].round(3).tolist() == [-1.267, 0.311]
    assert round(-math.log(fit.params["shape"]), 3) == -0.312


def engel_tobit():
    engel = datasets.load("engel")
    x, y = engel[["income"]].to_numpy() / 1000, engel["food_expenditure"].to_numpy() / 1000
    return x, np.clip(y, 0.4, 1.0)


def test_tobit_is_an_independent_optimum():
    x, y = engel_tobit()

    def nll(theta):
        mean, sigma = theta[0] + theta[1] * x[:, 0], np.exp(theta[2])
        norm = scipy.stats.norm(mean, sigma)
        inner = np.where(y <= 0.4, norm.logcdf(0.4), norm.logpdf(y))
        return -np.where(y >= 1.0, norm.logsf(1.0), inner).sum()

    best = scipy.optimize.minimize(nll, [0.1, 0.5, -2.0], method="BFGS", options={"gtol": 1e-7})
    fit = mle(censored(models.gaussian, lower=0.4, upper=1.0), x, y)
    assert fit.converged
    close(fit.nll, best.fun, rtol=1e-10)
    close(fit.params["mean.bias"], best.x[0], rtol=1e-5)
    close(fit.params["mean.weight"], best.x[1:2], rtol=1e-5)
    close(fit.params["sigma"].log(), best.x[2], rtol=1e-5)
    errors = summary(fit)["std_error"].iloc[:2]
    close(torch.tensor(errors.to_numpy()), np.sqrt(np.diag(best.hess_inv))[:2], rtol=0.05)


def test_tobit_solves_a_start_from_far_away():
    x, y = engel_tobit()
    near = mle(censored(models.gaussian, lower=0.4), x, np.maximum(y, 0.4))
    start = {"mean.bias": number(-300.0), "sigma": number(1.0), "mean.weight": tensor(0.0)}
    far = mle(censored(models.gaussian, lower=0.4), x, np.maximum(y, 0.4), start=start)
    assert far.converged
    close(far.nll, near.nll, rtol=1e-10)


@pytest.mark.parametrize("handler", [censored, truncated])
@pytest.mark.parametrize("name", ["gaussian", "poisson"])
def test_a_fit_with_bounds_out_of_reach_is_the_plain_fit(handler, name):
    entry, (x, y) = TABLE[name], TABLE[name].sample()
    plain = fitted(name)
    bounded = mle(handler(entry.model, lower=-1e4, upper=1e4), x, y, **entry.keywords())
    close(bounded.nll, plain.nll)
    for site, value in plain.params.items():
        close(bounded.params[site], value, rtol=1e-7)


def test_numbers_and_keywords_of_the_rows_are_one_thing():
    x, y = engel_tobit()
    by_number = mle(censored(models.gaussian, lower=0.4, upper=1.0), x, y)
    full = np.full(len(y), 1.0)
    for fit in (
        mle(censored(models.gaussian, lower=0.4), x, y, upper=full),
        mle(censored(models.gaussian), x, y, lower=np.full(len(y), 0.4), upper=full),
        mle(censored(models.gaussian, lower=0.4, upper="top"), x, y, top=full),
    ):
        close(fit.nll, by_number.nll)


def test_lifetimes_watched_from_an_age_on():
    # A rate is events over the time at risk, which begins at the age of entry.
    time, entry = tensor(3.0, 5.0, 8.0, 4.0), tensor(1.0, 0.5, 6.0, 0.0)
    end = tensor(INF, 5.0, INF, INF)
    model = censored(truncated(exponential, lower="entry"))
    fit = mle(model, none(4), time, entry=entry, upper=end)
    close(fit.params["log_mean.bias"].exp(), (time - entry).sum() / 3, rtol=1e-9)


def test_weight_2_is_the_row_twice_under_bounds():
    x, y = engel_tobit()
    weights = 1.0 + np.arange(len(y)) % 2
    twice = np.repeat(np.arange(len(y)), weights.astype(int))
    model = censored(models.gaussian, lower=0.4)
    ours, theirs = mle(model, x, y, weights=weights), mle(model, x[twice], y[twice])
    close(ours.nll, theirs.nll, rtol=1e-10)
    close(covariance(ours).to_numpy().copy(), covariance(theirs).to_numpy().copy(), rtol=1e-6)


def test_missing_and_censored():
    x, y = engel_tobit()
    holes = y.copy()
    holes[[2, 30]] = NAN
    keep = ~np.isnan(holes)
    bound = np.full(len(y), 1.0)
    theirs = mle(censored(models.gaussian), x[keep], y[keep], upper=bound[keep])
    for model in (masked(censored(models.gaussian)), censored(masked(models.gaussian))):
        fit = mle(model, x, holes, upper=bound)
        close(fit.nll, theirs.nll)
        assert fit.n == keep.sum()


def test_prediction_is_of_what_would_be_recorded():
    x, y = engel_tobit()
    fit = mle(censored(models.gaussian, lower=0.4, upper=1.0), x, y)
    seen = predict(fit, x)
    assert isinstance(seen, Censored)
    assert repr(seen).endswith("0.4, 1)")
    assert bool(((seen.mean >= 0.4) & (seen.mean <= 1.0 + ROUNDING)).all())
    close(seen.base_dist.mean, x @ fit.params["mean.weight"].numpy() + fit.params["mean.bias"].numpy())
    close(log_likelihood(fit, x, y).sum(), -fit.nll)
    draws = Predictive(fit.model, {k: v.expand(7, *v.shape) for k, v in fit.params.items()})(torch.tensor(x))[
        "y"
    ]
    assert draws.shape == (7, len(y))
    assert bool(((draws >= 0.4) & (draws <= 1.0)).all())
    vectorised = Predictive(fit.model, num_samples=3, parallel=True)(torch.tensor(x))["y"]
    assert vectorised.shape == (3, len(y))


def test_bounds_run_in_raw_pyro_and_in_minibatches():
    x, y = engel_tobit()
    exact = mle(censored(models.gaussian), x, y, upper=np.full(len(y), 1.0))
    literally = dataclasses.replace(fast_svi(60), batch_size=50)
    with pytest.warns(ConvergenceWarning):
        literal = mle(censored(models.gaussian), x, y, upper=np.full(len(y), 1.0), solver=literally)
    close(literal.nll, exact.nll, atol=0.5)
    model = truncated(models.gaussian, lower=0.0)
    mcmc = MCMC(NUTS(model, max_tree_depth=2), num_samples=2, warmup_steps=2, disable_progbar=True)
    mcmc.run(torch.tensor(x), torch.tensor(y))
    assert bool(torch.isfinite(mcmc.get_samples()["sigma"]).all())


# truncated


def test_zero_truncated_counts_solve_their_equation():
    y = tensor(1.0, 1, 2, 3, 1, 5, 2, 1)
    fit = mle(truncated(models.poisson, lower=1), none(8), y)
    rate = fit.params["log_rate.bias"].exp()
    close(rate / -torch.expm1(-rate), y.mean(), rtol=1e-9)
    close(predict(fit, none(8)).mean, y.mean().expand(8), rtol=1e-9)
    assert predict(fit, none(8)).log_prob(y).shape == (8,)


def test_truncated_normal_regression_is_an_independent_optimum():
    x, y = sample(200, 1)
    kept = (y > 1.0).numpy()
    x, y = x.numpy()[kept], y.numpy()[kept]

    def nll(theta):
        norm = scipy.stats.norm(theta[0] + theta[1] * x[:, 0], np.exp(theta[2]))
        return -(norm.logpdf(y) - norm.logsf(1.0)).sum()

    best = scipy.optimize.minimize(nll, [1.0, 0.0, 0.0], method="BFGS", options={"gtol": 1e-8})
    fit = mle(truncated(models.gaussian, lower=1.0), x, y)
    assert fit.converged
    close(fit.nll, best.fun, rtol=1e-9)


def test_a_response_beyond_its_truncation_is_refused():
    with pytest.raises(
        DataError, match=r"`poisson` needs every `y` to be .* between 1 and inf.*row 2 has y = 0"
    ):
        mle(truncated(models.poisson, lower=1), none(3), tensor(1.0, 2.0, 0.0))


def test_a_truncated_likelihood_without_a_maximum_is_told():
    # A group of which every count that is seen is the least that can be seen has no positive rate.
    x = (torch.arange(20) < 10).double()[:, None]
    y = tensor(*[1.0] * 10, 1.0, 2, 3, 1, 4, 2, 1, 1, 5, 2)
    with pytest.raises(UnboundedLikelihoodError, match=r"`log_rate` of x0 → -∞"):
        mle(truncated(models.poisson, lower=1), x, y)


@pytest.mark.parametrize("name", ["zero_inflated_poisson", "binomial"])
def test_a_count_censored_between_two_counts_is_the_next_one(name):
    """P(y ≥ 3.5) = P(y ≥ 4); the model without the bounds, where a fit begins, refused a y of 3.5."""
    x = torch.linspace(-1, 1, 24, dtype=torch.float64)[:, None]
    y = torch.tensor([0, 2, 1, 3, 9, 4, 0, 2, 3, 1, 6, 5] * 2, dtype=torch.float64)
    keywords = {"trials": 9.0 * torch.ones(24)} if name == "binomial" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # no more zeros than negative binomial ones
        between, next_one = (
            mle(censored(getattr(models, name), upper=bound), x, y.clamp(max=bound), **keywords)
            for bound in (3.5, 4.0)
        )
    assert between.nll == pytest.approx(next_one.nll, rel=1e-9)


def test_a_censored_likelihood_without_a_maximum_is_told():
    with pytest.raises(UnboundedLikelihoodError, match=r"`mean` of Intercept → -∞"):
        mle(censored(models.gaussian, lower=0.0), none(9), tensor(*[0.0] * 9))


def test_a_perfect_fit_of_what_was_seen_is_told():
    x = torch.arange(10, dtype=torch.float64)[:, None]
    with pytest.raises(UnboundedLikelihoodError, match="exactly"):
        mle(censored(models.gaussian, lower=3.0), x, (2 * x[:, 0]).clamp(min=3.0))


def test_rows_that_are_surely_censored_are_no_perfect_fit():
    x = torch.cat([torch.zeros(30), torch.full((5,), -100.0)]).double()[:, None]
    y = (3 + x[:, 0] + torch.randn(35, dtype=torch.float64)).clamp(min=0.0)
    fit = mle(censored(pyro.condition(models.gaussian, {"mean.weight": tensor(1.0)}), lower=0.0), x, y)
    assert fit.converged
    assert predict(fit, x).stddev[-1] < 1e-15


# Corners


@pytest.mark.parametrize("model", [models.laplace, partial(models.quantile, tau=0.7)])
def test_censored_absolute_values_have_a_certified_optimum(model):
    x, y = engel_tobit()
    fit = mle(censored(model, lower=0.4, upper=0.8), x, np.clip(y, 0.4, 0.8))
    assert fit.converged
    assert "residuals exactly 0" in fit.status
    # A censored row has no corner, wherever its bound is.
    z = fit.coordinates.z(fit.objective.layout.theta(fit.params))
    assert len(Cornered.of(fit.coordinates).residuals(z)) == ((y > 0.4) & (y < 0.8)).sum()
    predictor = "location" if model is models.laplace else "quantile"
    theta = [fit.params[f"{predictor}.bias"], fit.params[f"{predictor}.weight"][0], fit.params["scale"].log()]
    bounded = [
        Censored,
        own.Laplace if model is models.laplace else partial(own.AsymmetricLaplace, tau=number(0.7)),
    ]

    def nll(theta):
        location, scale = number(theta[0]) + number(theta[1]) * torch.tensor(x[:, 0]), number(theta[2]).exp()
        fn = bounded[0](bounded[1](location, scale.expand(location.shape)), 0.4, 0.8)
        return -float(fn.log_prob(torch.tensor(np.clip(y, 0.4, 0.8))).sum())

    best = scipy.optimize.minimize(
        nll,
        np.array(theta) + 0.01,
        method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 4000},
    )
    close(nll([float(value) for value in theta]), fit.nll)
    assert fit.nll <= best.fun + 1e-8
    assert best.fun <= fit.nll + 1e-3  # the simplex comes close, so this is the same optimum
    table = summary(fit)
    assert bool(table.drop(columns="estimate").isna().all(axis=None))
    assert "censored response with corners" in table.attrs["reason"]
    with pytest.raises(ModelError, match="censored response with corners"):
        covariance(fit)


@pytest.mark.parametrize(
    ("model", "upper"), [(models.laplace, 3.0), (partial(models.quantile, tau=0.7), None)]
)
def test_truncated_absolute_values_have_a_certified_optimum(model, upper):
    """Gradient steps took 2000 of them, and certified nothing."""
    x, y = sample(200, 2)
    kept = ((y > 0) & (y < (upper or math.inf))).numpy()
    x, y = x.numpy()[kept], y.numpy()[kept]
    calls = []

    def counted(x, y=None):
        calls.append(0)
        return model(x, y)

    fit = mle(truncated(counted, lower=0.0, upper=upper), x, y)
    assert fit.converged
    assert "subgradient condition holds" in fit.status
    assert len(calls) <= 600
    tau = 0.5 if model is models.laplace else 0.7

    def cdf(value, location, scale):
        u = (value - location) / scale
        return np.where(
            u < 0, tau * np.exp((1 - tau) * np.minimum(u, 0)), 1 - (1 - tau) * np.exp(-tau * np.maximum(u, 0))
        )

    def nll(theta):
        location, scale = theta[0] + x @ theta[1:3], math.exp(theta[3])
        u = (y - location) / scale
        density = math.log(tau * (1 - tau)) - theta[3] - u * (tau - (u < 0))
        above = 1.0 if upper is None else cdf(upper, location, scale)
        return -(density - np.log(above - cdf(0.0, location, scale))).sum()

    predictor = "location" if model is models.laplace else "quantile"
    # A Laplace scale counts |r|, an asymmetric one half of that where tau is a half.
    scale = fit.params["scale"] / (2 if model is models.laplace else 1)
    theta = [fit.params[f"{predictor}.bias"], *fit.params[f"{predictor}.weight"], scale.log()]
    theta = np.array([float(value) for value in theta])
    close(nll(theta), fit.nll, rtol=1e-9)
    # There are other optima far off, where the tail alone decides.
    best = scipy.optimize.minimize(
        nll, theta + 0.01, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 8000}
    )
    assert fit.nll <= best.fun + 1e-8
    assert best.fun <= fit.nll + 1e-2  # the simplex comes close, so this is the same optimum
    with pytest.raises(ModelError, match="truncated response with corners"):
        covariance(fit)


def test_gradient_steps_certify_no_truncated_absolute_values():
    x, y = sample(40, 1)
    kept = (y > 0).numpy()
    with pytest.warns(UserWarning, match="did not converge"):
        fit = mle(truncated(models.laplace, lower=0.0), x[kept], y[kept], solver=SVI(steps=50))
    assert not fit.converged


# What is refused


@pytest.mark.parametrize("handler", [censored, truncated])
@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"lower": NAN}, "must not be NaN"),
        ({"lower": 2.0, "upper": 1}, "needs lower < upper; they are 2 and 1"),
        ({"lower": 1.0, "upper": 1.0}, "needs lower < upper"),
        ({"lower": math.inf}, "needs lower < upper; they are inf and inf"),
        ({"upper": -math.inf}, "needs lower < upper; they are -inf and -inf"),
        ({"lower": torch.tensor(1.0)}, "must be a number, or the name of a keyword"),
        ({"upper": True}, "must be a number, or the name of a keyword"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(handler, bounds, message):
    with pytest.raises(ModelError, match=message):
        handler(models.gaussian, **bounds)


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ({}, ModelError, "was given no bound"),
        (
            {"upper": tensor(1.0, NAN, 1.0)},
            DataError,
            "`upper` is NaN or infinite in 1 of 3 places, first in row 1",
        ),
        (
            {"lower": tensor(1.0, 2.0, 5.0), "upper": tensor(3.0, 2.0, 4.0)},
            DataError,
            "2 of 3 rows do not: one has 2 and 2",
        ),
        (
            {"lower": tensor(1.0, 2.0, 5.0), "upper": tensor(3.0, 2.0, 6.0)},
            DataError,
            "1 of 3 rows do not: one has 2 and 2",
        ),
        ({"upper": tensor(1.0, 2.0)}, DataError, "`upper` has 2 rows and `x` has 3"),
    ],
)
def test_bounds_of_the_rows_that_make_no_sense_are_refused(bounds, error, message):
    with pytest.raises(error, match=message):
        mle(censored(models.gaussian), none(3), tensor(1.0, 2.0, 4.0), **bounds)


def test_bounds_need_a_row_each_in_raw_pyro_too():
    with pytest.raises(DataError, match=r"`upper` of `censored` has the shape \(2,\).*3 rows"):
        censored(models.gaussian)(none(3), tensor(1.0, 2.0, 4.0), upper=tensor(9.0, 9.0))


def test_a_named_bound_must_come():
    with pytest.raises(ModelError, match="needs the bound 'end' of each row"):
        mle(censored(models.weibull, upper="end"), none(3), tensor(1.0, 2.0, 4.0))


def test_only_bounds_may_be_infinite():
    exposure = tensor(1.0, INF, 1.0)
    with pytest.raises(DataError, match="`exposure` is NaN or infinite"):
        mle(truncated(models.poisson, lower=1), none(3), tensor(1.0, 2.0, 4.0), exposure=exposure)


def test_what_has_no_distribution_function_is_refused():
    def model(x, y=None):
        concentration = positive("concentration", x)
        with rows(x):
            return pyro.sample("y", dist.VonMises(0.0, concentration), obs=y)

    with pytest.raises(ModelError, match="`VonMises` has no distribution function"):
        mle(censored(model, lower=0.0), none(3), tensor(0.0, 1.0, 2.0))


def test_vectors_have_no_bounds():
    with pytest.raises(ModelError, match="one number for each row"):
        mle(censored(models.multivariate_gaussian, lower=0.0), none(4), torch.randn((4, 2)).double())


def test_truncation_goes_inside():
    with pytest.raises(ModelError, match=r"censored\(truncated\(model\)\)"):
        mle(truncated(censored(models.gaussian, lower=0.0), upper=9.0), none(3), tensor(0.0, 1.0, 2.0))


def test_bounds_of_a_distribution_are_checked():
    for bounds in ((2.0, 1.0), (NAN, 1.0)):
        with pytest.raises(ValueError, match="lower <= upper"):
            Censored(dist.Normal(0.0, 1.0), *bounds)


@pytest.mark.parametrize(
    ("side", "name"),
    [("lower", name) for name in ("gaussian", "weibull", "quantile", "huber", "poisson")]
    + [("upper", name) for name in ("gaussian", "laplace", "poisson")],
)
def test_a_response_that_is_censored_throughout_is_named(name, side):
    y = torch.arange(1.0, 16.0, dtype=torch.float64)
    x = torch.sin(y)[:, None]
    model = getattr(models, name)
    with pytest.raises(
        UnboundedLikelihoodError, match=r"Every row of `y` is censored.* Give rows with an obs"
    ):
        mle(censored(model), x, y, **{side: y})
    seen = {"lower": torch.cat([torch.full((8,), -INF), y[8:]]), "upper": torch.cat([y[:7], y[7:] + INF])}
    assert mle(censored(model), x, y, **{side: seen[side]}).converged


@pytest.mark.parametrize("name", ["gaussian", "student_t", "logistic", "laplace"])
def test_rows_that_are_all_at_one_of_two_bounds_are_refused_at_once(name, monkeypatch):
    # P(y = 3) = F((location - 3) / scale) rises to F(location / scale), with both in proportion.
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.where(torch.arange(40) % 3 == 0, 3.0, -3.0).double()
    monkeypatch.setattr(fitting, "starting_point", None)  # whatever comes after the refusal fails
    with pytest.raises(UnboundedLikelihoodError, match=r"spread go to infinity.*Give rows with an obs"):
        mle(censored(getattr(models, name), lower=-3.0, upper=3.0), x, y)
    monkeypatch.undo()
    assert mle(models.bernoulli, x, (y > 0).double()).converged


def test_a_response_of_current_status_is_fitted_although_it_is_censored_throughout():
    """Bounds that differ between rows determine location and scale: a probit of the bound."""
    bound = torch.linspace(-2.0, 2.0, 60, dtype=torch.float64)
    below = torch.arange(60) % 3 > torch.linspace(2.5, -0.5, 60)
    fit = mle(
        censored(models.gaussian),
        torch.empty((60, 0), dtype=torch.float64),
        bound,
        lower=torch.where(below, bound, -INF),
        upper=torch.where(below, INF, bound),
    )
    z = (bound - fit.params["mean.bias"]) / fit.params["sigma"]
    nll = -torch.special.log_ndtr(torch.where(below, z, -z)).sum()
    assert fit.converged
    assert fit.nll == pytest.approx(float(nll), rel=1e-12)


# On disk, and from where else


FLOOR = {"floor": np.full(80, -5.0)}


@pytest.mark.parametrize(
    ("model", "keywords"),
    [
        (masked(models.gaussian), {}),
        (censored(models.gaussian, lower=0.4), {}),
        (truncated(partial(models.student_t, df=4.0), lower=-INF, upper=3.0), {}),
        (masked(censored(truncated(models.gaussian, lower="floor"), upper=1.0)), FLOOR),
    ],
)
def test_a_saved_fit_comes_back(model, keywords, tmp_path):
    x, y = (part[:80] for part in engel_tobit())
    fit = mle(model, x, y, **keywords)
    again = load(save(fit, tmp_path / "fit"))
    at = number(0.5).expand(len(y))
    assert torch.equal(predict(again, x, **keywords).log_prob(at), predict(fit, x, **keywords).log_prob(at))
    assert torch.equal(log_likelihood(again, x, y, **keywords), log_likelihood(fit, x, y, **keywords))


def test_a_bound_inside_a_partial_is_not_saved(tmp_path):
    x, y = engel_tobit()
    fit = mle(partial(censored(models.gaussian), upper=1.0), x, y)
    with pytest.raises(ModelError, match=r"censored\(model, upper=...\)"):
        save(fit, tmp_path / "fit")


def test_handlers_are_in_both_places():
    for name in ("censored", "masked", "truncated"):
        assert getattr(handlers, name) is globals()[name]


def test_the_table_of_laws_is_not_empty():
    assert {"gaussian", "laplace", "poisson", "weibull", "beta"} <= set(WITH_TAILS)


@pytest.mark.parametrize(("name", "bound"), [("gaussian", 0.5), ("logistic", -1.0)])
def test_rows_censored_throughout_are_no_optimum_as_the_spread_vanishes(name, bound):
    # The location is beyond the bound at a distance that vanishes with the spread: no spread above 0 is best.
    x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = censored(getattr(models, name), lower=bound)
    with pytest.warns(ConvergenceWarning, match=r"it never falls as `(sigma|scale)` → 0"):
        fit = map_estimate(model, x, torch.full((20,), bound).double())
    assert not fit.converged


@pytest.mark.parametrize("name", ["gaussian", "laplace"])
@pytest.mark.parametrize("upper", [0.0, 1.0])
def test_rows_censored_at_their_bound_under_priors_have_a_limit_before_a_solver_runs(name, upper):
    # At a bound of 0 the mean was said to go to +∞; its prior holds it, and the spread goes to 0.
    y = torch.full((20,), upper, dtype=torch.float64)
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    with pytest.warns(ConvergenceWarning, match="→ 0"):
        fit = map_estimate(censored(getattr(models, name), None, upper), x, y)
    assert not fit.converged
    assert fit.n_iter == 0
    assert fit.nll == pytest.approx(0.0, abs=1e-9)


def test_a_prior_that_holds_the_spread_of_rows_censored_throughout_gives_an_optimum():
    x = torch.randn(20, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = with_priors(models.gaussian, {"sigma": dist.LogNormal(0.0, 1.0)})
    assert map_estimate(censored(model, lower=-3.0), x, torch.full((20,), -3.0).double()).converged


@pytest.mark.parametrize("name", ["laplace", "quantile"])
def test_the_status_says_that_an_optimum_of_a_truncated_absolute_loss_is_local(name):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((60, 1), generator=generator, dtype=torch.float64)
    y = x[:, 0] + torch.randn(60, generator=generator, dtype=torch.float64)
    kept, model = y < 1.5, getattr(models, name)
    fit = mle(truncated(model, upper=1.5), x[kept], y[kept])
    assert fit.converged
    assert "a local optimum" in fit.status
    assert "local" not in mle(model, x, y).status


@pytest.mark.parametrize(
    ("name", "side", "runs"),
    [
        ("gaussian", "lower", "`mean` of Intercept → -∞"),
        ("student_t", "upper", r"`location` of Intercept → \+∞"),
        ("laplace", "lower", "`location` of Intercept → -∞"),
        ("gaussian_mixture", "lower", "`mean` of Intercept → -∞"),
        ("weibull", "upper", r"`log_scale` of Intercept → \+∞"),
    ],
)
def test_rows_that_are_all_censored_on_one_side_are_refused_before_a_solver_runs(
    monkeypatch, name, side, runs
):
    monkeypatch.setattr(fitting, "starting_point", None)  # whatever comes after the refusal fails
    x, y = (
        torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None],
        torch.full((12,), 3.0, dtype=torch.float64),
    )
    with pytest.raises(
        UnboundedLikelihoodError, match=rf"never falls as {runs}\. Every row of `y` is censored"
    ):
        mle(censored(getattr(models, name), **{side: 3.0}), x, y)
