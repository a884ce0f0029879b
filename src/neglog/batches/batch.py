"""Many data sets at once: maximum likelihood of one model on each of them, exact and certified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from neglog.aliases import former_argument, former_attribute
from neglog.arguments import choice, flag, share
from neglog.batches.existence import have_marked_rows, have_separated_classes, runs_away
from neglog.batches.graph_gradients import replayed
from neglog.batches.layout import (
    Kink,
    Layout,
    Square,
    in_theta,
    laid_out,
    lay_out,
    likelihoods_of,
    single_objective,
)
from neglog.batches.likelihoods import Columns, Likelihoods
from neglog.batches.normal_equations import normal_equations
from neglog.batches.precision import covariances, natural_errors, natural_interval
from neglog.batches.stack import Stack, prepare_stack
from neglog.batches.whitening import whitened
from neglog.calls import public
from neglog.conversion import named_values
from neglog.errors import ConvergenceWarning, ModelError, NeglogError, warn
from neglog.fitting.marked import check_marked_rows
from neglog.fitting.separation import SLOW_STEPS
from neglog.fitting.start import NULL_STEPS, NULL_TOLERANCE, free_constants, starting_point
from neglog.handlers import Model, flat
from neglog.inputs.given import offset_model
from neglog.isolation import isolated
from neglog.layers import current_names
from neglog.likelihood.sites import Site, places_of
from neglog.models.named import model_of
from neglog.objective.blocks import noise_unit
from neglog.objective.coordinates import rescaled
from neglog.objective.corners import Cornered
from neglog.objective.objective import Objective
from neglog.predictors import RESPONSE
from neglog.signatures import roles_of
from neglog.solvers import Continuation, InteriorPoint
from neglog.solvers.batched_newton import Solutions, chords, newton_together
from neglog.solvers.interior import quantile_regressions
from neglog.solvers.interior_point import central_beside
from neglog.solvers.lines import Lines as PinballLines
from neglog.solvers.preprocessing import Optimum
from neglog.tracing import model_name, with_sizes

MAX_STACKED_NUMBERS = 20_000_000
"""The size of a chunk of data sets: numbers, that is data sets times rows times columns."""


@public
@dataclass(frozen=True)
class BatchFit:
    """The results of S fits of one model, a frozen value.

    Attributes:
        model: what was fitted, ``flat(model)``.
        params: site name -> estimates `(S, *shape)`, on its own support, in the user's units.
        nll: minus the log-likelihood of each data set, in nats, with weights and every constant, `(S,)`.
        converged: whether an optimum was certified, `(S,)`. If not (separated classes, a perfect fit,
        dependent
            columns) the numbers are finite but not estimates; if a constant goes to its boundary, the
            coefficients are those of the limit.
        n_iter: the number of iterations of the solver for each, `(S,)`.
        covariance: of the unconstrained parameters, `(S, K, K)`, in the order of `sites`, or None: the
            inverse of the observed information, as `neglog.covariance` has it. Where there is none (no
            optimum, a direction without information) the variances are infinite.
        sites: the sites, with the transforms of their unconstrained values to their supports.
    """

    model: Model = field(repr=False)
    params: Mapping[str, Tensor]
    nll: Tensor
    converged: Tensor
    n_iter: Tensor
    covariance: Tensor | None = field(default=None, repr=False)
    sites: tuple[Site, ...] = field(default=(), repr=False)

    steps = former_attribute("steps", "n_iter")

    @property
    @isolated
    def standard_errors(self) -> dict[str, Tensor]:
        """Site name -> standard errors `(S, *shape)`, by the delta method on the site's own support.

        Raises:
            ModelError: the covariances were not asked for.
        """
        theta, covariance = self._known()
        return {site.name: natural_errors(site, theta, covariance) for site in self.sites}

    @isolated
    def interval(self, level: float = 0.95) -> dict[str, tuple[Tensor, Tensor]]:
        """Site name -> both ends `(S, *shape)` of Wald's intervals, those of `summary`.

        Raises:
            ModelError: `level` is not between 0 and 1; the covariances were not asked for.
        """
        level = share("level", level)
        theta, covariance = self._known()
        reach = float(torch.special.ndtri(torch.tensor(0.5 + level / 2, dtype=torch.float64)))
        return {site.name: natural_interval(site, theta, covariance, reach) for site in self.sites}

    def _known(self) -> tuple[Tensor, Tensor]:
        if self.covariance is None:
            raise ModelError("this fit has no covariances; call `mle_batch` with cov_type='observed'.")
        parts = [site.transform.inv(self.params[site.name]) for site in self.sites]
        return torch.cat([part.reshape(len(self.nll), -1) for part in parts], 1), self.covariance

    def __getstate__(self) -> Any:
        raise TypeError("a BatchFit cannot be pickled; save its tensors.")


def _cov_type(covariance: Any) -> str | None:
    """The `cov_type` of the former flag `covariance`."""
    return "observed" if flag("covariance", covariance) else None


@former_argument("covariance", "cov_type", _cov_type)
@isolated
def mle_batch(
    model: Model | str,
    x: Any,
    y: Any,
    *,
    weights: Any = None,
    start: Mapping[str, Any] | None = None,
    cov_type: Literal["observed"] | None = None,
    **keywords: Any,
) -> BatchFit:
    """Maximum likelihood of one model on S data sets of N rows: the fits of `mle`, much faster.

    The model is evaluated once for all data sets, as a function of its linear predictors, and Newton's method
    runs on each until it has converged, by the rule of `neglog.solvers.Newton`. `laplace` and `quantile` with
    one scale are linear programmes: an interior-point method finds a vertex, which the subgradient condition
    certifies.

    Args:
        model: a Pyro function `(x, y=None)` with an observation site ``y`` `(N,)`, whose likelihood is one
            of linear predictors with fixed designs and of constants.
        x: a design `(N, P)` that all data sets share, or `(S, N, P)`; or a mapping from predictor name to
            either. Without an intercept column.
        y: the responses `(S, N)`, or `(N,)` where all share them, as in a bootstrap by weights.
        weights: frequency weights `(S, N)` or `(N,)`, or None. In rows of weight 0 the values of arguments
        that
            are not shared are ignored.
        start: site name -> initial value for all data sets, as in `mle`; by default they start at their null
            models, or, if they differ only in their weights, at the optimum for the mean weights.
        cov_type: ``"observed"`` for covariances, standard errors and intervals by the observed information;
            None for none of them. For those of another kind loop over `mle`.
        keywords: further row-wise arguments of the model, such as ``exposure``, `(N,)` or `(S, N)`.

    Raises:
        DataError: as `mle`, with the number of the data set; or nothing has a dimension for many data sets.
        ModelError: the model is not of this kind, such as a network, a vector-valued one, or absolute values
            with a scale that depends on the input. Loop over `mle`.
        SingularDesignError: designs that all data sets share lack full rank.
        UnboundedLikelihoodError: the designs have a column of a scale that is nonzero only in a few rows.

    Warns:
        ConvergenceWarning: for some data sets no optimum was certified.

    >>> import torch
    >>> from neglog import models
    >>> x = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    >>> y = torch.tensor([[1.0, 2.0, 2.5, 4.0, 4.5], [0.0, 1.0, 0.0, 2.0, 1.0]], dtype=torch.float64)
    >>> fit = mle_batch(models.gaussian, x, y)
    >>> fit.params["mean.weight"]
    tensor([[3.6000],
            [1.2000]], dtype=torch.float64)
    """
    model = offset_model(model_of(model), keywords)
    if cov_type is not None:
        choice("cov_type", cov_type, ("observed",))
    if isinstance(y, np.ndarray | torch.Tensor) and y.ndim > 2:
        raise ModelError(
            f"`{model_name(model)}` got a `y` of shape {tuple(y.shape)}: vector-valued responses cannot be "
            "fitted to many data sets at once. Loop over `mle`."
        )
    x = current_names(model, x, "x") if isinstance(x, Mapping) else x
    start = None if start is None else current_names(model, named_values("start", start), "start")
    stack = prepare_stack(x, y, weights=weights, roles=roles_of(model, keywords, mle_batch), **keywords)
    layout, shape = lay_out(with_sizes(flat(model), stack.y.reshape(-1)), stack)
    if stack.shared_designs and stack.counted is None:
        check_marked_rows(layout.objective)
    fit = _batch(layout, shape, stack, start, cov_type is not None)
    fit = replace(fit, converged=fit.converged & ~have_marked_rows(layout, stack, fit.converged))
    if not bool(fit.converged.all()):
        missed = (~fit.converged).nonzero()[:, 0]
        warn(
            f"`{model_name(model)}`: no optimum was certified for {len(missed)} of {stack.count} data sets, "
            f"the first of them {int(missed[0])}; see `converged`.",
            ConvergenceWarning,
        )
    return fit


def fitted_again(
    objective: Objective, start: Mapping[str, Any], stack: Stack
) -> tuple[Mapping[str, Tensor], Tensor]:
    """As `mle_batch`, from `start`, of data sets that have the design of an objective, without a warning.

    The estimates, site name -> `(S, *shape)`, and whether an optimum was certified, `(S,)`.

    Raises:
        ModelError: the model is not of this kind.
    """
    own = stack.y is objective.data.y and objective.data.weights is None
    bare = objective if own else single_objective(objective.model, stack, 0)
    fit = _batch(*laid_out(bare, stack), stack, start, covariance=False, valued=False)
    return fit.params, fit.converged


def _batch(
    layout: Layout,
    shape: Kink | Square | None,
    stack: Stack,
    start: Mapping[str, Any] | None,
    covariance: bool,
    valued: bool = True,
) -> BatchFit:
    """The fit of all data sets; where it is not `valued`, its likelihoods need not be known."""
    width = 1 if stack.shared_designs else 1 + max(call.design.shape[1] for call in layout.calls)
    parts = torch.arange(stack.count).split(max(1, MAX_STACKED_NUMBERS // (stack.rows * width)))
    begin = None if start is None else starting_point(layout.objective, start)
    found = [_fitted(layout, shape, stack, index, begin, valued) for index in parts]
    theta, nll, converged, steps = (torch.cat(part) for part in zip(*found, strict=True))
    converged = converged & torch.isfinite(nll) & torch.isfinite(theta).all(-1)
    params = {
        site.name: site.transform(theta[:, site.place].reshape(stack.count, *site.unconstrained))
        for site in layout.objective.sites.values()
    }
    matrices = None
    if covariance:
        matrices = torch.cat(
            [
                covariances(layout, shape, in_theta(layout, stack.take(i)), theta[i], converged[i])
                for i in parts
            ]
        )
    sites = tuple(layout.objective.sites.values())
    return BatchFit(layout.objective.model, MappingProxyType(params), nll, converged, steps, matrices, sites)


def _fitted(
    layout: Layout,
    shape: Kink | Square | None,
    stack: Stack,
    index: Tensor,
    start: Tensor | None,
    valued: bool,
) -> tuple[Tensor, ...]:
    """Estimates theta `(S, K)`, nll, whether an optimum was certified, and steps of the data sets `index`."""
    likelihoods = in_theta(layout, stack.take(index) if len(index) < stack.count else stack)
    if not likelihoods.weights_alone:  # else the objective of the first has said so of all
        _check_response(layout, likelihoods, stack, index)
    if isinstance(shape, Kink):
        return _kinked(layout, shape, likelihoods)
    if isinstance(shape, Square):
        return _least_squares(layout, shape, likelihoods)
    if start is None and likelihoods.weights_alone:
        start = _pooled(layout, likelihoods)
    if start is None:
        return _smooth(layout, likelihoods, _null(layout, likelihoods))
    together = likelihoods.weights_alone
    return _smooth(layout, likelihoods, start.expand(len(index), -1), together, valued)


def _pooled(layout: Layout, likelihoods: Likelihoods) -> Tensor | None:
    """The optimum `(K,)` for the mean of all weights, where there is one: near those of all data sets."""
    stack = likelihoods.stack
    assert stack.weights is not None
    mean = replace(stack, count=1, weights=stack.weights.mean(0, keepdim=True))
    one = in_theta(layout, mean)
    theta, _, converged, _ = _smooth(layout, one, _null(layout, one))
    return theta[0] if bool(converged) else None


def _check_response(layout: Layout, likelihoods: Likelihoods, stack: Stack, index: Tensor) -> None:
    """Verify that every y is in the support of the model.

    Raises:
        DataError: naming the data set and the row.
    """
    z = layout.initial(likelihoods.stack.count)
    with torch.no_grad():
        at = likelihoods.at(likelihoods.etas(z), likelihoods.params(z))
        right = at.sites[RESPONSE]["fn"].support.check(likelihoods.stack.y)
        right = right & torch.isfinite(likelihoods.density(at))
    for s in (~right.all(-1)).nonzero()[:1, 0].tolist():
        single_objective(layout.objective.model, stack, int(index[s]))  # which says what is wrong


def _smooth(
    layout: Layout, likelihoods: Likelihoods, start: Tensor, together: bool = False, valued: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Newton's method from theta `(S, K)`; `together` where that is one point and all expand around it."""
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
    """The minima from one point `z[0]`, around which all expand; values are 0 where none is wanted."""
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
    """The null models `(S, K)`, where a fit starts, by the rules of `neglog.fitting.start`."""
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
    """The unit `(S,)` of each predictor, as in `neglog.objective.blocks`."""
    etas = likelihoods.etas(theta)
    most = 1 + torch.stack(
        [v.abs().amax(-1).expand(len(theta)) for v in (likelihoods.stack.y, *etas.values())]
    )
    sizes = {k: v.square().sum(-1) / likelihoods.rows for k, v in likelihoods.scores(theta).items()}
    return {name: noise_unit(size, most.amax(0)) for name, size in sizes.items()}


