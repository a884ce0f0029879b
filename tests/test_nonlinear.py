"""Users' own models, nonlinear in their parameters: NIST's certified values, and optima from poor starts."""

from functools import cache
from itertools import cycle

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from nist import NONLINEAR, correct_digits, curve, nonlinear
from reference import number

from neglog import flat, map_estimate, mle
from neglog.data import prepare
from neglog.errors import ConvergenceWarning, ModelError, UnboundedLikelihoodError
from neglog.fitting.curvature import GaussNewton
from neglog.objective.objective import Objective
from neglog.solvers import Newton, TrustRegion
from neglog.solvers.trust import step_within

DIGITS = 6
HARD = ("BoxBOD", "Eckerle4", "MGH09")
"""Three of NIST's higher level of difficulty."""
CERTIFIED = [(name, 0) for name in NONLINEAR if name != "Lanczos1"] + [(name, 1) for name in HARD]


def started(values):
    return {f"b{i + 1}": value for i, value in enumerate(values)}


def estimates(fit):
    return np.array([value.item() for name, value in fit.params.items() if name != "sigma"])


def certified(name, found):
    """The certified values, in the order and with the signs that a model with symmetries ended at."""
    values = np.array(NONLINEAR[name]["certified"])
    if name.startswith("Lanczos"):
        pairs, own = values.reshape(3, 2), found.reshape(3, 2)
        return pairs[np.argsort(pairs[:, 1])][np.argsort(np.argsort(own[:, 1]))].ravel()
    if name == "Eckerle4":  # of b1 and b2 only the quotient and the square of b2 matter
        return values * np.array([np.sign(found[1]), np.sign(found[1]), 1.0])
    return values


@pytest.mark.parametrize(("name", "start"), CERTIFIED, ids=lambda part: str(part))
def test_certified_from_either_start(name, start):
    """From start 1, far off, and, three hard ones, 2, near; sigma always starts at its prior's median, 1."""
    model, x, y = nonlinear(name)
    case = NONLINEAR[name]
    fit = mle(model, x, y, start=started(case["starts"][start]))
    assert fit.converged, fit.status
    found = estimates(fit)
    assert correct_digits(found, certified(name, found)) > DIGITS
    sigma = (case["residual_sum_of_squares"] / len(y)) ** 0.5
    assert fit.params["sigma"].item() == pytest.approx(sigma, rel=1e-7)


def test_a_curve_that_the_data_follow_to_the_last_digit_has_no_sigma():
    model, x, y = nonlinear("Lanczos1")  # certified residuals of 1e-13
    with pytest.raises(UnboundedLikelihoodError, match="fits every row exactly"):
        mle(model, x, y, start=started(NONLINEAR["Lanczos1"]["starts"][1]))


@pytest.mark.parametrize("start", [0, 1])
def test_it_is_certified_with_sigma_known(start):
    model, x, y = nonlinear("Lanczos1")
    known = pyro.condition(model, {"sigma": number(1e-6)})
    fit = mle(known, x, y, start=started(NONLINEAR["Lanczos1"]["starts"][start]))
    assert fit.converged, fit.status
    found = estimates(fit)
    assert correct_digits(found, certified("Lanczos1", found)) > DIGITS


# Curves of the laboratory, on made data, from starts that are wrong by orders of magnitude.

