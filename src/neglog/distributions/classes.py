"""Families of classes: codes 0, 1, ..., K - 1, without an order and with one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from neglog.calls import public
from neglog.distributions import deviances
from neglog.distributions.base import Compound, Parameter, as_tensors
from neglog.distributions.counts import Counts
from neglog.distributions.family import Family, register
from neglog.distributions.shapes import broadcast_shapes, validation
from neglog.distributions.special import log1m_exp, log_expit


@public
class Categorical(dist.Categorical):
    """Pyro's Categorical(probs) or Categorical(logits=...), whose draws are numbers like those of the data.

    Density: probs[y] for y in 0, ..., K - 1, with probs the softmax of the logits.
    Shapes: `logits` and `probs` are `(..., K)` and the batch is `(...)`; y may be of a floating type.
    Estimates: the probability of each class; a class has no mean and no distribution function.
    Source: Luce (1959), Individual Choice Behavior; McFadden (1974).
    `log_prob` and its derivatives keep their digits where one class has nearly all the probability.

    >>> import torch
    >>> Categorical(logits=torch.tensor([0.0, 0.0])).log_prob(torch.tensor(1.0)).exp()
    tensor(0.5000)
    """

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        shapes = (each.shape for each in (probs, logits) if each is not None)
        super().__init__(probs, logits, validate_args=validation(validate_args, *shapes))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        return super().expand(batch_shape, _instance or type(self).__new__(type(self)))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of the class `value`."""
        if self._validate_args:
            self._validate_sample(value)
        code, logits = torch.broadcast_tensors(value.unsqueeze(-1), self.logits)
        code = code[..., :1].long()
        # log p = -log(1 + sum of the others' odds against the class), never the difference of two large sums.
        others = logits.scatter(-1, code, -torch.inf)
        return log_expit(logits.gather(-1, code)[..., 0] - torch.logsumexp(others, -1))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of the class, `(*sample_shape, *batch_shape)`, as floats."""
        return super().sample(sample_shape).to(self.logits.dtype)


def _codes(fn: Any) -> range:
    return range(fn.probs.shape[-1])


register(
    Family(
        Categorical,
        same=lambda d: Categorical(logits=d.logits),
        events=_codes,
        classes="log-odds",
        deviance=deviances.classes,
        ordered=False,
    )
)


class _NeverFalling(constraints.Constraint):
    """Vectors whose entries never fall: with two alike, the class between them has no probability."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value[..., 1:] >= value[..., :-1]).all(-1) & ~value.isnan().any(-1)


@public
class Ordered(Counts, Compound):
    """Ordered(location, cutpoints): classes in an order, the steps of a logistic variable (cumulative logit).

    Density: P(y ≤ k) = 1 / (1 + exp(location - cutpoints[k])) for y in 0, ..., K - 1.
    Shapes: `cutpoints` `(..., K - 1)`, which never fall; `location` any shape that broadcasts with `(...)`.
    Estimates: the location of a latent variable, and the thresholds between the classes; the mean is that of
    the codes. Source: McCullagh (1980), Regression models for ordinal data.
    `log_prob` is no difference of probabilities: it keeps its digits in both tails and for narrow classes.
    Raises ``ValueError`` for cutpoints that fall.

    >>> import torch
    >>> Ordered(0.0, torch.tensor([0.0, 1.0])).cdf(torch.tensor([0.0, 1.0, 2.0]))
    tensor([0.5000, 0.7311, 1.0000])
    """

    arg_constraints: Mapping[str, Any] = {
        "location": constraints.real,
        "cutpoints": _NeverFalling(),
    }
    _kept = ("location", "cutpoints")

    location: Tensor
    cutpoints: Tensor

    def __init__(self, location: Parameter, cutpoints: Tensor, *, validate_args: bool | None = None) -> None:
        self.location, self.cutpoints = as_tensors(location, cutpoints)
        shape = broadcast_shapes(self.location.shape, self.cutpoints.shape[:-1])
        super().__init__(shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """The classes 0, …, K - 1."""
        return constraints.integer_interval(0, self._most())

    def _most(self) -> int:
        return self.cutpoints.shape[-1]

    def _log_prob(self, value: Tensor) -> Tensor:
        # σ(b) - σ(a) = σ(b) σ(-a) (1 - exp(a - b)) with b and a the cuts above and below, less the location.
        most = self._most()
        width = torch.nn.functional.pad(_log_width(self.cutpoints.diff(dim=-1)), (1, 1))
        below = log_expit(self._cut(value.clamp(max=most - 1)) - self.location)
        above = log_expit(self.location - self._cut((value - 1).clamp(min=0)))
        ends = torch.where(value < most, below, 0.0) + torch.where(value > 0, above, 0.0)
        return ends + _at(width, value)

    def _cut(self, index: Tensor) -> Tensor:
        return _at(self.cutpoints, index)

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        distance = self._distance(value)
        return self._outside(value, (torch.sigmoid(distance), torch.sigmoid(-distance)))

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        distance = self._distance(value)
        return self._log_outside(value, (log_expit(distance), log_expit(-distance)))

    def _distance(self, value: Tensor) -> Tensor:
        """The distance of the cut above the class `value`, if there is one, from the location."""
        return self._cut(torch.floor(value).clamp(0, self._most() - 1)) - self.location

    @property
    def probs(self) -> Tensor:
        """The probability of each class, `(..., K)`."""
        codes = torch.arange(self._most() + 1, dtype=self.cutpoints.dtype, device=self.cutpoints.device)
        codes = codes.reshape(-1, *(1 for _ in self.batch_shape))
        return self._log_prob(codes).exp().expand(len(codes), *self.batch_shape).movedim(0, -1)

    @property
    def _beyond(self) -> Tensor:
        """P(y > k) for k = 0, ..., K - 2, `(..., K - 1)`."""
        return torch.sigmoid(self.location.unsqueeze(-1) - self.cutpoints)

    @property
    def mean(self) -> Tensor:
        """The mean of the code of the class, Σ_k P(y > k)."""
        return self._beyond.sum(-1).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of the code of the class."""
        # E y² is the sum over k of ((k + 1)² - k²) P(y > k).
        odd = 2 * torch.arange(self._most(), dtype=self.cutpoints.dtype, device=self.cutpoints.device) + 1
        return ((odd * self._beyond).sum(-1) - self._beyond.sum(-1) ** 2).expand(self.batch_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of the class, `(*sample_shape, *batch_shape)`, as floats."""
        with torch.no_grad():
            beyond = self._beyond
            uniform = torch.rand(self._extended_shape(sample_shape), dtype=beyond.dtype, device=beyond.device)
            return (uniform.unsqueeze(-1) < beyond).sum(-1).to(beyond.dtype)


register(Family(Ordered, events=_codes, classes="cutpoints", deviance=deviances.classes))


def _log_width(step: Tensor) -> Tensor:
    """log(1 - exp(-step)); -∞, without a derivative, where a class has no width."""
    some = step > 0
    return torch.where(some, log1m_exp(torch.where(some, step, 1.0)), -torch.inf)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """`values` `(..., M)` at an index that broadcasts with `(...)`."""
    index = index.long()
    if values.dim() == 1:
        return values[index]
    shape = broadcast_shapes(values.shape[:-1], index.shape)
    return values.expand(*shape, values.shape[-1]).gather(-1, index.expand(shape).unsqueeze(-1))[..., 0]
