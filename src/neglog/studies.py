"""Simulation studies: errors of losses under a known truth, with their Monte-Carlo standard errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import pandas as pd
import torch
from torch import Tensor

from neglog import models
from neglog.arguments import choice, mapping, number, seed_of, shown, text, whole
from neglog.batches.batch import mle_batch
from neglog.errors import DataError, ModelError
from neglog.handlers import Model
from neglog.isolation import isolated
from neglog.tracing import predictor_names

INTERCEPT, SLOPE = 1.0, 2.0
"""The truth: y = 1 + 2 x + noise, x and the noise of good rows Normal(0, 1)."""

LOSSES: Mapping[str, Model] = MappingProxyType(
    {
        "MSE": models.gaussian,
        "MAE": models.laplace,
        "Huber": models.huber,
        "Student-t": partial(models.student_t, df=4.0),
    }
)


Rows = tuple[Tensor, Tensor]


def _vertical(x: Tensor, y: Tensor, off: Tensor, order: Tensor, count: int) -> Rows:
    return x, y + off * (order < count)


def _symmetric(x: Tensor, y: Tensor, off: Tensor, order: Tensor, count: int) -> Rows:
    sign = torch.sign(y - INTERCEPT - SLOPE * x)  # that of the noise, a fair coin
    return x, y + off * sign * (order < count)


def _end(x: Tensor, y: Tensor, off: Tensor, order: Tensor, count: int) -> Rows:
    return x, y + off * (_ranks(-x) < count)


def _leverage(x: Tensor, y: Tensor, off: Tensor, order: Tensor, count: int) -> Rows:
    return x + off * (order < count), y


def _ranks(values: Tensor) -> Tensor:
    return values.argsort(-1).argsort(-1)


OUTLIERS: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor, int], Rows]] = MappingProxyType(
    {"vertical": _vertical, "symmetric": _symmetric, "end": _end, "leverage": _leverage}
)


@isolated
def robustness(
    losses: Mapping[str, Model] = LOSSES,
    *,
    shares: Sequence[float] = (0.0, 0.05, 0.1, 0.2),
    outliers: str = "vertical",
    size: float = 10.0,
    rows: int = 100,
    data_sets: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Errors of each loss for the line y = 1 + 2 x as more rows become outliers.

    Every cell is fitted to the same data sets: the same x, the same Normal(0, 1) noise, and outliers of a
    smaller share are among those of a larger one. So differences between losses and shares have
    smaller Monte-Carlo errors than the columns ending in ``_se``, which are those of single cells.

    Args:
        losses: name of the loss -> model, whose first predictor is the line. The first loss is the reference
            of efficiencies.
        shares: the shares of rows that are outliers, each in [0, 1); rounded to whole rows.
        outliers: ``vertical`` adds `size` to the y of rows anywhere; ``symmetric`` adds or subtracts it, in
            the direction of the noise; ``end`` adds it to the y of the rows with the largest x;
            ``leverage`` adds it to the x of rows anywhere, to which no convex loss of the residual is robust.
        size: the displacement of outliers, in standard deviations of the noise (of x for ``leverage``).
        rows: the rows of a data set.
        data_sets: the number of data sets; Monte-Carlo errors decrease with its square root.
        seed: the seed of the data sets; torch's random state is neither used nor changed.

    Returns:
        One row for each share and loss. For ``slope`` and ``intercept``: the bias, the root mean squared
        error, and the efficiency, the mean squared error of the first loss over that of this one on the same
        data sets; each with its Monte-Carlo standard error in ``_se``. ``converged`` is the share of fits
        with a certified optimum.

    Raises:
        DataError: no models or shares, a share outside [0, 1), an unknown kind of outliers, fewer than 2
            data sets, other wrong settings.

    >>> table = robustness(data_sets=20, shares=(0.0, 0.2))
    >>> bool(table.loc[(0.2, "MAE"), "slope_rmse"] < table.loc[(0.2, "MSE"), "slope_rmse"])
    True
    """
    try:
        _check(losses, shares, outliers)
        whole("rows", rows)
        whole("data_sets", data_sets, 2)  # for a standard error
        number("size", size)
        generator = torch.Generator().manual_seed(seed_of(seed))
    except ModelError as error:
        raise DataError(str(error)) from error
    shape = (data_sets, rows)
    x, noise = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    order = _ranks(torch.rand(shape, generator=generator))
    y, off, table = INTERCEPT + SLOPE * x + noise, torch.tensor(float(size), dtype=torch.float64), {}
    for share in shares:
        moved = OUTLIERS[outliers](x, y, off, order, round(share * rows))
        fits = {name: _line(model, *moved) for name, model in losses.items()}
        reference = next(iter(fits.values()))
        for name, errors in fits.items():
            table[share, name] = _summary(errors, reference)
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(index=["share", "loss"])


def _check(losses: Mapping[str, Model], shares: Sequence[float], outliers: str) -> None:
    if not mapping("losses", losses, "{'MSE': models.gaussian}"):
        raise DataError("`losses` is empty; name at least one model.")
    for name in losses:
        text("the keys of `losses`", name)
    if not isinstance(shares, list | tuple) or not shares:
        raise DataError(f"`shares` must be a tuple of shares, such as (0.0, 0.1); it is {shown(shares)}.")
    wrong = [share for share in shares if not 0 <= number("shares", share) < 1]
    if wrong:
        raise DataError(f"`shares` must be at least 0 and below 1; one of them is {wrong[0]:g}.")
    choice("outliers", outliers, OUTLIERS)


def _line(model: Model, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The errors of slope and intercept of each data set `(S,)`, and whether the fit converged."""
    fit = mle_batch(model, x[..., None], y)
    line = predictor_names(model)[0]
    slope, intercept = fit.params[f"{line}.weight"][:, 0] - SLOPE, fit.params[f"{line}.bias"] - INTERCEPT
    return {"slope": slope, "intercept": intercept, "converged": fit.converged}


def _summary(errors: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> dict[str, float]:
    """Bias, RMSE and efficiency, each with its Monte-Carlo standard error (by the delta method)."""
    found: dict[str, float] = {}
    for name in ("slope", "intercept"):
        error, squares, others = errors[name], errors[name].square(), reference[name].square()
        rmse, efficiency = squares.mean().sqrt(), others.mean() / squares.mean()
        found[f"{name}_bias"], found[f"{name}_bias_se"] = float(error.mean()), _standard_error(error)
        found[f"{name}_rmse"], found[f"{name}_rmse_se"] = (
            float(rmse),
            _standard_error(squares) / float(2 * rmse),
        )
        found[f"{name}_efficiency"] = float(efficiency)
        # a / b moves by (a_s - (a / b) b_s) / b for each data set s, a and b being means over the same ones.
        found[f"{name}_efficiency_se"] = _standard_error((others - efficiency * squares) / squares.mean())
    return found | {"converged": float(errors["converged"].double().mean())}


def _standard_error(values: Tensor) -> float:
    return float(values.std() / len(values) ** 0.5)
