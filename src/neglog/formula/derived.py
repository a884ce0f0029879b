"""The columns that terms, states and levels give on any rows, derived from a few made-up rows.

The columns of a design and the levels of its categories follow from terms, states and levels, but for the
kinds of the numbers in a table (floats, whole numbers, truth values), which are tried one after the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pandas as pd
from formulaic import ModelSpec
from interface_meta import override

from neglog.errors import DataError
from neglog.formula.evaluation import Evaluation, Materializer
from neglog.formula.expressions import columns_used
from neglog.formula.limits import shown
from neglog.formula.syntax import parse

MAX_KIND_COMBINATIONS = 100
"""The largest number of combinations of kinds of columns in which one expression is evaluated."""

_KINDS: dict[str, pd.Series] = {
    "float": pd.Series([1.0, 2.0, 3.0]),
    "whole": pd.Series([1, 2, 3]),
    "truth": pd.Series([True, False, True]),
}
_TEXT = pd.Series(["a", "b", "c"])


class MadeUpRows(Materializer):
    """formulaic's designs of three rows that are made up: text where `texts` says so, else numbers."""

    def __init__(self, names: Collection[str], texts: Collection[str], most: int) -> None:
        columns = {name: _TEXT if name in texts else _KINDS["float"] for name in names}
        super().__init__(pd.DataFrame(columns, index=_TEXT.index), most)
        self.texts = frozenset(texts)

    @override
    def _evaluate(self, expr: str, metadata: Any, spec: ModelSpec) -> tuple[Any, set[Any]]:
        failure: Exception | None = None
        for table in self._tables(columns_used(expr, "python")):
            try:
                return Evaluation(table, spec, made_up=True).value(parse(expr)), set()
            except DataError:
                raise
            except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
                failure = failure or error
        raise DataError(f"`{shown(expr)}` cannot be computed from such columns: {failure}.")

    def _tables(self, names: Collection[str]) -> Iterator[pd.DataFrame]:
        """The rows with numbers of each kind: all floats, all whole, all truth values, then mixtures."""
        free = [name for name in names if name not in self.texts]
        uniform = [(kind,) * len(free) for kind in _KINDS]
        mixed = itertools.islice(itertools.product(_KINDS, repeat=len(free)), MAX_KIND_COMBINATIONS)
        for kinds in dict.fromkeys(itertools.chain(uniform, mixed)):
            yield self.data.assign(**_columns(dict(zip(free, kinds, strict=True))))


def _columns(kinds: Mapping[str, str]) -> dict[str, pd.Series]:
    return {name: _KINDS[kind] for name, kind in kinds.items()}
