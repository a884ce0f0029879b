"""Posteriors of real data by importance sampling, in NumPy and SciPy alone, for NUTS to be held against.

Densities and priors are written here once more, by hand. ``python tests/posteriors.py`` draws anew, by
importance sampling and by long chains of neglog's NUTS, and writes data/posteriors.json: some minutes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln, xlogy
from scipy.stats import multivariate_t

from neglog import Posterior, censored, datasets, models, posterior, priors_for, with_priors

KEPT = Path(__file__).parent / "data" / "posteriors.json"
DRAWS, CHUNK, ROUNDS, TAILS = 400_000, 2_000, 3, 7.0
"""Draws of the last round, and at a time; rounds that fit the proposal, and its degrees of freedom."""
SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
LOG_2_PI = np.log(2 * np.pi)
Array = np.ndarray


def normal(value: Array, mean: Array | float, sd: Array | float) -> Array:
    return -0.5 * ((value - mean) / sd) ** 2 - np.log(sd) - 0.5 * LOG_2_PI


@dataclass(frozen=True)
class Case:
    """A model of real data: the parameters are `names` in the order of a vector u of real numbers."""

    names: tuple[str, ...]
    start: Array
    unit: Array
    """About how far each entry of u can go."""
    log_density: Callable[[Array], Array]
    """Of u `(S, K)`: the log of the posterior density with the Jacobian, `(S,)`."""
    logs: tuple[int, ...]
    """The entries of u that are logs of parameters."""
    draw: Callable[..., Posterior]


def engel() -> Case:
    """Food against income, the mean and the log variance linear, under the priors of `priors_for`."""
    table = datasets.load("engel")
    x, y = table["income"].to_numpy(), table["food_expenditure"].to_numpy()
    sd_x, sd_y, far = x.std(ddof=1), y.std(ddof=1), np.sqrt(1 + (x.mean() / x.std(ddof=1)) ** 2)

    def log_density(u: Array) -> Array:
        weight, bias, slope, level = u.T
        mean, log_variance = (bias[:, None] + weight[:, None] * x, level[:, None] + slope[:, None] * x)
        rows = normal(y, mean, np.exp(log_variance / 2)).sum(1)
        prior = normal(weight, 0, 2.5 * sd_y / sd_x) + normal(bias, y.mean(), 2.5 * sd_y * far)
        return rows + prior + normal(slope, 0, 2.5 / sd_x) + normal(level, 2 * np.log(sd_y), 2.5 * far)

    def draw(**settings: int) -> Posterior:
        design = table[["income"]]
        model = with_priors(models.heteroscedastic, priors_for(models.heteroscedastic, design, y))
        return posterior(model, design, y, **settings)

    return Case(
        names=("mean.weight", "mean.bias", "log_variance.weight", "log_variance.bias"),
        start=np.array([0.5, 100.0, 0.001, 8.0]),
        unit=np.array([0.1, 50.0, 0.001, 1.0]),
        log_density=log_density,
        logs=(),
        draw=draw,
    )


def articles() -> Case:
    """Articles of 915 doctoral students, negative binomial, under the priors of `priors_for`."""
    table = datasets.load("articles")
    design = table.drop(columns="articles")
    x, y = design.to_numpy(), table["articles"].to_numpy()
    mean_x, sd_x = x.mean(0), x.std(0, ddof=1)
    far = np.sqrt(1 + ((mean_x / sd_x) ** 2).sum())

    def log_density(u: Array) -> Array:
        weight, bias, log_dispersion = u[:, :-2], u[:, -2], u[:, -1]
        dispersion = np.exp(log_dispersion)
        mean, size = np.exp(bias[:, None] + weight @ x.T), (1 / dispersion)[:, None]
        rows = gammaln(y + size) - gammaln(size) - gammaln(y + 1) + xlogy(size, size) + xlogy(y, mean)
        rows = (rows - (y + size) * np.log(size + mean)).sum(1)
        prior = normal(weight, 0, 2.5 / sd_x).sum(1) + normal(bias, np.log(y.mean()), 2.5 * far)
        return rows + prior - dispersion + log_dispersion

    def draw(**settings: int) -> Posterior:
        model = with_priors(models.negative_binomial, priors_for(models.negative_binomial, design, y))
        return posterior(model, design, y, **settings)

    return Case(
        names=(*(f"log_mean.weight[{name}]" for name in design), "log_mean.bias", "dispersion"),
        start=np.array([0.0] * x.shape[1] + [np.log(y.mean()), -1.0]),
        unit=np.array([*(0.2 / sd_x), 0.2, 0.3]),
        log_density=log_density,
        logs=(6,),
        draw=draw,
    )


def leukaemia() -> Case:
    """Weeks in remission of 42 patients, Weibull, twelve censored, under the model's own priors."""
    table = datasets.load("leukaemia")
    treated, weeks, relapsed = (table[name].to_numpy() for name in ("treated", "weeks", "relapsed"))

    def log_density(u: Array) -> Array:
        weight, bias, log_shape = u.T
        shape, log_scale = np.exp(log_shape)[:, None], bias[:, None] + weight[:, None] * treated
        power = np.exp(shape * (np.log(weeks) - log_scale))
        log_hazard = np.log(shape) + (shape - 1) * np.log(weeks) - shape * log_scale
        rows = (relapsed * log_hazard - power).sum(1)
        prior = normal(weight, 0, 2.5) + normal(bias, 0, 5.0)
        return rows + prior - 0.1 * np.exp(log_shape) + log_shape

    def draw(**settings: int) -> Posterior:
        upper = np.where(relapsed == 1, np.inf, weeks)
        return posterior(censored(models.weibull), table[["treated"]], weeks, upper=upper, **settings)

    return Case(
        names=("log_scale.weight", "log_scale.bias", "shape"),
        start=np.array([1.0, 2.0, 0.2]),
        unit=np.array([0.3, 0.2, 0.2]),
        log_density=log_density,
        logs=(2,),
        draw=draw,
    )


