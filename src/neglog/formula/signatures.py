"""The functions and contrasts of a formula, and the arguments that each of them takes.

An argument is computed from columns, or is a constant. Arguments that write into a column, leave rows out
or call another function (``out``, ``where``, ``hash_func``, ``_state``) are in no signature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from neglog.formula.limits import MAX_BASIS, MAX_DEGREE, MAX_LEVELS


@dataclass(frozen=True)
class Signature:
    """The arguments of a function.

    `required` to `columns` leading arguments are computed from columns. `constants` follow, by position or by
    name; `named` are constants by name alone. `text` is whether the leading arguments may be text.
    """

    columns: int = 1
    required: int = 1
    constants: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    text: bool = False


_CUBIC = Signature(
    constants=("df", "knots", "lower_bound", "upper_bound", "constraints"), named=("cyclic", "extrapolation")
)
CENTRED = ("cr", "cs", "cc")
"""Splines whose columns sum to 1: beside an intercept they are centred."""

OFFSET_FUNCTION = "offset"
"""The function of a term whose coefficient is 1: ``offset(log(t))``."""

_SPLINE = ("df", "knots", "degree", "include_intercept", "lower_bound", "upper_bound", "extrapolation")

#: `ns`, and what formulaic 1.x offers by a bare name, but for `lag`, which looks at other rows, and `exp10`,
#: which is x ** 10 there.
FUNCTIONS: Mapping[str, Signature] = {
    **dict.fromkeys(("log", "log10", "log2", "exp", "exp2", "center"), Signature()),
    "scale": Signature(constants=("center", "scale", "ddof")),
    "standardize": Signature(constants=("center", "rescale", "ddof")),
    "poly": Signature(constants=("degree", "raw")),
    "bs": Signature(constants=_SPLINE),
    **dict.fromkeys(CENTRED, _CUBIC),
    "ns": Signature(constants=("df", "knots", "include_intercept", "lower_bound", "upper_bound")),
    "C": Signature(constants=("contrasts",), named=("levels", "spans_intercept"), text=True),
    "hashed": Signature(constants=("levels", "contrasts"), named=("spans_intercept",), text=True),
    "I": Signature(text=True),
    OFFSET_FUNCTION: Signature(),
    "Q": Signature(text=True),
}

_SUMMARIES = (
    "mean",
    "sum",
    "min",
    "max",
    "std",
    "sd",
    "var",
    "median",
    "quantile",
    "mode",
    "count",
    "length",
)
_OF_OTHER_ROWS = ("shift", "lag", "diff", "cumsum", "cumprod", "rank", "rolling", "pct_change", "cut", "qcut")
OF_ALL_ROWS = frozenset((*_SUMMARIES, *_OF_OTHER_ROWS))
"""Functions of R and methods of pandas that depend on all rows: on new ones they mean something else."""

_SPLINES = "a spline, such as `ns(x, df=4)`, `cr(x, df=4)` or `bs(x, df=4)`"
_PRODUCTS = "products of splines, such as `ns(x, df=4):ns(z, df=4)`"
_PART_OF_DATE = "the name of a column, which pandas computes: table['month'] = table['d'].dt.month"

FROM_R: Mapping[str, str] = {
    **dict.fromkeys(("factor", "as.factor", "as.character", "strata"), "`C(g)`"),
    **dict.fromkeys(("ordered", "as.ordered"), "`C(g, contr.poly)`"),
    **dict.fromkeys(
        ("as.numeric", "as.double", "as.integer"), "`x` alone, or `I(x * 1)` if it holds True and False"
    ),
    "as.logical": "`I(x != 0)`",
    "as.Date": "`d` alone: pandas.to_datetime reads dates",
    **dict.fromkeys(("months", "month", "year", "weekdays", "weekday", "quarter"), _PART_OF_DATE),
    **dict.fromkeys(("s", "lo", "loess", "rcs", "pspline", "lspline"), _SPLINES),
    **dict.fromkeys(("te", "ti", "t2"), _PRODUCTS),
    "ifelse": "`np.where(x > 1, x, 0)`",
    "pmax": "`np.maximum(x, 0)`",
    "pmin": "`np.minimum(x, 0)`",
    "round": "`np.rint(x)`",
    **dict.fromkeys(("logit", "qlogis"), "`I(log(p / (1 - p)))`"),
    **dict.fromkeys(("plogis", "expit", "invlogit", "sigmoid"), "`I(1 / (1 + exp(-x)))`"),
    "c": "a term for each column, `x + z`",
    "interaction": "`C(g):C(h)`",
    "cbind": "several responses as `y1 + y2`, or for `binomial` the number of successes, `s`, and give that "
    "of all trials, which is s + f, as the column or the array `trials`",
    "relevel": "`C(g, Treatment('b'))`",
    "Surv": "the time, and fit `neglog.censored(model)` with `upper`: the time in the rows without an event, "
    "and infinity in the others",
}
"""Functions of R, and what to write in their place."""

#: Contrasts by a bare name, as patsy has them, and after `contr.`, with their arguments.
PATSY_CONTRASTS: Mapping[str, tuple[str, ...]] = {
    "Treatment": ("reference",),
    "Poly": ("scores",),
    "Sum": (),
    "Helmert": ("reverse", "scale"),
    "Diff": ("backward",),
}
CONTRASTS: Mapping[str, tuple[str, ...]] = {
    "helmert": ("reverse", "scale"),
    "poly": ("scores",),
    "sum": (),
    "treatment": ("base",),
    "SAS": ("base",),
    "diff": ("backward",),
    "custom": ("contrasts", "names"),
}

#: Constants of R in the place of those of Python.
R_CONSTANTS: Mapping[str, bool | None] = {"TRUE": True, "FALSE": False, "T": True, "F": False, "NULL": None}

#: Constants after `np.`
NUMPY_CONSTANTS: Mapping[str, float] = {"pi": np.pi, "e": np.e, "inf": np.inf}
_NUMPY_FUNCTIONS: Mapping[str, Signature] = {
    "where": Signature(columns=3, required=3, text=True),
    "clip": Signature(columns=3, named=("a_min", "a_max", "min", "max")),
}
_COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}

#: Transforms that learn a state, and the names of its entries.
STATES: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("center", "scale", "standardize"), frozenset({"ddof", "center", "scale"})),
    "poly": frozenset({"alpha", "norms2"}),
    **dict.fromkeys(("bs", "ns"), frozenset({"lower_bound", "upper_bound", "knots"})),
    **dict.fromkeys(CENTRED, frozenset({"lower_bound", "upper_bound", "knots", "constraints", "cyclic"})),
}

EXTRAPOLATING = frozenset({"bs", *CENTRED})
"""Splines with an argument `extrapolation`."""

#: Arguments that may be a list, tuple or dict.
SEQUENCES = frozenset({"knots", "constraints", "levels", "scores", "contrasts", "names"})

#: The largest number that an argument may be, by its name.
MAX_ARGUMENTS: Mapping[str, int] = {"df": MAX_BASIS, "degree": MAX_DEGREE, "levels": MAX_LEVELS}


def numpy_signature(name: str) -> Signature | None:
    """The signature of a function of numpy; None unless it is a function of each row alone."""
    if name in _NUMPY_FUNCTIONS:
        return _NUMPY_FUNCTIONS[name]
    function = getattr(np, name, None)
    # A generalised ufunc such as `np.matmul` has a signature, and mixes rows.
    if not isinstance(function, np.ufunc) or function.signature is not None or function.nout != 1:
        return None
    return Signature(columns=function.nin, required=function.nin, text=name in _COMPARISONS)
