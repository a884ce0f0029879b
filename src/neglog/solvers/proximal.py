"""A smooth function plus absolute values of coefficients: proximal Newton steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from neglog.calls import public
from neglog.errors import UnboundedLikelihoodError
from neglog.solvers.descent import ROUGH, backtracked, rounding_of
from neglog.solvers.newton import CONSTANT_CURVATURE_STEP, ROUGHLY, SLOW
from neglog.solvers.quadratic import Quadratic
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Problem, Solution, largest_of, scaled_eigen

MIN_SMOOTH_CURVATURE = 1e-10
"""A curvature of less than this share of the largest is none."""


@dataclass(frozen=True, eq=False)
class Penalty:
    """Σ l1 |z - centre| + ½ l2 (z - centre)² + constant; each `(K,)`, and 0 where z has no corner."""

    l1: Tensor
    l2: Tensor
    centre: Tensor
    constant: float = 0.0

    def value(self, z: Tensor) -> float:
        """The penalty at `z` `(K,)`."""
        away = z - self.centre
        return float(self.l1 @ away.abs() + 0.5 * self.l2 @ away.square()) + self.constant

    def change(self, z: Tensor, to: Tensor) -> Tensor:
        """How much each coefficient adds to the penalty on the way, `(K,)`, without cancellation."""
        before, after = z - self.centre, to - self.centre
        return self.l1 * (after.abs() - before.abs()) + 0.5 * self.l2 * (to - z) * (after + before)

    def times(self, strength: float) -> Penalty:
        """The penalty of priors that are so many times as sharp, without their constants."""
        return replace(self, l1=strength * self.l1, l2=strength * self.l2, constant=0.0)


class Penalised(Protocol):
    """A smooth problem plus a penalty with corners on its axes."""

    size: int
    rows: int

    @property
    def smooth(self) -> Problem:
        """The smooth part of the objective."""

    @property
    def penalty(self) -> Penalty:
        """The penalty with corners."""

    def sample(self) -> Penalised | None:
        """The same of a part of the rows, where these are very many; else None."""
        ...

    def is_exact(self, value: float) -> bool:
        """Whether a value is that of all rows to rounding."""
        ...

    def check(self, z: Tensor) -> None:
        """Raise if the function falls without end from `z`."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """Where the quadratic with the slope and the curvature at `z` has its minimum, penalty included."""

    to: Tensor
    descent: float
    """How far the linear part of the smooth function and the penalty fall on the way."""
    decrement: float
    """The way in standard errors; 0 where the subgradient condition holds at `z`."""


def proximal_step(hessian: Tensor, gradient: Tensor, penalty: Penalty, z: Tensor) -> Step:
    """The step from `z` `(K,)`, exact: what the corners hold is exactly at their centres."""
    away = z - penalty.centre
    slope, curvature = gradient + penalty.l2 * away, hessian + torch.diag(penalty.l2)
    quadratic = Quadratic(curvature.numpy(), slope.numpy(), penalty.l1.numpy(), away.numpy())
    to = penalty.centre + torch.from_numpy(quadratic.minimise())
    descent = float((gradient * (to - z) + penalty.change(z, to)).sum())
    squared = largest_of(float((to - z) @ curvature @ (to - z)), -descent, 0.0)
    return Step(to, descent, math.sqrt(squared))


@public
@dataclass(frozen=True)
class ProximalNewton(Settings):
    """Proximal Newton steps for lasso-type priors: a smooth loss plus absolute values of coefficients.

    Each step minimises the quadratic with the exact gradient and Hessian plus the absolute values themselves,
    exactly, on a K × K matrix, so that what a prior holds at its corner is exactly there; a line search
    on the whole loss cannot climb. It has converged when the subgradient condition holds: where a
    coefficient is at its corner the slope is within the prior's, elsewhere slope and prior balance. How far
    it is from holding is told in standard errors, as Newton's decrement is; below `tolerance` it holds.

    For Laplace and `ElasticNet` priors of coefficients and a density of y without corners; `Continuation`
    is for the others.

    Args:
        tolerance: the decrement to stop at.
        max_steps: steps after which it gives up.
    Source: Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
    """

    tolerance: float = 1e-8
    max_steps: int = 200

    def minimise(self, problem: Penalised, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`."""
        at = _Point.fresh(problem, self._near(problem, start))
        history, taken, before = [at.value], 0, math.inf

        # What has a corner cannot run away along a flat likelihood: it is told to be curved.
        stiff = torch.diag((problem.penalty.l1 > 0) * float(problem.rows))

        def stopped(status: str, converged: bool = False) -> Solution:
            curvature, exact = at.hessian + stiff, math.isfinite(at.value) and problem.is_exact(at.value)
            return Solution(at.z, at.value, converged, status, taken, tuple(history), curvature, exact)

        while taken < self.max_steps:
            if taken % 5 == 4:
                problem.check(at.z)
            if not bool(torch.isfinite(at.hessian).all() & torch.isfinite(at.gradient).all()):
                return stopped(f"the curvature is not finite after {taken} steps")
            step = proximal_step(_convex(at.hessian, problem.rows), at.gradient, problem.penalty, at.z)
            if at.reused and step.decrement > max(self.tolerance, SLOW * before):
                at, before = _Point.fresh(problem, at.z), math.inf
                continue
            noise = rounding_of(at.value, problem.rows)
            if step.decrement <= self.tolerance:
                at = replace(at, z=step.to)
                return stopped(*_verdict(problem, at, step.decrement, taken))
            # Near the optimum the promised descent is lost in the rounding of the sum over rows.
            lost = step.decrement**2 <= noise
            stuck = lost and step.decrement > SLOW * before
            moved = None if stuck else _line_search(problem, at, step, noise)
            if moved is None and at.reused:
                at, before = _Point.fresh(problem, at.z), math.inf
                continue
            if moved is None:
                if not lost:
                    return stopped(f"no descent after {taken} steps, {step.decrement:.1e} from an optimum")
                last = _Point.beside(problem, at, step.to)
                at = last if last.value <= at.value + ROUGH * noise else at
                return stopped(*_verdict(problem, at, step.decrement, taken))
            at, taken, before = moved, taken + 1, step.decrement
            history.append(at.value)
        return stopped(f"stopped after {self.max_steps} steps, {step.decrement:.1e} from an optimum")

    def _near(self, problem: Penalised, start: Tensor) -> Tensor:
        """Where to begin: at the optimum of a sample of the rows, if it has one; else at `start`."""
        sample = problem.sample()
        if sample is None:
            return start
        try:
            found = replace(self, tolerance=max(self.tolerance, ROUGHLY)).minimise(sample, start)
        except UnboundedLikelihoodError:
            return start
        return found.z if found.converged else start


