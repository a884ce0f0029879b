"""The columns that terms, states and levels give on any rows, derived from a few made-up rows.

The columns of a design and the levels of its categories follow from terms, states and levels, but for the
kinds of the numbers in a table (floats, whole numbers, truth values), which are tried one after the other.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Collection, Iterator
from typing import Any

import pandas as pd
from formulaic import ModelSpec
from interface_meta import override

from neglog.errors import DataError
from neglog.formula.evaluation import Evaluation, Materializer, Truths
from neglog.formula.expressions import columns_used
from neglog.formula.limits import MAX_MIXTURE_NODES, shown
from neglog.formula.syntax import parse

_KINDS: dict[str, pd.Series] = {
    "float": pd.Series([1.0, 2.0, 3.0]),
    "whole": pd.Series([1, 2, 3]),
    "truth": pd.Series([True, False, True]),
}
_TEXT = pd.Series(["a", "b", "c"])


class MadeUpRows(Materializer):
    """formulaic's designs of three rows that are made up: text where `texts` is True, else numbers."""

    def __init__(self, names: Collection[str], texts: Collection[str], most: int, truths: Truths) -> None:
        columns = {name: _TEXT if name in texts else _KINDS["float"] for name in names}
        super().__init__(pd.DataFrame(columns, index=_TEXT.index), most, truths)
        self.texts = frozenset(texts)
        self.kinds: dict[str, str] = {}
        self.nodes = 0

    @override
    def _lookup(self, name: str) -> tuple[Any, set[Any]]:
        is_truth = name in (self.truths.known or ()) and name not in self.texts
        return self.truths.coded(name, _KINDS["truth"] if is_truth else self.data[name]), set()

    @override
    def _evaluate(self, expr: str, metadata: Any, spec: ModelSpec) -> tuple[Any, set[Any]]:
        failure: Exception | None = None
        for kinds in self._kinds(parse(expr), columns_used(expr, "python")):
            table = self.data.assign(**{name: _KINDS[kind] for name, kind in kinds.items()})
            try:
                value = Evaluation(table, spec, made_up=True).value(parse(expr))
            except DataError:
                raise
            except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
                failure = failure or error
                continue
            if expr in (self.truths.known or ()) and _kind_of(value) == "number":
                continue
            self.kinds.update(kinds)
            return self.truths.coded(expr, value), set()
        raise DataError(f"`{shown(expr)}` cannot be computed from such columns: {failure}.")

    def _kinds(self, tree: ast.expr, names: Collection[str]) -> Iterator[dict[str, str]]:
        """The kinds of the numbers in columns: all floats, all whole, all truth values, then mixtures.

        Mixtures begin with the kinds that other expressions took, and are limited in their number.
        """
        free = [name for name in names if name not in self.texts]
        yield from (dict.fromkeys(free, kind) for kind in _KINDS)
        yield {name: self.kinds.get(name, "float") for name in free}
        size = sum(1 for _ in ast.walk(tree))
        for kinds in itertools.product(_KINDS, repeat=len(free)):
            self.nodes += size
            if self.nodes > MAX_MIXTURE_NODES:
                return
            yield dict(zip(free, kinds, strict=True))


def _kind_of(value: Any) -> str:
    """Whether an expression gives truth values, categories of its own, or numbers."""
    if hasattr(value, "__formulaic_metadata__"):
        return "category"
    return "truth" if getattr(getattr(value, "dtype", None), "kind", "") == "b" else "number"
