"""Precision matrices of the weights of a network, in structures that can be inverted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neglog.errors import ModelError
from neglog.likelihood.sites import Site
from neglog.networks.network import FittedNetwork, Layer, linear_layers, row_curvature
from neglog.predictors import RESPONSE
from neglog.solvers.solution import inverse_roots, is_regular, scaled_eigen

NORMAL_PRIORS = (
    "Give all weights Normal priors (`prior` of `on_features`, `with_priors`) and use `map_estimate`"
)
PRECISION = "Give a `prior_precision`, or fit by `map_estimate`"
"""Remedies for an information that does not determine the weights, to which others may be added."""


@dataclass(frozen=True, eq=False)
class Priors:
    """Curvatures of the log priors at a fit: `(K,)` of all parameters, `(G, G)` of the constants jointly."""

    weights: Tensor
    constants: Tensor
    flat: Tensor
    """Whether an entry of `theta` `(K,)` is a weight with a flat prior; these get a prior precision."""


@torch.enable_grad()
def priors_of(network: FittedNetwork) -> Priors:
    """The curvatures of a network's log priors at its fit; negative ones are replaced by 0."""
    objective, theta = network.objective, network.theta.clone().requires_grad_()
    flat, places = torch.zeros(len(theta)).bool(), network.places(network.constants)
    biases = {f"{call.name}.bias" for call in objective.calls}
    for name in network.weights:
        site = objective.sites[name]
        flat[site.place] = site.masked and not (name in network.heads and name in biases)
    prior = objective.take(slice(0, 2)).at(theta).prior()
    curvature, constants = (
        torch.zeros_like(theta).detach(),
        torch.zeros((len(places), len(places)), dtype=theta.dtype),
    )
    if isinstance(prior, Tensor) and prior.requires_grad:
        (slope,) = torch.autograd.grad(-prior, theta, create_graph=True)
        if slope.requires_grad:
            # Each weight has a prior of its own, so that the sum of its row is its own second derivative.
            curvature = torch.autograd.grad(slope.sum(), theta, retain_graph=True)[0].clamp(min=0)
        for i, place in enumerate(places.tolist()):
            if slope[place].requires_grad:
                constants[i] = torch.autograd.grad(slope[place], theta, retain_graph=True)[0][places]
    values, vectors = torch.linalg.eigh(0.5 * (constants + constants.T))
    return Priors(curvature, (vectors * values.clamp(min=0)) @ vectors.T, flat)


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense precision matrix of some weights and, after them, of the constants."""

    names: tuple[str, ...]
    matrix: Tensor
    """The precision `(K + G, K + G)`."""
    flat: Tensor
    """Whether a prior precision is added to an entry of the diagonal, `(K + G,)`."""
    values: Tensor
    """The weights `(K,)`."""

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of the Schur complement of the flat parameters, and the log determinant of the rest."""
        own, rest = self.matrix[self.flat][:, self.flat], self.matrix[~self.flat][:, ~self.flat]
        if len(rest):
            across = self.matrix[self.flat][:, ~self.flat]
            factor = torch.linalg.cholesky(_definite(rest, NORMAL_PRIORS))
            half = torch.linalg.solve_triangular(factor, across.T, upper=False)
            own = own - half.T @ half
            return torch.linalg.eigvalsh(own).clamp(min=0), 2 * factor.diagonal().log().sum()
        return torch.linalg.eigvalsh(own).clamp(min=0), own.new_zeros(())

    def squared_norm(self) -> float:
        """The sum of the squares of the weights with flat priors."""
        return float(self.values[self.flat[: len(self.values)]].square().sum())

    def regularised(self, precision: float) -> Any:
        """The covariance, as its root, with a prior precision added."""
        remedy = NORMAL_PRIORS if precision or not bool(self.flat.any()) else PRECISION
        matrix = _definite(self.matrix + torch.diag(precision * self.flat.to(self.matrix)), remedy)
        return Rooted(self.names, inverse_roots(*scaled_eigen(matrix))[: len(self.values)])


@dataclass(frozen=True, eq=False)
class Rooted:
    """Weights with the covariance `root` `(K, M)` times its transpose."""

    names: tuple[str, ...]
    root: Tensor

    def covariance(self, jacobian: Tensor) -> Tensor:
        """The covariance `(N, O, O)` of predictors with the Jacobian `(N, O, K)`."""
        half = jacobian @ self.root
        return half @ half.mT


