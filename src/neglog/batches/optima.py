"""The optima of many data sets: by Newton's method, least squares or quantile regression, each certified."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from neglog.batches.existence import have_separated_classes, runs_away
from neglog.batches.graph_gradients import replayed
from neglog.batches.layout import (
    Kink,
    Layout,
    Square,
    in_theta,
    likelihoods_of,
)
from neglog.batches.likelihoods import Columns, Likelihoods
from neglog.batches.normal_equations import normal_equations
from neglog.batches.stack import Stack
from neglog.batches.whitening import whitened
from neglog.errors import NeglogError
from neglog.fitting.separation import SLOW_STEPS
from neglog.fitting.start import NULL_STEPS, NULL_TOLERANCE, free_constants, starting_point
from neglog.likelihood.sites import places_of
from neglog.objective.blocks import noise_unit
from neglog.objective.coordinates import rescaled
from neglog.objective.corners import Cornered
from neglog.objective.objective import Objective
from neglog.solvers import Continuation, InteriorPoint
from neglog.solvers.batched_newton import Solutions, chords, newton_together
from neglog.solvers.interior import quantile_regressions
from neglog.solvers.interior_point import central_beside
from neglog.solvers.lines import Lines as PinballLines
from neglog.solvers.preprocessing import Optimum

Optima = tuple[Tensor, Tensor, Tensor, Tensor]
"""Estimates theta `(S, K)`, negative log-likelihoods, certification and numbers of iterations `(S,)`."""


def optima(
    layout: Layout, shape: Kink | Square | None, likelihoods: Likelihoods, start: Tensor | None, valued: bool
) -> Optima:
    """The optima of all data sets, of a density of some shape, from `start` `(K,)` or their null models.

    With `valued=False` the log-likelihoods may be left out (0).
    """
    if isinstance(shape, Kink):
        return _kinked(layout, shape, likelihoods)
    if isinstance(shape, Square):
        return _least_squares(layout, shape, likelihoods)
    if start is None and likelihoods.weights_alone:
        start = _pooled(layout, likelihoods)
    if start is None:
        return _smooth(layout, likelihoods, _null(layout, likelihoods))
    together = likelihoods.weights_alone
    return _smooth(layout, likelihoods, start.expand(likelihoods.stack.count, -1), together, valued)


def _pooled(layout: Layout, likelihoods: Likelihoods) -> Tensor | None:
    """The optimum `(K,)` for the mean of all weights, a common initial value; None if it is not certified."""
    stack = likelihoods.stack
    assert stack.weights is not None
    mean = replace(stack, count=1, weights=stack.weights.mean(0, keepdim=True))
    one = in_theta(layout, mean)
    theta, _, converged, _ = _smooth(layout, one, _null(layout, one))
    return theta[0] if bool(converged) else None


def _smooth(
    layout: Layout, likelihoods: Likelihoods, start: Tensor, together: bool = False, valued: bool = True
) -> Optima:
    """Newton's method from theta `(S, K)`; `together` if all share a start and its expansion."""
    near = likelihoods.part(slice(0, 1)) if together else likelihoods
    units = {name: unit.expand(len(start)) for name, unit in _noise(near, start[: near.stack.count]).items()}
    white = whitened(likelihoods, units)
    problems = white.likelihoods
    z = white.z(start)
    found = _expanded(layout, problems, z, valued) if together else newton_together(problems, z)
    theta = white.theta(found.z)
    finite = torch.isfinite(theta).all(-1) & torch.isfinite(found.value) & white.sound
    for value in likelihoods.params(theta).values():
        finite &= torch.isfinite(value).flatten(1).all(-1)
    optimum = found.converged & problems.bounded(found.z) & ~runs_away(white, found)
    slow = optimum & (found.steps >= SLOW_STEPS)
    optimum &= ~have_separated_classes(layout, likelihoods.stack, slow)
    theta, nll = torch.where(finite[:, None], theta, start), found.value.clone()
    index = (~finite).nonzero()[:, 0]
    if len(index):
        nll[index] = likelihoods.take(index).values(theta[index])
    return theta, nll, finite & optimum, found.steps


