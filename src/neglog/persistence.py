"""How pickle, joblib and copy write results: fits as documents, read-only mappings as dictionaries.

Documents of fits are made by a package above all that makes fits. `neglog` itself, which knows every package,
names the function that makes them when it is imported (`written_by`).
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from neglog.errors import ModelError, reason_of

Reduced = tuple[Any, ...]
"""A function and its arguments that make a value again, as ``__reduce__`` returns them."""

_writers: list[Callable[[Any], Reduced]] = []


def written_by(write: Callable[[Any], Reduced]) -> None:
    """Have documents made by this function, from now on."""
    _writers[:] = [write]


BY_VALUE = ("cloudpickle", "dill", "copy")
"""Modules that write functions by their code, or share them, where pickle writes the name of a module."""


def check_model_pickles(model: Any) -> None:
    """Raise ModelError for a model that pickle cannot write, where pickle is what writes it."""
    frame = sys._getframe()
    while frame.f_back is not None:
        if set(BY_VALUE) & set(frame.f_globals.get("__name__", "").split(".")):
            return
        frame = frame.f_back
    try:
        pickle.dumps(model)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ModelError(
            f"the model cannot be pickled: {reason_of(error)}. Define it by `def` at the top of a module; or "
            "save the fit by neglog.save(fit, folder), and read it by neglog.load(folder, model=model)."
        ) from error


class AsDocument:
    """A value that pickle writes as a document, without the rows of its data."""

    def __reduce__(self) -> Reduced:
        (write,) = _writers
        return write(self)


class ReadOnly:
    """A frozen value with read-only mappings, which pickle cannot write; it writes dictionaries."""

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__
        if "model" in state:
            check_model_pickles(state["model"])
        names = [name for name, value in state.items() if isinstance(value, MappingProxyType)]
        return {**state, **{name: dict(state[name]) for name in names}, "read_only": names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = state["read_only"]
        plain = {name: value for name, value in state.items() if name != "read_only"}
        self.__dict__.update(plain | {name: MappingProxyType(plain[name]) for name in names})
