"""The objective as a smooth loss plus a penalty with corners: what `ProximalNewton` sees."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from neglog.fitting.quadratic_loss import parabola
from neglog.handlers import flat
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.solvers.proximal import Penalty
from neglog.solvers.solution import Problem


class Penalised:
    """A problem whose only corners are those of priors of coefficients, in `aligned` coordinates.

    `smooth` is the loss without the priors that have corners, and `penalty` is these priors. `curve` is the
    smooth loss as a quadratic that reads no row, where it is one that is known; else None.
    """

    def __init__(self, coordinates: Coordinates) -> None:
        self.coordinates, objective = coordinates, coordinates.objective
        self.size, self.rows = coordinates.size, coordinates.rows
        names = objective.structure.prior_corners
        masked = objective.changed(lambda model: flat(model, *names)) if names else objective
        smooth = Coordinates(masked, coordinates.blocks, coordinates.is_linear)
        self.curve = parabola(smooth)
        self.smooth: Problem = smooth if self.curve is None else self.curve
        self.penalty = _penalty(coordinates)
        self.warm = self.curve is not None

    def at(self, strength: float) -> Penalised:
        """The problem with priors `strength` times as sharp, without their constants, from a known start."""
        other = copy(self)
        other.penalty, other.warm = self.penalty.times(strength), True
        return other

    def sample(self) -> Penalised | None:
        """The problem of a tenth of the rows, where these are very many and the start is not known better."""
        sample = None if self.warm else self.coordinates.sample()
        return None if sample is None else Penalised(sample)

    def is_exact(self, value: float) -> bool:
        """Whether a value is that of all rows to rounding."""
        return self.curve is None or self.curve.keeps_digits(value)

    def check(self, z: Tensor) -> None:
        """Refuse a place from which the loss falls without end.

        Raises:
            UnboundedLikelihoodError: see `neglog.objective.spread.check_bounded`.
        """
        self.smooth.check(z)


def is_penalised(coordinates: Coordinates) -> bool:
    """Whether all corners of a loss are those of fixed Laplace and `ElasticNet` priors of real sites."""
    objective = coordinates.objective
    names = objective.structure.prior_corners
    if not names or not coordinates.is_linear or objective.structure.corner is not None:
        return False
    return all(
        objective.sites[name].is_real
        and not (at.is_bounded or at.sharper is None)
        and objective.structure.is_fixed(name)
        for name, at in names.items()
    )


def at_corners(objective: Objective, theta: Tensor) -> Tensor:
    """Which parameters are exactly where their priors have corners, in the shape of `theta` `(..., K)`."""
    held = torch.zeros(theta.shape, dtype=torch.bool)
    for name, at in objective.structure.prior_corners.items():
        site = objective.sites[name]
        if site.is_real:
            location = at.loc.expand(site.shape).reshape(-1).to(theta)
            held[..., site.place] = theta[..., site.place] == location
    return held


def at_exact_corners(objective: Objective, theta: Tensor) -> Tensor:
    """`theta` `(..., K)` with the coefficients that a lasso prior holds at its corner exactly there."""
    theta = theta.clone()
    for name, at in objective.structure.prior_corners.items():
        site = objective.sites[name]
        value, loc = theta[..., site.place], at.loc.expand(site.shape).reshape(-1).to(theta)
        near = 1e-12 * at.scale.expand(site.shape).reshape(-1) + 1e-15 * loc.abs()
        close = (value - loc).abs() <= near
        theta[..., site.place] = torch.where(close, loc, value)
    return theta


def aligned(coordinates: Coordinates) -> Coordinates:
    """The coordinates with an axis for each coefficient of every predictor whose priors have corners.

    In the place of an orthonormal basis such a predictor has its columns, scaled to one size and centred by
    the intercept, unless that has a corner itself.
    """
    objective = coordinates.objective
    sites = [objective.sites[name] for name in objective.structure.prior_corners]
    cornered = torch.zeros(coordinates.size, dtype=torch.bool)
    for site in sites:
        cornered[site.place] = True
    blocks = (
        _aligned(block, cornered[block.places]) if bool(cornered[block.places].any()) else block
        for block in coordinates.blocks
    )
    return Coordinates(objective, tuple(blocks), coordinates.is_linear)


def _aligned(block: Block, cornered: Tensor) -> Block:
    """z = triangle · coefficients with a diagonal triangle, but for the first row where it has no corner."""
    assert block.basis is not None
    old = block.triangle
    sizes = old.norm(dim=0)
    centred = not bool(cornered[0])  # only an intercept comes before the weights, and these are one site
    if centred:
        sizes[1:] = torch.maximum(old[1:, 1:].norm(dim=0), 1e-8 * sizes[1:])
    triangle = torch.diag(torch.where(sizes > 0, sizes, 1.0))
    if centred:
        triangle[0] = old[0]
    mix = torch.linalg.solve_triangular(triangle, old, upper=True, left=False)
    basis = replace(block.basis, transform=block.basis.transform @ mix)
    return replace(block, triangle=triangle, basis=basis)


def _penalty(coordinates: Coordinates) -> Penalty:
    """The priors with corners, in z: on its axis, |theta - location| = |z - unit · location| / unit."""
    objective = coordinates.objective
    unit = torch.ones_like(objective.initial)
    for block in coordinates.blocks:
        unit[block.places] = block.triangle.diagonal()
    location, l1, l2 = torch.zeros_like(unit), torch.zeros_like(unit), torch.zeros_like(unit)
    constant = 0.0
    for name, at in objective.structure.prior_corners.items():
        site = objective.sites[name]
        assert at.l2 is not None
        for whole, part in ((location, at.loc), (l1, at.steepness / at.scale), (l2, at.l2)):
            whole[site.place] = part.expand(site.shape).reshape(-1).to(whole)
        constant -= float(at.constant.expand(site.shape).sum())
    return Penalty(l1 / unit, l2 / unit**2, location * unit, constant)
