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
from neglog.solvers.settings import Settings
from neglog.solvers.solution import FLAT, Large, Problem, Solution, newton_direction, scaled_eigen

Look = Callable[[Tensor], tuple[float, Tensor, Tensor]]
EPSILON = torch.finfo(torch.float64).eps
ROUGH = 64
"""Log-gamma functions round so many times as much as sums do."""
CONSTANT_CURVATURE_STEP = 1e-2
"""The length of a step, in units of the noise of a row, below which the curvature hardly changes."""
SLOW = 0.1
"""Steps that do not shrink the decrement by this are taken with a new Hessian."""
SHARP = 1e-3
"""A curvature a row of more than this in all directions is no flat one."""
VAGUE = 1e-6
"""A squared decrement, in nats, of no more than this may be less than the rounding of the loss."""
STUCK = 0.5
"""Steps close to an optimum that do not shrink the decrement by this are lost in rounding."""
STALLED_STEPS = 20
"""Steps over which the loss must fall by more than"""
STALLED_FALL = 1e-6
"""nats, or else the method stops: where curvatures differ by 16 powers of ten, steps are rounding."""
LOST_STEPS = 5
"""The same, where no curvature is negative beyond rounding, which a step could follow downhill."""
LATE = 20
"""Steps after which a problem that may fall for very long is given up, while a curvature is negative."""
CREEPING_STEPS = 9
"""Full steps in a row that shrink the decrement by less than `STUCK`, after which the step is lengthened.

So it is where the loss falls like exp(-t) towards a border of the parameters: each Newton step is 1 long."""
CREEPING_REACH = 8.0
"""The longest of these steps, in Newton steps: beyond it the loss is flat to rounding in every direction."""
ROUGHLY = 0.5
"""The decrement at which a sample of the rows has said what it can of where to begin."""


