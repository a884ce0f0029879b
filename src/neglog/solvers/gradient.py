"""Gradient steps on the graph of a problem, by any optimiser of one vector."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from neglog.calls import public
from neglog.checkpoint import UNKEPT
from neglog.errors import DataError
from neglog.solvers.solution import Solution
from neglog.solvers.stochastic import MaybeKinked, certified
from neglog.solvers.training import Run, Training

OF_STEPS = ("OneCycleLR", "CyclicLR")
"""Schedulers of torch that advance once a step; all others advance once an epoch."""

CLIPPING_EPSILON = 1e-6
"""Added to norms of gradients, as `torch.nn.utils.clip_grad_norm_` does."""

Evaluation = Callable[..., tuple[Tensor, Tensor]]
"""From z `(K,)`, and the numbers of some rows, to the loss `()` and its gradient `(K,)`."""


class ReplayedProblem(MaybeKinked, Protocol):
    """A problem whose loss and gradient are available as tensors, for all rows or for minibatches."""

    def evaluation(self, z: Tensor, size: int | None = None, *, compile: bool = False) -> Evaluation:
        """The loss and its gradient near `z` `(K,)`.

        With a `size`, a further argument is a batch of this many rows, which is scaled up to the whole.
        """
        ...

    def placed(
        self, device: str | None, autocast: torch.dtype | None, seed: int
    ) -> AbstractContextManager[torch.device]:
        """Around gradient steps on a device, or with networks in lower precision."""
        ...

    def rows_not_finite(self, z: Tensor, batch: Any) -> str:
        """The rows of a batch whose log-likelihood at `z` `(K,)` is not finite, in words."""
        ...


class Rule(Protocol):
    """The rule by which an optimiser moves one vector in place, given a gradient."""

    @property
    def optimiser(self) -> Optimizer:
        """The optimiser of torch whose learning rate a scheduler changes."""
        ...

    def move(self, gradient: Tensor, rate: float | None) -> None:
        """One step; the rate is that of the optimiser where it is None."""
        ...

    def state(self) -> dict[str, Any]:
        """The state beside the vector, for a checkpoint."""
        ...

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        ...


@public
@dataclass(frozen=True, kw_only=True)
class GradientTraining(Training):
    """A training on the graph of a problem; a subclass gives the rule of its steps."""

    scheduler: Callable[[Optimizer], Any] | None = None
    max_norm: float | None = None
    ema_decay: float | None = None
    device: str | None = None
    autocast: torch.dtype | None = None

    @property
    def is_by_epochs(self) -> bool:
        """Whether something is to be done at the end of an epoch."""
        return self.scheduler is not None or super().is_by_epochs

    def rule(self, z: Tensor, rows: int) -> Rule:
        """The rule of the steps, which moves `z` `(K,)`, for the loss of this many rows."""
        raise NotImplementedError

    def rate(self, done: int, total: int) -> float | None:
        """The learning rate after `done` of `total` steps; None is that of the optimiser of torch."""
        return None

    @torch.no_grad()
    def minimise(
        self, problem: ReplayedProblem, start: Tensor, progress: bool = False, checkpoint: Any = UNKEPT
    ) -> Solution:
        """Run the steps from `start` `(K,)`, or from the state of a checkpoint on."""
        if start.numel() == 0:
            return certified(problem, start.clone(), [], self.__dict__["certainty"])
        if self.device is None and self.autocast is None:
            return Run(self, problem, GradientSteps(self, problem, start.clone()), checkpoint).solution(
                progress
            )
        with problem.placed(self.device, self.autocast, self.__dict__["seed"]) as device:
            steps = GradientSteps(self, problem, start.clone().to(device))
            run = Run(self, problem, steps, checkpoint)
            run.train(progress)
        return run.end()


class GradientSteps:
    """Steps on the graph of a problem; see `neglog.solvers.training.Steps`."""

    def __init__(self, settings: Any, problem: ReplayedProblem, z: Tensor) -> None:
        self.settings, self.problem, self.moving, self.done = settings, problem, z, 0
        self.total = settings.total(problem)
        self.rule: Rule = settings.rule(z, problem.rows)
        self.average = None if settings.ema_decay is None else z.clone()
        self.scheduler = None
        if settings.scheduler is not None:
            self.scheduler = scheduled(settings.scheduler, self.rule.optimiser)
        self.fault: str | None = None
        self.recorded: dict[int | None, Tensor] = {}  # where each number of rows was first evaluated
        self.is_by_steps = type(self.scheduler).__name__ in OF_STEPS

    @property
    def z(self) -> Tensor:
        """The point `(K,)` that the steps have reached, or the average of their points."""
        return self.moving if self.average is None else self.average

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        rate = None if self.scheduler else self.settings.rate(self.done - 1, self.total)
        return float(self.rule.optimiser.param_groups[0]["lr"] if rate is None else rate)

    def step(self, batch: Any) -> Tensor:
        """Take the step of a batch, or of all rows, if its loss is finite; the loss before it."""
        settings, problem, z = self.settings, self.problem, self.moving
        size = None if batch is None else len(batch)
        if size not in self.recorded:
            self.recorded[size] = z.clone()
        evaluate = problem.evaluation(z, size, compile=settings.compile)
        value, gradient = evaluate(z) if batch is None else evaluate(z, batch)
        if z.is_cpu and not math.isfinite(value):  # elsewhere to look would be to wait
            self.fault = problem.rows_not_finite(z, batch) if z.dim() == 1 else ""
            return value
        if settings.max_norm is not None:
            gradient = clipped(gradient, settings.max_norm, problem.rows)
        self._move(gradient)
        return value

    def _move(self, gradient: Tensor) -> None:
        """Move by the rule of the optimiser, and advance what changes with each step."""
        settings, z = self.settings, self.moving
        self.rule.move(gradient, None if self.scheduler else settings.rate(self.done, self.total))
        self.done += 1
        if self.is_by_steps and self.scheduler is not None:
            self.scheduler.step()
        if self.average is not None:
            self.average.lerp_(z, 1 - settings.ema_decay)

    def end_epoch(self, loss: float) -> None:
        """Advance a scheduler that advances once an epoch."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif self.scheduler is not None and not self.is_by_steps:
            self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        rate = self.rule.optimiser.param_groups[0]["lr"]
        own = {"z": self.moving, "done": self.done, "average": self.average, "scheduler": scheduler}
        return own | {"rate": rate, "recorded": self.recorded} | self.rule.state()

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a state; graphs recorded at other points may differ in the last digit."""
        self.recorded = state["recorded"]
        for size, point in self.recorded.items():
            self.problem.evaluation(point, size, compile=self.settings.compile)
        self.moving.copy_(state["z"])
        self.done, average = state["done"], state["average"]
        self.average = None if average is None else average.to(self.moving.device)
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.rule.resume(state)
        self.rule.optimiser.param_groups[0]["lr"] = state["rate"]


def clipped(gradient: Tensor, max_norm: float, rows: int) -> Tensor:
    """A gradient `(..., K)` of this many rows, scaled to a norm of at most `max_norm` a row.

    As `torch.nn.utils.clip_grad_norm_` of the mean loss.
    """
    norm = gradient.norm(dim=-1, keepdim=True)
    return gradient * (max_norm / (norm / rows + CLIPPING_EPSILON)).clamp(max=1.0)


def scheduled(scheduler: Callable[[Optimizer], Any], optimiser: Optimizer) -> Any:
    """The scheduler of torch that a function makes of an optimiser.

    Raises:
        DataError: it makes something else.
    """
    found = scheduler(optimiser)
    if not isinstance(found, LRScheduler):
        raise DataError(
            "`scheduler` must be a function of an optimiser that returns a scheduler of torch, such as "
            "functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=100); it returned a "
            f"{type(found).__name__}."
        )
    return found
