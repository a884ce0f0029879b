"""Huber's density: a Normal in the middle, exponential tails beyond, and Huber's loss as its minus log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions.base import Located, Parameter, as_tensors
from neglog.distributions.family import Family, register
from neglog.distributions.location import location_scale
from neglog.distributions.quantiles import at_ends, interior
from neglog.distributions.special import absolute, log1m_exp, ndtr

_ROOT_TWO_PI = math.sqrt(2 * math.pi)


def _masses(delta: Tensor) -> tuple[Tensor, Tensor]:
    """The integrals of exp(-ρ) over the core |u| < δ and over both tails."""
    core = _ROOT_TWO_PI * torch.erf(delta / math.sqrt(2))
    return core, 2 * torch.exp(-0.5 * delta * delta) / delta


@public
def mixture_weights(delta: Parameter) -> tuple[Tensor, Tensor]:
    """The probabilities of the Normal core and of the exponential tails of Huber's density: they sum to 1.

    In units of the scale the density is exp(-ρ(u)) / Z. Within ±δ it is exp(-u² / 2), a Normal density cut
    off at ±δ, of mass √(2π) (2Φ(δ) - 1). Beyond, with |u| = δ + e, it is exp(-δ² / 2) exp(-δ e): on each side
    an exponential excess e of rate δ, of mass exp(-δ² / 2) / δ. So a draw is, with probability

        √(2π) (2Φ(δ) - 1) / (√(2π) (2Φ(δ) - 1) + 2 exp(-δ² / 2) / δ),

    a truncated Normal one, and else ±(δ + e), the sign by a fair coin. As δ → ∞ the core takes all: the
    Normal density with this scale. As δ → 0 the tails take all: Laplace's, with scale / δ for its scale.

    Shapes: those of `delta`. Source: Huber (1964), Robust estimation of a location parameter, whose least
    favourable distribution this is: a Normal one with a share of contamination that depends on δ.

    >>> core, tails = mixture_weights(1.345)
    >>> round(core.item(), 4), round(tails.item(), 4)
    (0.7738, 0.2262)
    """
    (delta,) = as_tensors(delta)
    core, tails = _masses(delta)
    return core / (core + tails), tails / (core + tails)


def _clipped(u: Tensor, delta: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(u, -delta), delta)


def _huber_loss(u: Tensor, delta: Tensor) -> Tensor:
    # With c = u clipped to ±δ both branches of Huber's loss are c u - c² / 2.
    clipped = _clipped(u, delta)
    return clipped * (u - 0.5 * clipped)


def _outside(u: Tensor, delta: Tensor) -> Tensor:
    return (u.abs() > delta).to(u.dtype)


_HUBER = location_scale(
    _huber_loss,
    _clipped,
    lambda u, delta: (u.abs() <= delta).to(u.dtype),
    {
        (1,): lambda u, delta: (u.abs() - delta).clamp(min=0),
        (0, 1): lambda u, delta: torch.sign(u) * _outside(u, delta),
        (1, 1): lambda u, delta: -_outside(u, delta),
    },
)


@public
class Huber(Located):
    """Huber(location, scale, delta): minus its log is Huber's loss.

    Density: exp(-ρ((y - location) / scale)) / Z with ρ(u) = u² / 2 for |u| ≤ δ and δ (|u| - δ / 2) beyond,
    Z = scale (√(2π) (2Φ(δ) - 1) + 2 exp(-δ² / 2) / δ).
    Shapes: any that broadcast; `location` and `scale` in units of y, `delta` in units of the scale.
    Estimates: a location between the mean (δ → ∞) and the median (δ → 0), and a scale that is the standard
    deviation only in the first of these limits.
    Source: Huber (1964), Robust estimation of a location parameter.
    `cdf` and `icdf` in closed form; `rsample` goes through `icdf`. :func:`mixture_weights` derives the parts.
    Raises ``ValueError`` for a scale or a delta that is not positive.

    >>> import torch
    >>> huber = Huber(0.0, 1.0, 1.345)
    >>> huber.log_prob(torch.tensor([0.0, 1.0])) - huber.log_prob(torch.tensor(0.0))
    tensor([ 0.0000, -0.5000])
    """

    arg_constraints: Mapping[str, Any] = {
        "location": constraints.real,
        "scale": constraints.positive,
        "delta": constraints.positive,
    }

    scale: Tensor
    delta: Tensor

    def __init__(
        self, location: Parameter, scale: Parameter, delta: Parameter, *, validate_args: bool | None = None
    ) -> None:
        super().__init__(location, scale, delta, validate_args=validate_args)

    @property
    def knots(self) -> tuple[Tensor, Tensor]:
        """Where the second derivative of the log-density jumps, in ascending order.

        No integral of it up to there has first or second derivatives in where that is.
        """
        location, scale, delta = (part.detach() for part in self._given)
        return location - delta * scale, location + delta * scale

    def _log_prob(self, value: Tensor) -> Tensor:
        core, tails = _masses(self._given[2])
        return _HUBER(value, *self._given) - torch.log(core + tails)

    def _lower(self, u: Tensor) -> Tensor:
        """The probability below u ≤ 0, in units of the scale."""
        delta = self._given[2]
        total = sum(_masses(delta))
        edge = torch.exp(-0.5 * delta * delta) / delta
        tail = torch.exp(delta * torch.minimum(u + delta, torch.zeros_like(u))) * edge
        core = edge + _ROOT_TWO_PI * (ndtr(u) - ndtr(-delta))
        return torch.where(u < -delta, tail, core) / total

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        location, scale, _ = self._given
        u = (value - location) / scale
        below, above = self._lower(u.clamp(max=0)), self._lower(-u.clamp(min=0))
        return torch.where(u < 0, below, 1 - above), torch.where(u < 0, 1 - below, above)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        location, scale, delta = self._given
        u = (value - location) / scale
        outside = u.abs() > delta
        excess = torch.where(outside, absolute(u) - delta, 0.0)
        tail = -delta * excess - 0.5 * delta * delta - torch.log(delta * sum(_masses(delta)))
        inner = torch.where(outside, 0.0, u)
        near, mirrored = torch.log(self._lower(-absolute(inner))), torch.log1p(-self._lower(-absolute(inner)))
        smaller, larger = torch.where(outside, tail, near), torch.where(outside, log1m_exp(-tail), mirrored)
        below = u < 0
        return torch.where(below, smaller, larger), torch.where(below, larger, smaller)

    def _quantile(self, q: Tensor) -> Tensor:
        location, scale, delta = self._given
        inner = interior(q)
        below = inner < 0.5
        p = torch.where(below, inner, 1 - inner)
        total = sum(_masses(delta))
        edge = torch.exp(-0.5 * delta * delta) / delta
        mass = p * total
        outside = mass < edge
        tail = torch.log(torch.where(outside, mass / edge, 1)) / delta - delta
        rank = (mass - edge) / _ROOT_TWO_PI + ndtr(-delta)
        u = torch.where(outside, tail, torch.special.ndtri(torch.where(outside, 0.5, rank)))
        return location + scale * at_ends(q, torch.where(below, u, -u), -math.inf, math.inf)

    @property
    def mixture_weights(self) -> tuple[Tensor, Tensor]:
        """The probabilities of the Normal core and of the two tails: see :func:`mixture_weights`."""
        return mixture_weights(self.delta)

    @property
    def mean(self) -> Tensor:
        """The location, in which the density is symmetric."""
        return self.location

    @property
    def variance(self) -> Tensor:
        """The variance, in squared units of y."""
        # ∫u² over the core is its mass less 2δ exp(-δ²/2); over the tails 2 exp(-δ²/2) (δ + 2/δ + 2/δ³).
        core, tails = _masses(self.delta)
        return self.scale**2 * (core + tails * (2 + 2 / self.delta**2)) / (core + tails)

    def entropy(self) -> Tensor:
        """The differential entropy, in nats."""
        # log Z + E ρ; over the core ∫ρ is half of ∫u², over the tails exp(-δ²/2) (δ + 2/δ).
        core, tails = _masses(self.delta)
        return torch.log(self.scale * (core + tails)) + (0.5 * core + tails) / (core + tails)


register(Family(Huber))
