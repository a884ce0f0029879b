"""Newton's method with a line search."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from neglog.calls import public
from neglog.errors import UnboundedLikelihoodError
from neglog.solvers.descent import LOG_GAMMA_ROUNDING, STUCK, backtracked, is_stuck, rounding_of
from neglog.solvers.settings import Settings
from neglog.solvers.solution import (
    MIN_EIGENVALUE_SHARE,
    Large,
    Problem,
    Solution,
    is_finite,
    newton_direction,
    scaled_eigen,
)

Look = Callable[[Tensor], tuple[float, Tensor, Tensor]]
CONSTANT_CURVATURE_STEP = 1e-2
"""The length of a step, in units of the noise of a row, below which the curvature hardly changes."""
MAX_REUSE_RATIO = 0.1
"""The Hessian is evaluated again after a step that does not reduce the decrement to this share."""
MIN_CURVED = 1e-3
"""If all curvatures per row are above this, no direction is flat."""
MAX_ROUNDED_DECREMENT = 1e-6
"""The largest squared decrement, in nats, that may be below the rounding error of the loss."""
STALLED_STEPS = 20
"""Steps over which the loss must fall by more than"""
STALLED_FALL = 1e-6
"""nats, or else the method stops: where curvatures differ by 16 powers of ten, steps are rounding."""
ALGEBRAIC_STEPS = 50
"""Steps with a positive definite Hessian over which the loss must fall by more than"""
ALGEBRAIC_FALL = 1e-2
"""nats, or the decrement by the factor `STUCK`: towards a boundary the loss may decrease like 1/t."""
LOST_STEPS = 5
"""The same, where no curvature is negative beyond rounding, which a step could follow downhill."""
MAX_SLOW_STEPS = 20
"""The largest number of steps on a slowly decreasing loss with a negative curvature."""
CREEPING_STEPS = 9
"""Consecutive full steps that do not reduce the decrement to `STUCK`, after which the step is lengthened.

This occurs if the loss decreases like exp(-t) towards a boundary: each Newton step has the length 1."""
CREEPING_REACH = 8.0
"""The longest of these steps, in Newton steps; beyond it the loss is constant to rounding."""
SAMPLE_TOLERANCE = 0.5
"""The decrement at which the iteration on a sample of the rows stops."""


@public
@dataclass(frozen=True)
class Newton(Settings):
    """Newton's method with the exact Hessian and a monotone line search.

    It has converged when the Newton decrement, the distance to the optimum in standard errors, is below
    `tolerance` and the Hessian is positive definite there. Each step solves one K × K system, in float64.
    With very many rows it starts at the optimum of a sample, with its Hessian, and once a step changes the
    curvature by at most a hundredth, further steps reuse the Hessian: they reduce the decrement as much at a
    third of the cost, and a Hessian of six digits suffices. With fewer rows every step has its own Hessian,
    for accuracy to the last digits.

    Args:
        tolerance: the decrement to stop at.
        max_steps: the largest number of steps.
    """

    tolerance: float = 1e-8
    max_steps: int = 200

    def minimise(self, problem: Problem, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`."""
        descent = _Descent(self, problem, start)
        while descent.step < self.max_steps:
            end = descent.advance()
            if end is not None:
                return end
        far = f"{descent.decrement:.1e} standard errors from an optimum"
        return descent.stopped(False, f"stopped after {self.max_steps} steps, {far}")

    def _first(
        self, problem: Problem, look: Look, sample: Problem | None, start: Tensor
    ) -> tuple[_Point, Tensor | None]:
        """The initial point and a Hessian: those at the optimum of a sample of the rows, if it has one."""
        found = None
        if sample is not None:
            with suppress(UnboundedLikelihoodError):
                found = replace(self, tolerance=max(self.tolerance, SAMPLE_TOLERANCE)).minimise(sample, start)
        if sample is not None and found is not None and found.converged and found.hessian is not None:
            at = _Point(found.z, *problem.value_and_gradient(found.z))
            if math.isfinite(at.value):
                return at, found.hessian * (problem.rows / sample.rows)
        at = _Point(start, *look(start))
        return at, at.hessian


@dataclass(frozen=True)
class _Point:
    """A point, with the value and the gradient there, and the Hessian if it is known."""

    z: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor | None = None


