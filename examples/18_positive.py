"""Positive responses: mean or median, the back-transformation of the logarithm, and censored lifetimes.

The spread of ozone in New York grows with its mean, and effects are multiplicative. Four families have this
form,

    gamma             log of the mean is linear       variance  mean² / shape
    lognormal         log of the median is linear     variance  (exp(sigma²) - 1) · mean²
    weibull           log of every quantile is linear
    inverse Gaussian  log of the mean is linear       variance  dispersion · mean³

with similar coefficients and different levels: exp of a fit to log y is a median. The medians of the days add
up to a tenth less than the ozone; the factor exp(sigma² / 2) gives the mean.

The weeks until a leukaemia relapse are known for 30 patients of 42; for twelve the study ended before. For
these the time is known to be longer, and the likelihood has the factor P(y > last week observed).

Asserted: the estimates of R's `lm`, `glm` and `survreg` for these data, and the score equations.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes

from neglog import Fit, censored, datasets, mle, models, predict, summary

COLUMNS = ["temperature", "wind", "radiation"]
COLOURS = {"gamma": BLUE, "lognormal": RED, "weibull": OCHRE, "inverse_gaussian": QUIET}
HALF = torch.tensor(0.5, dtype=torch.float64)


def load() -> tuple[pd.DataFrame, pd.Series]:
    ozone = datasets.load("ozone")
    return ozone[COLUMNS], ozone["ozone"]


def fit_patients() -> tuple[pd.DataFrame, dict[str, Fit]]:
    """Weibull fits of the weeks in remission: with the twelve as they are, as relapses, and without them."""
    patients = datasets.load("leukaemia")
    x, weeks, relapsed = patients[["treated"]], patients["weeks"], patients["relapsed"] == 1
    fits = {
        "censored": mle(censored(models.weibull), x, weeks, upper=np.where(relapsed, np.inf, weeks)),
        "as if relapsed": mle(models.weibull, x, weeks),
        "left out": mle(models.weibull, x[relapsed], weeks[relapsed]),
    }
    return patients, fits


def kaplan_meier(weeks: pd.Series, relapsed: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The share in remission after each week with a relapse (Kaplan & Meier 1958)."""
    at = np.unique(weeks[relapsed == 1])
    stay = [1 - ((weeks == t) & (relapsed == 1)).sum() / (weeks >= t).sum() for t in at]
    return np.concatenate([[0], at]), np.concatenate([[1], np.cumprod(stay)])


def survival(fit: Fit, treated: float, weeks: np.ndarray) -> np.ndarray:
    scale = math.exp(fit.params["log_scale.bias"] + treated * fit.params["log_scale.weight"][0])
    return np.exp(-((weeks / scale) ** fit.params["shape"].item()))


def draw(x: pd.DataFrame, y: pd.Series, fits: dict[str, Fit], to: Path) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_lines(left, x, y, fits)
    draw_day(middle, x, fits)
    draw_survival(right)
    save(canvas, to)


def draw_lines(axes: Axes, x: pd.DataFrame, y: pd.Series, fits: dict[str, Fit]) -> None:
    grid = pd.DataFrame(dict.fromkeys(COLUMNS, np.full(100, np.nan)))
    grid = grid.assign(
        temperature=np.linspace(57, 97, 100), wind=x["wind"].mean(), radiation=x["radiation"].mean()
    )
    axes.plot(x["temperature"], y, "o", color=INK, ms=3, mew=0, alpha=0.75)
    log = predict(fits["lognormal"], grid)
    axes.plot(grid["temperature"], log.icdf(HALF), color=RED, lw=2)
    axes.plot(grid["temperature"], log.mean, color=RED, lw=2, ls=(0, (4, 2)))
    axes.plot(grid["temperature"], predict(fits["gamma"], grid).mean, color=BLUE, lw=2)
    say(axes, "lognormal: mean (dashed)\nand median", (58, 128), RED)
    say(axes, "gamma: mean", (58, 108), BLUE)
    say(axes, "lines at the average wind\nand radiation", (58, 92), QUIET)
    axes.set(xlim=(56, 98), ylim=(0, 172))
    dress(axes, "Ozone in New York, 1973", "temperature, °F", "ozone, parts per billion")


def draw_day(axes: Axes, x: pd.DataFrame, fits: dict[str, Fit]) -> None:
    day = x.mean().to_frame().T.assign(temperature=85.0)
    grid = torch.linspace(0.5, 150, 600, dtype=torch.float64)
    for level, (name, colour) in enumerate(COLOURS.items()):
        law = predict(fits[name], day)
        axes.plot(grid, law.log_prob(grid).exp(), color=colour, lw=2)
        at = -0.0016 - 0.0014 * level
        axes.plot([law.icdf(HALF)[0], law.mean[0]], [at, at], color=colour, lw=1)
        axes.plot([law.icdf(HALF)[0]], [at], "o", mfc="white", mec=colour, ms=4.5)
        axes.plot([law.mean[0]], [at], "o", color=colour, ms=4.5)
        say(axes, name.replace("_", " "), (147, 0.0222 - 0.0015 * level), colour, ha="right")
    say(axes, "below: median (open)\nand mean", (147, 0.0145), QUIET, ha="right")
    axes.axhline(0, color=RULE, lw=0.8)
    axes.set(xlim=(0, 150), ylim=(-0.0075, 0.0245))
    axes.set_yticks([0, 0.01, 0.02])
    dress(axes, "A day of 85 °F: four densities", "ozone, parts per billion", "density")


