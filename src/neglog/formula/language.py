"""The language of whole formulas: ``y ~ x + C(group)`` → the terms on both sides of ``~``.

formulaic parses it, with two additions: expressions are checked before anything looks at them, and the terms
that an operator gives are counted before they are made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

from formulaic import Formula, SimpleFormula
from formulaic.errors import FormulaicError
from formulaic.formula import StructuredFormula
from formulaic.parser import DefaultFormulaParser, DefaultOperatorResolver
from formulaic.parser.algos.tokenize import tokenize
from formulaic.parser.types import Factor, Operator, OrderedSet, Term, Token

from neglog.errors import DataError
from neglog.formula.expressions import (
    centred_spline,
    columns_used,
    functions_used,
    is_offset,
    offset_argument,
)
from neglog.formula.limits import MAX_DEPTH, MAX_EXPANSION, MAX_FORMULA_LENGTH, shown
from neglog.formula.operators import check_operators, check_operators_of_r
from neglog.formula.saved import INTERCEPT, Terms, check_expansion
from neglog.formula.signatures import OFFSET_FUNCTION
from neglog.formula.syntax import parse

_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_OPEN, _CLOSE = "⧛", "⧚"  # around the place that formulaic's messages mark
ADDITIVE = ("+", "-", "~", "|")
"""The operators of which 0 can be an operand."""
_NO_FACTOR = "a 0 removes the intercept, and is no factor. Leave the product out."
_NUMBER = re.compile(r"[0-9.]+")
# A text or a name in backticks; or a caret before or after a number.
_CARET = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`|(\^)(?=\s*\(?\s*[-+]?\s*[0-9.])|(?<![\w.])([0-9.]+\s*)\^")
# What formulaic's parser raises for text that is no formula, beside errors of its own.
_PARSER_ERRORS = (
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)


def read_formula(text: str, names: Sequence[str]) -> tuple[Terms, Terms, Terms]:
    """The terms on the left and on the right of ``~``, and the offsets; ``.`` is all of `names` but the left.

    Raises:
        DataError: the formula cannot be read, is too large, or holds an expression that does what a formula
            may not do.
    """
    if len(text) > MAX_FORMULA_LENGTH:
        raise DataError(
            f"the formula `{shown(text)}` has more than {MAX_FORMULA_LENGTH} characters. Shorten it."
        )
    parsed = _parsed(text, names)
    sides = parsed._structure if isinstance(parsed, StructuredFormula) else {}
    if set(sides) != {"lhs", "rhs"} or not all(isinstance(side, SimpleFormula) for side in sides.values()):
        raise DataError(
            f"the formula `{shown(text)}` needs one response, one ~ and no |. Write it as `y ~ x1 + x2`."
        )
    left, right = (_terms(side) for side in (sides["lhs"], sides["rhs"]))
    check_expansion(map(len, (*left, *right)))
    _check_names(text, (*left, *right))
    return left, *_without_offsets(text, left, right)


def _terms(side: SimpleFormula) -> Terms:
    """The terms that formulaic has read."""
    return tuple(tuple((factor.expr, factor.eval_method.value) for factor in term.factors) for term in side)


def _without_offsets(text: str, left: Terms, right: Terms) -> tuple[Terms, Terms]:
    """The terms on the right without the offsets, and the arguments of these."""
    rest = tuple(term for term in right if not any(is_offset(*factor) for factor in term))
    offsets = tuple(term for term in right if term not in rest)
    _check_offsets(text, (*left, *rest), offsets)
    return rest, tuple((offset_argument(term[0][0]),) for term in offsets)


def centred(terms: Terms) -> Terms:
    """The terms with a constraint on the cubic splines that are terms of their own beside an intercept.

    The columns of `cr`, `cs` and `cc` sum to 1, which is the intercept: of the two, one would be redundant.
    """
    if INTERCEPT not in terms:
        return terms
    changed = {term[0]: centred_spline(*term[0]) for term in terms if len(term) == 1}
    return tuple(tuple(changed.get(factor, factor) for factor in term) for term in terms)


def _check_offsets(text: str, others: Terms, offsets: Terms) -> None:
    """Refuse offsets that are no terms of the right side of their own."""
    factors = {factor for term in others for factor in term}
    inside = any(OFFSET_FUNCTION in functions_used(*factor) for factor in factors)
    if inside or any(len(term) > 1 for term in offsets):
        raise DataError(
            f"in `{shown(text)}`, an offset must be a term of its own on the right: `y ~ x + offset(log(t))`."
        )


def read_companions(also: Iterable[str], names: Sequence[str]) -> dict[str, Terms]:
    """The terms of companion formulas, ``sigma ~ x``, by the predictors that they describe.

    Raises:
        DataError: as `read_formula`; one names no predictor, or two name the same.
    """
    found: dict[str, Terms] = {}
    for text in also:
        left, right, offsets = read_formula(text, names)
        if offsets:
            raise DataError(
                f"the formula `{shown(text)}` has an offset, which belongs to the location. Move it to the "
                "formula of the response."
            )
        if len(left) != 1 or len(left[0]) != 1 or left[0][0][1] != "lookup":
            raise DataError(f"the formula `{text}` must name one predictor before its ~: `log_variance ~ x`.")
        name = left[0][0][0]
        if name in found:
            raise DataError(f"the predictor `{name}` has two formulas. Join them into one.")
        found[name] = right
    return found


def _parsed(text: str, names: Sequence[str]) -> Any:
    parser = _Parser(operator_resolver=_Operators())
    context = {"__formulaic_variables_available__": list(names)}
    try:
        return Formula.from_spec(text, parser=parser, nested_parser=parser, context=context)
    except DataError:
        raise
    except (FormulaicError, *_PARSER_ERRORS) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if "|" in text and "Operator `|`" in reason:
            raise DataError(
                f"the formula `{shown(text)}` has |, as for random effects, which formulas do not have. "
                "Write `C(g)` for a coefficient of each group, or give `groups='g'` for standard errors of "
                f"clusters.{_marked(str(error)) if shown(text) == text else ''}"
            ) from None
        reason = shown(reason).replace("insuffient", "insufficient")
        raise DataError(
            f"the formula `{shown(text)}` cannot be read: {reason}. Write it as `y ~ x1 + x2`."
            f"{_marked(str(error)) if shown(text) == text else ''}"
        ) from None


def _marked(message: str) -> str:
    """The formula with carets under the place that formulaic marks in its message; empty without a place."""
    line = _COLOUR.sub("", message.splitlines()[-1] if message else "")
    before, opened, rest = line.partition(_OPEN)
    inside, closed, after = rest.partition(_CLOSE)
    if not (opened and closed):
        return ""
    return f"\n    {before}{inside}{after}\n    {' ' * len(before)}{'^' * len(inside)}"


def _check_names(text: str, terms: Terms) -> None:
    factors = {factor for term in terms for factor in term}
    called = {name for factor in factors for name in functions_used(*factor)}
    both = (called - {OFFSET_FUNCTION}).intersection(
        name for factor in factors for name in columns_used(*factor)
    )
    if both:
        raise DataError(
            f"in `{shown(text)}`, `{min(both)}` is both a column and a function. Rename the column."
        )


class _Parser(DefaultFormulaParser):
    """formulaic's parser, for expressions that a formula may hold."""

    def get_tokens_from_formula(self, formula: str, *, context: MutableMapping[str, Any]) -> Iterable[Token]:
        check_operators_of_r(formula)
        formula = _with_powers(formula)
        tokens = list(tokenize(formula))
        names = {token.token for token in tokens if token.kind is Token.Kind.NAME}
        if any(token.token == "." for token in tokens):
            names |= set(context["__formulaic_variables_available__"])
        for token in tokens:
            if token.kind is Token.Kind.PYTHON:
                parse(token.token)
        _check_depth(tokens)
        check_operators(formula, tokens)
        _check_factors(tokens)
        numbers = sorted(name for name in names if _NUMBER.fullmatch(name))
        if numbers:  # formulaic would take the column `1` for the intercept.
            raise DataError(
                f"the column `{numbers[0]}` has a number for its name, which in a formula is the number. "
                "Rename the column."
            )
        return list(super().get_tokens_from_formula(formula, context=context))


