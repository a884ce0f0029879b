"""The information of a fit at its optimum, the inverse of it, and the scores of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import pyro
import torch
from torch import Tensor

from neglog.data import Data
from neglog.errors import ModelError
from neglog.fitting.choice import MAX_NEWTON_PARAMETERS
from neglog.fitting.estimates import map_estimate
from neglog.fitting.existence import named
from neglog.fitting.fit import Fit, check_maximum_likelihood, data_of
from neglog.labels import display_order, jacobian, labels_of
from neglog.likelihood.rows import row_slopes
from neglog.likelihood.sites import Layout
from neglog.objective.basis import ALL_ROWS
from neglog.objective.blocks import Block, joined
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.corners import Cornered
from neglog.objective.objective import Objective
from neglog.predictors import RESPONSE
from neglog.solvers.solution import inverse_roots, is_regular, largest_of, scaled_eigen
from neglog.tracing import Run, run

MAX_SCORE_ENTRIES = 1_000_000
"""Entries of the scores, rows × parameters, that are formed at a time."""
MAX_HEAD_DISTANCE = 0.25
"""Distance of a network's heads from their optimum, in standard errors; intervals at 95 % then cover 94 %."""


def influence(fit: Fit) -> pd.DataFrame:
    """The first-order change of the estimates per additional observation like each row: `(N, K)`.

    The infinitesimal jackknife: the inverse information times the score of each row, without its weight.

    Raises:
        ModelError: as `covariance`.
        DataError: as `covariance`.

    Source: Jaeckel (1972); Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 21.
    """
    coordinates, z = around(fit)
    objective, root = coordinates.objective, inverse_root(coordinates, information(coordinates, z))
    moves = coordinates.directions(root @ (scores(coordinates, z) @ root).T)
    pulls = (jacobian(objective.layout, coordinates.theta(z)) @ moves).T
    frame = pd.DataFrame(pulls.numpy(), columns=labels_of(fit, objective.layout))
    return frame[display_order(frame.T)]


def optimum(fit: Fit, needed_by: str = "this computation") -> tuple[Coordinates, Tensor]:
    """The problem of a fit and its optimum `(K,)`, if standard errors exist there.

    Raises:
        ModelError: the fit did not converge, a prior has corners (lasso), or there are more than 200
            parameters.
        DataError: the fit was read from disk, without its data.
    """
    _, objective = data_and_objective(fit, needed_by)
    assert fit.coordinates is not None
    check_maximum_likelihood(fit)
    if not fit.converged:
        raise ModelError(
            f"there are no standard errors without an optimum: {fit.status}{_flat_directions(fit)}."
        )
    _check_smooth(objective)
    return fit.coordinates, fit.coordinates.z(objective.layout.theta(fit.params))


def _flat_directions(fit: Fit) -> str:
    """The directions in which the loss is flat where a solver stopped, as words to append; else empty."""
    coordinates, objective = fit.coordinates, fit.objective
    assert coordinates is not None
    assert objective is not None
    if coordinates.kinked or objective.structure.prior_corners or objective.size > MAX_NEWTON_PARAMETERS:
        return ""
    z = coordinates.z(objective.layout.theta(fit.params))
    try:
        inverse_root(coordinates, information(coordinates, z))
    except ModelError as error:
        return f"; {error}".removesuffix(".")
    return ""


def data_and_objective(fit: Fit, needed_by: str = "this computation") -> tuple[Data, Objective]:
    """The data and the objective of a fit.

    Raises:
        DataError: the fit was read from disk, without its data.
    """
    data = data_of(fit, needed_by)
    assert fit.objective is not None
    return data, fit.objective


def _check_smooth(objective: Objective) -> None:
    if objective.structure.prior_corners:
        raise ModelError(
            "a prior with corners (lasso) has no curvature where it matters, so no standard errors."
        )
    if objective.size > MAX_NEWTON_PARAMETERS:
        raise ModelError(
            f"the Hessian of {objective.size} parameters is not formed; the limit is {MAX_NEWTON_PARAMETERS}."
        )


def around(fit: Fit) -> tuple[Coordinates, Tensor]:
    """The problem and the optimum that standard errors refer to: of a network, those of its heads.

    The features of a network are fixed, so that its heads are linear in known designs.

    Raises:
        ModelError: as `optimum`; the heads of a network are not at their optimum given its features.
        DataError: as `optimum`.
    """
    check_maximum_likelihood(fit)
    return _heads(fit) if is_network(fit) else optimum(fit)


def layout_around(fit: Fit) -> tuple[Layout, Tensor]:
    """The parameters that standard errors refer to, and their vector theta `(K,)` at the optimum.

    Raises:
        ModelError, DataError: as `around`.
    """
    layout = around(fit)[0].objective.layout if fit.retained is None else fit.retained.layout
    return layout, layout.theta(fit.params)