X = np.linspace(0.1, 10.0, 60)
NOISE = 0.01 * np.cos(37.0 * np.arange(60) ** 1.5)
CURVES = {
    "michaelis_menten": (lambda x, b: b[0] * x / (b[1] + x), [3.0, 1.5], [[1.0, 1.0], [100.0, 50.0]]),
    "two_exponentials": (
        lambda x, b: b[0] * torch.exp(-b[1] * x) + b[2] * torch.exp(-b[3] * x),
        [2.0, 2.0, 1.0, 0.2],
        [[1.0, 1.0, 1.0, 0.1], [1.0, 10.0, 1.0, 0.01]],
    ),
    "peak_on_a_slope": (
        lambda x, b: b[0] + b[1] * x + b[2] * torch.exp(-0.5 * ((x - b[3]) / b[4]) ** 2),
        [1.0, 0.2, 2.0, 4.0, 0.7],
        [[0.0, 0.0, 1.0, 5.0, 1.0], [0.0, 0.0, 10.0, 3.0, 2.0]],
    ),
    "logistic_growth": (
        lambda x, b: b[0] / (1 + torch.exp(-b[1] * (x - b[2]))),
        [5.0, 1.2, 4.0],
        [[1.0, 1.0, 1.0], [50.0, 0.1, 9.0]],
    ),
    "decay_with_an_offset": (
        lambda x, b: b[0] * torch.exp(-x / b[1]) + b[2],
        [4.0, 2.0, 0.5],
        [[1.0, 1.0, 0.0], [100.0, 0.1, 10.0]],
    ),
}
STARTS = [(name, i) for name, (_, _, starts) in CURVES.items() for i in range(len(starts))]


def best(mean, truth, x, y):
    """Gauss-Newton from the truth, by NumPy, until the steps are rounding."""
    b, points = torch.tensor(truth, dtype=torch.float64), torch.from_numpy(x)
    for _ in range(50):
        residuals = torch.from_numpy(y) - mean(points, b)
        jacobian = torch.autograd.functional.jacobian(lambda v: mean(points, v), b)
        step = torch.linalg.lstsq(jacobian, residuals[:, None]).solution[:, 0]
        b = b + step
        if float(step.norm()) <= 1e-12 * float(b.norm()):
            return b.numpy()
    raise AssertionError(f"no optimum near {truth}")


@cache
def observed(name):
    """The response of a curve, and the parameters that fit it best."""
    mean, truth, _ = CURVES[name]
    y = mean(torch.from_numpy(X), truth).numpy() + NOISE
    return y, best(mean, truth, X, y)


@pytest.mark.parametrize(
    ("name", "start", "unit"), [(*case, u) for case, u in zip(STARTS, cycle((1e-9, 1e9, 1.0)), strict=False)]
)
def test_the_optimum_of_a_curve_from_a_poor_start_in_any_unit(name, start, unit):
    """The parameters of x are measured in units of x, and all is found as if these were 1."""
    mean, truth, starts = CURVES[name]
    y, expected = observed(name)

    def in_units(x, b):
        return mean(x / unit, b)

    fit = mle(curve(in_units, len(truth)), unit * X[:, None], y, start=started(starts[start]))
    assert fit.converged, fit.status
    found = estimates(fit)
    if name == "two_exponentials" and found[1] < found[3]:
        expected = expected[[2, 3, 0, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e9])
def test_parameters_of_any_size(scale):
    def mean(x, b):
        return b[0] * (1 - torch.exp(-b[1] * x / scale))

    y = 2 * (1 - np.exp(-0.5 * X)) + NOISE
    fit = mle(curve(mean, 2), X[:, None], y, start={"b1": 1.0, "b2": scale})
    assert fit.converged, fit.status
    expected = best(lambda x, b: b[0] * (1 - torch.exp(-b[1] * x)), [2.0, 0.5], X, y)
    np.testing.assert_allclose(estimates(fit), expected * np.array([1.0, scale]), rtol=1e-6)


def test_heavy_tails_about_a_curve():
    def model(x, y=None):
        b = [pyro.sample(f"b{i}", dist.Normal(number(0.0), 10.0)) for i in (1, 2)]
        scale = pyro.sample("scale", dist.LogNormal(number(0.0), 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.StudentT(3.0, b[0] * x[:, 0] / (b[1] + x[:, 0]), scale), obs=y)

    y = 3 * X / (1.5 + X) + NOISE
    y[::7] += 5
    fit = mle(model, X[:, None], y, start={"b1": 20.0, "b2": 20.0, "scale": 1.0})
    assert fit.converged, fit.status
    assert fit.params["b1"].item() == pytest.approx(3.0, abs=0.05)


def test_a_count_about_a_curve():
    def model(x, y=None):
        height, rate = (pyro.sample(name, dist.LogNormal(number(0.0), 3.0)) for name in ("height", "rate"))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Poisson(height * torch.exp(-rate * x[:, 0])), obs=y)

    y = np.floor(100 * np.exp(-0.3 * X))
    far = mle(model, X[:, None], y, start={"height": 1.0, "rate": 3.0})
    near = mle(model, X[:, None], y, start={"height": 100.0, "rate": 0.3}, solver=Newton())
    assert far.converged, far.status
    assert far.nll == pytest.approx(near.nll, abs=1e-9)
    for name, value in near.params.items():
        assert far.params[name].item() == pytest.approx(value.item(), rel=1e-7)