def _expanded(layout: Layout, problems: Likelihoods, z: Tensor, valued: bool) -> Solutions:
    """The minima from one common point `z[0]`, by its Taylor expansion; values are 0 unless `valued`."""
    opening = problems.expansion(z[0])
    if not opening.sound:
        return newton_together(problems, z)
    rows = replayed(layout.objective, problems)
    if rows is None:
        return newton_together(problems, z, opening=opening)
    step, hessian = opening.ahead(problems.rows)

    def gradients(at: Tensor, index: Tensor) -> Tensor:
        return rows.gradients(problems.take(index), at)

    near, converged, steps = chords(gradients, z + step, hessian, problems.rows)
    values = problems.values(near) if valued else torch.zeros_like(near[:, 0])
    found = Solutions(near, values, converged, steps, hessian)
    rest = (~converged).nonzero()[:, 0]
    if len(rest):
        others = newton_together(problems.take(rest), z[rest], opening=opening.take(rest))
        for name in vars(found):
            getattr(found, name)[rest] = getattr(others, name)
    return found


def _null(layout: Layout, likelihoods: Likelihoods) -> Tensor:
    """The null models `(S, K)`, the default initial values, by the rules of `neglog.fitting.start`."""
    chunk, free = likelihoods.stack, free_constants(layout.objective)
    theta, places = layout.initial(chunk.count), places_of(free)
    still, position = theta.index_fill(1, places, 0.0), torch.full((theta.shape[1],), -1)
    position[places] = torch.arange(len(places))
    predictors = []
    for predictor in likelihoods.predictors:
        own = position[predictor.places]
        own = own[own >= 0]  # the bias comes first
        columns = Columns(predictor.design.values[..., : len(own)])
        predictors.append(replace(predictor, places=own, design=columns, offset=predictor.eta(still)))
    own_places = {site.name: position[places_of([site])] for site in free}
    null = likelihoods_of(layout, chunk, predictors, own_places, len(places))
    tolerance = NULL_TOLERANCE * chunk.rows**0.5
    theta[:, places] = newton_together(null, theta[:, places], tolerance=tolerance, max_steps=NULL_STEPS).z
    return theta


def _noise(likelihoods: Likelihoods, theta: Tensor) -> dict[str, Tensor]:
    """The scale `(S,)` of each predictor in whitened coordinates, as in `neglog.objective.blocks`."""
    etas = likelihoods.etas(theta)
    most = 1 + torch.stack(
        [v.abs().amax(-1).expand(len(theta)) for v in (likelihoods.stack.y, *etas.values())]
    )
    sizes = {k: v.square().sum(-1) / likelihoods.rows for k, v in likelihoods.scores(theta).items()}
    return {name: noise_unit(size, most.amax(0)) for name, size in sizes.items()}


def _least_squares(layout: Layout, square: Square, likelihoods: Likelihoods) -> Optima:
    """The normal equations, then the scale: d/dscale = 0 gives scale² = RSS / n.

    Data sets with ill-conditioned equations or a scale of 0 are passed on to Newton's method.
    """
    chunk = likelihoods.stack
    white = whitened(likelihoods, {likelihoods.predictors[0].name: likelihoods.predictors[0].unit})
    lines = normal_equations(white.likelihoods)
    z, rss, left, sound = lines.z, lines.rss, lines.left, lines.sound
    theta = layout.initial(chunk.count)
    theta[:, likelihoods.predictors[0].places] = z
    theta = white.theta(theta)
    mass = likelihoods.mass
    sound &= white.sound
    if square.scale is None:
        variance = likelihoods.response(theta[:1]).variance.reshape(-1)[0].expand_as(rss)
    else:
        variance = rss / mass
        least = 500 * torch.finfo(rss.dtype).eps * chunk.y.abs().amax(-1)
        sound &= variance.sqrt() > least
        site = layout.objective.sites[square.scale]
        theta[:, site.offset] = site.transform.inv(torch.where(sound, variance, 1.0).sqrt())
    nll = 0.5 * (mass * torch.log(2 * torch.pi * variance) + rss / variance)
    converged, steps = sound & (left <= 1e-8 * variance.sqrt()), torch.ones(chunk.count, dtype=torch.long)
    rest = (~converged).nonzero()[:, 0]
    if len(rest):
        some = likelihoods.take(rest)
        theta[rest], nll[rest], converged[rest], steps[rest] = _smooth(layout, some, _null(layout, some))
    return theta, nll, converged, steps


