"""Values to JSON and back, exactly and without pickle.

Numbers, text, true, false and None are written as they are; everything else with its kind:
``{"array": ..., "dtype": "float64"}``, ``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``.
Floats are written with enough digits to come back the same; those that JSON lacks as ``{"float": "nan"}``.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from neglog.errors import DataError
from neglog.formula.limits import MAX_STATE_BYTES, MAX_STATE_DEPTH, shown

_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|U[0-9]{1,4})")


def to_json(value: Any) -> Any:
    """A value as what `json.dumps(..., allow_nan=False)` takes.

    Raises:
        DataError: the value, or one inside it, is of a kind that cannot be written without pickle.
    """
    write = _WRITERS.get(type(value))
    if write is not None:
        return write(value)
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: to_json(value.tolist()), "dtype": value.dtype.str}
    if isinstance(value, pd.Index):
        return {"list": list(map(to_json, value))}
    if isinstance(value, Mapping):
        return {"dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    raise DataError(
        f"a {type(value).__module__}.{type(value).__name__} in the formula's state cannot be saved. "
        "Compute that column in the table and use it by name."
    )


def from_json(value: Any) -> Any:
    """The value that `to_json` wrote.

    Raises:
        DataError: it is not something that `to_json` writes, or is nested too deeply.
    """
    try:
        found = _value(value, MAX_STATE_DEPTH)
        # A number that its dtype cannot hold, or a text longer than it, would be another one.
        if json.dumps(to_json(found)) != json.dumps(value):
            raise _damaged("it is not what its values and dtypes are written as")
        return found
    except DataError:
        raise
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DataError(f"the saved state is damaged ({shown(str(error))}). Save the model again.") from None


def _value(saved: Any, depth: int) -> Any:
    """A value in which at most `depth` others are nested."""
    if depth < 0:
        raise _damaged(f"more than {MAX_STATE_DEPTH} values are nested")
    if isinstance(saved, list):
        raise _damaged(f"a list without a tag, {shown(repr(saved[:10]))}")
    if not isinstance(saved, dict):
        return saved
    kind = next((tag for tag in _READERS if tag in saved), "")
    tags = {kind, "dtype"} if kind in ("array", "scalar") else {kind}
    if set(saved) != tags:
        raise _damaged(f"unknown tags {shown(str(sorted(map(str, saved))))}")
    return _READERS[kind](saved, depth - 1)


def _items(saved: dict[str, Any], depth: int) -> list[Any]:
    return [_value(item, depth) for each in saved.values() for item in each]


def _array(items: Any, dtype: np.dtype[Any]) -> np.ndarray:
    values = np.array(items, dtype=object)
    if values.size * dtype.itemsize > MAX_STATE_BYTES:
        raise _damaged(f"an array of {values.size} texts needs more than {MAX_STATE_BYTES} bytes")
    return values.astype(dtype)


def _dtype(name: Any) -> np.dtype[Any]:
    """The kind of an array in a file: numbers of at most 8 bytes, or text of a bounded length."""
    if not isinstance(name, str) or not _DTYPE.fullmatch(name):
        raise _damaged(f"the dtype {shown(repr(name))}")
    return np.dtype(name)


def _damaged(reason: str) -> DataError:
    return DataError(f"the saved state is damaged: {reason}. Save the model again.")


_WRITERS: Mapping[type, Callable[[Any], Any]] = {
    **dict.fromkeys((type(None), bool, int, str), lambda value: value),
    float: lambda value: value if math.isfinite(value) else {"float": repr(value)},
    list: lambda value: {"list": list(map(to_json, value))},
    tuple: lambda value: {"tuple": list(map(to_json, value))},
}
_READERS: Mapping[str, Callable[[dict[str, Any], int], Any]] = {
    "float": lambda saved, depth: _FLOATS[saved["float"]],
    "array": lambda saved, depth: _array(_value(saved["array"], depth), _dtype(saved["dtype"])),
    "scalar": lambda saved, depth: _dtype(saved["dtype"]).type(_value(saved["scalar"], depth)),
    "dict": lambda saved, depth: {_value(key, depth): _value(item, depth) for key, item in saved["dict"]},
    "list": _items,
    "tuple": lambda saved, depth: tuple(_items(saved, depth)),
}
