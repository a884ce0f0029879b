"""The rules of descent: the rounding of a loss, sufficient decrease, the length of the next step.

They hold for one function, in floats, and for many at once, in tensors with one entry a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

EPSILON = torch.finfo(torch.float64).eps
LOG_GAMMA_ROUNDING = 64
"""Rounding error of log-gamma functions, in units of that of sums."""
SUFFICIENT_SHARE = 1e-4
"""The share of the decrease predicted by the slope that a step must reach (Armijo)."""
HIDDEN_SHARE = 1e-3
"""Steps with a predicted decrease below this share of the rounding error of the loss are not tried."""
MAX_LENGTHS = 60
"""The number of lengths that are tried along one direction."""
STUCK = 0.5
"""Close to an optimum, rounding dominates if a step does not reduce the decrement to this share."""
Number = TypeVar("Number", float, Tensor)


class Valued(Protocol):
    """A point with the value of the function there."""

    @property
    def value(self) -> float:
        """The value of the function."""
        ...


PointT = TypeVar("PointT", bound=Valued)


def rounding_of(value: Number, rows: Any) -> Number:
    """The rounding of a loss `value` that sums over `rows` rows, in nats."""
    return 64 * EPSILON * (abs(value) + rows**0.5)


def descends(value: Any, reached: Any, promised: Any, noise: Any) -> Any:
    """Whether a loss fell from `value` to `reached` by enough of a `promised` change, which is negative.

    A rise by the `noise` counts as none. False where the loss is not finite.
    """
    return (abs(reached) < math.inf) & (reached <= value + SUFFICIENT_SHARE * promised + noise)


def is_hidden(promised: Any, noise: Any) -> Any:
    """Whether a `promised`, negative, change of a loss is far below its rounding."""
    return -promised < HIDDEN_SHARE * noise


def is_stuck(decrement: Any, before: Any, noise: Any) -> Any:
    """Whether a decrement, which was `before`, is below the rounding of the loss and hardly shrinks."""
    return (decrement**2 <= noise) & (decrement > STUCK * before)


def shrinkage(value: float, reached: float, promised: float) -> float:
    """The share of a step that is tried next: the minimiser of the parabola, between 1/10 and 1/2."""
    if not math.isfinite(reached):
        return 0.1
    curvature = reached - value - promised
    return min(0.5, max(0.1, -0.5 * promised / curvature)) if curvature > 0 else 0.5


def backtracked(
    trial: Callable[[float], PointT],
    value: float,
    slope: float,
    noise: float,
    accepts: Callable[[PointT], bool] = lambda point: False,
    shrink: Callable[[float, float, float], float] = shrinkage,
) -> tuple[PointT, float] | None:
    """The first point along a direction of sufficient decrease, and the length of its step; None without one.

    Args:
        trial: the point at a length of the step, the first of which is 1.
        value: that of the function where the direction begins.
        slope: its derivative there, negative.
        noise: the rounding of the function.
        accepts: whether a point is accepted for another reason.
        shrink: the share of a step that is tried next.
    """
    length = 1.0
    for _ in range(MAX_LENGTHS):
        new = trial(length)
        if accepts(new):
            return new, length
        if descends(value, new.value, length * slope, noise):
            return (new, length) if new.value < value + noise else None
        length *= shrink(value, new.value, length * slope)
        if is_hidden(length * slope, noise):
            return None
    return None
