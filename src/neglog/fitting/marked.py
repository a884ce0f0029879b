"""Marked rows: columns that are nonzero only in a few rows of a scale, which the location can fit exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from neglog.distributions.family import family_of
from neglog.distributions.observed import bounds_of, latent
from neglog.errors import UnboundedLikelihoodError
from neglog.fitting.isolated_rows import ROUNDED, extreme_row, isolated_rows
from neglog.fitting.log_scales import log_scale
from neglog.fitting.outweighed import (
    MIN_LEVERAGE,
    outweighing_combinations,
    outweighing_groups,
    outweighing_rows,
    row_weights,
)
from neglog.likelihood.sites import prior_advice
from neglog.objective.basis import sample_of
from neglog.objective.objective import Objective
from neglog.tracing import Affine

MOST = 10
"""The largest number of nonzero rows of a column that is examined."""
MANY_ROWS = 10_000
"""Above this number of rows it is cheaper to determine first whether a predictor is that of a scale."""
SCREENED_ROWS = 50_000
"""Rows of the sample by which larger designs are screened first."""
SHIFT = 30.0
"""The change of a predictor, a logarithm, at which a scale that it determines is close to 0."""
VANISHED = 1e-4
"""The share of a scale below which it has vanished at `SHIFT`."""
MIN_DISTANCE_SHARE = 1e-2
"""The least share of its distance from the ends of the support that a mean keeps where the scale vanishes."""


def check_marked_rows(objective: Objective) -> None:
    """Refuse a scale with a column that is nonzero only in a few rows, which the location can fit exactly.

    The scale of these rows goes to 0 while that of the others stays, and the likelihood goes to infinity.

    Raises:
        UnboundedLikelihoodError: naming the column and the rows.
    """
    if len(objective.calls) < 2 or _is_discrete(objective) or "network" in objective.facts:
        return  # the features of a network are no fixed columns
    calls = list(filter(partial(_may_be_marked, objective), _free_predictors(objective)))
    for call in calls:
        marked, combined = _columns(objective, call), _concentrated(objective, call)
        if (not marked and combined is None) or not _is_scale(objective, call):
            continue
        for column, rows in chain(marked, _combinations(objective, call, combined)):
            if _can_follow(objective, call, rows):
                raise _refusal(objective, call, column, rows)
    _check_outweighed_rows(objective, calls)


def _may_be_marked(objective: Objective, call: Affine) -> bool:
    """Whether few rows may have leverages as large as marked or outweighing rows have in sum.

    No leverage exceeds the squared norm of its row over the smallest eigenvalue of the Gram matrix, nor of
    that of fewer rows, which is smaller. Of many rows without outliers this bound is far below what a few
    rows need.
    """
    if objective.rows > MANY_ROWS and not (_is_scale(objective, call) or log_scale(objective, call)):
        return False
    if objective.data.weights is not None:
        return True
    design = call.design.detach()
    low, high = torch.aminmax(design, dim=0)
    largest = torch.cat([torch.ones(1).to(design), torch.maximum(high, -low)])
    samples = (sample_of(len(design), SCREENED_ROWS),) if len(design) > 2 * SCREENED_ROWS else ()
    return not any(
        _are_spread_out(largest, part) for part in (*(design.index_select(0, s) for s in samples), design)
    )


def _are_spread_out(largest: Tensor, design: Tensor) -> bool:
    """Whether rows with values of at most the `largest` `(P + 1,)` have small leverages beside a design."""
    gram = torch.empty((len(largest),) * 2, dtype=design.dtype)
    gram[1:, 1:], gram[0, 1:], gram[0, 0] = design.T @ design, design.sum(dim=0), len(design)
    gram[1:, 0] = gram[0, 1:]
    sizes = gram.diagonal().sqrt().clamp(min=torch.finfo(gram.dtype).tiny)  # a column may be 0
    smallest = torch.linalg.eigvalsh(gram / sizes / sizes[:, None])[0]
    return float((largest / sizes).square().sum()) < float(smallest) / (MOST * (1 + MOST))


def _free_predictors(objective: Objective) -> Iterator[Affine]:
    """The predictors of fixed columns whose coefficients have no priors."""
    for call in objective.calls:
        site = objective.sites.get(f"{call.name}.weight")
        if site is not None and site.masked and not call.design.requires_grad and call.design.shape[1]:
            yield call


def _check_outweighed_rows(objective: Objective, calls: Sequence[Affine]) -> None:
    """Refuse a log scale that can decrease in an exactly fitted row by more than it increases in all others.

    A column with one huge value is an example. The likelihood is unbounded. That of a network with a scale
    of its own always is, and its training stops early: it is not refused.

    Raises:
        UnboundedLikelihoodError: naming the row.
    """
    if not objective.structure.is_linear:
        return
    for call in calls:
        for rows in _outweighing(objective, call):
            if _can_follow(objective, call, rows):
                raise _refusal_of_outliers(objective, call, rows)


def _refusal_of_outliers(objective: Objective, call: Affine, rows: Tensor) -> UnboundedLikelihoodError:
    named, many = ", ".join(str(objective.data.row(row)) for row in rows.tolist()), len(rows) > 1
    these = ("rows", "these rows", "their") if many else ("row", "this row", "its")
    return UnboundedLikelihoodError(
        f"`{objective.name}` has no maximum: with the columns of `{call.name}` the spread of {these[0]} "
        f"{named} falls faster than those of all others rise, and the other coefficients can follow "
        f"{these[1]} exactly, so {these[2]} spread goes to 0. Leave the column with its outlier out of the "
        f"scale, transform it, or {prior_advice(objective.layout)}."
    )


def _outweighing(objective: Objective, call: Affine) -> Iterator[Tensor]:
    """Rows whose log scale can decrease by more than all others increase: one row, or a group."""
    weights = row_weights(objective.data.weights, objective.rows)
    columns, leverages = _leverages(objective, call, weights)
    most = _most(objective, call)
    # By Cauchy's inequality a group of k rows that outweighs the others has leverages of 1 / (1 + k) in sum.
    grouped = float(leverages.topk(min(most, len(leverages))).values.sum()) > 1 / (1 + most)
    lone = bool((leverages > MIN_LEVERAGE).any())
    found = log_scale(objective, call) if lone or grouped else None
    if found is not None:
        yield from outweighing_rows(columns, leverages, weights, found)
        yield from outweighing_groups(columns, weights, found, most)
        yield from outweighing_combinations(columns, weights, found, most)


def _columns(objective: Objective, call: Affine) -> list[tuple[str, Tensor]]:
    """The columns that are of one sign in a few rows and 0 in all others, and these rows."""
    few = (torch.count_nonzero(call.design, dim=0) <= MOST).nonzero()[:, 0].tolist()
    found = []
    for column in few:
        rows = call.design[:, column].nonzero()[:, 0]
        if len(call.design[rows, column].sign().unique()) == 1:
            found.append((f"the column {call.column_names(objective.data)[column]}", rows))
    return found


def _concentrated(objective: Objective, call: Affine) -> tuple[Tensor, Tensor] | None:
    """The columns and the intercept, scaled, and the leverages, where those of few rows sum to 1.

    None where they do not: then no combination is 0 in all other rows.
    """
    columns, leverages = _leverages(objective, call)
    largest = leverages.topk(min(_most(objective, call), len(columns))).values
    return (columns, leverages) if float(largest.sum()) >= 1 - ROUNDED else None


def _leverages(objective: Objective, call: Affine, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The columns and the intercept without priors, scaled `(N, P)`, and leverages `(N,)`, weighted."""
    bias = objective.sites.get(f"{call.name}.bias")
    ones = [torch.ones_like(call.design[:, :1])] if bias is not None and bias.masked else []
    columns = torch.cat([call.design, *ones], 1).detach()
    columns = columns / columns.norm(dim=0).clamp_min(1e-300)
    weighted = columns if weights is None else columns * weights[:, None]
    values, vectors = torch.linalg.eigh(weighted.T @ weighted)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    return columns, (weighted @ (vectors[:, kept] / values[kept].sqrt())).square().sum(1)


