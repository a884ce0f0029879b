"""Models of a response with many components."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.transforms import ExpTransform, SigmoidTransform
from torch import Tensor

from neglog.calls import public
from neglog.distributions import MultivariateNormal, correlation_cholesky
from neglog.distributions.shapes import Scaled
from neglog.errors import DataError
from neglog.models.replaced import Loss, declare_loss
from neglog.predictors import RESPONSE, Designs, design, linear, positive, row_count, rows, sized

EXACT = 1e-12
"""The spread of residuals, in units of the largest response, that is rounding."""


def _dimensions(y: Tensor) -> int:
    if y.dim() != 2 or y.shape[1] == 0:
        raise DataError(
            f"a vector-valued model needs `y` of shape (rows, components); it has {tuple(y.shape)}."
        )
    return y.shape[1]


class _Begin:
    """Where a solver begins: at least squares and the covariance of its residuals, from the complete rows."""

    def __init__(self, x: Designs) -> None:
        columns = design("mean", x)
        self.columns = torch.cat([columns.new_ones((len(columns), 1)), columns.detach()], dim=1)
        self.sites = {
            "mean.bias": lambda y, w, shape: self.coefficients(y, w)[0],
            "mean.weight": lambda y, w, shape: self.coefficients(y, w)[1:].T,
            "scale": lambda y, w, shape: self.scale(y, w),
            "log_scale.bias": lambda y, w, shape: self.scale(y, w).log(),
            "correlation_cholesky": lambda y, w, shape: self.factor(y, w),
            "partial.bias": lambda y, w, shape: self.partial(y, w),
        }

    def __call__(self, site: Any) -> dict[str, Any]:
        return {"begin": self.sites[site["name"]]} if site["name"] in self.sites else {}

    def coefficients(self, y: Tensor, weights: Tensor) -> Tensor:
        whole = ~y.isnan().any(dim=1)
        root = weights[whole].sqrt().unsqueeze(1)
        return torch.linalg.lstsq(root * self.columns[whole], root * y[whole], driver="gelsd").solution

    def residuals(self, y: Tensor, weights: Tensor) -> Tensor:
        """The residuals of the complete rows, scaled so that their sum of squares is the weighted mean."""
        whole = ~y.isnan().any(dim=1)
        share = weights[whole] / weights[whole].sum()
        found = y[whole] - self.columns[whole] @ self.coefficients(y, weights)
        return share.sqrt().unsqueeze(1) * found

    def scale(self, y: Tensor, weights: Tensor) -> Tensor:
        """The spread of the residuals; 1 where these are the rounding of `y`."""
        spread, size = self.residuals(y, weights).norm(dim=0), y.nan_to_num(0.0).abs().amax(dim=0)
        return torch.where(spread > EXACT * size, spread, 1.0)

    def factor(self, y: Tensor, weights: Tensor) -> Tensor:
        """The Cholesky factor of the residuals' correlations; 1 where they are singular."""
        residuals = self.residuals(y, weights)
        units = residuals / residuals.norm(dim=0)
        factor, failed = torch.linalg.cholesky_ex(units.T @ units)
        sure = not failed and bool((factor.diagonal() > 1e-6).all())
        return factor if sure else torch.eye(y.shape[1], dtype=y.dtype)

    def partial(self, y: Tensor, weights: Tensor) -> Tensor:
        """atanh of the partial correlations that the factor holds, row by row."""
        factor = self.factor(y, weights)
        row, column = torch.tril_indices(len(factor), len(factor), offset=-1)
        left = 1 - (torch.cumsum(factor.square(), dim=1) - factor.square())
        return torch.atanh((factor / left.sqrt())[row, column])


@public
@sized(dimensions=_dimensions)
def multivariate_gaussian(x: Designs, y: Tensor | None = None, dimensions: int | None = None) -> Tensor:
    """Many responses with one full covariance: y ~ MultivariateNormal(mean, covariance), y `(N, D)`.

    Density: exp(-rᵀ S⁻¹ r / 2) / sqrt((2π)^D det S), r = y - mean; the NLL is half the squared Mahalanobis
    distance and a constant. S = diag(scale) L Lᵀ diag(scale).
    Sites: ``mean.weight`` `(D, P)`, ``mean.bias`` `(D,)`, ``scale`` `(D,)`, and ``correlation_cholesky``
    `(D, D)`, the factor L of the correlation matrix, with the prior LKJ(1); without it for D = 1.
    `dimensions` is read from `y`; bind it where there is none.
    Estimates: the conditional mean, which least squares finds component by component, and the covariance of
    the residuals, divided by N.
    Source: Anderson (1958), An Introduction to Multivariate Statistical Analysis, chapter 8; Lewandowski,
    Kurowicka & Joe (2009).

    >>> import torch
    >>> from neglog import mle
    >>> y = torch.tensor([[1.0, 0.0], [2.0, 3.0], [3.0, 2.0], [6.0, 7.0]], dtype=torch.float64)
    >>> fit = mle(multivariate_gaussian, torch.empty((4, 0), dtype=torch.float64), y)
    >>> fit.params["mean.bias"], fit.params["scale"] ** 2
    (tensor([3., 3.], dtype=torch.float64), tensor([3.5000, 6.5000], dtype=torch.float64))
    """
    assert dimensions is not None
    with poutine.infer_config(config_fn=_Begin(x)):
        mean = linear("mean", x, outputs=dimensions)
        scale = positive("scale", x, outputs=dimensions)
        factor = _correlation(mean, dimensions)
    with rows(x):
        return pyro.sample(RESPONSE, MultivariateNormal(mean, scale_tril=scale.unsqueeze(-1) * factor), obs=y)


