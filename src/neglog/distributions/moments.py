"""Moments of a part of a law: integrals of its density between two ends, and sums of its probabilities."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.distributions.supports import anywhere

_NODE_SPACING, _NODES_PER_SIDE = 1 / 16, 72
"""The spacing and the number of nodes on each side of the double exponential rule."""


@torch.no_grad()
def about(fn: Any, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """A centre between `low` and `high` where a density may have its corner or its peak, and its scale."""
    try:
        centre, scale = fn.mean, fn.stddev
    except NotImplementedError:
        centre = scale = torch.ones_like(low)
    if fn.support is constraints.real:
        centre = getattr(fn, "loc", centre)
    known = torch.isfinite(scale) & (scale > 0)
    return torch.clamp(centre.nan_to_num(), low, high), torch.where(known, scale, 1.0)


def partial_moments(
    fn: Any, low: Tensor, high: Tensor, centre: Tensor, log_mass: Tensor
) -> tuple[Tensor, Tensor]:
    """The integrals of (y - centre) p(y) and (y - centre)² p(y) from `low` to `high`, over exp(log_mass)."""
    if fn.support.is_discrete:
        return _sums(fn, low, high, centre, log_mass)
    scale = about(fn, low, high)[1]
    parts = [_nodes(end, centre, scale, side) for end, side in ((low, -1.0), (high, 1.0))]
    first, second = torch.zeros_like(centre), torch.zeros_like(centre)
    for y, weights in parts:
        inside = (y > low) & (y < high) & torch.isfinite(y)
        log_density = fn.log_prob(torch.where(inside, y, anywhere(fn.support, y))) - log_mass
        masses = torch.where(inside, torch.exp(log_density) * weights, 0.0)
        masses = torch.where(torch.isfinite(masses), masses, 0.0)
        away = torch.where(inside, y - centre, 0.0)
        first, second = first + (masses * away).sum(0), second + (masses * away * away).sum(0)
    return first, second


def _nodes(end: Tensor, centre: Tensor, scale: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Nodes and weights `(M, ...)` from `centre` to `end`, close together at both, and at `scale` between.

    The double exponential rule (Takahasi & Mori 1974): the trapezoidal one in t, where the distance from the
    centre is that to the end times σ(v) with v = ½π sinh t + log(scale / length), or scale · exp(½π sinh t)
    where the end is at infinity.
    """
    steps = torch.arange(-_NODES_PER_SIDE, _NODES_PER_SIDE + 1, dtype=centre.dtype)
    t = steps.reshape(-1, *(1 for _ in centre.shape)) * _NODE_SPACING
    grown, speed = 0.5 * math.pi * torch.sinh(t), 0.5 * math.pi * _NODE_SPACING * torch.cosh(t)
    length, bounded = (end - centre).abs(), torch.isfinite(end)
    v = grown + torch.log((scale / length).clamp(max=1.0))
    near, far = length * torch.sigmoid(v), length * torch.sigmoid(-v)
    y = torch.where(v < 0, centre + side * near, end - side * far)
    open_distance = scale * torch.exp(grown)
    return (
        torch.where(bounded, y, centre + side * open_distance),
        torch.where(bounded, near * torch.sigmoid(-v), open_distance) * speed,
    )


def _sums(fn: Any, low: Tensor, high: Tensor, centre: Tensor, log_mass: Tensor) -> tuple[Tensor, Tensor]:
    """`partial_moments` of counts; where there is no `high`, what all counts give less those below `low`."""
    is_open = ~torch.isfinite(high)
    start, stop = torch.where(is_open, 0.0, low), torch.where(is_open, low - 1, high)
    mass, sign = torch.exp(log_mass), torch.where(is_open, -1.0, 1.0)
    away = torch.where(is_open, fn.mean - centre, 0.0)
    first, second = away, torch.where(is_open, fn.variance + away * away, 0.0)
    for k in range(int((stop - start).max()) + 1):
        value = start + k
        counted = (value <= stop) & fn.support.check(value)
        log_density = fn.log_prob(torch.where(counted, value, anywhere(fn.support, value)))
        term = sign * torch.where(counted, torch.exp(log_density), 0.0)
        first, second = first + term * (value - centre), second + term * (value - centre) ** 2
    return first / mass, second / mass
