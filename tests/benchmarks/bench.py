"""Time neglog beside the packages that were written for one model each, and write what was found.

``make bench`` runs this in an environment of its own. Each contender fits the same data in interleaved runs.
A table shows the median time of neglog over that of each peer, with the spread over the repeats, and how far
each ends above the best optimum that any of them found. A number above 1 means that the peer was faster.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import statsmodels.api as sm
from scipy.special import expit, xlogy
from sklearn.linear_model import (
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
)

from neglog import mle, models

COLUMNS = 20
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From a design `(N, P)` and a response `(N,)` to the intercept and the slopes, `(1 + P,)`."""


@dataclass(frozen=True)
class Work:
    """One model: data, what an optimum makes smallest (a mean over rows), and who fits it."""

    name: str
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    criterion: Callable[[np.ndarray, np.ndarray], float]
    ours: Fit
    peers: dict[str, Fit]
    most: dict[str, int]
    """The number of rows beyond which a peer is left out, since it would take minutes."""


def neglog(model: Callable, location: str) -> Fit:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = mle(model, x, y).params
        return np.append(found[f"{location}.bias"], found[f"{location}.weight"])

    return fit


def scikit(make: Callable) -> Fit:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = make().fit(x, y)
        return np.append(found.intercept_, found.coef_)

    return fit


def statsmodels(make: Callable, **settings: object) -> Fit:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(make(y, sm.add_constant(x)).fit(**settings).params)[: x.shape[1] + 1]

    return fit


def glum(family: str) -> dict[str, Fit]:
    """glum, where it is installed."""
    try:
        from glum import GeneralizedLinearRegressor
    except ImportError:
        return {}
    return {"glum": scikit(lambda: GeneralizedLinearRegressor(family=family, alpha=0, gradient_tol=1e-8))}


def least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(sm.add_constant(x), y, rcond=None)[0]


def negative_binomial(rng: np.random.Generator, eta: np.ndarray) -> np.ndarray:
    return rng.poisson(np.exp(eta) * rng.gamma(2.0, 0.5, len(eta))).astype(float)


SCIKIT = {"alpha": 0, "tol": 1e-8, "max_iter": 1000}
WORK = [
    Work(
        "gaussian",
        lambda rng, eta: eta + rng.normal(size=len(eta)),
        lambda eta, y: np.mean((y - eta) ** 2),
        neglog(models.gaussian, "mean"),
        {
            "numpy lstsq": least_squares,
            "scikit-learn": scikit(LinearRegression),
            "statsmodels": statsmodels(sm.OLS),
        },
        {},
    ),
    Work(
        "poisson",
        lambda rng, eta: rng.poisson(np.exp(eta)).astype(float),
        lambda eta, y: np.mean(np.exp(eta) - y * eta),
        neglog(models.poisson, "log_rate"),
        {
            "scikit-learn newton": scikit(lambda: PoissonRegressor(solver="newton-cholesky", **SCIKIT)),
            "scikit-learn lbfgs": scikit(lambda: PoissonRegressor(**SCIKIT)),
            "statsmodels": statsmodels(lambda y, x: sm.GLM(y, x, family=sm.families.Poisson())),
        }
        | glum("poisson"),
        {"statsmodels": 100_000},
    ),
    Work(
        "gamma",
        lambda rng, eta: np.exp(eta) * rng.gamma(3.0, 1 / 3.0, len(eta)),
        lambda eta, y: np.mean(y * np.exp(-eta) + eta),
        neglog(models.gamma, "log_mean"),
        {
            "scikit-learn newton": scikit(lambda: GammaRegressor(solver="newton-cholesky", **SCIKIT)),
            "statsmodels": statsmodels(
                lambda y, x: sm.GLM(y, x, family=sm.families.Gamma(sm.families.links.Log()))
            ),
        }
        | glum("gamma"),
        {"statsmodels": 100_000},
    ),
    Work(
        "bernoulli",
        lambda rng, eta: (rng.random(len(eta)) < expit(eta)).astype(float),
        lambda eta, y: np.mean(np.logaddexp(0, eta) - y * eta),
        neglog(models.bernoulli, "logit"),
        {
            f"scikit-learn {solver}": scikit(
                lambda solver=solver: LogisticRegression(C=np.inf, solver=solver, tol=1e-8, max_iter=1000)
            )
            for solver in ("lbfgs", "newton-cholesky")
        }
        | {"statsmodels": statsmodels(sm.Logit, disp=0)}
        | glum("binomial"),
        {"statsmodels": 100_000},
    ),
    Work(
        "negative_binomial",
        negative_binomial,
        lambda eta, y: _negative_binomial_loss(eta, y),
        neglog(models.negative_binomial, "log_mean"),
        {"statsmodels": statsmodels(sm.NegativeBinomial, disp=0, maxiter=1000)},
        {"statsmodels": 100_000},
    ),
    Work(
        "laplace",
        lambda rng, eta: eta + rng.laplace(size=len(eta)),
        lambda eta, y: np.mean(np.abs(y - eta)),
        neglog(models.laplace, "median"),
        {
            "statsmodels": statsmodels(sm.QuantReg, q=0.5, max_iter=10_000),
            "scikit-learn": scikit(lambda: QuantileRegressor(alpha=0)),
        },
        {"scikit-learn": 1000, "neglog": 100_000},
    ),
]


