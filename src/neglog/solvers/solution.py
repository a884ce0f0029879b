"""What a solver is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Problem(Protocol):
    """A smooth function of one vector `(K,)`, to be minimised."""

    size: int
    rows: int

    def value(self, z: Tensor) -> float: ...

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]: ...

    def hessian(self, z: Tensor) -> Tensor: ...

    def check(self, z: Tensor) -> None:
        """Raise if the function falls without end from `z`; solvers ask now and then."""
        ...


class Kinked(Problem, Protocol):
    """A function of one vector that is smooth but for a sum of weighted absolute values |r(z)|, r linear."""

    def residuals(self, z: Tensor) -> Tensor:
        """r(z), `(M,)`, each in units of its own scale."""
        ...

    def jacobian(self, z: Tensor) -> Tensor:
        """The derivatives of `residuals`, `(M, K)`, while their scales stand still."""
        ...

    def kink_weights(self) -> Tensor:
        """What each |r| counts for, `(M,)`, positive."""
        ...

    def smoothed(self, softness: float) -> Problem:
        """The same with each |r| replaced by sqrt(r² + softness²)."""
        ...

    def signed(self, signs: Tensor) -> Problem:
        """The same with each |r| replaced by sign · r: equal to it where the signs are those of r."""
        ...


@dataclass(frozen=True)
class Solution:
    """Where a solver stopped. `converged` is a claim that was checked, and `status` says how."""

    z: Tensor
    value: float
    converged: bool
    status: str
    steps: int
    history: tuple[float, ...] = ()


def scaled_eigen(hessian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues and vectors of a Hessian that was scaled to a unit diagonal, with the scale `(K,)`."""
    diagonal = hessian.diagonal().abs()
    scale = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal)).rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * hessian * scale)
    return values, vectors, scale


def newton_direction(hessian: Tensor, gradient: Tensor, rows: int = 1) -> tuple[Tensor, float, bool]:
    """A descent direction, its decrement sqrt(gᵀ H⁻¹ g), and whether H is positive definite.

    Where the log-likelihood is concave the decrement is the distance to the optimum in standard errors.
    Negative curvature counts by its size (Dauphin et al. 2014). Where there is none, as where all rows are in
    the linear part of Huber's loss, it counts as one a row, which is what coordinates are scaled to.
    """
    if gradient.numel() == 0:
        return gradient, 0.0, True
    factor, failed = torch.linalg.cholesky_ex(hessian)
    if not failed and _well_conditioned(factor):
        direction = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        return direction, float((-gradient @ direction).clamp_min(0).sqrt()), True
    bare = hessian.diagonal() == 0
    values, vectors, scale = scaled_eigen(hessian + torch.diag(bare * float(rows)))
    curved = values.abs() > 1e-10 * values.abs().max()
    along = vectors.T @ (scale * gradient)
    direction = -scale * (vectors @ (along / torch.where(curved, values.abs(), 1.0)))
    definite = not bool(bare.any()) and bool((curved & (values > 0)).all())
    return direction, float((-gradient @ direction).clamp_min(0).sqrt()), definite


def _well_conditioned(factor: Tensor) -> bool:
    diagonal = factor.diagonal()
    return bool(diagonal.min() > 1e-6 * diagonal.max())
