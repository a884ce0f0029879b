"""Pictures of fits: the predicted distribution over one input, or predictions against observations.

Figures are made with matplotlib's object interface on an Agg canvas: no window, no global state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from torch import Tensor

from neglog.arguments import as_path, mapping, shown
from neglog.calls import public
from neglog.candidates import designs, offset_rows
from neglog.data import observed, prepare
from neglog.errors import DataError, NeglogError, written
from neglog.fitting.fit import Fit, check_fit
from neglog.formula import Design
from neglog.isolation import isolated
from neglog.prediction.predictions import predict
from neglog.prediction.reliability import reliability_at
from neglog.tables import replacing

__all__ = ["check_format", "picture", "picture_of_table", "reliability", "training", "write"]

INK, QUIET, RULE = "#22303c", "#7a8793", "#d5dbe0"
POINT, LINE, BAND = "#4b5862", "#b5462f", "#dd9a83"
BANDS = ((0.9, 0.28), (0.5, 0.5))
"""The probability that each band of a predicted distribution has, and its opacity."""
GRID_POINTS = 200
"""Points along the input at which predictions are drawn."""
DPI = 150
"""Pixels per inch of a picture."""
PADDING = 0.12
"""Room around a panel, in inches."""
TITLE_HEIGHT = 0.28
"""Height of the title of a panel, in inches."""
MAX_PANELS_PER_ROW = 3
MAX_DRAWN_ROWS = 10_000
"""Of data with more rows than this, evenly spaced ones are drawn."""


@dataclass(frozen=True)
class _Curve:
    """The predicted distribution along one input: its name, its values at the rows, and on a grid."""

    name: str
    values: np.ndarray
    grid: np.ndarray
    predictions: Mapping[str, Any]


@dataclass(frozen=True)
class _Scene:
    fits: Mapping[str, Fit]
    response: str
    y: np.ndarray
    predictions: Mapping[str, Any]
    curve: _Curve | None

    @cached_property
    def middles(self) -> dict[str, np.ndarray]:
        """The median of each fit, at the rows or along the curve."""
        predictions = self.curve.predictions if self.curve else self.predictions
        return {name: _middle(prediction) for name, prediction in predictions.items()}


@isolated
def picture(fits: Mapping[str, Fit], x: Any, y: Any, *, names: tuple[str, str] = ("x", "y")) -> Figure:
    """Draw fits of the same data: one panel each, with shared axes.

    With one input column each panel has the rows, the predicted median, and bands that hold half and nine
    tenths of new observations. With several it has observed against predicted values and the identity line.

    Args:
        fits: title to fit.
        x: the design, as all the fits had it.
        y: the response `(N,)`.
        names: what to call the input and the response.

    Raises:
        DataError: there is no fit, or `x` is not the design of one.
    """
    mapping("fits", fits, "{'a': fit}")
    if not isinstance(names, tuple | list) or len(names) != 2 or not all(isinstance(n, str) for n in names):
        raise DataError(
            f"`names` must be two names, of the input and of the response; it is {written(names)}."
        )
    data = observed(prepare(x, y), missing=False)
    if data.y.dim() != 1:
        raise DataError(
            f"a picture needs `y` of shape (rows,); it has {tuple(data.y.shape)}. Draw each column "
            "separately."
        )
    y = data.y.numpy()
    predictions = {name: predict(fit, x) for name, fit in fits.items()}
    return _draw(_Scene(fits, names[1], y, predictions, _curve_of_design(fits, x, names[0])))


@isolated
def picture_of_table(
    fits: Mapping[str, Fit], design: Design, table: pd.DataFrame, rows: Mapping[str, Any] | None = None
) -> Figure:
    """Draw fits of a formula, as `picture` does: one input is one column of the table, however transformed.

    Row-wise arguments other than the offsets of the formula are `rows`; there is no curve then.

    Raises:
        DataError: there is no fit, or the table is not one that the formula can use.
    """
    y = design.y(table)
    of_formula = offset_rows(design, table)
    rows = of_formula if rows is None else rows
    curve = _curve_of_table(fits, design, table) if set(rows) == set(of_formula) else None
    predictions = {}  # at the rows, which a curve does not need
    if curve is None:
        predictions = {name: predict(fit, designs(fit, design, table), **rows) for name, fit in fits.items()}
    return _draw(_Scene(fits, str(y.name), y.to_numpy(dtype=float), predictions, curve))


@isolated
def reliability(fits: Any, x: Any, y: Any = None, **keywords: Any) -> Figure:
    """Draw a reliability diagram: predicted probabilities of held-out rows beside observed shares.

    Of numbers: the share of rows at or below each predicted quantile. Of classes: the share of rows whose
    class came, by bins of its probability. The band has 95 % of calibrated shares, at each probability.

    Args:
        fits: a fit, or another value with predictive distributions; or a mapping from titles to several.
        x, y, keywords: held-out rows, as for `neglog.scores`.

    Raises:
        DataError: there is no fit, or no rows; as `predict`.
        ModelError: a response of vectors; as `predict`.

    Sources: Murphy & Winkler (1977), Reliability of subjective probability forecasts; Bröcker & Smith (2007).
    """
    if not (named := fits if isinstance(fits, Mapping) else {"": fits}):
        raise DataError("there is no fit to draw. Pass at least one.")
    figure = Figure(figsize=(3.9 * len(named) + 0.4, 4.1), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(named), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (name, fit) in zip(panels, named.items(), strict=True):
        at = reliability_at(fit, x, y, keywords, reliability)
        axes.plot([0, 1], [0, 1], color=QUIET, lw=1.0)
        axes.fill_between(at.predicted, at.lower, at.upper, color=BAND, alpha=0.4, lw=0, label="chance")
        axes.plot(at.predicted, at.observed, "o-", color=LINE, ms=3.5, lw=1.3, zorder=3, label="rows")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="predicted probability")
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color=INK)
        _plain(axes)
    panels[0].set_ylabel("observed share")
    panels[0].legend(frameon=False, labelcolor=INK, fontsize=9, loc="upper left")
    return figure


@public
def training(fit: Fit) -> Figure:
    """Draw the history of a fit: the losses of its epochs, in nats a row, and the best of the held-out ones.

    Raises:
        DataError: the fit has no history, such as one that was read from disk.
    """
    table = check_fit(fit).history
    if table.empty:
        raise DataError(
            "the fit has no history: no solver took steps, or it was read from disk without them."
        )
    figure = Figure(figsize=(5.6, 3.7), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    losses = {"training": ("training_loss", QUIET), "held out": ("validation_loss", LINE)}
    for label, (column, colour) in losses.items():
        if table[column].notna().any():
            axes.plot(table["epoch"], table[column], color=colour, lw=1.3, label=label)
    if table["validation_loss"].notna().any():
        best = table.iloc[int(table["validation_loss"].argmin())]
        axes.plot(best["epoch"], best["validation_loss"], "o", color=LINE, label=f"epoch {best['epoch']:.0f}")
    axes.set_xlabel("epoch" if fit.epochs else "step", color=INK)
    axes.set_ylabel("loss, nats a row", color=INK)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    _plain(axes)
    return figure


@public
def write(figure: Figure, path: str | Path) -> Path:
    """Write a figure, in the format that the path ends in; folders are made.

    Raises:
        DataError: matplotlib does not write that format.
        OSError: the file cannot be written.
    """
    if not isinstance(figure, Figure):
        raise DataError(f"`figure` must be a figure, as `picture` makes it; it is {shown(figure)}.")
    path = as_path("path", path)
    check_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if path.suffix.lower() == ".png" and figure.get_layout_engine() is None:
            _write_png(figure, temporary)
        else:
            figure.savefig(temporary, dpi=DPI)
    return path


def _write_png(figure: Figure, path: Path) -> None:
    """Draw a figure once; `savefig` draws it twice, for the sake of layout engines."""
    before = figure.dpi
    figure.dpi = DPI
    try:
        FigureCanvasAgg(figure).print_png(path, pil_kwargs={"compress_level": 1})
    finally:
        figure.dpi = before


@public
def check_format(path: Path) -> None:
    """Raise DataError unless matplotlib writes the format that the path ends in."""
    path = as_path("path", path)
    if path.suffix.lower().removeprefix(".") not in FigureCanvasAgg.filetypes:
        raise DataError(f"a picture cannot be written as `{path}`. End its name in .png, .pdf or .svg.")


def _curve_of_design(fits: Mapping[str, Fit], x: Any, name: str) -> _Curve | None:
    """The curve over a design of a single column; None for any other design."""
    if isinstance(x, Mapping):
        return None
    values = x.to_numpy() if isinstance(x, pd.DataFrame) else np.asarray(x)
    if values.shape[1] != 1:
        return None
    grid = _grid(values[:, 0])
    predictions = {key: predict(fit, grid[:, None]) for key, fit in fits.items()}
    return _Curve(name, values[:, 0], grid, predictions)


def _curve_of_table(fits: Mapping[str, Fit], design: Design, table: pd.DataFrame) -> _Curve | None:
    """The curve over the one column that all the designs use, if it is one, and of numbers."""
    sides = [design.main, *design.others.values()]
    used = list(dict.fromkeys(name for side in sides for name in side.variables))
    if len(used) != 1 or any(side.levels for side in sides):
        return None
    (name,) = used
    values = table[name].to_numpy(dtype=float)
    grid = _grid(values)
    try:
        on_grid = pd.DataFrame({name: grid})
        rows = offset_rows(design, on_grid)
        predictions = {key: predict(fit, designs(fit, design, on_grid), **rows) for key, fit in fits.items()}
    except NeglogError:  # Between the rows there may be a place where a transform is not finite: 1 / x at 0.
        return None
    return _Curve(name, values, grid, predictions)


def _grid(values: np.ndarray) -> np.ndarray:
    return np.linspace(values.min(), values.max(), GRID_POINTS)


def _draw(scene: _Scene) -> Figure:
    if not scene.fits:
        raise DataError("there is no fit to draw. Pass at least one.")
    across = min(MAX_PANELS_PER_ROW, len(scene.fits))
    down = math.ceil(len(scene.fits) / across)
    size = (max(3.9 * across, 5.0), 3.7 * down + 0.5)
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    draw: Callable[[Axes, _Scene, str], None] = _draw_curve if scene.curve else _draw_observed
    for axes, (name, fit) in zip(panels.flat, scene.fits.items(), strict=False):
        draw(axes, scene, name)
        _dress(axes, name, fit)
    for axes in panels.flat[len(scene.fits) :]:
        axes.set_visible(False)
    below = scene.curve.name if scene.curve else f"predicted {scene.response}"
    beside = scene.response if scene.curve else f"observed {scene.response}"
    for axes in panels.flat[max(0, len(scene.fits) - across) : len(scene.fits)]:
        axes.set_xlabel(below, color=INK)
        axes.tick_params(labelbottom=True)
    for axes in panels[:, 0]:
        axes.set_ylabel(beside, color=INK)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    legend = figure.legend(
        handles,
        labels,
        loc="lower center",
        ncols=len(labels) if across > 1 else 2,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
    _arrange(figure, panels, panels.flat[len(scene.fits) - 1], legend)
    return figure


def _arrange(figure: Figure, panels: np.ndarray, lowest: Axes, legend: Legend) -> None:
    """Room around the panels for the labels of their axes, for titles and for the legend.

    Panels share their axes, so that the labels of one are as large as those of all: two of them are measured,
    where a layout engine would measure each one several times.
    """
    down, across = panels.shape
    size = np.array(figure.get_size_inches())
    title = TITLE_HEIGHT + PADDING
    high = size - np.array([2 * PADDING, title])
    figure.subplots_adjust(*(0.9 / size), *(high / size))
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    first: Axes = panels[0, 0]
    labels, labels_below = first.yaxis.get_tightbbox(renderer), lowest.xaxis.get_tightbbox(renderer)
    beside = first.bbox.x0 - labels.x0 if labels else 0.0
    below = lowest.bbox.y0 - labels_below.y0 if labels_below else 0.0
    below += legend.get_window_extent(renderer).height
    low = np.array([beside, below]) / figure.dpi + PADDING
    gaps = np.array([2 * PADDING, title + PADDING])
    number = np.array([across, down])
    spaces = gaps / ((high - low - (number - 1) * gaps) / number)
    figure.subplots_adjust(*(low / size), *(high / size), *spaces)


def _draw_curve(axes: Axes, scene: _Scene, name: str) -> None:
    curve = scene.curve
    assert curve is not None
    rows = _rows(len(scene.y))
    axes.scatter(curve.values[rows], scene.y[rows], **_points(len(rows)), label="rows")
    prediction = curve.predictions[name]
    axes.plot(curve.grid, scene.middles[name], color=LINE, lw=1.8, label="median", zorder=4)
    for level, alpha in reversed(BANDS):
        lower, upper = _quantile(prediction, 0.5 - level / 2), _quantile(prediction, 0.5 + level / 2)
        if lower is not None and upper is not None:
            label = f"{100 * level:.0f} % of new rows"
            axes.fill_between(curve.grid, lower, upper, color=BAND, alpha=alpha, lw=0, label=label, zorder=1)
    axes.margins(x=0.03)
    # The rows and the lines decide: a band may run far beyond both, and one line far beyond the rows.
    axes.set_ylim(_ends(scene.y, scene.middles.values(), 0.08))


def _draw_observed(axes: Axes, scene: _Scene, name: str) -> None:
    rows = _rows(len(scene.y))
    axes.scatter(scene.middles[name][rows], scene.y[rows], **_points(len(rows)), label="rows")
    ends = _ends(scene.y, scene.middles.values(), 0.05)
    axes.plot(ends, ends, color=LINE, lw=1.3, label="observed = predicted", zorder=1)
    axes.set(xlim=ends, ylim=ends, aspect="equal")


def _dress(axes: Axes, name: str, fit: Fit) -> None:
    axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color=INK)
    criterion = "" if fit.trained_on else f"   AIC {fit.aic:.1f}"
    axes.set_title(f"NLL {fit.nll:.1f}{criterion}", loc="right", fontsize=9, color=QUIET)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(color=RULE, labelcolor=QUIET, labelsize=8.5)
    axes.set_axisbelow(True)
    axes.grid(color=RULE, lw=0.5, alpha=0.6)


def _points(rows: int) -> dict[str, Any]:
    """The style of points: the more rows, the smaller and fainter."""
    size = float(np.clip(4000 / rows, 2.5, 16))
    return {"s": size, "color": POINT, "alpha": float(np.clip(130 / rows, 0.15, 0.7)), "lw": 0, "zorder": 3}


def _rows(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, MAX_DRAWN_ROWS)).round().astype(int))


def _ends(rows: np.ndarray, lines: Iterable[np.ndarray], margin: float) -> tuple[float, float]:
    """The limits of an axis: the rows, and the lines up to half the range of the rows beyond these."""
    low, high = float(rows.min()), float(rows.max())
    most = 0.5 * (high - low)
    shown = [np.clip(line, low - most, high + most) for line in lines]
    low, high = min(low, *(line.min() for line in shown)), max(high, *(line.max() for line in shown))
    room = margin * (high - low) or 1.0
    return low - room, high + room


def _middle(prediction: Any) -> np.ndarray:
    median = _quantile(prediction, 0.5)
    return np.asarray(prediction.mean if median is None else median)


def _quantile(prediction: Any, level: float) -> Tensor | None:
    """A quantile at every row; None for a distribution that does not have them in closed form."""
    try:
        quantile: Tensor = prediction.icdf(torch.tensor(level, dtype=torch.float64))
    except NotImplementedError:
        return None
    return quantile
