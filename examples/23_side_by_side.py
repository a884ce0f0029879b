"""One data set and one model: MLE, MAP, Laplace, NUTS and the bootstrap, side by side.

The model is gamma with a log-linear mean, for ozone on 111 days with standardised columns. Three priors of
the weights:

    flat         the maximum of the likelihood
    weak         Normal(0, 2.5), as by `priors_for`: it excludes only effects of a factor of a million
    sceptical    Normal(0, 0.1): a standard deviation of a column changes ozone by about ten per cent

The information about a weight grows with the number of rows and the prior does not, so all estimates
converge: MAP − MLE is of order 1/n, the posterior standard deviation of order 1/√n, and their ratio of order
1/√n. This is shown by counting each day 1, 4, 16 and 64 times.

Asserted: Laplace and NUTS agree under the same prior; the weak prior changes no estimate by a fifth of a
standard deviation; the sceptical one shrinks all weights, in MAP as in NUTS; the bootstrap's standard errors
are those of the information; with four times the rows every distance in posterior standard deviations is
halved.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from _common import BLUE, INK, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes

from neglog import (
    Posterior,
    bootstrap,
    covariance,
    datasets,
    map_estimate,
    mle,
    models,
    posterior,
    priors_for,
    with_priors,
)
from neglog.errors import ConvergenceWarning, SamplingWarning

COLUMNS = ["temperature", "wind", "radiation"]
NAMES = [*COLUMNS, "shape"]
SCEPTICAL = 0.1
TIMES = (1, 4, 16, 64)
COLOURS = {"flat": INK, "weak": BLUE, "sceptical": RED}


@dataclass(frozen=True)
class Answer:
    """What a method says of the weights and the shape, `(4,)` each; a mode alone has no width."""

    prior: str
    centre: np.ndarray
    width: np.ndarray | None = None


def load() -> tuple[pd.DataFrame, pd.Series]:
    ozone = datasets.load("ozone")
    x = ozone[COLUMNS]
    return (x - x.mean()) / x.std(), ozone["ozone"]


def under(x: pd.DataFrame, y: pd.Series) -> dict[str, object]:
    """The model under each prior."""
    weak = priors_for(models.gamma, x, y)
    zeros = torch.zeros(len(COLUMNS), dtype=torch.float64)
    doubt = {"log_mean.weight": dist.Normal(zeros, SCEPTICAL)}
    return {"weak": with_priors(models.gamma, weak), "sceptical": with_priors(models.gamma, weak | doubt)}


def numbers(params: Mapping[str, torch.Tensor]) -> np.ndarray:
    return np.append(params["log_mean.weight"].numpy(), params["shape"].numpy())


def of_draws(prior: str, found: Posterior) -> Answer:
    return Answer(prior, numbers(found.mean), numbers(found.sd))


def answers(x: pd.DataFrame, y: pd.Series, small: bool) -> dict[str, Answer]:
    fit = mle(models.gamma, x, y)
    matrix = covariance(fit)
    shown = [name for name in matrix.index if name[-1] in COLUMNS or name[0] == "shape"]
    errors = np.sqrt(np.diag(matrix.loc[shown, shown]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of single draws, which are left out
        again = bootstrap(fit, draws=60 if small else 2000)
    settings = {"chains": 2, "draws": 300, "tune": 100} if small else {"draws": 2000}
    priors = under(x, y)
    found = {
        "MLE ± information": Answer("flat", numbers(fit.params), errors),
        "MLE ± bootstrap": Answer("flat", numbers(fit.params), again.standard_errors[shown].to_numpy()),
    }
    for name, model in priors.items():
        found[f"MAP, {name}"] = Answer(name, numbers(map_estimate(model, x, y).params))
        rough = posterior(model, x, y, method="laplace", draws=600 if small else 20_000)
        found[f"Laplace, {name}"] = of_draws(name, rough)
        with warnings.catch_warnings():
            if small:  # the R-hat of few draws is above its limit now and then
                warnings.simplefilter("ignore", SamplingWarning)
            found[f"NUTS, {name}"] = of_draws(name, posterior(model, x, y, **settings))
    return found


def distances(x: pd.DataFrame, y: pd.Series) -> dict[str, list[float]]:
    """From the MLE, in posterior sds, the farthest weight; each day counted 1, 4, 16 and 64 times."""
    found: dict[str, list[float]] = {}
    priors = under(x, y)
    for times in TIMES:
        weights = np.full(len(y), float(times))
        fit = mle(models.gamma, x, y, weights=weights)
        best, width = numbers(fit.params)[:3], np.sqrt(np.diag(covariance(fit)))[:3]
        for name, model in priors.items():
            mode = numbers(map_estimate(model, x, y, weights=weights).params)[:3]
            found.setdefault(name, []).append(float((abs(mode - best) / width).max()))
    return found


def draw(found: dict[str, Answer], far: dict[str, list[float]], to: Path) -> None:
    canvas, panels = figure(3, size=(4.6, 4.0))
    for panel, axes in zip((0, 1), panels, strict=False):
        draw_forest(axes, found, panel)
    draw_distances(panels[2], far)
    save(canvas, to)


def draw_forest(axes: Axes, found: dict[str, Answer], column: int) -> None:
    axes.axvline(0, color=RULE, lw=0.8)
    for level, answer in enumerate(reversed(found.values())):
        colour, centre = COLOURS[answer.prior], answer.centre[column]
        if answer.width is not None:
            half = 1.645 * answer.width[column]
            axes.plot([centre - half, centre + half], [level] * 2, color=colour, lw=1.6)
        axes.plot([centre], [level], "o" if answer.width is not None else "D", color=colour, ms=5)
    labels = list(reversed(found)) if column == 0 else [""] * len(found)
    axes.set_yticks(range(len(found)), labels)
    dress(axes, NAMES[column].capitalize(), "weight, and 90 % of it", "")


def draw_distances(axes: Axes, far: dict[str, list[float]]) -> None:
    for name, values in far.items():
        axes.loglog(TIMES, values, "o-", color=COLOURS[name], lw=1.6, ms=4)
        say(axes, f"MAP, {name}", (TIMES[0], values[0] * 0.42), COLOURS[name])
    line = far["sceptical"][0] * 2.2 / np.sqrt(TIMES)
    axes.loglog(TIMES, line, color=QUIET, lw=0.9, ls=(0, (2, 3)))
    say(axes, "1 / √n", (TIMES[1], line[1] * 1.5), QUIET)
    axes.set_xticks(TIMES, [str(111 * times) for times in TIMES])
    axes.minorticks_off()
    dress(axes, "All meet as rows come in", "rows", "from the MLE, posterior sds")


def check(found: dict[str, Answer], far: dict[str, list[float]]) -> None:
    best = found["MLE ± information"]
    # The bootstrap: its error with 60 draws is 9 %, and the model is not the truth, which it knows.
    ratio = found["MLE ± bootstrap"].width[:3] / best.width[:3]
    assert (ratio > 0.6).all()
    assert (ratio < 1.7).all()
    for name in ("weak", "sceptical"):
        mode, rough, exact = (found[f"{kind}, {name}"] for kind in ("MAP", "Laplace", "NUTS"))
        # Of the weights; the skewness of the shape's posterior parts mode and mean by some 1 / √n, a tenth or
        # two of its width. Means of the 600 draws of --small have an error of 0.04 widths: of the
        # distance between two of them 0.22 is nearly four errors, and of the ratio of two widths 0.2 is five.
        for other in (mode, rough):
            assert (abs(other.centre - exact.centre) < [0.22, 0.22, 0.22, 0.5] * exact.width).all()
        assert (abs(rough.width / exact.width - 1) < 0.2).all()
    assert (abs(found["NUTS, weak"].centre - best.centre)[:3] < 0.2 * best.width[:3]).all()
    # The prior pulls, by a whole width up to these errors, and narrows: for a Normal likelihood, precisions
    # add.
    pulled, free = found["NUTS, sceptical"], found["NUTS, weak"]
    assert abs(pulled.centre[0]) < abs(free.centre[0]) - 0.8 * free.width[0]
    ratio = pulled.width[:3] / free.width[:3]
    assert (abs(ratio * np.sqrt(1 + (free.width[:3] / SCEPTICAL) ** 2) - 1) < 0.2).all()
    assert ratio.mean() < 1
    for name, values in far.items():
        # 1/√n, up to the curvature of the likelihood over a pull of some sds, which the first step sees.
        steps = np.array(values[1:]) / np.array(values[:-1])
        assert (abs(steps - 0.5) < 0.15).all(), name
        assert abs(steps[-1] - 0.5) < 0.03, name


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = load()
    found, far = answers(x, y, options.small), distances(x, y)
    rows = []
    for name, answer in found.items():
        widths = ["–"] * 4 if answer.width is None else [f"{width:.3f}" for width in answer.width]
        rows.append((name, *(f"{c:.3f} ± {w}" for c, w in zip(answer.centre, widths, strict=True))))
    table(("", *NAMES), rows)
    print()
    table(("rows", *(f"MAP, {name}" for name in far)),
          [(111 * times, *values) for times, *values in zip(TIMES, *far.values(), strict=True)])  # fmt: skip
    draw(found, far, options.picture)
    check(found, far)


if __name__ == "__main__":
    main()
