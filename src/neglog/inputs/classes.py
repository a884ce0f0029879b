"""Labels of classes → the codes 0, 1, ..., K - 1, and the labels in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from neglog.arguments import check_dense
from neglog.conversion import as_numpy, check_unmasked, is_series
from neglog.errors import DataError, NeglogError, written
from neglog.handlers import Model
from neglog.layers import declared_loss, layers
from neglog.tracing import drawn_events, model_name

if TYPE_CHECKING:
    import pandas as pd

TWO_CLASSES = "0 or 1"
"""The response of a model of two classes, as models declare it."""
CLASS = "class"
CLASSES = (TWO_CLASSES, CLASS)
"""The responses that are classes."""
MAX_SHOWN_LABELS = 10
"""Labels that a message lists."""

Labels = tuple[Any, ...]


def coded(model: Model, y: Any) -> tuple[Any, Labels]:
    """A response of labels as codes, and the labels; a response of codes, or of anything else, as it is.

    Ordered and other categories keep their order, text is sorted, and False is 0. Whole numbers that are not
    0, 1, ..., K - 1, such as 1, 2, 3 or 10, 20, are labels too, in their order; not so where `classes` is
    bound.

    Raises:
        DataError: text of a single class, or of more than two for a model of 0 and 1; labels of several
            kinds.
    """
    if needs_numbers(model) or not _is_one_column(y) or _are_codes(y):
        return y, ()
    kind = _kind_of_classes(model, y)
    if kind is None:
        return y, ()
    series = _series(y)
    labels = _labels(series, _has_number_of_classes(model))
    if labels is None:
        _check_whole(model, series)
        return y, ()
    if kind == TWO_CLASSES and len(labels) != 2 and _are_numbers(labels):
        return y, ()  # the model refuses what it cannot take
    _check_count(model, kind, labels)
    codes = codes_of("y", series, labels)
    return (codes if is_series(y) else codes.to_numpy()), labels


def _check_whole(model: Model, series: pd.Series) -> None:
    """Raise DataError for a class that is a number, and no whole one."""
    values = series.to_numpy(dtype=float, na_value=np.nan)
    wrong = np.isfinite(values) & (values != np.floor(values))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"`{model_name(model)}` is a model of classes, and row {series.index[row]} has "
            f"y = {values[row]:g}. If such numbers are labels, make text of them: y.astype(str). Fit shares "
            "by `beta`, and successes in trials by `binomial`."
        )


def _is_one_column(y: Any) -> bool:
    """Whether a response may be labels `(N,)`; what is no array at all is refused where it is read.

    Raises:
        DataError: a mask, or a tensor without a number in each entry.
    """
    check_unmasked("y", y)
    if isinstance(y, Tensor):
        check_dense("y", y)
    try:
        return np.ndim(y) == 1
    except (TypeError, ValueError, RuntimeError):
        return False


@dataclass(frozen=True)
class Classes:
    """The labels of a response, and whether they are categories, whose order has a meaning."""

    labels: Labels
    in_order: bool

    @property
    def models(self) -> tuple[str, ...]:
        """The models of neglog for such a response; the order of sorted text means nothing to `ordinal`."""
        if len(self.labels) == 2:
            return ("bernoulli",)
        return ("categorical", "ordinal") if self.in_order else ("categorical",)

    def check(self, model: Model) -> None:
        """Raise DataError unless a model takes these labels."""
        kind = _kind_of_classes(model, np.array(["a", "b"]))
        if kind is None:
            raise DataError(
                f"`{model_name(model)}` needs numbers, and the response has labels, {_listed(self.labels)}. "
                f"Compare models of classes: {', '.join(map(repr, self.models))}."
            )
        _check_count(model, kind, self.labels)


def labelled(y: Any) -> tuple[Any, Classes | None]:
    """Text and categories as codes, for any model of classes; a response of anything else as it is."""
    if not _is_one_column(y) or not _is_text(series := _series(y)):
        return y, None
    try:
        from neglog.formula.categories import check_category  # pandas is slow to import

        check_category(series)
    except (DataError, TypeError):  # numbers or dates as text, or no values that can be categories
        return y, None
    labels = _labels(series, has_number=True)
    if labels is None:
        return y, None
    codes = codes_of("y", series, labels)
    return (codes if is_series(y) else codes.to_numpy()), Classes(labels, _is_category(series))


def first_is_reference(model: Model) -> bool:
    """Whether a model of neglog declares classes, the first of which has no coefficients."""
    return declared_loss(model) is not None


def needs_numbers(model: Model) -> bool:
    """Whether a model of neglog declares a response that is no class."""
    declared = declared_loss(model)
    return declared is not None and declared.response not in CLASSES


def _kind_of_classes(model: Model, y: Any) -> str | None:
    """The kind of classes that a model has for a response; None for any other model.

    Models of neglog declare it. Another one is run, if the response is text, categories or truth values:
    numbers may be anything there.
    """
    declared = declared_loss(model)
    if declared is not None:
        return declared.response if declared.response in CLASSES else None
    series = _series(y)
    if not (_is_text(series) or series.dtype.kind == "b"):
        return None
    try:
        events = drawn_events(model)
    except NeglogError:  # it needs more than a design
        return None
    return (TWO_CLASSES if len(events) == 1 else CLASS) if events else None


def _is_text(series: pd.Series) -> bool:
    import pandas as pd

    known = series.dropna().infer_objects() if series.dtype == object else series
    return _is_category(series) or pd.api.types.is_string_dtype(known.dtype)


def _is_category(series: pd.Series) -> bool:
    import pandas as pd

    return isinstance(series.dtype, pd.CategoricalDtype)


def _are_numbers(labels: Labels) -> bool:
    return isinstance(labels[0], int | float | np.number) and not isinstance(labels[0], bool)


def _are_codes(y: Any) -> bool:
    """Whether an array or a tensor holds numbers 0, 1, ..., K - 1, each of them in some row."""
    values = as_numpy(y) if isinstance(y, Tensor) else y
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu" or not values.size:
        return False
    known = values[~np.isnan(values)]
    if not known.size or known.min() != 0 or known.max() >= len(values):
        return False
    whole = known.astype(np.int64)
    return bool((whole == known).all() and np.bincount(whole).all())


def codes_of(name: str, values: Any, labels: Labels) -> pd.Series:
    """The codes of labels, NaN where one is missing.

    Raises:
        DataError: a label is not among those that are known.
    """
    import pandas as pd

    series = _series(values)
    place = {label: code for code, label in enumerate(labels)}
    found = [place.get(label, -1) for label in series.tolist()]
    codes = np.where(series.isna(), np.nan, np.array(found, dtype=float))
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise DataError(
            f"`{name}` has a label that the fit has not seen: {written(series.iloc[row])} (row "
            f"{series.index[row]}). "
            f"It knows {_listed(labels)}. Drop such rows, or fit again with them."
        )
    return pd.Series(codes, index=series.index, name=series.name)


def _series(values: Any) -> pd.Series:
    import pandas as pd

    if is_series(values):
        return values
    if isinstance(values, pd.api.extensions.ExtensionArray):  # categories keep their order
        return pd.Series(values)
    return pd.Series(as_numpy(values) if isinstance(values, Tensor) else np.asarray(values))


def _labels(series: pd.Series, has_number: bool) -> Labels | None:
    """The labels of a series in their order; None where it holds codes, or numbers that are no labels."""
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        return tuple(series.cat.remove_unused_categories().cat.categories.tolist())
    known = series.dropna().infer_objects()
    if pd.api.types.is_bool_dtype(known.dtype):
        return (False, True)
    if pd.api.types.is_numeric_dtype(known.dtype):
        return None if has_number else _whole_numbers(known)
    try:
        return tuple(sorted(set(known.tolist())))
    except TypeError:
        kinds = sorted({type(label).__name__ for label in known})
        raise DataError(
            f"the labels of `y` are of several kinds, {', '.join(kinds)}. Make all of them text."
        ) from None


def _whole_numbers(known: pd.Series) -> Labels | None:
    """Whole numbers that are labels; None for codes, for one number, and where each row has its own."""
    values = known.to_numpy()
    if not len(values) or not np.isfinite(values).all() or (values != np.floor(values)).any():
        return None
    found = np.unique(values)
    are_codes = found[0] == 0 and found[-1] == len(found) - 1
    if are_codes or len(found) in (1, len(values)):
        return None
    return tuple(int(each) for each in found)


def _has_number_of_classes(model: Model) -> bool:
    bound = (layer.keywords for layer in layers(model) if isinstance(layer, partial))
    return any("classes" in keywords for keywords in bound)


def _check_count(model: Model, kind: str, labels: Labels) -> None:
    if len(labels) < 2:
        raise DataError(f"`y` has a single class, {_listed(labels)}; `{model_name(model)}` needs two.")
    if kind == TWO_CLASSES and len(labels) > 2:
        raise DataError(
            f"`{model_name(model)}` is a model of two classes, and `y` has {len(labels)}: {_listed(labels)}. "
            f"Fit "
            "`categorical`, or `ordinal` if they have an order."
        )


def _listed(labels: Sequence[Any]) -> str:
    shown = ", ".join(map(repr, labels[:MAX_SHOWN_LABELS]))
    return shown if len(labels) <= MAX_SHOWN_LABELS else f"{shown} and {len(labels) - MAX_SHOWN_LABELS} more"
