"""Exponentially tilted densities on an interval, and the probabilities of intervals of a Normal distribution.

The density proportional to exp(θ y - τ y²) between two bounds is that of a truncated Normal distribution, and
at τ = 0 of a truncated exponential one. Its integral and its moments are found by one Gauss-Legendre rule
over the values at which it is not negligible. With the ends of an interval at c ± d standard deviations,

    P(c - d < Z < c + d) = d φ(c) ∫ exp(-c d t - d² t² / 2) dt    over -1 < t < 1,

and derivatives of its logarithm in c and d are moments of t: no digits are lost in a difference of two tails.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from neglog.distributions.partials import Law
from neglog.distributions.special import HALF_LOG_TWO_PI

TILTED_NODES = 40
"""Nodes of the quadrature over the values between the bounds."""
MAX_TILTED_FALL = 40.0
"""The fall of a log-density from its largest value, in nats, beyond which it is not integrated."""
Moments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@lru_cache(maxsize=1)
def _rule() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of Gauss's rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(TILTED_NODES)
    return tuple((0.5 * (nodes + 1)).tolist()), tuple((0.5 * weights).tolist())


def tilted_moments(theta: Tensor, tau: Tensor, lower: Tensor, upper: Tensor) -> Moments:
    """log ∫ exp(θ y - τ y²) dy between the bounds, the mean of y and its central moments of order 2, 3 and 4.

    For τ ≥ 0. Bounds may be infinite; not finite where the integral is.
    """
    with torch.no_grad():
        peak = torch.where(tau > 0, theta / (2 * tau), torch.sign(theta) * math.inf)
        peak = torch.where((tau == 0) & (theta == 0), lower, peak)
        peak = torch.minimum(torch.maximum(peak, lower), upper)
        fall = theta - 2 * tau * peak
        reach = 2 * MAX_TILTED_FALL / (fall.abs() + torch.sqrt(fall * fall + 4 * MAX_TILTED_FALL * tau))
        start = torch.maximum(lower - peak, -reach)
        width = torch.minimum(upper - peak, reach) - start
        nodes, weights = (torch.tensor(part, dtype=peak.dtype, device=peak.device) for part in _rule())
        away = start.unsqueeze(-1) + width.unsqueeze(-1) * nodes
    slope = theta - 2 * tau * peak
    density = weights * torch.exp((slope.unsqueeze(-1) - tau.unsqueeze(-1) * away) * away)
    mass = density.sum(-1)
    shift = (density * away).sum(-1) / mass
    rest = away - shift.unsqueeze(-1)
    square = rest * rest
    second = density * square
    central = ((part.sum(-1) / mass) for part in (second, second * rest, second * square))
    log_mass = (theta - tau * peak) * peak + torch.log(width * mass)
    return (log_mass, peak + shift, *central)  # type: ignore[return-value]


def _in_units(c: Tensor, d: Tensor) -> Moments:
    """The moments of t."""
    c, d = torch.broadcast_tensors(c, d)
    one = torch.ones_like(c)
    return tilted_moments(-c * d, 0.5 * d * d, -one, one)


def _log_interval(c: Tensor, d: Tensor) -> Tensor:
    return _in_units(c, d)[0] + torch.log(d) - 0.5 * c * c - HALF_LOG_TWO_PI


def _in_centre(c: Tensor, d: Tensor) -> Tensor:
    return -(c + d * _in_units(c, d)[1])


def _in_width(c: Tensor, d: Tensor) -> Tensor:
    _, mean, second, *_ = _in_units(c, d)
    return 1 / d - c * mean - d * (second + mean * mean)


def _in_centre_twice(c: Tensor, d: Tensor) -> Tensor:
    return d * d * _in_units(c, d)[2] - 1


def _cross(c: Tensor, d: Tensor) -> Tensor:
    _, mean, second, third, _ = _in_units(c, d)
    return d * ((c + 2 * d * mean) * second + d * third) - mean


def _in_width_twice(c: Tensor, d: Tensor) -> Tensor:
    _, mean, second, third, fourth = _in_units(c, d)
    slope = c + 2 * d * mean
    spread = slope * slope * second + 2 * slope * d * third + d * d * (fourth - second * second)
    return spread - 1 / (d * d) - (second + mean * mean)


LOG_NORMAL_INTERVAL = Law(
    {
        (): _log_interval,
        (0,): _in_centre,
        (1,): _in_width,
        (0, 0): _in_centre_twice,
        (0, 1): _cross,
        (1, 1): _in_width_twice,
    }
)
"""The log of the probability that a standard Normal is between c - d and c + d, a law in c and d > 0."""


def log_normal_interval(start: Tensor, width: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The log of the probability that a Normal is beyond `start` by no more than `width`, both finite."""
    half = 0.5 * width
    return LOG_NORMAL_INTERVAL((start + half - loc) / scale, half / scale)
