"""Unit deviances: twice the log-likelihood that is missing to a perfect fit, at a dispersion of 1.

Each is a function of a distribution `fn`, of one of the same family with the location, `at`, and of y.
Source: McCullagh & Nelder (1989), Generalized Linear Models, section 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def classes(fn: Any, at: Any, y: Tensor) -> Tensor:
    """Minus twice the log-probability of the class that came: that of a perfect fit is 1."""
    return -2 * at.log_prob(y)


def square(fn: Any, at: Any, y: Tensor) -> Tensor:
    """The squared error of the mean."""
    return (y - at.loc).square()


def square_of_logarithm(fn: Any, at: Any, y: Tensor) -> Tensor:
    """The squared error of the logarithm."""
    return (torch.log(y) - at.loc).square()


def absolute(fn: Any, at: Any, y: Tensor) -> Tensor:
    """Twice the absolute error of the median."""
    return 2 * (y - at.loc).abs()


def pinball(fn: Any, at: Any, y: Tensor) -> Tensor:
    """Twice the pinball loss of the quantile."""
    away = y - at.location
    return 2 * torch.maximum(fn.tau * away, (fn.tau - 1) * away)


def poisson(fn: Any, at: Any, y: Tensor) -> Tensor:
    """2 (y log(y / mean) - y + mean)."""
    return 2 * (torch.xlogy(y, y / at.rate) - y + at.rate)


def binomial(fn: Any, at: Any, y: Tensor) -> Tensor:
    """2 (y log(y / mean) + (n - y) log((n - y) / (n - mean)))."""
    trials, rest = at.total_count, at.total_count - y
    expected = at.mean
    return 2 * (torch.xlogy(y, y / expected) + torch.xlogy(rest, rest / (trials - expected)))


def negative_binomial(fn: Any, at: Any, y: Tensor) -> Tensor:
    """2 (y log(y / mean) - (y + 1 / a) log((1 + a y) / (1 + a mean))), with the dispersion a of `fn`."""
    a, mean = fn.dispersion, at.mean
    growth = torch.log1p(a * y) - torch.log1p(a * mean)
    limit = torch.where(a > 0, growth / a.clamp(min=torch.finfo(y.dtype).tiny), y - mean)
    return 2 * (torch.xlogy(y, y / mean) - y * growth - limit)


def gamma(fn: Any, at: Any, y: Tensor) -> Tensor:
    """2 (log(mean / y) + y / mean - 1)."""
    return 2 * (torch.log(at.mean / y) + y / at.mean - 1)


def inverse_gaussian(fn: Any, at: Any, y: Tensor) -> Tensor:
    """(y - mean)² / (mean² y)."""
    return (y / at.mean - 1).square() / y
