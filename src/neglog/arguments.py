"""Arguments that are numbers, held to their range."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from neglog.errors import ModelError


def share(name: str, value: Any) -> float:
    """A number between 0 and 1, neither of them.

    Raises:
        ModelError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < 1:
        raise ModelError(f"`{name}` must be between 0 and 1; it is {value!r}.")
    return float(value)


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least so much.

    Raises:
        ModelError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        what = "a positive whole number" if least == 1 else f"a whole number, {least} or more"
        raise ModelError(f"`{name}` must be {what}; it is {value!r}.")
    return int(value)


def seed_of(value: Any) -> int:
    """A seed of a random generator.

    Raises:
        ModelError: it is none.
    """
    return whole("seed", value, 0)
