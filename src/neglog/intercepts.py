"""Designs without an intercept: a mark on data frames, which formulas set and fits obey.

The design of ``y ~ 0 + x`` has the columns of ``y ~ x``; what differs is the model, whose bias is 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_MARK = "neglog.intercept"  # In `DataFrame.attrs`, which pandas keeps when rows or columns are taken.


def mark_without_intercept(frame: pd.DataFrame) -> pd.DataFrame:
    """The same frame, marked: the predictor that takes it has no intercept."""
    frame.attrs[_MARK] = False
    return frame


def without_intercept(x: Any) -> frozenset[str]:
    """The keys of the designs that are marked; the key of a plain design is empty."""
    from neglog.conversion import by_key  # which imports torch; formulas, which set the mark, do not

    parts = by_key(x)
    return frozenset(str(key) for key, value in parts.items() if _is_marked(value))


def _is_marked(value: Any) -> bool:
    from neglog.conversion import Named, is_frame

    if isinstance(value, Named):
        return not value.intercept
    return is_frame(value) and value.attrs.get(_MARK) is False
