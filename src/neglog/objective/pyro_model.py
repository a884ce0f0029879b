"""The literal path: linear coefficients sampled in other units, for `pyro.infer.SVI` to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from neglog.handlers import Model, weighted
from neglog.objective.blocks import Block

if TYPE_CHECKING:
    from neglog.objective.coordinates import Coordinates


class Literal:
    """A problem as the Pyro model that it came from, with its linear coefficients sampled in z.

    Attributes:
        model: the model, with the scale of the log-likelihood of its rows as a further first argument.
    """

    def __init__(self, coordinates: Coordinates) -> None:
        self.coordinates = coordinates
        model = _Rescale(coordinates.blocks)(coordinates.model)
        self.model: Model = lambda scale, *args, **kwargs: weighted(model, scale)(*args, **kwargs)

    def arguments(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `model` for a batch, scaled up to all rows; None is all of them."""
        data = self.coordinates.data_of(batch)
        scale = data.y.new_ones(()) if data.weights is None else data.weights
        return (scale * (self.coordinates.rows / data.rows), data.x, data.y), dict(data.keywords)

    def values(self, z: Tensor) -> dict[str, Tensor]:
        """The values of the sites of `model` at `z` `(K,)`."""
        objective = self.coordinates.objective
        values = objective.layout.params(self.coordinates.theta(z))
        for name, place in self._places():
            values[name] = z[place].reshape(objective.sites[name].shape)
        return values

    def z(self, values: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `values`."""
        z = self.coordinates.objective.layout.theta(values)
        for name, place in self._places():
            z[place] = values[name].reshape(-1).to(z)
        return z

    def _places(self) -> list[tuple[str, slice]]:
        predictors = dict.fromkeys(block.predictor for block in self.coordinates.blocks)
        names = [f"{name}.{part}" for name in predictors for part in ("bias", "weight")]
        sites = self.coordinates.objective.sites
        return [(name, sites[name].place) for name in names if name in sites and sites[name].is_real]


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
        self.blocks: dict[str, list[Block]] = {}
        for block in blocks:
            self.blocks.setdefault(block.predictor, []).append(block)
        self.weights: dict[str, Tensor] = {}
        self.to_value: Callable[[Tensor], Tensor] | None = None

    def _map(self, msg: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
        name, _, part = msg["name"].rpartition(".")
        if name not in self.blocks or part not in ("weight", "bias") or msg["is_observed"]:
            return None
        blocks, shape = self.blocks[name], msg["fn"].event_shape
        each = shape.numel() // len(blocks)
        if part == "weight":
            return lambda z: torch.cat(
                [_slopes(b, part, each) for b, part in zip(blocks, z.reshape(-1, each), strict=True)]
            ).reshape(shape)
        weights = self.weights.get(name)
        slopes = [None] * len(blocks) if weights is None else list(weights.reshape(len(blocks), -1))
        return lambda z: torch.stack(
            [_bias(*three) for three in zip(blocks, z.reshape(-1), slopes, strict=True)]
        ).reshape(shape)

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


def _slopes(block: Block, z: Tensor, size: int) -> Tensor:
    """The weights `(P,)` of an output at their `z`."""
    corner = block.triangle[-size:, -size:] if size else block.triangle[:0, :0]
    return torch.linalg.solve_triangular(corner, z[:, None], upper=True)[:, 0]


def _bias(block: Block, z: Tensor, weights: Tensor | None) -> Tensor:
    """The bias of an output at its `z`, given its weights where they are free."""
    moved = block.triangle[0, 1:] @ weights if len(block.triangle) > 1 and weights is not None else 0.0
    return (z - moved) / block.triangle[0, 0]