def _with_powers(formula: str) -> str:
    """The formula with ``**`` for ``^`` before a number within functions and braces, as R has powers there.

    Between other expressions ``^`` is left alone, and outside of them it is an operator of formulas.
    """
    for token in reversed(list(tokenize(formula))):
        if token.kind is Token.Kind.PYTHON and token.source_start is not None and "^" in token.token:
            end = (token.source_end or token.source_start) + 1
            inside = _CARET.sub(_as_power, formula[token.source_start : end])
            formula = formula[: token.source_start] + inside + formula[end:]
    return formula


def _as_power(found: re.Match[str]) -> str:
    """A caret as ``**``, with the number before it; text and names as they are."""
    if found[2] is not None:
        return f"{found[2]}**"
    return "**" if found[1] else found[0]


def _check_depth(tokens: Iterable[Token]) -> None:
    depth = 0
    for token in tokens:
        depth += (token.token in "([") - (token.token in ")]") if token.kind is Token.Kind.CONTEXT else 0
        if depth > MAX_DEPTH:
            raise DataError(f"the formula has more than {MAX_DEPTH} brackets in each other. Simplify it.")
        if token.kind is Token.Kind.OPERATOR and len(token.token) > MAX_DEPTH:
            raise DataError(f"the formula has more than {MAX_DEPTH} signs in a row. Leave them out.")