def _least_squares(
    layout: Layout, square: Square, likelihoods: Likelihoods
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The normal equations, then the scale: d/dscale = 0 gives scale² = RSS / n.

    Where they are ill-conditioned, or the scale is none, Newton's method says what there is.
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


def _kinked(layout: Layout, kink: Kink, likelihoods: Likelihoods) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
        exact = ~(scale > least)  # the line follows all rows: there is no maximum to look for
        converged &= ~exact
    for s in (white.sound & ~lines.certified & ~exact).nonzero()[:, 0].tolist():
        theta[s], converged[s] = _alone(layout, chunk, s, theta[s])
    return theta, likelihoods.values(theta), converged, lines.steps


def _central(design: Tensor, y: Tensor, tau: float, weights: Tensor, basis: Tensor) -> Optimum | None:
    """The certified optimum of one data set, as a single fit has it, from a vertex through rows `basis`."""
    kept = (weights > 0).nonzero()[:, 0]
    columns, own, masses = (part[kept].numpy() for part in (design, y, weights))
    lines = PinballLines(columns, False, np.eye(columns.shape[1]), own, masses, tau)
    return central_beside(lines, torch.searchsorted(kept, basis).numpy(), InteriorPoint().max_steps)


def _alone(layout: Layout, chunk: Stack, s: int, theta: Tensor) -> tuple[Tensor, bool]:
    """One data set by `Continuation`; `theta` where that has no answer."""
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
