"""Values to JSON and back, exactly and without pickle.

Numbers, text, true, false and None stand for themselves; everything else carries its kind:
``{"array": ..., "dtype": "float64"}``, ``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``.
Floats are written with enough digits to come back the same; those that JSON lacks as ``{"float": "nan"}``.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from neglog.errors import DataError


def to_json(value: Any) -> Any:
    """A value as what `json.dumps(..., allow_nan=False)` takes.

    Raises:
        DataError: the value, or one inside it, is of a kind that cannot be written without pickle.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: to_json(value.tolist()), "dtype": value.dtype.str}
    if isinstance(value, pd.Index):
        return {"list": [to_json(item) for item in value]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [to_json(item) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": [[to_json(key), to_json(item)] for key, item in value.items()]}
    raise DataError(
        f"a {type(value).__module__}.{type(value).__name__} in the formula's state cannot be saved. "
        "Compute that column in the table and use it by name."
    )


def from_json(value: Any) -> Any:
    """The value that `to_json` wrote.

    Raises:
        DataError: it is not something that `to_json` writes.
    """
    if not isinstance(value, dict):
        if isinstance(value, list):
            raise DataError(
                f"the saved state is damaged: a list without a tag, {value!r}. Save the model again."
            )
        return value
    try:
        match value:
            case {"float": text}:
                return float(text)
            case {"array": items, "dtype": dtype}:
                return np.array(from_json(items), dtype=dtype)
            case {"scalar": item, "dtype": dtype}:
                return np.dtype(dtype).type(from_json(item))
            case {"list": items}:
                return [from_json(item) for item in items]
            case {"tuple": items}:
                return tuple(from_json(item) for item in items)
            case {"dict": items}:
                return {from_json(key): from_json(item) for key, item in items}
    except (TypeError, ValueError) as error:
        raise DataError(f"the saved state is damaged ({error}). Save the model again.") from None
    raise DataError(f"the saved state is damaged: unknown tags {sorted(value)}. Save the model again.")
