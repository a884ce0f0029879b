"""Solvers one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from neglog.calls import public
from neglog.checkpoint import UNKEPT, Part
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Problem, Solution

CHAIN_STATE = ("solver", "z", "steps", "history", "inner")
"""The state of a chain: the place of its solver, where that started, the work before, and its own state."""


def _with_inner(outer: dict[str, Any], inner: Any) -> dict[str, Any]:
    return outer | {"inner": inner}


def minimised(solver: Any, problem: Any, start: Tensor, progress: bool, checkpoint: Any) -> Solution:
    """The solution of a solver, with a checkpoint where it keeps its state; others begin anew."""
    more = {"checkpoint": checkpoint} if is_resumable(solver) else {}
    found: Solution = solver.minimise(problem, start, progress, **more)
    return found


def is_resumable(solver: Any) -> bool:
    """Whether a solver takes a checkpoint."""
    return bool(getattr(solver, "resumable", False))


@public
@dataclass(frozen=True)
class Chain(Settings):
    """Each solver starts where the one before it stopped, until one of them has converged.

    ``Chain((LBFGS(max_steps=300), Newton()))`` gets near cheaply and finishes exactly.
    """

    solvers: tuple[Any, ...]

    resumable: ClassVar[bool] = True

    def minimise(
        self, problem: Problem, start: Tensor, progress: bool = False, checkpoint: Any = UNKEPT
    ) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`; steps and history are those of all solvers."""
        found = Solution(start, math.inf, False, "no solver was run", 0)
        steps, history, first, inner = 0, found.losses, 0, None
        if checkpoint.found is not None:
            first, z, steps, history, inner = (checkpoint.found[key] for key in CHAIN_STATE)
            found = replace(found, z=z)
        for place, solver in enumerate(self.solvers[first:], first):
            outer = dict(zip(CHAIN_STATE, (place, found.z, steps, history), strict=False))
            part = Part(checkpoint, inner if place == first else None, partial(_with_inner, outer))
            found = minimised(solver, problem, found.z, progress, part)
            steps, history = steps + found.steps, history + found.losses
            if found.converged:
                break
        return replace(found, steps=steps, losses=history)
