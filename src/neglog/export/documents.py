"""Documents: JSON that is read strictly, carries a digest of its content, and has fields of known kinds."""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Mapping
from typing import Any, NoReturn

from neglog.errors import DataError

DIGEST = "sha256"
"""The field that holds the SHA-256 digest of all others."""

MAX_WHOLE = 2**53
"""The largest whole number in a document: beyond it floats skip some."""

CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""Control characters. Tabs and ends of lines are left out: names of columns in spreadsheets have them."""

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+!-]{0,49}")

DAMAGE = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""Errors that content of foreign make may raise, beside those that are checked by name."""


def encoded(fields: Mapping[str, Any]) -> bytes:
    """A document of these fields, with their digest.

    Raises:
        ValueError: a number is not finite.
    """
    document = {DIGEST: digest(fields), **fields}
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode("ascii")


def digest(fields: Mapping[str, Any]) -> str:
    """The SHA-256 digest of the fields, however they are laid out in a file."""
    others = {name: value for name, value in fields.items() if name != DIGEST}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def parsed(content: bytes) -> dict[str, Any]:
    """The fields of a document: standard JSON of finite numbers, in which no name appears twice.

    Raises:
        DataError: it is anything else.
    """
    try:
        document = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_int=_whole,
            parse_constant=_refused,
        )
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # Half of a surrogate pair is no text.
    except DataError:
        raise
    except RecursionError:
        raise DataError("it is nested too deeply to be a model that neglog saved.") from None
    except ValueError as error:
        raise DataError(f"it is not JSON ({shortened(str(error))}).") from None
    if not isinstance(document, dict):
        raise DataError("it is JSON of something else than a model.")
    return document


def verified(document: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a document that is as it was written, without their digest.

    Raises:
        DataError: it is not as it was written.
    """
    if document.get(DIGEST) != digest(document):
        raise DataError(
            "its content does not have the SHA-256 digest that it was saved with: it was damaged or edited."
        )
    return {name: value for name, value in document.items() if name != DIGEST}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"it has the field {shortened(twice)} twice.")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise DataError(f"it holds the number {shortened(text)}, which is not finite.")
    return number


def _whole(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_WHOLE:
        raise DataError(f"it holds the number {shortened(text)}, which is too large.")
    return int(text)


def _refused(text: str) -> NoReturn:
    raise DataError(f"it holds {text}, which is not JSON.")


def shortened(value: Any) -> str:
    """A value as text of at most a line."""
    shown = _SHORT.repr(value)
    return shown if len(shown) <= 120 else f"{shown[:119]}…"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def wrong(name: str, needed: str, value: Any) -> DataError:
    """The error of a field that holds another kind of value."""
    return DataError(f"`{name}` must be {needed}; it is {shortened(value)}.")


def text(name: str, value: Any) -> str:
    """A field that holds text, without control characters, which could rewrite what a terminal shows.

    Raises:
        DataError: it holds anything else, as in all functions below.
    """
    if not isinstance(value, str):
        raise wrong(name, "text", value)
    if CONTROL.search(value):
        raise wrong(name, "text without control characters", value)
    return value


def line(name: str, value: Any) -> str:
    """A field that holds one line of text."""
    found = text(name, value)
    if not found.isprintable():
        raise wrong(name, "one line of text", value)
    return found


def version(name: str, value: Any) -> str:
    """A field that holds a version, such as ``1.2.0`` or ``1.3.0rc1``."""
    found = text(name, value)
    if not _VERSION.fullmatch(found):
        raise wrong(name, "a version, such as '1.2.0'", value)
    return found


def flag(name: str, value: Any) -> bool:
    """A field that is true or false."""
    if not isinstance(value, bool):
        raise wrong(name, "true or false", value)
    return value


def whole(name: str, value: Any) -> int:
    """A field that holds a whole number, not negative."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise wrong(name, "a whole number, not negative", value)
    return value


def own_version() -> str:
    """The version of neglog that runs."""
    from neglog import __version__

    return __version__


def items(name: str, value: Any) -> list[Any]:
    """A field that holds a list."""
    if not isinstance(value, list):
        raise wrong(name, "a list", value)
    return value


def texts(name: str, value: Any) -> tuple[str, ...]:
    """A field that holds a list of texts, each of them once."""
    found = tuple(text(name, each) for each in items(name, value))
    if len(set(found)) < len(found):
        raise wrong(name, "a list of different names", value)
    return found


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A field that holds an object."""
    if not isinstance(value, dict):
        raise wrong(name, "an object", value)
    for key in value:
        text(f"the names in {name}", key)
    return value


def fields(name: str, value: Any, needed: set[str]) -> dict[str, Any]:
    """A field that holds an object of just these fields."""
    found = mapping(name, value)
    if set(found) != needed:
        raise wrong(name, f"an object of {', '.join(sorted(needed))}", sorted(found))
    return found


def number(name: str, value: Any) -> Any:
    """A field that holds a number; those that JSON lacks are written as ``{"float": "inf"}``."""
    if isinstance(value, dict) and value in ({"float": "inf"}, {"float": "-inf"}, {"float": "nan"}):
        return float(value["float"])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(name, "a number", value)
    return value
