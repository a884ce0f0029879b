"""Log-probabilities of half-lines, for every distribution that has a distribution function."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from neglog.distributions.counts import Bernoulli, Binomial, Poisson
from neglog.distributions.positive import Beta, Gamma, LogNormal, Weibull
from neglog.distributions.robust import Laplace, Normal, StudentT
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.special import log_of
from neglog.distributions.supports import anywhere, ends
from neglog.errors import ModelError

_OURS: dict[str, Callable[[Any], Any]] = {
    "Normal": lambda d: Normal(d.loc, d.scale),
    "Laplace": lambda d: Laplace(d.loc, d.scale),
    "StudentT": lambda d: StudentT(d.df, d.loc, d.scale),
    "LogNormal": lambda d: LogNormal(d.loc, d.scale),
    "Exponential": lambda d: Weibull(1 / d.rate, torch.ones_like(d.rate)),
    "Gamma": lambda d: Gamma(d.concentration, d.rate),
    "Weibull": lambda d: Weibull(d.scale, d.concentration),
    "Beta": lambda d: Beta(d.concentration1, d.concentration0),
    "Poisson": lambda d: Poisson(d.rate),
    "Bernoulli": lambda d: Bernoulli(logits=d.logits),
    "Binomial": lambda d: Binomial(d.total_count, logits=d.logits),
}
"""What Pyro calls a family -> neglog's of the same law, whose tails keep their digits."""


def tailed(fn: Any) -> Any:
    """A distribution as the family of neglog of the same law, if there is one, or else as it is."""
    name = type(fn).__name__
    theirs = (getattr(dist, name, None), getattr(torch.distributions, name, None))
    return _OURS[name](fn) if name in _OURS and type(fn) in theirs else fn


def log_tails(fn: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """log P(Y ≤ value) and log P(Y > value) for any finite `value`.

    Raises:
        ModelError: the distribution has no distribution function.
    """
    if hasattr(fn, "_log_tails"):
        lower, upper = fn._log_tails(value)
        shape = broadcast_shapes(value.shape, fn.batch_shape)
        return lower.expand(shape), upper.expand(shape)
    low, high = ends(fn.support)
    below, above = value < low, value >= high
    try:
        lower = fn.cdf(torch.where(below | above, anywhere(fn.support, value), value))
    except NotImplementedError as error:
        raise ModelError(
            f"`{type(fn).__name__}` has no distribution function, which bounds and quantiles need. Use a "
            "family of neglog.distributions, or a class with a `cdf` of its own."
        ) from error
    return (
        torch.where(below, -math.inf, torch.where(above, 0.0, log_of(lower))),
        torch.where(below, 0.0, torch.where(above, -math.inf, log_of(1 - lower))),
    )
