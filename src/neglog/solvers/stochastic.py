"""Shared parts of stochastic solvers: batches, early stopping, and the certificate of the end point."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from neglog.solvers.solution import Problem, Solution, newton_direction

MAX_CERTIFIED = 200
"""With more parameters than this no Hessian is computed to certify the end point."""


class MaybeKinked(Problem, Protocol):
    """A problem with hooks for gradient steps, and the information whether its loss has corners."""

    @property
    def kinked(self) -> bool:
        """Whether the objective has corners."""

    @property
    def trained(self) -> bool:
        """Whether gradient steps descend another loss than `value_and_gradient` evaluates."""
        ...

    def batches_an_epoch(self, size: int | None) -> int:
        """The number of batches of this size in which all rows are."""
        ...

    def batches(self, size: int | None, steps: int, seed: int, done: int = 0) -> Iterator[Any]:
        """The batch of each gradient step but the first `done`; None is all rows."""
        ...

    def training(self, seed: int) -> AbstractContextManager[None]:
        """Around gradient steps: random numbers after this seed, and a network's training mode."""
        ...


class Bar(tqdm):
    """A progress bar; without tqdm's thread, which would outlive it."""

    monitor_interval = 0


def batches(rows: int, size: int | None, steps: int, seed: int, done: int = 0) -> Iterator[Tensor | None]:
    """The rows of each step but the first `done`, shuffled each epoch; None is all of them."""
    if size is None or size >= rows:
        yield from (None for _ in range(steps - done))
        return
    generator = torch.Generator().manual_seed(seed)
    step = 0
    while step < steps:
        for index in torch.randperm(rows, generator=generator).split(size)[: steps - step]:
            step += 1
            if step > done:
                yield index


def training_state(problem: Any) -> dict[str, Any]:
    """The state of training mode beside the parameters: the random number generator and the buffers."""
    if not problem.trained:
        return {}
    return {"generator": torch.default_generator.get_state(), "buffers": problem.constants}


def resume_training(problem: Any, state: Mapping[str, Any]) -> None:
    """Take up a state of `training_state`, within `problem.training`."""
    if "buffers" in state:
        for name, own in state["buffers"].items():
            problem.constants[name].update(own)
    if "generator" in state:
        torch.default_generator.set_state(state["generator"])


def is_flat(history: Sequence[float], patience: int | None, least: float) -> bool:
    """Whether the mean of the last `patience` losses is not lower by `least` than that of those before."""
    if patience is None or len(history) < 2 * patience:
        return False
    last, before = history[-patience:], history[-2 * patience : -patience]
    return sum(before) - sum(last) < least * patience


def certified(problem: MaybeKinked, z: Tensor, history: Sequence[float], certainty: float) -> Solution:
    """The solution at `z` `(K,)`, certified if an optimum is within `certainty` standard errors."""
    steps = len(history)
    if not bool(torch.isfinite(z).all()):
        status = f"the parameters are not finite after {steps} steps; lower the learning rate"
        return Solution(z, math.nan, False, status, steps, tuple(history))
    if getattr(problem, "streamed", False):
        status = f"{steps} steps on rows that are read a batch at a time, whose loss has no certificate"
        return Solution(z, math.nan, False, status, steps, tuple(history))
    value, gradient = problem.value_and_gradient(z)

    def stopped(converged: bool, status: str) -> Solution:
        return Solution(z, value, converged, status, steps, tuple(history))

    if not math.isfinite(value):
        return stopped(False, f"the loss is not finite after {steps} steps; lower the learning rate")
    if surrogate := getattr(problem, "surrogate", ""):
        return stopped(False, f"{steps} steps of {surrogate}, which is no likelihood and has no certificate")
    if problem.trained:
        size = float(gradient.abs().max()) / problem.rows
        return stopped(
            False,
            f"{steps} steps in training mode, whose loss has no certificate; gradient {size:.1e} per row in "
            "evaluation mode",
        )
    if problem.kinked:
        return stopped(
            False, f"{steps} steps; not certified, because the loss is not differentiable everywhere"
        )
    if problem.size > MAX_CERTIFIED:
        size = float(gradient.abs().max()) / problem.rows
        return stopped(
            False,
            f"{steps} steps; no certificate above {MAX_CERTIFIED} parameters; gradient {size:.1e} per row",
        )
    _, decrement, definite = newton_direction(problem.hessian(z), gradient)
    away = f"{decrement:.1e} standard errors from " + ("an optimum" if definite else "a stationary point")
    return stopped(definite and decrement <= certainty, f"{steps} steps; {away}")
