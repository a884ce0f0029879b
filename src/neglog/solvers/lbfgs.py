"""The limited-memory quasi-Newton method of Broyden, Fletcher, Goldfarb and Shanno."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from neglog.calls import public
from neglog.checkpoint import UNKEPT
from neglog.solvers.descent import EPSILON, descends
from neglog.solvers.early_stopping import EarlyStopping
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Problem, Solution

Point = tuple[Tensor, float, Tensor]

MAX_TRIALS = 60
"""The largest number of evaluations of a line search."""


@public
@dataclass(frozen=True)
class LBFGS(Settings):
    """L-BFGS with a strong Wolfe line search, in float64; for many parameters, such as a network's.

    It has converged when the gradient's largest component is below `tolerance` times the number of rows
    (problems are scaled so that the curvature of a parameter is about the number of rows).

    Args:
        tolerance: the mean gradient a row to stop at.
        max_steps: steps after which it gives up.
        memory: the number of pairs of steps and changes of the gradient that are stored.
        validation: rows that are held out of the fit, as for `Adam`, whose log-likelihood is computed every
            5 steps: the parameters are those where it was largest, and the fit is no optimum.
        patience: with `validation`, the number of steps without a better one after which the fit ends; None
            is 500.
        seed: of the rows that a share for `validation` holds out.

    Source: Liu & Nocedal (1989); Nocedal & Wright (2006), algorithms 3.5, 3.6 and 7.4.
    """

    tolerance: float = 1e-9
    max_steps: int = 2000
    memory: int = 20
    validation: Any = None
    patience: int | None = None
    seed: int = 0

    resumable: ClassVar[bool] = True

    def minimise(
        self, problem: Problem, start: Tensor, progress: bool = False, checkpoint: Any = UNKEPT
    ) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`, or from the state of a checkpoint on."""
        stopping = EarlyStopping(self, problem, start)
        return stopping.ended(self._descended(problem, start, stopping, checkpoint))

    def _descended(
        self, problem: Problem, start: Tensor, stopping: EarlyStopping, checkpoint: Any
    ) -> Solution:
        """The last point of the descent."""
        at: Point = (start, *problem.value_and_gradient(start))
        pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.memory)
        history, done = [at[1]], 0
        if checkpoint.found is not None:
            at, history, done = (checkpoint.found[key] for key in ("at", "history", "step"))
            pairs.extend(checkpoint.found["pairs"])
            stopping.resume(checkpoint.found)
        for step in range(done, self.max_steps):
            if checkpoint.is_due(step):
                state = {"at": at, "pairs": list(pairs), "history": history, "step": step}
                checkpoint.write(state | stopping.state(), step)
            if stopping.is_over(step, at[0]):
                return Solution(at[0], at[1], False, "", step, tuple(history))
            size = largest(at[2]) / problem.rows
            if size <= self.tolerance:
                status = f"optimum: gradient {size:.1e} per row after {step} steps"
                return Solution(at[0], at[1], True, status, step, tuple(history))
            direction = direction_of(at[2], pairs, problem.rows)
            new = wolfe(lambda z: (z, *problem.value_and_gradient(z)), at, direction)
            if new is None and pairs:
                pairs.clear()
                continue
            if new is None:
                stopping.check(at[0])
                found = size <= noise_of(at[1], problem.rows)
                status = f"the line search found no decrease; gradient {size:.1e} per row after {step} steps"
                return Solution(at[0], at[1], found, status, step, tuple(history))
            remember(pairs, new[0] - at[0], new[2] - at[2])
            at = new
            history.append(at[1])
        status = f"stopped after {self.max_steps} steps; gradient {largest(at[2]) / problem.rows:.1e} per row"
        return Solution(at[0], at[1], False, status, self.max_steps, tuple(history))


def largest(gradient: Tensor) -> float:
    """The size of the largest component."""
    return float(gradient.abs().max()) if gradient.numel() else 0.0


