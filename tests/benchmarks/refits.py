"""A thousand bootstrap refits of 1 000 rows and 5 columns: `neglog.bootstrap` beside loops over peers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import peers
import statsmodels.api as sm
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from timing import CALLS, OURS, timed
from works import SCIKIT, WORK, data

from neglog import bootstrap, mle, models

ROWS, COLUMNS, DRAWS = 1000, 5, 1000
Refit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From a design, a response and frequency weights to the intercept and the slopes."""


def scikit(make: Callable) -> Refit:
    def fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        found = make().fit(x, y, sample_weight=weights)
        return np.append(found.intercept_, found.coef_)

    return fit


def glm(family: object) -> Refit:
    def fit(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return sm.GLM(y, peers.with_ones(x), family=family, freq_weights=weights).fit().params

    return fit


def least_squares(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    root = np.sqrt(weights)
    return np.linalg.lstsq(peers.with_ones(x) * root[:, None], y * root, rcond=None)[0]


def logistic(solver: str) -> Refit:
    return scikit(lambda: LogisticRegression(C=np.inf, solver=solver, tol=1e-8, max_iter=1000))


PEERS: dict[str, dict[str, Refit]] = {
    "gaussian": {"numpy lstsq": least_squares, "scikit-learn": scikit(LinearRegression)},
    "poisson": {
        "scikit-learn newton-cholesky": scikit(lambda: PoissonRegressor(solver="newton-cholesky", **SCIKIT)),
        "scikit-learn lbfgs": scikit(lambda: PoissonRegressor(**SCIKIT)),
        "statsmodels": glm(sm.families.Poisson()),
    },
    "bernoulli": {
        "scikit-learn newton-cholesky": logistic("newton-cholesky"),
        "scikit-learn lbfgs": logistic("lbfgs"),
        "statsmodels": glm(sm.families.Binomial()),
    },
}


def measure(name: str, repeats: int, clock: str, draws: int = DRAWS) -> dict[str, object]:
    """Seconds for all refits; peers take the same kind of resamples one by one."""
    work = next(work for work in WORK if work.name == name)
    x, y = data(work, ROWS, seed=0, columns=COLUMNS)
    fit = mle(getattr(models, name), x, y)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(ROWS, np.full(ROWS, 1 / ROWS), size=draws).astype(float)
    times: dict[str, list[float]] = {peer: [] for peer in (OURS, *PEERS[name])}
    above = dict.fromkeys(times, 0.0)
    for repeat in range(repeats + 1):
        took, ours = timed(lambda seed=repeat: bootstrap(fit, draws, seed=seed), CALLS[clock])
        spent = {OURS: took}
        for peer, refit in PEERS[name].items():
            spent[peer], found = timed(lambda refit=refit: [refit(x, y, w) for w in weights], CALLS[clock])
            alone = mle(getattr(models, name), x, y, weights=weights[0]).params
            same = np.concatenate([np.reshape(v, -1) for k, v in sorted(alone.items()) if "." in k])
            above[peer] = float(np.abs(found[0] - same).max())
        for peer, seconds in spent.items() if repeat else ():
            times[peer].append(seconds)
    assert ours.converged.all()
    return {
        "work": f"{draws} refits, {name}",
        "rows": ROWS,
        "clock": clock,
        "times": times,
        "above": above,
        "left out": {},
    }
