"""Corners of log-densities: where the slope jumps, as that of a Laplace density does at its location."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neglog.errors import ModelError


@dataclass(frozen=True)
class Corner:
    """A log-density -`steepness` · |u| - `smooth(u)` + `constant` in u = (value - `loc`) / `scale`.

    `expected` is the expected squared score in the location, in units of 1 / scale²; `skew` that of both
    scores' product in location and scale.
    """

    base: Any
    loc: Tensor
    scale: Tensor
    steepness: float | Tensor
    smooth: Callable[[Tensor], Tensor | float]
    constant: Tensor
    expected: float | Tensor
    skew: float = 0.0
    l2: Tensor | None = None
    """The curvature of `smooth` in the value, where the density is that of a penalty l1 |d| + l2 d² / 2."""
    sharper: Callable[[float], Any] | None = None
    """From a factor on both of its strengths to the density of a penalty; None of another density."""
    is_bounded: bool = False
    """Whether bounds around it leave only a part of it."""
    is_truncated: bool = False
    """Whether values beyond some of these bounds are not observed at all."""

    @property
    def information(self) -> float | Tensor:
        """The expected information of a row on its location, in units of 1 / scale².

        Raises:
            ModelError: the location and the scale are not orthogonal, as under an asymmetric loss.
        """
        if abs(self.skew) > 1e-8:
            raise ModelError(
                "an asymmetric loss with a corner has no standard errors by curvature; bootstrap the rows."
            )
        return self.expected


def alike(values: Tensor) -> Tensor:
    """The one number of a tensor that repeats it, or else the tensor."""
    return values if any(values.stride()) or not values.numel() else values.reshape(-1)[0]
