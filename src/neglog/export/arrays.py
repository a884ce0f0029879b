"""Arrays in a document: their dtype, their shape and their numbers, to the last digit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neglog.errors import ModelError
from neglog.export.documents import fields, items, mapping, number, shortened, text, whole, wrong

FLOAT_DTYPES = {"float32": torch.float32, "float64": torch.float64}
MAX_DIMENSIONS = 2
"""The largest number of dimensions of a parameter."""


def written(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors of floats as JSON values.

    Raises:
        ModelError: one is of another dtype, or holds what is not a finite number.
    """
    return {name: _written(name, value.detach().cpu()) for name, value in tensors.items()}


def _written(name: str, value: Tensor) -> dict[str, Any]:
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in FLOAT_DTYPES or not bool(torch.isfinite(value).all()):
        raise ModelError(f"`{name}` must hold finite float32 or float64 values; it is {shortened(value)}.")
    return {"dtype": dtype, "shape": list(value.shape), "values": value.reshape(-1).tolist()}


def read(name: str, value: Any) -> dict[str, Tensor]:
    """The tensors that `written` gave.

    Raises:
        DataError: it is anything else.
    """
    return {key: _read(f"{name}.{key}", each) for key, each in mapping(name, value).items()}


def _read(name: str, value: Any) -> Tensor:
    found = fields(name, value, {"dtype", "shape", "values"})
    dtype = FLOAT_DTYPES.get(text(f"{name}.dtype", found["dtype"]))
    if dtype is None:
        raise wrong(f"{name}.dtype", " or ".join(FLOAT_DTYPES), found["dtype"])
    shape = [whole(f"{name}.shape", size) for size in items(f"{name}.shape", found["shape"])]
    values = [float(number(f"{name}.values", each)) for each in items(f"{name}.values", found["values"])]
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) != len(values):
        raise wrong(f"{name}.shape", f"the shape of its {len(values)} values", shape)
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype)
    if not bool(torch.isfinite(tensor).all()):
        raise wrong(f"{name}.values", f"finite {found['dtype']} numbers", values)
    return tensor.reshape(shape)
