"""Mixtures of Normals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions import ranked
from neglog.distributions.base import Compound
from neglog.distributions.family import Family, register
from neglog.distributions.intervals import log_normal_interval
from neglog.distributions.quantiles import at_ends, corrected, interior, solve_quantile
from neglog.distributions.shapes import broadcast_shapes
from neglog.distributions.special import HALF_LOG_TWO_PI, log_ndtr, ndtr


@public
class NormalMixture(Compound):
    """NormalMixture(logits, means, sigmas): one of K Normals, drawn with the softmax of `logits`.

    Density: Σ w exp(-z² / 2) / (sigmas √(2π)) over the components, z = (y - means) / sigmas and
    w = softmax(logits).
    Shapes: all three end in the components, `(..., K)`, and broadcast before them; the batch is `(...)`.
    `means` and `sigmas` are in units of y; logits may be -∞, for a component that is left out.
    Estimates: a density with several modes. Source: Pearson (1894); Bishop (1994), Mixture density networks.
    `icdf` is solved for, with the first derivatives of the implicit function; so are those of a draw
    (Figurnov, Mohamed & Mnih 2018).
    Raises ``ValueError`` for a sigma that is not positive, or components that are not alike in number.

    >>> import torch
    >>> two = NormalMixture(torch.zeros(2), torch.tensor([-3.0, 3.0]), torch.ones(2))
    >>> two.icdf(torch.tensor(0.5)), two.variance
    (tensor(0.), tensor(10.))
    """

    arg_constraints: Mapping[str, Any] = {
        "logits": constraints.independent(constraints.interval(-math.inf, math.inf), 1),
        "means": constraints.real_vector,
        "sigmas": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real
    has_rsample = True
    _kept = ("logits", "means", "sigmas")

    def __init__(
        self, logits: Tensor, means: Tensor, sigmas: Tensor, *, validate_args: bool | None = None
    ) -> None:
        self.logits, self.means, self.sigmas = logits, means, sigmas
        sizes = {values.shape[-1:] for values in (logits, means, sigmas)}
        if len(sizes) != 1 or sizes == {torch.Size()}:
            shapes = ", ".join(str(tuple(values.shape)) for values in (logits, means, sigmas))
            raise ValueError(
                "`logits`, `means` and `sigmas` must have the same last dimension, the number of "
                f"components; their shapes are {shapes}."
            )
        shape = broadcast_shapes(logits.shape, means.shape, sigmas.shape)
        super().__init__(shape[:-1], validate_args=validate_args)

    @property
    def probs(self) -> Tensor:
        """The weights of the components."""
        return torch.softmax(self.logits, -1)

    def components(self, value: Tensor) -> Tensor:
        """The log-density of `value` and of having come from each component, `(..., K)`."""
        z = (value.unsqueeze(-1) - self.means) / self.sigmas
        each = torch.log_softmax(self.logits, -1) - torch.log(self.sigmas)
        return each - 0.5 * z**2 - HALF_LOG_TWO_PI

    def spread_at(self, value: Tensor) -> Tensor:
        """The sigma of the component that most likely drew `value`."""
        nearest = self.components(value).argmax(-1, keepdim=True)
        return self.sigmas.expand(*nearest.shape[:-1], -1).gather(-1, nearest)[..., 0]

    def _log_prob(self, value: Tensor) -> Tensor:
        return torch.logsumexp(self.components(value), -1)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        z = (value.unsqueeze(-1) - self.means) / self.sigmas
        return (self.probs * ndtr(z)).sum(-1), (self.probs * ndtr(-z)).sum(-1)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        z = (value.unsqueeze(-1) - self.means) / self.sigmas
        each = torch.log_softmax(self.logits, -1)
        return torch.logsumexp(each + log_ndtr(z), -1), torch.logsumexp(each + log_ndtr(-z), -1)

    def _log_interval(self, lower: Tensor, upper: Tensor) -> Tensor:
        start, width = lower.unsqueeze(-1), (upper - lower).unsqueeze(-1)
        each = log_normal_interval(start, width, self.means, self.sigmas)
        return torch.logsumexp(torch.log_softmax(self.logits, -1) + each, -1)

    @property
    def mean(self) -> Tensor:
        """Σ_k probs_k · means_k."""
        return (self.probs * self.means).sum(-1).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """Σ_k probs_k (sigmas_k² + (means_k - mean)²)."""
        within = self.sigmas**2 + (self.means - self.mean.unsqueeze(-1)) ** 2
        return (self.probs * within).sum(-1).expand(self.batch_shape)

    def _quantile(self, q: Tensor) -> Tensor:
        inner = interior(q)
        fixed = inner.detach()
        with torch.no_grad():
            centre, spread = self.mean, self.stddev

            def at(s: Tensor) -> Tensor:
                return centre + spread * s

            def density(s: Tensor) -> Tensor:
                return torch.exp(self._log_prob(at(s))) * spread

            start = torch.special.ndtri(fixed).expand(broadcast_shapes(q.shape, self.batch_shape))
            value = at(solve_quantile(fixed, lambda s: self._tails(at(s)), density, start))
        height = torch.exp(self._log_prob(value))
        return at_ends(q, corrected(inner, value, self._tails(value), height), -math.inf, math.inf)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws `(*sample_shape, *batch_shape)`, differentiable by implicit reparametrisation.

        Source: Figurnov, Mohamed & Mnih (2018), Implicit reparameterization gradients.
        """
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            probs = self.probs.expand(*self.batch_shape, -1)
            chosen = torch.distributions.Categorical(probs).sample(sample_shape).unsqueeze(-1)
            means, sigmas = (
                values.expand(*shape, -1).gather(-1, chosen)[..., 0] for values in (self.means, self.sigmas)
            )
            value = torch.normal(means, sigmas)
            height = torch.exp(self._log_prob(value))
        # With F(y; θ) constant at the draw, dy/dθ = -(dF/dθ) / f.
        reached = self._tails(value)[0]
        return value - (reached - reached.detach()) / height


register(
    Family(
        NormalMixture,
        ("means", "sigmas", "probs"),
        crps=ranked.normal_mixture,
        scales=lambda d: d.sigmas,
        is_mixture=True,
    )
)