@dataclass(frozen=True, eq=False)
class _Point:
    """A place, the value there with the penalty, and the gradient and the Hessian without it."""

    z: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor
    reused: bool = False
    """Whether the Hessian is that of the point before."""

    @staticmethod
    def fresh(problem: Penalised, z: Tensor) -> _Point:
        value, gradient, hessian = problem.smooth.derivatives(z)
        return _Point(z, value + problem.penalty.value(z), gradient, hessian)

    @staticmethod
    def beside(problem: Penalised, near: _Point, z: Tensor) -> _Point:
        """With the Hessian of a point nearby."""
        value, gradient = problem.smooth.value_and_gradient(z)
        return _Point(z, value + problem.penalty.value(z), gradient, near.hessian, reused=True)


def _line_search(problem: Penalised, at: _Point, step: Step, noise: float) -> _Point | None:
    """The first point along the step that descends enough, or None.

    A short full step hardly changes the curvature, so the Hessian is kept where with it the optimum is near.
    """
    near = step.decrement <= CONSTANT_CURVATURE_STEP * math.sqrt(problem.rows)

    def trial(length: float) -> _Point:
        if length == 1.0:
            return _Point.beside(problem, at, step.to) if near else _Point.fresh(problem, step.to)
        return _Point.fresh(problem, torch.lerp(at.z, step.to, length))

    found = backtracked(trial, at.value, step.descent, noise)
    return None if found is None else found[0]


def _convex(hessian: Tensor, rows: int) -> Tensor:
    """The Hessian where it is positive semidefinite; else with its curvatures by their size.

    Where there is none at all, it counts as one a row, which is what coordinates are scaled to.
    """
    bare = hessian.diagonal() == 0
    hessian = hessian + torch.diag(bare * float(rows))
    if not int(torch.linalg.cholesky_ex(hessian).info):
        return hessian
    values, vectors, scale = scaled_eigen(hessian)
    if values[0] >= -MIN_SMOOTH_CURVATURE * values[-1]:
        return hessian
    return (vectors * values.abs()) @ vectors.T / scale / scale[:, None]


def _verdict(problem: Penalised, at: _Point, decrement: float, steps: int) -> tuple[str, bool]:
    """What is claimed of the end, and whether it is an optimum."""
    penalty = problem.penalty
    cornered = penalty.l1 > 0
    held = cornered & (at.z == penalty.centre)
    curvature = at.hessian + torch.diag(penalty.l2)
    if not (
        _curved(curvature, ~held, -MIN_SMOOTH_CURVATURE)
        and _curved(curvature, ~cornered, MIN_SMOOTH_CURVATURE)
    ):
        return f"stationary after {steps} steps, but the Hessian is not positive definite there", False
    where = "at their priors' location" if bool(penalty.centre.any()) else "0"
    count = f"{int(held.sum())} of {int(cornered.sum())} coefficients exactly {where}"
    status = f"optimum: subgradient condition holds to {decrement:.0e} after {steps} steps, {count}"
    # Every optimum is 0 where the slope is within the corner's (Tibshirani 2013).
    within = held & (at.gradient.abs() < (1 - 1e-7) * penalty.l1)
    return status if _curved(
        curvature, ~within, MIN_SMOOTH_CURVATURE
    ) else f"{status}; it need not be unique", True


def _curved(hessian: Tensor, places: Tensor, least: float) -> bool:
    """Whether no curvature among these places is below `least` times the largest."""
    values, _, _ = scaled_eigen(hessian[places][:, places])
    return not len(values) or bool(values[0] > least * values[-1])