def _negative_binomial_loss(eta: np.ndarray, y: np.ndarray) -> float:
    """The mean NLL at the best dispersion for these coefficients, without what does not depend on either."""
    from scipy.optimize import minimize_scalar
    from scipy.special import gammaln

    def loss(log_size: float) -> float:
        size = np.exp(log_size)
        fit = xlogy(size, size) + y * eta - (y + size) * np.log(size + np.exp(eta))
        return -np.mean(gammaln(y + size) - gammaln(size) + fit)

    return minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10}).fun


def run(work: Work, rows: int, repeats: int, seed: int) -> list[str]:
    """The lines of the table for one model and one number of rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, COLUMNS))
    slopes = np.linspace(-0.2, 0.2, COLUMNS)
    y = work.draw(rng, 0.5 + x @ slopes)
    contenders = {"neglog": work.ours} | work.peers
    contenders = {k: v for k, v in contenders.items() if rows <= work.most.get(k, rows)}
    if "neglog" not in contenders:
        return [f"| {work.name} | {rows:,} | – | not run: minutes | | | |"]
    times: dict[str, list[float]] = {name: [] for name in contenders}
    ends: dict[str, float] = {}
    for repeat in range(repeats + 1):  # the first is not counted: whatever is slow once is slow there
        for name, fit in contenders.items():
            started = time.perf_counter()
            found = fit(x, y)
            if repeat:
                times[name].append(time.perf_counter() - started)
            ends[name] = work.criterion(found[0] + x @ found[1:], y)
    best = min(ends.values())
    lines = []
    for name in work.peers:
        if name not in contenders:
            continue
        ratios = [a / b for a, b in zip(times["neglog"], times[name], strict=True)]
        spread = f"{min(ratios):.2f} – {max(ratios):.2f}"
        lines.append(
            f"| {work.name} | {rows:,} | {name} | {statistics.median(ratios):.2f} | {spread} "
            f"| {statistics.median(times['neglog']):.3f} s | {(ends['neglog'] - best) / abs(best):.0e} "
            f"| {(ends[name] - best) / abs(best):.0e} |"
        )
        print(lines[-1], flush=True)
    return lines


def machine() -> str:
    """The processor, the versions and the day."""
    packages = ("torch", "pyro-ppl", "numpy", "scipy", "scikit-learn", "statsmodels", "glum")
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    import os

    return (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; "
        f"{', '.join(found)}; {date.today().isoformat()}"
    )


HEAD = """# Benchmarks

Written by `make bench`: neglog beside the packages that were written for one model each, in one process, on
the same simulated data with {columns} columns in float64, in interleaved runs. The ratio is the median over
{repeats} runs of neglog's time over the peer's: below 1 neglog was faster. The last two columns say how far
neglog and the peer end above the best optimum that any of them found, relative to it: a peer that stops early
is faster for it. The machine was shared, so times are rough; ratios are less so.

{machine}.

| model | rows | peer | ratio | from – to | neglog | neglog above best | peer above best |
|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[work.name for work in WORK])
    parser.add_argument("--out", type=Path, default=PAGE)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [
        line
        for work in WORK
        if work.name in chosen.only
        for rows in chosen.rows
        for line in run(work, rows, chosen.repeats, seed=1)
    ]
    head = HEAD.format(columns=COLUMNS, repeats=chosen.repeats, machine=machine())
    chosen.out.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