def layout_of(fit: Fit) -> Layout:
    """The parameters of a fit.

    Raises:
        DataError: the fit was read from a file that does not describe them.
    """
    return data_and_objective(fit)[1].layout if fit.retained is None else fit.retained.whole


def is_network(fit: Fit) -> bool:
    """Whether a fit has the weights of a network (`on_features`) among its parameters."""
    if fit.retained is not None:
        return fit.retained.is_network
    return bool(_trunk(data_and_objective(fit)[1], fit))


def _trunk(objective: Objective, fit: Fit) -> dict[str, Tensor]:
    """The weights of a network in front of the linear predictors: site name -> value."""
    return {name: fit.params[name] for name, site in objective.sites.items() if site.started}


def _heads(fit: Fit) -> tuple[Coordinates, Tensor]:
    data, objective = data_and_objective(fit)
    given = Objective(pyro.condition(objective.model, _trunk(objective, fit)), data)
    _check_smooth(given)
    coordinates = rescaled(given, given.layout.theta(fit.params))
    z = coordinates.z(given.layout.theta(fit.params))
    away = _distance(coordinates, z)
    if not away < MAX_HEAD_DISTANCE:
        raise ModelError(
            f"the heads of this network are {away:.2g} standard errors from their optimum given its features."
            " Fit them alone, with the network's weights held by `pyro.condition`, or go on from here with "
            "`start=fit.params`."
        )
    return coordinates, z


def _distance(coordinates: Coordinates, z: Tensor) -> float:
    """The distance of a point from the optimum, in standard errors."""
    if not coordinates.kinked:
        root = inverse_root(coordinates, information(coordinates, z))
        return float((root.T @ coordinates.value_and_gradient(z)[1]).norm())
    # At a corner there is no gradient. A quadratic loss rises by half the square of this distance.
    data = coordinates.objective.data
    settings: dict[str, Any] = {"weights": data.weights, **data.keywords}
    best = map_estimate(coordinates.objective.model, data.x, data.y, **settings)
    return (2 * largest_of(0.0, coordinates.value(z) - best.loss)) ** 0.5