CASES = {"engel": engel, "articles": articles, "leukaemia": leukaemia}


def series(found: Posterior) -> dict[str, Array]:
    """Name -> draws `(chains, draws)` of each single number."""
    columns = found.objective.data.columns
    every = {}
    for name, values in found.draws.items():
        numbers = values.numpy().reshape(*found.shape, -1)
        names = [name] if numbers.shape[-1] == 1 else [f"{name}[{c}]" for c in columns[""]]
        every |= {key: numbers[..., j] for j, key in enumerate(names)}
    return every


def sampled(case: Case, seed: int = 0) -> dict[str, dict[str, float]]:
    """The mean and the standard deviation of each parameter, with their errors, by importance sampling.

    Draws are weighted by the ratio of the density to that of a Student t, which is fitted to the weighted
    draws of the round before (Cappé et al. 2004); errors are those of ratios of means.
    """
    rng = np.random.default_rng(seed)
    centre, spread = mode(case)
    for turn in range(ROUNDS + 1):
        proposal = multivariate_t(centre, spread * (TAILS - 2) / TAILS, df=TAILS, seed=rng)
        v = proposal.rvs(DRAWS if turn == ROUNDS else DRAWS // 10)
        parts = [loss(case, v[i : i + CHUNK]) for i in range(0, len(v), CHUNK)]
        log_weights = -np.concatenate(parts) - proposal.logpdf(v)
        weights = np.exp(log_weights - log_weights.max())
        weights /= weights.sum()
        centre, spread = weights @ v, np.cov(v.T, aweights=weights)
    values = case.start + case.unit * v
    values[:, list(case.logs)] = np.exp(values[:, list(case.logs)])
    mean = weights @ values
    squares = (values - mean) ** 2
    variance = weights @ squares
    error = np.sqrt(weights**2 @ squares)
    error_of_sd = np.sqrt(weights**2 @ (squares - variance) ** 2) / (2 * np.sqrt(variance))
    numbers = zip(mean, error, np.sqrt(variance), error_of_sd, strict=True)
    kinds = ("mean", "error of mean", "sd", "error of sd")
    return {
        name: dict(zip(kinds, map(float, each), strict=True))
        for name, each in zip(case.names, numbers, strict=True)
    }


def loss(case: Case, v: Array) -> Array:
    """Minus the log density of v `(S, K)`, which are u in units of about its reach."""
    return -case.log_density(case.start + case.unit * v)


def mode(case: Case) -> tuple[Array, Array]:
    """The mode of v, and the inverse of the curvature there by differences."""
    size, step = len(case.start), 1e-3
    settings = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-7, "fatol": 1e-9, "adaptive": True}
    start = np.zeros(size)
    found = minimize(lambda v: loss(case, v[None])[0], start, method="Nelder-Mead", options=settings).x
    steps = step * np.eye(size)
    corners = np.array([[[found + i * a + j * b for i, j in SIGNS] for b in steps] for a in steps])
    values = loss(case, corners.reshape(-1, size)).reshape(size, size, len(SIGNS))
    hessian = values @ np.array([i * j for i, j in SIGNS]) / (4 * step**2)
    return found, np.linalg.inv(hessian)


def chained(case: Case, draws: int) -> dict[str, dict[str, float]]:
    """The same by four long chains of NUTS, the errors by ArviZ."""
    import arviz

    every = series(case.draw(draws=draws, seed=1))
    return {
        name: {
            "mean": float(values.mean()),
            "error of mean": float(arviz.mcse(values, method="mean")),
            "sd": float(values.std()),
            "error of sd": float(arviz.mcse(values, method="sd")),
        }
        for name, values in every.items()
    }


def main() -> None:
    kept = {}
    for name, make in CASES.items():
        case = make()
        kept[name] = {
            "importance sampling": sampled(case),
            "nuts": chained(case, draws=10_000 if name == "articles" else 50_000),
        }
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(kept[name], indent=1), flush=True)


if __name__ == "__main__":
    main()