class _Descent:
    """The state of Newton's method on one problem.

    Attributes:
        at: the current point.
        curvature: the Hessian at the point or at an earlier one; None if there is none yet.
        borrowed: whether it is that of an earlier point.
        direction, decrement, definite: the last Newton direction; see `newton_direction`.
        step: the number of steps taken.
        creeping: the number of last steps that hardly reduced the decrement.
    """

    def __init__(self, settings: Newton, problem: Problem, start: Tensor) -> None:
        self.settings, self.problem, self.sample = settings, problem, problem.sample()
        self.look: Look = problem.derivatives if self.sample is None else cast(Large, problem).roughly
        self.at, self.curvature = settings._first(problem, self.look, self.sample, start)
        self.borrowed = self.at.hessian is None
        self.history, self.decrement, self.definite = [self.at.value], math.inf, True
        self.direction = torch.zeros_like(start)
        self.decrements: list[float] = []
        self.step = self.creeping = 0

    def stopped(self, converged: bool, status: str) -> Solution:
        """The solution at the current point."""
        at, known = self.at, self.curvature
        if self.sample is not None and known is not None and not _is_sharp(known, self.problem.rows):
            known = None  # whether it is flat somewhere, its six digits do not tell
        exact = math.isfinite(at.value)
        return Solution(at.z, at.value, converged, status, self.step, tuple(self.history), known, exact)

    def advance(self) -> Solution | None:
        """Take a step, or evaluate the Hessian again; the solution, if the iteration ends."""
        failure = self._failure()
        if failure:
            return self.stopped(False, failure)
        before, reused = self.decrement, self.at.hessian is None
        noise = rounding_of(self.at.value, self.problem.rows)
        assert self.curvature is not None
        self.direction, self.decrement, self.definite = newton_direction(
            self.curvature, self.at.gradient, self.problem.rows
        )
        if reused and not (self.definite and self.decrement <= MAX_REUSE_RATIO * before):
            self._renew()
            return None
        return self._arrived(before, reused, noise) or self._move(before, reused, noise)

    def _failure(self) -> str:
        """The reason why there can be no further step; empty if there can be one."""
        lost = self.problem.check(self.at.z) if self.step % 5 == 4 else None
        if lost and self.step >= MAX_SLOW_STEPS and not self.definite:
            return f"stopped after {self.step} steps: {lost}"
        if self.at.hessian is not None:
            self.curvature, self.borrowed = self.at.hessian, False
        if self.curvature is None or not is_finite(self.curvature):
            if self.step:
                return f"the Hessian is not finite after {self.step} steps"
            # A loss may have a corner where no column counts; its curvature is about one a row nearby.
            unit = torch.eye(len(self.at.z), dtype=self.at.z.dtype)
            self.curvature, self.borrowed = self.problem.rows * unit, True
        if not is_finite(self.at.gradient):
            return f"the gradient is not finite after {self.step} steps"
        return ""

    def _renew(self) -> None:
        """Evaluate the Hessian at the current point."""
        self.at, self.decrement = _Point(self.at.z, *self.look(self.at.z)), math.inf

    def _arrived(self, before: float, reused: bool, noise: float) -> Solution | None:
        """The solution, if the decrement, previously `before`, is below the tolerance or the `noise`."""
        if not reused and self.definite and is_stuck(self.decrement, before, noise):
            # all that is left is rounding
            return self.stopped(True, _status(self.decrement, self.step, self.definite))
        shrinks = self.decrement / before if reused else 1.0
        if self.borrowed or not self.decrement * shrinks <= self.settings.tolerance:
            return None
        if self.definite:  # one more step shrinks the error as much again, or squares it
            z = self.at.z + self.direction
            self.at = replace(self.at, z=z, value=self.at.value - 0.5 * self.decrement**2)
        return self.stopped(self.definite, _status(self.decrement, self.step, self.definite))

    def _move(self, before: float, reused: bool, noise: float) -> Solution | None:
        """A step along the direction; the solution, if none descends or the loss no longer decreases."""
        near = self._is_near()
        moved = _line_search(self.problem, self.look, self.at, self.direction, self.definite, noise, near)
        if moved is None and not reused:
            return self._end_of_descent(noise)
        if moved is None:
            self._renew()
            return None
        moved = self._lengthened(moved, self.decrement > STUCK * before and self.decrement**2 > noise)
        self.at = moved if near or moved.hessian is not None else _Point(moved.z, *self.look(moved.z))
        self.step += 1
        self.history.append(self.at.value)
        self.decrements.append(self.decrement)
        return self._end_if_slow() if self.definite else self._end_if_stalled()

    def _is_near(self) -> bool:
        """Whether, with very many rows, the optimum is close enough for the Hessian to be reused."""
        small = self.decrement <= CONSTANT_CURVATURE_STEP * math.sqrt(self.problem.rows)
        return self.sample is not None and self.definite and small and not self.borrowed

    def _lengthened(self, moved: _Point, is_slow: bool) -> _Point:
        """The end point of a full step, lengthened after many consecutive slow ones."""
        self.creeping = self.creeping + 1 if is_slow and moved.hessian is not None else 0
        if self.creeping < CREEPING_STEPS:
            return moved
        return _stretch(self.problem, self.at.z, self.direction, moved, CREEPING_REACH)

    def _end_if_slow(self) -> Solution | None:
        """The end, if the loss has long fallen by little a step, and no more slowly: without an optimum."""
        before = len(self.decrements) - ALGEBRAIC_STEPS
        if before < 0 or not _hardly_fell(self.history, ALGEBRAIC_STEPS, ALGEBRAIC_FALL):
            return None
        if not self.decrement > STUCK * self.decrements[before]:
            return None
        return self.stopped(False, _stalled(self.step, ALGEBRAIC_STEPS, self.decrement, ALGEBRAIC_FALL))

    def _end_if_stalled(self) -> Solution | None:
        """The solution, if the last steps have hardly lowered the loss."""
        assert self.curvature is not None
        stalled = _stalled_steps(self.history, self.curvature)
        return self.stopped(False, _stalled(self.step, stalled, self.decrement)) if stalled else None

    def _end_of_descent(self, noise: float) -> Solution:
        """The solution where no step descends: an optimum, if the predicted decrease is below rounding."""
        close = self.definite and self.decrement**2 <= noise
        if close:
            self.at = _last_step(self.problem, self.at, self.direction, LOG_GAMMA_ROUNDING * noise)
        return self.stopped(close, _status(self.decrement, self.step, self.definite, close))


