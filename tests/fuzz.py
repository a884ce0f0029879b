"""Random regressions that are hard on rounding, and a judge of their fits in 50 digits.

A fit is judged where it stopped: the gradient and the Hessian of the log-likelihood there, from finite
differences of a density written down in mpmath, say how many standard errors away the optimum is.
"""

from dataclasses import dataclass
from functools import partial

import mpmath
import numpy as np
from mpmath import mp, mpf

from neglog import models

DIGITS = 50
STEP = mpf(10) ** -12
"""Of differences in 50 digits: their error is the square of it."""


def _normal(y, mean, log_sigma):
    return -log_sigma - (y - mean) ** 2 / (2 * mp.exp(2 * log_sigma)) - mp.log(2 * mp.pi) / 2


def _heteroscedastic(y, mean, log_variance):
    return _normal(y, mean, log_variance / 2)


def _student(y, location, log_scale, df=4):
    u = (y - location) / mp.exp(log_scale)
    constant = mp.loggamma(mpf(df + 1) / 2) - mp.loggamma(mpf(df) / 2) - mp.log(df * mp.pi) / 2
    return constant - log_scale - mpf(df + 1) / 2 * mp.log1p(u**2 / df)


def _poisson(y, log_rate):
    return y * log_rate - mp.exp(log_rate) - mp.loggamma(y + 1)


def _bernoulli(y, logit):
    return -mp.log1p(mp.exp(-logit if y else logit))


def _gamma(y, log_mean, log_shape):
    shape = mp.exp(log_shape)
    return (
        shape * (log_shape - log_mean)
        + (shape - 1) * mp.log(y)
        - shape * y * mp.exp(-log_mean)
        - mp.loggamma(shape)
    )


def _negative_binomial(y, log_mean, log_dispersion):
    size = mp.exp(-log_dispersion)
    fail = mp.log1p(mp.exp(log_mean + log_dispersion))
    counts = mp.loggamma(y + size) - mp.loggamma(size) - mp.loggamma(y + 1)
    return counts + y * (log_mean + log_dispersion - fail) - size * fail


@dataclass(frozen=True)
class Family:
    """A model, its log-density in the predictor and in the log of its constant, and how to draw from it."""

    model: object
    density: object
    predictor: str
    second: str | None
    draw: object


def _count(rng, eta, size=None):
    rate = np.exp(np.clip(1 + eta, -3, 4))
    return rng.poisson(rate if size is None else rate * rng.gamma(size, 1 / size, len(eta))).astype(float)


