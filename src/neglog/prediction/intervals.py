"""Intervals and quantiles of what is predicted: of the mean of each row, and of its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neglog.aliases import former_argument
from neglog.arguments import check_dense, choice, flag, share
from neglog.bayes.sampling import Posterior
from neglog.data import Data
from neglog.distributions.averaged import quantile_of
from neglog.distributions.derived import mean_of
from neglog.distributions.family import events_of, family_of
from neglog.distributions.supports import ends
from neglog.errors import ModelError, written
from neglog.fitting.ensembles import Ensemble
from neglog.fitting.fit import Fit
from neglog.isolation import isolated
from neglog.likelihood.rows import row_slopes
from neglog.prediction.predictions import check_row_keywords, predict, rows_of
from neglog.prediction.predictor import Predicting, Predictor
from neglog.predictors import RESPONSE
from neglog.tracing import Run, model_name, run
from neglog.uncertainty.covariances import CovType, theta_covariance
from neglog.uncertainty.information import layout_of

Of = Literal["mean", "outcome"]
SLOPE_ROUNDING = 1e-9
"""Differences of slopes attributed to rounding, relative to the largest standard error."""
DIFFERENCE_STEP = 1e-4
"""Step of central differences, in standard errors: an error of 1e-8 by truncation and by rounding."""
SMALLEST_SLOPE = 1e-300
"""Absolute tolerance of slopes, for means that do not depend on the parameters."""
_PROBABILITIES = (
    "Take neglog.class_probabilities(fit, x), the probability of each class; or fit 'ordinal' to classes "
    "with an order."
)


@former_argument("covariance", "cov_type")
@isolated
def interval(
    fit: Predicting,
    x: Any,
    level: float = 0.95,
    kind: Of = "mean",
    *,
    cov_type: CovType = "observed",
    groups: Any = None,
    uncertainty: bool = True,
    draws: int | None = None,
    seed: int = 0,
    **keywords: Any,
) -> pd.DataFrame:
    """An interval for each row of `x`: of the mean E[y | x], or of a future outcome y.

    ``"mean"`` is Wald's, by the delta method: estimate, std_error, lower, upper. Where the mean is a function
    of one linear predictor it is symmetric on the scale of that predictor and mapped, so that a rate stays
    positive and a probability between 0 and 1; else it is symmetric in the logarithm of a positive mean, in
    the log-odds of a mean with two bounds, and in an unbounded mean itself. For a posterior the ends are
    quantiles of the means at its draws, and the estimate is their mean.

    ``"outcome"`` has quantiles of `predict` as ends, with the uncertainty of the parameters unless
    ``uncertainty=False``: estimate (the median), lower, upper. Its predicted probability is at least `level`:
    the ends of a discrete outcome are the smallest numbers whose distribution function reaches
    (1 - level) / 2 and (1 + level) / 2. Of labelled classes with an order they are labels, as ordered
    categories.

    Args:
        fit: a fit; or a posterior, which has its own draws; or, for an outcome, an ensemble.
        x: designs `(N, P)` of the form of the fit's; the table has the index of a data frame.
        level: the level of the intervals.
        kind: ``"mean"`` or ``"outcome"``.
        cov_type, groups: the covariance of the estimates, as for `neglog.covariance`.
        uncertainty, draws, seed: for ``"outcome"``, as for `predict`.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)`.

    Raises:
        ModelError: `level` is not between 0 and 1; an unknown kind; a response of vectors, or of unordered
            classes; a mean that does not exist; as `covariance`.
        DataError: as `predict` and `covariance`.

    Source: McCullagh & Nelder (1989), Generalized Linear Models, section 4.4.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(models.poisson, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> interval(fit, x).round(2)
       estimate  std_error  lower  upper
    0      0.87       0.74   0.16   4.60
    1      2.26       0.98   0.96   5.30
    2      5.87       2.36   2.67  12.89
    """
    level = share("level", level)
    choice("kind", kind, ("mean", "outcome"))
    check_row_keywords(fit, keywords, interval)
    flag("uncertainty", uncertainty)
    if kind == "outcome":
        shares = [0.5, 0.5 - level / 2, 0.5 + level / 2]
        how: Any = {"uncertainty": uncertainty, "draws": draws, "seed": seed, "cov_type": cov_type}
        ends_of = quantile(fit, x, shares, **how, groups=groups, **keywords)
        columns = dict(zip(("estimate", "lower", "upper"), ends_of.T, strict=True))
        if fit.classes:
            return _of_labels(columns, fit.classes, index_of(x))
    elif isinstance(fit, Posterior):
        columns = _of_draws(fit, x, level, draws, keywords)
    elif isinstance(fit, Ensemble):
        raise ModelError(
            "the members of an ensemble give no confidence interval of the mean; use kind='outcome', or the "
            "`epistemic` part of the variance of `predict`."
        )
    elif isinstance(fit, Predictor):
        raise ModelError(
            f"a `{type(fit).__name__}` gives no confidence interval of the mean; use kind='outcome'."
        )
    else:
        data = rows_of(fit, x, keywords, interval)
        columns = _wald(fit, data, level, theta_covariance(fit, cov_type, groups))
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()}, index=index_of(x))


@former_argument("kind", "cov_type")
@isolated
def quantile(
    fit: Predicting,
    x: Any,
    q: float | Sequence[float] | Tensor,
    *,
    uncertainty: bool = False,
    draws: int | None = None,
    seed: int = 0,
    cov_type: CovType = "observed",
    groups: Any = None,
    **keywords: Any,
) -> Tensor:
    """Quantiles of the predictive distribution of each row: `(N,)`, or `(N, Q)` for Q of them.

    By the quantile function of the family, if there is one; otherwise, and for a mixture over draws of the
    parameters, by a root of the distribution function. For a discrete outcome, the smallest number whose
    distribution function is at least `q`.

    Args:
        fit, x, uncertainty, draws, seed, cov_type, groups, keywords: as in `predict`.
        q: one probability, or several.

    Raises:
        ModelError: a `q` that is not between 0 and 1; a response without quantiles: of vectors, or of classes
            without an order; as `predict`.
        DataError: as `predict`.

    >>> import torch
    >>> from neglog import mle, models
    >>> x = torch.empty((4, 0), dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 3.0, 6.0], dtype=torch.float64))
    >>> quantile(fit, x[:1], [0.5, 0.975])
    tensor([[3.0000, 6.6668]], dtype=torch.float64)
    """
    check_row_keywords(fit, keywords, quantile)
    if isinstance(q, Tensor):
        check_dense("q", q)
    try:
        # torch takes no array with negative strides, as a reversed one has.
        shares = torch.as_tensor(q.copy() if isinstance(q, np.ndarray) else q, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"`q` must be one number between 0 and 1, or several; it is {written(q)}."
        ) from error
    if shares.dim() > 1 or not bool(((shares > 0) & (shares < 1)).all()):
        raise ModelError(f"`q` must be one number between 0 and 1, or several; it is {written(q)}.")
    response = predict(
        fit, x, uncertainty=uncertainty, draws=draws, seed=seed, cov_type=cov_type, groups=groups, **keywords
    )
    _check_order(response, model_name(fit.model))
    with torch.no_grad():
        found = quantile_of(response, shares.reshape(-1, 1))
    return found[0] if shares.dim() == 0 else found.T


def _is_unordered(response: Any) -> bool:
    """Whether a response is of classes without an order, which have no mean and no quantiles."""
    base = getattr(response, "first", response)
    return bool(events_of(base)) and not family_of(base).ordered


def _check_order(response: Any, name: str) -> None:
    if _is_unordered(response):
        raise ModelError(
            f"`{name}` has classes without an order, and so no distribution function, no quantiles and no "
            f"intervals. {_PROBABILITIES}"
        )


def _without_mean(response: Any, name: str, where: str) -> ModelError:
    remedy = _PROBABILITIES if _is_unordered(response) else "Outcomes have intervals: use kind='outcome'."
    return ModelError(f"the mean of `{name}` does not exist at {where}. {remedy}")


def _of_labels(columns: Mapping[str, Tensor], labels: Sequence[Any], index: pd.Index | None) -> pd.DataFrame:
    """The codes of classes as their labels, whose order is that of the classes."""
    found: dict[str, Any] = {
        name: pd.Categorical.from_codes(codes.long().numpy(), pd.Index(labels), ordered=True)
        for name, codes in columns.items()
    }
    return pd.DataFrame(found, index=index)


def _wald(fit: Fit, data: Data, level: float, matrix: Tensor) -> dict[str, Tensor]:
    """The intervals of the means, by the delta method in theta with its covariance `(K, K)`."""
    if data.rows == 0:
        return dict.fromkeys(("estimate", "std_error", "lower", "upper"), matrix.new_empty(0))
    rows = _Rows(fit, data)
    theta = rows.layout.theta(fit.params)
    reach = float(torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64)))
    with torch.no_grad():
        mean = rows.mean(theta)
    if not bool(torch.isfinite(mean).all()):
        raise _without_mean(rows.response(theta), rows.name, "these estimates")
    scale = matrix.diagonal().clamp(min=0).sqrt()
    slopes = _checked_slopes(rows.mean, theta, scale)
    error = _standard_errors(slopes, matrix)
    carrier = rows.carrier(theta, slopes, scale)
    if carrier is None:
        sides = _unbounded_ends(mean, error, reach, rows.response(theta).support)
    else:
        name, eta = carrier
        wide = reach * _standard_errors(_row_slopes(partial(rows.eta, name), theta), matrix)
        with torch.no_grad():
            sides = tuple(rows.mean(theta, {name: eta + side * wide}) for side in (-1, 1))
    return {
        "estimate": mean,
        "std_error": error,
        "lower": torch.minimum(*sides),
        "upper": torch.maximum(*sides),
    }


class _Rows:
    """A model on new rows, as functions of the unconstrained vector of its fit."""

    def __init__(self, fit: Fit, data: Data) -> None:
        self.model, self.data, self.layout = fit.model, data, layout_of(fit)
        self.name = model_name(fit.model)

    def at(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> Run:
        # An observed response is not drawn; its value does not change its distribution.
        values = {**self.layout.params(theta), RESPONSE: self.data.y}
        return run(self.model, self.data, Run(values, etas=etas), response=False)

    def response(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> Any:
        return self.at(theta, etas).sites[RESPONSE]["fn"]

    def mean(self, theta: Tensor, etas: Mapping[str, Tensor] | None = None) -> Tensor:
        fn = self.response(theta, etas)
        if fn.event_shape:
            raise ModelError(
                f"`{self.name}` has a response of vectors; intervals of its mean are not available."
            )
        return mean_of(fn).expand(fn.batch_shape)

    def etas(self, theta: Tensor) -> dict[str, Tensor]:
        return {call.name: call.value for call in self.at(theta).affines}

    def eta(self, name: str, theta: Tensor) -> Tensor:
        return self.etas(theta)[name]

    def carrier(self, theta: Tensor, slopes: Tensor, spread: Tensor) -> tuple[str, Tensor] | None:
        """The one linear predictor `(N,)` that the means depend on, with its name; None if there is none."""
        with torch.no_grad():
            etas = self.etas(theta)
        most = (slopes.abs() * spread).amax()
        for name, eta in etas.items():
            if eta.shape != slopes.shape[:1]:
                continue
            leaf = eta.clone().requires_grad_()
            with torch.enable_grad():
                mean = self.mean(theta, {name: leaf})
            if not mean.requires_grad:
                continue
            (along,) = torch.autograd.grad(mean.sum(), leaf)
            through = along[:, None] * _row_slopes(partial(self.eta, name), theta)
            if bool((((slopes - through).abs() * spread) <= SLOPE_ROUNDING * most).all()):
                return name, eta
        return None


@torch.enable_grad()
def _row_slopes(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """The derivatives `(N, K)` in theta of values `(N,)`."""
    theta = theta.detach().clone().requires_grad_()
    values = function(theta)
    _, columns = row_slopes(values, theta)
    none = torch.zeros_like(values, requires_grad=False)
    return torch.stack([columns.get(place, none) for place in range(len(theta))], -1).detach()


@torch.no_grad()
def _checked_slopes(function: Callable[[Tensor], Tensor], theta: Tensor, spread: Tensor) -> Tensor:
    """`_row_slopes`, verified by a difference along one direction; differences where autograd is incomplete.

    The mean of a censored or truncated distribution is a quadrature without derivatives.
    """

    def difference(direction: Tensor) -> Tensor:
        return (
            function(theta + DIFFERENCE_STEP * direction) - function(theta - DIFFERENCE_STEP * direction)
        ) / (2 * DIFFERENCE_STEP)

    found = _row_slopes(function, theta)
    direction = spread * torch.cos(torch.arange(len(theta), dtype=theta.dtype))
    along = difference(direction)
    if torch.allclose(
        found @ direction, along, rtol=1e-3, atol=1e-3 * float(along.abs().max()) + SMALLEST_SLOPE
    ):
        return found
    columns = [difference(each) for each in torch.diag(spread)]
    return torch.stack(columns, -1) / torch.where(spread > 0, spread, 1.0)


def _standard_errors(slopes: Tensor, matrix: Tensor) -> Tensor:
    """The standard errors `(N,)` of values with the derivatives `(N, K)`, by the delta method."""
    return torch.linalg.vecdot(slopes @ matrix, slopes).clamp(min=0).sqrt()


def _unbounded_ends(mean: Tensor, error: Tensor, reach: float, support: Any) -> tuple[Tensor, ...]:
    """Both ends of intervals, symmetric on the scale on which the mean is unbounded."""
    low, high = (torch.as_tensor(end, dtype=mean.dtype) for end in ends(support))
    above, below = torch.isfinite(low), torch.isfinite(high)
    over = torch.where(above, mean - low, 1.0)
    under = torch.where(below, high - mean, 1.0)
    # Where a mean is rounded to an end of the support, its distance from there in logarithms is not known.
    rounded = (error == 0) | (over <= 0) | (under <= 0)
    sides = []
    for side in (-reach, reach):
        grown = over * torch.exp(side * error / over)
        odds = over.log() - under.log() + side * error * (1 / over + 1 / under)
        between = torch.where(above & below, low + (high - low) * torch.sigmoid(odds), mean + side * error)
        end = torch.where(above & ~below, low + grown, between)
        sides.append(torch.where(rounded, (mean + side * error).clamp(low, high), end))
    return tuple(sides)


def _of_draws(
    fit: Posterior, x: Any, level: float, draws: int | None, keywords: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The means at the draws of a posterior, between their quantiles."""
    response = predict(fit, x, draws=draws, **keywords)
    if response.event_shape:
        raise ModelError("intervals of the mean of a response of vectors are not available.")
    means = mean_of(response.component)
    if means.shape[-1] == 0:
        return dict.fromkeys(("estimate", "std_error", "lower", "upper"), means.new_empty(0))
    if not bool(torch.isfinite(means).all()):
        raise _without_mean(response, model_name(fit.model), "every draw of the posterior")
    lower, upper = torch.quantile(
        means, torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=means.dtype), 0
    )
    return {"estimate": means.mean(0), "std_error": means.std(0), "lower": lower, "upper": upper}


def index_of(x: Any) -> pd.Index | None:
    """The index of a data frame, or of the first in a mapping."""
    first = next(iter(x.values())) if isinstance(x, Mapping) else x
    return first.index if isinstance(first, pd.DataFrame) else None
