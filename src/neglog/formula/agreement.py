"""Whether the parts of a saved design agree: its formulas, its sides, and the table that they came from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from neglog.errors import DataError
from neglog.formula.language import centred, read_companions, read_formula
from neglog.formula.limits import shown
from neglog.formula.saved import INTERCEPT, Terms
from neglog.formula.sides import Side, variables


def check_agreement(
    formula: str,
    also: Sequence[str],
    response: Side,
    main: Side,
    shared: Side,
    others: Mapping[str, Side],
    offset: Side | None = None,
) -> None:
    """Raise DataError unless the sides are those of the formulas, learned from one table."""
    left, right, offsets = read_formula(formula, _names((response, main)))
    _require(offsets == (() if offset is None else offset.terms), "formula", "differs from `offset`", formula)
    _require(left == response.terms, "formula", "does not have the terms of `response`", formula)
    _require(_are_terms(main, right), "formula", "does not have the terms of `main`", formula)
    _check_companions(also, response, main, others)
    if main.intercept:
        _require(shared is main, "shared", "differs from `main`, which has an intercept", formula)
    else:
        with_intercept = _are_terms(shared, (INTERCEPT, *main.terms))
        _require(with_intercept, "shared", "is not `main` with an intercept", formula)
    _check_one_table((response, main, shared, *others.values(), *([] if offset is None else [offset])))


def _check_companions(also: Sequence[str], response: Side, main: Side, others: Mapping[str, Side]) -> None:
    """Raise DataError unless the sides of other predictors are those of their formulas."""
    names = {name for name in _names((main, *others.values())) if name not in response.variables}
    companions = read_companions(also, [name for name in _names(others.values()) if name in names])
    agree = [name for name in others if name in companions and _are_terms(others[name], companions[name])]
    _require(agree == list(companions) == list(others), "also", "does not have the terms of `others`", also)


def _are_terms(side: Side, terms: Terms) -> bool:
    """Whether a side has the terms of a formula. Earlier versions did not centre splines."""
    return side.terms in (centred(terms), terms)


def _check_one_table(sides: Iterable[Side]) -> None:
    """Raise DataError where a column is text in one side alone, or an expression has two states."""
    known: dict[tuple[str, str], Any] = {}
    for side in sides:
        kinds = {("texts", name): name in side.texts for name in side.variables}
        levels = {("levels", text): repr(value) for text, value in side.levels.items()}
        states = {("transforms", key): _comparable(value) for key, value in side.transforms.items()}
        for place, value in {**kinds, **levels, **states}.items():
            _require(known.setdefault(place, value) == value, place[0], "differ between the sides", place[1])


def _comparable(state: Any) -> Any:
    """A state whose parts compare by value, whatever the order of its entries."""
    if isinstance(state, dict):
        return {key: _comparable(value) for key, value in state.items()}
    return repr(getattr(state, "tolist", lambda: state)())


def _names(sides: Iterable[Side]) -> tuple[str, ...]:
    """The columns of the table, as far as they are known: those that are terms, in their order, come first.

    A dot in a formula is all columns of the table. Each of them is a term, unless it was taken out.
    """
    sides = tuple(sides)
    alone = [term[0][0] for side in sides for term in side.terms if len(term) == 1 and term[0][1] == "lookup"]
    return tuple(dict.fromkeys([*alone, *(name for side in sides for name in variables(side.terms))]))


def _require(holds: bool, name: str, reason: str, value: Any) -> None:
    if not holds:
        raise DataError(
            f"the saved formula is damaged: `{name}` {reason} ({shown(repr(value))}). Save the model again."
        )
