"""Exceptions and warnings.

Every anticipated failure is a :class:`NeglogError`, which is a ``ValueError``. Its message names the
argument, the requirement, the value and a remedy.
"""

import math
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

__all__ = [
    "CheckpointError",
    "ConvergenceWarning",
    "DataError",
    "DateWarning",
    "ModelError",
    "NeglogError",
    "RemedyWarning",
    "SamplingWarning",
    "SingularDesignError",
    "UnboundedLikelihoodError",
]

LARGEST_WRITTEN_ARRAY = 5
"""Number of entries up to which a message shows an array."""
LONGEST_VALUE = 200
"""Number of characters of a wrong value that a message shows."""


def did_you_mean(unknown: str | Iterable[str], known: Iterable[str], form: str = "{!r}") -> str:
    """A sentence that proposes the known names nearest to unknown ones, after a space; empty if none is near.

    Upper and lower case are alike. If no name is similar, those that begin with the unknown one are proposed.

    >>> did_you_mean("mean.weigth", ["mean.weight", "sigma"])
    " Did you mean 'mean.weight'?"
    """
    names = {name.lower(): name for name in known}
    wrong = [unknown] if isinstance(unknown, str) else list(unknown)
    near = dict.fromkeys(names[each] for name in wrong for each in _nearest(name.lower(), names))
    return f" Did you mean {', '.join(map(form.format, near))}?" if near else ""


def _nearest(name: str, names: Iterable[str]) -> list[str]:
    near = get_close_matches(name, names, 1)
    return near or [other for other in names if name and other.startswith(name)]


def reason_of(error: BaseException) -> str:
    """The first sentence of an error of Python, torch or pandas, to be quoted within a message of neglog.

    >>> reason_of(RuntimeError("Can't call numpy() on it. Use detach() instead."))
    "Can't call numpy() on it"
    """
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line.partition(". ")[0].rstrip(".:, ")


def written(value: Any) -> str:
    """The `repr` of a value on one line, truncated; the type and shape of an array, the type if `repr` fails.

    Whole numbers of thousands of digits and lists nested thousands deep have no `repr`.
    """
    try:
        if math.prod(getattr(value, "shape", ())) > LARGEST_WRITTEN_ARRAY:
            return f"of type {type(value).__name__} and shape {tuple(value.shape)}"
        text = " ".join(repr(_plain(value)).split())
    except Exception:
        return f"of type {type(value).__name__}"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _plain(value: Any) -> Any:
    """A scalar of NumPy as that of Python, also in a list or tuple; anything else as it is."""
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value.item() if type(value).__module__ == "numpy" and not getattr(value, "shape", (1,)) else value


class NeglogError(ValueError):
    """Base of every error that neglog raises on purpose."""


class DataError(NeglogError):
    """The data are invalid for the model: NaN, infinite, of the wrong shape, length, kind or support."""


class CheckpointError(DataError):
    """The file of a `checkpoint` is damaged, or belongs to another call."""


class ModelError(NeglogError):
    """A model or a function cannot be used in this way.

    An unknown site or predictor, no observation site ``y``, an argument that the function does not take.
    """


class SingularDesignError(NeglogError):
    """Columns of a design are linearly dependent, so their coefficients are not identified."""


class UnboundedLikelihoodError(NeglogError):
    """The likelihood has no maximum: a perfect fit drives a scale to 0 or a coefficient to infinity."""


class ConvergenceWarning(UserWarning):
    """A solver stopped before an optimum; the fit has ``converged=False`` and the reason as `status`."""


class DateWarning(UserWarning):
    """A formula takes a column of dates as the number of days since 1970-01-01."""


class RemedyWarning(UserWarning):
    """An estimator for scikit-learn fits a likelihood without a maximum, with a remedy that it names."""


class SamplingWarning(UserWarning):
    """Draws of a posterior fail a diagnostic; its `status` names it."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn of the line outside neglog that called, however many functions of neglog are in between."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "neglog":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