def in_blocks(coordinates: Coordinates) -> Iterator[tuple[slice, Coordinates]]:
    """The problem in blocks of rows that fit in memory: the rows and the problem of each block.

    One block of all rows where the loss is not a sum over them. Each block has the priors in it.
    """
    objective, size = coordinates.objective, max(1, MAX_SCORE_ENTRIES // coordinates.size)
    if coordinates.rows <= size or not objective.separable:
        yield ALL_ROWS, coordinates
        return
    for start in range(0, coordinates.rows, size):
        rows = slice(start, min(start + size, coordinates.rows))
        blocks = tuple(_in_rows(block, rows) for block in coordinates.blocks)
        yield rows, Coordinates(objective.take(rows), blocks, coordinates.is_linear)


def _in_rows(block: Block, rows: slice) -> Block:
    basis = block.basis and replace(block.basis, columns=block.basis.columns[rows], known={})
    offset = block.offset[rows] if isinstance(block.offset, Tensor) else block.offset
    return replace(block, basis=basis, offset=offset)


def information(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The Hessian `(K, K)` of the loss in z; at corners, with the expected information."""
    return _kinked_information(coordinates, z) if coordinates.kinked else coordinates.hessian(z)


def inverse_root(coordinates: Coordinates, matrix: Tensor) -> Tensor:
    """A matrix L `(K, K)` with L Lᵀ the inverse of an information in z.

    Raises:
        ModelError: the information is singular or indefinite; the message names the coefficients and
            constants along the direction without information.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise ModelError("the information is not finite at the optimum, so there are no standard errors.")
    values, vectors, scale = scaled_eigen(matrix)
    if not is_regular(values):
        direction = coordinates.directions((scale * vectors[:, 0])[:, None])[:, 0]
        moved = named(coordinates, direction, both=True)
        what = " and ".join(name.partition(" → ")[0] for name in moved.coefficients + moved.constants)
        how = "indefinite" if values.min() < -1e-9 * values.max() else "singular"
        raise ModelError(
            f"the information is {how} at the optimum along {what}, so these are not identified. Leave a "
            "column out, hold a constant at a known value with pyro.condition, or use priors."
        )
    return inverse_roots(values, vectors, scale)


def score_products(coordinates: Coordinates, z: Tensor, shares: Tensor | None = None) -> Tensor:
    """The sum `(K, K)` of w s sᵀ over the rows, s the score in z, each divided by its share `(N,)`."""
    total = z.new_zeros(coordinates.size, coordinates.size)
    for rows, part in in_blocks(coordinates):
        ran, theta, etas = cut_run(part, z)
        with torch.enable_grad():
            slopes = slopes_of(ran.log_prob(RESPONSE), theta, etas)
        weights = part.objective.data.weights
        each = theta.detach().new_ones(part.rows) if weights is None else weights
        total += summed_products(part, slopes, slopes, each if shares is None else each / shares[rows])
    return total


def scores(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The gradient of each row's log-likelihood in z, `(N, K)`, without its weight."""
    ran, theta, etas = cut_run(coordinates, z)
    with torch.enable_grad():
        return _in_z(coordinates, slopes_of(ran.log_prob(RESPONSE), theta, etas))


@torch.enable_grad()
def cut_run(coordinates: Coordinates, z: Tensor) -> tuple[Run, Tensor, dict[Block, Tensor]]:
    """A run of the model without weights; theta and the predictors are leaves of the autograd graph."""
    objective, theta = coordinates.objective, coordinates.theta(z).requires_grad_()
    etas = {block: eta.requires_grad_() for block, eta in _etas(coordinates, z).items()}
    ran = run(objective.model, objective.data, Run(objective.layout.params(theta), etas=joined(etas)))
    return ran, theta, etas


def _in_z(coordinates: Coordinates, slopes: Slopes) -> Tensor:
    """The derivatives `(N, K)` in z."""
    found = slopes.others @ coordinates.pull_back(slopes.units).T
    for block, own in slopes.blocks.items():
        assert block.basis is not None
        found[:, block.places] += own[:, None] * block.basis.dense()
    return found


@dataclass(frozen=True, eq=False)
class Slopes:
    """The derivatives of values `(N,)` in the predictors of their rows and in parameters without design."""

    blocks: Mapping[Block, Tensor]
    """Block -> the derivatives `(N,)` in it."""
    others: Tensor
    """The derivatives `(N, S)` in some entries of theta."""
    units: Tensor
    """The entries, as columns `(K, S)` of the identity."""


@torch.enable_grad()
def slopes_of(values: Tensor, theta: Tensor, etas: Mapping[Block, Tensor]) -> Slopes:
    """The derivatives of values `(N,)`, each of which depends on its own row alone.

    In predictors by one derivative of the sum; in theta by a second one, of the weighted sum in the weights.
    """
    by_eta, columns = row_slopes(values, theta, list(etas.values()))
    columns = {place: column for place, column in columns.items() if column.any()}
    others = (
        torch.stack(list(columns.values()), dim=1).detach() if columns else theta.new_zeros((len(values), 0))
    )
    units = torch.eye(len(theta), dtype=theta.dtype)[:, list(columns)]
    return Slopes(dict(zip(etas, by_eta, strict=True)), others, units)


def summed_products(coordinates: Coordinates, first: Slopes, second: Slopes, weights: Tensor) -> Tensor:
    """The sum `(K, K)` over rows of their weights `(N,)` times the products of two derivatives in z."""
    total = weights.new_zeros(coordinates.size, coordinates.size)
    left, right = coordinates.pull_back(first.units), coordinates.pull_back(second.units)
    total += left @ (first.others.T @ (weights[:, None] * second.others)) @ right.T
    for block, slope in first.blocks.items():
        for other, across in second.blocks.items():
            part = block.cross(weights * slope * across, other)
            total[block.places[:, None], other.places] += part
        total[block.places] += _gathered(block, weights * slope, second.others) @ right.T
    for block, slope in second.blocks.items():
        total[:, block.places] += left @ _gathered(block, weights * slope, first.others).T
    return total


def _gathered(block: Block, values: Tensor, others: Tensor) -> Tensor:
    """The sums `(P, S)` over rows of values `(N,)` times the design and others `(N, S)`."""
    columns = [block.gather(values * column) for column in others.T]
    return torch.stack(columns, dim=1) if columns else values.new_zeros((len(block.places), 0))


def _etas(coordinates: Coordinates, z: Tensor) -> dict[Block, Tensor]:
    """The linear predictor of each block; empty for a model without linear predictors."""
    return (
        {block: block.eta(z[block.places]) for block in coordinates.blocks} if coordinates.is_linear else {}
    )


def _kinked_information(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The Hessian, with the expected information of the Laplace location, whose second derivative is 0."""
    if not coordinates.polyhedral:
        raise ModelError(
            "the loss has corners that are not in a linear predictor, so there are no standard errors."
        )
    at = coordinates.objective.structure.corner
    if at is not None and at.is_bounded:
        kind = "truncated" if at.is_truncated else "censored"
        raise ModelError(f"a {kind} response with corners has no expected information here; bootstrap it.")
    problem = Cornered.of(coordinates)
    hessian = problem.signed(problem.residuals(z).sign()).hessian(z)
    expected, located = torch.zeros_like(hessian), torch.zeros_like(z).bool()
    for _, part in in_blocks(coordinates):
        corners = Cornered.of(part)
        slopes = corners.jacobian(z)
        located |= (slopes != 0).any(dim=0)
        expected += slopes.T @ (corners.kink_information()[:, None] * slopes)
    hessian[located] = 0.0
    hessian[:, located] = 0.0
    return hessian + expected
