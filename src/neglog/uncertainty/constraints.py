"""Constraints: linear hypotheses on parameters, read from a string such as ``"x1 = 0, x2 - x3 = 1"``."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from neglog.errors import ModelError

TOKEN = re.compile(
    r"\s*(?P<token>`[^`]+`|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[^\W\d][\w.:]*(?:\[[^\]]*\])*|[-+*/=,])"
)
Terms = dict[str, float]
"""Name -> coefficient; the constant is under the empty name."""


def linear_constraints(hypothesis: str, index: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """R `(H, K)` and q `(H,)` of the hypothesis R b = q on parameters, each a (parameter, term).

    Each constraint is a sum of multiples of parameters, and of numbers, on each side of ``=``; ``= 0`` may be
    left out, and commas separate constraints. A parameter is ``mean[x1]``, or ``x1`` where only one predictor
    has that term, or a constant such as ``sigma``; backticks hold names with other signs.

    Raises:
        ModelError: what cannot be read, is not linear, or names no parameter, or more than one.
    """
    found = []
    for part in _split(_tokens(hypothesis), ","):
        sides = [_sum(side, hypothesis) for side in _split(part, "=")]
        sides = sides if len(sides) > 1 else [*sides, {}]
        for left, right in pairwise(sides):
            found.append({key: left.get(key, 0.0) - right.get(key, 0.0) for key in {**left, **right}})
    names, matrix = _names(index), torch.zeros((len(found), len(index)), dtype=torch.float64)
    for row, terms in zip(matrix, found, strict=True):
        for name, coefficient in terms.items():
            if name:
                row[_place(name, names)] += coefficient
        if not bool(row.any()):
            raise ModelError(
                f"a constraint in {hypothesis!r} has no parameter left, so there is nothing to test."
            )
    return matrix, -torch.tensor([terms.get("", 0.0) for terms in found], dtype=torch.float64)


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
    factors, signs = product[::2], ["*", *product[1::2]]
    names = [factor.strip("`") for factor in factors if factor[0] not in "0123456789."]
    well = len(factors) == len(signs) and all(each in ("*", "/") for each in signs)
    if not well or len(names) > 1 or any(factor in "*/+-" for factor in factors):
        raise ModelError(
            f"{hypothesis!r} is not a list of linear constraints; write them as in 'x1 = 0, 2 * x2 - x3 = 1'."
        )
    number = sign
    for factor, each in zip(factors, signs, strict=True):
        if each == "/" and (factor[0] not in "0123456789." or float(factor) == 0):
            raise ModelError(f"{hypothesis!r} divides by {factor}, so it is not linear.")
        if factor[0] in "0123456789.":
            number = number * float(factor) if each == "*" else number / float(factor)
    if not math.isfinite(number):
        raise ModelError(f"{hypothesis!r} holds a number beyond the range of floats; write a finite one.")
    name = names[0] if names else ""
    terms[name] = terms.get(name, 0.0) + number


def _names(index: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
    """What a parameter may be called -> the places of all that are called so."""
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
        raise ModelError(f"there is no parameter {name!r}; there are {', '.join(names)}.")
    if len(places) > 1:
        ours = [full for full, at in names.items() if len(at) == 1 and at[0] in places]
        raise ModelError(f"{name!r} may be {' or '.join(ours)}; say which.")
    return places[0]
