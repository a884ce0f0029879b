"""Borders: limits of the parameters in which a likelihood is largest."""

from __future__ import annotations

from neglog.solvers import Solution


class Limit(Solution):
    """A solution at a border of the parameters that is known to be the supremum."""


def border_status(way: str, limit: str = "") -> str:
    """The status of a fit whose likelihood is largest in a limit of its parameters, such as ``sigma → 0``."""
    named = f", the limit in which {limit}" if limit else ""
    return f"the likelihood is largest at the border: it never falls as {way}{named}"
