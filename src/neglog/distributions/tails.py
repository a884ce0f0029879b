"""Log-probabilities of half-lines, by the distribution function or by sums and integrals of the density."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.derived import tails_of
from neglog.distributions.family import family_of
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.special import log_of
from neglog.distributions.supports import anywhere, ends
from neglog.errors import ModelError


def log_tails(fn: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    """log P(Y ≤ value) and log P(Y > value) for any finite `value`.

    Raises:
        ModelError: vectors, classes without an order; without a `cdf`, a density that cannot be integrated.
    """
    if hasattr(fn, "_log_tails"):
        lower, upper = fn._log_tails(value)
        shape = broadcast_shapes(value.shape, fn.batch_shape)
        return lower.expand(shape), upper.expand(shape)
    if fn.event_shape or not family_of(fn).ordered:
        raise ModelError(
            f"`{type(fn).__name__}` has no distribution function, which bounds and quantiles need: its "
            "values are vectors, or classes without an order. Use `ordinal` for classes with one."
        )
    low, high = ends(fn.support)
    below, above = value < low, value >= high
    try:
        lower = fn.cdf(torch.where(below | above, anywhere(fn.support, value), value))
    except (NotImplementedError, AttributeError):
        return _derived(fn, value)
    return (
        torch.where(below, -math.inf, torch.where(above, 0.0, log_of(lower))),
        torch.where(below, 0.0, torch.where(above, -math.inf, log_of(1 - lower))),
    )


def _derived(fn: Any, value: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return tails_of(fn, value)
    except ModelError as error:
        raise ModelError(
            f"`{type(fn).__name__}` has no distribution function, and none follows from its density: {error}"
        ) from error
