"""The models that are timed: their data, what an optimum of them makes smallest, and who fits them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import peers
import pyro
import pyro.distributions as dist
import statsmodels.api as sm
import torch
from peers import Fit, installed, scikit, statsmodels
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, gammaln, xlogy
from sklearn.linear_model import (
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
)
from statsmodels.miscmodels.tmodel import TLinearModel
from statsmodels.othermod.betareg import BetaModel

from neglog import flat, map_estimate, mle, models, with_priors

COLUMNS = 20
Criterion = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""Of what a fit found, the design and the response: a mean over rows."""


@dataclass(frozen=True)
class Work:
    """One model and who fits it."""

    name: str
    draw: Callable[[np.random.Generator, np.ndarray], np.ndarray]
    """The response `(N,)` from the design `(N, P)`."""
    criterion: Criterion
    ours: Fit
    peers: dict[str, Fit]
    most: dict[str, int] = field(default_factory=dict)
    """The number of rows beyond which a contender is known to take minutes, or the memory of the machine."""
    wanted: float = 1.0
    """The ratio to the best peer that is aimed at."""


def eta(x: np.ndarray) -> np.ndarray:
    return 0.5 + x @ np.linspace(-0.2, 0.2, x.shape[1])


def of_eta(draw: Callable) -> Callable:
    return lambda rng, x: draw(rng, eta(x))


def linear(loss: Callable[[np.ndarray, np.ndarray], float]) -> Criterion:
    return lambda found, x, y: loss(found[0] + x @ found[1:], y)


def neglog(model: Callable, *predictors: str, fit: Callable = mle) -> Fit:
    def fitted(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        given = x if len(predictors) == 1 else dict.fromkeys(predictors, x)
        params = fit(model, given, y).params
        return np.concatenate(
            [np.append(params[f"{name}.bias"], params[f"{name}.weight"]) for name in predictors]
        )

    return fitted


# What an optimum makes smallest, with all but the coefficients at its best: the numbers that others may hold
# fixed, or estimate in another way, do not count.


def profiled(loss: Callable[[float, np.ndarray, np.ndarray], float], low: float, high: float) -> Criterion:
    """The loss at the best of one number between `low` and `high`."""

    def best(at: np.ndarray, y: np.ndarray) -> float:
        settings = {"bounds": (low, high), "method": "bounded", "options": {"xatol": 1e-9}}
        return minimize_scalar(lambda log_size: loss(log_size, at, y), **settings).fun

    return linear(best)


def negative_binomial(log_size: float, at: np.ndarray, y: np.ndarray) -> float:
    size = np.exp(log_size)
    fit = xlogy(size, size) + y * at - (y + size) * np.log(size + np.exp(at))
    return -np.mean(gammaln(y + size) - gammaln(size) + fit)


def beta(log_precision: float, at: np.ndarray, y: np.ndarray) -> float:
    a, b = np.exp(log_precision) * expit(at), np.exp(log_precision) * expit(-at)
    return np.mean(gammaln(a) + gammaln(b) - gammaln(a + b) - (a - 1) * np.log(y) - (b - 1) * np.log1p(-y))


def huber(log_scale: float, at: np.ndarray, y: np.ndarray, delta: float = 1.345) -> float:
    u = np.abs(y - at) * np.exp(-log_scale)
    return log_scale + np.mean(np.where(u <= delta, 0.5 * u * u, delta * (u - 0.5 * delta)))


def student_t(at: np.ndarray, y: np.ndarray) -> float:
    squares = (y - at) ** 2

    def loss(log: np.ndarray) -> float:
        df, scale = np.exp(log)
        norm = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * np.log(df * np.pi) - np.log(scale)
        return -norm + (df + 1) / 2 * np.mean(np.log1p(squares / (df * scale * scale)))

    start = [np.log(5.0), 0.5 * np.log(np.median(squares) + 1e-300)]
    return minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-14}).fun


