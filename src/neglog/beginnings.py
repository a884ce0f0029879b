"""Initial points: further starting values for likelihoods that have more than one optimum.

A model declares them (`many_optima`); other models have one optimum, as every log-concave likelihood has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor

from neglog.empirical import EmpiricalDistribution
from neglog.predictors import Designs, design

Shapes = Mapping[str, torch.Size]
Beginning = Callable[[Designs, Tensor, Tensor, Shapes], Mapping[str, Tensor]]
"""From designs, `y`, the weights of its rows and the shapes of sites to initial values of some sites."""
MAX_SUBSAMPLE_ROWS = 10_000
"""Of data with more rows than this, evenly spaced ones decide where a fit begins."""
REWEIGHTING_STEPS = 20
"""Steps of iteratively reweighted least squares."""
_Answers = dict[Any, tuple[Any, Any]]
T = TypeVar("T")
_CACHE: ContextVar[_Answers | None] = ContextVar("known", default=None)


def many_optima(*beginnings: Beginning) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a model whose likelihood may have many optima with further initial points.

    >>> @many_optima(lambda x, y, weights, shapes: {"scale": y.std()})
    ... def model(x, y=None): ...
    >>> len(model.beginnings)
    1
    """

    def decorate(model: Callable[..., Any]) -> Callable[..., Any]:
        model.beginnings = beginnings  # type: ignore[attr-defined]
        return model

    return decorate


@contextmanager
def shared() -> Iterator[None]:
    """Within this context, initial points that need the same line compute it once."""
    token = _CACHE.set({})
    try:
        yield
    finally:
        _CACHE.reset(token)


def line(name: str, x: Designs, y: Tensor, weights: Tensor, power: float) -> tuple[Tensor, Tensor]:
    """The line `(1 + P,)` that minimises Σ weights |residual|^power, about, and its residuals `(N,)`.

    By reweighted least squares, on orthonormal columns; the intercept comes first.
    """
    return once(_line, design(name, x), y, weights, power)


def once(function: Callable[..., T], columns: Tensor, y: Tensor, weights: Tensor, setting: Any) -> T:
    """``function(columns, y, weights, setting)``, which beginnings that are `shared` evaluate once."""
    known = _CACHE.get()
    if known is None:
        return function(columns, y, weights, setting)
    given = columns, y, weights
    key = (function, *map(id, given), setting)
    if key not in known:
        known[key] = given, function(*given, setting)  # the key has ids of objects that must live as long
    found: T = known[key][1]
    return found


def _line(columns: Tensor, y: Tensor, weights: Tensor, power: float) -> tuple[Tensor, Tensor]:
    whole = torch.cat([columns.new_ones((len(columns), 1)), columns], dim=1)
    sizes = whole.norm(dim=0).clamp_min(1e-300)
    orthonormal, triangle = torch.linalg.qr(whole / sizes)
    each, residuals, found = weights, y, y.new_zeros(orthonormal.shape[1])
    for _ in range(REWEIGHTING_STEPS if power < 2 else 1):
        weighed = each[:, None] * orthonormal
        factor, failed = torch.linalg.cholesky_ex(weighed.T @ orthonormal)
        if failed:  # too few rows are left to determine the coefficients
            break
        found = torch.cholesky_solve((weighed.T @ y)[:, None], factor)[:, 0]
        residuals = y - orthonormal @ found
        least = 1e-6 * residuals.abs().max().clamp_min(1e-300)
        each = weights * residuals.abs().clamp_min(least) ** (power - 2)
        each = each / each.max()
    ends = torch.linalg.lstsq(triangle, found, driver="gelsd").solution
    return ends / sizes, residuals


def few(x: Designs, y: Tensor, weights: Tensor) -> tuple[Designs, Tensor, Tensor]:
    """At most `MAX_SUBSAMPLE_ROWS` rows, evenly spaced."""
    if len(y) <= MAX_SUBSAMPLE_ROWS:
        return x, y, weights
    index = torch.linspace(0, len(y) - 1, MAX_SUBSAMPLE_ROWS, dtype=torch.float64).round().long()
    some = {key: value[index] for key, value in x.items()} if isinstance(x, Mapping) else x[index]
    return some, y[index], weights[index]


def median(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted median of `values` `(N,)`."""
    return EmpiricalDistribution(values, weights).quantile(0.5)
