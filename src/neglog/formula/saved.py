"""The saved content of one side of a formula: terms, with their states and levels."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from neglog.errors import DataError
from neglog.formula.expressions import (
    categorical_column,
    columns_used,
    has_argument,
    state_key,
    stateful_calls,
)
from neglog.formula.limits import (
    MAX_COLUMNS,
    MAX_CONTRAST_LEVELS,
    MAX_EXPANSION,
    MAX_LEVELS,
    MAX_STATE_LENGTH,
    shown,
)

#: An expression, and formulaic's word for how to evaluate it: lookup, python or literal.
Expression = tuple[str, str]
#: Terms are products of expressions.
Terms = tuple[tuple[Expression, ...], ...]

INTERCEPT = (("1", "literal"),)

_DAMAGED = "the saved formula is damaged"
_SAVE_AGAIN = "Save the model again."
_BACKTICKS = re.compile(r"`([^`]*)`")


def check_fields(saved: Any, needed: set[str]) -> None:
    """Raise DataError unless this is an object of just these fields."""
    if not isinstance(saved, Mapping) or set(saved) != needed:
        raise DataError(f"{_DAMAGED}: it needs an object of {', '.join(sorted(needed))}. {_SAVE_AGAIN}")


def checked_terms(saved: Any) -> Terms:
    """The terms in a file.

    Raises:
        DataError: they are not terms, or too many.
    """
    terms = tuple(tuple(_expression(each) for each in _list(term, "terms")) for term in _list(saved, "terms"))
    kinds: dict[str, str] = {}
    for text, how in (expression for term in terms for expression in term):
        if kinds.setdefault(text, how) != how:
            raise DataError(f"{_DAMAGED}: `{shown(text)}` is of two kinds. {_SAVE_AGAIN}")
    if not all(terms):
        raise DataError(f"{_DAMAGED}: a term is empty. {_SAVE_AGAIN}")
    check_expansion(map(len, terms))
    return terms


def _expression(saved: Any) -> Expression:
    if not isinstance(saved, list) or len(saved) != 2 or not all(isinstance(each, str) for each in saved):
        raise DataError(f"{_DAMAGED}: a term holds {shown(repr(saved))}. {_SAVE_AGAIN}")
    text, how = saved
    return text, how


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


def checked_transforms(terms: Terms, saved: Mapping[Any, Any]) -> dict[str, Any]:
    """The states of the calls in `terms` that have one; without it they would learn from new rows.

    What each state holds is checked where its call is evaluated.

    Raises:
        DataError: a state is missing, is too large, or belongs to no call.
    """
    states: dict[str, Any] = {}
    used = set()
    for key in state_keys(terms):
        name = key if key in saved else _alias_key(key)
        if name not in saved or not isinstance(saved[name], dict) or not _is_small(saved[name]):
            raise DataError(f"{_DAMAGED}: it holds no usable state of `{shown(key)}`. {_SAVE_AGAIN}")
        used.add(name)
        states[key] = saved[name]
    if len(used) != len(saved):
        odd = next(name for name in saved if name not in used)
        raise DataError(f"{_DAMAGED}: no term has the state of `{shown(str(odd))}`. {_SAVE_AGAIN}")
    return states


def state_keys(terms: Terms) -> tuple[str, ...]:
    """The names of the states that terms learn, in the order of the terms."""
    return tuple(_stateful(terms))


def _stateful(terms: Terms) -> dict[str, ast.Call]:
    expressions = dict.fromkeys(expression for term in terms for expression in term)
    return {state_key(call): call for expression in expressions for call in stateful_calls(*expression)}


def checked_levels(terms: Terms, saved: Mapping[Any, Any], texts: Sequence[str]) -> dict[str, list[Any]]:
    """The levels of the categories in `terms`, where `texts` are the columns that hold text.

    Raises:
        DataError: they are of something else, of several kinds or that of another column, or too many.
    """
    kinds = dict(expression for term in terms for expression in term)
    for text, levels in saved.items():
        if text not in kinds or not isinstance(levels, list) or not _are_levels(levels):
            raise DataError(f"{_DAMAGED}: the levels of `{shown(str(text))}` cannot be used. {_SAVE_AGAIN}")
        check_level_count(text, kinds[text], len(levels))
        if set(texts).isdisjoint(columns_used(text, kinds[text])):
            _check_numbers(text, kinds[text], levels)
    return dict(saved)


def _check_numbers(text: str, how: str, levels: Sequence[Any]) -> None:
    """Raise DataError unless levels are those of columns of numbers, which come in order if none is given."""
    computed = categorical_column(text, how) is None
    if not computed and isinstance(levels[0], str):
        reason = "text, and its column holds numbers"
    elif not has_argument("levels", text, how) and list(levels) != sorted(levels):
        reason = "not in order"
    else:
        return
    raise DataError(f"{_DAMAGED}: the levels of `{shown(text)}` are {reason}. {_SAVE_AGAIN}")


def _are_levels(levels: Sequence[Any]) -> bool:
    """Whether these are different values of one kind: texts, truth values or numbers."""
    kinds = {next((kind for kind, types in _LEVELS if isinstance(each, types)), "") for each in levels}
    finite = all(each == each and abs(each) != math.inf for each in levels if isinstance(each, float))
    return len(kinds) == 1 and "" not in kinds and finite and len(set(levels)) == len(levels)


_LEVELS: Sequence[tuple[str, Any]] = (
    ("text", str),
    ("truth", bool | np.bool_),
    ("number", int | float | np.number),
)


def check_level_count(expression: str, method: str, count: int) -> None:
    """Raise DataError if a category has more levels than can be coded."""
    most = MAX_CONTRAST_LEVELS if has_argument("contrasts", expression, method) else MAX_LEVELS
    if count > most:
        raise DataError(
            f"`{shown(expression)}` has {count} levels; at most {most} can be coded. "
            "Join rare levels into one, or use hashed(...)."
        )


def _list(saved: Any, what: str) -> list[Any]:
    if not isinstance(saved, list):
        raise DataError(f"{_DAMAGED}: `{what}` is not a list. {_SAVE_AGAIN}")
    return saved


def _is_small(state: Any) -> bool:
    """Whether each entry of a state, and of the states of a basis, is short."""
    if isinstance(state, dict | list):
        values = state.values() if isinstance(state, dict) else state
        return len(state) <= MAX_STATE_LENGTH and all(map(_is_small, values))
    return not isinstance(state, np.ndarray) or state.size <= MAX_STATE_LENGTH


def _alias_key(key: str) -> str:
    """The name of a state in files of earlier versions, where names in backticks are made identifiers."""

    def alias(match: re.Match[str]) -> str:
        name = re.sub(r"\W", "_", match[1])
        return f"_{name}" if name[:1].isdigit() else name

    return _BACKTICKS.sub(alias, key)
