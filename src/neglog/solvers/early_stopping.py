"""Descents of a smooth loss that end by the score of held-out rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from neglog.solvers.solution import Solution
from neglog.solvers.training import Best

SCORED_STEPS = 5
"""Number of steps between two scores of the held-out rows."""
PATIENT_STEPS = 500
"""Steps without a lower held-out loss after which a descent ends."""
CHECKED_STEPS = 20
"""Number of steps between two checks of a descent without held-out rows for a loss without a minimum."""


class EarlyStopping:
    """What is done between the steps of a descent: held-out rows are scored, or the loss is checked."""

    def __init__(self, settings: Any, problem: Any, start: Tensor) -> None:
        self.validates = settings.validation is not None
        self.patience = settings.patience or PATIENT_STEPS
        self.problem, self.best, self.last = problem, Best(), (0, 0.0)
        if self.validates:
            self._score(0, start)

    def _score(self, step: int, z: Tensor) -> None:
        self.last = step, float(self.problem.held_out_loss(z))
        self.best.offer(self.last[1], step, z, self.problem)

    def is_over(self, step: int, z: Tensor) -> bool:
        """Whether the held-out loss has not been lower for long.

        Raises:
            UnboundedLikelihoodError: there are no held-out rows, and the loss has no minimum.
        """
        if not self.validates:
            if step % CHECKED_STEPS == CHECKED_STEPS - 1:
                self.check(z)
            return False
        if step % SCORED_STEPS == 0:
            self._score(step, z)
        return step - self.best.epoch >= self.patience

    def check(self, z: Tensor) -> None:
        """Refuse a loss without a minimum; with held-out rows the descent has an end all the same.

        Raises:
            UnboundedLikelihoodError: there are no held-out rows, and the loss has no minimum.
        """
        if not self.validates:
            self.problem.check(z)

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return {"best": self.best.state()} if self.validates else {}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        if self.validates:
            self.best.resume(state["best"])

    def ended(self, found: Solution) -> Solution:
        """The solution at the point with the smallest held-out loss; without such rows, the last point."""
        if not self.validates:
            return found
        if self.last[0] != found.steps:
            self._score(found.steps, found.z)
        best, (step, loss) = self.best, self.last
        if not math.isfinite(best.loss):
            return replace(found, converged=False, status="the loss of the held-out rows is not finite")
        z = best.restored(self.problem)
        status = f"the held-out loss was smallest at step {best.epoch}, {best.loss:.6g} nats a row"
        own = {"z": z, "value": self.problem.value(z), "held_out": best.loss, "converged": False}
        if best.epoch == step and not found.converged:
            status = f"{status}, the last one, and still decreasing: give more steps"
            return replace(found, status=status, **own)
        if best.epoch < step:
            status = f"{status}, {loss - best.loss:.3g} below that of step {step}, the last one"
        return replace(found, status=status, validated=True, **own)