def direction_of(
    gradient: Tensor,
    pairs: deque[tuple[Tensor, Tensor]],
    rows: int,
    inverse: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The two-loop recursion, with the `inverse` of an initial Hessian where one is given.

    Otherwise the initial Hessian is a multiple of the identity.
    """
    direction = -gradient
    coefficients = []
    for change, turn in reversed(pairs):
        alpha = (change @ direction) / (change @ turn)
        direction = direction - alpha * turn
        coefficients.append(alpha)
    if inverse is not None:
        direction = inverse(direction)
    elif not pairs:
        return direction / max(rows, float(gradient.norm()))
    else:
        change, turn = pairs[-1]
        direction = direction * ((change @ turn) / (turn @ turn))
    for (change, turn), alpha in zip(pairs, reversed(coefficients), strict=True):
        direction = direction + (alpha - (turn @ direction) / (change @ turn)) * change
    return direction


def remember(pairs: deque[tuple[Tensor, Tensor]], change: Tensor, turn: Tensor) -> None:
    """Keep a step and its change of the gradient, where the curvature along it is positive."""
    if float(change @ turn) > 1e-12 * float(change.norm() * turn.norm()):
        pairs.append((change, turn))


def noise_of(value: float, rows: int) -> float:
    """The rounding error of the gradient, per row; the terms of a row are of the order of a nat."""
    return math.sqrt(64 * EPSILON * (abs(value) / rows + 1))


@dataclass(frozen=True)
class _Trial:
    """A step along the direction, with the value and the slope there."""

    step: float
    value: float
    slope: float
    point: Point


@dataclass
class _Bracket:
    """An interval of steps: `low` is the lowest point so far; without `high` it has no upper end yet."""

    low: _Trial
    high: _Trial | None = None

    def narrow(self, trial: _Trial, falls: bool, noise: float) -> None:
        """Replace one end by a trial that does not satisfy the Wolfe conditions."""
        if not falls or trial.value > self.low.value + noise or trial.slope >= 0:
            self.high = trial
        else:
            self.low = trial

    def following(self, step: float) -> float | None:
        """The step to try after `step`; None where the interval has shrunk to rounding."""
        if self.high is None:
            return 4 * step
        if self.high.step - self.low.step < 1e-12 * self.high.step:
            return None
        return _between(self.low, self.high)


def wolfe(function: Callable[[Tensor], Point], start: Point, direction: Tensor) -> Point | None:
    """A point along `direction` that satisfies the strong Wolfe conditions (c₁ = 1e-4, c₂ = 0.9), or None.

    The step grows until an upper end of the interval is found, then the interval shrinks. Where values are
    equal up to rounding, the slope alone decides (Hager & Zhang 2005).
    """
    slope = float(start[2] @ direction)
    if not slope < 0:
        return None
    noise = 16 * EPSILON * (abs(start[1]) + 1)
    bracket, step = _Bracket(_Trial(0.0, start[1], slope, start)), 1.0
    for _ in range(MAX_TRIALS):
        point = function(start[0] + step * direction)
        trial = _Trial(step, point[1], float(point[2] @ direction), point)
        falls = descends(start[1], trial.value, step * slope, noise)
        if falls and abs(trial.slope) <= 0.9 * -slope:
            return point
        bracket.narrow(trial, falls, noise)
        following = bracket.following(step)
        if following is None:
            break
        step = following
    return bracket.low.point if bracket.low.value < start[1] else None


def _between(low: _Trial, high: _Trial) -> float:
    """The minimiser of the cubic through both ends, at least a tenth of the interval away from each."""
    width = high.step - low.step
    if not (math.isfinite(high.value) and math.isfinite(high.slope)):
        return low.step + 0.1 * width
    bend = low.slope + high.slope - 3 * (high.value - low.value) / width
    square = bend**2 - low.slope * high.slope
    if square < 0:
        return low.step + 0.5 * width
    root = math.sqrt(square)
    denominator = high.slope - low.slope + 2 * root
    part = 1 - (high.slope + root - bend) / denominator if denominator != 0 else 0.5
    return low.step + min(0.9, max(0.1, part)) * width