def _check_factors(tokens: Sequence[Token]) -> None:
    """Raise DataError for a product with 0, which formulaic reads as the removal of the other factors too."""
    for left, operator, right in zip(tokens, tokens[1:], tokens[2:], strict=False):
        is_product = operator.kind is Token.Kind.OPERATOR and operator.token not in ADDITIVE
        if is_product and "0" in (left.token, right.token):
            raise DataError(
                f"the formula has the product `{left.token} {operator.token} {right.token}`; {_NO_FACTOR}"
            )


class _Operators(DefaultOperatorResolver):
    """formulaic's operators, that give a limited number of terms."""

    @property
    def operators(self) -> list[Operator]:
        return [_limited(operator) for operator in super().operators]


def _limited(operator: Operator) -> Operator:
    own, product = _OWN.get(operator.symbol), operator.symbol in ("*", ":", "in")
    added = operator.symbol == "+" and operator.arity == 2
    multiplied = operator.symbol not in ADDITIVE

    def to_terms(*sets: Any, context: Any = None) -> Any:
        if multiplied:
            _check_factor_sets(sets)
        if product:
            _check_products(math.prod(map(len, sets)))
        if added and all(isinstance(each, OrderedSet) for each in sets):
            return _added(*sets)
        terms = own(*sets) if own else operator.to_terms(*sets, context=context)
        if isinstance(terms, OrderedSet):
            check_expansion(len(term.factors) for term in terms)
        return terms

    return Operator(
        operator.symbol,
        arity=operator.arity,
        precedence=operator.precedence,
        associativity=operator.associativity,
        fixity=operator.fixity,
        to_terms=to_terms,
        accepts_context=operator.accepts_context,
        structural=operator.structural,
        disabled=operator.disabled,
    )


def _check_factor_sets(sets: Sequence[OrderedSet[Term]]) -> None:
    """Raise DataError for a product with a bracket without terms, which formulaic leaves out."""
    if not all(map(len, sets)):
        raise DataError(f"the formula has a product with a bracket without terms, such as (0); {_NO_FACTOR}")


def _added(left: OrderedSet[Term], right: OrderedSet[Term]) -> OrderedSet[Term]:
    """The sum, which takes the place of `left`: a new set for each `+` would take quadratic time."""
    left.values.update(right.values)
    _check_products(len(left))
    return left


def _nested(nested: OrderedSet[Term], parents: OrderedSet[Term]) -> OrderedSet[Term]:
    """``b %in% a`` of R, which is the product `a:b` without `a`."""
    return OrderedSet(parent * term for parent in parents for term in nested)


def _power(terms: OrderedSet[Term], exponent: OrderedSet[Term]) -> OrderedSet[Term]:
    """The products of up to `exponent` of the terms; larger exponents than their number change nothing."""
    products = terms
    for _ in range(_whole(exponent) - 1):
        _check_products(len(products) * len(terms))
        longer = OrderedSet(product * term for product in products for term in terms)
        check_expansion(len(term.factors) for term in longer)
        if list(longer) == list(products):
            break
        products = longer
    return products


_OWN: Mapping[str, Callable[..., Any]] = {"**": _power, "^": _power, "in": _nested}
"""Operators that differ from those of formulaic."""


def _whole(exponent: OrderedSet[Term]) -> int:
    factors = [factor for term in exponent for factor in term.factors]
    literal = len(factors) == 1 and factors[0].eval_method is Factor.EvalMethod.LITERAL
    if not literal or not factors[0].expr.isdecimal() or int(factors[0].expr) < 1:
        raise ValueError("The right-hand argument of `**` must be a positive integer")
    return int(factors[0].expr)


def _check_products(count: int) -> None:
    if count > MAX_EXPANSION:
        raise DataError(
            f"the formula gives up to {count} terms, more than {MAX_EXPANSION}. "
            "Leave out interactions of many columns."
        )
