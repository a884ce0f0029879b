"""Training: epochs of gradient steps, with held-out rows, learning rates, averaged weights and callbacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from neglog.calls import public
from neglog.errors import DataError, NeglogError
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Epoch, Solution
from neglog.solvers.stochastic import (
    Bar,
    certified,
    is_flat,
    resume_training,
    training_state,
)

CHECK_INTERVAL = 50
"""Number of steps between two checks of the losses; a check of each would cost more than the step."""
DEFAULT_STEPS = 2000
"""Steps of a training that gives neither `steps` nor `epochs`."""
DEFAULT_PATIENCE = 20
"""Epochs without a lower held-out loss after which a training ends."""


class StopFit(Exception):
    """Raised by a callback to end a training; the fit is that of the weights so far."""


class Steps(Protocol):
    """Gradient steps from a point on, one batch after the other."""

    @property
    def z(self) -> Tensor:
        """The point `(K,)` that they have reached."""
        ...

    @property
    def learning_rate(self) -> float:
        """That of the last step."""
        ...

    @property
    def fault(self) -> str | None:
        """The rows, in words, of the loss that was not finite, after which no step is taken; else None."""
        ...

    def step(self, batch: Any) -> Tensor | float:
        """Take the step of a batch, or of all rows; the loss before it."""
        ...

    def end_epoch(self, loss: float) -> None:
        """Advance what changes with each epoch; the loss is that of the held-out rows, or of the epoch."""
        ...

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        ...

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        ...


@public
@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """What every training has, whatever its optimiser: settings by name."""

    epochs: int | None = None
    validation: Any = None
    callbacks: tuple[Callable[[Epoch], Any], ...] = ()

    resumable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.__dict__["steps"] is not None:
            raise DataError(f"`{type(self).__name__}` takes `steps` or `epochs`, and not both.")

    def minimise(
        self, problem: Any, start: Tensor, progress: bool = False, checkpoint: Any = None
    ) -> Solution:
        """Run the steps from `start` `(K,)`, or from the state of a checkpoint on."""
        raise NotImplementedError

    @property
    def is_by_epochs(self) -> bool:
        """Whether something is to be done at the end of an epoch."""
        return bool(self.epochs or self.callbacks) or self.validation is not None

    def total(self, problem: Any) -> int:
        """The number of steps on a problem."""
        if self.epochs is None:
            return int(self.__dict__["steps"] or DEFAULT_STEPS)
        return self.epochs * int(problem.batches_an_epoch(self.__dict__["batch_size"]))


class Run:
    """One training: its steps, their losses, its epochs, and the best of their ends."""

    def __init__(self, settings: Any, problem: Any, steps: Steps, checkpoint: Any) -> None:
        self.settings, self.problem, self.steps, self.checkpoint = settings, problem, steps, checkpoint
        self.an_epoch = int(problem.batches_an_epoch(settings.batch_size))
        self.total = settings.total(problem)
        self.history: list[float] = []
        self.epochs: list[Epoch] = []
        self.best, self.good, self.good_steps = Best(), Weights(), 0
        self.started, self.stopped, self.reason = time.perf_counter(), "", ""

    def solution(self, progress: bool) -> Solution:
        """The solution after all steps, or up to an end of them."""
        self.train(progress)
        return self.end()

    def train(self, progress: bool) -> None:
        """Take all steps, up to an end of them."""
        settings, problem = self.settings, self.problem
        bar = Bar(total=self.total, desc=type(settings).__name__, disable=not progress, leave=False)
        with problem.training(settings.seed), bar:
            if self.checkpoint.found is not None:
                self.resume(self.checkpoint.found)
            indices = problem.batches(settings.batch_size, self.total, settings.seed, len(self.history))
            while not self.stopped and (losses := self.advance(islice(indices, self.until_next_look()))):
                bar.update(len(losses))
                if not self.stopped:
                    self.look()
                if not self.stopped and self.checkpoint.is_due(len(self.history)):
                    self.checkpoint.write(self.state(), len(self.history))

    def until_next_look(self) -> int:
        """The number of steps to the next check, which the end of an epoch is."""
        if not self.settings.is_by_epochs:
            return CHECK_INTERVAL
        left = self.an_epoch - len(self.history) % self.an_epoch
        return min(CHECK_INTERVAL, left) if self.steps.z.is_cpu else left  # elsewhere to look is to wait

    def advance(self, batches: Iterator[Any]) -> list[float]:
        """Take the steps of these batches, up to the first loss that is not finite; the losses.

        Raises:
            NeglogError: a batch, or the module, is wrong in the first epoch; later it ends the training.
        """
        found: list[Tensor | float] = []
        try:
            for batch in batches:
                found.append(self.steps.step(batch))
                if self.steps.fault is not None:
                    break
        except NeglogError as error:
            if self.good_steps < self.an_epoch:
                raise
            self.stopped, self.reason = "broken", str(error).removesuffix(".")
        losses = _numbers(found)
        last = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))
        self.history += losses[: last + 1]
        return losses[: last + 1]

    def look(self) -> None:
        """What is done between steps: end a training that has gone wrong or is done, and end an epoch."""
        settings, problem = self.settings, self.problem
        if not (math.isfinite(self.history[-1]) and bool(torch.isfinite(self.steps.z).all())):
            self.stopped = "not finite"
            return
        self.good.take(self.steps.z, problem)
        self.good_steps = len(self.history)
        if settings.is_by_epochs and self.good_steps % self.an_epoch and self.good_steps < self.total:
            return
        if settings.validation is None and is_flat(
            self.history, settings.patience, settings.tolerance * problem.rows
        ):
            self.stopped = "flat"
        if settings.is_by_epochs:
            self.end_epoch()

    def end_epoch(self) -> None:
        """Score the held-out rows, and call back."""
        settings, problem = self.settings, self.problem
        size = len(self.history) - (self.epochs[-1].steps if self.epochs else 0)
        training = sum(self.history[-size:]) / (size * problem.rows)
        held_out = None if settings.validation is None else problem.held_out_loss(self.steps.z)
        seconds, rate = time.perf_counter() - self.started, self.steps.learning_rate
        epoch = Epoch(len(self.epochs) + 1, len(self.history), training, held_out, rate, seconds)
        self.epochs.append(epoch)
        if held_out is not None:
            self.best.offer(held_out, epoch.epoch, self.steps.z, problem)
            if epoch.epoch - self.best.epoch >= (settings.patience or DEFAULT_PATIENCE):
                self.stopped = "validation"
        self.steps.end_epoch(training if held_out is None else held_out)
        try:
            for callback in settings.callbacks:
                callback(epoch)
        except StopFit:
            self.stopped = "callback"

    def end(self) -> Solution:
        """The solution: the best weights by the held-out rows, or the last ones.

        Where the loss was not finite, they are those at the check before.
        """
        z, best = self.steps.z.cpu(), self.best
        if best.epoch:
            z = best.restored(self.problem)
        elif self.failed:
            z = self.good.restored(self.problem)
        elif self.stopped == "not finite":  # no step before it is known to be sound
            z = torch.full_like(z, math.nan)
        found = certified(self.problem, z, self.history, self.settings.certainty)
        found = replace(found, epochs=tuple(self.epochs))
        if self.failed:
            held_out = best.loss if best.epoch else None
            status = f"{self.failure()}. The weights are those {self.kept}"
            return replace(found, converged=False, status=status, held_out=held_out)
        if self.stopped == "not finite":
            return replace(found, converged=False, status=self.failure())
        if best.epoch:
            return self.validated(found)
        if self.stopped == "callback":
            return replace(found, status=f"stopped by a callback at epoch {len(self.epochs)}; {found.status}")
        return found

    @property
    def failed(self) -> bool:
        """Whether a loss was not finite, or a batch wrong, after steps without fault."""
        return self.stopped in ("not finite", "broken") and self.good_steps > 0

    @property
    def kept(self) -> str:
        """The place of the weights of a training that failed."""
        return f"at epoch {self.best.epoch}" if self.best.epoch else f"after step {self.good_steps}"

    def failure(self) -> str:
        """Why a training failed."""
        if self.reason:
            return self.reason
        where = f", in {self.steps.fault}" if self.steps.fault else ""
        return f"the loss is not finite after {len(self.history)} steps{where}; lower the learning rate"

    def validated(self, found: Solution) -> Solution:
        """The solution of a training with held-out rows, which are no optimum of its loss."""
        best, last = self.best, self.epochs[-1]
        assert last.validation_loss is not None
        status = f"the held-out loss was smallest at epoch {best.epoch}, {best.loss:.6g} nats a row"
        if best.epoch == last.epoch:
            status = f"{status}, the last one, and still decreasing: give more epochs"
            return replace(found, converged=False, status=status, held_out=best.loss)
        above = last.validation_loss - best.loss
        status = f"{status}, {above:.3g} below that of epoch {last.epoch}, the last one; its weights are kept"
        return replace(found, converged=False, status=status, held_out=best.loss, validated=True)

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        own = {"history": self.history, "epochs": self.epochs, "best": self.best.state()}
        return self.steps.state() | own | training_state(self.problem)

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.history += state["history"]
        self.epochs = [Epoch(*epoch) for epoch in state["epochs"]]
        self.best.resume(state["best"])
        self.steps.resume(state)
        resume_training(self.problem, state)


def _numbers(losses: list[Tensor | float]) -> list[float]:
    """Losses as numbers; those on another device than the CPU are read at once."""
    if losses and isinstance(losses[0], Tensor) and not losses[0].is_cpu:
        return [float(loss) for loss in torch.stack([torch.as_tensor(each) for each in losses]).tolist()]
    return [float(loss) for loss in losses]


class Weights:
    """A point that training has passed, and the buffers of networks there."""

    def __init__(self) -> None:
        self.z = torch.zeros(0)
        self.buffers: dict[str, dict[str, Tensor]] = {}

    def take(self, z: Tensor, problem: Any) -> None:
        """Keep a point `(K,)` of a problem, with its buffers."""
        self.z = z.clone()
        own = problem.constants if problem.trained else {}
        self.buffers = {name: {k: v.clone() for k, v in each.items()} for name, each in own.items()}

    def restored(self, problem: Any) -> Tensor:
        """The point `(K,)`, with its buffers in place."""
        for name, own in self.buffers.items():
            problem.constants[name].update({key: value.cpu() for key, value in own.items()})
        return self.z.cpu()


class Best(Weights):
    """The weights with the smallest held-out loss."""

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.epoch = math.inf, 0

    def offer(self, loss: float, epoch: int, z: Tensor, problem: Any) -> None:
        """Keep these weights if their loss is smaller."""
        if loss < self.loss:
            self.loss, self.epoch = loss, epoch
            self.take(z, problem)

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return {"z": self.z, "loss": self.loss, "epoch": self.epoch, "buffers": self.buffers}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.z, self.loss, self.epoch = state["z"], state["loss"], state["epoch"]
        self.buffers = state["buffers"]