def _kinked(layout: Layout, kink: Kink, likelihoods: Likelihoods) -> Optima:
    """Quantile regression, then the scale: d/dscale of n log(scale) + loss / scale = 0 gives loss / n."""
    chunk, predictor = likelihoods.stack, likelihoods.predictors[0]
    white = whitened(likelihoods, {predictor.name: predictor.unit})
    shape = (chunk.count, chunk.rows)
    y = (chunk.y - predictor.offset).expand(shape)
    weights = torch.ones(()) if chunk.weights is None else chunk.weights
    weights = weights.to(y).expand(shape)
    design = white.likelihoods.predictors[0].design.values
    lines = quantile_regressions(design, y, kink.tau, weights)
    for s in (white.sound & ~lines.unique).nonzero()[:, 0].tolist():
        own = design if design.dim() == 2 else design[s]
        found = _central(own, y[s], kink.tau, weights[s], lines.basis[s])
        if found is not None:
            lines.coefficients[s], lines.certified[s] = torch.from_numpy(found.z), True
    z = layout.initial(chunk.count)
    z[:, predictor.places] = torch.where(white.sound[:, None], lines.coefficients, 0.0)
    theta = white.theta(z)
    converged, exact = lines.certified & white.sound, torch.zeros_like(white.sound)
    if kink.scale is not None:
        residuals = y - predictor.eta(theta)
        loss = kink.steepness * residuals.abs() + kink.tilt * residuals
        scale = (weights * loss).sum(-1) / weights.sum(-1)
        least = 500 * torch.finfo(y.dtype).eps * chunk.y.abs().amax(-1)
        site = layout.objective.sites[kink.scale]
        floored = scale.maximum(least.clamp_min(torch.finfo(y.dtype).tiny))
        theta[:, site.offset] = site.transform.inv(floored)
        exact = ~(scale > least)  # an exact fit: the likelihood is unbounded
        converged &= ~exact
    for s in (white.sound & ~lines.certified & ~exact).nonzero()[:, 0].tolist():
        theta[s], converged[s] = _alone(layout, chunk, s, theta[s])
    return theta, likelihoods.values(theta), converged, lines.steps


def _central(design: Tensor, y: Tensor, tau: float, weights: Tensor, basis: Tensor) -> Optimum | None:
    """The certified optimum of one data set, by the method of `mle`, from the vertex of rows `basis`."""
    kept = (weights > 0).nonzero()[:, 0]
    columns, own, masses = (part[kept].numpy() for part in (design, y, weights))
    lines = PinballLines(columns, False, np.eye(columns.shape[1]), own, masses, tau)
    return central_beside(lines, torch.searchsorted(kept, basis).numpy(), InteriorPoint().max_steps)


def _alone(layout: Layout, chunk: Stack, s: int, theta: Tensor) -> tuple[Tensor, bool]:
    """Fit one data set by `Continuation`; `theta`, not certified, if that fails."""
    data = chunk.one(s)
    if chunk.weights is not None:
        weights = chunk.weights.expand(chunk.count, -1)[s]
        data = replace(data, weights=weights).take(weights.nonzero()[:, 0])
    try:
        objective = Objective(layout.objective.model, data)
        start = starting_point(objective, None)
        coordinates = Cornered.of(rescaled(objective, start))
        found = Continuation().minimise(coordinates, coordinates.z(start))
        coordinates.check(found.z)
    except NeglogError:
        return theta, False
    return coordinates.theta(found.z), found.converged
