"""Uncertainty around the optimum: the information of a fit, its inverse, and the score of each row."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from neglog.blocks import Block, joined
from neglog.coordinates import Coordinates
from neglog.errors import ModelError
from neglog.existence import named
from neglog.fit import DENSE, Fit, data_of
from neglog.labels import display_order, jacobian, labels_of
from neglog.objective import kinked_sites
from neglog.predictors import RESPONSE
from neglog.solvers.solution import scaled_eigen
from neglog.tracing import Run, run


def influence(fit: Fit) -> pd.DataFrame:
    """How far one more observation like each moves the estimates, to first order: `(N, K)`.

    The infinitesimal jackknife: the inverse information times the score of each row, without its weight.

    Raises:
        ModelError: as `covariance`.
        DataError: as `covariance`.

    Source: Jaeckel (1972); Efron & Tibshirani (1993), An Introduction to the Bootstrap, chapter 21.
    """
    coordinates, z = optimum(fit)
    objective, root = coordinates.objective, inverse_root(coordinates, information(coordinates, z))
    moves = coordinates.directions(root @ (scores(coordinates, z) @ root).T)
    pulls = (jacobian(objective, coordinates.theta(z)) @ moves).T
    frame = pd.DataFrame(pulls.numpy(), columns=labels_of(fit, objective))
    return frame[display_order(frame.T)]


def optimum(fit: Fit) -> tuple[Coordinates, Tensor]:
    """The problem of a fit and where its optimum is, `(K,)`, where there is anything to say around it.

    Raises:
        ModelError: the fit did not converge, a prior has corners (lasso), or there are more than 200
            parameters.
        DataError: the fit was read from disk, without its data.
    """
    data_of(fit)
    assert fit.objective is not None
    assert fit.coordinates is not None
    if not fit.converged:
        raise ModelError(f"there are no standard errors without an optimum: {fit.status}.")
    if kinked_sites(fit.objective):
        raise ModelError(
            "a prior with corners (lasso) has no curvature where it matters, so no standard errors."
        )
    if fit.k > DENSE:
        raise ModelError(f"the Hessian of {fit.k} parameters is not formed; the limit is {DENSE}.")
    return fit.coordinates, fit.coordinates.z(fit.objective.theta(fit.params))


def information(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The Hessian `(K, K)` of the loss in z; where it has corners, with what they are expected to tell."""
    return _kinked_information(coordinates, z) if coordinates.kinked else coordinates.hessian(z)


def inverse_root(coordinates: Coordinates, matrix: Tensor) -> Tensor:
    """A matrix L `(K, K)` with L Lᵀ the inverse of an information in z.

    Raises:
        ModelError: the information is singular or indefinite; naming the coefficients and constants that
            the direction without information moves.
    """
    if not bool(torch.isfinite(matrix).all()):
        raise ModelError("the information is not finite at the optimum, so there are no standard errors.")
    values, vectors, scale = scaled_eigen(matrix)
    if values.numel() and values.min() < 1e-12 * values.max():
        direction = coordinates.directions((scale * vectors[:, 0])[:, None])[:, 0]
        moved = named(coordinates, direction, both=True)
        what = " and ".join(name.partition(" → ")[0] for name in moved.coefficients + moved.constants)
        how = "indefinite" if values.min() < -1e-9 * values.max() else "singular"
        raise ModelError(
            f"the information is {how} at the optimum along {what}, so these are not identified. Leave a "
            "column out, hold a constant at a known value with pyro.condition, or use priors."
        )
    return scale[:, None] * vectors * values.rsqrt()


def scores(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The gradient of each row's log-likelihood in z, `(N, K)`, without its weight."""
    ran, theta, etas = cut_run(coordinates, z)
    with torch.enable_grad():
        return row_slopes(coordinates, ran.log_prob(RESPONSE), theta, etas)


@torch.enable_grad()
def cut_run(coordinates: Coordinates, z: Tensor) -> tuple[Run, Tensor, dict[Block, Tensor]]:
    """The model without weights, cut at its predictors; with theta and these, to differentiate it in."""
    objective, theta = coordinates.objective, coordinates.theta(z).requires_grad_()
    etas = {block: eta.requires_grad_() for block, eta in _etas(coordinates, z).items()}
    ran = run(objective.model, objective.data, Run(objective.params(theta), etas=joined(etas)))
    return ran, theta, etas


@torch.enable_grad()
def row_slopes(
    coordinates: Coordinates, values: Tensor, theta: Tensor, etas: Mapping[Block, Tensor]
) -> Tensor:
    """The derivatives `(N, K)` in z of values `(N,)`, each of which depends on its own row alone.

    Of predictors through their designs; of everything else, of the weighted sum and then in the weights.
    """
    if not values.requires_grad:
        return theta.new_zeros((len(values), len(theta)))
    weights = torch.ones(len(values), dtype=theta.dtype, requires_grad=True)
    own, *by_eta = torch.autograd.grad(
        weights @ values,
        [theta, *etas.values()],
        create_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    columns = [
        torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        if part.requires_grad
        else torch.zeros_like(weights)
        for part in own
    ]
    found = coordinates.pull_back(torch.stack(columns).detach()).T.contiguous()
    for block, slopes in zip(etas, by_eta, strict=True):
        assert block.basis is not None
        found[:, block.places] += slopes.detach()[:, None] * block.basis.dense()
    return found


def _etas(coordinates: Coordinates, z: Tensor) -> dict[Block, Tensor]:
    """The value of each block where the model is cut; none where it is not."""
    return {block: block.eta(z[block.places]) for block in coordinates.blocks} if coordinates.cut else {}


def _kinked_information(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The Hessian, with the expected information of the Laplace location in the place of its 0."""
    if not coordinates.polyhedral:
        raise ModelError(
            "the loss has corners that are not in a linear predictor, so there are no standard errors."
        )
    if coordinates.response_corner is not None and coordinates.response_corner.bounds:
        raise ModelError("a censored response with corners has no information of its own; bootstrap it.")
    hessian = coordinates.signed(coordinates.residuals(z).sign()).hessian(z)
    slopes = coordinates.jacobian(z)
    located = (slopes != 0).any(dim=0)
    hessian[located] = 0.0
    hessian[:, located] = 0.0
    return hessian + slopes.T @ (coordinates.kink_information()[:, None] * slopes)
