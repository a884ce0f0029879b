"""Spurious optima: components of a mixture that fit a few rows almost exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.distributions.observed import latent
from neglog.errors import ConvergenceWarning, warn
from neglog.fitting.borders import is_border
from neglog.objective.collapsed_components import falls
from neglog.objective.objective import Objective
from neglog.objective.saturated import Spread
from neglog.solvers import Solution

MAX_SPREAD_RATIO = 0.05
"""The spread of a component, as a share of the largest one, below which its rows are counted."""


@dataclass(frozen=True)
class Spurious:
    """A component `k` of little `spread`, made of `count` rows, the sum of their probabilities."""

    k: int
    spread: float
    count: float
    coefficients: int

    def __str__(self) -> str:
        return (
            f"a spurious optimum: component {self.k} is made of {self.count:.1f} rows, has "
            f"{self.coefficients} coefficients, and a spread of {self.spread:.3g}. On as many rows as "
            "coefficients the likelihood has no maximum"
        )


def spurious_component(objective: Objective, theta: Tensor) -> Spurious | None:
    """The component of a mixture that consists of a few rows, which it fits by chance; None without one.

    The likelihood of a component on as many rows as it has coefficients is unbounded as its scale goes to 0.
    Close to that are local optima at which a few more rows lie near one line by chance, without statistical
    meaning. Components whose scales have priors that bound them away from 0 are not spurious.

    Source: McLachlan & Peel (2000), Finite Mixture Models, section 3.10.
    """
    y = objective.data.y
    if y.dim() != 1 or not objective.structure.law.is_mixture:
        return None
    response = latent(objective.response(theta))
    sigmas = response.sigmas.reshape(-1, response.sigmas.shape[-1])
    if len(sigmas) > 1 or bool((sigmas > MAX_SPREAD_RATIO * sigmas.amax()).all()):
        return None
    shares = torch.softmax(response.components(y), dim=-1).nan_to_num(0.0)
    counts = shares.sum(dim=0)
    coefficients = max(call.design.shape[1] + 1 for call in objective.calls)
    for k in (sigmas[0] <= MAX_SPREAD_RATIO * sigmas.amax()).nonzero()[:, 0].tolist():
        rows = (shares[:, k] > 0.5).nonzero()[:, 0]
        if float(counts[k]) <= 2 * (coefficients + 1) and falls(objective, theta, k, rows):
            return Spurious(k, float(sigmas[0, k]), float(counts[k]), coefficients)
    return None


def with_spurious(objective: Objective, theta: Tensor, solution: Solution) -> Solution:
    """The solution; its status names a component that consists of a few rows, with a warning.

    That of one without an optimum names why there is no highest one.
    """
    if not solution.converged:
        return _with_reason(objective, theta, solution)
    found = spurious_component(objective, theta)
    if found is None:
        return solution
    warn(f"`{objective.name}` has found {found}.", ConvergenceWarning)
    return replace(solution, status=f"{solution.status}; {found}")


def _with_reason(objective: Objective, theta: Tensor, solution: Solution) -> Solution:
    """The solution; unless its status names a border, it names that a component can follow a few rows."""
    y, call = objective.data.y, next(iter(objective.calls), None)
    if y.dim() != 1 or call is None or is_border(solution):
        return solution
    rows = torch.arange(min(call.design.shape[1] + 1, len(y)))
    if not objective.layout.is_flat:
        sigmas = latent(objective.response(theta)).sigmas
        if sigmas.numel() != sigmas.shape[-1] or not falls(objective, theta, 0, rows):
            return solution
    reason = (
        f"the likelihood has no maximum, as a component can follow {len(rows)} rows exactly, with a spread "
        "that goes to 0. Use fewer components, fewer columns or more rows, or "
        f"{Spread(objective, call).advice()}"
    )
    return replace(solution, status=f"{solution.status}; {reason}")
