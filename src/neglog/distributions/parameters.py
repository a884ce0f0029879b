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
    seen: set[int] = set()
    left = [value]
    while left:
        part = left.pop()
        if isinstance(part, Tensor):
            yield part
        elif id(part) not in seen:
            seen.add(id(part))  # a transform and its inverse may refer to each other
            left += _parts(part)


def _parts(value: Any) -> list[Any]:
    if type(value) in (list, tuple):
        return list(value)
    return list(vars(value).values()) if isinstance(value, Distribution | Transform) else []


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """The distribution with floating-point tensors of a dtype, in which it computes its log-density.

    >>> in_dtype(torch.distributions.Gamma(2.0, 1.0), torch.float64).rate.dtype
    torch.float64
    """
    return _in_dtype(value, dtype, {})


def _in_dtype(value: Any, dtype: torch.dtype, known: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if type(value) in (list, tuple):
        return type(value)(_in_dtype(part, dtype, known) for part in value)
    if not isinstance(value, Distribution | Transform):
        return value
    if id(value) not in known:
        known[id(value)] = other = copy(value)
        parts = {name: _in_dtype(part, dtype, known) for name, part in vars(value).items()}
        other.__dict__.update(parts)
    return known[id(value)]
