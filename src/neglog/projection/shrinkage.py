"""Shrinkage: minus the log prior of a vector and its derivatives, for work that asks for them many times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from neglog.objective.lowered import replayed
from neglog.objective.objective import Objective
from neglog.objective.quadratic import normal_priors


@dataclass(frozen=True)
class Prior:
    """Minus the log prior, its gradient `(K,)`, and its Hessian `(I, I)` in some coordinates.

    `sums` `(K,)` are those of the rows of the whole Hessian: its diagonal, where priors are independent.
    """

    value: float
    slope: Tensor
    bend: Tensor
    sums: Tensor


class Shrinkage:
    """Minus the log prior of an objective; `places` `(I,)` are where its Hessian is wanted.

    Normal priors are a formula, and all others a graph (`neglog.graphs.graph`).
    """

    def __init__(self, objective: Objective, places: Tensor) -> None:
        self.objective, self.places = objective, places
        self.normals = normal_priors(objective)
        self.bend = torch.diag(self.normals.precision[places])
        others = [n for n, s in objective.sites.items() if not s.masked and n not in self.normals.sites]
        self.rest: Any = None
        self.constant = 0.0  # that of sites which the user conditioned
        if others:
            self.rest = replayed(self._others, objective.initial, [], None, False).evaluate
        else:
            whole = objective.prior_terms(objective.initial)[0]
            self.constant = whole - self(objective.initial).value

    def __call__(self, theta: Tensor) -> Prior:
        """The prior at `theta` `(K,)`."""
        normals = self.normals
        sums = normals.precision * theta
        value = float((0.5 * sums - normals.slope) @ theta) + normals.constant + self.constant
        if self.rest is None:
            return Prior(value, sums - normals.slope, self.bend, normals.precision)
        more, slope, bend, rest = self.rest(theta)
        return Prior(
            value + float(more),
            sums - normals.slope + slope,
            self.bend + bend,
            normals.precision + rest,
        )

    def _others(self, theta: Tensor) -> tuple[Tensor, ...]:
        """The value and the derivatives of all priors but the Normal ones, by running the model."""
        places, size = self.places, len(self.places)
        with pyro.validation_enabled(False), torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            value = -torch.as_tensor(self.objective.few.at(leaf).prior(self.normals.sites))
            if not value.requires_grad:
                return value, torch.zeros_like(theta), theta.new_zeros(size, size), torch.zeros_like(theta)
            (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
            sums = _derivatives(slope.sum(), leaf)
            rows = [_derivatives(slope[place], leaf)[places] for place in places.tolist()]
        bend = torch.stack(rows) if rows else theta.new_zeros(0, 0)
        return value.detach(), slope.detach(), bend, sums


def _derivatives(scalar: Tensor, leaf: Tensor) -> Tensor:
    if not scalar.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(scalar, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)
    return found.detach()