declare_loss(
    multivariate_gaussian,
    Loss(
        "squared Mahalanobis distance",
        torch_loss="the negative log-likelihood of the multivariate Normal",
        density="exp(−rᵀ S⁻¹ r / 2) / √((2π)^D det S), r = y − mean",
        estimates="conditional mean vector; S = covariance of the residuals, over n",
        choose_when="y is a vector with a constant covariance",
        response="vector",
        page="vectors.md",
    ),
)


def _correlation(like: Tensor, dimensions: int) -> Tensor:
    one = like.new_ones(())
    if dimensions == 1:
        return one.expand(1, 1)
    return pyro.sample("correlation_cholesky", dist.LKJCholesky(dimensions, one))


@public
@sized(dimensions=_dimensions)
def multivariate_heteroscedastic(
    x: Designs, y: Tensor | None = None, dimensions: int | None = None
) -> Tensor:
    """Many responses whose full covariance depends on the input: y ~ MultivariateNormal(mean, S(x)).

    Density: that of `multivariate_gaussian`, with S(x) = diag(s) L Lᵀ diag(s), s = exp(log_scale), and L the
    Cholesky factor of the correlation matrix whose partial correlations are tanh(partial): positive definite
    whatever the predictors are. The partial correlation of components i and j < i is that given 0, …, j - 1;
    for D = 2 it is the correlation.
    Sites: ``.weight`` and ``.bias`` of ``mean`` and ``log_scale``, `(D, P)` and `(D,)`, and of ``partial``,
    `(D(D-1)/2, P)` and `(D(D-1)/2,)`, row by row of the triangle: (1,0), (2,0), (2,1), …. Where all columns
    of x are 0, the priors are half-Cauchy(1) on the scales and LKJ(1) on the correlation matrix.
    Estimates: the conditional mean vector and the conditional covariance matrix.
    Source: Pourahmadi (1999) for the idea; Joe (2006) for correlations from partial correlations.

    >>> import torch
    >>> from neglog import mle, predict
    >>> x = torch.tensor([[0.0]] * 3 + [[1.0]] * 3, dtype=torch.float64)
    >>> y = torch.tensor([[0.0, 1], [1, 0], [2, 2], [0, 3], [6, 0], [3, 3]], dtype=torch.float64)
    >>> fit = mle(multivariate_heteroscedastic, x, y)
    >>> predict(fit, x).covariance_matrix[[0, 5]].round(decimals=4)
    tensor([[[ 0.6667,  0.3333],
             [ 0.3333,  0.6667]],
    <BLANKLINE>
            [[ 6.0000, -3.0000],
             [-3.0000,  2.0000]]], dtype=torch.float64)
    """
    assert dimensions is not None
    with poutine.infer_config(config_fn=_Begin(x)):
        mean = linear("mean", x, outputs=dimensions)
        log_scale = linear("log_scale", x, outputs=dimensions, bias=_log_half_cauchy(mean, dimensions))
        partial = _partial(x, mean, dimensions)
    factor = torch.exp(log_scale).unsqueeze(-1) * correlation_cholesky(partial, dimensions)
    with rows(x):
        return pyro.sample(RESPONSE, MultivariateNormal(mean, scale_tril=factor), obs=y)


declare_loss(
    multivariate_heteroscedastic,
    Loss(
        "multivariate Gaussian NLL with covariance heads",
        torch_loss="the negative log-likelihood of the multivariate Normal",
        density="the same, S = S(x) by log scales and partial correlations",
        estimates="conditional mean vector and covariance matrix",
        choose_when="y is a vector whose covariance depends on x",
        response="vector",
        page="vectors.md",
    ),
)


def _partial(x: Designs, like: Tensor, dimensions: int) -> Tensor:
    """atanh of the partial correlations, `(N, D(D-1)/2)`."""
    pairs = [(i, j) for i in range(dimensions) for j in range(i)]
    if not pairs:
        return like.new_zeros((row_count(x), 0))
    names = [f"{i},{j}" for i, j in pairs]
    return linear("partial", x, outputs=names, bias=_lkj_partial(like, pairs, dimensions))


def _log_half_cauchy(like: Tensor, dimensions: int) -> dist.Distribution:
    return dist.TransformedDistribution(
        dist.HalfCauchy(like.new_ones(dimensions)), ExpTransform().inv
    ).to_event(1)


def _lkj_partial(like: Tensor, pairs: list[tuple[int, int]], dimensions: int) -> dist.Distribution:
    """atanh of the partial correlations under LKJ(1): each is Beta(b, b) on (-1, 1), b = (D - j) / 2."""
    half = like.new_tensor([(dimensions - j) / 2 for _, j in pairs])
    atanh = [SigmoidTransform().inv, Scaled(0.5)]
    return dist.TransformedDistribution(dist.Beta(half, half), atanh).to_event(1)
