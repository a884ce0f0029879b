"""Supports: where they end, and values inside them that replace those which must not be evaluated."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from neglog.distributions.shapes import broadcast_shapes
from neglog.errors import DataError

Bound = Tensor | float


def ends(support: Any) -> tuple[Bound, Bound]:
    """The ends of a support of numbers; infinite where it has none."""
    if support is constraints.boolean:
        return 0.0, 1.0
    return getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)


def anywhere(support: Any, like: Tensor) -> Tensor:
    """A value of the shape of `like` well inside the support: 0, or 1 from its end, or midway between two."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support.event_dim:
        transform = biject_to(support)
        return transform(like.new_zeros(transform.inverse_shape(like.shape)))
    low, high = (torch.as_tensor(end, dtype=like.dtype, device=like.device) for end in ends(support))
    start, stop = torch.isfinite(low), torch.isfinite(high)
    near = torch.where(start, low, 0.0) + torch.where(start & ~stop & ~_discrete(support), 1.0, 0.0)
    far = torch.where(start, 0.5 * (low + high), high - 1)
    inside = near if support.is_discrete else torch.where(stop, far, near)
    return inside.expand(broadcast_shapes(inside.shape, like.shape))


def _discrete(support: Any) -> Tensor:
    return torch.tensor(bool(support.is_discrete))


def check_probabilities(value: Tensor) -> None:
    """Refuse arguments of `icdf` outside 0 ≤ value ≤ 1.

    Raises:
        DataError: one is, or is NaN.
    """
    wrong = ~((value >= 0) & (value <= 1))
    if bool(wrong.any()):
        raise DataError(
            f"`icdf` needs probabilities between 0 and 1; {int(wrong.sum())} of {wrong.numel()} are not, the "
            f"first of them {float(value[wrong][0]):g}."
        )


def filled(value: Tensor, known: Tensor, support: Any) -> Tensor:
    """`value` where it is `known`, and elsewhere a number inside the support: a known one if it fits there.

    `known` has the shape of `value`. What is computed with the rest is finite, and so are its derivatives.
    """
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    some = value[known]
    typical = (some.median() if some.numel() else value.new_tensor(math.nan)).expand(value.shape)
    if support.event_dim:
        return torch.where(known, value, anywhere(support, value))
    return torch.where(known, value, torch.where(support.check(typical), typical, anywhere(support, value)))
