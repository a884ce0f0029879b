"""Truncated Normal responses: concave in their natural parameters, with a border that is exponential."""

from __future__ import annotations

import math
from typing import Any

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch import Tensor

from neglog import mle, models
from neglog.distributions import Normal, Truncated
from neglog.distributions.intervals import LOG_NORMAL_INTERVAL
from neglog.errors import ConvergenceWarning, UnboundedLikelihoodError
from neglog.fitting.tilted import TruncatedRows, _moments, optimum
from neglog.objective.basis import Basis
from neglog.objective.coordinates import Coordinates
from neglog.objective.spread import exact_rows
from neglog.observation import truncated
from neglog.solvers import Continuation, Newton

LOWER, UPPER = 0.0, 100.0


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The evaluations of derivatives that a fit takes."""
    found: list[str] = []
    for name in ("derivatives", "value_and_gradient"):
        original = getattr(Coordinates, name)

        def counted(self: Coordinates, z: Tensor, name: str = name, original: object = original) -> object:
            found.append(name)
            return original(self, z)  # type: ignore[operator]

        monkeypatch.setattr(Coordinates, name, counted)
    return found


def _columns(rows: int, count: int) -> Tensor:
    return torch.randn(rows, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _exponential_nll(x: Tensor, y: Tensor, lower: float, upper: float) -> float:
    """The smallest negative log-likelihood of densities exp(θ y), by SciPy, for θ linear in [1, x]."""
    design, away = np.column_stack([np.ones(len(x)), x.numpy()]), y.numpy() - lower
    width = upper - lower

    def nll(coefficients: np.ndarray) -> float:
        theta = design @ coefficients / width
        small = np.where(np.abs(theta * width) < 1e-8, 1e-8 / width, theta)
        most = np.maximum(small * width, 0)
        mass = np.log((np.exp(small * width - most) - np.exp(-most)) / small) + most
        return float((mass - theta * away).sum())

    found = optimize.minimize(nll, np.full(design.shape[1], 0.01), method="BFGS", options={"gtol": 1e-9})
    return float(found.fun)


def test_a_truncated_normal_whose_scale_runs_off_is_named_as_exponential(evaluations: list[str]) -> None:
    """Steps in location and scale creep along a ridge; 200 of them did not end."""
    x, y = _columns(20, 2), torch.linspace(LOWER, UPPER, 20, dtype=torch.float64).round()
    with pytest.warns(ConvergenceWarning, match="border: .*`sigma` → .*exponential between"):
        fit = mle(truncated(models.gaussian, LOWER, UPPER), x, y)
    assert not fit.converged
    assert abs(fit.nll - _exponential_nll(x, y, LOWER, UPPER)) < 1e-6
    assert len(evaluations) == 0


def test_the_border_of_a_lognormal_is_exponential_in_the_logarithm(evaluations: list[str]) -> None:
    x = _columns(20, 2)
    y = torch.linspace(0.0, 3.0, 20, dtype=torch.float64).exp()
    with pytest.warns(ConvergenceWarning, match="`sigma` → .*logarithm of `y` is exponential between"):
        fit = mle(truncated(models.lognormal, 1.0, math.exp(3.0)), x, y)
    expected = _exponential_nll(x, y.log(), 0.0, 3.0) + float(y.log().sum())
    assert abs(fit.nll - expected) < 1e-6
    assert len(evaluations) == 0


def test_the_border_of_a_normal_truncated_on_one_side_is_an_exponential_distribution() -> None:
    """There the coefficient of variation above the bound is 1 or more: Castillo (1994)."""
    rate, rows = 0.5, 60
    shares = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    y = (-torch.log1p(-shares)).pow(1.2) / rate
    assert float(y.std(correction=0)) > float(y.mean())
    with pytest.warns(ConvergenceWarning, match="`sigma` → .*exponential between its bounds"):
        fit = mle(truncated(models.gaussian, lower=0.0), torch.empty((rows, 0)), y)
    assert abs(fit.nll - rows * (1 + math.log(float(y.mean())))) < 1e-5


@pytest.mark.parametrize("upper", [UPPER, None], ids=["both sides", "one side"])
def test_a_wide_truncated_normal_is_found_in_few_steps(evaluations: list[str], upper: float | None) -> None:
    shares = (torch.arange(40, dtype=torch.float64) + 0.5) / 40
    high = stats.norm.cdf((math.inf if upper is None else upper), 20, 90)
    low = stats.norm.cdf(LOWER, 20, 90)
    y = torch.from_numpy(stats.norm.ppf(low + shares.numpy() * (high - low), 20, 90))
    fit = mle(truncated(models.gaussian, LOWER, upper), torch.empty((40, 0)), y)

    def nll(values: np.ndarray) -> float:
        scale = math.exp(values[1])
        ends = (LOWER - values[0]) / scale, (math.inf if upper is None else (upper - values[0]) / scale)
        return -float(stats.truncnorm.logpdf(y.numpy(), *ends, loc=values[0], scale=scale).sum())

    expected = optimize.minimize(
        nll, [20.0, 4.5], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9}
    )
    assert fit.converged
    assert abs(fit.nll - expected.fun) < 1e-6
    assert len(evaluations) <= 3


@pytest.mark.parametrize(
    ("theta", "tau", "lower", "upper"),
    [
        (0.0, 0.0, -1.0, 2.0),
        (3.0, 0.0, -1.0, 2.0),
        (-500.0, 0.0, 0.0, math.inf),
        (2.0, 300.0, -1.0, 2.0),
        (1e4, 1.0, -1.0, 2.0),
        (1.0, 0.2, -1.0, math.inf),
        (-4.0, 0.1, -math.inf, 2.0),
    ],
)
def test_the_moments_of_tilted_densities_are_those_of_quadrature(
    theta: float, tau: float, lower: float, upper: float
) -> None:
    at, exponent, low, high = (torch.tensor([x], dtype=torch.float64) for x in (theta, tau, lower, upper))
    found = [float(each) for each in _moments(at, exponent[0], low, high)]
    mode = theta / (2 * tau) if tau else math.copysign(math.inf, theta)
    mode = min(max(mode, lower), upper)
    slope, most = theta - 2 * tau * mode, theta * mode - tau * mode * mode
    reach = 80 / (abs(slope) + math.sqrt(slope**2 + 160 * tau)) if slope or tau else math.inf

    unit = math.sqrt(found[2])
    ends = max(lower, mode - reach), min(upper, mode + reach)

    def moment(power: int, noise: float = 0.0) -> float:
        def term(y: float) -> float:
            return ((y - found[1]) / unit) ** power * math.exp(theta * y - tau * y * y - most)

        return float(integrate.quad(term, *ends, epsabs=noise, epsrel=1e-12, limit=400)[0])

    mass = moment(0)
    assert found[0] == pytest.approx(most + math.log(mass), rel=1e-10, abs=1e-10)
    for power, expected in enumerate((0.0, *(found[p] / unit**p for p in (2, 3, 4))), start=1):
        assert moment(power, 1e-11 * mass) / mass == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1e-9, 1e-40])
def test_the_probability_of_an_interval_that_holds_a_narrow_density_is_1(scale: float) -> None:
    """A quadratic about the middle of the interval would lose digits with the square of its width."""
    loc, spread = (torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (30.0, scale))
    mass = Truncated(Normal(loc, spread), 0.0, 100.0).log_mass
    assert abs(float(mass.detach())) <= 1e-13
    slopes = torch.autograd.grad(mass, (loc, spread), create_graph=True)
    bends = [torch.autograd.grad(slope, (loc, spread), retain_graph=True) for slope in slopes]
    assert all(abs(float(slope.detach())) * scale <= 1e-13 for slope in slopes)
    assert all(abs(float(bend)) * scale * scale <= 1e-13 for row in bends for bend in row)


@pytest.mark.parametrize("at", [(0.0, 1.0, 1.0), (1.0, 0.01, 2.0), (8.0, 3.0, 1.5), (-0.1, 20.0, 2.0)])
def test_derivatives_of_an_interval_in_its_ends_and_the_scale_are_exact(at: tuple[float, ...]) -> None:
    def exact(middle: Any, half: Any, scale: Any) -> Any:
        return mp.log(mp.ncdf((half - middle) / scale) - mp.ncdf((-half - middle) / scale))

    leaves = [torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in at]
    slopes = torch.autograd.grad(LOG_NORMAL_INTERVAL(*leaves), leaves, create_graph=True)
    for i, slope in enumerate(slopes):
        bends = torch.autograd.grad(slope, leaves, create_graph=True)
        third = torch.autograd.grad(bends[i], leaves[i], retain_graph=True)[0]
        found = [((i,), slope), ((i, i, i), third), *(((i, j), bend) for j, bend in enumerate(bends))]
        for places, value in found:
            with mp.workdps(60):
                order = tuple(places.count(k) for k in range(3))
                expected = float(mp.diff(exact, tuple(map(mp.mpf, at)), order))
            assert float(value.detach()) == pytest.approx(expected, rel=1e-10, abs=1e-10), places


def test_a_truncated_density_that_collapses_onto_a_row_at_its_bound_follows_it_exactly() -> None:
    """Its location is beyond the bound, and its scale far above the rounding of y; what is seen is not."""
    y, location = torch.tensor([0.0, 50.0, 100.0], dtype=torch.float64), torch.tensor(300.0).double()
    assert exact_rows(Truncated(Normal(location, 1e-5), 0.0, 100.0), y).tolist() == [False, False, True]
    assert not bool(exact_rows(Truncated(Normal(location, 1e-4), 0.0, 100.0), y).any())


def test_a_derivative_that_is_not_a_number_names_no_border(monkeypatch: pytest.MonkeyPatch) -> None:
    y, one = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    bound, ones, loss = torch.ones_like(y), torch.ones_like(y), TruncatedRows.loss
    rows = TruncatedRows(
        y, -bound, bound, ones, Basis(ones[:, None], False, torch.ones_like(one)[:, None]), one
    )
    assert optimum(rows) is not None

    def lost(rows: TruncatedRows, natural: Tensor) -> tuple[float, Tensor, Tensor]:
        value, gradient, hessian = loss(rows, natural)
        gradient[len(one) :] = math.nan
        return value, gradient, hessian

    monkeypatch.setattr(TruncatedRows, "loss", lost)
    assert optimum(rows) is None


def test_rounding_far_out_is_no_rise() -> None:
    """Locations of 1e9 in units of the scale: two huge terms cancel in the density between bounds."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2))
    rng.uniform(0, 1, 300), rng.normal(size=300)
    y = rng.integers(0, 10, 300) * 1.0
    with pytest.raises(UnboundedLikelihoodError, match="`location`"):
        mle(truncated(models.logistic, lower=0.0, upper=9.0), x, y)


