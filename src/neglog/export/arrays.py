"""Arrays in a document: their dtype, their shape and their numbers, to the last digit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neglog.errors import ModelError
from neglog.export.documents import fields, flag, items, mapping, number, shortened, text, whole, wrong
from neglog.formula.tagged import to_json

FLOAT_DTYPES = {"float32": torch.float32, "float64": torch.float64}
BUFFER_DTYPES = FLOAT_DTYPES | {
    name: getattr(torch, name)
    for name in ("float16", "bfloat16", "uint8", "int8", "int16", "int32", "int64", "bool")
}
"""The dtypes of buffers of a network; their floats may be infinite or NaN, as in a mask of attention."""
MAX_DIMENSIONS = 8
"""The largest number of dimensions of a parameter: the weight of a convolution has up to five."""


def written(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors of floats as JSON values.

    Raises:
        ModelError: one is of another dtype, or holds what is not a finite number.
    """
    return {name: _written(name, value.detach().cpu()) for name, value in tensors.items()}


def _written(name: str, value: Tensor) -> dict[str, Any]:
    dtype = dtype_name(value)
    if dtype not in FLOAT_DTYPES or not bool(torch.isfinite(value).all()):
        raise ModelError(f"`{name}` must hold finite float32 or float64 values; it is {shortened(value)}.")
    return {"dtype": dtype, "shape": list(value.shape), "values": value.reshape(-1).tolist()}


def dtype_name(value: Tensor) -> str:
    """The name of the dtype of a tensor, such as ``float32``."""
    return str(value.dtype).removeprefix("torch.")


def buffers_written(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Buffers of networks as JSON values.

    Raises:
        ModelError: one has complex numbers, or another dtype that a file cannot name.
    """
    found = {}
    for name, value in tensors.items():
        if dtype_name(value) not in BUFFER_DTYPES:
            raise ModelError(
                f"the buffer `{name}` must be of {', '.join(BUFFER_DTYPES)}; it is {value.dtype}."
            )
        values = [to_json(each) for each in value.detach().cpu().reshape(-1).tolist()]
        found[name] = {"dtype": dtype_name(value), "shape": list(value.shape), "values": values}
    return found


def read(name: str, value: Any) -> dict[str, Tensor]:
    """The tensors that `written` gave.

    Raises:
        DataError: it is anything else.
    """
    found = {}
    for key, each in mapping(name, value).items():
        tensor = _read(f"{name}.{key}", each, FLOAT_DTYPES)
        if not bool(torch.isfinite(tensor).all()):
            raise wrong(f"{name}.{key}.values", f"finite {dtype_name(tensor)} numbers", each["values"])
        found[key] = tensor
    return found


def buffers_read(name: str, value: Any) -> dict[str, Tensor]:
    """The buffers that `buffers_written` gave.

    Raises:
        DataError: it is anything else.
    """
    return {key: _read(f"{name}.{key}", each, BUFFER_DTYPES) for key, each in mapping(name, value).items()}


def _read(name: str, value: Any, dtypes: Mapping[str, torch.dtype]) -> Tensor:
    found = fields(name, value, {"dtype", "shape", "values"})
    dtype = dtypes.get(text(f"{name}.dtype", found["dtype"]))
    if dtype is None:
        raise wrong(f"{name}.dtype", " or ".join(dtypes), found["dtype"])
    shape = [whole(f"{name}.shape", size) for size in items(f"{name}.shape", found["shape"])]
    values = [_entry(f"{name}.values", each, dtype) for each in items(f"{name}.values", found["values"])]
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) != len(values):
        raise wrong(f"{name}.shape", f"the shape of its {len(values)} values", shape)
    try:
        exact = torch.float64 if dtype.is_floating_point else dtype
        return torch.tensor(values, dtype=exact).to(dtype).reshape(shape)
    except (OverflowError, RuntimeError):
        raise wrong(f"{name}.values", f"numbers of {found['dtype']}", values) from None


def _entry(name: str, value: Any, dtype: torch.dtype) -> float | int | bool:
    """An entry of a tensor of this dtype."""
    if dtype == torch.bool:
        return flag(name, value)
    found = number(name, value)
    if dtype.is_floating_point:
        return float(found)
    if not isinstance(found, int):
        raise wrong(name, "whole numbers", value)
    return found
