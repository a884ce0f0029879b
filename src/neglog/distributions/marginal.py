"""The marginal distribution of the observed entries of a Normal vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions.family import Family, register
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.special import HALF_LOG_TWO_PI
from neglog.distributions.vectors import MultivariateNormal


@public
class MarginalNormal(TorchDistribution):
    """MarginalNormal(base_dist, known): the density of the `known` entries of a MultivariateNormal.

    Density: exp(-½ rᵀ S⁻¹ r) / √((2π)^K |S|) with r and S the residual and covariance of the K known entries.
    Shapes: `known` is boolean, `(..., D)`, and broadcasts with the batch of `base_dist`. Values are
    `(..., D)`, with anything finite where they are not known. Where nothing is known the log-density is 0.
    Estimates: what `base_dist` does, from vectors with holes in them. Source: Anderson (1957), Maximum
    likelihood estimates for a multivariate Normal distribution when some observations are missing.

    >>> import torch, pyro.distributions as dist
    >>> pair = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    >>> MarginalNormal(pair, torch.tensor([True, False])).log_prob(torch.zeros(2))  # -½ log 2π
    tensor(-0.9189)
    """

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.real_vector

    def __init__(self, base_dist: Any, known: Tensor, *, validate_args: bool | None = None) -> None:
        self.base_dist, self.known = base_dist, known
        batch = broadcast_shapes(base_dist.batch_shape, known.shape[:-1])
        super().__init__(batch, base_dist.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(MarginalNormal, _instance)
        batch_shape = torch.Size(batch_shape)
        new.base_dist, new.known = self.base_dist.expand(batch_shape), self.known
        super(MarginalNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of the known entries, every constant included."""
        if self._validate_args:
            self._validate_sample(value)
        # With 1 in the place of an unknown entry's variance, and 0 of its residual and covariances, it adds
        # nothing to the determinant and the quadratic form, and ½ log 2π is not counted for it.
        unknown = torch.diag_embed((~self.known).to(value.dtype))
        factor = torch.where(self.known.unsqueeze(-1), self.base_dist.scale_tril, 0.0)
        root = torch.linalg.cholesky(factor @ factor.mT + unknown)
        residual = torch.where(self.known, value - self.base_dist.loc, 0.0)
        whitened = torch.linalg.solve_triangular(root, residual.unsqueeze(-1), upper=False)[..., 0]
        count = self.known.to(value.dtype).sum(-1)
        constants = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + HALF_LOG_TWO_PI * count
        some = -0.5 * whitened.square().sum(-1) - constants
        return torch.where(self.known.all(-1), self.base_dist.log_prob(value), some)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of the whole vector."""
        return self.base_dist.expand(self.batch_shape).sample(sample_shape)

    @property
    def mean(self) -> Tensor:
        """The mean of all components, `(*batch_shape, D)`."""
        return self.base_dist.mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of all components, `(*batch_shape, D)`."""
        return self.base_dist.variance.expand(self.batch_shape + self.event_shape)


register(
    Family(
        MultivariateNormal,
        same=lambda d: MultivariateNormal(d.loc, scale_tril=d.scale_tril),
        marginal=MarginalNormal,
    )
)
