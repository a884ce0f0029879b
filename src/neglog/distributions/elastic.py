"""The prior behind the elastic net: the product of a Laplace and a Normal density at one location."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions.base import Located, Parameter
from neglog.distributions.corners import Corner
from neglog.distributions.family import Family, register
from neglog.distributions.quantiles import at_ends, corrected, interior
from neglog.distributions.special import log1m_exp, log_of, log_tail_integral


@public
class ElasticNet(Located):
    """ElasticNet(location, l1, l2): minus its log is the penalty of the elastic net.

    Density: exp(-l1 |d| - l2 d² / 2) / Z with d = y - location, the product of Laplace(location, 1 / l1) and
    Normal(location, 1 / √l2). Z = 2 m(l1 / √l2) / √l2, m(x) = Φ(-x) / φ(x) being Mills' ratio.
    Shapes: any that broadcast; `l1` in units of 1 / y, `l2` in units of 1 / y². At l2 = 0 it is Laplace's.
    Estimates: as a prior on weights, with ``map_estimate``, some weights exactly at the location, and alike
    weights for columns that are alike (`neglog.losses.elastic_net_rates` for scikit-learn's numbers).
    Source: Zou and Hastie (2005); as a prior, Li and Lin (2010).
    `cdf` in closed form; `icdf` and with it `rsample` by Newton's method, derivatives included.
    Raises ``ValueError`` for an l1 that is not positive or an l2 below 0.

    >>> import torch
    >>> prior = ElasticNet(0.0, 1.0, 2.0)
    >>> prior.log_prob(torch.tensor([0.0, 3.0])) - prior.log_prob(torch.tensor(0.0))
    tensor([  0., -12.])
    """

    arg_constraints: Mapping[str, Any] = {
        "location": constraints.real,
        "l1": constraints.positive,
        "l2": constraints.nonnegative,
    }

    l1: Tensor
    l2: Tensor

    def __init__(
        self, location: Parameter, l1: Parameter, l2: Parameter, *, validate_args: bool | None = None
    ) -> None:
        super().__init__(location, l1, l2, validate_args=validate_args)

    @property
    def log_normaliser(self) -> Tensor:
        """log Z."""
        return math.log(2) + log_tail_integral(self.l1, self.l2)

    @property
    def knots(self) -> tuple[Tensor]:
        """Where the slope of the log-density jumps."""
        return (self._given[0],)

    def _log_prob(self, value: Tensor) -> Tensor:
        location, l1, l2 = self._given
        distance = value - location
        normaliser = math.log(2) + log_tail_integral(l1, l2)
        return -l1 * distance.abs() - 0.5 * l2 * distance * distance - normaliser

    def _log_beyond(self, distance: Tensor) -> Tensor:
        """The log of the probability of more than `distance` ≥ 0 above the location."""
        # exp(-l1 (t + s) - l2 (t + s)² / 2) is the integrand at t, times exp(-(l1 + l2 t) s - l2 s² / 2).
        _, l1, l2 = self._given
        rest = log_tail_integral(l1 + l2 * distance, l2) - log_tail_integral(l1, l2)
        return rest - (l1 + 0.5 * l2 * distance) * distance - math.log(2)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        distance = value - self._given[0]
        smaller = self._log_beyond(distance.abs())
        larger, below = log1m_exp(-smaller), distance < 0
        return torch.where(below, smaller, larger), torch.where(below, larger, smaller)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        distance = value - self._given[0]
        # Written so that the derivative at the location itself is the density, from either side.
        smaller = torch.exp(self._log_beyond(torch.where(distance < 0, -distance, distance)))
        below = distance < 0
        return torch.where(below, smaller, 1 - smaller), torch.where(below, 1 - smaller, smaller)

    def _quantile(self, q: Tensor) -> Tensor:
        inner = interior(q)
        upper = inner >= 0.5
        with torch.no_grad():
            distance = self._distance(torch.where(upper, 1 - inner, inner))
            location = self._given[0].detach()
            value = location + torch.where(upper, distance, -distance)
        density = torch.exp(self._log_prob(value))
        return at_ends(q, corrected(inner, value, self._tails(value), density), -math.inf, math.inf)

    def _distance(self, p: Tensor) -> Tensor:
        """The distance above the location of the upper quantile of a probability `p` ≤ ½.

        By Newton's method on its log, which is concave: from the second step on it falls to the root.
        """
        _, l1, l2 = self._given
        target = log_of(p)
        distance = torch.zeros_like(target + l1 + l2)
        for _ in range(100):
            mean = torch.exp(log_tail_integral(l1 + l2 * distance, l2))
            moved = (distance + mean * (self._log_beyond(distance) - target)).clamp(min=0)
            # `corrected` takes one more step, which squares this error.
            done = (moved - distance).abs() <= torch.finfo(moved.dtype).eps ** 0.5 * (moved + mean)
            distance = moved
            if bool(done.all()):
                break
        return distance

    @property
    def mean(self) -> Tensor:
        """The location, in which the density is symmetric."""
        return self.location

    @property
    def variance(self) -> Tensor:
        """The variance, in squared units of the location."""
        # With t = |d|, by parts: l1 + l2 E t = 2 / Z and l1 E t + l2 E t² = 1. Where l2 is small against l1²
        # both lose their digits, and E t² = Σ (-w)^k (2k + 2)! / (2^k k!) / (l1² Σ (-w)^k (2k - 1)!!).
        w = self.l2 / self.l1**2
        small = w < 1e-3
        l2 = torch.where(small, self.l1**2, self.l2)
        first = (torch.exp(-log_tail_integral(self.l1, l2)) - self.l1) / l2
        near = torch.where(small, w, 0.0)
        above, below = torch.zeros_like(near), torch.zeros_like(near)
        for k in reversed(range(8)):
            odd = math.factorial(2 * k) / (2**k * math.factorial(k))
            above = -near * above + (2 * k + 2) * (2 * k + 1) * odd
            below = -near * below + odd
        return torch.where(small, above / below / self.l1**2, (1 - self.l1 * first) / l2)

    def entropy(self) -> Tensor:
        """The differential entropy, in nats."""
        # log Z + l1 E t + l2 E t² / 2, and l1 E t = 1 - l2 E t².
        return self.log_normaliser + 1 - 0.5 * self.l2 * self.variance


def _corner(fn: Any) -> Corner:
    curvature, constant = fn.l2 / fn.l1**2, -fn.log_normaliser
    # By parts, E (l1 sign + l2 d)² = l2 + 2 l1 / Z.
    expected = curvature + 2 * torch.exp(constant) / fn.l1
    return Corner(
        fn,
        fn.location,
        1 / fn.l1,
        1.0,
        lambda u: 0.5 * curvature * u * u,
        constant,
        expected,
        l2=fn.l2,
        sharper=lambda factor: ElasticNet(fn.location, factor * fn.l1, factor * fn.l2),
    )


register(Family(ElasticNet, corner=_corner))
