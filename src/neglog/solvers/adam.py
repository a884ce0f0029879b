"""Adam on a recorded graph: the steps of `SVI` without running the model in each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from neglog.calls import public
from neglog.checkpoint import UNKEPT
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Solution
from neglog.solvers.stochastic import (
    Bar,
    MaybeKinked,
    batches,
    certified,
    is_flat,
    resume_training,
    training_state,
)

BETAS = (0.9, 0.999)
DENOMINATOR_EPSILON = 1e-8
CHECK_INTERVAL = 50
"""Number of steps between two checks of the losses; a check of each would cost more than the step."""

Evaluation = Callable[..., tuple[Tensor, Tensor]]
"""From z `(K,)`, and the numbers of some rows, to the loss `()` and its gradient `(K,)`."""


class ReplayedProblem(MaybeKinked, Protocol):
    """A problem whose loss and gradient are available as tensors, for all rows or for minibatches."""

    def evaluation(self, z: Tensor, size: int | None = None, *, compile: bool = False) -> Evaluation:
        """The loss and its gradient near `z` `(K,)`.

        With a `size`, a further argument `(size,)` names rows, which are scaled up to the whole.
        """
        ...


@public
@dataclass(frozen=True)
class Adam(Settings):
    """Adam (Kingma & Ba 2015): the steps of `SVI` with `pyro.optim.Adam`, many times faster.

    Model, handlers and autograd are run once; each step evaluates the recorded graph.

    Args:
        steps: gradient steps.
        learning_rate: of the first step.
        batch_size: rows a step, or None for all of them. The likelihood of a minibatch is scaled up to the
            whole and the prior is not, so its gradient is an unbiased estimate. Rows are shuffled each epoch.
        seed: of the shuffle, and of the random numbers of a network in training mode.
        decay: the learning rate after `steps` over that of the first step; it falls geometrically.
        patience: stop early when the mean loss of the last `patience` steps is no better, by more than
            `tolerance` nats a row, than that of the `patience` steps before; None never stops early.
            Losses are looked at every 50 steps.
        tolerance: see `patience`.
        compile: whether to compile the steps to machine code, which takes a C++ compiler and some seconds.
        rescale: whether linear coefficients are optimised in units of the noise on an orthonormal design.
        certainty: see below.
        dtype: in which the data are taken.

    The fit has converged if by the final gradient and Hessian of the whole data an optimum is less than
    `certainty` standard errors away. This is not claimed for a loss with corners, for more than 200
    parameters, or for a network that depends on its mode. Such a network is trained in training mode, by
    running the model in each step.

    Raises:
        DataError: settings that make no sense; `compile` without a C++ compiler.
    """

    steps: int = 2000
    learning_rate: float = 0.05
    batch_size: int | None = None
    seed: int = 0
    decay: float = 1e-4
    patience: int | None = None
    tolerance: float = 1e-6
    compile: bool = False
    rescale: bool = True
    certainty: float = 1e-2
    dtype: torch.dtype = torch.float64

    replayed: ClassVar[bool] = True
    resumable: ClassVar[bool] = True

    def minimise(
        self, problem: ReplayedProblem, start: Tensor, progress: bool = False, checkpoint: Any = UNKEPT
    ) -> Solution:
        """Run the steps from `start` `(K,)`, or from the state of a checkpoint on."""
        z, history = start.clone(), list[float]()
        if z.numel() == 0:
            return certified(problem, z, history, self.certainty)
        moments = Moments(z)
        bar = Bar(total=self.steps, desc="Adam", disable=not progress, leave=False)
        with torch.no_grad(), problem.training(self.seed), bar:
            if checkpoint.found is not None:
                history += moments.resumed(checkpoint.found, z)
                for size, point in moments.recorded.items():
                    problem.evaluation(point, size, compile=self.compile)
                resume_training(problem, checkpoint.found)
            indices = batches(problem.rows, self.batch_size, self.steps, self.seed, len(history))
            while losses := self.advance(problem, z, moments, islice(indices, CHECK_INTERVAL)):
                history += losses
                bar.update(len(losses))
                if not math.isfinite(sum(losses)):
                    break
                if is_flat(history, self.patience, self.tolerance * problem.rows):
                    break
                if checkpoint.is_due(len(history)):
                    state = moments.state(z) | {"history": history} | training_state(problem)
                    checkpoint.write(state, len(history))
        return certified(problem, z, history, self.certainty)

    def advance(
        self, problem: ReplayedProblem, z: Tensor, moments: Moments, indices: Iterator[Tensor | None]
    ) -> list[float]:
        """Take the steps of these batches in place, up to the first loss that is not finite."""
        found = []
        for index in indices:
            size = None if index is None else len(index)
            if size not in moments.recorded:
                moments.recorded[size] = z.clone()
            evaluate = problem.evaluation(z, size, compile=self.compile)
            value, gradient = evaluate(z) if index is None else evaluate(z, index)
            rate = self.learning_rate * self.decay ** (moments.steps / self.steps)
            moments.step(z, gradient, rate)
            found.append(value)
        losses = torch.stack(found).tolist() if found else []
        last = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
        return losses[: last + 1]


class Moments:
    """The running means of gradients `(K,)` and their squares, and the step that they make.

    `recorded` has the point `(K,)` at which the evaluation of each number of rows was recorded: graphs of
    other points may differ in the last digit.
    """

    def __init__(self, z: Tensor) -> None:
        self.recorded: dict[int | None, Tensor] = {}
        self.first, self.second, self.root = (torch.zeros_like(z) for _ in range(3))
        self.steps = 0

    def state(self, z: Tensor) -> dict[str, Any]:
        """The state at z, for a checkpoint."""
        moments = {"first": self.first, "second": self.second, "steps": self.steps}
        return {"z": z, "recorded": self.recorded, **moments}

    def resumed(self, state: dict[str, Any], z: Tensor) -> list[float]:
        """Take up a state, with z in place; the losses so far."""
        z.copy_(state["z"])
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])
        self.steps, self.recorded = state["steps"], state["recorded"]
        history: list[float] = state["history"]
        return history

    def step(self, z: Tensor, gradient: Tensor, rate: float) -> None:
        """Move `z` in place."""
        self.steps += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        grown = math.sqrt(1 - BETAS[1] ** self.steps)
        torch.sqrt(self.second, out=self.root)
        # The means start at 0, which is made good here: m / (1 - β₁ᵗ) over sqrt(v / (1 - β₂ᵗ)) + ε.
        z.addcdiv_(
            self.first,
            self.root.add_(DENOMINATOR_EPSILON * grown),
            value=-rate * grown / (1 - BETAS[0] ** self.steps),
        )
