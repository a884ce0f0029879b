"""Losses with kinks: follow the optimum of a softened loss, then land on the exact one and certify it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.calls import public
from neglog.solvers.descent import EPSILON
from neglog.solvers.newton import Newton
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Kinked, Problem, Solution, largest_of, newton_direction
from neglog.solvers.trust import TrustRegion

NOISE = 1e-9
"""A residual this small beside the largest is zero up to rounding."""

FEW_STEPS = 10
"""Newton steps on a non-convex face after which the face is rejected."""
MOST_STEPS = 60
"""Evaluations of a smoothed, non-convex loss after which it is treated as one without an optimum."""


@public
@dataclass(frozen=True)
class Continuation(Settings):
    """For absolute values: least absolute deviations, lasso, and what is made of them.

    Each |r| is softened to sqrt(r² + softness²); Newton follows the optimum as the softness shrinks. The
    residuals that go to zero with it are then held at zero exactly (a vertex of the linear programme, or an
    exact zero of the lasso), the others keep their signs, and Newton solves for what is left. The result is
    certified by its subgradient: every residual at zero has a multiplier in [-1, 1], every other one the
    sign it was given, and with them the gradient is zero. A truncated density is not convex: there the
    curvature must be positive too, and the optimum is a local one. Without that certificate `converged` is
    False.

    Args:
        tolerance: the decrement to stop at, in standard errors.
        max_steps: Newton steps in all after which it gives up.
    Source: the softened path follows Madsen & Nielsen (1993); the optimality conditions are those of
    Koenker (2005), Quantile Regression, section 2.2.
    """

    tolerance: float = 1e-8
    max_steps: int = 500

    def minimise(self, problem: Kinked, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`."""
        z, steps, history, softness = start, 0, [], 1.0
        for softness, smooth, inner in self._stages(problem):
            most = max(1, min(inner.max_steps, self.max_steps - steps))
            found = replace(inner, max_steps=most).minimise(smooth, z)
            z, steps = found.z, steps + found.steps
            history.append(problem.value(z))
            if softness <= 1e-3:
                landed = self._land(problem, z, softness, steps, tuple(history))
                if landed is not None:
                    return landed
            if found.steps >= most and (not problem.convex or steps >= self.max_steps):
                break
        status = f"no certified optimum after {steps} steps; the last softness was {softness:.0e}"
        return Solution(z, problem.value(z), False, status, steps, tuple(history))

    def _stages(self, problem: Kinked) -> Iterator[tuple[float, Problem, Newton | TrustRegion]]:
        """Softnesses, the problems so softened, and what minimises each.

        A loss that is not convex begins at the optimum of the convex one next to it, and takes steps of
        limited length from there: long ones lead out of sight.
        """
        if not problem.convex:
            yield 0.1, problem.smoothed(0.1, bounded=False), Newton(tolerance=1e-6)
        for exponent in range(0 if problem.convex else 1, 13):
            smooth = problem.smoothed(10.0**-exponent)
            if problem.convex:
                yield 10.0**-exponent, smooth, Newton(tolerance=1e-6, max_steps=self.max_steps)
            else:
                yield 10.0**-exponent, smooth, TrustRegion(tolerance=1e-2, max_steps=MOST_STEPS)

    def _land(
        self, problem: Kinked, z: Tensor, softness: float, steps: int, history: tuple[float, ...]
    ) -> Solution | None:
        """The exact optimum next to `z`, if the residuals that vanish are told rightly; else None."""
        residuals = problem.residuals(z)
        signs = residuals / torch.sqrt(residuals**2 + softness**2)
        for clear in (1e-1, 1e-2, 1e-3):
            held = signs.abs() < 1 - clear
            vertex = _Vertex(problem, held, torch.where(held, torch.zeros_like(signs), signs.sign()))
            point = vertex.solve(z, self.tolerance)
            if point is None:
                continue
            landed, flat, decrement, newton_steps = point
            if flat and not problem.convex:
                continue
            worst = vertex.violation(landed, signs)
            if worst <= 1e-7:
                where = f"{int(held.sum())} residuals exactly 0"
                status = f"optimum: subgradient condition holds to {max(worst, decrement):.0e}, {where}"
                status += "; it is not unique" if flat else ""
                status += "" if problem.convex else "; a local optimum, as the loss is not convex"
                value = problem.value(landed)
                return Solution(landed, value, True, status, steps + newton_steps, (*history, value))
        return None