@dataclass(frozen=True, eq=False)
class Diagonal:
    """A diagonal precision matrix: `precisions` `(K,)` of independent weights."""

    names: tuple[str, ...]
    precisions: Tensor
    flat: Tensor
    values: Tensor

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """The precisions of weights with flat priors, and the sum of the log precisions of all others."""
        rest = self.precisions[~self.flat]
        return self.precisions[self.flat], rest.log().sum()

    def squared_norm(self) -> float:
        """The sum of squares of the weights with flat priors."""
        return float(self.values[self.flat].square().sum())

    def regularised(self, precision: float) -> Diagonal:
        """The same with `precision` added to the weights with flat priors."""
        return replace(self, precisions=_positive(self.precisions + precision * self.flat, self.names))

    def covariance(self, jacobian: Tensor) -> Tensor:
        """The covariance `(N, O, O)` of outputs with the Jacobian `(N, O, W)` in the weights."""
        return (jacobian / self.precisions) @ jacobian.mT


@dataclass(frozen=True, eq=False)
class Kronecker:
    """The precision of a layer: a Kronecker product of an output and an input matrix, plus its prior's.

    `backward` `(D, D)` and `forward` `(I, I)` are the eigenvectors of the two matrices, `rates` `(D, I)` the
    eigenvalues of the product; a prior precision is added to each eigenvalue.
    """

    names: tuple[str, ...]
    backward: Tensor
    forward: Tensor
    rates: Tensor
    free: bool
    """Whether a prior precision is added."""
    values: Tensor

    @property
    def flat(self) -> Tensor:
        """Which weights have flat priors, `(W,)`: all of a layer or none."""
        return torch.full((self.rates.numel(),), self.free)

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """The precisions of weights with flat priors, and the sum of the log precisions of all others."""
        rates = self.rates.reshape(-1)
        return (rates, rates.new_zeros(())) if self.free else (rates[:0], rates.log().sum())

    def squared_norm(self) -> float:
        """The sum of squares of the weights with flat priors."""
        return float(self.values.square().sum()) if self.free else 0.0

    def regularised(self, precision: float) -> Kronecker:
        """The same with `precision` added to the weights with flat priors."""
        return replace(self, rates=_positive(self.rates + precision * self.free, self.names))

    def covariance(self, jacobian: Tensor) -> Tensor:
        """The covariance `(N, O, O)` of outputs with the Jacobian `(N, O, W)` in the weights."""
        rows, outputs, _ = jacobian.shape
        (down, across), bias = self.rates.shape, len(self.names) == 2
        weight = jacobian[..., : down * (across - bias)].reshape(rows, outputs, down, across - bias)
        if bias:
            weight = torch.cat([weight, jacobian[..., down * (across - 1) :, None]], dim=-1)
        rotated = self.backward.T @ weight @ self.forward
        return torch.einsum("noij,npij->nop", rotated / self.rates, rotated)


@dataclass(frozen=True, eq=False)
class Evidence:
    """The log marginal likelihood of the data as a function of the prior precision of flat weights.

    `rates` `(E,)` are the eigenvalues of the information of these weights, `norm` the sum of their squares,
    `constant` all that does not depend on the precision, in nats.
    """

    rates: Tensor
    norm: float
    constant: float

    def at(self, precision: Tensor) -> Tensor:
        """The log marginal likelihood `()` at a precision `()`."""
        return self.constant - 0.5 * (torch.log1p(self.rates / precision).sum() + precision * self.norm)


def evidence_of(network: FittedNetwork, parts: Sequence[Dense | Diagonal | Kronecker]) -> Evidence:
    """The log marginal likelihood by Laplace's approximation: of the weights in `parts`, given all others.

    With a density p(θ) of their priors at the fit it is log p(y | θ) + log p(θ) + (K / 2) log 2π minus
    half the log determinant of the precision.
    """
    spectra = [part.spectrum() for part in parts]
    rates, fixed = torch.cat([own for own, _ in spectra]), sum(float(rest) for _, rest in spectra)
    names = [name for part in parts for name in part.names]
    names += network.constants if any(isinstance(part, Dense) for part in parts) else ()
    others = sum(network.objective.sites[name].size for name in names) - len(rates)
    constant = _log_density(network, names) + 0.5 * others * math.log(2 * math.pi) - 0.5 * fixed
    return Evidence(rates, sum(part.squared_norm() for part in parts), constant)


