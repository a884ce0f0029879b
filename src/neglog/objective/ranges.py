"""Ranges: between which ends each number of a site lies, and intervals that stay between them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import IndependentTransform

from neglog.likelihood.sites import Site


def alone(site: Site) -> bool:
    """Whether each number of a site is a function of one unconstrained number, by itself."""
    transform = site.transform
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return transform.domain.event_dim == 0


def range_of(site: Site) -> tuple[Tensor, Tensor]:
    """The ends of each number of a site, both of its shape; infinite where it has none."""
    far = torch.full(site.unconstrained, torch.inf, dtype=torch.float64)
    if site.is_real:
        return -far, far
    if alone(site):
        ends = site.transform(-far), site.transform(far)
        return torch.minimum(*ends), torch.maximum(*ends)
    low, high = torch.full(site.shape, -torch.inf, dtype=torch.float64), torch.full(site.shape, torch.inf)
    kind = type(site.support)
    if kind in BETWEEN:
        low, high = (torch.full(site.shape, end, dtype=torch.float64) for end in BETWEEN[kind])
    if kind in POSITIVE_DIAGONAL:
        low.diagonal(dim1=-2, dim2=-1).fill_(0.0)
    return low, high.to(low)


BETWEEN = {
    type(constraints.simplex): (0.0, 1.0),
    type(constraints.corr_cholesky): (-1.0, 1.0),
}
"""Supports of numbers that are bound to each other, and the ends of each of them."""
POSITIVE_DIAGONAL = {
    type(constraints.lower_cholesky),
    type(constraints.positive_definite),
    type(constraints.corr_cholesky),
}


def inside(value: Tensor, error: Tensor, reach: float, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of Wald's interval, `reach` standard errors from a value, which lies between `low` and `high`.

    It is symmetric in the value where that has no ends, in the logarithm of its distance from one end, and in
    the log-odds between two; the standard error there is by the delta method.
    """
    scaled, slope = scale_of(value, low, high)
    wide = reach * error * slope
    ends = [value_of(scaled + side * wide, low, high) for side in (-1, 1)]
    fixed = error == 0
    lower, upper = (torch.where(fixed, value, end) for end in (torch.minimum(*ends), torch.maximum(*ends)))
    return lower, upper


def scale_of(value: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Values on a scale without ends, and the derivative of that scale in them."""
    start, stop = torch.isfinite(low), torch.isfinite(high)
    above, below = torch.where(start, value - low, 1.0), torch.where(stop, high - value, 1.0)
    both = start & stop
    scaled = torch.where(both, (above / below).log(), torch.where(start, above.log(), -below.log()))
    slope = torch.where(start, 1 / above, 0.0) + torch.where(stop, 1 / below, 0.0)
    free = ~start & ~stop
    return torch.where(free, value, scaled), torch.where(free, 1.0, slope)


def value_of(scaled: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The inverse of `scale_of`."""
    start, stop = torch.isfinite(low), torch.isfinite(high)
    between = low + (high - low) * scaled.sigmoid()
    found = torch.where(start, low + scaled.exp(), torch.where(stop, high - (-scaled).exp(), scaled))
    return torch.where(start & stop, between, found)