class _Vertex:
    """The problem with some residuals held at zero, and the signs of the others held as they are."""

    def __init__(self, problem: Kinked, held: Tensor, signs: Tensor) -> None:
        self.problem, self.held, self.signs = problem, held, signs
        self.smooth = problem.signed(signs)

    def _held_jacobian(self, z: Tensor) -> Tensor:
        return self.problem.jacobian(z)[self.held]

    def solve(self, z: Tensor, tolerance: float) -> tuple[Tensor, bool, float, int] | None:
        """The optimum on the face, whether the face is flat there, the last decrement, and the steps."""
        for step in range(50 if self.problem.convex else FEW_STEPS):
            z = self._onto_face(z)
            if not self._is_on_face(z):
                return None
            basis = _null_space(self._held_jacobian(z))
            value, gradient = self.smooth.value_and_gradient(z)
            if not (math.isfinite(value) and bool(torch.isfinite(gradient).all())):
                return None
            reduced = basis.T @ self.smooth.hessian(z) @ basis
            if not bool(torch.isfinite(reduced).all()):
                return None
            direction, decrement, definite = newton_direction(reduced, basis.T @ gradient)
            if decrement <= tolerance or (not definite and self._gradient_is_noise(gradient, basis)):
                return (
                    self._onto_face(z + basis @ direction) if definite else z,
                    not definite,
                    decrement,
                    step,
                )
            below = self._descend(z, value, basis @ direction)
            if below is None:
                return None
            z = below
        return None

    def _gradient_is_noise(self, gradient: Tensor, basis: Tensor) -> bool:
        return float((basis.T @ gradient).norm()) <= 1e-9 * self.problem.rows

    def _onto_face(self, z: Tensor) -> Tensor:
        """The nearest point where the held residuals are zero, twice over for the last digits."""
        for _ in range(2):
            rows = self._held_jacobian(z)
            if len(rows):
                z = z - torch.linalg.pinv(rows, rtol=1e-10) @ self.problem.residuals(z)[self.held]
        return z

    def _is_on_face(self, z: Tensor) -> bool:
        """Whether all held residuals are zero there; too many of them were held if they cannot be."""
        residuals = self.problem.residuals(z).abs()
        held = residuals[self.held]
        return not len(held) or bool(held.max() <= _noise(residuals))

    def _descend(self, z: Tensor, value: float, direction: Tensor) -> Tensor | None:
        step = 1.0
        while step > 1e-6:
            if self.smooth.value(z + step * direction) <= value + 1e-12 * abs(value):
                return z + step * direction
            step /= 2
        return None

    def violation(self, z: Tensor, guess: Tensor) -> float:
        """How far the subgradient condition is from holding at `z`; 0 at an exact optimum."""
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
        return largest_of(excess, float(gradient.norm()) / max(1.0, float(self.problem.rows)))

    def _multipliers(self, z: Tensor, guess: Tensor) -> Tensor:
        """The signs of the held residuals that balance the gradient, those nearest to the guess."""
        rows = self._held_jacobian(z)
        if not len(rows):
            return guess[self.held]
        signs = self.signs.clone()
        signs[self.held] = guess[self.held]
        gradient = self.problem.signed(signs).value_and_gradient(z)[1]
        weights = self.problem.kink_weights()[self.held]
        if not bool(torch.isfinite(gradient).all() & torch.isfinite(rows).all()):
            return torch.full_like(guess[self.held], math.nan)
        correction = torch.linalg.lstsq((rows * weights[:, None]).T, -gradient[:, None], driver="gelsd")
        return guess[self.held] + correction.solution[:, 0]


def _noise(residuals: Tensor) -> float:
    """Below this a residual is 0 to rounding; there are none where every row is censored."""
    return NOISE * (1 + (float(residuals.abs().max()) if len(residuals) else 0.0))


def _null_space(rows: Tensor) -> Tensor:
    """An orthonormal basis `(K, K - rank)` of the directions that leave `rows @ z` as it is."""
    size = rows.shape[1]
    if not len(rows):
        return torch.eye(size, dtype=rows.dtype)
    _, values, right = torch.linalg.svd(rows, full_matrices=True)
    rank = int((values > 1e-10 * values.max().clamp_min(EPSILON)).sum())
    return right[rank:].T
