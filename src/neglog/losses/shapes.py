"""Checks of the arguments of losses: shapes, which are never broadcast, and positive scales."""

from __future__ import annotations

import math
from numbers import Real
from typing import Literal, get_args

from torch import Tensor

from neglog.arguments import as_float, check_dense
from neglog.errors import DataError, written

Reduction = Literal["none", "mean", "sum"]

HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
"""The constant of the negative log-density of a Normal, in nats."""
NUMBER_OR_TENSOR = "a finite number or a torch.Tensor"


def check_pair(name: str, prediction: Tensor, target: Tensor) -> None:
    """Refuse a prediction and a target that are not two floating tensors of one shape."""
    for argument, value in ((name, prediction), ("target", target)):
        check_tensor(argument, value)
    if prediction.shape != target.shape:
        raise DataError(
            f"`{name}` has shape {tuple(prediction.shape)} and `target` has shape {tuple(target.shape)}, "
            f"but they must be the same: nothing is broadcast. {_remedy(name, prediction, target)}"
        )


def _remedy(name: str, prediction: Tensor, target: Tensor) -> str:
    if prediction.shape == (*target.shape, 1):
        return f"Pass `{name}.squeeze(-1)`."
    if target.shape == (*prediction.shape, 1):
        return "Pass `target.squeeze(-1)`."
    return f"Give one value of `{name}` for each value of `target`."


def check_tensor(name: str, value: object) -> None:
    """Refuse anything but a floating-point tensor."""
    if not isinstance(value, Tensor):
        raise DataError(
            f"`{name}` must be a torch.Tensor, not {type(value).__name__}. Wrap it in torch.as_tensor."
        )
    if not value.is_floating_point():
        raise DataError(
            f"`{name}` must be of a floating-point dtype, not {value.dtype}. Call .double() on it."
        )
    check_dense(name, value)


def check_scale(name: str, value: Tensor, target: Tensor) -> None:
    """Refuse a scale that is neither a scalar nor of the shape of the target."""
    check_tensor(name, value)
    if value.dim() > 0 and value.shape != target.shape:
        raise DataError(
            f"`{name}` has shape {tuple(value.shape)} and `target` has shape {tuple(target.shape)}: `{name}` "
            f"must be a scalar or of the shape of `target`. {_remedy(name, value, target)}"
        )


def check_outputs(name: str, value: Tensor, target: Tensor, *, shared: bool = True) -> None:
    """Refuse what has not the shape of the target with at least one output behind it.

    Where it may be `shared` by all rows, the outputs alone are as good.
    """
    check_tensor(name, value)
    if not isinstance(target, Tensor) or target.is_nested:
        check_tensor("target", target)
    rows = tuple(target.shape)
    some = value.dim() > 0 and value.shape[-1] > 0
    if some and (value.shape[:-1] == rows or (shared and value.dim() == 1)):
        return
    needed = ", ".join([*map(str, rows), "K"])
    raise DataError(
        f"`{name}` has shape {tuple(value.shape)} and `target` has shape {rows}, but `{name}` must have the "
        f"shape ({needed}){' or (K,)' if shared and rows else ''}, K at least 1: nothing is broadcast."
    )


def log_scale(name: str, value: Tensor | float, target: Tensor) -> Tensor | float:
    """The logarithm of a scale, a tensor or a positive number."""
    if isinstance(value, Tensor):
        check_scale(name, value, target)
        return value.log()
    return math.log(positive(name, value, NUMBER_OR_TENSOR))


def plain(value: Tensor | float) -> Tensor | float:
    """A tensor as it is, and a number of any kind that was checked as a float."""
    return value if isinstance(value, Tensor) else float(value)


def positive(name: str, value: object, needed: str = "a finite number") -> float:
    """A number, refused unless positive and finite."""
    number = finite(name, value, needed)
    if number <= 0:
        raise DataError(f"`{name}` must be above 0, not {number:g}. Give a positive number.")
    return number


def finite(name: str, value: object, needed: str = "a finite number") -> float:
    """A number, refused unless finite."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise DataError(f"`{name}` must be {needed}, not {type(value).__name__}. Convert it first.")
    if not math.isfinite(as_float(value)):
        raise DataError(f"`{name}` must be {needed}, not {written(value)}. Check how it was computed.")
    return float(value)


def reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """The values, their sum or their mean."""
    known = isinstance(reduction, str)
    if known and reduction == "none":
        return values
    if known and reduction == "sum":
        return values.sum()
    if known and reduction == "mean":
        if values.numel() == 0:
            raise DataError("`target` is empty, so its mean is not defined. Pass at least one row.")
        return values.mean()
    choices = ", ".join(f'"{choice}"' for choice in get_args(Reduction))
    raise DataError(f"`reduction` must be one of {choices}, not {written(reduction)}. Choose one of them.")
