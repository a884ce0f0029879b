"""Offsets: responses far from 0 are fitted without their offsets, which the intercepts take up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from neglog.batches.stack import Stack
from neglog.fitting.offsets import far_middle, offset_of
from neglog.objective.objective import Objective


@dataclass(frozen=True)
class Offsets:
    """A constant of the response of each data set, `values` `(S, 1)`, that the intercept `bias` takes up."""

    bias: str
    values: Tensor

    def removed(self, stack: Stack) -> Stack:
        """The data sets without their offsets."""
        return replace(stack, y=stack.y - (self.values if stack.y.dim() == 2 else self.values[0]))

    def restored(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Estimates `(S, *shape)`, with the offsets in the intercept."""
        bias = params[self.bias]
        return {**params, self.bias: bias + self.values.reshape(-1, *[1] * (bias.dim() - 1))}


def offsets_of(objective: Objective, stack: Stack, start: Mapping[str, Any] | None) -> Offsets | None:
    """The offsets of responses far from 0, as for the first of the data sets, whose `objective` it is.

    None where there are none, where the response has bounds, or an intercept starts at a given value.
    """
    offset = None if objective.structure.law.is_bounded else offset_of(objective)
    if offset is None or offset.bias in (start or {}):
        return None
    low, high = stack.y.aminmax(dim=-1, keepdim=True)
    return Offsets(offset.bias, far_middle(low, high).reshape(-1, 1).expand(stack.count, 1))
