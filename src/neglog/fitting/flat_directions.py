"""Directions along which losses do not rise, of one problem or of many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from neglog.solvers.solution import FLAT_CURVATURE, Losses

DISTANCES = (1.0, 4.0, 16.0, 64.0)
"""Distances of the loss values along a flat direction, in units of the noise of a row."""
FINITE_DISTANCES = 2
"""The nearest of `DISTANCES`, at which a loss without a visible rise is finite."""
MAX_FALL = 1.0
"""A decrease of the loss above this, in nats, is a slope: the solver has not converged."""
MIN_RISE = 1e-7
"""An increase of the loss above this, in nats, implies a minimum."""
RELATIVE_ROUNDING = 8 * torch.finfo(torch.float64).eps
"""The relative rounding error of a loss: for counts of 1e12 the loss is 1e13 nats, in steps of 2e-3."""
MAX_DISTANCE = 1e9
"""The largest distance along a flat direction; beyond it rounding errors change other directions."""
RISE_DISTANCES = (1.0, 1e2, 1e4)
"""Distances of an expected rise, in units of that at which the curvature makes one of 10 `MIN_RISE`."""


def visible_rise(values: Tensor) -> Tensor:
    """The rise in nats `(...)` that shows a minimum beside the rounding of losses `values` `(...)`."""
    return (RELATIVE_ROUNDING * values.abs()).clamp_min(MIN_RISE)


def level(
    losses: Losses,
    z: Tensor,
    least: Tensor,
    way: Tensor,
    index: Tensor,
    distances: Sequence[float] = DISTANCES,
) -> Tensor:
    """Those of `index` `(M,)` whose loss neither increases along a direction nor decreases by much.

    An infinite or undefined loss, where parameters overflow, is ignored.

    Args:
        losses: S functions.
        z: where they are, `(S, K)`.
        least: their values there, `(S,)`.
        way: directions `(S, K)`.
        index: the functions that are looked at.
        distances: those along the directions.
    """
    for i, far in enumerate(distances):
        if len(index):
            there = losses.take(index).values(z[index] + far * way[index])
            rise = visible_rise(least[index])
            is_level = (there <= least[index] + rise) & (there >= least[index] - MAX_FALL - rise)
            overflown = ~torch.isfinite(there) if i >= FINITE_DISTANCES else torch.zeros_like(is_level)
            index = index[is_level | overflown]
    return index


def nearer(losses: Losses, z: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points closer to the origin where losses are no higher, since far out likelihoods underflow.

    Args:
        losses: S functions.
        z: where they are, `(S, K)`.
        values: their values there, `(S,)`.

    Returns:
        The points, the values there, and which points are others, `(S,)`.
    """
    z, values, least = z.clone(), values.clone(), values + MIN_RISE
    moved = torch.zeros(len(z), dtype=torch.bool)
    left = (z.norm(dim=-1) > DISTANCES[-1]).nonzero()[:, 0]
    while len(left):
        half = 0.5 * z[left]
        there = losses.take(left).values(half)
        lower = there <= least[left]
        left = left[lower]
        z[left], values[left], moved[left] = half[lower], there[lower], True
        left = left[z[left].norm(dim=-1) > DISTANCES[-1]]
    return z, values, moved


def rises(
    losses: Losses, z: Tensor, least: Tensor, way: Tensor, curvature: Tensor, index: Tensor, coarse: bool
) -> Tensor:
    """Whether the losses of `index` `(M,)` increase at distances at which a small curvature `(S,)` is
    visible.

    For a scale far below that of the response, and parameters of order 1e9, all curvatures are small. If the
    increase is below the rounding error of such a response at one distance, it is not at a larger one. Counts
    and classes have no such rounding and are not `coarse`; far out along an inexact direction they increase
    anyway. Other arguments are those of `level`.
    """
    found = torch.zeros(len(index), dtype=torch.bool)
    curved, rise = curvature[index] > 0, visible_rise(least[index])
    seen = (20 * rise / (torch.where(curved, curvature[index], 1.0) * losses.rows[index])).sqrt()
    for far in RISE_DISTANCES if coarse else RISE_DISTANCES[:1]:
        left = (curved & ~found & (far * seen <= MAX_DISTANCE)).nonzero()[:, 0]
        if len(left):
            at = index[left]
            points = z[at] + (far * seen[left])[:, None] * way[at]
            there = losses.take(at).values(points)
            found[left] = torch.isfinite(there) & (there > least[at] + rise[left])
            if bool(found[left].any()):
                rounding = RELATIVE_ROUNDING * losses.take(at).terms(points)
                found[left] &= there > least[at] + rise[left] + rounding
    return found


def flat_vectors(average: Tensor) -> Tensor:
    """The eigenvectors of Hessians a row `(S, K, K)` as columns, 0 where there is curvature along them."""
    values, vectors = torch.linalg.eigh(average)
    return torch.where((values < FLAT_CURVATURE)[..., None, :], vectors, 0.0)


def ran_along(flat: Tensor, z: Tensor) -> Tensor:
    """The directions `(S, K)` among flat ones in which solvers have moved, 0 for one that has not moved far.

    Args:
        flat: orthonormal flat directions as columns, `(S, K, M)`, or 0.
        z: where the solvers are, `(S, K)`.
    """
    ran = (flat @ (flat.mT @ z[..., None]))[..., 0]
    length = ran.norm(dim=-1, keepdim=True)
    return torch.where(length > 1, ran / length, 0.0)


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """The neighbourhoods of the places where solvers of S losses have stopped.

    Attributes:
        losses: the functions.
        z: where they are, `(S, K)`.
        least: their values there, `(S,)`.
        average: their Hessians a row there, `(S, K, K)`.
        coarse: see `rises`.
    """

    losses: Losses
    z: Tensor
    least: Tensor
    average: Tensor
    coarse: bool

    @cached_property
    def flat(self) -> Tensor:
        """The flat directions `(S, K, K)`, see `flat_vectors`."""
        return flat_vectors(self.average)

    def ways(self, intercepts: Sequence[Tensor], places: Tensor) -> list[Tensor]:
        """Directions `(S, K)` to search, 0 where there is none: first intercepts, then those run along.

        Where many directions are flat, a constant at its border mixes with the coefficients in the
        eigenvectors: those of the coefficients alone, at `places`, follow.
        """
        found = [*intercepts, ran_along(self.flat, self.z), *self.flat.unbind(-1)]
        if 0 < len(places) < self.z.shape[1]:
            several = self.flat.any(-2).sum(-1) > 1
            alone = torch.zeros_like(self.flat)[..., : len(places)]
            alone[:, places] = flat_vectors(self.average[:, places[:, None], places])
            alone = torch.where(several[:, None, None], alone, 0.0)
            found += [ran_along(alone, self.z), *alone.unbind(-1)]
        return found

    def along(self, way: Tensor, index: Tensor) -> Tensor:
        """Those of `index` `(M,)` whose loss never rises along their direction in `way` `(S, K)`."""
        index = level(self.losses, self.z, self.least, way, index)
        if not len(index):
            return index
        curvature = torch.einsum("sk,skl,sl->s", way, self.average, way)
        return index[~rises(self.losses, self.z, self.least, way, curvature, index, self.coarse)]
