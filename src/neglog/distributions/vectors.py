"""Families of a response with many components."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import MultivariateNormal as _MultivariateNormal
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import softplus

from neglog.calls import public
from neglog.distributions.shapes import broadcast_shapes, validation


@public
class MultivariateNormal(_MultivariateNormal):
    """A Normal vector with mean `loc` `(..., D)` and covariance ``scale_tril @ scale_tril.mT``.

    Pyro's, with the log-density by one triangular solve, which is as exact where the covariance is close to
    singular as the factor is.

    >>> import torch
    >>> MultivariateNormal(torch.zeros(2), scale_tril=torch.eye(2)).log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    def __init__(
        self,
        loc: Tensor,
        covariance_matrix: Tensor | None = None,
        precision_matrix: Tensor | None = None,
        scale_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        validate_args = validation(validate_args, loc.shape)
        given = (covariance_matrix, precision_matrix, scale_tril)
        if scale_tril is not None and given[:2] == (None, None) and scale_tril.dim() >= 2 and loc.dim() >= 1:
            self._by_factor(loc, scale_tril, validate_args)
        else:  # otherwise torch raises its own error
            super().__init__(loc, covariance_matrix, precision_matrix, scale_tril, validate_args)

    def _by_factor(self, loc: Tensor, scale_tril: Tensor, validate_args: bool | None) -> None:
        """What torch does, without its `broadcast_shapes`, which imports sympy: that takes a second."""
        batch_shape = broadcast_shapes(scale_tril.shape[:-2], loc.shape[:-1])
        self.loc = loc.expand((*batch_shape, -1))
        self.scale_tril = scale_tril.expand((*batch_shape, -1, -1))
        self._unbroadcasted_scale_tril = scale_tril
        Distribution.__init__(self, batch_shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        return super().expand(batch_shape, _instance or type(self).__new__(type(self)))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of `value` `(..., D)`, every constant included."""
        if self._validate_args:
            self._validate_sample(value)
        factor = self._unbroadcasted_scale_tril
        residual = value - self.loc
        if factor.dim() == 2 or factor.shape[-3] == 1:  # one covariance for all rows: one solve for them all
            single = factor if factor.dim() == 2 else factor.squeeze(-3)
            rows = residual.unsqueeze(0) if residual.dim() == 1 else residual
            whitened = torch.linalg.solve_triangular(single, rows.mT, upper=False).mT.reshape(residual.shape)
        else:
            whitened = torch.linalg.solve_triangular(factor, residual.unsqueeze(-1), upper=False).squeeze(-1)
        size = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (whitened.square().sum(-1) + math.log(2 * math.pi) * value.shape[-1]) - size


@public
def correlation_cholesky(partial: Tensor, dimensions: int) -> Tensor:
    """The Cholesky factor `(..., D, D)` of the correlation matrix with partial correlations tanh(partial).

    `partial` `(..., D(D-1)/2)` stands row by row of the lower triangle; (i, j) is the correlation of i and j
    given 0, …, j - 1. In logarithms, so that no entry of the diagonal becomes 0 before its time.

    Source: Lewandowski, Kurowicka & Joe (2009), section 2.4.

    >>> import torch
    >>> factor = correlation_cholesky(torch.atanh(torch.tensor([0.6])), 2)
    >>> factor
    tensor([[1.0000, 0.0000],
            [0.6000, 0.8000]])
    """
    lower = torch.tril(torch.ones(dimensions, dimensions, dtype=torch.bool), diagonal=-1)
    place = (torch.cumsum(lower.reshape(-1), 0) - 1).clamp_min(0).reshape(dimensions, dimensions)
    if not partial.shape[-1]:
        return partial.new_ones((*partial.shape[:-1], 1, 1))
    # log sqrt(1 - tanh²) = -log cosh
    log_cosh = partial + softplus(-2 * partial, threshold=40) - math.log(2)
    left = torch.where(lower, -log_cosh[..., place], 0.0)
    before = torch.cumsum(left, dim=-1) - left
    entries = torch.where(lower, torch.tanh(partial)[..., place], torch.eye(dimensions, dtype=partial.dtype))
    return entries * torch.exp(before)
