"""Gradient steps on another device, or with a network in lower precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from neglog.data import Data

ELSEWHERE = "on this device the model itself is run"
"""Why no graph is used on another device than the CPU."""


class InAutocast(Messenger):
    """Run networks under `torch.autocast`; their features have the dtype of the weights again."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__()
        self.device, self.dtype = device, dtype

    def _pyro_network(self, msg: dict[str, Any]) -> None:
        own: Callable[..., Any] = msg["fn"]

        def lower(network: Any, weights: Any, *args: Any, **keywords: Any) -> Any:
            with torch.autocast(self.device.type, self.dtype):
                found = own(network, weights, *args, **keywords)
            return moved(found, next(iter(weights.values())).dtype)

        msg["fn"] = lower


def moved(value: Any, where: torch.device | torch.dtype) -> Any:
    """A tensor, and all tensors in a list or a mapping, on a device or in a dtype."""
    if isinstance(value, Tensor):
        return value.to(where)
    if isinstance(value, dict):
        return {key: moved(each, where) for key, each in value.items()}
    return type(value)(moved(each, where) for each in value) if isinstance(value, list | tuple) else value


def moved_parts(value: Any, device: torch.device) -> Any:
    """A copy of an object whose tensors, and those of the objects in its lists, are on a device."""
    other = copy(value)
    for name, each in vars(value).items():
        if isinstance(each, list) and each and hasattr(each[0], "coefficients"):
            each = [moved_parts(part, device) for part in each]
        other.__dict__[name] = moved(each, device)
    return other


def data_on(data: Data, device: torch.device) -> Data:
    """Rows on a device."""
    if data.y.device == device:
        return data
    return data.made_of({key: part.to(device, non_blocking=True) for key, part in data.parts().items()})


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Around code that makes tensors: they are made on the device."""
    return nullcontext() if device.type == "cpu" else device


@contextmanager
def seeded_on(device: torch.device, seed: int) -> Iterator[None]:
    """Random numbers of a device that begin from a seed; afterwards they are as they were."""
    module = getattr(torch, device.type, None)
    if device.type == "cpu" or module is None or not module.is_available():
        yield
        return
    with torch.random.fork_rng(devices=[device.index or 0], device_type=device.type):
        module.manual_seed(seed)
        yield
