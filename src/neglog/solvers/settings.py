"""Settings: the numbers and flags of a solver, validated when it is constructed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neglog.arguments import check_dense, flag, number, seed_of, share, whole
from neglog.calls import public
from neglog.errors import DataError, ModelError, written

NAMES = {
    **{"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "lbfgs": "LBFGS", "bfgs": "LBFGS", "newton": "Newton"},
    **{"irls": "Newton", "svi": "SVI", "trust": "TrustRegion", "lm": "TrustRegion"},
}
"""Names of algorithms -> the solver."""
DTYPES = (torch.float64, torch.float32)


class Settings:
    """A solver, a dataclass, whose fields are checked by their names.

    Raises:
        DataError: a field has a value of another kind or outside its range.
    """

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            check, value = CHECKS.get(each.name), getattr(self, each.name)
            if check is None or (value is None and each.default is None):
                continue
            try:
                check(each.name, value)
            except ModelError as error:
                raise DataError(f"`{type(self).__name__}`: {error}") from error


@public
def check_solver(name: str, value: Any) -> None:
    """Refuse objects that are not solvers.

    Raises:
        DataError: it is no solver, or the class of one.
    """
    if isinstance(value, type) and hasattr(value, "minimise"):
        raise DataError(f"`{name}` is the class `{value.__name__}`; call it: {value.__name__}().")
    if not callable(getattr(value, "minimise", None)):
        kind = repr(value) if isinstance(value, str | int | float) else f"of type {type(value).__name__}"
        raise DataError(
            f"`{name}` must be one of neglog.solvers, such as Newton(), or None; it is {kind}.{_meant(value)}"
        )


def _meant(value: Any) -> str:
    """A sentence that proposes the solver of a name, or in the place of an optimiser of torch."""
    kind = value if isinstance(value, type) else type(value)
    if issubclass(kind, torch.optim.Optimizer):
        return (
            " In the place of an optimiser of torch give neglog.solvers.Adam(steps=..., learning_rate=...)."
        )
    found = NAMES.get(value.lower().replace("-", "")) if isinstance(value, str) else None
    return f" Write neglog.solvers.{found}()." if found else ""


def _decay(name: str, value: Any) -> None:
    if number(name, value, 0) > 1:
        raise DataError(f"`{name}` must be above 0 and at most 1; it is {written(value)}.")


def _solvers(name: str, value: Any) -> None:
    if not isinstance(value, tuple | list) or not value:
        raise DataError(
            f"`{name}` must be a tuple of solvers, such as (LBFGS(), Newton()); it is {written(value)}."
        )
    for each in value:
        check_solver(name, each)


def _starts(name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        check_dense(name, value)
    if not isinstance(value, Tensor) or value.dim() != 2 or not (len(value) and value.is_floating_point()):
        raise DataError(f"`{name}` must be a tensor of points, (points, parameters); it is {written(value)}.")


def _function(name: str, value: Any) -> None:
    if not callable(value):
        raise DataError(f"`{name}` must be a function of a point, or None; it is {written(value)}.")


def _functions(name: str, value: Any) -> None:
    if not isinstance(value, tuple | list) or not all(map(callable, value)):
        raise DataError(f"`{name}` must be a tuple of functions of an epoch; it is {written(value)}.")


def _momentum(name: str, value: Any) -> None:
    if not 0 <= number(name, value) < 1:
        raise DataError(f"`{name}` must be at least 0 and below 1; it is {written(value)}.")


def _not_negative(name: str, value: Any) -> None:
    if number(name, value) < 0:
        raise DataError(f"`{name}` must not be negative; it is {written(value)}.")


def _validation(name: str, value: Any) -> None:
    """Raise DataError unless it gives rows: a share, a splitter, numbers of rows, or other rows."""
    is_splitter = callable(getattr(value, "split", None)) and hasattr(value, "get_n_splits")
    if is_splitter or gives_other_rows(value) or row_numbers(value) is not None:
        return
    try:
        share(name, value)
    except ModelError:
        raise DataError(
            f"`{name}` must be a share of the rows between 0 and 1, a splitter of scikit-learn, the "
            "numbers of the rows to hold out, other rows (x, y), or a data set of torch; it is "
            f"{written(value)}."
        ) from None


def gives_other_rows(value: Any) -> bool:
    """Whether a `validation` is other rows: a pair (x, y), a mapping, a table, or a data set of torch."""
    if isinstance(value, Dataset | DataLoader):
        return True
    if isinstance(value, Mapping):
        return "x" in value
    if isinstance(value, tuple) and len(value) == 2:
        return all(hasattr(each, "shape") for each in value[1:])
    return hasattr(value, "columns") and len(value.columns) > 0


def row_numbers(value: Any) -> np.ndarray | None:
    """The numbers of rows, or a True or False for each row `(N,)`; None of anything else."""
    if isinstance(value, Tensor) and (value.layout != torch.strided or value.device.type == "meta"):
        return None
    if not isinstance(value, Tensor | np.ndarray | list | tuple | range) or np.ma.isMaskedArray(value):
        return None
    try:
        found = np.asarray(value)
    except (ValueError, TypeError, RuntimeError, RecursionError):
        return None
    return found if found.ndim == 1 and len(found) and found.dtype.kind in "iub" else None


def _dtype(name: str, value: Any) -> None:
    if not isinstance(value, torch.dtype) or value not in DTYPES:
        raise DataError(f"`{name}` must be torch.float64 or torch.float32; it is {written(value)}.")


def _device(name: str, value: Any) -> None:
    """Raise DataError unless torch can compute on a device here."""
    try:
        device = torch.device(value)
        module = None if device.type == "cpu" else torch.get_device_module(device)
    except (RuntimeError, TypeError):
        raise DataError(
            f"`{name}` must be 'cpu', 'cuda', 'mps' or another device of torch; it is {written(value)}."
        ) from None
    if module is None:
        return
    is_there = getattr(module, "is_available", lambda: False)()
    if not is_there or (device.index or 0) >= module.device_count():
        raise DataError(
            f"`{name}` is {written(str(value))}, and torch finds no such device here. Leave it out, for the "
            "CPU."
        )


def _autocast(name: str, value: Any) -> None:
    if not isinstance(value, torch.dtype) or value not in (torch.bfloat16, torch.float16):
        raise DataError(f"`{name}` must be torch.bfloat16 or torch.float16; it is {written(value)}.")


_positive = partial(number, least=0)
CHECKS: dict[str, Callable[..., Any]] = {
    "tolerance": _positive,
    "certainty": _positive,
    "learning_rate": _positive,
    "decay": _decay,
    "steps": whole,
    "epochs": whole,
    "validation": _validation,
    "scheduler": _function,
    "max_norm": _positive,
    "ema_decay": share,
    "callbacks": _functions,
    "device": _device,
    "autocast": _autocast,
    "weight_decay": _not_negative,
    "momentum": _momentum,
    "nesterov": flag,
    "max_steps": partial(whole, least=0),
    "memory": whole,
    "refresh": whole,
    "batch_size": whole,
    "patience": whole,
    "seed": lambda _, value: seed_of(value),
    "compile": flag,
    "rescale": flag,
    "dtype": _dtype,
    "solver": check_solver,
    "solvers": _solvers,
    "starts": _starts,
    "is_spurious": _function,
}
"""Field -> what refuses a wrong value."""
