"""Magnitudes: the sizes of responses, columns and weights between which float64 can evaluate a likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from neglog.errors import DataError

LARGEST_DESIGN, SMALLEST_DESIGN = 1e150, 1e-150
"""Between these magnitudes of a column its products with itself neither overflow nor underflow."""
LARGEST_RESPONSE, SMALLEST_RESPONSE = 1e110, 1e-125
"""Between these magnitudes of `y` the likelihood and its curvature neither overflow nor underflow."""
MIN_WEIGHT_SUM, MAX_WEIGHT_SUM = 1e-9, 1e15
"""Range of the sum of weights, in observations, for which the tolerances of solvers are valid."""


def check_response_magnitude(
    y: Tensor,
    weights: Tensor | None = None,
    stacked: bool = False,
    ends: tuple[float, float] | None = None,
) -> None:
    """Refuse a response at whose magnitude float64 cannot evaluate a likelihood and its curvature.

    The magnitude is that of each component of `y` `(N, D)`, and of each data set of a stacked `(S, N)`. What
    is NaN or has a weight of 0 does not count; a response of zeros has no magnitude. `ends` are its least and
    its largest value, where they are known.

    Raises:
        DataError: with the magnitude, and the unit in which `y` is of order one.
    """
    if not y.numel():
        return
    if y.dim() == 1:
        low, high = map(float, torch.aminmax(y)) if ends is None else ends  # NaN if a value is
        top = max(-low, high)
        if top == 0 or SMALLEST_RESPONSE <= top <= LARGEST_RESPONSE:
            return
    _check_sizes(y.abs() if weights is None else torch.where(weights > 0, y.abs(), 0.0), stacked)


def _check_sizes(sizes: Tensor, stacked: bool) -> None:
    """Refuse a response of these magnitudes, `(N,)`, `(N, D)` or `(S, N)`, if one is out of range."""
    tops = sizes.nan_to_num(0.0).amax(-1 if stacked else 0).reshape(-1)
    wrong = (tops > LARGEST_RESPONSE) | ((tops > 0) & (tops < SMALLEST_RESPONSE))
    for place in wrong.nonzero()[:1, 0].tolist():
        part, where = "y", f" in data set {place}" if stacked and len(tops) > 1 else ""
        if not stacked and not bool(wrong.all()):
            part, where = f"y[:, {place}]", f" in column {place}"
        raise DataError(_too_far("`y`", part, float(tops[place]), where))


def check_design_magnitude(name: str, top: float) -> None:
    """Refuse a design whose largest entry is so large that products of two are infinite.

    Raises:
        DataError: with the magnitude, and the unit in which the design is of order one.
    """
    if not top <= LARGEST_DESIGN:
        raise DataError(_too_far(f"`{name}`", name, top))


def check_small_columns(design: Tensor, names: Sequence[str]) -> None:
    """Refuse a design `(N, P)` with a column that is not 0, but whose products with itself are.

    Raises:
        DataError: with the column, its magnitude, and the unit in which it is of order one.
    """
    tops = design.abs().amax(0)
    small = (tops > 0) & (tops < SMALLEST_DESIGN)
    for place in small.nonzero()[:1, 0].tolist():
        part = "x" if bool(small.all()) else "the column"
        raise DataError(_too_far(f"the column {names[place]} of `x`", part, float(tops[place])))


def check_weights(weights: Tensor) -> None:
    """Refuse weights `(N,)` of a data set, or `(S, N)` of many, that are no numbers of observations.

    Raises:
        DataError: negative or infinite weights; a data set whose weights are all 0, or have a sum outside the
            range for which the tolerances of solvers are valid.
    """
    low, high = map(float, torch.aminmax(weights)) if weights.numel() else (0.0, 0.0)
    if not (low >= 0 and high < math.inf):
        wrong = ~(torch.isfinite(weights) & (weights >= 0))
        raise DataError(
            f"`weights` must be finite and not negative; {int(wrong.sum())} are not: {place_of(wrong)} has "
            f"{float(weights[wrong][0]):g}."
        )
    for s, total in enumerate(weights.sum(-1).reshape(-1).tolist()):
        which = f" in data set {s}" if weights.dim() == 2 else ""
        if total == 0:
            raise DataError(f"all `weights` are 0{which}; there is nothing to fit.")
        if not MIN_WEIGHT_SUM <= total <= MAX_WEIGHT_SUM:
            count = int((weights.reshape(-1, weights.shape[-1])[s] > 0).sum())
            raise DataError(
                f"`weights` count rows, and sum to {total:g}{which}; solvers need a sum between "
                f"{MIN_WEIGHT_SUM:g} and {MAX_WEIGHT_SUM:g}. For relative weights pass weights / "
                f"{total / count:.0e}."
            )


def place_of(wrong: Tensor) -> str:
    """The first place in `wrong` `(N,)` or `(S, N)`, in words."""
    *data_set, row = wrong.nonzero()[0].tolist()
    return f"row {row} of data set {data_set[0]}" if data_set else f"row {row}"


def _too_far(what: str, part: str, top: float, where: str = "") -> str:
    order = f"1e{math.floor(math.log10(top))}"
    return (
        f"{what} has values of order {order}{where}, too {'large' if top > 1 else 'small'} for float64, in "
        f"which the likelihood and its curvature are computed. Fit it in another unit: pass {part} / {order}."
    )
