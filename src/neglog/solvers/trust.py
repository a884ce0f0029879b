"""Newton's method in a trust region, for functions that are far from quadratic away from the optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from neglog.calls import public
from neglog.solvers.descent import EPSILON, LOG_GAMMA_ROUNDING, descends, is_hidden, rounding_of
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Problem, Solution, newton_direction

SMALL_STEP = 1e-6
"""Relative length of a full Gauss-Newton step below which Newton's method takes over."""
MIN_CURVATURE_SHARE = 1e-14
"""A curvature below this share of the largest is lost in rounding."""


class Nonlinear(Problem, Protocol):
    """A problem with a Gauss-Newton approximation of its Hessian."""

    def dispersion(self, z: Tensor) -> Tensor:
        """The coordinates `(K,)` that do not change the mean of the response, such as a scale."""
        ...

    def gauss_newton(self, z: Tensor) -> Tensor | None:
        """The Hessian `(K, K)` without the model's own second derivatives, or None if it is not known."""
        ...


@public
@dataclass(frozen=True)
class TrustRegion(Settings):
    """Newton's method with steps of limited length, for models that are nonlinear in their parameters.

    Each step minimises a quadratic exactly within an ellipsoid, whose size is adapted to the accuracy of the
    predicted decrease. Its axes are scaled by the largest curvatures so far, so that parameters of order 1e-9
    and of order 1e9 can be combined.

    If the problem has a `gauss_newton` approximation it is used first, with the parameters that do not change
    the mean fixed: for a Normal response this is the method of Levenberg and Marquardt, which converges from
    further away. The final steps use the Hessian.

    It has converged when the Newton decrement, the distance to the optimum in standard errors, is below
    `tolerance` and the Hessian is positive definite there; or, where no step lowers the loss, when its square
    is below 4096 roundings of the loss, 64 times what `Newton` admits. That is a local optimum, of which such
    losses may have many: give a `start`. Work in float64.

    Args:
        tolerance: the decrement to stop at.
        max_steps: the largest number of evaluations of the loss.
    Source: Moré (1978), The Levenberg-Marquardt algorithm, for the axes; Moré & Sorensen (1983), Computing a
    trust region step.
    """

    tolerance: float = 1e-8
    max_steps: int = 1500

    def minimise(self, problem: Problem, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`."""
        walk = _Walk(problem, start, self.max_steps)
        if not (math.isfinite(walk.value) and bool(torch.isfinite(walk.gradient).all())):
            return walk.ended(False, "the loss or its gradient is not finite at the start")
        if hasattr(problem, "gauss_newton"):
            _approach(walk)
        return self._finish(walk)

    def _finish(self, walk: _Walk) -> Solution:
        everything, problem = torch.ones_like(walk.z, dtype=torch.bool), walk.problem
        walk.start_afresh()
        while True:
            walk.hessian = hessian = problem.hessian(walk.z)
            if not bool(torch.isfinite(hessian).all()):
                return walk.ended(False, f"the Hessian is not finite after {walk.steps} steps")
            direction, decrement, definite = newton_direction(hessian, walk.gradient, problem.rows)
            if definite and decrement <= self.tolerance:
                break
            if walk.steps >= self.max_steps:
                away = f"{decrement:.1e} standard errors from an optimum"
                return walk.ended(False, f"stopped after {self.max_steps} steps, {away}")
            if walk.step(hessian, everything) is None:
                # The predicted decrease is below the rounding error of the sum over rows.
                definite = definite and decrement**2 <= LOG_GAMMA_ROUNDING * walk.noise
                break
        if definite:
            walk.last(direction)
            return walk.ended(True, f"optimum: Newton decrement {decrement:.1e} after {walk.steps} steps")
        return walk.ended(
            False, f"no step decreases the loss after {walk.steps} steps, and no optimum is certified"
        )


def _approach(walk: _Walk) -> None:
    """Gauss-Newton steps in the parameters of the mean, until they are small relative to the parameters."""
    problem: Nonlinear = walk.problem  # type: ignore[assignment]
    moving = ~problem.dispersion(walk.z)
    while walk.steps < walk.max_steps and bool(moving.any()):
        model = problem.gauss_newton(walk.z)
        if model is None or not float(model[moving][:, moving].abs().max()) > 0:
            return
        size = walk.step(model, moving)
        if size is None or size < SMALL_STEP:
            return


class _Walk:
    """The current point of a trust-region method, and the size of the region."""

    def __init__(self, problem: Problem, start: Tensor, max_steps: int) -> None:
        self.problem, self.z, self.max_steps, self.steps = problem, start, max_steps, 0
        self.value, self.gradient = problem.value_and_gradient(start)
        self.history = [self.value]
        self.hessian: Tensor | None = None
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget the size of the region."""
        self.axes, self.radius = torch.zeros_like(self.z), math.inf

    @property
    def noise(self) -> float:
        """The rounding error of the loss."""
        return rounding_of(self.value, self.problem.rows)

    def ended(self, converged: bool, status: str) -> Solution:
        history = tuple(self.history)
        return Solution(self.z, self.value, converged, status, self.steps, history, self.hessian)

    def last(self, direction: Tensor) -> None:
        """One more full step: at the tolerance it squares the error, and it costs one evaluation."""
        trial = self.problem.value(self.z + direction)
        if trial <= self.value + LOG_GAMMA_ROUNDING * self.noise:
            self.z, self.value = self.z + direction, trial

    def step(self, model: Tensor, moving: Tensor) -> float | None:
        """Take the step of the quadratic model in the coordinates `moving` `(K,)`; None if none descends.

        Returns its length relative to the parameters, infinite if the region limited the step.
        """
        part = model[moving][:, moving]
        self.axes[moving] = torch.maximum(self.axes[moving], part.diagonal().abs().sqrt())
        scale = torch.where(self.axes > 0, self.axes, 1.0)[moving]
        here = float((scale * self.z[moving]).norm())
        if math.isinf(self.radius):
            self.radius = max(here, 1.0)
        while self.steps < self.max_steps:
            inside, short = step_within(part, self.gradient[moving], scale, self.radius)
            move = torch.zeros_like(self.z)
            move[moving] = inside
            foretold = -float(self.gradient @ move + 0.5 * move @ (model @ move))
            reached, gradient = self._evaluate(self.z + move)
            length = float((scale * inside).norm())
            if self._is_better(reached, gradient, foretold, scale, moving):
                if self.value - reached > 0.75 * foretold:
                    self.radius = max(self.radius, 2.5 * length)
                elif self.value - reached < 0.25 * foretold:
                    self.radius = 0.25 * length
                self.z, self.value, self.gradient = self.z + move, reached, gradient
                self.history.append(reached)
                return math.inf if short else length / max(here, 1e-300)
            self.radius = (0.25 if math.isfinite(reached) else 0.1) * length
            if is_hidden(-foretold, self.noise) or self.radius < EPSILON * here:
                return None
        return math.inf

    def _evaluate(self, z: Tensor) -> tuple[float, Tensor]:
        self.steps += 1
        if self.steps % 5 == 0:
            self.problem.check(self.z)
        value, gradient = self.problem.value_and_gradient(z)
        return (value if bool(torch.isfinite(gradient).all()) else math.inf), gradient

    def _is_better(
        self, reached: float, gradient: Tensor, foretold: float, scale: Tensor, moving: Tensor
    ) -> bool:
        """Whether the loss decreased as predicted, or the gradient did if that is below rounding."""
        if not math.isfinite(reached):
            return False
        if foretold > self.noise:
            return bool(descends(self.value, reached, -foretold, 0.0))
        before, after = (float((g[moving] / scale).norm()) for g in (self.gradient, gradient))
        return reached <= self.value + self.noise and after < 0.5 * before


def step_within(model: Tensor, gradient: Tensor, scale: Tensor, radius: float) -> tuple[Tensor, bool]:
    """The minimiser of gᵀp + pᵀBp/2 where |scale · p| ≤ radius, and whether that bound holds it back.

    With q = scale · p and the eigenvectors of B in these coordinates, q = -(Λ + shift)⁻¹ Vᵀg; the shift is
    the root of 1 / |q| = 1 / radius, found by Newton's method between bounds (Moré & Sorensen 1983).
    """
    values, vectors = torch.linalg.eigh(model / scale[:, None] / scale)
    along = vectors.T @ (gradient / scale)
    lowest, largest = float(values[0]), float(values.abs().max())
    least = MIN_CURVATURE_SHARE * max(largest, 1e-300)

    def at(shift: float) -> Tensor:
        return -along / (values + shift)

    if lowest > least and float((whole := at(0.0)).norm()) <= radius:
        return vectors @ whole / scale, False
    floor = max(0.0, -lowest) + least
    step = at(floor)
    if (length := float(step.norm())) < radius:  # the gradient has no part along the lowest curvature
        step[0] += math.copysign(math.sqrt(radius**2 - length**2), float(step[0])) if lowest < -least else 0.0
        return vectors @ step / scale, lowest < -least
    low, high = floor, floor + float(along.norm()) / radius
    shift = low
    for _ in range(60):
        step = at(shift)
        length = float(step.norm())
        if abs(length - radius) <= 0.01 * radius:
            break
        low, high = (shift, high) if length > radius else (low, shift)
        slope = float((step.square() / (values + shift)).sum())
        shift += (length**2 / slope) * (length - radius) / radius
        if not low < shift < high:
            shift = max(math.sqrt(low * high), 1e-3 * high)
    return vectors @ step / scale, True
