"""Log-probabilities of half-lines, for every distribution that has a distribution function."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.special import log_of
from neglog.distributions.supports import anywhere, ends
from neglog.errors import ModelError


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
