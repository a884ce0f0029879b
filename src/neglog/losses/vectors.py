"""Losses of vector-valued targets: Mahalanobis distances, and the likelihoods with their constants."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

from neglog.calls import public
from neglog.errors import DataError
from neglog.losses.shapes import Reduction, check_pair, check_tensor, reduce


@public
def multivariate_gaussian_nll(
    mean: Tensor, target: Tensor, scale_tril: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a Normal vector with covariance ``scale_tril @ scale_tril.mT``.

    Density: ``(target - mean)ᵀ covariance⁻¹ (target - mean) / 2 + log det(2π covariance) / 2``: half the
    squared Mahalanobis distance, and a constant where the covariance is one.

    Shapes: ``mean`` and ``target`` are `(N, D)`; ``scale_tril``, lower triangular with a positive diagonal,
    is `(D, D)` for all rows or `(N, D, D)`. The result, in nats, is `(N,)` with ``reduction="none"`` and a
    scalar otherwise; ``"mean"`` is over rows.

    Its optimum estimates the conditional mean and the covariance of the residuals (Anderson, 1958).

    Raises ``DataError`` for anything but floating-point tensors of these shapes.

    >>> multivariate_gaussian_nll(torch.zeros(1, 2), torch.ones(1, 2), torch.eye(2))
    tensor(2.8379)
    """
    check_pair("mean", mean, target)
    check_tensor("scale_tril", scale_tril)
    rows, dimensions = _shape(target)
    allowed = ((dimensions, dimensions), (rows, dimensions, dimensions))
    if tuple(scale_tril.shape) not in allowed:
        raise DataError(
            f"`scale_tril` must have the shape {allowed[0]} or {allowed[1]}, not {tuple(scale_tril.shape)}: "
            "nothing is broadcast."
        )
    residual = target - mean
    if scale_tril.dim() == 2:
        white = torch.linalg.solve_triangular(scale_tril, residual.mT, upper=False).mT
    else:
        white = torch.linalg.solve_triangular(scale_tril, residual.unsqueeze(-1), upper=False).squeeze(-1)
    size = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return reduce(0.5 * white.square().sum(-1) + 0.5 * dimensions * math.log(2 * math.pi) + size, reduction)


@public
def multivariate_heteroscedastic_nll(
    mean: Tensor, target: Tensor, log_scale: Tensor, partial: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    """Minus the log-density of a Normal vector whose whole covariance depends on the row.

    Density: that of :func:`multivariate_gaussian_nll` with standard deviations ``exp(log_scale)`` and partial
    correlations ``tanh(partial)``, in the order (1,0), (2,0), (2,1), …, each given the components before.

    Shapes: ``mean``, ``target`` and ``log_scale`` are `(N, D)`, ``partial`` is `(N, D(D-1)/2)`; the result
    and the errors are those of :func:`multivariate_gaussian_nll`.

    Its optimum estimates the conditional mean and covariance (Joe, 2006).

    >>> multivariate_heteroscedastic_nll(*[torch.zeros(1, 2)] * 3, torch.zeros(1, 1))
    tensor(1.8379)
    """
    check_pair("mean", mean, target)
    check_pair("log_scale", log_scale, target)
    check_tensor("partial", partial)
    rows, dimensions = _shape(target)
    needed = (rows, dimensions * (dimensions - 1) // 2)
    if tuple(partial.shape) != needed:
        raise DataError(f"`partial` must have the shape {needed}, not {tuple(partial.shape)}.")
    # Row i of the factor: r_i0, r_i1 s_i0, r_i2 s_i0 s_i1, …, and what is left, with s = sqrt(1 - r²).
    log_cosh = partial + softplus(-2 * partial, threshold=40) - math.log(2)
    factor, at = [], 0
    for i in range(dimensions):
        r, shrink = torch.tanh(partial[:, at : at + i]), torch.cumsum(-log_cosh[:, at : at + i], dim=1)
        left = torch.exp(torch.cat([torch.zeros_like(target[:, :1]), shrink], dim=1))
        row = torch.cat([r, torch.ones_like(target[:, :1])], dim=1) * left
        factor.append(torch.nn.functional.pad(row, (0, dimensions - i - 1)))
        at += i
    scale_tril = torch.exp(log_scale).unsqueeze(-1) * torch.stack(factor, dim=1)
    return multivariate_gaussian_nll(mean, target, scale_tril, reduction=reduction)


def _shape(target: Tensor) -> tuple[int, int]:
    if target.dim() != 2 or target.shape[1] == 0:
        raise DataError(f"`target` must have the shape (rows, components), not {tuple(target.shape)}.")
    return target.shape[0], target.shape[1]
