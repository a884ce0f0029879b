"""A problem that is watched while a solver minimises it."""

from __future__ import annotations

from typing import Any


class Watched:
    """A problem with all of another; a subclass overrides what it counts, or where it stops the solver."""

    def __init__(self, problem: Any) -> None:
        self.problem = problem

    def __getattr__(self, name: str) -> Any:
        if name == "problem":  # not set yet, as in a copy
            raise AttributeError(name)
        return getattr(self.problem, name)
