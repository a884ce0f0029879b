"""Validation of arguments: numbers, flags, choices, paths, dense tensors."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.masked import MaskedTensor

from neglog.errors import DataError, ModelError, did_you_mean, written

LARGEST_COUNT = 2**31 - 1
"""Largest number of draws, steps, folds and the like."""
LARGEST_SEED = 2**63 - 1
"""Largest seed of all generators that are used."""


def number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number between `least` and `most`, exclusive.

    Raises:
        ModelError: the value is something else.
    """
    given = value.item() if isinstance(value, Tensor) and _is_scalar(value) else value
    real = isinstance(given, Real) and not isinstance(given, bool)
    found = as_float(given) if real else math.nan
    if not least < found < most or math.isinf(found):
        raise ModelError(f"`{name}` must be {_range(least, most)}; it is {written(value)}.")
    return found


def share(name: str, value: Any) -> float:
    """A number between 0 and 1, exclusive.

    Raises:
        ModelError: the value is something else.
    """
    try:
        return number(name, value, 0, 1)
    except ModelError as error:
        raise ModelError(f"{str(error).removesuffix('.')}{percent_hint(value)}.") from None


def percent_hint(value: Any) -> str:
    """The share that a number of percent is, as the end of a sentence; empty for any other value.

    >>> percent_hint(95)
    ', and 95 % are 0.95'
    """
    percent = as_float(value) if isinstance(value, int | float | np.integer | np.floating) else 0.0
    return f", and {percent:g} % are {percent / 100:g}" if 1 < percent < 100 else ""


def whole(name: str, value: Any, least: int = 1, most: int = LARGEST_COUNT) -> int:
    """A whole number from `least` to `most`.

    Raises:
        ModelError: the value is something else.
    """
    given = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if given is None or not least <= given <= most:
        what = "a positive whole number" if least == 1 else f"a whole number, {least} or more"
        limit = f" and at most {most}" if given is not None and given > most else ""
        raise ModelError(f"`{name}` must be {what}{limit}; it is {written(value)}.")
    return given


def seed_of(value: Any) -> int:
    """A seed of a random generator.

    Raises:
        ModelError: the value is something else.
    """
    return whole("seed", value, 0, LARGEST_SEED)


def flag(name: str, value: Any) -> bool:
    """True or False.

    Raises:
        ModelError: the value is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise ModelError(f"`{name}` must be True or False; it is {shown(value)}.")
    return bool(value)


def choice(name: str, value: Any, known: Collection[Any]) -> Any:
    """One of several names, or None where it is among them.

    Raises:
        ModelError: the value is none of them; the message proposes the nearest one.
    """
    text = isinstance(value, str)
    if (text or value is None) and value in known:
        return value
    proposal = did_you_mean(value, [each for each in known if each is not None]) if text else ""
    *most, last = map(repr, known)
    options = f"one of {', '.join(most)}, {last}" if len(most) > 1 else " or ".join([*most, last])
    raise ModelError(f"`{name}` must be {options}; it is {shown(value)}.{proposal}")


def text(name: str, value: Any) -> str:
    """A text.

    Raises:
        ModelError: the value is something else.
    """
    if not isinstance(value, str):
        raise ModelError(f"`{name}` must be text; it is {shown(value)}.")
    return value


def as_path(name: str, value: Any) -> Path:
    """A path in the file system.

    Raises:
        DataError: the value is something else.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise DataError(f"`{name}` must be a path; it is {shown(value)}.")
    if "\0" in os.fspath(value) or not _is_encodable(os.fspath(value)):
        raise DataError(
            f"`{name}` must be a path without NUL and unpaired surrogates; it is {written(value)}."
        )
    return Path(value)


def _is_encodable(path: str) -> bool:
    try:
        os.fsencode(path)
    except UnicodeError:
        return False
    return True


def mapping(name: str, value: Any, example: str) -> Mapping[Any, Any]:
    """A mapping.

    Raises:
        ModelError: the value is something else.
    """
    if not isinstance(value, Mapping):
        raise ModelError(f"`{name}` must be a mapping, such as {example}; it is {shown(value)}.")
    return value


