"""How pickle, joblib and copy write results: fits as documents, read-only mappings as dictionaries.

Documents of fits are made by a package above all that makes fits. `neglog` itself, which knows every package,
names the function that makes them when it is imported (`written_by`).
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

Reduced = tuple[Any, ...]
"""A function and its arguments that make a value again, as ``__reduce__`` returns them."""

_writers: list[Callable[[Any], Reduced]] = []


def written_by(write: Callable[[Any], Reduced]) -> None:
    """Have documents made by this function, from now on."""
    _writers[:] = [write]


class AsDocument:
    """A value that pickle writes as a document, without the rows of its data."""

    def __reduce__(self) -> Reduced:
        (write,) = _writers
        return write(self)


class ReadOnly:
    """A frozen value with read-only mappings, which pickle cannot write; it writes dictionaries."""

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__
        names = [name for name, value in state.items() if isinstance(value, MappingProxyType)]
        return {**state, **{name: dict(state[name]) for name in names}, "read_only": names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = state["read_only"]
        plain = {name: value for name, value in state.items() if name != "read_only"}
        self.__dict__.update(plain | {name: MappingProxyType(plain[name]) for name in names})
