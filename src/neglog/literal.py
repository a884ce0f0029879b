"""The literal path: linear coefficients sampled in other units, for `pyro.infer.SVI` to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from neglog.blocks import Block
from neglog.handlers import Model


def in_units(model: Model, blocks: tuple[Block, ...]) -> Model:
    """The model with the coefficients of its blocks sampled in the blocks' units; its loss is the same."""
    return _Rescale(blocks)(model)


class _InUnits(TorchDistribution):
    """A prior seen through a linear map: its log-density at z is that of the base at the mapped value.

    There is no Jacobian: under a Delta guide the loss is the density in the model's own coordinates.
    """

    arg_constraints: Mapping[str, Any] = {}
    support = constraints.real

    def __init__(self, base: Any, to_value: Callable[[Tensor], Tensor]) -> None:
        self.base, self.to_value = base, to_value
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)
        self.support = base.support

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base.log_prob(self.to_value(value))


class _Rescale(Messenger):
    """Sample the linear coefficients of a model in z, and hand the model their values."""

    def __init__(self, blocks: tuple[Block, ...]) -> None:
        super().__init__()
        self.blocks = {block.name: block for block in blocks}
        self.weights: dict[str, Tensor] = {}
        self.to_value: Callable[[Tensor], Tensor] | None = None

    def _map(self, msg: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
        name, _, part = msg["name"].rpartition(".")
        if name not in self.blocks or part not in ("weight", "bias") or msg["is_observed"]:
            return None
        triangle = self.blocks[name].triangle
        size = msg["fn"].event_shape.numel()
        if part == "weight":
            corner = triangle[-size:, -size:] if size else triangle[:0, :0]
            return lambda z: torch.linalg.solve_triangular(corner, z[:, None], upper=True)[:, 0]
        others = triangle[0, 1:] @ self.weights[name] if len(triangle) > 1 else 0.0
        return lambda z: (z - others) / triangle[0, 0]

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        self.to_value = self._map(msg)
        if self.to_value is not None:
            msg["fn"] = _InUnits(msg["fn"], self.to_value)

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if self.to_value is not None:
            msg["value"] = self.to_value(msg["value"])
            name, _, part = msg["name"].rpartition(".")
            if part == "weight":
                self.weights[name] = msg["value"]
