"""Variable projection: the linear heads of a network are optimised given the weights of its trunk."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from neglog.calls import public
from neglog.checkpoint import UNKEPT
from neglog.solvers.lbfgs import Point, direction_of, largest, noise_of, remember, wolfe
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Problem, Solution

PLAIN_STEPS = 50
"""Number of initial steps without the Gauss-Newton matrix, which is inaccurate far from an optimum."""
INITIAL_DAMPING = 0.1
"""The share of its diagonal that is added to the curvature at first."""
MIN_ADDED_SHARE = 1e-4
"""The smallest share of the curvature that is added."""
FACTOR = 4.0
"""Factor by which the share decreases after successful steps and increases after failures."""


SEARCH_STATE = ("at", "history", "steps", "factor", "damped", "age", "hard")
"""The attributes of a search that change from step to step, beside its pairs."""


class Separable(Problem, Protocol):
    """A function of one vector, part of which has an optimum that is cheap to compute given the rest."""

    outer: Tensor
    """The positions `(W,)` of the rest."""

    def project(self, z: Tensor) -> tuple[Tensor, float, Tensor]:
        """The optimum `(K,)` given `z[outer]`, the value there and the gradient `(K,)`."""
        ...

    def gauss_newton(self, z: Tensor) -> Tensor | None:
        """About the Hessian `(W, W)` of the value of `project`, nowhere negative; None if there is none."""
        ...


@public
@dataclass(frozen=True)
class VariableProjection(Settings):
    """Variable projection: minimises over the trunk of a network, with its heads at their optimum in every
    step.

    The smallest loss over all linear heads and constants, such as ``sigma``, is a function of the trunk's
    weights alone. It is minimised by L-BFGS with a strong Wolfe line search; for up to 1000 weights its
    initial Hessian is the projected Gauss-Newton matrix (Kaufman's approximation). It applies to any smooth
    likelihood that is a function of linear heads; for a Normal mean of known scale the heads are ridge
    regression on the features, or least squares under flat priors.

    It has converged when the largest component of the gradient of the loss in all parameters is below
    `tolerance` times the number of rows.

    Args:
        tolerance: the mean gradient a row to stop at.
        max_steps: the largest number of steps.
        memory: the number of pairs of steps and changes of the gradient that are stored.
        refresh: the number of steps with one Gauss-Newton matrix.

    Raises:
        DataError: settings that make no sense.
        ModelError: in a fit, a model without linear heads on learned features, one with corners, or one that
            cannot be cut at its heads.

    Source: Golub & Pereyra (1973), The differentiation of pseudo-inverses and nonlinear least squares
    problems whose variables separate; Kaufman (1975), A variable projection method for solving separable
    nonlinear least squares problems; Nocedal & Wright (2006), algorithm 7.4.

    >>> import torch
    >>> from neglog import map_estimate, models, on_features
    >>> x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    >>> with torch.random.fork_rng():
    ...     _ = torch.manual_seed(0)
    ...     trunk = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh())
    >>> net = on_features(models.gaussian, trunk)
    >>> y = torch.sin(3 * x[:, 0]) + 0.1 * torch.cos(40 * x[:, 0])
    >>> map_estimate(net, x, y, solver=VariableProjection()).converged
    True
    """

    tolerance: float = 1e-9
    max_steps: int = 2000
    memory: int = 20
    refresh: int = 30

    resumable: ClassVar[bool] = True

    def minimise(
        self, problem: Separable, start: Tensor, progress: bool = False, checkpoint: Any = UNKEPT
    ) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`, of which only the outer part counts."""
        search, done = _Search(self, problem, start), 0
        if checkpoint.found is not None:
            done = search.resumed(checkpoint.found)
        for step in range(done, self.max_steps):
            if checkpoint.is_due(step):
                checkpoint.write(search.state() | {"step": step}, step)
            if step % 20 == 19:
                problem.check(search.at[0])
            # The other half is for what is left in the heads.
            if search.size <= 0.5 * self.tolerance:
                return search.ended("optimum", self.tolerance)
            if not search.advance():
                problem.check(search.at[0])
                return search.ended("the line search found no decrease", noise_of(search.at[1], problem.rows))
        return search.ended("stopped", -1.0)


