"""Exponentially tilted densities on an interval, and the probabilities of intervals of a Normal distribution.

The density proportional to exp(θ y - τ y²) between two bounds is that of a truncated Normal distribution, and
at τ = 0 of a truncated exponential one. Its integral and its moments are found by one Gauss-Legendre rule
over the values at which it is not negligible. Derivatives of the log-probability of an interval are moments
of the Normal distribution between its ends, so that no digits are lost in a difference of two tails, however
narrow the interval is, and none in the distance of its ends, however wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from neglog.distributions.partials import Law
from neglog.distributions.special import HALF_LOG_TWO_PI

TILTED_NODES = 48
"""Nodes of the quadrature over the values between the bounds."""
MAX_TILTED_FALL = 40.0
"""The fall of a log-density from its largest value, in nats, beyond which it is not integrated."""
Moments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@lru_cache(maxsize=1)
def _rule() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of Gauss's rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(TILTED_NODES)
    return tuple((0.5 * (nodes + 1)).tolist()), tuple((0.5 * weights).tolist())


def tilted_moments(slope: Tensor, tau: Tensor, lower: Tensor, upper: Tensor) -> Moments:
    """log ∫ exp(s y - τ y²) dy between the bounds, where it is largest at 0; the moments of y.

    `slope` is s, 0 unless 0 is a bound, and τ ≥ 0. The moments are the mean and the central ones of order 2,
    3 and 4. Bounds may be infinite; the integral is not finite where it has no value.
    """
    depth = torch.sqrt(slope * slope + 4 * MAX_TILTED_FALL * tau)
    reach = 2 * MAX_TILTED_FALL / (slope.abs() + depth)
    start = torch.maximum(lower, -reach)
    width = torch.minimum(upper, reach) - start
    nodes, weights = (torch.tensor(part, dtype=reach.dtype, device=reach.device) for part in _rule())
    away = start.unsqueeze(-1) + width.unsqueeze(-1) * nodes
    density = weights * torch.exp((slope.unsqueeze(-1) - tau.unsqueeze(-1) * away) * away)
    mass = density.sum(-1)
    shift = (density * away).sum(-1) / mass
    rest = away - shift.unsqueeze(-1)
    square = rest * rest
    second = density * square
    third, fourth = ((second * each).sum(-1) / mass for each in (rest, square))
    return torch.log(width * mass), shift, second.sum(-1) / mass, third, fourth


@dataclass(frozen=True)
class _Inside:
    """A standard Normal z between the ends of an interval.

    Attributes:
        height: the log-density at its largest, less that of a standard Normal at 0.
        log_mass: the log of the integral of the density over that height.
        mean: the mean of z.
        away: the mean of z less the middle of the interval.
        square, cube, fourth: the central moments of z.
    """

    height: Tensor
    log_mass: Tensor
    mean: Tensor
    away: Tensor
    square: Tensor
    cube: Tensor
    fourth: Tensor

    @staticmethod
    def of(middle: Tensor, half: Tensor, scale: Tensor) -> _Inside:
        """Between the ends of an interval with this middle and half of this width, for a Normal around 0."""
        c, d = torch.broadcast_tensors(middle / scale, half / scale)
        below, above = c - d > 0, c + d < 0
        peak = torch.where(below, c - d, torch.where(above, c + d, 0.0))  # the end next to 0
        from_middle = torch.where(below, -d, torch.where(above, d, -c))
        log_mass, shift, square, cube, fourth = tilted_moments(
            -peak, torch.full_like(c, 0.5), -d - from_middle, d - from_middle
        )
        return _Inside(-0.5 * peak * peak, log_mass, peak + shift, from_middle + shift, square, cube, fourth)

    @property
    def spread_of_square(self) -> Tensor:
        """The variance of (z - mean)²."""
        return self.fourth - self.square * self.square


def _log_interval(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    z = _Inside.of(u, h, s)
    return z.height + z.log_mass - HALF_LOG_TWO_PI


def _in_middle(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    return -_Inside.of(u, h, s).mean / s


def _in_half(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    z = _Inside.of(u, h, s)
    return (1 - z.square - z.mean * z.away) / h


def _in_scale(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    z = _Inside.of(u, h, s)
    return (z.square - 1 + z.mean * z.mean) / s


def _in_middle_twice(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    return (_Inside.of(u, h, s).square - 1) / (s * s)


def _in_middle_and_half(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    z = _Inside.of(u, h, s)
    return (z.away * (z.square - 1) + z.mean * z.square + z.cube) / (h * s)


def _in_middle_and_scale(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    z = _Inside.of(u, h, s)
    return (2 * z.mean * (1 - z.square) - z.cube) / (s * s)


def _in_half_twice(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    z = _Inside.of(u, h, s)
    spread = z.spread_of_square + z.mean * (z.mean + 2 * z.away) * z.square + 2 * (z.away + z.mean) * z.cube
    return (spread - z.square - 1 + z.away * z.away * (z.square - 1)) / (h * h)


def _in_half_and_scale(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    z = _Inside.of(u, h, s)
    both = z.away + z.mean
    spread = 2 * z.mean * both * z.square + (2 * z.mean + both) * z.cube + z.spread_of_square
    return (2 * (z.mean * z.away + z.square) - spread) / (h * s)


def _in_scale_twice(u: Tensor, h: Tensor, s: Tensor) -> Tensor:
    z = _Inside.of(u, h, s)
    spread = 4 * z.mean * (z.mean * z.square + z.cube) + z.spread_of_square
    return (1 - 3 * (z.square + z.mean * z.mean) + spread) / (s * s)


LOG_NORMAL_INTERVAL = Law(
    {
        (): _log_interval,
        (0,): _in_middle,
        (1,): _in_half,
        (2,): _in_scale,
        (0, 0): _in_middle_twice,
        (0, 1): _in_middle_and_half,
        (0, 2): _in_middle_and_scale,
        (1, 1): _in_half_twice,
        (1, 2): _in_half_and_scale,
        (2, 2): _in_scale_twice,
    }
)
"""The log of the probability that a Normal of a scale s around 0 is between u - h and u + h."""


def log_normal_interval(start: Tensor, width: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The log of the probability that a Normal is beyond `start` by no more than `width`, both finite."""
    half = 0.5 * width
    return LOG_NORMAL_INTERVAL(start - loc + half, half, scale)
