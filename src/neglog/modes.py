"""Modes: networks in training and in evaluation, and the tensors in them that are learned without a gradient.

Dropout draws a mask and BatchNorm uses the statistics of the batch while `torch.nn.Module.training` is set.
In evaluation mode the first does nothing and the second uses its buffers, the running statistics, which are
updated at each step in training mode. neglog runs networks in evaluation mode everywhere but in the gradient
steps of `Adam` and `SVI`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor, nn

from neglog.predictors import Designs

DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
"""The layers of torch that draw masks."""
Constants = dict[str, Tensor]
"""The buffers and the frozen parameters of a network, by their names in the module."""


@dataclass(frozen=True, eq=False)
class Mode:
    """How a network is run: whether in training mode, and with which constants.

    In training mode buffers that the network changes are replaced in `constants`. None are the network's own,
    which are left as they are. With `dropout` the layers of Dropout, and these alone, draw their masks.
    """

    training: bool
    constants: Constants | None = None
    dropout: bool = False


class Network(Protocol):
    """The interface of a model of `on_features`: its features as a function of its weights."""

    def features(self, weights: Mapping[str, Tensor], x: Designs, mode: Mode | None) -> Any:
        """The features `(N, F)` of the rows of `x` at some weights, or a mapping of them."""

    def constants(self) -> Constants:
        """Copies of the buffers and the frozen parameters."""
        ...


@effectful(type="network")
def features(network: Network, weights: Mapping[str, Tensor], x: Designs, *, mode: Mode | None = None) -> Any:
    """The features of a network as an effect, whose mode a handler decides.

    Without a handler the network is run in the mode that its module has.
    """
    return network.features(weights, x, mode)


class InMode(Messenger):
    """Run the networks of a model in one mode, with their constants by name of the network.

    The outermost of several decides.
    """

    def __init__(self, training: bool, constants: Mapping[str, Constants]) -> None:
        super().__init__()
        self.training, self.constants = training, constants

    def _pyro_network(self, msg: dict[str, Any]) -> None:
        msg["kwargs"]["mode"] = Mode(self.training, self.constants.get(msg["name"]))


class WithMasks(Messenger):
    """Draw the masks of layers of Dropout in networks that are otherwise in evaluation mode."""

    def _pyro_network(self, msg: dict[str, Any]) -> None:
        mode = msg["kwargs"].get("mode") or Mode(False)
        msg["kwargs"]["mode"] = replace(mode, dropout=True)


def layers_of_dropout(module: nn.Module) -> list[nn.Module]:
    """The layers of a network that draw masks."""
    return [part for part in module.modules() if isinstance(part, DROPOUT) and part.p]


@contextmanager
def in_mode(module: nn.Module, mode: Mode | None) -> Iterator[None]:
    """The module in training or evaluation mode; afterwards each part is as it was.

    A part in evaluation mode of a module in training mode, such as a frozen BatchNorm, stays in it.
    """
    if mode is None:
        yield
        return
    before = {part: part.training for part in module.modules()}
    roots = list(module.values()) if isinstance(module, nn.ModuleDict) else [module]
    try:
        for root in roots:
            if not (mode.training and root.training):
                root.train(mode.training)
        if mode.dropout:
            for part in layers_of_dropout(module):
                part.training = True
        yield
    finally:
        for part, training in before.items():
            part.training = training


def is_same(found: Any, known: Any) -> bool:
    """Whether two sets of features, or of constants, agree up to rounding."""
    if isinstance(found, Mapping):
        return all(is_same(value, known[key]) for key, value in found.items())
    return torch.allclose(found, known.to(found.dtype), rtol=1e-9, atol=1e-12, equal_nan=True)
