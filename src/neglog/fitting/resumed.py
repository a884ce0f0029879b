"""Fits with a checkpoint: they go on from the state of a killed process, or return a known end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from torch import Tensor

from neglog.checkpoint import CallCheckpoint, MemberCheckpoint, Part, digest, settings_of
from neglog.conversion import by_key
from neglog.data import Data
from neglog.fitting.borders import Limit
from neglog.objective.coordinates import Coordinates
from neglog.solvers import Epoch, Solution
from neglog.solvers.stochastic import resume_training

SOLUTION = tuple(each.name for each in fields(Solution))
"""The attributes of a solution."""


def resumed_solution(
    kept: CallCheckpoint | MemberCheckpoint,
    coordinates: Coordinates,
    problem: Any,
    solver: Any,
    start: Tensor,
    solve: Callable[..., Solution],
) -> Solution:
    """The solution of `solve`, which takes a checkpoint; that of the file, where it ended before.

    Raises:
        CheckpointError: the file belongs to another call.
    """
    objective = coordinates.objective
    journal = kept.journal(
        model=objective.name,
        data=data_digest(objective.data),
        parameters=", ".join(f"{name} {tuple(site.shape)}" for name, site in objective.sites.items()),
        solver=settings_of(solver),
        **{"initial values": digest([start]), "initial loss": repr(float(coordinates.value(start)))},
    )
    ended = journal.finished("solution")
    if ended is not None:
        resume_training(problem, ended)
        ended["epochs"] = tuple(Epoch(*each) for each in ended["epochs"])
        kind = Limit if ended["limit"] else Solution
        return kind(**{name: ended[name] for name in SOLUTION})
    found = journal.finished("inside")
    solution = solve(checkpoint=Part(journal, found, lambda state: {"inside": state}))
    buffers = {"buffers": problem.constants} if getattr(problem, "trained", False) else {}
    reached = {name: getattr(solution, name) for name in SOLUTION} | {"limit": isinstance(solution, Limit)}
    journal.end({"solution": reached | buffers})
    return solution


def data_digest(data: Data) -> str:
    """A digest of designs, response, weights and row-wise arguments, with the names of columns."""
    parts = [part for key, x in sorted(by_key(data.x).items()) for part in (key, x)]
    keywords = [part for name, value in sorted(data.keywords.items()) for part in (name, value)]
    return digest([*parts, data.y, data.weights, *keywords, sorted(data.columns.items())])
