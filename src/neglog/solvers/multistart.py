"""Minimisation from several initial points, for functions with many optima."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neglog.calls import public
from neglog.errors import UnboundedLikelihoodError
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Problem, Solution, UnresolvedModeError
from neglog.solvers.watched import Watched

MAX_COMPARED_ROWS = 20_000
"""Above this many rows the best start is chosen on a sample."""
SAME_OPTIMUM_LOSS = 1e-6
"""Losses that differ by less, in nats and relative to a thousandth of the loss, are of one optimum."""
SAME_OPTIMUM_DISTANCE = 1.0
"""A start within this distance of a known optimum, in standard errors, leads there,"""
QUADRATIC_AGREEMENT = 0.1
"""if its loss and its gradient agree with those of the quadratic around it to this relative accuracy."""
MAX_EVALUATIONS = 150
"""Evaluations of the loss from one start after which it is suspended until the others have ended."""
MAX_VAIN_EVALUATIONS = 300
"""Evaluations that led to no optimum, from all starts together, after which each further start has"""
FEW_EVALUATIONS = 50
"""evaluations before it is suspended."""
LAST_EVALUATIONS = 150
"""Evaluations in which the lowest loss from the only start that is left must fall by more than"""
LAST_FALL = 0.1
"""nats, or else it is abandoned."""


@public
@dataclass(frozen=True)
class MultiStart(Settings):
    """The best minimum that a solver finds from the given point and from `starts`.

    Certified optima are preferred, then lower losses, then earlier starts. `status` reports how many starts
    led there and where the others ended. A start is abandoned where the function agrees with the quadratic
    around a known optimum. One that takes more than `MAX_EVALUATIONS`, or `FEW_EVALUATIONS` once
    `MAX_VAIN_EVALUATIONS` have led to no optimum, is suspended: it is continued for as
    many again if the loss there is lower than at every certified optimum. If there is none, the lowest of
    those suspended is continued as long as its loss falls by `LAST_FALL` in `LAST_EVALUATIONS`. With
    very many rows all starts are tried on a sample, and only the best of them on all rows.

    Args:
        solver: one that minimises from one point, such as `Newton()`.
        starts: other points `(M, K)`, in the coordinates of the problem.
        is_spurious: whether a certified optimum at `z` counts only where no other was found, or None.
    """

    solver: Any
    starts: Tensor
    is_spurious: Callable[[Tensor], bool] | None = None

    def minimise(self, problem: Problem, start: Tensor, progress: bool = False) -> Solution:
        """The best minimum of `problem`, from `start` `(K,)` and the others.

        Raises:
            UnboundedLikelihoodError: the function is unbounded from more than half of the starts, so that a
                local optimum has little meaning; or as many lead to modes that float64 cannot resolve, and
                none to an optimum.
        """
        few = problem
        while few.rows > MAX_COMPARED_ROWS and (sample := few.sample()) is not None:
            few = sample
        ends, unresolved = self._ends(few, torch.cat([start[None], self.starts]), progress)
        best = self._best([end for end in ends if end is not None])
        outcomes = _outcomes(ends, best, "" if few is problem else f" on {few.rows} rows", unresolved)
        if few is not problem:
            best = self.solver.minimise(problem, best.z, progress)
        return replace(best, status=f"{best.status}; {outcomes}")

    def _best(self, ends: list[Solution]) -> Solution:
        """The lowest certified optimum that is not spurious; if there is none, the lowest end."""
        order = sorted(ends, key=lambda end: (not end.converged, math.isnan(end.value), round(end.value, 9)))
        is_spurious, optima = self.is_spurious, [end for end in order if end.converged]
        if is_spurious is None or not optima:
            return order[0]
        return next((end for end in optima if not is_spurious(end.z)), order[0])

    def _ends(self, problem: Problem, starts: Tensor, progress: bool) -> tuple[list[Solution | None], int]:
        """The end point of each start, and the number of modes that float64 cannot resolve.

        An end point is None at such a mode, and where the function is unbounded.
        """
        ends, refusals, vain = list[Solution | None](), list[UnboundedLikelihoodError](), list[int]()

        def end(start: Tensor, most: float, value: float = math.inf) -> Solution | None:
            watched, found = _Led(problem, _certified(ends), most, value), None
            try:
                found = self._followed(watched, start, progress)
            except UnboundedLikelihoodError as error:
                refusals.append(error)
                if _are_most(_unbounded(refusals), len(starts)):  # the others would not change the result
                    raise refusals[0] from None
            if found is None or not found.converged:
                vain.append(watched.evaluations)
            return found

        for start in starts:
            ends.append(end(start, MAX_EVALUATIONS if sum(vain) < MAX_VAIN_EVALUATIONS else FEW_EVALUATIONS))
        for value, place, z in _waiting(ends):
            known = _certified(ends)
            if all(value < each.value for each in known):
                ends[place] = end(z, MAX_EVALUATIONS if known else math.inf, value)
            if not known and ends[place] is not None:
                break
        _check_some_end(ends, refusals)
        return ends, len(refusals) - len(_unbounded(refusals))

    def _followed(self, watched: _Led, start: Tensor, progress: bool) -> Solution:
        """The end point of one start, or where it was stopped."""
        try:
            found: Solution = self.solver.minimise(watched, start, progress)
        except _Stopped as stopped:
            return stopped.end
        return found


def _are_most(refusals: Sequence[UnboundedLikelihoodError], starts: int) -> bool:
    return len(refusals) > starts / 2


def _check_some_end(ends: Sequence[Solution | None], refusals: Sequence[UnboundedLikelihoodError]) -> None:
    """Raise the first refusal if most starts were refused, and none has ended at an optimum."""
    if _are_most(refusals, len(ends)) and not any(end is not None and end.converged for end in ends):
        raise refusals[0]


def _unbounded(refusals: Sequence[UnboundedLikelihoodError]) -> list[UnboundedLikelihoodError]:
    """The refusals of functions that are unbounded."""
    return [error for error in refusals if not isinstance(error, UnresolvedModeError)]


def _certified(ends: list[Solution | None]) -> list[Solution]:
    """The optima among the end points whose Hessian is known."""
    return [end for end in ends if end is not None and end.converged and end.hessian is not None]


def _waiting(ends: list[Solution | None]) -> list[tuple[float, int, Tensor]]:
    """The value, the place and the point of each start that waits, the lowest first."""
    found = [(each.value, at, each.z) for at, each in enumerate(ends) if isinstance(each, _Waiting)]
    return sorted(found, key=lambda each: each[:2])


@dataclass(frozen=True)
class _Waiting(Solution):
    """The lowest point that a solver had evaluated when it was stopped."""


class _Stopped(Exception):
    """A solver is stopped, at least for now."""

    def __init__(self, end: Solution) -> None:
        super().__init__()
        self.end = end


class _Arrived(_Stopped):
    """A solver has reached a known optimum."""


class _Paused(_Stopped):
    """A solver has reached its limit of evaluations; `end` is the lowest point that it evaluated."""


class _Led(Watched):
    """A problem that stops a solver at optima that are `known`, and after `most` evaluations.

    It also stops one whose loss, of which `before` is the lowest known value, no longer falls.
    """

    def __init__(
        self, problem: Problem, known: Sequence[Solution], most: float = math.inf, before: float = math.inf
    ) -> None:
        super().__init__(problem)
        self._known, self._most, self.evaluations = known, most, 0
        self._lowest: tuple[float, Tensor] | None = None
        self._before, self._compared = before, 0

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """Those of the problem."""
        value, gradient = self.problem.value_and_gradient(z)
        self._count(z, value)
        return value, gradient

    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """Those of the problem.

        Raises:
            _Arrived: they are those of a parabola around a known optimum, which is near.
            _Paused: there were more evaluations than `most`.
        """
        value, gradient, hessian = self.problem.derivatives(z)
        for end in self._known:
            if _is_around(end, z, value, gradient):
                raise _Arrived(end)
        self._count(z, value)
        if self._lowest is not None and (self.evaluations > self._most or self._is_stalled()):
            least, place = self._lowest
            status = f"stopped after {self.evaluations} evaluations of the loss"
            raise _Paused(_Waiting(place, least, False, status, self.evaluations))
        return value, gradient, hessian

    def _is_stalled(self) -> bool:
        """Whether the lowest loss has hardly fallen in the last `LAST_EVALUATIONS`."""
        assert self._lowest is not None
        if self.evaluations < self._compared + LAST_EVALUATIONS:
            return False
        before, self._before, self._compared = self._before, self._lowest[0], self.evaluations
        return self._before > before - LAST_FALL

    def _count(self, z: Tensor, value: float) -> None:
        self.evaluations += 1
        if math.isfinite(value) and (self._lowest is None or value < self._lowest[0]):
            self._lowest = value, z.clone()


def _is_around(end: Solution, z: Tensor, value: float, gradient: Tensor) -> bool:
    """Whether a point is near an optimum, and the function agrees with the quadratic around it."""
    assert end.hessian is not None
    step = z - end.z
    slope = end.hessian @ step
    square = float(step @ slope)
    alike = abs(value - end.value - 0.5 * square) <= QUADRATIC_AGREEMENT * square + SAME_OPTIMUM_LOSS
    if not (0 <= square <= SAME_OPTIMUM_DISTANCE**2 and alike):
        return False
    # The remaining gradient, as a distance in standard errors.
    rest = gradient - slope
    factor, failed = torch.linalg.cholesky_ex(end.hessian)
    left = float(rest @ torch.cholesky_solve(rest[:, None], factor)[:, 0])
    return not failed and left <= QUADRATIC_AGREEMENT**2 * square + SAME_OPTIMUM_LOSS


def _outcomes(ends: list[Solution | None], best: Solution, where: str, unresolved: int) -> str:
    """`best of 4 starts: 3 ended at this optimum, 1 at an optimum of larger loss (12.3)`."""
    if not best.converged:
        return f"none of {len(ends)} starts{where} ended at an optimum"
    close = SAME_OPTIMUM_LOSS * max(1.0, 1e-3 * abs(best.value))
    found = list(filter(None, ends))
    here = sum(abs(end.value - best.value) <= close for end in found)
    apart = [end.value for end in found if end.converged and not abs(end.value - best.value) <= close]
    spurious, worse = [v for v in apart if v < best.value], sorted(v for v in apart if v > best.value)
    none = len(ends) - here - len(apart) - unresolved
    parts = [f"{here} ended at this optimum"]
    parts += _at("a spurious optimum", spurious) + _at("an optimum of larger loss", worse)
    parts += [f"{none} at no optimum"] * (none > 0)
    parts += [f"{unresolved} at a mode on a few rows that float64 cannot resolve"] * (unresolved > 0)
    return f"best of {len(ends)} starts{where}: {', '.join(parts)}"


def _at(place: str, losses: list[float]) -> list[str]:
    """How many starts ended at a place, with their losses; nothing of none."""
    return [f"{len(losses)} at {place} ({', '.join(f'{loss:.6g}' for loss in losses)})"] if losses else []
