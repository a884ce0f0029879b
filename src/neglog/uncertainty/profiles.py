"""Profile likelihood: intervals of a parameter from the likelihood maximised over all others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neglog.errors import ModelError
from neglog.objective.coordinates import Coordinates
from neglog.solvers import Newton

PROFILE_END_TOLERANCE = 1e-7
"""Error of the ends of a profile interval, in standard errors."""
MAX_PROFILE_EXPANSION = 30
"""Ends farther from the estimate than this multiple of their distance under normality are infinite."""
MAX_ROOT_STEPS = 60
"""Largest number of steps of the search for an end."""


class Constrained:
    """A problem on the plane ``centre + plane @ v``, on which one parameter is fixed."""

    def __init__(self, problem: Coordinates, centre: Tensor, plane: Tensor) -> None:
        self.problem, self.centre, self.plane = problem, centre, plane
        self.size, self.rows = plane.shape[1], problem.rows

    def at(self, v: Tensor) -> Tensor:
        """The point of the whole problem."""
        return self.centre + self.plane @ v

    def value(self, v: Tensor) -> float:
        """The loss in nats."""
        return self.problem.value(self.at(v))

    def value_and_gradient(self, v: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient on the plane."""
        value, gradient = self.problem.value_and_gradient(self.at(v))
        return value, self.plane.T @ gradient

    def hessian(self, v: Tensor) -> Tensor:
        """The Hessian on the plane."""
        return self.derivatives(v)[2]

    def derivatives(self, v: Tensor) -> tuple[float, Tensor, Tensor]:
        """The loss, its gradient and its Hessian on the plane."""
        value, gradient, hessian = self.problem.derivatives(self.at(v))
        return value, self.plane.T @ gradient, self.plane.T @ hessian @ self.plane

    def sample(self) -> None:
        """Do nothing: the initial value is near the optimum."""

    def check(self, v: Tensor) -> None:
        """Raise the errors of `Coordinates.check`."""
        self.problem.check(self.at(v))


class Profile:
    """The profile likelihood of one unconstrained parameter.

    `place` is its position in theta, and `root` `(K, K)` a root of the inverse information in z.
    """

    def __init__(self, coordinates: Coordinates, z: Tensor, root: Tensor, place: int, name: str) -> None:
        self.coordinates, self.z, self.name = coordinates, z, name
        self.least = coordinates.value(z)
        unit = torch.zeros_like(z)
        unit[place] = 1.0
        normal = coordinates.pull_back(unit)  # theta[place] = normal · z
        covariances = root @ (root.T @ normal)
        self.error = math.sqrt(float(normal @ covariances))
        self.along = (
            covariances / self.error
        )  # the conditional optimum of all others per standard error of this
        whole, _ = torch.linalg.qr(normal[:, None], mode="complete")
        self.plane = whole[:, 1:]

    def distance(self, reach: float, v: Tensor) -> tuple[float, Tensor]:
        """The root of the likelihood ratio at `reach` standard errors from the estimate, and the optimum `v`.

        Raises:
            ModelError: the other parameters have no optimum there, or a better one than the estimate.
        """
        constrained = Constrained(self.coordinates, self.z + reach * self.along, self.plane)
        value = constrained.value(v)
        if constrained.size:
            solution = Newton().minimise(
                constrained, v if math.isfinite(value) else torch.zeros_like(v), False
            )
            value, v = solution.value, solution.z
            if not solution.converged:
                raise ModelError(
                    f"the profile of {self.name} has no optimum at {reach:.3g} standard errors from its "
                    f"estimate: {solution.status}. Use interval='wald'."
                )
        rise = value - self.least
        if math.isnan(rise):
            raise ModelError(
                f"the profile of {self.name} is not a number at {reach:.3g} standard errors from its "
                "estimate. Use interval='wald'."
            )
        if rise < -1e-6:
            side = "above" if reach > 0 else "below"
            raise ModelError(
                f"the profile of {self.name} finds a likelihood that is higher than that of the fit, by "
                f"{-rise:.3g} nats, {abs(reach):.3g} standard errors {side} the estimate: the fit is a local "
                f"optimum. Fit again with a `start` that far {side} it."
            )
        return math.sqrt(max(2 * rise, 0.0)), v

    def end(self, reach: float) -> float:
        """The point where the root of the likelihood ratio is |reach|, in standard errors; or infinity."""
        side, target = math.copysign(1.0, reach), abs(reach)
        low, high = (0.0, -target), (math.inf, math.inf)
        at, v = target, torch.zeros(self.plane.shape[1], dtype=self.z.dtype)
        for step in range(MAX_ROOT_STEPS):
            found, v = self.distance(side * at, v)
            gap = found - target
            if abs(gap) < PROFILE_END_TOLERANCE:
                return side * at
            low, high = (low, (at, gap)) if gap > 0 else ((at, gap), high)
            if math.isinf(high[0]):
                at = 2 * at
                if at > MAX_PROFILE_EXPANSION * target:
                    return side * math.inf
            elif step % 3 == 2 or math.isinf(high[1]):  # the secant may keep one end of the bracket for ever
                at = 0.5 * (low[0] + high[0])
            else:
                at = low[0] - low[1] * (high[0] - low[0]) / (high[1] - low[1])
            if at in (low[0], high[0]):
                return side * at
        raise ModelError(
            f"the profile of {self.name} is not smooth enough to find its end; use interval='wald'."
        )
