"""Ties: equal responses, which a component of a mixture can fit exactly with a scale of 0."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.distributions.observed import latent
from neglog.errors import ConvergenceWarning, UnboundedLikelihoodError, warn
from neglog.objective.collapsed_components import falls, is_component_held
from neglog.objective.objective import Objective
from neglog.objective.saturated import Spread
from neglog.objective.spread import ONE_OF_MODES, end_of_collapse
from neglog.solvers import Solution
from neglog.tracing import Affine

MOST_OF = 0.5
"""The share of the rows of a component from which on equal responses can be most of it."""
NEARLY_ALL = 0.75
"""The share of the rows of a fitted component above which equal responses are worth a warning: responses that
are rounded have smaller ties."""
MIN_TIED_SHARE = 0.25
"""The share of equal responses above which heavy tails are examined; rounded responses have less."""


PLANES, PLANE_ROWS = 2000, 2000
"""The number of planes that are tried, and the largest number of rows that decide between them."""
ROUGH_PLANE, EXACT_PLANE = 1e-9, 1e-13
"""Residuals of rows on a plane, as a share of their terms: of one through few rows, and of the fitted one."""


@dataclass(frozen=True)
class Tie:
    """The `rows` whose response is `value`, more than any other."""

    value: float
    rows: Tensor

    def __str__(self) -> str:
        return f"{len(self.rows)} responses are equal ({self.value:g})"


@dataclass(frozen=True)
class Plane:
    """The `rows` that one combination of the columns follows exactly, and the labels of some of them."""

    rows: Tensor
    labels: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.labels)
        return f"{len(self.rows)} are on one line or plane in the columns (rows {shown}, ...)"


def tie_of(objective: Objective) -> Tie | None:
    """The largest tie of the response of a mixture of Normals; None where it has none."""
    y = objective.data.y
    return _largest(y) if y.dim() == 1 and objective.structure.law.is_mixture else None


def _largest(y: Tensor) -> Tie | None:
    """The largest tie of a response; None where all values differ."""
    values, counts = y.unique(return_counts=True)
    value = values[counts.argmax()]
    return Tie(float(value), (y == value).nonzero()[:, 0]) if int(counts.max()) > 1 else None


def with_heavy_tie(objective: Objective, solution: Solution) -> Solution:
    """The end of a fit of Student's t whose location could fit more rows exactly than it does by chance.

    Of N rows k are fitted exactly: as the scale goes to 0 the log-likelihood of each of these increases by
    minus its logarithm, and that of the others decreases by `df` times that. With `df` below k / (N - k) it
    is unbounded. Rows on one plane may be there because responses are rounded: the status names them.

    Raises:
        UnboundedLikelihoodError: naming the number of equal responses.

    Source: Fernandez & Steel (1999), Multivariate Student-t regression models: pitfalls and inference.
    """
    y, call = objective.data.y, next(iter(objective.calls), None)
    if call is None or y.dim() != 1 or not objective.structure.response.has_free_tails:
        return solution
    tie, spread = _exact_rows(objective, call), Spread(objective, call)
    if tie is None or (not objective.layout.is_flat and spread.is_held):
        return solution
    largest = len(tie.rows) / max(objective.rows - len(tie.rows), 1)
    fact = (
        f"of {objective.rows} rows {tie}, and a location that follows these alone has a scale that goes to 0,"
        f" with `df` below {largest:.3g}"
    )
    if isinstance(tie, Plane):
        return replace(solution, status=f"{solution.status}; {fact}: the likelihood has no upper bound there")
    raise UnboundedLikelihoodError(
        f"`{objective.name}` has no maximum: {fact}. Model these rows apart, or {spread.advice()}."
    )


def _exact_rows(objective: Objective, call: Affine) -> Tie | Plane | None:
    """The equal responses, or the rows on one plane, that a location can follow, if they are many."""
    tie = _largest(objective.data.y)
    if tie is not None and _is_large(objective, call, tie) and _is_level(objective, call, tie):
        return tie
    plane = _plane(objective, call)
    return plane if plane is not None and _is_large(objective, call, plane) else None


def _plane(objective: Objective, call: Affine) -> Plane | None:
    """The rows of the largest plane that goes through `MIN_TIED_SHARE` of the rows; None if none is found.

    Each of many planes through as few rows as determine it is compared with the others.

    Source: Fischler & Bolles (1981), Random sample consensus.
    """
    y, columns = objective.data.y, call.design.detach()
    if columns.dim() != 2 or call.weight.dim() != 1:
        return None
    if f"{call.name}.bias" in objective.sites:
        columns = torch.cat([torch.ones_like(y)[:, None], columns], dim=1)
    count, size = columns.shape
    few = torch.linspace(0, count - 1, min(count, PLANE_ROWS)).long()
    drawn = torch.randint(len(few), (PLANES, size), generator=torch.Generator().manual_seed(0))
    subsets = few[drawn]
    found, failed = torch.linalg.solve_ex(columns[subsets], y[subsets][..., None])
    planes = found[..., 0][(failed == 0) & torch.isfinite(found).all((1, 2))]
    if not len(planes):
        return None
    counts = _followed(y[few], columns[few], planes, ROUGH_PLANE).sum(1)
    best = planes[counts.argmax()][None]
    rows = _followed(y, columns, best, ROUGH_PLANE)[0]
    best = torch.linalg.lstsq(columns[rows], y[rows][:, None], driver="gelsd").solution.T
    rows = _followed(y, columns, best, EXACT_PLANE)[0].nonzero()[:, 0]
    return Plane(rows, tuple(str(objective.data.row(row)) for row in rows[:3].tolist()))


def _followed(y: Tensor, columns: Tensor, planes: Tensor, share: float) -> Tensor:
    """Whether planes `(M, P)` follow rows, `(M, N)`, to a share of the terms of their residuals."""
    terms = planes.abs() @ columns.abs().T + y.abs()
    return (planes @ columns.T - y).abs() <= share * terms


def _is_large(objective: Objective, call: Affine, tie: Tie | Plane) -> bool:
    """Whether a tie has more rows than a line fits by chance, and than ties of rounded responses."""
    return len(tie.rows) > max(MIN_TIED_SHARE * objective.rows, call.design.shape[-1] + 1)


def _is_level(objective: Objective, call: Affine, tie: Tie) -> bool:
    """Whether the location can be the value of a tie in all rows."""
    return tie.value == 0 or f"{call.name}.bias" in objective.sites


def check_tie(objective: Objective, theta: Tensor) -> None:
    """Refuse a mixture without an optimum if most rows of a component can be equal responses.

    Raises:
        UnboundedLikelihoodError: naming the number of equal responses.
    """
    tie = tie_of(objective)
    if tie is None:
        return
    if len(tie.rows) * objective.structure.components <= MOST_OF * objective.rows or not falls(
        objective, theta, 0, tie.rows
    ):
        return
    is_held = is_component_held(objective, theta, 0, tie.rows)
    raise UnboundedLikelihoodError(
        f"`{objective.name}`: of {objective.rows} rows {tie}. If a component follows these alone, its "
        f"{end_of_collapse(is_held, ONE_OF_MODES)}. Model the equal responses apart, as a class of their "
        f"own, or {Spread(objective, objective.calls[0]).advice()}."
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