class _Search:
    """The state of the search over the trunk."""

    def __init__(self, solver: VariableProjection, problem: Separable, start: Tensor) -> None:
        self.problem, self.refresh = problem, solver.refresh
        self.at: Point = problem.project(start)
        self.pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=solver.memory)
        self.history, self.steps = [self.at[1]], 0
        self.factor: Tensor | None = None
        self.damped, self.age, self.hard = INITIAL_DAMPING, 0, 0

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        found = {name: value for name, value in vars(self).items() if name in SEARCH_STATE}
        return found | {"pairs": list(self.pairs)}

    def resumed(self, state: dict[str, Any]) -> int:
        """Take up a state; the number of steps so far."""
        self.pairs.extend(state["pairs"])
        for name in SEARCH_STATE:
            setattr(self, name, state[name])
        step: int = state["step"]
        return step

    @property
    def size(self) -> float:
        """The largest component of the gradient a row."""
        return largest(self.at[2]) / self.problem.rows

    def advance(self) -> bool:
        """One step; False if none descends."""
        if self.steps >= PLAIN_STEPS and (self.factor is None or self.age >= self.refresh):
            self._look_around()
        outer, trials = self.problem.outer, 0

        def trial(z: Tensor) -> Point:
            nonlocal trials
            trials += 1
            return self.problem.project(z)

        direction = torch.zeros_like(self.at[0])
        inverse = None if self.factor is None else self._solve
        direction[outer] = direction_of(self.at[2][outer], self.pairs, self.problem.rows, inverse)
        new = wolfe(trial, self.at, direction)
        if new is None:
            forgotten = bool(self.pairs)
            self.pairs.clear()
            self.damped *= FACTOR
            self.age = self.refresh
            return forgotten
        remember(self.pairs, (new[0] - self.at[0])[outer], (new[2] - self.at[2])[outer])
        self.at = new
        self.history.append(new[1])
        self.steps, self.age, self.hard = self.steps + 1, self.age + 1, self.hard + (trials > 1)
        return True

    def _solve(self, vector: Tensor) -> Tensor:
        assert self.factor is not None
        return torch.cholesky_solve(vector[:, None], self.factor)[:, 0]

    def _look_around(self) -> None:
        """Recompute the Gauss-Newton matrix, damped according to the last steps (Levenberg, Marquardt)."""
        if self.factor is not None:
            went_well = self.hard <= 0.3 * self.age
            self.damped = max(MIN_ADDED_SHARE, self.damped / FACTOR) if went_well else self.damped * FACTOR
        self.age = self.hard = 0
        curvature = self.problem.gauss_newton(self.at[0])
        self.factor = None
        if curvature is None or not bool(torch.isfinite(curvature).all()):
            return
        diagonal = curvature.diagonal().clamp_min(1e-6 * float(curvature.diagonal().max()))
        factor, failed = torch.linalg.cholesky_ex(curvature + torch.diag(self.damped * diagonal))
        self.factor = None if int(failed) else factor

    def ended(self, how: str, enough: float) -> Solution:
        """The solution, certified by the gradient in all parameters."""
        z, steps = self.at[0], self.steps
        value, gradient = self.problem.value_and_gradient(z)
        size = largest(gradient) / self.problem.rows
        if size <= enough:
            how = "optimum"  # also where a line search found no decrease beyond rounding
        elif how == "optimum":
            how = "no certified optimum"
        status = f"{how}: gradient {size:.1e} per row after {steps} steps, each with optimal heads"
        return Solution(z, value, size <= enough, status, steps, tuple(self.history))