def draw_survival(axes: Axes) -> None:
    patients, fits = fit_patients()
    weeks = np.linspace(0, 35, 200)
    for treated, colour in ((1.0, BLUE), (0.0, RED)):
        group = patients[patients["treated"] == treated]
        at, share = kaplan_meier(group["weeks"], group["relapsed"])
        axes.step([*at, 35], [*share, share[-1]], where="post", color=colour, lw=1.2, alpha=0.6)
        ended = group[group["relapsed"] == 0]["weeks"]
        heights = [share[at <= week][-1] for week in ended]
        axes.plot(ended, heights, "|", color=colour, ms=8, mew=1.2)
        axes.plot(weeks, survival(fits["censored"], treated, weeks), color=colour, lw=2.2)
    axes.plot(weeks, survival(fits["as if relapsed"], 1.0, weeks), color=BLUE, lw=1.2, ls=(0, (4, 2)))
    axes.plot(weeks, survival(fits["left out"], 1.0, weeks), color=BLUE, lw=1.2, ls=(0, (1, 1.5)))
    say(axes, "treated", (13.5, 0.86), BLUE)
    say(axes, "as if relapsed", (24.3, 0.27), BLUE, fontsize=8)
    say(axes, "left out", (20.2, 0.175), BLUE, fontsize=8)
    say(axes, "placebo", (1.2, 0.32), RED)
    axes.set(xlim=(0, 35), ylim=(0, 1.02))
    dress(axes, "In remission, 42 patients", "weeks", "share in remission")


def check(x: pd.DataFrame, y: pd.Series, fits: dict[str, Fit]) -> None:
    # R: lm(log(Ozone) ~ Temp + Wind + Solar.R), glm of the Gamma and the inverse Gaussian, survreg.
    printed = {
        "gamma": ("log_mean", 0.043028821864),
        "lognormal": ("log_median", 0.049171124302),
        "weibull": ("log_scale", 0.037999498958),
        "inverse_gaussian": ("log_mean", 0.0387648094),
    }
    for name, (site, value) in printed.items():
        assert abs(fits[name].params[f"{site}.weight"][0].item() / value - 1) < 1e-7, name
    assert [round(fits[name].nll, 5) for name in ("lognormal", "weibull")] == [459.58045, 460.4714]
    # sigma² is RSS / n, where R's 0.508571 is RSS / (n - p).
    assert math.isclose(
        fits["lognormal"].params["sigma"].item(), 0.508570895 * math.sqrt(107 / 111), rel_tol=1e-8
    )
    # The score of the Gamma's intercept: relative residuals add up to 0; of the lognormal's: those of log y.
    mean = predict(fits["gamma"], x).mean.numpy()
    log = predict(fits["lognormal"], x)
    assert abs(((y - mean) / mean).sum()) < 1e-5
    assert abs(np.log(y / log.icdf(HALF).numpy()).sum()) < 1e-8
    # exp of the fit to log y lacks a tenth of the ozone, and the factor exp(sigma² / 2) brings it back.
    assert round((log.icdf(HALF).numpy().mean() / y.mean()).item(), 2) == 0.91
    assert round((log.mean.numpy().mean() / y.mean()).item(), 2) == 1.03
    assert round(mean.mean() / y.mean(), 2) == 0.98
    # The patients: R's survreg, whose scale is 1 / shape, and the hazard ratio of the textbooks, 1 to 5.6.
    patients, remission = fit_patients()
    fit = remission["censored"]
    assert round(fit.nll, 6) == 106.579492
    assert abs(fit.params["log_scale.weight"].item() - 1.26733459) < 1e-6
    assert abs(1 / fit.params["shape"].item() - 0.7321944) < 1e-6
    shape, weight = fit.params["shape"].item(), fit.params["log_scale.weight"].item()
    assert round(math.exp(shape * weight), 2) == 5.65
    # The score of the scales: the sum of (y / scale)^shape in each group is its number of relapses.
    for treated in (0.0, 1.0):
        group = patients[patients["treated"] == treated]
        power = -np.log(survival(fit, treated, group["weeks"].to_numpy()))
        assert abs(power.sum() - group["relapsed"].sum()) < 1e-5
    # Both ways round it see half of the effect, and less.
    effects = {name: f.params["log_scale.weight"].item() for name, f in remission.items()}
    assert max(effects["as if relapsed"], effects["left out"]) < 0.51 * effects["censored"]


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = load()
    fits = {name: mle(getattr(models, name), x, y) for name in COLOURS}
    rows = []
    for name, fit in fits.items():
        law = predict(fit, x)
        first = next(iter(fit.params.values()))[0].item()
        rows.append(
            (name, fit.nll, math.exp(10 * first), law.icdf(HALF).mean().item(), law.mean.mean().item())
        )
    table(("", "NLL", "10 °F", "mean of medians", "mean of means"), rows)
    print(f"observed mean {y.mean():.2f}\n")
    shown = [
        (
            name,
            f.params["log_scale.weight"].item(),
            summary(f)["std_error"]["log_scale", "treated"],
            f.params["shape"].item(),
        )
        for name, f in fit_patients()[1].items()
    ]
    table(("twelve without a relapse", "effect", "std. error", "shape"), shown)
    draw(x, y, fits, options.picture)
    check(x, y, fits)


if __name__ == "__main__":
    main()
