"""Nonsmooth losses: follow the optimum of a smoothed loss, then solve for the exact one and certify it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.calls import public
from neglog.solvers.descent import EPSILON, LOG_GAMMA_ROUNDING, backtracked, rounding_of
from neglog.solvers.newton import Newton
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Kinked, Problem, Solution, largest_of, newton_direction
from neglog.solvers.trust import TrustRegion

ZERO_RESIDUAL_SHARE = 1e-9
"""A residual of less than this share of the largest is zero up to rounding."""

MAX_CONVEX_STEPS = 25
"""The largest number of Newton steps on a face of a convex loss."""
MAX_NONCONVEX_STEPS = 10
"""The same for a loss that is not convex."""
ZERO_GUESSES = (1e-1, 1e-2, 1e-3)
"""Distances of smoothed signs from ±1 that tell the residuals that vanish from the others."""
MAX_FAILED_STEPS = 30
"""Newton steps on faces without a certified optimum after which there is one guess at each softness, with"""
MAX_LATE_STEPS = 3
"""steps at most: from the optimum of a smoothed loss of little softness one or two suffice."""
MAX_LOST_STAGES = 2
"""Values of the softness without a certified optimum, where the loss has no lower bound, before the end."""
MAX_SMOOTHED_EVALUATIONS = 40
"""The largest number of evaluations of a smoothed loss that is not convex."""


@public
@dataclass(frozen=True)
class Continuation(Settings):
    """For losses with absolute values: least absolute deviations, lasso, and combinations of them.

    Each |r| is smoothed to sqrt(r² + softness²), and Newton's method follows the optimum as the softness
    decreases. The residuals that vanish with it are then fixed at exactly zero (a vertex of the linear
    programme, or an exact zero of the lasso), the others keep their signs, and Newton's method solves for the
    remaining parameters. The result is certified by the subgradient condition: every residual at zero has a
    multiplier in [-1, 1], every other one has the assumed sign, and with these the gradient is zero. A
    truncated density is not convex: the curvature must be positive too, and the optimum is a local one.
    Without this certificate `converged` is False.

    Args:
        tolerance: the decrement to stop at, in standard errors.
        max_steps: the largest number of Newton steps in all.
    Source: Madsen & Nielsen (1993) for the path of smoothed problems; Koenker (2005), Quantile Regression,
    section 2.2, for the optimality conditions.
    """

    tolerance: float = 1e-8
    max_steps: int = 500

    def minimise(self, problem: Kinked, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`."""
        z, steps, history, softness, faces = start, 0, [], 1.0, _Faces(problem)
        for softness, smooth, inner in self._stages(problem):
            most = max(1, min(inner.max_steps, self.max_steps - steps))
            found = replace(inner, max_steps=most).minimise(smooth, z)
            z, steps = found.z, steps + found.steps
            history.append(problem.value(z))
            if softness <= 1e-3:
                certified = self._certified(faces, z, softness, steps, tuple(history))
                if certified is not None:
                    return certified
                faces.lost += problem.check(z) is not None
                if faces.lost >= MAX_LOST_STAGES:
                    break
            if found.steps >= most and (not problem.convex or steps >= self.max_steps):
                break
        status = f"no certified optimum after {steps} steps; the last smoothing width was {softness:.0e}"
        return Solution(z, problem.value(z), False, status, steps, tuple(history))

    def _stages(self, problem: Kinked) -> Iterator[tuple[float, Problem, Newton | TrustRegion]]:
        """Each softness, the problem smoothed by it, and the solver for that problem.

        A loss that is not convex starts at the optimum of its convex approximation, with steps of limited
        length: long ones could leave the region of the local optimum.
        """
        if not problem.convex:
            yield 0.1, problem.smoothed(0.1, bounded=False), Newton(tolerance=1e-6)
        for exponent in range(0 if problem.convex else 1, 13):
            smooth = problem.smoothed(10.0**-exponent)
            if problem.convex:
                yield 10.0**-exponent, smooth, Newton(tolerance=1e-6, max_steps=self.max_steps)
            else:
                yield 10.0**-exponent, smooth, TrustRegion(tolerance=1e-2, max_steps=MAX_SMOOTHED_EVALUATIONS)

    def _certified(
        self, faces: _Faces, z: Tensor, softness: float, steps: int, history: tuple[float, ...]
    ) -> Solution | None:
        """The certified optimum next to `z`; None if no guess of the vanishing residuals is right."""
        problem = faces.problem
        residuals = problem.residuals(z)
        signs = residuals / torch.sqrt(residuals**2 + softness**2)
        for clear in faces.shares:
            held = signs.abs() < 1 - clear
            vertex = _Vertex(problem, held, torch.where(held, torch.zeros_like(signs), signs.sign()), z)
            point = vertex.solve(z, self.tolerance, faces)
            if point is None:
                continue
            exact, flat, decrement, newton_steps = point
            if flat and not problem.convex:
                continue
            worst = vertex.violation(exact, signs)
            if worst <= 1e-7:
                where = f"{int(held.sum())} residuals exactly 0"
                status = f"optimum: the subgradient condition holds to {max(worst, decrement):.0e}, {where}"
                status += "; the optimum is not unique" if flat else ""
                status += "" if problem.convex else "; a local optimum, as the loss is not convex"
                value = problem.value(exact)
                return Solution(exact, value, True, status, steps + newton_steps, (*history, value))
        return None