def test_priors_count_on_the_way_too():
    model, x, y = nonlinear("Misra1a")
    start = started(NONLINEAR["Misra1a"]["starts"][0])
    fit, newton = (map_estimate(model, x, y, start=start, solver=s) for s in (TrustRegion(), Newton()))
    assert fit.converged
    assert fit.loss <= newton.loss + 1e-9


def test_start_values_serve_where_the_model_cannot_be_evaluated_without():
    """NIST's ENSO divides by a period, which a Normal prior has at 0."""
    model, x, y = nonlinear("ENSO")
    assert mle(model, x, y, start=started(NONLINEAR["ENSO"]["starts"][1])).converged


def test_a_border_is_not_an_optimum():
    """A saturating curve through a straight line: the limit is at infinity, and it is said."""
    x = np.linspace(1.0, 2.0, 20)
    y = x + 1e-3 * np.cos(7.0 * np.arange(20)) + 0.05 * (x - 1.5) ** 2
    model = curve(lambda x, b: b[0] * (1 - torch.exp(-b[1] * x)), 2)
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        fit = mle(model, x[:, None], y, start={"b1": 5.0, "b2": 0.5}, solver=TrustRegion(max_steps=100))
    assert not fit.converged


@pytest.mark.parametrize("lowest", [2.0, -1.0, 0.0])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 1e3])
def test_the_step_minimises_the_quadratic_within_the_region(lowest, radius):
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    model = basis @ torch.diag(torch.tensor([lowest, 3.0, 5.0, 8.0], dtype=torch.float64)) @ basis.T
    gradient = torch.randn(4, generator=generator, dtype=torch.float64)
    gradient = gradient if lowest else gradient - basis[:, 0] * (basis[:, 0] @ gradient)  # the hard case
    scale = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)

    def value(p):
        return gradient @ p + 0.5 * ((p @ model) * p).sum(-1)

    step, _ = step_within(model, gradient, scale, radius)
    assert float((scale * step).norm()) <= 1.011 * radius
    others = torch.randn(20_000, 4, generator=generator, dtype=torch.float64)
    others = others * (radius * torch.rand(20_000, 1, generator=generator).double() ** 0.25)
    others = others / (others / radius).norm(dim=1, keepdim=True).clamp_min(1.0) / scale
    assert float(value(step)) <= float((others @ gradient + 0.5 * ((others @ model) * others).sum(1)).min())


def test_a_model_without_a_density_where_it_starts_asks_for_a_start():
    model = curve(lambda x, b: b[0] * x / (b[1] * x), 2)  # 0 / 0 where both are at their priors' means
    with pytest.raises(ModelError, match=r"no density at the initial values .*\(.*b2 = 0.*`start="):
        mle(model, X[:, None], X)


@pytest.mark.parametrize("name", ["Bennett5", "Lanczos2"])
def test_gauss_newton_replayed_is_that_of_the_model(name):
    model, x, y = nonlinear(name)
    start = started(NONLINEAR[name]["starts"][1])
    objective = Objective(flat(model), prepare(x, y), start)
    ran, replayed = GaussNewton(objective, untraced=1000), GaussNewton(objective)
    for step in (0.0, 0.001, -0.002):
        theta = objective.initial * (1 + step)
        found, known = replayed(theta), ran(theta)
        assert not replayed.replay.reason
        torch.testing.assert_close(found, known, rtol=1e-11, atol=1e-11 * float(known.abs().max()))
