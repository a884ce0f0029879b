"""The formulas of a model: one for all its predictors, or one for each."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from neglog.arguments import shown
from neglog.errors import DataError, ModelError
from neglog.handlers import Model
from neglog.layers import current_names

_TILDE = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`|(~)")


def is_formula(x: Any) -> bool:
    """Whether an argument is a formula, or a mapping from predictors to formulas."""
    if isinstance(x, Mapping):
        return any(isinstance(value, str) for value in x.values())
    return isinstance(x, str)


def joint_formulas(
    formulas: Any, model: Model, predictors: Sequence[str], columns: Collection[str] = ()
) -> tuple[str, tuple[str, ...]]:
    """The formula of the location, and the companions of the other predictors.

    Of a mapping, one formula has the response, or all have the same. Predictors that it does not have are
    constants, as those without a design are.

    Args:
        formulas: a formula, or a mapping from predictors to formulas.
        model: the model.
        predictors: the linear predictors of the model, the location first.
        columns: those of the table.

    Raises:
        DataError: a value is no formula; there is no response, or are two.
        ModelError: a predictor has two formulas, by two of its names.
    """
    if isinstance(formulas, str):
        return formulas, ()
    if not predictors:
        raise ModelError("a network takes one design, and so one formula: `y ~ x1 + x2`.")
    sides = _read(current_names(model, formulas, "x"), columns)
    left = response_of({key: left for key, (left, _) in sides.items()})
    location = predictors[0]
    right = {**dict.fromkeys(predictors, "1"), **{key: right for key, (_, right) in sides.items()}}
    rest = [key for key in right if key != location]
    return f"{left} ~ {right[location]}", tuple(f"{key} ~ {right[key]}" for key in rest)


def split_formulas(formulas: Mapping[Any, Any], columns: Collection[str] = ()) -> tuple[str, tuple[str, ...]]:
    """The first formula with a response, and the others as companions of it.

    Raises:
        DataError: a value is no formula; there is no response, or are two.
    """
    sides = _read(formulas, columns)
    left = response_of({key: left for key, (left, _) in sides.items()})
    first = next(key for key, (own, _) in sides.items() if own)
    companions = tuple(f"{key} ~ {right}" for key, (_, right) in sides.items() if key != first)
    return f"{left} ~ {sides[first][1]}", companions


def response_of(lefts: Mapping[str, str]) -> str:
    """The response that formulas have in common, by the left side of each.

    Raises:
        DataError: no formula has one, or two have different ones.
    """
    found = list(dict.fromkeys(left for left in lefts.values() if left))
    if len(found) == 1:
        return found[0]
    key = next(iter(lefts))
    if found:
        raise DataError(
            f"the formulas have the responses {', '.join(map(repr, found))}. Give one of them a left side, "
            "or all the same."
        )
    raise DataError(f"no formula has a response. Give one of them a left side: {{{key!r}: 'y ~ x', ...}}.")


def _read(formulas: Mapping[Any, Any], columns: Collection[str]) -> dict[Any, tuple[str, str]]:
    """The two sides of each formula; ``sigma ~ z`` of the key ``sigma`` is refused, unless it is a column."""
    sides = {key: _sides(key, text) for key, text in formulas.items()}
    for key, (left, right) in sides.items():
        if left in (key, f"log_{key}") and left not in columns:
            raise DataError(
                f"the formula of {key!r} has the parameter itself on its left, and the key names it. Write "
                f"'~ {right}'; one formula has the response, as 'y ~ x'."
            )
    return sides


def _sides(key: Any, text: Any) -> tuple[str, str]:
    """The left side of a formula, which may be empty, and the right one."""
    if not isinstance(text, str):
        raise DataError(f"the formula of {key!r} must be text, such as '~ x'; it is {shown(text)}.")
    tilde = next((match.start(1) for match in _TILDE.finditer(text) if match[1]), None)
    if tilde is None:
        raise DataError(f"the formula {text!r} of {key!r} needs a ~. Write it as '~ {text.strip()}'.")
    return text[:tilde].strip(), text[tilde + 1 :].strip()