@dataclass
class _Faces:
    """The Newton steps on the faces of a problem, none of which has had a certified optimum so far."""

    problem: Kinked
    steps: int = 0
    lost: int = 0
    """The number of values of the softness at which the loss was found to have no lower bound."""

    @property
    def shares(self) -> tuple[float, ...]:
        """The distances of smoothed signs from ±1 below which residuals are not held at 0, of each guess."""
        return ZERO_GUESSES if self.steps < MAX_FAILED_STEPS else ZERO_GUESSES[:1]

    @property
    def max_steps(self) -> int:
        """The largest number of steps on the next face."""
        if not self.problem.convex:
            return MAX_NONCONVEX_STEPS
        return MAX_CONVEX_STEPS if self.steps < MAX_FAILED_STEPS else MAX_LATE_STEPS


@dataclass(frozen=True, eq=False)
class _Restricted:
    """A value, with the gradient and the Hessian in the coordinates of a `basis` of the face."""

    basis: Tensor
    value: float
    gradient: Tensor
    hessian: Tensor


@dataclass(frozen=True, eq=False)
class _Trial:
    """A point of a line search, and the value there."""

    z: Tensor
    value: float


class _Vertex:
    """The problem on a face: some residuals are fixed at zero, and the others keep their signs.

    Attributes:
        units: the change of each coordinate `(K,)` that moves the residuals by about 1. Gradients, null
            spaces and projections are in these units, so that the unit of y does not change them.
    """

    def __init__(self, problem: Kinked, held: Tensor, signs: Tensor, at: Tensor) -> None:
        self.problem, self.held, self.signs = problem, held, signs
        self.smooth = problem.signed(signs)
        self.units = _units(problem.jacobian(at))

    def _held_jacobian(self, z: Tensor) -> Tensor:
        return self.problem.jacobian(z)[self.held]

    def solve(self, z: Tensor, tolerance: float, faces: _Faces) -> tuple[Tensor, bool, float, int] | None:
        """The optimum on the face, whether the face is flat there, the last decrement, and the steps."""
        for step in range(faces.max_steps):
            faces.steps += 1
            z = self._onto_face(z)
            restricted = self._restricted(z)
            if restricted is None:
                return None
            direction, decrement, definite = newton_direction(restricted.hessian, restricted.gradient)
            step_along = restricted.basis @ direction
            if decrement <= tolerance or (not definite and self._is_rounding(restricted.gradient)):
                return self._onto_face(z + step_along) if definite else z, not definite, decrement, step
            below = self._below(z, restricted.value, step_along, -(decrement**2))
            if below is None:
                return None
            z = below
        return None

    def _restricted(self, z: Tensor) -> _Restricted | None:
        """The problem along the face at `z`; None off the face, or where a derivative is not finite."""
        if not self._is_on_face(z):
            return None
        value, gradient = self.smooth.value_and_gradient(z)
        if not (math.isfinite(value) and bool(torch.isfinite(gradient).all())):
            return None
        basis = self.units[:, None] * _null_space(self._held_jacobian(z) * self.units)
        hessian = basis.T @ self.smooth.hessian(z) @ basis
        if not bool(torch.isfinite(hessian).all()):
            return None
        return _Restricted(basis, value, basis.T @ gradient, hessian)

    def _is_rounding(self, gradient: Tensor) -> bool:
        return float(gradient.norm()) <= 1e-9 * self.problem.rows

    def _onto_face(self, z: Tensor) -> Tensor:
        """The nearest point where the fixed residuals are zero; projected twice for the last digits."""
        for _ in range(2):
            rows = self._held_jacobian(z)
            if len(rows):
                inverse = torch.linalg.pinv(rows * self.units, rtol=1e-10)
                z = z - self.units * (inverse @ self.problem.residuals(z)[self.held])
        return z

    def _is_on_face(self, z: Tensor) -> bool:
        """Whether all fixed residuals are zero; they cannot be if too many were fixed."""
        residuals = self.problem.residuals(z).abs()
        held = residuals[self.held]
        return not len(held) or bool(held.max() <= _noise(residuals))

    def _below(self, z: Tensor, value: float, direction: Tensor, slope: float) -> Tensor | None:
        """The first point along a direction that descends enough; None if there is none."""

        def trial(length: float) -> _Trial:
            there = z + length * direction
            return _Trial(there, self.smooth.value(there))

        found = backtracked(trial, value, slope, LOG_GAMMA_ROUNDING * rounding_of(value, self.problem.rows))
        return None if found is None else found[0].z

    def violation(self, z: Tensor, guess: Tensor) -> float:
        """The violation of the subgradient condition at `z`; 0 at an exact optimum."""
        residuals = self.problem.residuals(z)
        free = ~self.held
        noise = _noise(residuals)
        if not (self._is_on_face(z) and bool((residuals[free] * self.signs[free] >= -noise).all())):
            return math.inf
        multipliers = self._multipliers(z, guess)
        excess = float((multipliers.abs() - 1).clamp_min(0).max()) if multipliers.numel() else 0.0
        signs = self.signs.clone()
        signs[self.held] = multipliers
        gradient = self.problem.signed(signs).value_and_gradient(z)[1]
        return largest_of(excess, float((self.units * gradient).norm()) / max(1.0, float(self.problem.rows)))

    def _multipliers(self, z: Tensor, guess: Tensor) -> Tensor:
        """The multipliers of the fixed residuals that make the gradient 0, those nearest to the guess."""
        rows = self._held_jacobian(z)
        if not len(rows):
            return guess[self.held]
        signs = self.signs.clone()
        signs[self.held] = guess[self.held]
        gradient = self.problem.signed(signs).value_and_gradient(z)[1]
        weights = self.problem.kink_weights()[self.held]
        if not bool(torch.isfinite(gradient).all() & torch.isfinite(rows).all()):
            return torch.full_like(guess[self.held], math.nan)
        pulls = (rows * weights[:, None] * self.units).T
        correction = torch.linalg.lstsq(pulls, -(self.units * gradient)[:, None], driver="gelsd")
        return guess[self.held] + correction.solution[:, 0]


def _noise(residuals: Tensor) -> float:
    """The rounding error of residuals; there are no residuals where every row is censored."""
    return ZERO_RESIDUAL_SHARE * (1 + (float(residuals.abs().max()) if len(residuals) else 0.0))


def _units(jacobian: Tensor) -> Tensor:
    """The change of each coordinate `(K,)` that moves the residuals by 1 in the root mean square."""
    sizes = jacobian.square().mean(dim=0).sqrt() if len(jacobian) else jacobian.new_zeros(jacobian.shape[1])
    return torch.where((sizes > 0) & torch.isfinite(sizes), 1 / sizes, 1.0)


def _null_space(rows: Tensor) -> Tensor:
    """An orthonormal basis `(K, K - rank)` of the null space of `rows`."""
    size = rows.shape[1]
    if not len(rows):
        return torch.eye(size, dtype=rows.dtype)
    _, values, right = torch.linalg.svd(rows, full_matrices=True)
    rank = int((values > 1e-10 * values.max().clamp_min(EPSILON)).sum())
    return right[rank:].T
