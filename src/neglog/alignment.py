"""Alignment: the labels that pandas gives to rows must be the same in all arguments that have some.

Arrays and tensors have no labels: their rows belong together by position. Of two series or data frames the
labels decide, as in statsmodels; rows are never put into another order in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from neglog.conversion import is_labelled
from neglog.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

FIT = "the data of the fit"
"""The name of the labels that a fit has kept, in messages."""


def common_labels(arguments: Mapping[str, Any], labels: pd.Index | None = None) -> pd.Index | None:
    """The labels of the rows that all series and data frames among the arguments share; None without any.

    A mapping among the arguments is a mapping of designs. With `labels`, those of a fit, all must have them.

    Raises:
        DataError: two arguments of the same length have other labels, or the same ones in another order.
    """
    first = FIT
    for name, value in _by_name(arguments):
        if not is_labelled(value):
            continue
        if labels is None:
            first, labels = name, value.index
        elif len(value) == len(labels) and not value.index.equals(labels):
            raise DataError(_message(name, value.index, first, labels))
    return labels


def _by_name(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}[{key!r}]", each) for key, each in value.items())
        else:
            yield name, value


def _message(name: str, found: pd.Index, first: str, labels: pd.Index) -> str:
    """The first rows that differ, and how to put them in order."""
    pairs = enumerate(zip(found, labels, strict=True))
    wrong = next((i for i, (one, other) in pairs if one != other), 0)
    owner, index = (FIT, "x.index") if first == FIT else (f"`{first}`", f"{first}.index")
    one, other = _shown(labels[wrong]), _shown(found[wrong])
    where = f"row {wrong} is labelled {one} in {owner} and {other} in `{name}`"
    by_position = f"if they belong together by position, pass {name}.set_axis({index})"
    if labels.is_unique and found.is_unique and bool(found.isin(labels).all()):
        remedy = f"they have the same labels in another order, so pass {name}.loc[{index}]; or, {by_position}"
    else:
        remedy = f"select the rows that both have; or, {by_position}"
    ending = ", where `x` is the design that was fitted." if first == FIT else "."
    return f"the rows of `{name}` and {owner} do not belong together: {where}; {remedy}{ending}"


def _shown(label: Any) -> str:
    """A label without the name of its NumPy type."""
    return repr(label.item() if isinstance(label, np.generic) else label)
