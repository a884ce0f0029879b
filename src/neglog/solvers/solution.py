"""The interface of solvers: problems and solutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from neglog.calls import public
from neglog.errors import UnboundedLikelihoodError

MIN_PIVOT_SPAN = 1e-6
"""A Cholesky factor is well conditioned if the ratio of its smallest to its largest pivot is above this."""
SINGULAR = 1e-12
"""An information whose curvature along some direction is below this share of the largest has no inverse."""
MIN_EIGENVALUE_SHARE = 1e-10
"""A curvature below this share of the largest, of a Hessian scaled to a unit diagonal, is rounding."""
FLAT_CURVATURE = 1e-5
"""Directions of a curvature a row below this, in units of that at the start, are searched for recessions."""


class Problem(Protocol):
    """A smooth function of one vector `(K,)`, to be minimised."""

    size: int
    rows: int

    def value(self, z: Tensor) -> float:
        """The objective at `z`, in nats."""

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """The objective at `z` and its gradient `(P,)`."""

    def hessian(self, z: Tensor) -> Tensor:
        """The Hessian `(P, P)` of the objective at `z`."""

    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """The value, the gradient `(K,)` and the Hessian `(K, K)`, in one pass over the rows."""
        ...

    def sample(self) -> Problem | None:
        """The problem of a sample of the rows, in the same coordinates, if there are very many; else None.

        A problem that has one is `Large`.
        """
        ...

    def check(self, z: Tensor) -> str | None:
        """Raise if the function decreases without bound from `z`; return the reason for a slow decrease, if
        any.

        Solvers call it every few steps.
        """
        ...


class Losses(Protocol):
    """S functions of one vector `(K,)` each; `z` is `(S, K)`."""

    @property
    def rows(self) -> Tensor:
        """The number of rows that each is a sum over, `(S,)`."""
        ...

    def take(self, index: Tensor) -> Self:
        """The functions at `index`."""
        ...

    def values(self, z: Tensor) -> Tensor:
        """`(S,)`, in nats; not finite where a function cannot be evaluated."""
        ...

    def terms(self, z: Tensor) -> Tensor:
        """The size of the terms that cancel in `values`, `(S,)` in nats; their rounding error remains."""
        ...


class Large(Problem, Protocol):
    """A function that is a sum over very many rows."""

    def roughly(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """`derivatives` with a Hessian of six digits."""
        ...


class Kinked(Problem, Protocol):
    """A smooth function of one vector plus a sum of weighted absolute values |r(z)|, with r linear."""

    @property
    def convex(self) -> bool:
        """Whether the subgradient condition is sufficient for an optimum even where the loss is flat."""
        ...

    def residuals(self, z: Tensor) -> Tensor:
        """r(z), `(M,)`, each in units of its own scale."""
        ...

    def jacobian(self, z: Tensor) -> Tensor:
        """The derivatives of `residuals`, `(M, K)`, at fixed scales."""
        ...

    def kink_weights(self) -> Tensor:
        """The weight of each |r|, `(M,)`, positive."""
        ...

    def smoothed(self, softness: float, bounded: bool = True) -> Problem:
        """The same with each |r| replaced by sqrt(r² + softness²); a convex one without `bounded`."""
        ...

    def signed(self, signs: Tensor) -> Problem:
        """The same with each |r| replaced by sign · r: equal to it where the signs are those of r."""
        ...


class Epoch(NamedTuple):
    """What is known at the end of an epoch.

    Attributes:
        epoch: its number, from 1.
        steps: the number of gradient steps so far.
        training_loss: the mean of the losses of its steps, in nats a row.
        validation_loss: minus the mean log-likelihood of the held-out rows in evaluation mode, in nats a
            row; None without `validation`.
        learning_rate: of its last step.
        seconds: since the training began.
    """

    epoch: int
    steps: int
    training_loss: float
    validation_loss: float | None
    learning_rate: float
    seconds: float


class UnresolvedModeError(UnboundedLikelihoodError):
    """The density is bounded, and float64 cannot resolve the mode to which a spread falls."""


@public
@dataclass(frozen=True)
class Solution:
    """The point where a solver stopped. `converged` is a verified claim, and `status` describes it.

    Nothing is claimed where the value or a component of `z` is not finite.
    """

    z: Tensor
    value: float
    converged: bool
    status: str
    steps: int
    losses: tuple[float, ...] = ()
    hessian: Tensor | None = None
    """The Hessian `(K, K)` next to `z`, where the solver knows it."""
    exact: bool = False
    """Whether `value` is that of all rows at `z` to rounding, and need not be evaluated again."""
    epochs: tuple[Epoch, ...] = ()
    """What was known at the end of each epoch of a training."""
    held_out: float | None = None
    """Minus the mean log-likelihood of the held-out rows at `z`, in nats; None without any."""
    validated: bool = False
    """Whether the held-out loss had ceased to decrease: no optimum of the loss, and no failure."""

    def __post_init__(self) -> None:
        if self.converged and not (math.isfinite(self.value) and bool(torch.isfinite(self.z).all())):
            object.__setattr__(self, "converged", False)
            object.__setattr__(self, "status", f"the loss or the parameters are not finite; {self.status}")


def largest_of(*values: float) -> float:
    """The largest of some numbers; NaN if one of them is, which `max` may drop so that a limit passes."""
    return math.nan if any(map(math.isnan, values)) else max(values)


def scaled_eigen(hessian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues and vectors of a Hessian `(..., K, K)` scaled to a unit diagonal; the scale `(..., K)`."""
    diagonal = hessian.diagonal(dim1=-2, dim2=-1).abs()
    scale = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal)).rsqrt()
    values, vectors = torch.linalg.eigh(scale[..., :, None] * hessian * scale[..., None, :])
    return values, vectors, scale


