"""Existence of the maximum likelihood estimates of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from neglog.batches.layout import Layout
from neglog.batches.stack import Stack
from neglog.batches.whitening import Whitened
from neglog.errors import UnboundedLikelihoodError
from neglog.fitting.flat_directions import MAX_FALL, Neighbourhoods, nearer
from neglog.fitting.marked import check_marked_rows
from neglog.fitting.separation import is_separated
from neglog.objective.objective import Objective
from neglog.solvers.batched_newton import Solutions
from neglog.solvers.solution import is_curved


def runs_away(white: Whitened, found: Solutions) -> Tensor:
    """Whether the likelihood never decreases along a direction that is flat at `found`, `(S,)`.

    Directions and distances are those of `neglog.fitting.existence.recession` for one data set.
    """
    problems = white.likelihoods
    away = torch.zeros(len(found.z), dtype=torch.bool)
    average = (found.hessian / problems.rows[:, None, None]).nan_to_num(1.0)
    flat = (~is_curved(average)).nonzero()[:, 0]
    if len(flat):
        away[flat] = _of_flat(white, flat, found.z[flat], average[flat])
    return away


def have_marked_rows(layout: Layout, stack: Stack, looked_at: Tensor) -> Tensor:
    """Which of the data sets `looked_at` `(S,)` have a few rows with a scale of their own, `(S,)`.

    Shared designs without rows of weight 0 are checked before the fit, and are left out here.
    """
    found = torch.zeros(stack.count, dtype=torch.bool)
    if len(layout.calls) < 2 or not layout.objective.structure.may_collapse:
        return found
    if stack.shared_designs and stack.counted is None:
        return found
    for s in looked_at.nonzero()[:, 0].tolist():
        try:
            check_marked_rows(Objective(layout.objective.model, stack.counting(s)))
        except UnboundedLikelihoodError:
            found[s] = True
    return found


def have_separated_classes(layout: Layout, stack: Stack, looked_at: Tensor) -> Tensor:
    """Which of the data sets `looked_at` `(S,)` have separated ordered classes, `(S,)`.

    Under separation the log-distance of two cutpoints and the coefficients diverge together along a curve,
    which `runs_away`, a search along lines, does not see.
    """
    found = torch.zeros_like(looked_at)
    in_order = layout.objective.structure.law.classes == "cutpoints"
    for s in looked_at.nonzero()[:, 0].tolist() if in_order else ():
        found[s] = is_separated(Objective(layout.objective.model, stack.counting(s)))
    return found


def _of_flat(white: Whitened, index: Tensor, z: Tensor, average: Tensor) -> Tensor:
    """`runs_away` for the data sets `index`, whose Hessians divided by the number of rows are `average`."""
    problems = white.likelihoods.take(index)
    first = problems.values(z)
    z, values, moved = nearer(problems, z, first)
    if bool(moved.any()):
        others = problems.take(moved.nonzero()[:, 0])
        hessian = others.derivatives(z[moved])[2]
        average = average.clone()
        average[moved] = (hessian / others.rows[:, None, None]).nan_to_num(1.0)
    ends = Neighbourhoods(problems, z, values, average, not problems.response_is_discrete)
    places = torch.cat([torch.arange(0), *(predictor.places for predictor in problems.predictors)])
    away = torch.zeros(len(z), dtype=torch.bool)
    for way in ends.ways(_intercepts(white, index), places):
        for sign in (1.0, -1.0):
            left = (~away & (way != 0).any(-1)).nonzero()[:, 0]
            away[ends.along(sign * way, left)] = True
    return away & ~(values < first - MAX_FALL)  # others were stopped on a slope, far above the infimum


def _intercepts(white: Whitened, index: Tensor) -> list[Tensor]:
    """The directions `(S, K)` of the intercepts alone."""
    found = []
    for predictor, triangle in zip(white.likelihoods.predictors, white.triangles, strict=True):
        ones = predictor.design.values[..., :1]
        if ones.shape[-1] and bool((ones == ones[..., :1, :]).all()):
            column = triangle[..., 0].expand(len(white.likelihoods.rows), -1)[index]
            way = column.new_zeros((len(index), white.likelihoods.size))
            way[:, predictor.places] = column / column.norm(dim=-1, keepdim=True)
            found.append(way)
    return found
