"""The base class of the families: parameters kept in the shape they were given, and one frame for `log_prob`.

torch broadcasts the parameters of a distribution against each other. A scalar dispersion then costs as many
evaluations of the log-gamma function, and of its derivatives, as there are rows. Here the attributes are
broadcast, as torch's are, while densities are computed from the parameters as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from neglog.distributions.shapes import broadcast_shapes, validation
from neglog.distributions.special import log_of
from neglog.distributions.supports import check_probabilities

Parameter = Tensor | float


def as_tensors(*values: Parameter) -> tuple[Tensor, ...]:
    """Numbers as tensors without dimensions, of the floating type and device of the tensors among them."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return tuple(torch.tensor(value, dtype=torch.get_default_dtype()) for value in values)
    dtype, device = tensors[0].dtype, tensors[0].device
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(v if isinstance(v, Tensor) else torch.tensor(v, dtype=dtype, device=device) for v in values)


class FamilyMixin:
    """Mixed into a distribution of Pyro's: it remembers its parameters as given, through `expand` too."""

    _given: tuple[Tensor, ...]

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        instance = type(self).__new__(type(self)) if _instance is None else _instance
        new: Any = super().expand(batch_shape, _instance=instance)  # type: ignore[misc]
        new._given = self._given
        return new

    def log_prob(self: Any, value: Tensor) -> Tensor:
        """The log-density at `value`, every constant included."""
        if self._validate_args:
            self._validate_sample(value)
        return self._broadcast(self._log_prob(value), value)

    def cdf(self: Any, value: Tensor) -> Tensor:
        """The probability of at most `value`, with relative accuracy in the lower tail; any real value."""
        return self._broadcast(self._tails(value)[0], value)

    def sf(self: Any, value: Tensor) -> Tensor:
        """The probability of more than `value`, with relative accuracy in the upper tail; any real value."""
        return self._broadcast(self._tails(value)[1], value)

    def log_cdf(self, value: Tensor) -> Tensor:
        """The log of `cdf`, with all its digits and derivatives where `cdf` is too small for a float."""
        return self._broadcast(self._log_tails(value)[0], value)

    def log_sf(self, value: Tensor) -> Tensor:
        """The log of `sf`, with all its digits and derivatives where `sf` is too small for a float."""
        return self._broadcast(self._log_tails(value)[1], value)

    def _log_tails(self: Any, value: Tensor) -> tuple[Tensor, Tensor]:
        """The logs of both tails; families whose tails underflow override this."""
        lower, upper = self._tails(value)
        return log_of(lower), log_of(upper)

    def icdf(self: Any, value: Tensor) -> Tensor:
        """The quantile: the smallest number in the support whose `cdf` is at least `value`.

        Raises ``ValueError`` for a `value` outside 0 ≤ value ≤ 1, unless validation is off.
        """
        if self._validate_args:
            check_probabilities(value)
        return self._broadcast(self._quantile(value), value)

    def _broadcast(self: Any, result: Tensor, value: Tensor) -> Tensor:
        """`result` in the shape of the value against the batch, which may be larger than what was given."""
        if result.shape == value.shape == self.batch_shape:
            return result
        return result.expand(broadcast_shapes(value.shape, self.batch_shape))


class Univariate(FamilyMixin, TorchDistribution):
    """A distribution of numbers: a subclass names its parameters in `arg_constraints`, in the order given."""

    def __init__(self, *parameters: Parameter, validate_args: bool | None = None) -> None:
        self._given = as_tensors(*parameters)
        full = broadcast_all(*self._given)
        for name, value in zip(self.arg_constraints, full, strict=True):
            setattr(self, name, value)
        super().__init__(full[0].shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new._given = self._given
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        super(Univariate, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new


class Located(Univariate):
    """A distribution of real numbers with a `location`, drawn through its quantile function."""

    support = constraints.real
    has_rsample = True

    location: Tensor

    @property
    def loc(self) -> Tensor:
        """The location under torch's name."""
        return self.location

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws `(*sample_shape, *batch_shape)` through the quantile function, differentiable as it is."""
        shape = self._extended_shape(sample_shape)
        tiny = torch.finfo(self.location.dtype).tiny
        uniform = torch.rand(shape, dtype=self.location.dtype, device=self.location.device)
        quantiles: Tensor = self._quantile(uniform.clamp(min=tiny))
        return quantiles

    def _quantile(self, q: Tensor) -> Tensor:
        raise TypeError("a subclass defines its quantile function")


class ByTails(TorchDistribution):
    """A distribution of one number for each row that is computed from others; a subclass gives its tails."""

    arg_constraints: Mapping[str, Any] = {}

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of at most `value`."""
        return self.log_cdf(value).exp()

    def sf(self, value: Tensor) -> Tensor:
        """The probability of more than `value`."""
        return self._log_tails(value)[1].exp()

    def log_cdf(self, value: Tensor) -> Tensor:
        """The log of `cdf`."""
        return self._log_tails(value)[0]

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The logs of both tails."""
        raise TypeError("a subclass defines its tails")


class Compound(FamilyMixin, TorchDistribution):
    """A family whose parameters have shapes of their own, or are distributions: all stay as they were given.

    A subclass sets them, names them in `_kept`, and passes the batch shape on. Its log-densities and tails
    are broadcast to the batch, and the parameters are not.
    """

    _kept: tuple[str, ...] = ()

    def __init__(self, batch_shape: torch.Size, *, validate_args: bool | None = None) -> None:
        super().__init__(batch_shape, validate_args=validation(validate_args, batch_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        for name in self._kept:
            setattr(new, name, getattr(self, name))
        super(FamilyMixin, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new
