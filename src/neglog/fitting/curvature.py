"""The part of a model's curvature that its density brings, without the model's own second derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cached_property
from typing import Any

import pyro
import torch
from torch import Tensor

from neglog.likelihood.replay import Replay, replayed
from neglog.likelihood.rows import gradients
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective, rows_of_second_derivatives
from neglog.objective.shrinkage import UNTRACED
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run

MAX_JACOBIAN_SIZE = 20_000_000
"""Above this many numbers the derivatives of the parameters of a density are not formed."""


class Curved(Coordinates):
    """Coordinates that know which part of the curvature is there whatever the model does.

    Implements `neglog.solvers.trust.Nonlinear`.
    """

    def dispersion(self, z: Tensor) -> Tensor:
        """Which coordinates `(K,)` leave the mean of the response alone, as a standard deviation does."""
        return dispersion(self.objective, self.theta(z))

    def gauss_newton(self, z: Tensor) -> Tensor | None:
        """The Hessian `(K, K)` without the model's own second derivatives, or None if it is not known."""
        found = self._gauss_newton(self.theta(z))
        return None if found is None else self.pull_back(self.pull_back(found).T)

    @cached_property
    def _gauss_newton(self) -> GaussNewton:
        return GaussNewton(self.objective, UNTRACED)


def dispersion(objective: Objective, theta: Tensor) -> Tensor:
    """Which coordinates `(K,)` of `theta` the mean of the response does not depend on, such as its scale.

    None of them where the response has no mean.
    """
    still = torch.zeros(objective.size, dtype=torch.bool)
    with torch.enable_grad():
        values = {
            name: value.detach().requires_grad_() for name, value in objective.layout.params(theta).items()
        }
        fn = run(objective.weighted, objective.data, Run(values)).sites[RESPONSE]["fn"]
        try:
            mean = fn.mean
        except (NotImplementedError, AttributeError):
            return still
        if not mean.requires_grad:
            return still
        found = torch.autograd.grad(mean.sum(), list(values.values()), allow_unused=True)
    for name, part in zip(values, found, strict=True):
        still[objective.sites[name].place] = part is None
    return still


class GaussNewton:
    """The Gauss-Newton part `(K, K)` of the Hessian at `theta` `(K,)`, and all of the prior's.

    With the parameters p of each row's density, such as loc and scale, it is the sum of Jᵀ diag(c) J where J
    are the derivatives of p, and c the second derivatives of minus the log-density in each p by itself, or 0
    where they are negative: nowhere negative, and for a Normal mean JᵀJ / sigma². None where the density
    does not hold its parameters as tensors, or they are too many.

    It is evaluated by running the model, `untraced` times, and then by a graph (`neglog.graphs.graph`).
    Source: Schraudolph (2002), Fast curvature matrix-vector products, for any density.
    """

    def __init__(self, objective: Objective, untraced: int = 0) -> None:
        self.objective, self.untraced = objective, untraced
        self.replay: Replay | None = None

    def __call__(self, theta: Tensor) -> Tensor | None:
        """The matrix at `theta` `(K,)`, or None if it is not known."""
        terms = self._evaluate(theta)
        if not terms:
            return None
        total, gradient, slope = terms
        # A density may see the model through other tensors than these, which would then be missed.
        whole = bool((gradient - slope).norm() <= 1e-8 * (gradient.norm() + slope.norm()) + 1e-300)
        return total if whole and bool(torch.isfinite(total).all()) else None

    def _evaluate(self, theta: Tensor) -> tuple[Tensor, ...]:
        if self.untraced > 0:
            self.untraced -= 1
            return self._terms(theta)
        if self.replay is None:
            self.replay = replayed(self._terms, theta.detach(), [], None, False)
        found: tuple[Tensor, ...] = self.replay.evaluate(theta)
        return found

    @torch.enable_grad()
    def _terms(self, theta: Tensor) -> tuple[Tensor, ...]:
        """The matrix, the gradient of the rows, and that by way of their parameters; none if not known."""
        leaf = theta.detach().requires_grad_()
        with pyro.validation_enabled(False):
            ran = self.objective.at(leaf)
            own = _parameters(ran.sites[RESPONSE]["fn"])
            if not own or sum(value.numel() for value in own.values()) * len(theta) > MAX_JACOBIAN_SIZE:
                return ()
            nll = -ran.log_prob(RESPONSE).sum()
            (gradient,) = torch.autograd.grad(nll, leaf, retain_graph=True)
            leaves = {name: value.detach().clone().requires_grad_() for name, value in own.items()}
            apart = -_at_parameters(ran, leaves).log_prob(RESPONSE).sum()
            if not apart.requires_grad:
                return ()
            scores = torch.autograd.grad(
                apart, list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
            )
            total, slope = torch.zeros((len(theta), len(theta)), dtype=theta.dtype), torch.zeros_like(theta)
            for (name, value), score in zip(own.items(), scores, strict=True):
                jacobian = _jacobian(value, leaf)
                curvature = gradients(score, [leaves[name]])[0].detach().clamp_min(0.0)
                total = total + jacobian.T @ (curvature.reshape(-1, 1) * jacobian)
                slope = slope + jacobian.T @ score.detach().reshape(-1)
            return total + _prior(ran, leaf), gradient, slope


def _at_parameters(ran: Run, leaves: Mapping[str, Tensor]) -> Run:
    """The run with the parameters of its response's density handed in."""
    other, site = copy(ran), dict(ran.sites[RESPONSE])
    site["fn"] = copy(site["fn"])
    for name, value in leaves.items():
        setattr(site["fn"], name, value)
    other.sites = ran.sites | {RESPONSE: site}
    return other


def _parameters(fn: Any) -> dict[str, Tensor]:
    names = getattr(fn, "arg_constraints", {})
    return {
        name: value
        for name, value in vars(fn).items()
        if name in names and isinstance(value, Tensor) and value.requires_grad
    }


def _jacobian(value: Tensor, leaf: Tensor) -> Tensor:
    """The derivatives `(M, K)` of M values: those of the transpose's product in what it is taken with."""
    weights = torch.zeros_like(value, requires_grad=True)
    (product,) = torch.autograd.grad(value, leaf, weights, create_graph=True)
    if not product.requires_grad:
        return value.new_zeros((value.numel(), len(leaf)))
    columns = [torch.autograd.grad(part, weights, retain_graph=True)[0].reshape(-1) for part in product]
    return torch.stack(columns, dim=1)


def _prior(ran: Run, leaf: Tensor) -> Tensor:
    prior = ran.prior()
    if not isinstance(prior, Tensor) or not prior.requires_grad:
        return leaf.new_zeros((len(leaf), len(leaf)))
    (gradient,) = torch.autograd.grad(-prior, leaf, create_graph=True)
    return rows_of_second_derivatives(gradient, leaf)
