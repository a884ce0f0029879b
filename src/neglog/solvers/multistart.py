"""From several points, for functions of many optima."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neglog.errors import UnboundedLikelihoodError
from neglog.solvers.solution import Problem, Solution

FEW = 20_000
"""Of more rows than this a sample says which start is the best."""
SAME = 1e-6
"""Losses that differ by less, in nats and relative to a thousandth of the loss, are of one optimum."""


@dataclass(frozen=True)
class MultiStart:
    """The best of what a solver finds from the point that it is given and from `starts`.

    An optimum that was certified counts before one that was not, and then the lower loss; of equal ones the
    first start's. `status` says how many starts led there and where the others ended. Where the rows are very
    many, all starts are tried on a sample of them, and only the best of them on all.

    Args:
        solver: one that minimises from one point, such as `Newton()`.
        starts: other points `(M, K)`, in the coordinates of the problem.
    """

    solver: Any
    starts: Tensor

    def minimise(self, problem: Problem, start: Tensor, progress: bool = False) -> Solution:
        """The best minimum of `problem`, from `start` `(K,)` and the others.

        Raises:
            UnboundedLikelihoodError: the function falls without end from more than half of the starts; an
                optimum beside so wide a chasm says little.
        """
        few = problem
        while few.rows > FEW and (sample := few.sample()) is not None:
            few = sample
        ends = self._ends(few, torch.cat([start[None], self.starts]), progress)
        best = min(
            (end for end in ends if end is not None),
            key=lambda end: (not end.converged, round(end.value, 9)),
        )
        told = _told(ends, best, "" if few is problem else f" on {few.rows} rows")
        if few is not problem:
            best = self.solver.minimise(problem, best.z, progress)
        return replace(best, status=f"{best.status}; {told}")

    def _ends(self, problem: Problem, starts: Tensor, progress: bool) -> list[Solution | None]:
        ends: list[Solution | None] = []
        refusal: UnboundedLikelihoodError | None = None
        for start in starts:
            try:
                ends.append(self.solver.minimise(problem, start, progress))
            except UnboundedLikelihoodError as error:
                ends.append(None)
                refusal = refusal or error
        if refusal is not None and ends.count(None) > len(ends) / 2:
            raise refusal
        return ends


def _told(ends: list[Solution | None], best: Solution, where: str) -> str:
    """`best of 4 starts: 3 led here, 1 to a worse optimum (nll 12.3)`."""
    close = SAME * max(1.0, 1e-3 * abs(best.value))
    found = [end for end in ends if end is not None]
    here = [end for end in found if abs(end.value - best.value) <= close]
    worse = [end.value for end in found if end.converged and end.value > best.value + close]
    parts = [f"{len(here)} led here"]
    if worse:
        parts.append(f"{len(worse)} to a worse optimum (nll {', '.join(f'{v:.6g}' for v in sorted(worse))})")
    if (none := len(ends) - len(here) - len(worse)) > 0:
        parts.append(f"{none} to none")
    return f"best of {len(ends)} starts{where}: {', '.join(parts)}"
