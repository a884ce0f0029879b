"""Exceptions and warnings.

Every anticipated failure is a :class:`NeglogError`, which is a ``ValueError``. Its message names the
argument, the requirement, the value and a remedy.
"""

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(unknown: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest of the known names, with a space before it; empty if none is near.

    >>> did_you_mean("mean.weigth", ["mean.weight", "sigma"])
    " Did you mean 'mean.weight'?"
    """
    near = get_close_matches(unknown, list(known), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


class NeglogError(ValueError):
    """Base of every error that neglog raises on purpose."""


class DataError(NeglogError):
    """The data are invalid for the model: NaN, infinite, of the wrong shape, length, kind or support."""


class ModelError(NeglogError):
    """The model cannot be used in this way: an unknown site or predictor, or no observation site ``y``."""


class SingularDesignError(NeglogError):
    """Columns of a design are linearly dependent, so their coefficients are not identified."""


class UnboundedLikelihoodError(NeglogError):
    """The likelihood has no maximum: a perfect fit drives a scale to 0 or a coefficient to infinity."""


class ConvergenceWarning(UserWarning):
    """A solver stopped before an optimum; the fit has ``converged=False`` and the reason as `status`."""


class DateWarning(UserWarning):
    """A formula takes a column of dates as the number of days since 1970-01-01."""


class SamplingWarning(UserWarning):
    """Draws of a posterior fail a diagnostic; its `status` names it."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn of the line outside neglog that called, however many functions of neglog are in between."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == "neglog":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