def checked_model(model: Any) -> Callable[..., Any]:
    """A callable model.

    Raises:
        ModelError: the value is not callable, or a class or a distribution.
    """
    if is_loss(model):
        name = getattr(model, "__name__", type(model).__name__)
        loss = "MSELoss" if name.endswith("_loss") else name
        raise ModelError(
            f"`model` is the loss `{name}`, and the model whose negative log-likelihood a loss is, is "
            f"losses.likelihood_of(loss).free, for instance of loss = torch.nn.{loss}()."
        )
    if not callable(model) or isinstance(model, type | Distribution):
        what = "the class " * isinstance(model, type)
        estimator = hasattr(model, "get_params") and hasattr(model, "fit")
        raise ModelError(
            "`model` must be a function `(x, y=None)`, as `models.gaussian` is, or its name; it is "
            f"{what}{written(model)}."
            + " Estimators of scikit-learn have functions of their own in sklearn.model_selection."
            * estimator
        )
    check_takes_rows(model)
    checked: Callable[..., Any] = model
    return checked


def is_loss(value: Any) -> bool:
    """Whether a value is a loss of PyTorch: a module, its class, or a function.

    >>> is_loss(torch.nn.MSELoss()), is_loss(torch.nn.L1Loss), is_loss(torch.nn.Linear(1, 1))
    (True, True, False)
    """
    kind = value if isinstance(value, type) else type(value)
    functional = getattr(value, "__module__", None) == "torch.nn.functional"
    return issubclass(kind, torch.nn.modules.loss._Loss) or functional


def check_takes_rows(model: Any) -> None:
    """Refuse a function that cannot be called as ``model(x, y)``.

    Raises:
        ModelError: the message names its parameters.
    """
    called = model.forward if isinstance(model, torch.nn.Module) else model
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError, RecursionError):
        return  # a builtin has none, nor has a function whose defaults are nested too deep
    try:
        signature.bind(None, None)
    except TypeError as error:
        remedy = (
            "A network computes features for a model: on_features('gaussian', network)."
            if isinstance(model, torch.nn.Module)
            else "Give it the parameters `x` and `y`, and bind others, as by "
            "functools.partial(model, tau=0.3)."
        )
        raise ModelError(
            f"`model` must be a function `(x, y=None)`, as `models.gaussian` is; "
            f"`{getattr(model, '__name__', type(model).__name__)}` takes {_arguments_of(signature)}. {remedy}"
        ) from error


def _arguments_of(signature: inspect.Signature) -> str:
    try:
        return str(signature)
    except RecursionError:  # of a default
        return f"({', '.join(signature.parameters)})"


def check_dense(name: str, value: Tensor) -> None:
    """Refuse tensors without a number in each entry.

    Raises:
        DataError: a masked, sparse, nested, quantised or meta tensor.
    """
    if isinstance(value, MaskedTensor):
        raise DataError(
            f"`{name}` is a masked tensor, and its mask would be lost. For missing values pass "
            f"{name}.to_tensor(float('nan')); where no entry is masked, pass {name}.get_data()."
        )
    if value.is_nested:
        raise DataError(
            f"`{name}` is a nested tensor, whose rows may differ in length; pass rows of one length, as "
            f"torch.nested.to_padded_tensor({name}, 0.0) does."
        )
    if value.is_meta:
        raise DataError(f"`{name}` is a meta tensor, which holds no numbers; pass one with data.")
    if value.is_quantized:
        raise DataError(f"`{name}` is a quantised tensor; pass {name}.dequantize().")
    if value.layout != torch.strided:
        raise DataError(f"`{name}` is a sparse tensor; pass {name}.to_dense().")


def _is_scalar(value: Tensor) -> bool:
    dense = not (value.is_nested or value.is_meta) and value.layout == torch.strided
    return dense and value.dim() == 0 and not value.is_complex()


def as_float(value: Any) -> float:
    """A number as a float; infinity above its range."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _range(least: float, most: float) -> str:
    if math.isfinite(least) and math.isfinite(most):
        return f"between {least:g} and {most:g}"
    return "a positive number" if least == 0 else "a finite number"


def shown(value: Any) -> str:
    """The `repr` of a plain value, the type of any other."""
    plain = isinstance(value, str | int | float | None)
    return written(value) if plain else f"of type {type(value).__name__}"
