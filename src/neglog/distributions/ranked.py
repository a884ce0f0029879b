"""The continuous ranked probability score in closed form: E|X - y| - ½ E|X - X'|, differentiable.

Each is a function of a distribution and of y. Source for most: Jordan, Krüger & Lerch (2019), Evaluating
probabilistic forecasts with scoringRules, appendix A; Gneiting & Thorarinsdottir (2010) for Student's t.
scoringrules, which has them too, has no derivatives in the shapes of Student's t, Gamma and Beta laws.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.incomplete import regularised_gamma
from neglog.distributions.special import log_expit, ndtr


def _normal_density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


def normal(d: Any, y: Tensor) -> Tensor:
    """The score of a Normal."""
    z = (y - d.loc) / d.scale
    return d.scale * (z * (ndtr(z) - ndtr(-z)) + 2 * _normal_density(z) - 1 / math.sqrt(math.pi))


def laplace(d: Any, y: Tensor) -> Tensor:
    """The score of a Laplace."""
    away = (y - d.loc).abs()
    return away + d.scale * (torch.exp(-away / d.scale) - 0.75)


def logistic(d: Any, y: Tensor) -> Tensor:
    """The score of a logistic."""
    z = ((y - d.loc) / d.scale).abs()
    return d.scale * (z - 2 * log_expit(z) - 1)


def student(d: Any, y: Tensor) -> Tensor:
    """The score of a Student's t; NaN without a mean, at df ≤ 1."""
    df, z = d.df, (y - d.loc) / d.scale
    lower, upper = d._tails(y)
    density = torch.exp(d.log_prob(y)) * d.scale
    half = torch.full_like(df, 0.5)
    spread = torch.exp(_log_beta(half, (df - 0.5).clamp(min=0.1)) - 2 * _log_beta(half, df / 2))
    beyond = 2 * density * (df + z.square()) - 2 * df.sqrt() * spread
    return d.scale * torch.where(df > 1, z * (lower - upper) + beyond / (df - 1), torch.nan)


def lognormal(d: Any, y: Tensor) -> Tensor:
    """The score of a log-normal."""
    z = (torch.log(y) - d.loc) / d.scale
    mean = torch.exp(d.loc + 0.5 * d.scale.square())
    return y * (ndtr(z) - ndtr(-z)) - 2 * mean * (ndtr(z - d.scale) - ndtr(-d.scale / math.sqrt(2)))


def gamma(d: Any, y: Tensor) -> Tensor:
    """The score of a Gamma."""
    a, mean = d.concentration, d.concentration / d.rate
    lower, upper = d._tails(y)
    below = lower - y * torch.exp(d.log_prob(y)) / a  # the distribution function at a concentration of a + 1
    spread = torch.exp(-_log_beta(torch.full_like(a, 0.5), a)) / d.rate
    return y * (lower - upper) - mean * (2 * below - 1) - spread


def weibull(d: Any, y: Tensor) -> Tensor:
    """The score of a Weibull."""
    k = d.concentration
    mean = d.scale * torch.exp(torch.lgamma(1 + 1 / k))
    lower, upper = d._tails(y)
    below = regularised_gamma(1 + 1 / k, (y / d.scale) ** k)[0]
    return y * (lower - upper) - mean * (2 * below - torch.exp2(-1 / k))


def beta(d: Any, y: Tensor) -> Tensor:
    """The score of a Beta."""
    a, b = d.concentration1, d.concentration0
    lower, upper = d._tails(y)
    below = lower - y * (1 - y) * torch.exp(d.log_prob(y)) / a  # the same at a concentration of a + 1
    spread = torch.exp(math.log(2) + _log_beta(2 * a, 2 * b) - 2 * _log_beta(a, b)) / a
    return y * (lower - upper) + a / (a + b) * (1 - 2 * below - spread)


def poisson(d: Any, y: Tensor) -> Tensor:
    """The score of a Poisson. Source: Wei & Held (2014), Calibration tests for count data."""
    rate = d.rate
    lower, upper = (tail.exp() for tail in d._log_tails(y))
    spread = torch.special.i0e(2 * rate) + torch.special.i1e(2 * rate)
    return (y - rate) * (lower - upper) + 2 * rate * torch.exp(d.log_prob(y)) - rate * spread


def bernoulli(d: Any, y: Tensor) -> Tensor:
    """The score of a response of 0 or 1, which is Brier's."""
    return (y - d.probs).square()


def normal_mixture(d: Any, y: Tensor) -> Tensor:
    """The score of a mixture of Normals. Source: Grimit et al. (2006)."""
    means, variances, shares = d.means, d.sigmas.square(), d.probs
    away = (shares * _expected_size(y[..., None] - means, variances)).sum(-1)
    between = _expected_size(
        means[..., :, None] - means[..., None, :], variances[..., :, None] + variances[..., None, :]
    )
    return away - 0.5 * (shares[..., :, None] * shares[..., None, :] * between).sum((-1, -2))


def _expected_size(mean: Tensor, variance: Tensor) -> Tensor:
    """The mean of |X| of a Normal."""
    scale = variance.sqrt()
    z = mean / scale
    return mean * (ndtr(z) - ndtr(-z)) + 2 * scale * _normal_density(z)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
