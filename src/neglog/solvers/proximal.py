"""A smooth function plus absolute values of coefficients: proximal Newton steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from neglog.calls import public
from neglog.errors import UnboundedLikelihoodError
from neglog.solvers.descent import LOG_GAMMA_ROUNDING, backtracked, rounding_of
from neglog.solvers.newton import CONSTANT_CURVATURE_STEP, MAX_REUSE_RATIO, SAMPLE_TOLERANCE
from neglog.solvers.quadratic import Quadratic
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Problem, Solution, largest_of, scaled_eigen

MIN_SMOOTH_CURVATURE = 1e-10
"""A curvature below this share of the largest counts as 0."""


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
        """The change of the penalty of each coefficient over a step, `(K,)`, without cancellation."""
        before, after = z - self.centre, to - self.centre
        return self.l1 * (after.abs() - before.abs()) + 0.5 * self.l2 * (to - z) * (after + before)

    def times(self, strength: float) -> Penalty:
        """The penalty with its strengths multiplied by a number, without the constant."""
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
        """The problem of a sample of the rows, if there are very many; else None."""
        ...

    def is_exact(self, value: float) -> bool:
        """Whether a value is that of all rows to rounding."""
        ...

    def check(self, z: Tensor) -> None:
        """Raise if the function falls without end from `z`."""
        ...


@dataclass(frozen=True, eq=False)
class Step:
    """The minimiser of the quadratic approximation at `z` plus the penalty."""

    to: Tensor
    descent: float
    """The change of the linear part of the smooth function and of the penalty, negative for a descent."""
    decrement: float
    """The length of the step in standard errors; 0 where the subgradient condition holds at `z`."""


def proximal_step(hessian: Tensor, gradient: Tensor, penalty: Penalty, z: Tensor) -> Step:
    """The step from `z` `(K,)`, with coefficients at corners exactly at their centres."""
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

    Each step minimises exactly the quadratic approximation with the exact gradient and Hessian plus the
    absolute values, so that coefficients at a corner are exactly there, followed by a line search on the
    loss. It has converged when the subgradient condition holds: at its corner the derivative of the
    likelihood is at most that of the prior, elsewhere the two cancel. Its violation is measured in standard
    errors, as Newton's decrement is; below `tolerance` the condition holds.

    For Laplace and `ElasticNet` priors of coefficients and a density of y without corners; for other losses
    see `Continuation`.

    Args:
        tolerance: the decrement to stop at.
        max_steps: the largest number of steps.
    Source: Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
    """

    tolerance: float = 1e-8
    max_steps: int = 200

    def minimise(self, problem: Penalised, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`."""
        descent = _Descent(problem, self.tolerance, _Point.fresh(problem, self._near(problem, start)))
        while descent.taken < self.max_steps:
            ended = descent.step()
            if ended is not None:
                return ended
        return descent.end(
            f"stopped after {self.max_steps} steps, {descent.decrement:.1e} standard errors from an optimum"
        )

    def _near(self, problem: Penalised, start: Tensor) -> Tensor:
        """The initial point: the optimum of a sample of the rows, if it has one; else `start`."""
        sample = problem.sample()
        if sample is None:
            return start
        try:
            found = replace(self, tolerance=max(self.tolerance, SAMPLE_TOLERANCE)).minimise(sample, start)
        except UnboundedLikelihoodError:
            return start
        return found.z if found.converged else start


@dataclass(frozen=True, eq=False)
class _Point:
    """A point, the value with the penalty, and the gradient and the Hessian without it."""

    z: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor
    reused: bool = False
    """Whether the Hessian is that of an earlier point."""

    @staticmethod
    def fresh(problem: Penalised, z: Tensor) -> _Point:
        value, gradient, hessian = problem.smooth.derivatives(z)
        return _Point(z, value + problem.penalty.value(z), gradient, hessian)

    @staticmethod
    def with_hessian_of(problem: Penalised, near: _Point, z: Tensor) -> _Point:
        """A point with the Hessian of a nearby one."""
        value, gradient = problem.smooth.value_and_gradient(z)
        return _Point(z, value + problem.penalty.value(z), gradient, near.hessian, reused=True)


class _Descent:
    """Proximal Newton steps: the current point, the number of steps, and the last decrement."""

    def __init__(self, problem: Penalised, tolerance: float, start: _Point) -> None:
        self.problem, self.tolerance, self.at = problem, tolerance, start
        self.history, self.taken = [start.value], 0
        self.decrement = self.before = math.inf

    def step(self) -> Solution | None:
        """Take one step, or evaluate the Hessian again; the solution if the iteration ends here."""
        at, problem = self.at, self.problem
        if self.taken % 5 == 4:
            problem.check(at.z)
        if not bool(torch.isfinite(at.hessian).all() & torch.isfinite(at.gradient).all()):
            return self.end(f"the Hessian is not finite after {self.taken} steps")
        step = proximal_step(_convex(at.hessian, problem.rows), at.gradient, problem.penalty, at.z)
        self.decrement = step.decrement
        if at.reused and step.decrement > max(self.tolerance, MAX_REUSE_RATIO * self.before):
            self._refresh()
            return None
        if step.decrement <= self.tolerance:
            return self._end_at(replace(at, z=step.to))
        noise = rounding_of(at.value, problem.rows)
        # Near the optimum the predicted descent is below the rounding error of the sum over rows.
        lost = step.decrement**2 <= noise
        moved = (
            None
            if lost and step.decrement > MAX_REUSE_RATIO * self.before
            else _line_search(problem, at, step, noise)
        )
        if moved is not None:
            self.at, self.taken, self.before = moved, self.taken + 1, step.decrement
            self.history.append(moved.value)
            return None
        if at.reused:
            self._refresh()
            return None
        return self._without_descent(step, noise, lost)

    def _refresh(self) -> None:
        """Evaluate the Hessian at the current point."""
        self.at, self.before = _Point.fresh(self.problem, self.at.z), math.inf

    def _without_descent(self, step: Step, noise: float, lost: bool) -> Solution:
        """The end where no step descends: an optimum to rounding, or a failure."""
        if not lost:
            return self.end(
                f"no descent after {self.taken} steps, {step.decrement:.1e} standard errors from an optimum"
            )
        last = _Point.with_hessian_of(self.problem, self.at, step.to)
        return self._end_at(last if last.value <= self.at.value + LOG_GAMMA_ROUNDING * noise else self.at)

    def _end_at(self, at: _Point) -> Solution:
        self.at = at
        return self.end(*_verdict(self.problem, at, self.decrement, self.taken))

    def end(self, status: str, converged: bool = False) -> Solution:
        """The solution at the current point."""
        at, problem = self.at, self.problem
        # A coefficient with a corner is bounded even where the likelihood is flat, so it counts as curved.
        hessian = at.hessian + torch.diag((problem.penalty.l1 > 0) * float(problem.rows))
        exact = math.isfinite(at.value) and problem.is_exact(at.value)
        return Solution(at.z, at.value, converged, status, self.taken, tuple(self.history), hessian, exact)


def _line_search(problem: Penalised, at: _Point, step: Step, noise: float) -> _Point | None:
    """The first point along the step that satisfies Armijo's condition, or None.

    Over a short full step the curvature hardly changes, so the Hessian is reused.
    """
    near = step.decrement <= CONSTANT_CURVATURE_STEP * math.sqrt(problem.rows)

    def trial(length: float) -> _Point:
        if length == 1.0:
            return _Point.with_hessian_of(problem, at, step.to) if near else _Point.fresh(problem, step.to)
        return _Point.fresh(problem, torch.lerp(at.z, step.to, length))

    found = backtracked(trial, at.value, step.descent, noise)
    return None if found is None else found[0]


def _convex(hessian: Tensor, rows: int) -> Tensor:
    """The Hessian if it is positive semidefinite, else with the absolute values of its eigenvalues.

    A coordinate without curvature gets one per row, to which the coordinates are scaled.
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
    """The status of an end point, and whether it is an optimum."""
    penalty = problem.penalty
    cornered = penalty.l1 > 0
    held = cornered & (at.z == penalty.centre)
    curvature = at.hessian + torch.diag(penalty.l2)
    if not (
        _curved(curvature, ~held, -MIN_SMOOTH_CURVATURE)
        and _curved(curvature, ~cornered, MIN_SMOOTH_CURVATURE)
    ):
        return (
            f"stationary after {steps} steps, but the Hessian is not positive definite: no certified minimum",
            False,
        )
    where = "at their priors' location" if bool(penalty.centre.any()) else "0"
    count = f"{int(held.sum())} of {int(cornered.sum())} coefficients exactly {where}"
    status = f"optimum: the subgradient condition holds to {decrement:.0e} after {steps} steps, {count}"
    # A coefficient with a slope strictly below that of its corner is 0 in every optimum (Tibshirani 2013).
    within = held & (at.gradient.abs() < (1 - 1e-7) * penalty.l1)
    return status if _curved(
        curvature, ~within, MIN_SMOOTH_CURVATURE
    ) else f"{status}; the optimum need not be unique", True


def _curved(hessian: Tensor, places: Tensor, least: float) -> bool:
    """Whether no curvature among these coefficients is below `least` times the largest."""
    values, _, _ = scaled_eigen(hessian[places][:, places])
    return not len(values) or bool(values[0] > least * values[-1])
