"""Borders: limits of the parameters in which a likelihood is largest."""

from __future__ import annotations

from neglog.solvers import Solution


class Limit(Solution):
    """A solution at a border of the parameters that is known to be the supremum."""


BORDER = "the likelihood is largest at the border"
"""The beginning of the status of a fit whose likelihood is largest in a limit of its parameters."""


def is_border(solution: Solution) -> bool:
    """Whether the status of a solution is that of a border."""
    return solution.status.startswith(BORDER)


def border_status(way: str, limit: str = "") -> str:
    """The status of a fit whose likelihood is largest in a limit of its parameters, such as ``sigma → 0``."""
    named = f", the limit in which {limit}" if limit else ""
    return f"{BORDER}: it never falls as {way}{named}"
