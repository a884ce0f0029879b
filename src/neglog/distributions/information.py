"""Fisher's information of an observation of each family in its parameters, where it has a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.family import Entries
from neglog.errors import ModelError

EULER = 0.5772156649015329
"""The Euler-Mascheroni constant."""
MAX_COUNT_PROBABILITIES = 5_000_000
"""Largest number of probabilities, rows × counts, in the information on a dispersion."""


def location_scale(of_location: float, of_scale: float) -> Callable[..., Entries]:
    """The information of a symmetric density, in units of 1 / scale²."""

    def entries(fn: Any, location: Tensor, scale: Tensor) -> Entries:
        unit = scale.square().reciprocal()
        return {(0, 0): of_location * unit, (1, 1): of_scale * unit}

    return entries


def asymmetric_laplace(fn: Any, location: Tensor, scale: Tensor) -> Entries:
    """The information of AsymmetricLaplace(location, scale) with fixed tau.

    Shapes: `location` and `scale` share one shape `(N,)`, and each entry has it. Units: 1 / scale², 1
    over those of y squared. Source: Kotz, Kozubowski & Podgórski (2001), section 3.5.
    """
    return {(0, 0): fn.tau * (1 - fn.tau) / scale.square(), (1, 1): scale.square().reciprocal()}


def student(fn: Any, df: Tensor, loc: Tensor, scale: Tensor) -> Entries:
    """The information of StudentT(df, loc, scale).

    Shapes: the parameters share one shape `(N,)`, and each entry has it. Units: those of `loc` and
    `scale` are 1 over those of y squared, (0, 2) 1 over those of y; `df` has none. Source: Lange, Little
    & Taylor (1989), appendix B.
    """
    # Lange, Little & Taylor (1989), appendix B.
    trigamma = torch.special.polygamma
    own = trigamma(1, df / 2) - trigamma(1, (df + 1) / 2) - 2 * (df + 5) / (df * (df + 1) * (df + 3))
    return {
        (0, 0): own / 4,
        (1, 1): (df + 1) / ((df + 3) * scale.square()),
        (2, 2): 2 * df / ((df + 3) * scale.square()),
        (0, 2): -2 / (scale * (df + 1) * (df + 3)),
    }


def poisson(fn: Any, rate: Tensor) -> Entries:
    """The information of Poisson(rate): 1 / rate, and 0 where the rate is 0.

    Shapes: `rate` `(N,)`, and the entry has the same. Units: 1 over counts. Source: Fisher (1922).
    """
    return {(0, 0): _reciprocal(rate)}


def _reciprocal(variance: Tensor) -> Tensor:
    """1 / variance; 0 where a count is certain, as at an exposure of 0, and no parameter changes that."""
    return torch.where(variance > 0, variance.reciprocal(), 0.0)


def bernoulli(fn: Any, logits: Tensor) -> Entries:
    """The information of Bernoulli(logits): p (1 - p), p = 1 / (1 + exp(-logits)).

    Shapes: `logits` `(N,)`, and the entry has the same. No units. Source: McCullagh & Nelder (1989),
    section 4.4.
    """
    return {(0, 0): logits.sigmoid() * (-logits).sigmoid()}


def binomial(fn: Any, logits: Tensor) -> Entries:
    """The information of Binomial(total_count, logits): n p (1 - p), p = 1 / (1 + exp(-logits)).

    Shapes: `logits` `(N,)`, and the entry has the same. No units. Source: McCullagh & Nelder (1989),
    section 4.4.
    """
    return {(0, 0): fn.total_count * logits.sigmoid() * (-logits).sigmoid()}


def negative_binomial(fn: Any, mean: Tensor, dispersion: Tensor) -> Entries:
    """The information of NegativeBinomial2(mean, dispersion): 1 / variance, and a sum for the dispersion.

    Shapes: `mean` and `dispersion` `(N,)`, and each entry has the same. Units: that of the mean is 1
    over counts squared; the dispersion has none. Source: Lawless (1987), Negative binomial and mixed
    Poisson regression.

    Raises:
        ModelError: rows × counts are more than `MAX_COUNT_PROBABILITIES`.
    """
    # With r = 1 / dispersion, I(r) = Σ_j P(Y > j) / (r + j)² - mean / (r (r + mean)); dr = -r² d(1 / r).
    r, last = 1 / dispersion, int(fn.icdf(torch.full_like(mean, 1 - 1e-13)).max())
    if last * len(mean) > MAX_COUNT_PROBABILITIES:
        raise ModelError("the counts are too large for the expected information; use cov_type='observed'.")
    counts = torch.arange(last + 2, dtype=mean.dtype)[:, None]
    probabilities = fn.log_prob(counts).exp()
    tails = probabilities.flip(0).cumsum(0).flip(0)[1:]  # P(Y > j), summed from the small ones on
    beyond = (tails / (r + counts[:-1]).square()).sum(0)
    own = beyond - mean / (r * (r + mean))
    return {(0, 0): _reciprocal(mean + dispersion * mean.square()), (1, 1): own * r**4}


def gamma(fn: Any, concentration: Tensor, rate: Tensor) -> Entries:
    """The information of Gamma(concentration, rate).

    Shapes: the parameters share one shape `(N,)`, and each entry has it. Units: those of y for (0, 1),
    of y squared for the rate; the concentration has none. Source: Johnson, Kotz & Balakrishnan (1994),
    chapter 17.
    """
    return {
        (0, 0): torch.special.polygamma(1, concentration),
        (0, 1): -1 / rate,
        (1, 1): concentration / rate.square(),
    }


def weibull(fn: Any, scale: Tensor, concentration: Tensor) -> Entries:
    """The information of Weibull(scale, concentration).

    Shapes: the parameters share one shape `(N,)`, and each entry has it. Units: 1 over those of y
    squared for the scale, 1 over those of y for (0, 1); the concentration has none. Source: Johnson,
    Kotz & Balakrishnan (1994), chapter 21.
    """
    return {
        (0, 0): (concentration / scale).square(),
        (0, 1): -(1 - EULER) / scale,
        (1, 1): ((1 - EULER) ** 2 + math.pi**2 / 6) / concentration.square(),
    }


def inverse_gaussian(fn: Any, mean: Tensor, concentration: Tensor) -> Entries:
    """The information of InverseGaussian(mean, concentration), whose variance is mean³ / concentration.

    Shapes: the parameters share one shape `(N,)`, and each entry has it. Units: 1 over those of y
    squared for both. Source: Tweedie (1957), Statistical properties of inverse Gaussian distributions.
    """
    return {(0, 0): concentration / mean**3, (1, 1): 0.5 / concentration.square()}


def beta(fn: Any, a: Tensor, b: Tensor) -> Entries:
    """The information of Beta(a, b).

    Shapes: `a` and `b` share one shape `(N,)`, and each entry has it. No units. Source: Johnson, Kotz &
    Balakrishnan (1995), chapter 25.
    """
    both = torch.special.polygamma(1, a + b)
    return {
        (0, 0): torch.special.polygamma(1, a) - both,
        (0, 1): -both,
        (1, 1): torch.special.polygamma(1, b) - both,
    }
