"""The tensors of which a distribution is made, whatever its class."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform


def parameters(value: Any) -> Iterator[Tensor]:
    """The tensors of a distribution, and of the distributions and transforms inside it.

    >>> len(list(parameters(torch.distributions.LogNormal(0.0, 1.0))))
    2
    """
    if isinstance(value, Tensor):
        yield value
    elif type(value) in (list, tuple):
        for part in value:
            yield from parameters(part)
    elif isinstance(value, Distribution | Transform):
        yield from parameters(list(vars(value).values()))


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """The distribution with floating-point tensors of a dtype, in which it computes its log-density.

    >>> in_dtype(torch.distributions.Gamma(2.0, 1.0), torch.float64).rate.dtype
    torch.float64
    """
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)(in_dtype(part, dtype) for part in value)
    if isinstance(value, Distribution | Transform):
        other = copy(value)
        other.__dict__.update({name: in_dtype(part, dtype) for name, part in vars(value).items()})
        return other
    return value
