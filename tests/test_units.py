"""Units decide nothing: a response in other units, far from 0 or along columns far from 0."""

import math
from functools import cache, partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from table import TABLE

from neglog import mle, models
from neglog.errors import ConvergenceWarning
from neglog.predictors import linear, rows

LOG_LINK = {"gamma": {}, "lognormal": {}, "weibull": {}, "inverse_gaussian": {"dispersion": -1}}
"""Models whose bias moves by the log of the unit; constant -> its power of the unit of y."""
LOGS = {"heteroscedastic": {"log_variance.bias": 2}, "multivariate_heteroscedastic": {"log_scale.bias": 1}}
"""Biases that move by a multiple of the log of the unit, beside a location that is in units of y."""
STAY = {"weight", "correlation_cholesky", "partial.bias", "partial.weight", "log_variance.weight"}
STAY |= {"log_scale.weight"}
SCALED = [name for name, model in TABLE.items() if model.real]
SCALED += [*LOG_LINK, "gaussian_mixture", "multivariate_gaussian", "multivariate_heteroscedastic"]
POWERS = [-16, 9, 16]
"""Powers of ten that y is multiplied with; a spread of 1 beside y of 1e16 would be its rounding."""
CLOSE = 1e-7
"""Relative: two certified optima of the same problem in other units, each within 1e-8 standard errors."""


@cache
def drawn(name):
    x, y = TABLE[name].sample(40, 2)
    return x, y, mle(TABLE[name].model, x, y)


def in_units(name, params, unit):
    """Parameters of a model where its response is multiplied with a unit."""
    moved = {}
    for site, value in params.items():
        if name in LOG_LINK:
            bias = site == f"{TABLE[name].location}.bias"
            moved[site] = value + math.log(unit) if bias else value * unit ** LOG_LINK[name].get(site, 0)
        elif site in LOGS.get(name, {}):
            moved[site] = value + LOGS[name][site] * math.log(unit)
        else:
            moved[site] = value if site in STAY else value * unit
    return moved


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("name", SCALED)
def test_the_unit_of_y_changes_no_verdict_and_no_estimate(name, power):
    x, y, plain = drawn(name)
    unit = 10.0**power
    fit = mle(TABLE[name].model, x, y * unit)
    assert plain.converged
    assert fit.converged
    assert fit.nll == pytest.approx(plain.nll + y.numel() * math.log(unit), abs=1e-9 * abs(fit.nll) + 1e-9)
    expected = in_units(name, plain.params, unit)
    for site, value in fit.params.items():
        scale = expected[site].abs().max()
        torch.testing.assert_close(value / scale, expected[site] / scale, rtol=CLOSE, atol=CLOSE, msg=site)


def income(seed=0):
    """A response of some 25,000 with noise of 3,000 of heavy tails, and two columns."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((80, 2))
    return x, 25_000 + 9_000 * x[:, 0] + 3_000 * generator.standard_t(4, 80)


DESIGNED = {
    "heteroscedastic": lambda x: x,
    "gaussian": lambda x: {"mean": x, "sigma": x},
    "laplace": lambda x: {"location": x, "scale": x},
}


@pytest.mark.parametrize("name", DESIGNED)
def test_a_scale_of_its_own_design_is_no_perfect_fit_of_a_large_response(name):
    x, y = income()
    design = DESIGNED[name](x)
    plain, large = (mle(getattr(models, name), design, unit * y) for unit in (1.0, 1e9))
    assert large.converged
    assert large.nll == pytest.approx(plain.nll + len(y) * math.log(1e9), rel=1e-10)


def log_sigma(x, y=None):
    mean, log_scale = linear("mean", x), linear("log_scale", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, torch.exp(log_scale)), obs=y)


def log_scale(x, y=None):
    location, logarithm = linear("location", x), linear("log_scale", x)
    with rows(x):
        return pyro.sample("y", dist.StudentT(3.0, location, torch.exp(logarithm)), obs=y)


@pytest.mark.parametrize("model", [log_sigma, log_scale])
@pytest.mark.parametrize("power", [-12, 9, 12])
def test_a_model_of_ones_own_may_have_any_unit(model, power):
    x, y = income()
    plain, scaled = (mle(model, x, unit * y) for unit in (1.0, 10.0**power))
    assert scaled.converged
    assert scaled.nll == pytest.approx(plain.nll + len(y) * power * math.log(10), rel=1e-9)


@pytest.mark.parametrize("unit", [1e-8, 1e8])
@pytest.mark.parametrize("model", [models.laplace, partial(models.quantile, tau=0.7)])
def test_the_certificate_of_a_vertex_has_no_unit(model, unit):
    x, y = income()
    fit = mle(model, x, unit * y)
    assert "vertex" in fit.status
    violation = float(fit.status.split("holds to ")[1].split(" ")[0])
    assert 1e-20 <= violation <= 1e-9  # a sum of rounded numbers of order one, and of no larger ones


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("seed", [0, 1, 3])
def test_tails_lighter_than_normal_have_their_optimum_at_the_border_in_every_unit(seed, unit):
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    noise = np.random.default_rng(seed).uniform(-1.7, 1.7, 80)
    y = unit * (25_000 + 9_000 * x[:, 0] + 3_000 * noise)
    with pytest.warns(ConvergenceWarning, match=r"`df` → \+∞"):
        fit = mle(models.student_t, x, y)
    assert not fit.converged
    assert fit.nll == pytest.approx(mle(models.gaussian, x, y).nll, rel=1e-12)
