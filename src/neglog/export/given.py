"""Models and networks that the caller of `load` gives, since a file holds no code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from neglog.errors import ModelError
from neglog.export.arrays import dtype_name
from neglog.layers import layers


@dataclass(frozen=True)
class LoadArguments:
    """The arguments of `load` in place of code: a model, or its name, and the network of a fit."""

    model: Any = None
    module: Any = None

    @property
    def is_empty(self) -> bool:
        """Whether the caller relies on the file alone."""
        return self.model is None and self.module is None


NOTHING = LoadArguments()


class NeededError(ModelError):
    """A file without its model or its network, which the caller must give."""


def networks(model: Any) -> Iterator[Any]:
    """The networks of `on_features` around and inside a model, from the outside in."""
    return (layer for layer in layers(model) if is_network(layer))


def is_network(model: Any) -> bool:
    """Whether a model is the outcome of `on_features`."""
    return hasattr(model, "trainable") and hasattr(model, "constants")


def dtypes_of(network: Any) -> dict[str, str]:
    """Parameter or buffer of a network -> its dtype."""
    return {key: dtype_name(each) for key, each in {**network.trainable, **network.constants()}.items()}


def check_networks(model: Any, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Raise ModelError unless the networks of a model have parameters and buffers of the saved shapes."""
    for network in networks(model):
        prefix = f"{network.name}."
        pairs = ("parameter", params, network.trainable), ("buffer", buffers, network.constants())
        for kind, saved, own in pairs:
            ours = {name: value for name, value in saved.items() if name.startswith(prefix)}
            check_tensors(kind, ours, {f"{prefix}{key}": value for key, value in own.items()})


def check_dtypes(network: Any, saved: Mapping[str, Any]) -> None:
    """Raise ModelError unless the parameters and buffers of a network have the dtypes that were saved."""
    for key, dtype in dtypes_of(network).items():
        if key in saved and saved[key] != dtype:  # names are compared with those of the tensors
            raise ModelError(
                f"`{network.name}.{key}` was {saved[key]}, and in `module` it is {dtype}; convert it by "
                f"module.to(torch.{saved[key]})."
            )


def check_buffers(found: Mapping[str, Any], buffers: Mapping[str, Tensor]) -> None:
    """Raise ModelError unless the networks of a run have the buffers that were saved.

    Args:
        found: name of a network -> `Features` of a run.
        buffers: the buffers and frozen parameters that were saved, by the names of sites.
    """
    own = {f"{name}.{key}": t for name, at in found.items() for key, t in at.network.constants().items()}
    check_tensors("buffer", buffers, own)
    for name, value in own.items():
        kept = buffers[name]
        if value.dtype != kept.dtype and not (value.is_floating_point() and kept.is_floating_point()):
            raise ModelError(
                f"the buffer `{name}` was {dtype_name(kept)}, and that of the network is {dtype_name(value)}."
            )


def check_tensors(kind: str, saved: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise ModelError unless tensors have the names and the shapes of those that were saved."""
    for name in sorted(set(saved) - set(given)):
        raise ModelError(
            f"the file has the {kind} `{name}` of shape {tuple(saved[name].shape)}, and the network has none."
        )
    for name, value in given.items():
        if name not in saved:
            raise ModelError(
                f"the network has the {kind} `{name}` of shape {tuple(value.shape)}, and the file none."
            )
        if saved[name].shape != value.shape:
            raise ModelError(
                f"the {kind} `{name}` has the shape {tuple(saved[name].shape)} in the file, and "
                f"{tuple(value.shape)} in the network."
            )
