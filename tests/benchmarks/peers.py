"""What other packages are called like: each a function of a design `(N, P)` and a response `(N,)`.

It gives the intercept and the slopes, `(1 + P,)`; of a model with two linear predictors, those of both. A
package that is not installed is left out by `installed`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO

import numpy as np
import pandas as pd

Fit = Callable[[np.ndarray, np.ndarray], np.ndarray]


def installed(package: str, peers: dict[str, Fit]) -> dict[str, Fit]:
    return peers if find_spec(package) else {}


def with_ones(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), x])


def frame(x: np.ndarray, y: np.ndarray) -> tuple[pd.DataFrame, str]:
    """The data as a frame, and the right-hand side of its formula."""
    names = [f"x{j}" for j in range(x.shape[1])]
    return pd.DataFrame(x, columns=names).assign(y=y), " + ".join(names)


def scikit(make: Callable) -> Fit:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        found = make(len(y)).fit(x, y)
        return np.append(found.intercept_, found.coef_)

    return fit


def statsmodels(make: Callable, **settings: object) -> Fit:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        with redirect_stdout(StringIO()):  # some of its models report on their construction
            return np.asarray(make(y, with_ones(x)).fit(**settings).params)[: x.shape[1] + 1]

    return fit


def statsmodels_heteroscedastic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Maximum likelihood by its generic model and BFGS: it has no other for a log-linear variance."""
    from statsmodels.base.model import GenericLikelihoodModel

    columns = with_ones(x)
    size = columns.shape[1]

    class Heteroscedastic(GenericLikelihoodModel):
        def nloglikeobs(self, params: np.ndarray) -> np.ndarray:
            log_variance = columns @ params[size:]
            return 0.5 * (log_variance + (y - columns @ params[:size]) ** 2 * np.exp(-log_variance))

        def score(self, params: np.ndarray) -> np.ndarray:
            residuals, weights = y - columns @ params[:size], np.exp(-columns @ params[size:])
            slopes = [columns.T @ (residuals * weights), 0.5 * columns.T @ (residuals**2 * weights - 1)]
            return np.concatenate(slopes)

    start = np.zeros(2 * size)
    start[0], start[size] = y.mean(), np.log(y.var())
    names = [f"a{j}" for j in range(size)]  # of the second predictor; it counts those of the first itself
    model = Heteroscedastic(y, columns, extra_params_names=names)
    return np.asarray(
        model.fit(start, method="bfgs", disp=0, maxiter=1000, gtol=1e-8, skip_hessian=True).params
    )


def glum(**settings: object) -> dict[str, Fit]:
    def make(_: int) -> object:
        from glum import GeneralizedLinearRegressor

        return GeneralizedLinearRegressor(**{"alpha": 0, "gradient_tol": 1e-8} | settings)

    return installed("glum", {"glum": scikit(make)})


def gamlss(family: str, sigma: bool = False, **settings: object) -> dict[str, Fit]:
    """The Python port of R's gamlss; its defaults stop at a deviance that falls by 0.001."""

    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        import gamlss

        data, right = frame(x, y)
        found = gamlss.gamlss(
            f"y ~ {right}",
            sigma_formula=f"~{right}" if sigma else "~1",
            family=getattr(gamlss, family)(**settings),
            data=data,
            control=gamlss.gamlss_control(c_crit=1e-8, n_cyc=200, trace=False),
        )
        parts = [found.coef("mu"), found.coef("sigma")] if sigma else [found.coef("mu")]
        return np.concatenate([np.asarray(part, dtype=float) for part in parts])

    return installed("gamlss", {"gamlss": fit})


def pyfixest(tau: float) -> dict[str, Fit]:
    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        import pyfixest

        data, right = frame(x, y)
        settings = {"quantile": tau, "tol": 1e-9, "vcov": "nid"}
        return pyfixest.quantreg(f"y ~ {right}", data, **settings).coef().to_numpy()

    return installed("pyfixest", {"pyfixest": fit})


def pinball(tau: float) -> dict[str, Fit]:
    """The Fortran of R's quantreg: Frisch and Newton's interior point, and with preprocessing."""

    def make(method: str) -> Callable:
        def estimator(_: int) -> object:
            from pinball import QuantileRegressor

            return QuantileRegressor(tau=tau, method=method)

        return estimator

    return installed("pinball", {f"pinball {method}": scikit(make(method)) for method in ("fn", "pfn")})


def least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(with_ones(x), y, rcond=None)[0]