@public
@dataclass(frozen=True)
class Newton(Settings):
    """Newton's method on the exact Hessian, with a line search that cannot climb.

    It has converged when the Newton decrement, the distance to the optimum in standard errors, is below
    `tolerance` and the Hessian is positive definite there. Costs one K × K solve a step; work in float64.
    Of very many rows it begins with the optimum of a part of them and the Hessian there, and once a step
    changes the curvature by no more than a hundredth, it takes further ones with the Hessian that it has:
    they shrink the decrement as much, the last one below `tolerance`, and cost a third; six digits
    of a Hessian do for that. Of fewer rows every step has its own, so that the last digits are right.

    Args:
        tolerance: the decrement to stop at.
        max_steps: steps after which it gives up.
    """

    tolerance: float = 1e-8
    max_steps: int = 200

    def minimise(self, problem: Problem, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`."""
        sample = problem.sample()
        look: Look = problem.derivatives if sample is None else cast(Large, problem).roughly
        at, curvature = self._first(problem, look, sample, start)
        history, decrement, step, definite, creeping = [at.value], math.inf, 0, True, 0
        borrowed = at.hessian is None

        def stopped(converged: bool, status: str) -> Solution:
            exact, known = math.isfinite(at.value), curvature
            if sample is not None and known is not None and not _is_sharp(known, problem.rows):
                known = None  # whether it is flat somewhere, its six digits do not tell
            return Solution(at.z, at.value, converged, status, step, tuple(history), known, exact)

        while step < self.max_steps:
            lost = problem.check(at.z) if step % 5 == 4 else None
            if lost and step >= LATE and not definite:
                return stopped(False, f"stopped after {step} steps: {lost}")
            if at.hessian is not None:
                curvature, borrowed = at.hessian, False
            if curvature is None or not bool(torch.isfinite(curvature).all()):
                if step:
                    return stopped(False, f"the curvature is not finite after {step} steps")
                # A loss may have a corner where no column counts; its curvature is about one a row nearby.
                curvature, borrowed = problem.rows * torch.eye(len(at.z), dtype=at.z.dtype), True
            if not bool(torch.isfinite(at.gradient).all()):
                return stopped(False, f"the gradient is not finite after {step} steps")
            before, reused = decrement, at.hessian is None
            direction, decrement, definite = newton_direction(curvature, at.gradient, problem.rows)
            noise = 64 * EPSILON * (abs(at.value) + math.sqrt(problem.rows))
            if reused and not (definite and decrement <= SLOW * before):
                at, decrement = _Point.fresh(look, at.z), math.inf
                continue
            shrinks = decrement / before if reused else 1.0
            if not reused and definite and decrement**2 <= noise and decrement > STUCK * before:
                return stopped(True, _status(decrement, step, definite))  # all that is left is rounding
            if decrement * shrinks <= self.tolerance and not borrowed:
                if definite:  # one more step shrinks the error as much again, or squares it
                    at = replace(at, z=at.z + direction, value=at.value - 0.5 * decrement**2)
                return stopped(definite, _status(decrement, step, definite))
            small = definite and decrement <= CONSTANT_CURVATURE_STEP * math.sqrt(problem.rows)
            near = sample is not None and small and not borrowed
            moved = _line_search(problem, look, at, direction, definite, noise, near)
            if moved is None and reused:
                at, decrement = _Point.fresh(look, at.z), math.inf
                continue
            if moved is None:
                # The promised descent is lost in the rounding of the sum over rows.
                close = definite and decrement**2 <= noise
                if close:
                    at = _last_step(problem, at, direction, ROUGH * noise)
                return stopped(close, _status(decrement, step, definite, close))
            slow = moved.hessian is not None and decrement > STUCK * before and decrement**2 > noise
            creeping = creeping + 1 if slow else 0
            if creeping >= CREEPING_STEPS:
                moved = _stretch(problem, at.z, direction, moved, CREEPING_REACH)
            at = moved if near or moved.hessian is not None else _Point.fresh(look, moved.z)
            step += 1
            history.append(at.value)
            if not definite and (stalled := _stalled_steps(history, curvature)):
                return stopped(False, _stalled(step, stalled, decrement))
        return stopped(
            False, f"stopped after {self.max_steps} steps, {decrement:.1e} standard errors from an optimum"
        )

    def _first(
        self, problem: Problem, look: Look, sample: Problem | None, start: Tensor
    ) -> tuple[_Point, Tensor | None]:
        """Where to begin, and a curvature: those at the optimum of a sample of the rows, if it has one."""
        found = None
        if sample is not None:
            with suppress(UnboundedLikelihoodError):
                found = replace(self, tolerance=max(self.tolerance, ROUGHLY)).minimise(sample, start)
        if sample is not None and found is not None and found.converged and found.hessian is not None:
            at = _Point(found.z, *problem.value_and_gradient(found.z))
            if math.isfinite(at.value):
                return at, found.hessian * (problem.rows / sample.rows)
        at = _Point.fresh(look, start)
        return at, at.hessian


@dataclass(frozen=True)
class _Point:
    """A place, with the value and the gradient there, and the Hessian where it is known."""

    z: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor | None = None

    @staticmethod
    def fresh(look: Look, z: Tensor) -> _Point:
        return _Point(z, *look(z))


def _is_sharp(hessian: Tensor, rows: int) -> bool:
    finite = bool(torch.isfinite(hessian).all())
    return finite and float(torch.linalg.eigvalsh(hessian)[0]) > SHARP * rows


def _status(decrement: float, steps: int, definite: bool, close: bool = True) -> str:
    if definite and close:
        return f"optimum: Newton decrement {decrement:.1e} after {steps} steps"
    if definite:
        where = f"{decrement:.1e} standard errors from an optimum"
        return f"rounding hides any further descent after {steps} steps, {where}"
    return f"stationary after {steps} steps, but the Hessian is not positive definite there"


def _stalled_steps(history: list[float], hessian: Tensor) -> int:
    """The number of last steps that have hardly lowered the loss, if they are too many; else 0."""
    if not _hardly_fell(history, LOST_STEPS):
        return 0
    if _hardly_fell(history, STALLED_STEPS):
        return STALLED_STEPS
    values = scaled_eigen(hessian)[0]
    return LOST_STEPS if float(values[0]) >= -FLAT * float(values[-1]) else 0


def _hardly_fell(history: list[float], steps: int) -> bool:
    return len(history) > steps and history[-1 - steps] - history[-1] < STALLED_FALL


def _stalled(steps: int, stalled: int, decrement: float) -> str:
    return (
        f"stopped after {steps} steps, the last {stalled} of which lowered the loss by less than "
        f"{STALLED_FALL:g}, {decrement:.1e} standard errors from a stationary point"
    )


def _last_step(problem: Problem, at: _Point, direction: Tensor, noise: float) -> _Point:
    """One more full step, if it does not climb."""
    trial = problem.value(at.z + direction)
    return replace(at, z=at.z + direction, value=trial) if trial <= at.value + noise else at


def _line_search(
    problem: Problem, look: Look, at: _Point, direction: Tensor, definite: bool, noise: float, near: bool
) -> _Point | None:
    """The first point along the direction that descends enough (Armijo), or None.

    The full step is taken with its Hessian, unless the curvature is known to change little (`near`), or is
    not to be trusted, and further steps follow.
    """
    slope = float(at.gradient @ direction)
    step = 1.0
    for _ in range(60):
        trial = at.z + step * direction
        whole = definite and step == 1.0 and not near
        new = _Point(trial, *(look if whole else problem.value_and_gradient)(trial))
        if _is_nearer(problem, new, -slope):
            return new
        if math.isfinite(new.value) and new.value <= at.value + 1e-4 * step * slope + noise:
            if not definite and step == 1.0:
                return _stretch(problem, at.z, direction, new)
            return new if new.value < at.value + noise else None
        step *= _shrink(at.value, new.value, slope, step)
        if step * -slope < noise * 1e-3:
            return None
    return None


def _is_nearer(problem: Problem, new: _Point, square: float) -> bool:
    """Whether a step with the squared decrement `square` shrank it, where the loss has no digits to tell.

    The rounding of the loss is that of residuals next to predictors that may be much larger; the gradient
    has digits left.
    """
    if not square <= VAGUE or new.hessian is None or not bool(torch.isfinite(new.hessian).all()):
        return False
    _, decrement, definite = newton_direction(new.hessian, new.gradient, problem.rows)
    return definite and math.isfinite(new.value) and decrement <= STUCK * math.sqrt(square)


def _shrink(value: float, reached: float, slope: float, step: float) -> float:
    """The minimiser of the parabola through what is known, kept between 1/10 and 1/2 of the step."""
    if not math.isfinite(reached):
        return 0.1
    curvature = reached - value - slope * step
    return min(0.5, max(0.1, -0.5 * slope * step / curvature)) if curvature > 0 else 0.5


def _stretch(problem: Problem, z: Tensor, direction: Tensor, best: _Point, reach: float = 1024) -> _Point:
    """Where the curvature is not to be trusted, double the step for as long as that pays."""
    step = 2.0
    while step <= reach:
        trial = z + step * direction
        new = _Point(trial, *problem.value_and_gradient(trial))
        if not (math.isfinite(new.value) and new.value < best.value):
            break
        best, step = new, 2 * step
    return best