def _most(objective: Objective, call: Affine) -> int:
    """The largest number of rows that another predictor may be able to fit exactly, within a limit."""
    widths = [other.design.shape[1] + 1 for other in objective.calls if other.name != call.name]
    return min(MOST, max(widths))


def _combinations(
    objective: Objective, call: Affine, combined: tuple[Tensor, Tensor] | None
) -> Iterator[tuple[str, Tensor]]:
    """The few rows outside of which a combination of columns is 0, such as those of a reference level."""
    for rows in () if combined is None else isolated_rows(*combined, _most(objective, call)):
        yield "a combination of columns", rows


def _is_discrete(objective: Objective) -> bool:
    return not objective.structure.may_collapse and objective.data.y.dim() == 1


def _is_scale(objective: Objective, call: Affine) -> bool:
    """Whether a predictor makes the scale vanish while the mean stays away from the ends of the support."""
    site = objective.sites.get(f"{call.name}.bias")
    if site is None:
        return False
    for shift in (-SHIFT, SHIFT):
        theta = objective.initial.clone()
        theta[site.place] = shift
        try:
            spread, room = _spread(objective, objective.initial)
            less, left = _spread(objective, theta)
        except (ValueError, NotImplementedError, AttributeError):
            continue  # torch refuses a parameter that is 0 or infinite there, or there is no variance
        stays = (left >= MIN_DISTANCE_SHARE * room) & (MIN_DISTANCE_SHARE * left <= room)
        if bool((less <= VANISHED * spread).all()) and bool(stays.all()):
            return True
    return False


