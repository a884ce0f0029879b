"""Quadratic priors: the Normal ones whose parameters are numbers, as one form of a problem's vector."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.objective.coordinates import Coordinates
from neglog.objective.normals import normal_priors


@dataclass(frozen=True)
class Quadratic:
    """Minus the log-density of some sites, ½ zᵀ `matrix` z - `slope`ᵀ z + `constant` at z `(K,)`.

    `slope` `(K,)` is None where it is 0.
    """

    sites: frozenset[str]
    matrix: Tensor
    slope: Tensor | None
    constant: float

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the gradient at `z` `(K,)`."""
        bend = self.matrix @ z
        value = 0.5 * (bend @ z) + self.constant
        return (value, bend) if self.slope is None else (value - self.slope @ z, bend - self.slope)


def quadratic_priors(coordinates: Coordinates) -> Quadratic | None:
    """The Normal priors of a problem whose parameters do not depend on others; None if there are none."""
    found = normal_priors(coordinates.objective)
    if not found.sites:
        return None
    bend = coordinates.directions(torch.eye(coordinates.size, dtype=found.slope.dtype))
    pulled = bend.T @ found.slope if bool(found.slope.any()) else None
    return Quadratic(found.sites, bend.T @ (found.precision[:, None] * bend), pulled, found.constant)
