"""Distributions of the rows of several batches, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.distributions.averaged import quantile_of
from neglog.distributions.base import ByTails
from neglog.distributions.derived import mean_of, variance_of
from neglog.distributions.family import tailed
from neglog.distributions.tails import log_tails


def joined(parts: Sequence[Any]) -> Any:
    """The distributions of the rows of each part, one after the other.

    Of the class of the parts where it is known by parameters with a number a row, else a `Joined`.
    """
    kind = type(parts[0])
    if len(parts) == 1:
        return parts[0]
    known = _parameters(parts)
    return Joined(parts) if known is None else kind(**known, validate_args=False)


def _parameters(parts: Sequence[Any]) -> dict[str, Tensor] | None:
    """The parameters of all rows, by name; None where they do not determine the distributions."""
    names = _names(parts[0])
    if any(type(part) is not type(parts[0]) for part in parts) or not names:
        return None
    return {name: torch.cat([getattr(p, name).expand(p.batch_shape) for p in parts]) for name in names}


def _names(one: Any) -> set[str]:
    """The parameters that determine a distribution with a number a row each; none where others do too."""
    known = one.arg_constraints if isinstance(one.arg_constraints, dict) else {}
    names = {name for name in known if isinstance(vars(one).get(name), Tensor)}
    if names >= {"probs", "logits"}:  # torch has computed one from the other
        names.remove("probs")
    others = signature(type(one).__init__).parameters.keys() - {"self", "validate_args", *known}
    return set() if others or one.event_shape or any(known[name].event_dim for name in names) else names


class Joined(ByTails):
    """Joined(parts): the distributions of the rows of each part, with batch shapes `(n,)`, in one of `(N,)`.

    Density: that of the part of a row. Shapes: all parts have the same events; `first` is a distribution of
    the first part.
    Estimates: what its parts do; it is the predictive distribution of rows that are read a batch at a time.
    Values outside the support are refused by the parts, with a ``ValueError``.

    >>> import torch
    >>> from neglog.distributions import Normal
    >>> Joined([Normal(torch.zeros(2), 1.0), Normal(torch.ones(1), 1.0)]).mean
    tensor([0., 0., 1.])
    """

    def __init__(self, parts: Sequence[Any], *, validate_args: bool | None = None) -> None:
        self.parts = tuple(parts)
        one = self.parts[0]
        self.first = getattr(one, "first", one)
        self.sizes = [int(part.batch_shape[0]) for part in self.parts]
        super().__init__(torch.Size([sum(self.sizes)]), one.event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Any:
        """The support of the response, with ends of each row where they depend on it."""
        found = copy(self.parts[0].support)
        for name, value in vars(found).items():
            if isinstance(value, Tensor) and value.dim():
                ends = (getattr(part.support, name).expand(part.batch_shape) for part in self.parts)
                setattr(found, name, torch.cat(list(ends)))
        return found

    @property
    def mean(self) -> Tensor:
        """The mean of each row."""
        return self._of_rows(mean_of)

    @property
    def variance(self) -> Tensor:
        """The variance of each row."""
        return self._of_rows(variance_of)

    @property
    def aleatoric(self) -> Tensor:
        """The variance that remains where the parameters are known, of averaged distributions."""
        return self._of_rows(lambda part: part.aleatoric)

    @property
    def epistemic(self) -> Tensor:
        """The variance due to the parameters, of averaged distributions."""
        return self._of_rows(lambda part: part.epistemic)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log of the density at `value`."""
        return self._at(lambda part, at: part.log_prob(at), value, len(self.event_shape))

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile: the smallest number with a `cdf` of at least `value`."""
        return self._at(quantile_of, value)

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self._at(lambda part, at: log_tails(tailed(part), at)[0], value),
            self._at(lambda part, at: log_tails(tailed(part), at)[1], value),
        )

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Independent draws, part after part."""
        return torch.cat([part.sample(sample_shape) for part in self.parts], len(sample_shape))

    def _of_rows(self, function: Callable[[Any], Tensor]) -> Tensor:
        """A value of each row."""
        shapes = (part.batch_shape + part.event_shape for part in self.parts)
        return torch.cat([function(part).expand(s) for part, s in zip(self.parts, shapes, strict=True)])

    def _at(self, function: Callable[[Any, Tensor], Tensor], value: Tensor, event: int = 0) -> Tensor:
        """A function of the parts and of values `(..., N)`, or of vectors `(..., N, D)`."""
        axis = -1 - event
        if value.dim() <= event or value.shape[axis] == 1:
            value = value.expand(
                *value.shape[: value.dim() - event - 1], *self.batch_shape, *self.event_shape
            )
        pieces = value.split(self.sizes, axis)
        return torch.cat([function(part, at) for part, at in zip(self.parts, pieces, strict=True)], -1)