def heteroscedastic(found: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    mean, log_variance = found.reshape(2, -1)
    at = log_variance[0] + x @ log_variance[1:]
    return 0.5 * np.mean(at + (y - mean[0] - x @ mean[1:]) ** 2 * np.exp(-at))


def pinball(at: np.ndarray, y: np.ndarray, tau: float) -> float:
    return np.mean((y - at) * (tau - (y < at)))


# Penalised least squares with sigma 1: under a prior of scale b Ridge's alpha is 1 / b², Lasso's 1 / (n b).

RIDGE, LASSO = 10.0, 0.02


def least_squares_under(prior: Callable) -> Callable:
    one = {"sigma": torch.ones((), dtype=torch.float64)}
    return flat(
        pyro.condition(with_priors(models.gaussian, {"mean.weight": prior}), one), "mean.bias", "sigma"
    )


def ridge_model() -> Callable:
    scale = torch.tensor(RIDGE**-0.5, dtype=torch.float64)
    return least_squares_under(dist.Normal(torch.zeros_like(scale), scale))


def lasso_model(rows: int, alpha: float = LASSO) -> Callable:
    scale = torch.tensor(1 / (rows * alpha), dtype=torch.float64)
    return least_squares_under(dist.Laplace(torch.zeros_like(scale), scale))


def lasso(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return neglog(lasso_model(len(y)), "mean", fit=map_estimate)(x, y)


def ridge_loss(found: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    residuals = y - found[0] - x @ found[1:]
    return (residuals @ residuals + RIDGE * found[1:] @ found[1:]) / len(y)


def lasso_loss(found: np.ndarray, x: np.ndarray, y: np.ndarray, alpha: float = LASSO) -> float:
    return 0.5 * np.mean((y - found[0] - x @ found[1:]) ** 2) + alpha * np.abs(found[1:]).sum()


def glum_ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return peers.glum(family="normal", alpha=RIDGE / len(y), l1_ratio=0)["glum"](x, y)


def celer_lasso() -> dict[str, Fit]:
    def make(_: int) -> object:
        from celer import Lasso as Celer

        return Celer(alpha=LASSO, tol=1e-10, max_iter=1000)

    return installed("celer", {"celer": scikit(make)})


# The path: 100 values of alpha from the one that leaves nothing on, a matrix (100, 1 + P) comes back.


def alphas(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A response around its mean is orthogonal to the means of the columns, so that no copy of x is centred.
    return np.abs((y - y.mean()) @ x).max() / len(y) * np.logspace(0, -3, 100)


def neglog_path(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from neglog import lasso_path

    params = lasso_path(lasso_model(len(y), 1.0), x, y, strengths=torch.as_tensor(alphas(x, y))).params
    return np.column_stack([params["mean.bias"], params["mean.weight"]])


def centred_path(path: Callable) -> Fit:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        centre, middle = x.mean(0), y.mean()
        slopes = path(np.asfortranarray(x - centre), y - middle, alphas(x, y)).T
        return np.column_stack([middle - slopes @ centre, slopes])

    return fit


def scikit_path(x: np.ndarray, y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import lasso_path

    return lasso_path(x, y, alphas=grid, tol=1e-10, max_iter=10_000)[1]


def celer_path(x: np.ndarray, y: np.ndarray, grid: np.ndarray) -> np.ndarray:
    from celer import celer_path

    return celer_path(x, y, pb="lasso", alphas=grid, tol=1e-10)[1]


def glum_path(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from glum import GeneralizedLinearRegressor

    settings = {"alpha": list(alphas(x, y)), "alpha_search": True, "l1_ratio": 1, "gradient_tol": 1e-8}
    found = GeneralizedLinearRegressor(family="normal", **settings).fit(x, y)
    return np.column_stack([found.intercept_path_, found.coef_path_])


def path_loss(found: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    each = zip(found, alphas(x, y), strict=True)
    return np.mean([lasso_loss(one, x, y, alpha) for one, alpha in each])


SCIKIT = {"alpha": 0, "tol": 1e-8, "max_iter": 1000}


def logistic(solver: str) -> Fit:
    return scikit(lambda _: LogisticRegression(C=np.inf, solver=solver, tol=1e-8, max_iter=1000))


def quantile_work(name: str, model: Callable, predictor: str, tau: float) -> Work:
    return Work(
        name,
        of_eta(lambda rng, at: at + rng.laplace(size=len(at))),
        linear(partial(pinball, tau=tau)),
        neglog(model, predictor),
        {
            "statsmodels": statsmodels(sm.QuantReg, q=tau, max_iter=10_000),
            "scikit-learn": scikit(lambda _: QuantileRegressor(quantile=tau, alpha=0)),
        }
        | peers.pyfixest(tau)
        | peers.pinball(tau),
        {"scikit-learn": 10_000, "statsmodels": 100_000},
    )


WORK = [
    Work(
        "gaussian",
        of_eta(lambda rng, at: at + rng.normal(size=len(at))),
        linear(lambda at, y: np.mean((y - at) ** 2)),
        neglog(models.gaussian, "mean"),
        {
            "numpy lstsq": peers.least_squares,
            "scikit-learn": scikit(lambda _: LinearRegression()),
            "statsmodels": statsmodels(sm.OLS),
        },
    ),
    Work(
        "poisson",
        of_eta(lambda rng, at: rng.poisson(np.exp(at)).astype(float)),
        linear(lambda at, y: np.mean(np.exp(at) - y * at)),
        neglog(models.poisson, "log_rate"),
        peers.glum(family="poisson")
        | {
            "scikit-learn newton-cholesky": scikit(
                lambda _: PoissonRegressor(solver="newton-cholesky", **SCIKIT)
            ),
            "scikit-learn lbfgs": scikit(lambda _: PoissonRegressor(**SCIKIT)),
            "statsmodels": statsmodels(lambda y, x: sm.GLM(y, x, family=sm.families.Poisson())),
        },
    ),
    Work(
        "gamma",
        of_eta(lambda rng, at: np.exp(at) * rng.gamma(3.0, 1 / 3.0, len(at))),
        linear(lambda at, y: np.mean(y * np.exp(-at) + at)),
        neglog(models.gamma, "log_mean"),
        peers.glum(family="gamma")
        | {
            "scikit-learn newton-cholesky": scikit(
                lambda _: GammaRegressor(solver="newton-cholesky", **SCIKIT)
            ),
            "scikit-learn lbfgs": scikit(lambda _: GammaRegressor(**SCIKIT)),
            "statsmodels": statsmodels(
                lambda y, x: sm.GLM(y, x, family=sm.families.Gamma(sm.families.links.Log()))
            ),
        },
    ),
    Work(
        "bernoulli",
        of_eta(lambda rng, at: (rng.random(len(at)) < expit(at)).astype(float)),
        linear(lambda at, y: np.mean(np.logaddexp(0, at) - y * at)),
        neglog(models.bernoulli, "logit"),
        peers.glum(family="binomial")
        | {
            f"scikit-learn {solver}": logistic(solver)
            for solver in ("lbfgs", "newton-cholesky", "newton-cg", "sag", "saga")
        }
        | {"statsmodels": statsmodels(sm.Logit, disp=0)},
        {"scikit-learn sag": 100_000, "scikit-learn saga": 100_000},
    ),
    Work(
        "negative_binomial",
        of_eta(lambda rng, at: rng.poisson(np.exp(at) * rng.gamma(2.0, 0.5, len(at))).astype(float)),
        profiled(negative_binomial, -5, 5),
        neglog(models.negative_binomial, "log_mean"),
        {"statsmodels": statsmodels(sm.NegativeBinomial, disp=0, maxiter=1000)} | peers.gamlss("NBI"),
        {"statsmodels": 100_000},
    ),
    Work(
        "beta",
        of_eta(lambda rng, at: np.clip(rng.beta(8 * expit(at), 8 * expit(-at)), 1e-12, 1 - 1e-12)),
        profiled(beta, -3, 8),
        neglog(models.beta, "logit_mean"),
        {"statsmodels": statsmodels(BetaModel, disp=0, maxiter=1000)} | peers.gamlss("BE"),
        {"statsmodels": 100_000},
    ),
    Work(
        "student_t",
        of_eta(lambda rng, at: at + rng.standard_t(4.0, size=len(at))),
        linear(student_t),
        neglog(models.student_t, "location"),
        {"statsmodels": statsmodels(TLinearModel, disp=0, maxiter=5000, method="bfgs")} | peers.gamlss("TF"),
        {"statsmodels": 100_000},
    ),
    Work(
        "heteroscedastic",
        lambda rng, x: eta(x) + np.exp(0.25 * eta(x)) * rng.normal(size=len(x)),
        heteroscedastic,
        neglog(models.heteroscedastic, "mean", "log_variance"),
        {"statsmodels": peers.statsmodels_heteroscedastic} | peers.gamlss("NO2", sigma=True),
    ),
    quantile_work("laplace", models.laplace, "location", 0.5),
    quantile_work("quantile 0.9", partial(models.quantile, tau=0.9), "quantile", 0.9),
    Work(
        "huber",  # the others estimate the scale, and so the slopes, in other ways
        of_eta(lambda rng, at: at + rng.standard_t(3.0, size=len(at))),
        profiled(huber, -5, 5),
        neglog(models.huber, "location"),
        {
            "scikit-learn": scikit(lambda _: HuberRegressor(epsilon=1.345, alpha=0, max_iter=1000, tol=1e-8)),
            "statsmodels": statsmodels(
                lambda y, x: sm.RLM(y, x, M=sm.robust.norms.HuberT(1.345)), maxiter=200
            ),
        },
    ),
    Work(
        "ridge",
        of_eta(lambda rng, at: at + rng.normal(size=len(at))),
        ridge_loss,
        lambda x, y: neglog(ridge_model(), "mean", fit=map_estimate)(x, y),
        {"scikit-learn": scikit(lambda _: Ridge(alpha=RIDGE))} | installed("glum", {"glum": glum_ridge}),
    ),
    Work(
        "lasso",
        of_eta(lambda rng, at: at + rng.normal(size=len(at))),
        lasso_loss,
        lasso,
        {"scikit-learn": scikit(lambda _: Lasso(alpha=LASSO, tol=1e-10, max_iter=10_000))}
        | peers.glum(family="normal", alpha=LASSO, l1_ratio=1)
        | celer_lasso(),
    ),
    Work(
        "lasso path of 100",
        of_eta(lambda rng, at: at + rng.normal(size=len(at))),
        path_loss,
        neglog_path,
        {"scikit-learn": centred_path(scikit_path)}
        | installed("glum", {"glum": glum_path})
        | installed("celer", {"celer": centred_path(celer_path)}),
    ),
]


def data(work: Work, rows: int, seed: int, columns: int = COLUMNS) -> tuple[np.ndarray, np.ndarray]:
    """A design `(rows, columns)` and a response."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns))
    return x, work.draw(rng, x)
