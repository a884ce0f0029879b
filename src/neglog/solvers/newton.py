"""Newton's method with a line search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.solvers.solution import Problem, Solution, newton_direction

EPSILON = torch.finfo(torch.float64).eps
ROUGH = 64
"""Log-gamma functions round so many times as much as sums do."""


@dataclass(frozen=True)
class Newton:
    """Newton's method on the exact Hessian, with a line search that cannot climb.

    It has converged when the Newton decrement, the distance to the optimum in standard errors, is below
    `tolerance` and the Hessian is positive definite there. Costs one K × K solve a step; work in float64.

    Args:
        tolerance: the decrement to stop at.
        max_steps: steps after which it gives up.
    """

    tolerance: float = 1e-8
    max_steps: int = 200

    def minimise(self, problem: Problem, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`."""
        z, (value, gradient) = start, problem.value_and_gradient(start)
        history = [value]
        definite, decrement = False, math.inf
        for step in range(self.max_steps):
            if step % 5 == 4:
                problem.check(z)
            hessian = problem.hessian(z)
            if not bool(torch.isfinite(hessian).all()):
                status = f"the curvature is not finite after {step} steps"
                return Solution(z, value, False, status, step, tuple(history))
            direction, decrement, definite = newton_direction(hessian, gradient, problem.rows)
            noise = 64 * EPSILON * (abs(value) + math.sqrt(problem.rows))
            if decrement <= self.tolerance:
                z, value = _last_step(problem, z, value, direction, noise)
                return Solution(z, value, definite, _status(decrement, step, definite), step, tuple(history))
            moved = _line_search(problem, z, value, gradient, direction, definite, noise)
            if moved is None:
                # The promised descent is lost in the rounding of the sum over rows.
                close = definite and decrement**2 <= noise
                if close:
                    z, value = _last_step(problem, z, value, direction, ROUGH * noise)
                return Solution(z, value, close, _status(decrement, step, definite), step, tuple(history))
            z, value, gradient = moved
            history.append(value)
        status = f"stopped after {self.max_steps} steps, {decrement:.1e} standard errors from an optimum"
        return Solution(z, value, False, status, self.max_steps, tuple(history))


def _status(decrement: float, steps: int, definite: bool) -> str:
    if definite:
        return f"optimum: Newton decrement {decrement:.1e} after {steps} steps"
    return f"stationary after {steps} steps, but the Hessian is not positive definite there"


def _last_step(
    problem: Problem, z: Tensor, value: float, direction: Tensor, noise: float
) -> tuple[Tensor, float]:
    """One more full step: at the tolerance it squares the error, and it costs one evaluation."""
    trial = problem.value(z + direction)
    return (z + direction, trial) if trial <= value + noise else (z, value)


def _line_search(
    problem: Problem,
    z: Tensor,
    value: float,
    gradient: Tensor,
    direction: Tensor,
    definite: bool,
    noise: float,
) -> tuple[Tensor, float, Tensor] | None:
    """The first point along the direction that descends enough (Armijo), or None."""
    slope = float(gradient @ direction)
    step = 1.0
    for _ in range(60):
        trial = z + step * direction
        reached, new_gradient = problem.value_and_gradient(trial)
        if math.isfinite(reached) and reached <= value + 1e-4 * step * slope + noise:
            if not definite and step == 1.0:
                return _stretch(problem, z, direction, (trial, reached, new_gradient))
            return (trial, reached, new_gradient) if reached < value + noise else None
        step *= _shrink(value, reached, slope, step)
        if step * -slope < noise * 1e-3:
            return None
    return None


def _shrink(value: float, reached: float, slope: float, step: float) -> float:
    """The minimiser of the parabola through what is known, kept between 1/10 and 1/2 of the step."""
    if not math.isfinite(reached):
        return 0.1
    curvature = reached - value - slope * step
    return min(0.5, max(0.1, -0.5 * slope * step / curvature)) if curvature > 0 else 0.5


def _stretch(
    problem: Problem, z: Tensor, direction: Tensor, best: tuple[Tensor, float, Tensor]
) -> tuple[Tensor, float, Tensor]:
    """Where the curvature is not to be trusted, double the step for as long as that pays."""
    step = 2.0
    while step <= 1024:
        trial = z + step * direction
        reached, gradient = problem.value_and_gradient(trial)
        if not (math.isfinite(reached) and reached < best[1]):
            break
        best, step = (trial, reached, gradient), 2 * step
    return best