def _is_sharp(hessian: Tensor, rows: int) -> bool:
    return is_finite(hessian) and float(torch.linalg.eigvalsh(hessian)[0]) > MIN_CURVED * rows


def _status(decrement: float, steps: int, definite: bool, close: bool = True) -> str:
    if definite and close:
        return f"optimum: Newton decrement {decrement:.1e} after {steps} steps"
    if definite:
        where = f"{decrement:.1e} standard errors from an optimum"
        return f"no decrease of the loss above its rounding error after {steps} steps, {where}"
    return f"stationary after {steps} steps, but the Hessian is not positive definite: no certified minimum"


def _stalled_steps(history: list[float], hessian: Tensor) -> int:
    """The number of last steps that have hardly lowered the loss, if they are too many; else 0."""
    if not _hardly_fell(history, LOST_STEPS):
        return 0
    if _hardly_fell(history, STALLED_STEPS):
        return STALLED_STEPS
    values = scaled_eigen(hessian)[0]
    return LOST_STEPS if float(values[0]) >= -MIN_EIGENVALUE_SHARE * float(values[-1]) else 0


def _hardly_fell(history: list[float], steps: int, fall: float = STALLED_FALL) -> bool:
    return len(history) > steps and history[-1 - steps] - history[-1] < fall


def _stalled(steps: int, stalled: int, decrement: float, fall: float = STALLED_FALL) -> str:
    return (
        f"stopped after {steps} steps, the last {stalled} of which lowered the loss by less than "
        f"{fall:g}, {decrement:.1e} standard errors from a stationary point"
    )


def _last_step(problem: Problem, at: _Point, direction: Tensor, noise: float) -> _Point:
    """One more full step, if it does not climb."""
    trial = problem.value(at.z + direction)
    return replace(at, z=at.z + direction, value=trial) if trial <= at.value + noise else at


def _line_search(
    problem: Problem, look: Look, at: _Point, direction: Tensor, definite: bool, noise: float, near: bool
) -> _Point | None:
    """The first point along the direction of sufficient decrease, or None.

    The Hessian is evaluated at the full step, unless the curvature changes little (`near`), or is indefinite,
    so that further trials follow.
    """
    slope = float(at.gradient @ direction)

    def trial(length: float) -> _Point:
        z, whole = at.z + length * direction, definite and length == 1.0 and not near
        return _Point(z, *(look if whole else problem.value_and_gradient)(z))

    found = backtracked(trial, at.value, slope, noise, lambda new: _is_nearer(problem, new, -slope))
    if found is None or definite or found[1] < 1.0:
        return None if found is None else found[0]
    return _stretch(problem, at.z, direction, found[0])


def _is_nearer(problem: Problem, new: _Point, square: float) -> bool:
    """Whether a step with the squared decrement `square` reduced it, where the change of the loss is below
    rounding.

    The rounding error of the loss is that of residuals of predictors that may be much larger; the gradient is
    more accurate.
    """
    if not square <= MAX_ROUNDED_DECREMENT or new.hessian is None or not is_finite(new.hessian):
        return False
    _, decrement, definite = newton_direction(new.hessian, new.gradient, problem.rows)
    return definite and math.isfinite(new.value) and decrement <= STUCK * math.sqrt(square)


def _stretch(problem: Problem, z: Tensor, direction: Tensor, best: _Point, reach: float = 1024) -> _Point:
    """If the Hessian is indefinite, double the step as long as the loss decreases."""
    step = 2.0
    while step <= reach:
        trial = z + step * direction
        new = _Point(trial, *problem.value_and_gradient(trial))
        if not (math.isfinite(new.value) and new.value < best.value):
            break
        best, step = new, 2 * step
    return best