@torch.no_grad()
def _log_density(network: FittedNetwork, names: Sequence[str]) -> float:
    """The log-likelihood at the fit, plus the log prior of these sites in unconstrained coordinates."""
    at, sites = network.objective.at(network.theta), network.objective.sites
    found = at.log_prob(RESPONSE).sum() + at.prior(set(at.sites) - set(names))
    return float(found) + sum(_log_slopes(sites[name], network.theta) for name in names)


def _log_slopes(site: Site, theta: Tensor) -> float:
    """The log of the derivative of a parameter in its unconstrained coordinates, in which precisions are."""
    own = theta[site.place].reshape(site.unconstrained)
    return float(site.transform.log_abs_det_jacobian(own, site.transform(own)).sum())


def structured(network: FittedNetwork, structure: str) -> list[Dense | Diagonal | Kronecker]:
    """The precision matrices of a network in a structure of `laplace_approximation`, priors included."""
    priors = priors_of(network)
    if structure == "diagonal":
        return [_diagonal(network, priors)]
    if structure == "full":
        return [_dense(network, priors, network.weights)]
    last = _dense(network, priors, network.heads)
    if structure == "last_layer":
        return [last]
    layers, rows = linear_layers(network)
    return [*(_kronecker(network, priors, layer, rows) for layer in layers), last]


def _dense(network: FittedNetwork, priors: Priors, names: tuple[str, ...]) -> Dense:
    size, constants = network.size(names), len(network.places(network.constants))
    total = torch.zeros((size + constants,) * 2, dtype=network.theta.dtype)
    for part in network.blocks(names):
        jacobian = network.jacobian(part.data.x, names)
        curvature, cross, own = row_curvature(network, part)
        flat = jacobian.flatten(0, 1)
        total[:size, :size] += flat.T @ (curvature @ jacobian).flatten(0, 1)
        across = flat.T @ cross.flatten(0, 1)
        total[:size, size:] += across
        total[size:, :size] += across.T
        total[size:, size:] += own
    places = network.places(names)
    total[:size, :size] += torch.diag(priors.weights[places])
    total[size:, size:] += priors.constants
    added = torch.cat([priors.flat[places], torch.zeros(constants).bool()])
    return Dense(names, _finite(total), added, network.theta[places])


def _diagonal(network: FittedNetwork, priors: Priors) -> Diagonal:
    places = network.places(network.weights)
    total = priors.weights[places].clone()
    for part in network.blocks(network.weights):
        jacobian = network.jacobian(part.data.x, network.weights)
        curvature, _, _ = row_curvature(network, part)
        total += (jacobian * (curvature @ jacobian)).sum((0, 1))
    return Diagonal(network.weights, _finite(total), priors.flat[places], network.theta[places])


def _kronecker(network: FittedNetwork, priors: Priors, layer: Layer, rows: float) -> Kronecker:
    names = (layer.weight,) if layer.bias is None else (layer.weight, layer.bias)
    places = network.places(names)
    own, flat = priors.weights[places], priors.flat[places]
    if bool((own != own[0]).any()) or bool((flat != flat[0]).any()):
        raise ModelError(
            f"structure='kronecker' needs one prior for all weights of a layer; those of `{layer.weight}` "
            "differ. Use 'diagonal' or 'full'."
        )
    (inner, forward), (outer, backward) = (
        torch.linalg.eigh(_finite(each)) for each in (layer.inputs, layer.outputs)
    )
    rates = outer.clamp(min=0)[:, None] * inner.clamp(min=0) / rows + own[0]
    return Kronecker(names, backward, forward, _finite(rates), bool(flat[0]), network.theta[places])


def _finite(information: Tensor) -> Tensor:
    if not bool(torch.isfinite(information).all()):
        raise ModelError(
            "the information of the rows of this network is not finite at its weights, so they have no "
            "covariance. Fit it again, to columns of `x` of order one or from another start."
        )
    return information


def _positive(precisions: Tensor, names: tuple[str, ...]) -> Tensor:
    if not bool((precisions > 0).all()):
        raise ModelError(
            f"the rows have no information on a weight of {', '.join(f'`{name}`' for name in names)}, and "
            f"its prior has no curvature at the fit, as a Laplace prior has none. {NORMAL_PRIORS}, or use "
            "structure='last_layer'."
        )
    return precisions


def _definite(matrix: Tensor, remedy: str) -> Tensor:
    if not is_regular(scaled_eigen(_finite(matrix))[0]):
        raise ModelError(
            "the information of the rows and the priors does not determine the weights and constants of this "
            "network: a feature is constant or a combination of others, or the fit is far from an optimum. "
            f"{remedy}."
        )
    return matrix
