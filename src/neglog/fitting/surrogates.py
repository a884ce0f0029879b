"""Training on an objective that is no likelihood, of a model whose likelihood the fit reports."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from neglog.checkpoint import UNKEPT
from neglog.errors import ModelError
from neglog.fitting.choice import problem_of
from neglog.objective.coordinates import Coordinates
from neglog.solvers import Adam, Chain, Solution
from neglog.solvers.training import Training
from neglog.solvers.watched import Watched
from neglog.training_objectives import TrainingObjective, WarmUp


@dataclass(frozen=True)
class Surrogated:
    """A solver whose gradient steps descend an objective of training in the place of the loss."""

    trained: TrainingObjective
    solver: Any

    resumable: ClassVar[bool] = True

    def __getattr__(self, name: str) -> Any:
        if name in ("solver", "trained"):  # not set yet, as in a copy
            raise AttributeError(name)
        return getattr(self.solver, name)

    def minimise(
        self, problem: Any, start: Tensor, progress: bool = False, checkpoint: Any = UNKEPT
    ) -> Solution:
        """Train from `start` `(K,)`; the value is that of the loss of the model."""
        descended = self.descended(problem)
        found: Solution = self.solver.minimise(descended, start, progress, checkpoint=checkpoint)
        return replace(found, value=problem.value(found.z), converged=False, hessian=None)

    def descended(self, problem: Any) -> Descended:
        """The problem with the objective in the place of its loss."""
        unit = float(problem.objective.data.y.std(correction=0)) or 1.0
        changed = problem.objective.changed(self.trained.handler(unit))
        _, inner = problem_of(Coordinates(changed, problem.blocks, problem.is_linear), self.solver)
        if problem.trained:
            inner.constants.update(problem.constants)  # the buffers of one are those of the other
        return Descended(inner, problem, self.trained.name)

    def parts(self, problem: Any) -> list[tuple[Any, Any]]:
        """The trainings, one after the other: the solver of each, and the problem whose loss it descends."""
        return [(self.solver, self.descended(problem))]


@dataclass(frozen=True)
class WarmedUp(Surrogated):
    """A solver that begins on an objective, for some epochs, and goes on from there on the loss."""

    trained: WarmUp

    def minimise(
        self, problem: Any, start: Tensor, progress: bool = False, checkpoint: Any = UNKEPT
    ) -> Solution:
        """Train from `start` `(K,)`; steps and losses are those of both parts."""
        if not problem.trained:
            own = Coordinates(problem.objective, problem.blocks, problem.is_linear)
            problem = Descended(problem_of(own, self.solver)[1], problem)
        first = Surrogated(self.trained, before(self.solver, self.trained.epochs))
        return Chain((first, self.solver)).minimise(problem, start, progress, checkpoint)

    def parts(self, problem: Any) -> list[tuple[Any, Any]]:
        """The training with the scale held, and that of the likelihood."""
        first = before(self.solver, self.trained.epochs)
        return [(first, self.descended(problem)), (self.solver, problem)]


def before(solver: Any, epochs: int) -> Any:
    """The solver for some epochs before its own, at its first learning rate."""
    solver = copy(solver)
    plain = {"validation": None, "callbacks": (), "scheduler": None, "decay": 1.0, "steps": None}
    own = {name: value for name, value in plain.items() if hasattr(solver, name)}
    for name, value in {**own, "epochs": epochs}.items():
        object.__setattr__(solver, name, value)
    return solver


class Descended(Watched):
    """A problem whose loss is an objective of training, beside the one of the likelihood."""

    def __init__(self, problem: Any, likelihood: Any, surrogate: str = "") -> None:
        super().__init__(problem)
        self.likelihood, self.surrogate = likelihood, surrogate

    def held_out_loss(self, z: Tensor) -> float:
        """Minus the mean log-likelihood of a held-out row, in nats, at `z` `(K,)`."""
        return float(self.likelihood.held_out_loss(z))


def surrogated(trained: TrainingObjective, solver: Any) -> Any:
    """The solver of a fit, `Adam` by default, which trains on an objective.

    Raises:
        ModelError: a solver that takes no gradient steps.
    """
    solver = Adam() if solver is None else solver
    if not isinstance(solver, Training):
        raise ModelError(
            f"`{trained.name}` is no likelihood, and `{type(solver).__name__}` minimises one function. Train "
            "it by gradient steps: solver=neglog.solvers.Adam(...)."
        )
    return WarmedUp(trained, solver) if isinstance(trained, WarmUp) else Surrogated(trained, solver)


def parts_of(solver: Any, problem: Any) -> list[tuple[Any, Any]]:
    """The trainings of a solver, one after the other: of each, the settings, and the problem it descends."""
    return solver.parts(problem) if isinstance(solver, Surrogated) else [(solver, problem)]


def trained_on_by(solver: Any) -> str:
    """The objective that a solver trains on and that is no likelihood; empty where it minimises the loss."""
    return solver.trained.name if type(solver) is Surrogated else ""
