"""What a file may hold of one side of a formula: terms, with the states and levels that belong to them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from neglog.errors import DataError
from neglog.formula.expressions import has_contrasts, state_key, stateful_calls
from neglog.formula.limits import (
    MAX_COLUMNS,
    MAX_CONTRAST_LEVELS,
    MAX_EXPANSION,
    MAX_LEVELS,
    MAX_STATE_LENGTH,
    shown,
)
from neglog.formula.signatures import STATES
from neglog.formula.syntax import arguments, constant, function_name

#: An expression, and formulaic's word for how to evaluate it: lookup, python or literal.
Expression = tuple[str, str]
#: Terms are products of expressions.
Terms = tuple[tuple[Expression, ...], ...]

_DAMAGED = "the saved formula is damaged"
_SAVE_AGAIN = "Save the model again."
_BACKTICKS = re.compile(r"`([^`]*)`")


def checked_terms(saved: Any) -> Terms:
    """The terms in a file.

    Raises:
        DataError: they are not terms, or too many.
    """
    terms = tuple(tuple((text, how) for text, how in term) for term in _list(saved, "terms"))
    kinds: dict[str, str] = {}
    for text, how in (expression for term in terms for expression in term):
        if not isinstance(text, str) or not isinstance(how, str):
            raise DataError(f"{_DAMAGED}: a term holds {shown(repr((text, how)))}. {_SAVE_AGAIN}")
        if kinds.setdefault(text, how) != how:
            raise DataError(f"{_DAMAGED}: `{shown(text)}` is of two kinds. {_SAVE_AGAIN}")
    if not all(terms):
        raise DataError(f"{_DAMAGED}: a term is empty. {_SAVE_AGAIN}")
    check_expansion(map(len, terms))
    return terms


def check_expansion(factors: Iterable[int]) -> None:
    """Raise DataError if terms with these numbers of factors need too many combinations of contrasts."""
    if sum(2 ** min(count, 64) for count in factors) > MAX_EXPANSION:
        raise DataError(
            f"the formula gives too many terms: 2 to the number of factors, summed over its terms, is above "
            f"{MAX_EXPANSION}. Leave out interactions of many columns."
        )


def checked_names(saved: Any, what: str) -> tuple[str, ...]:
    """A list of names in a file.

    Raises:
        DataError: it is none, or has too many.
    """
    names = tuple(_list(saved, what))
    if len(names) > MAX_COLUMNS or not all(isinstance(name, str) for name in names):
        raise DataError(f"{_DAMAGED}: `{what}` is not a list of at most {MAX_COLUMNS} names. {_SAVE_AGAIN}")
    return names


def checked_transforms(terms: Terms, saved: Any) -> dict[str, Any]:
    """The states of the calls in `terms` that have one; without it they would learn from new rows.

    Raises:
        DataError: a state is missing, or is not one of such a call, or too large.
    """
    states: dict[str, Any] = {}
    for key, call in _stateful(terms).items():
        state = saved.get(key, saved.get(_alias_key(key)))
        if not _is_state(call, state):
            raise DataError(f"{_DAMAGED}: it holds no usable state of `{shown(key)}`. {_SAVE_AGAIN}")
        states[key] = state
    return states


def state_keys(terms: Terms) -> tuple[str, ...]:
    """The names of the states that terms learn, in the order of the terms."""
    return tuple(_stateful(terms))


def _stateful(terms: Terms) -> dict[str, ast.Call]:
    expressions = dict.fromkeys(expression for term in terms for expression in term)
    return {state_key(call): call for expression in expressions for call in stateful_calls(*expression)}


def checked_levels(terms: Terms, saved: Mapping[Any, Any]) -> dict[str, list[Any]]:
    """The levels of the categories in `terms`.

    Raises:
        DataError: they are of something else, of another kind, or too many.
    """
    kinds = {expression: how for term in terms for expression, how in term}
    for text, levels in saved.items():
        known = text in kinds and isinstance(levels, list)
        if not known or not all(isinstance(level, str | bool | int | float | np.generic) for level in levels):
            raise DataError(f"{_DAMAGED}: the levels of `{shown(str(text))}` cannot be used. {_SAVE_AGAIN}")
        check_level_count(text, kinds[text], len(levels))
    return dict(saved)


def check_level_count(expression: str, method: str, count: int) -> None:
    """Raise DataError if a category has more levels than can be coded."""
    most = MAX_CONTRAST_LEVELS if has_contrasts(expression, method) else MAX_LEVELS
    if count > most:
        raise DataError(
            f"`{shown(expression)}` has {count} levels; at most {most} can be coded. "
            "Join rare levels into one, or use hashed(...)."
        )


def _list(saved: Any, what: str) -> list[Any]:
    if not isinstance(saved, list):
        raise DataError(f"{_DAMAGED}: `{what}` is not a list. {_SAVE_AGAIN}")
    return saved


def _is_state(call: ast.Call, state: Any) -> bool:
    raw = arguments(call)[1].get("raw") if function_name(call) == "poly" else None
    if raw is not None and constant(raw):
        return state == {}
    return _has_entries(state, STATES[function_name(call)])


def _has_entries(state: Any, names: frozenset[str]) -> bool:
    """Whether a state has these entries, or is that of a basis, with a state for each of its columns."""
    if not isinstance(state, dict) or not state:
        return False
    if set(state) == names:
        return all(_is_small(value, name) for name, value in state.items())
    return len(state) <= MAX_STATE_LENGTH and all(_has_entries(each, names) for each in state.values())


def _is_small(value: Any, name: str) -> bool:
    """Whether an entry of a state is a number, None, or a short sequence of numbers."""
    if isinstance(value, np.ndarray):
        dimensions = 2 if name == "constraints" else 1  # More would broadcast against the rows.
        return value.ndim <= dimensions and value.size <= MAX_STATE_LENGTH and value.dtype.kind in "biuf"
    if isinstance(value, dict):
        return all(isinstance(key, int) for key in value) and _are_numbers(list(value.values()))
    return _are_numbers(value if isinstance(value, list) else [value])


def _are_numbers(values: Sequence[Any]) -> bool:
    kinds = bool | int | float | np.number | np.bool_ | None
    return len(values) <= MAX_STATE_LENGTH and all(isinstance(value, kinds) for value in values)


def _alias_key(key: str) -> str:
    """The name of a state in files of earlier versions, where names in backticks are made identifiers."""

    def alias(match: re.Match[str]) -> str:
        name = re.sub(r"\W", "_", match[1])
        return f"_{name}" if name[:1].isdigit() else name

    return _BACKTICKS.sub(alias, key)