def is_regular(values: Tensor) -> Tensor:
    """Whether matrices with the eigenvalues `(..., K)` of `scaled_eigen` have a positive inverse, `(...)`."""
    return (values[..., :1] > SINGULAR * values[..., -1:]).all(-1)


def is_curved(average: Tensor) -> Tensor:
    """Whether Hessians a row `(..., K, K)` are curved in all directions, `(...)`, by Cholesky factors.

    Not where an entry is NaN or infinite: an infinite matrix has a Cholesky factor.
    """
    least = FLAT_CURVATURE * torch.eye(average.shape[-1], dtype=average.dtype)
    has_factor = torch.linalg.cholesky_ex(average - least)[1] == 0
    return has_factor & torch.isfinite(average).all(-1).all(-1)


def inverse_roots(values: Tensor, vectors: Tensor, scale: Tensor) -> Tensor:
    """Matrices L `(..., K, K)` with L Lᵀ the inverse of those with this `scaled_eigen`."""
    return scale[..., :, None] * vectors * values.rsqrt()[..., None, :]


def is_finite(values: Tensor) -> bool:
    """Whether all numbers are finite, as their sum then is: none is within a factor of 1e10 of overflow.

    One operation in the place of three, which Newton's method takes for each step of a few parameters.
    """
    return math.isfinite(float(values.sum()))


def newton_direction(hessian: Tensor, gradient: Tensor, rows: int = 1) -> tuple[Tensor, float, bool]:
    """`newton_directions` of one problem; the decrement is NaN where something is not finite."""
    factor, failed = torch.linalg.cholesky_ex(hessian)
    pivots = factor.diagonal().tolist()
    if not failed and pivots and min(pivots) > MIN_PIVOT_SPAN * largest_of(*pivots):
        direction = -torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        squared = -float(gradient @ direction)
        if math.isfinite(squared):  # so the factor and the gradient are
            return direction, math.sqrt(max(0.0, squared)), True
    if not bool(torch.isfinite(hessian).all() & torch.isfinite(gradient).all()):
        return torch.full_like(gradient, math.nan), math.nan, False
    number = gradient.new_full((1,), rows)
    direction, decrement, definite = newton_directions(hessian[None], gradient[None], number)
    return direction[0], float(decrement), bool(definite)


def newton_directions(hessian: Tensor, gradient: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each problem a descent direction, its decrement sqrt(gᵀ H⁻¹ g), whether H is positive definite.

    Where the log-likelihood is concave the decrement is the distance to the optimum in standard errors.
    Negative curvature counts by its size (Dauphin et al. 2014). Where there is none, as where all rows are in
    the linear part of Huber's loss, it counts as one a row, which is what coordinates are scaled to.

    Shapes: `hessian` `(S, K, K)`, `gradient` `(S, K)`, `rows` `(S,)`; `(S, K)`, `(S,)` and `(S,)` come back.
    """
    if gradient.shape[-1] == 0:
        return gradient, torch.zeros_like(rows), torch.ones_like(rows, dtype=torch.bool)
    factor, failed = torch.linalg.cholesky_ex(hessian)
    definite = (failed == 0) & _well_conditioned(factor)
    identity = torch.eye(gradient.shape[-1], dtype=gradient.dtype)
    factor = torch.where(definite[:, None, None], factor, identity)
    direction = -torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    if not bool(definite.all()):
        rest = (~definite).nonzero()[:, 0]
        direction[rest], definite[rest] = _eigen_directions(hessian[rest], gradient[rest], rows[rest])
    decrement = -(gradient * direction).sum(-1)
    return direction, decrement.clamp_min(0).sqrt(), definite


def _eigen_directions(hessian: Tensor, gradient: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    bare = hessian.diagonal(dim1=-2, dim2=-1) == 0
    values, vectors, scale = scaled_eigen(hessian + torch.diag_embed(bare * rows[:, None]))
    curved = values.abs() > MIN_EIGENVALUE_SHARE * values.abs().amax(-1, keepdim=True)
    along = (vectors.mT @ (scale * gradient)[..., None])[..., 0] / torch.where(curved, values.abs(), 1.0)
    direction = -scale * (vectors @ along[..., None])[..., 0]
    return direction, ~bare.any(-1) & (curved & (values > 0)).all(-1)


def _well_conditioned(factor: Tensor) -> Tensor:
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    return diagonal.amin(-1) > MIN_PIVOT_SPAN * diagonal.amax(-1)
