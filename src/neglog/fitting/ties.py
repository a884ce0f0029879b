"""Ties: equal responses, which a component of a mixture can follow exactly with a spread of 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.distributions.observed import latent
from neglog.errors import ConvergenceWarning, UnboundedLikelihoodError, warn
from neglog.objective.interpolation import Spread
from neglog.objective.objective import Objective
from neglog.objective.pits import falls
from neglog.solvers import Solution

MOST_OF = 0.5
"""The share of the rows of a component above which equal responses can make up most of it."""
NEARLY_ALL = 0.75
"""The share of the rows of a fitted component above which equal responses are worth a warning: responses that
are rounded have smaller ties."""


@dataclass(frozen=True)
class Tie:
    """The `rows` whose response is `value`, more than any other."""

    value: float
    rows: Tensor

    def __str__(self) -> str:
        return f"{len(self.rows)} responses are equal ({self.value:g})"


def tie_of(objective: Objective) -> Tie | None:
    """The largest tie of the response of a mixture of Normals; None where it has none."""
    y = objective.data.y
    if y.dim() != 1 or not objective.law.is_mixture:
        return None
    values, counts = y.unique(return_counts=True)
    value = values[counts.argmax()]
    return Tie(float(value), (y == value).nonzero()[:, 0]) if int(counts.max()) > 1 else None


def check_tie(objective: Objective, theta: Tensor) -> None:
    """Refuse a mixture without an optimum where most rows of a component can be equal responses.

    Raises:
        UnboundedLikelihoodError: naming the number of equal responses.
    """
    tie = tie_of(objective)
    if tie is None:
        return
    components = latent(objective.few.response(objective.initial)).means.shape[-1]
    if len(tie.rows) * components <= MOST_OF * objective.rows or not falls(objective, theta, 0, tie.rows):
        return
    raise UnboundedLikelihoodError(
        f"`{objective.name}` has no maximum: of {objective.rows} rows {tie}, and a component that follows "
        "these alone has a spread that goes to 0. Model the equal responses apart, as a class of their own, "
        f"or {Spread(objective, objective.calls[0]).advice()}."
    )


def with_tie(objective: Objective, theta: Tensor, solution: Solution) -> Solution:
    """The solution; its status names equal responses that make up most of a component, with a warning.

    Raises:
        UnboundedLikelihoodError: see `check_tie`; there is no optimum.
    """
    if not solution.converged:
        check_tie(objective, theta)
        return solution
    tie = tie_of(objective)
    if tie is None or not falls(objective, theta, 0, tie.rows):
        return solution
    response = latent(objective.response(theta))
    shares = torch.softmax(response.components(objective.data.y), dim=-1)
    held = shares[tie.rows].sum(dim=0)
    k = int(held.argmax())
    if float(held[k]) <= NEARLY_ALL * float(shares[:, k].sum()):
        return solution
    spread = float(response.sigmas.expand_as(shares)[tie.rows[0], k])
    found = (
        f"a local optimum: {tie}, most of component {k}, whose spread is {spread:.3g} here. With a spread of "
        "0 at these responses the likelihood has no maximum"
    )
    warn(f"`{objective.name}` has found {found}.", ConvergenceWarning)
    return replace(solution, status=f"{solution.status}; {found}")