def _spread(objective: Objective, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The standard deviation of each row, and the distance of its mean from the ends of the support."""
    response = latent(objective.few.response(theta))
    mean, support = response.mean, response.support
    low, high = getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)
    room = torch.minimum(mean - low, high - mean)
    return response.variance.sqrt(), torch.where(torch.isfinite(room), room, 1.0)


def _can_follow(objective: Objective, scale: Affine, rows: Tensor) -> bool:
    """Whether these rows are observed, not censored, and another predictor can take any values in them."""
    return _are_observed(objective, rows) and _can_take_any_values(objective, scale, rows)


def _can_take_any_values(objective: Objective, scale: Affine, rows: Tensor) -> bool:
    """Whether a predictor other than that of the scale can take any values in these rows."""
    for call in objective.calls:
        bias = f"{call.name}.bias" in objective.sites
        weight = f"{call.name}.weight" in objective.sites
        if call.name == scale.name or not (bias or weight) or _is_scale(objective, call):
            continue
        columns = [call.design[rows]] if weight else []
        columns += [torch.ones((len(rows), 1)).to(call.design)] if bias else []
        design = torch.cat(columns, 1)
        if design.shape[1] and int(torch.linalg.matrix_rank(design)) == len(rows):
            return True
    return False


def _are_observed(objective: Objective, rows: Tensor) -> bool:
    """Whether none of these rows is known only to be beyond a bound."""
    if not objective.structure.law.censors:
        return True
    bounds = bounds_of(objective.response(objective.initial))
    return bounds is not None and bool(bounds.shows(objective.data.y)[rows].all())


def _refusal(objective: Objective, call: Affine, column: str, rows: Tensor) -> UnboundedLikelihoodError:
    named = ", ".join(str(objective.data.row(row)) for row in rows.tolist())
    plural = "s" * (len(rows) > 1)
    return UnboundedLikelihoodError(
        f"`{objective.name}` has no maximum: `{call.name}` has {column} "
        f"for row{plural} {named} alone, which the other coefficients "
        "can follow exactly, so their spread goes to 0. Leave the column out of the scale, give it more "
        f"rows, or {prior_advice(objective.layout)}."
    )


def vanishing_spread(objective: Objective) -> tuple[str, int] | None:
    """A log scale, and a row of it whose spread can go to 0 while those of all others grow without end.

    Between two bounds a density of infinite spread is uniform: the likelihood of the other rows has a limit,
    and that of the one row rises without end. None where a row lacks a bound, or there is no such scale.
    """
    if not (objective.structure.law.truncates and _is_normal(objective) and len(objective.calls) > 1):
        return None
    response = objective.response(objective.initial)
    if not bool(torch.isfinite(response.upper - response.lower).all()):
        return None
    for call in _free_predictors(objective):
        if f"{call.name}.bias" in objective.sites and log_scale(objective, call):
            ones = torch.ones_like(call.design[:, :1])
            row = extreme_row(torch.linalg.qr(torch.cat([ones, call.design.detach()], 1))[0])
            if row is not None and _can_follow(objective, call, torch.tensor([row])):
                return call.name, row
    return None


def check_vanishing_spread(objective: Objective) -> None:
    """Refuse rows between two bounds whose spread has columns, as `vanishing_spread` finds.

    Raises:
        UnboundedLikelihoodError: naming a row.
    """
    found = vanishing_spread(objective)
    if found is not None:
        raise UnboundedLikelihoodError(
            f"`{objective.name}` has no maximum: with the columns of `{found[0]}` the spread of row "
            f"{objective.data.row(found[1])} can go to 0 while those of all others grow, and between two "
            f"bounds a density of infinite spread is uniform. No local maximum was found, either. Leave the "
            f"columns out of the scale, or {prior_advice(objective.layout)}."
        )


def _is_normal(objective: Objective) -> bool:
    """Whether a response, or its logarithm, is Normal."""
    base = family_of(latent(objective.response(objective.initial)))
    return base.is_square or base.is_square_of_logarithm
