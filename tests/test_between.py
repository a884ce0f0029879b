"""The probability of an interval keeps its digits, and its derivatives theirs, however narrow it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath as mp
import pytest
import torch
from torch import Tensor

from neglog import distributions as own
from neglog import mle, models, truncated
from neglog.distributions import Truncated
from neglog.errors import ConvergenceWarning
from neglog.solvers import Adam

ACCURACY = 1e-10
"""Of a log-probability and its first two derivatives, relative to the largest term that they are made of."""

DIGITS = 150
"""Of the reference: a difference of distribution functions that are 1 but for 1e-68 needs them."""


def _distribution_function(cdf: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b, *at: mp.log(cdf(b, *at) - cdf(a, *at))


def _laplace(y: Any, loc: Any, scale: Any) -> Any:
    below = mp.exp(-abs(y - loc) / scale) / 2
    return below if y < loc else 1 - below


def _huber(y: Any, loc: Any, scale: Any) -> Any:
    u, delta = (y - loc) / scale, mp.mpf(1.345)
    total = mp.sqrt(2 * mp.pi) * (2 * mp.ncdf(delta) - 1) + 2 * mp.exp(-delta * delta / 2) / delta
    tail = mp.exp(-delta * (abs(u) - delta / 2)) / delta
    if abs(u) > delta:
        return tail / total if u < 0 else 1 - tail / total
    edge = mp.exp(-delta * delta / 2) / delta
    return (edge + mp.sqrt(2 * mp.pi) * (mp.ncdf(u) - mp.ncdf(-delta))) / total


def _student(y: Any, loc: Any, scale: Any) -> Any:
    u = (y - loc) / (scale * mp.sqrt(3))
    return mp.mpf(1) / 2 + (u / (1 + u * u) + mp.atan(u)) / mp.pi  # three degrees of freedom


def _heavy_tails(a: Any, b: Any, loc: Any, scale: Any) -> Any:
    df = mp.mpf("1e-9")
    low, high = (mp.asinh((end - loc) / (scale * mp.sqrt(df))) for end in (a, b))

    # cosh(s)^(-df) = 1 - df log cosh(s) + ..., of which the rest is below 1e-12 of the integral's logarithm
    def of_log_cosh(s: Any) -> Any:
        return s * s / 2 - s * mp.log(2) + (mp.polylog(2, -mp.exp(-2 * s)) + mp.pi**2 / 12) / 2

    lost = mp.sign(high) * of_log_cosh(abs(high)) - mp.sign(low) * of_log_cosh(abs(low))
    return mp.log((high - low - df * lost) * mp.gamma((df + 1) / 2) / mp.gamma(df / 2) / mp.sqrt(mp.pi))


def _mixture(y: Any, loc: Any, scale: Any) -> Any:
    return (2 * mp.ncdf((y - loc) / scale) + mp.ncdf((y - loc - 3) / (scale / 2))) / 3


def _two_normals(loc: Tensor, scale: Tensor) -> Any:
    means, sigmas = torch.stack([loc, loc + 3]), torch.stack([scale, scale / 2])
    return own.NormalMixture(torch.log(torch.tensor([2.0, 1.0], dtype=torch.float64)), means, sigmas)


def _gamma(a: Any, b: Any, shape: Any, rate: Any) -> Any:
    return mp.log(mp.gammainc(shape, a * rate, b * rate, regularized=True))


def _poisson(a: Any, b: Any, rate: Any, _: Any) -> Any:
    first, last = int(mp.ceil(a)), int(b)
    return mp.log(sum(mp.exp(-rate) * rate**k / mp.factorial(k) for k in range(first, last + 1)))


FAMILIES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[float, float]]] = {
    "Normal": (own.Normal, _distribution_function(mp.ncdf), (0.3, 1.7)),
    "Laplace": (own.Laplace, _distribution_function(_laplace), (0.3, 1.7)),
    "Huber": (partial(own.Huber, delta=1.345), _distribution_function(_huber), (0.3, 1.7)),
    "StudentT": (partial(own.StudentT, 3.0), _distribution_function(_student), (0.3, 1.7)),
    "StudentT of df 1e-9": (partial(own.StudentT, 1e-9), _heavy_tails, (0.3, 1.7)),
    "Logistic": (
        own.Logistic,
        _distribution_function(lambda y, m, s: 1 / (1 + mp.exp(-(y - m) / s))),
        (0.3, 1.7),
    ),
    "NormalMixture": (_two_normals, _distribution_function(_mixture), (0.3, 1.7)),
    "LogNormal": (
        own.LogNormal,
        _distribution_function(lambda y, m, s: mp.ncdf(mp.log(y), m, s)),
        (0.3, 0.7),
    ),
    "Weibull": (own.Weibull, _distribution_function(lambda y, s, k: 1 - mp.exp(-((y / s) ** k))), (1.5, 1.3)),
    "Gamma": (own.Gamma, _gamma, (0.7, 1.3)),
    "Poisson": (lambda rate, _: own.Poisson(rate), _poisson, (6.5, 1.0)),
}
REAL = ((-1e-6, 2e-6), (0.29, 0.31), (-0.1, 0.6), (5.0, 5.0001), (-30.0, -29.9999), (30.0, 31.0), (2.58, 2.6))
POSITIVE = ((1.0, 1.0001), (20.0, 20.01), (1e-8, 1.01e-8), (1e-8, 3e-8), (0.5, 2.0))
INTERVALS = {
    "Poisson": ((6.0, 6.0), (0.0, 1.0), (5.5, 8.2), (60.0, 62.0), (400.0, 402.0), (2.0, 30.0)),
    "Gamma": POSITIVE[:2],
    "StudentT of df 1e-9": ((-0.1, 0.6), (5.0, 5.0001), (30.0, 31.0)),
    **dict.fromkeys(("LogNormal", "Weibull"), POSITIVE),
}
CASES = [(name, *bounds) for name in FAMILIES for bounds in INTERVALS.get(name, REAL)]


def _exact(log_mass: Callable[..., Any], at: tuple[float, float], digits: int) -> list[float]:
    """The value, the gradient and the Hessian in two parameters, by central differences.

    Their steps are a sixth of the digits, so that their error, of two steps, has a third of them.
    """
    with mp.workdps(digits):
        h = mp.mpf(10) ** -(digits // 6)
        at_steps = {(i, j): log_mass(at[0] + i * h, at[1] + j * h) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        f = at_steps.__getitem__
        mixed = (f((1, 1)) - f((1, -1)) - f((-1, 1)) + f((-1, -1))) / (4 * h**2)
        first, second = ((f((i, j)) - f((-i, -j))) / (2 * h) for i, j in ((1, 0), (0, 1)))
        bends = [(f((i, j)) - 2 * f((0, 0)) + f((-i, -j))) / h**2 for i, j in ((1, 0), (0, 1))]
        return [float(v) for v in (f((0, 0)), first, second, bends[0], mixed, mixed, bends[1])]


@pytest.mark.parametrize(("name", "low", "high"), CASES)
def test_the_probability_of_an_interval_and_its_derivatives_keep_their_digits(
    name: str, low: float, high: float
) -> None:
    family, exact, at = FAMILIES[name]

    def log_mass(params: Tensor) -> Tensor:
        return Truncated(family(*params), low, high).log_mass.reshape(())

    params = torch.tensor(at, dtype=torch.float64)
    found = torch.cat(
        [
            log_mass(params)[None],
            torch.autograd.functional.jacobian(log_mass, params),
            torch.autograd.functional.hessian(log_mass, params).reshape(-1),
        ]
    )
    expected = _exact(partial(exact, mp.mpf(low), mp.mpf(high)), at, 60 if name == "Gamma" else DIGITS)
    # A derivative that is a small difference of large terms is as exact as these are: the Hessian's largest.
    sizes = [abs(expected[0]), *[max(map(abs, expected[1:3]))] * 2, *[max(map(abs, expected[3:]))] * 4]
    for value, right, size in zip(found.tolist(), expected, sizes, strict=True):
        assert abs(value - right) <= ACCURACY * size


@pytest.mark.parametrize("scale", [1e3, 1e8, 1e100])
def test_an_interval_far_narrower_than_the_spread_has_a_uniform_density(scale: float) -> None:
    narrow = Truncated(own.Normal(torch.tensor(40.0, dtype=torch.float64), scale), 0.0, 100.0)
    y = torch.linspace(0, 100, 11, dtype=torch.float64)
    bend = (100 / scale) ** 2 + 1e-12
    assert torch.allclose(narrow.log_prob(y), torch.full_like(y, -math.log(100)), rtol=0, atol=bend)
    assert torch.allclose(narrow.cdf(y), y / 100, rtol=0, atol=bend)


@pytest.mark.parametrize("name", ["gaussian", "logistic"])
def test_a_truncated_response_that_is_uniform_is_fitted_at_its_border(name: str) -> None:
    y, none = torch.arange(101.0, dtype=torch.float64), torch.empty((101, 0), dtype=torch.float64)
    with pytest.warns(ConvergenceWarning, match="uniform between its bounds"):
        fit = mle(truncated(getattr(models, name), lower=0, upper=100), none, y)
    assert not fit.converged
    assert abs(fit.nll - 101 * math.log(100)) < 1e-5  # no density of the family is higher


@pytest.mark.parametrize("solver", [None, Adam()], ids=["default", "Adam"])
def test_gradient_steps_stop_where_they_run_to_a_uniform_density(solver: Adam | None) -> None:
    """A truncated Laplace density has a corner, so no curvature says that nothing is left to gain."""
    y, none = torch.arange(101.0, dtype=torch.float64), torch.empty((101, 0), dtype=torch.float64)
    with pytest.warns(ConvergenceWarning, match="uniform between its bounds"):
        fit = mle(truncated(models.laplace, lower=0, upper=100), none, y, solver=solver)
    assert not fit.converged
    assert abs(fit.nll - 101 * math.log(100)) < 1e-9
    assert fit.n_iter <= 200