@pytest.mark.parametrize("upper", [9.0, None], ids=["both sides", "one side"])
def test_medians_beyond_the_bounds_of_nearly_all_rows_stop_the_smoothing(
    monkeypatch: pytest.MonkeyPatch, upper: float | None
) -> None:
    """A Laplace density between bounds is exponential there, whatever its location: none is certified."""
    attempts: list[float] = []
    certified = Continuation._certified

    def counted(self: Continuation, problem: Any, z: Tensor, softness: float, *rest: Any) -> Any:
        attempts.append(softness)
        return certified(self, problem, z, softness, *rest)

    monkeypatch.setattr(Continuation, "_certified", counted)
    y = -3 * torch.log(1 - (torch.arange(40, dtype=torch.float64) + 0.5) / 40 * (0.95 if upper else 1.0))
    with pytest.warns(ConvergenceWarning, match="quantile of 40 of 40 rows lies beyond their bound"):
        fit = mle(truncated(models.laplace, 0.0, upper), torch.empty((40, 0)), y)
    assert not fit.converged
    assert attempts == []
    expected = (
        40 * (1 + math.log(float(y.mean())))
        if upper is None
        else _exponential_nll(torch.empty((40, 0), dtype=torch.float64), y, 0.0, upper)
    )
    assert abs(fit.nll - expected) < 1e-3


def test_a_truncated_median_begins_without_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The null model between bounds may run off, for a hundred steps, before the first convex problem."""
    values: list[float] = []
    minimise = Newton.minimise

    def counted(self: Newton, problem: Any, start: Tensor, progress: bool = False) -> Any:
        found = minimise(self, problem, start, progress)
        values.append(found.steps)
        return found

    monkeypatch.setattr(Newton, "minimise", counted)
    y = torch.from_numpy(np.random.default_rng(9).uniform(0, 1, 60))
    with pytest.warns(ConvergenceWarning):
        mle(truncated(models.laplace, 0.0, 1.0), torch.empty((60, 0)), y)
    assert max(values) <= 15
