"""Solvers one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from neglog.calls import public
from neglog.solvers.settings import Settings
from neglog.solvers.solution import Problem, Solution


@public
@dataclass(frozen=True)
class Chain(Settings):
    """Each solver starts where the one before it stopped, until one of them has converged.

    ``Chain((LBFGS(max_steps=300), Newton()))`` gets near cheaply and finishes exactly.
    """

    solvers: tuple[Any, ...]

    def minimise(self, problem: Problem, start: Tensor, progress: bool = False) -> Solution:
        """The minimum of `problem`, from `start` `(K,)`; steps and history are those of all solvers."""
        found = Solution(start, math.inf, False, "no solver was run", 0)
        steps, history = 0, found.history
        for solver in self.solvers:
            found = solver.minimise(problem, found.z, progress)
            steps, history = steps + found.steps, history + found.history
            if found.converged:
                break
        return replace(found, steps=steps, history=history)