FAMILIES = {
    "gaussian": Family(models.gaussian, _normal, "mean", "sigma", lambda r, e: e + r.normal(size=len(e))),
    "heteroscedastic": Family(
        models.heteroscedastic, _heteroscedastic, "mean", "log_variance",
        lambda r, e: e + np.exp(0.4 * e) * r.normal(size=len(e)),
    ),
    "student_t": Family(
        partial(models.student_t, df=4.0), _student, "location", "scale",
        lambda r, e: e + r.standard_t(3, size=len(e)),
    ),
    "poisson": Family(models.poisson, _poisson, "log_rate", None, _count),
    "bernoulli": Family(
        models.bernoulli, _bernoulli, "logit", None,
        lambda r, e: (r.uniform(size=len(e)) < 1 / (1 + np.exp(-e))).astype(float),
    ),
    "gamma": Family(
        models.gamma, _gamma, "log_mean", "shape",
        lambda r, e: np.maximum(np.exp(np.clip(e, -3, 3)) * r.gamma(2.0, 0.5, len(e)), 1e-8),
    ),
    "negative_binomial": Family(
        models.negative_binomial, _negative_binomial, "log_mean", "dispersion",
        lambda r, e: _count(r, e, 1.5),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Regression:
    """A drawn problem."""

    family: str
    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None


def drawn(family, seed):
    """Rows 5 to 80, columns 1 to 5, their sizes over 16 decades, some shifted, some alike to 1 - 1e-10."""
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(5, 80)), int(rng.integers(1, 6))
    x = rng.normal(size=(n, p))
    alike = 10.0 ** rng.uniform(-5, 0, p)
    for j in range(1, p):
        if rng.uniform() < 0.4:
            x[:, j] = x[:, j - 1] + alike[j] * x[:, j]
    eta = x @ (rng.normal(size=p) / np.sqrt(p))
    shift = np.where(rng.uniform(size=p) < 0.4, 10.0 ** rng.uniform(0, 5, p), 0.0)
    x = (x + shift) * 10.0 ** rng.uniform(-8, 8, p)
    weights = rng.integers(0, 3, n).astype(float) if rng.uniform() < 0.3 else None
    y = FAMILIES[family].draw(rng, eta) if family in FAMILIES else eta + rng.standard_t(2, size=n)
    if family in ("gaussian", "heteroscedastic", "student_t", "laplace"):
        y = (y + 10.0 ** rng.uniform(0, 4) * (rng.uniform() < 0.3)) * 10.0 ** rng.uniform(-6, 6)
    return Regression(family, x, y, weights)


def second_derivatives(density, y, etas):
    """The gradient and the Hessian of a log-density in its one or two predictors, by central differences."""

    def at(*moves):
        return density(y, *(eta + STEP * move for eta, move in zip(etas, moves, strict=True)))

    size = len(etas)
    units = np.eye(size, dtype=int).tolist()
    ends = [(at(*unit), at(*[-v for v in unit])) for unit in units]
    middle = at(*[0] * size)
    gradient = [(up - down) / (2 * STEP) for up, down in ends]
    hessian = [[(up - 2 * middle + down) / STEP**2] * size for up, down in ends]
    if size == 2:
        hessian[0][1] = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / (4 * STEP**2)
        hessian[1][0] = hessian[0][1]
    return gradient, hessian


@dataclass(frozen=True)
class Verdict:
    """How far the optimum is, in standard errors, how far rounding allows, and whether there is one."""

    decrement: float
    allowed: float
    definite: bool


def judged(problem, fit):
    """The distance of a fit from its optimum, in 50 digits."""
    family = FAMILIES[problem.family]
    with mpmath.workdps(DIGITS):
        blocks, thetas = _designs(problem, fit, family)
        etas = [_products(block, theta) for block, theta in zip(blocks, thetas, strict=True)]
        sizes = [len(theta) for theta in thetas]
        total = sum(sizes)
        gradient, hessian, slack = mp.matrix(total, 1), mp.matrix(total, total), mpf(0)
        weights = np.ones(len(problem.y)) if problem.weights is None else problem.weights
        for i, (y, weight) in enumerate(zip(problem.y.tolist(), weights.tolist(), strict=True)):
            if weight == 0:
                continue
            g, h = second_derivatives(family.density, mpf(y), [eta[i] for eta in etas])
            rows = [block[i] for block in blocks]
            size = sum(abs(v * t) for v, t in zip(rows[0], thetas[0], strict=True))
            slack += weight * abs(h[0][0]) * (mpf(2) ** -52 * size) ** 2
            for a, row in enumerate(rows):
                at = sum(sizes[:a])
                for j, v in enumerate(row):
                    gradient[at + j] -= weight * g[a] * v
                    for b, other in enumerate(rows):
                        to = sum(sizes[:b])
                        for k, u in enumerate(other):
                            hessian[at + j, to + k] -= weight * h[a][b] * v * u
        try:
            factor = mp.cholesky(hessian)
        except ValueError:
            return Verdict(float("inf"), 0.0, False)
        scaled = mp.lu_solve(factor, gradient)
        return Verdict(float(mp.norm(scaled)), float(4 * mp.sqrt(slack)), True)


def _products(block, theta):
    return [sum(v * t for v, t in zip(row, theta, strict=True)) for row in block]


def _designs(problem, fit, family):
    rows = [[mpf(1), *map(mpf, row)] for row in problem.x.tolist()]
    ones = [[mpf(1)] for _ in rows]

    def theta(name):
        return [mpf(fit.params[f"{name}.bias"].item()), *map(mpf, fit.params[f"{name}.weight"].tolist())]

    blocks, thetas = [rows], [theta(family.predictor)]
    if family.second is not None:
        linear = f"{family.second}.bias" in fit.params
        blocks.append(rows if linear else ones)
        thetas.append(theta(family.second) if linear else [mp.log(mpf(fit.params[family.second].item()))])
    return blocks, thetas
