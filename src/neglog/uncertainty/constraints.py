"""Linear hypotheses on parameters, parsed from a string such as ``"x1 = 0, x2 - x3 = 1"``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from neglog.errors import ModelError, did_you_mean

# The parser of formulaic 1.2 (`LinearConstraints`) fails on 1e-3, "=-1" and "a:b", and misreads "a = b = 1".
TOKEN = re.compile(
    r"\s*(?P<token>`[^`]+`|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[^\W\d][\w.:]*(?:\[[^\]]*\])*|[-+*/=,])"
)
Terms = dict[str, float]
"""Name -> coefficient; the constant has the empty name."""


def linear_constraints(hypothesis: str, index: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """R `(H, K)` and q `(H,)` of the hypothesis R b = q on parameters, each a (parameter, term).

    Each side of ``=`` is a sum of numbers and of multiples of parameters; ``= 0`` may be left out, and commas
    separate constraints. A parameter is ``mean[x1]``, or ``x1`` where only one predictor has that term, or a
    constant such as ``sigma``; names with other characters are written in backticks.

    Raises:
        ModelError: the hypothesis cannot be parsed, is not linear, or has an unknown or ambiguous name.
    """
    constraints, names = _constraints(hypothesis), _names(index)
    matrix = torch.zeros((len(constraints), len(index)), dtype=torch.float64)
    for row, terms in zip(matrix, constraints, strict=True):
        for name, coefficient in terms.items():
            if name:
                row[_place(name, names)] += coefficient
        if not bool(row.any()):
            raise ModelError(
                f"a constraint in {hypothesis!r} has no parameter left, so there is nothing to test."
            )
    return matrix, -torch.tensor([terms.get("", 0.0) for terms in constraints], dtype=torch.float64)


def _constraints(hypothesis: str) -> list[Terms]:
    """The terms of left side minus right side, of each constraint; ``a = b = c`` has two of them."""
    found = []
    for part in _split(_tokens(hypothesis), ","):
        sides = [_sum(side, hypothesis) for side in _split(part, "=")]
        sides = sides if len(sides) > 1 else [*sides, {}]
        for left, right in pairwise(sides):
            found.append({key: left.get(key, 0.0) - right.get(key, 0.0) for key in {**left, **right}})
    return found


def _tokens(hypothesis: str) -> list[str]:
    tokens, at, text = [], 0, hypothesis.strip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise ModelError(
                f"{hypothesis!r} cannot be read from {text[at:].strip()!r} on; put names with special signs "
                "in backticks, as in '`mean[C(group)[T.b]]` = 0'."
            )
        tokens.append(match["token"])
        at = match.end()
    return tokens


def _split(tokens: Sequence[str], sign: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token == sign:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _sum(tokens: Sequence[str], hypothesis: str) -> Terms:
    """The terms of one side, such as those of ``2 * x1 - x2 / 3 + 1``."""
    terms: Terms = {}
    sign, product = 1.0, list[str]()
    for token in tokens:
        if token in ("+", "-") and product and product[-1] not in ("*", "/"):
            _add(terms, sign, product, hypothesis)
            sign, product = (-1.0 if token == "-" else 1.0), []
        elif token in ("+", "-") and not product:
            sign = -sign if token == "-" else sign
        else:
            product.append(token)
    _add(terms, sign, product, hypothesis)
    return terms


def _add(terms: Terms, sign: float, product: Sequence[str], hypothesis: str) -> None:
    """Add a product such as ``2 * x1 / 3`` to the terms."""
    factors, operators = product[::2], ["*", *product[1::2]]
    names = [factor.strip("`") for factor in factors if not _is_number(factor)]
    if len(names) > 1 or not _alternate(factors, operators):
        raise ModelError(
            f"{hypothesis!r} is not a list of linear constraints; write them as in 'x1 = 0, 2 * x2 - x3 = 1'."
        )
    coefficient = sign
    for factor, operator in zip(factors, operators, strict=True):
        coefficient = _scaled(coefficient, operator, factor, hypothesis)
    if not math.isfinite(coefficient):
        raise ModelError(f"{hypothesis!r} holds a number beyond the range of floats; write a finite one.")
    name = names[0] if names else ""
    terms[name] = terms.get(name, 0.0) + coefficient


def _is_number(token: str) -> bool:
    return token[0] in "0123456789."


def _alternate(factors: Sequence[str], operators: Sequence[str]) -> bool:
    """Whether the tokens of a product are a factor, an operator, a factor, and so on."""
    alternating = len(factors) == len(operators) and not {"*", "/", "+", "-"} & set(factors)
    return alternating and {"*", "/"} >= set(operators)


def _scaled(coefficient: float, operator: str, factor: str, hypothesis: str) -> float:
    """A coefficient times or by a factor; a parameter has the factor 1."""
    number = float(factor) if _is_number(factor) else None
    if operator == "/" and not number:
        raise ModelError(f"{hypothesis!r} divides by {factor}, so it is not linear.")
    if number is None:
        return coefficient
    return coefficient * number if operator == "*" else coefficient / number


def _names(index: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
    """Name -> the indices of all parameters that it may mean."""
    names: dict[str, list[int]] = {}
    for place, (parameter, term) in enumerate(index):
        names.setdefault(f"{parameter}[{term}]" if term else parameter, []).append(place)
    for place, (_, term) in enumerate(index):
        if term and place not in names.get(term, []):
            names.setdefault(term, []).append(place)
    return names


def _place(name: str, names: dict[str, list[int]]) -> int:
    places = names.get(name)
    if places is None:
        raise ModelError(
            f"there is no parameter {name!r}; there are {', '.join(names)}.{did_you_mean(name, names)}"
        )
    if len(places) > 1:
        ours = [full for full, at in names.items() if len(at) == 1 and at[0] in places]
        raise ModelError(f"{name!r} may be {' or '.join(ours)}; say which.")
    return places[0]
