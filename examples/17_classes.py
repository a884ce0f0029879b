"""Classes: the cross-entropy for unordered ones, and the cumulative logit for ordered ones.

The satisfaction of 1681 householders in Copenhagen is low, medium or high (Madsen 1976). Without the order
the model is

    P(y = k)  ∝  exp(logit_k) ,   logit_0 = 0 ,

whose negative log is the cross-entropy, with a weight for each column and each class but the first. With the
order there is a latent satisfaction, logistic about a location that is linear in the columns, and cutpoints
between the classes:

    P(y ≤ k)  =  1 / (1 + exp(location - cut_k)) ,

with one weight per column. It assumes that a column multiplies the odds of being above each cutpoint by the
same factor; two separate logistic fits, one for each cutpoint, check this.

Asserted: the estimates of statsmodels and the deviances of R's `polr` and `multinom`, totals that are fitted
exactly, and the likelihood-ratio statistic of the order.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes

from neglog import Fit, datasets, mle, models, predict, summary

COLUMNS = {
    "influence_high": "high influence\n(for low)",
    "influence_medium": "medium influence\n(for low)",
    "contact_high": "much contact\n(for little)",
    "atrium": "atrium house\n(for tower block)",
    "apartment": "apartment\n(for tower block)",
    "terrace": "terraced house\n(for tower block)",
}
ANSWERS = {"low": RED, "medium": OCHRE, "high": BLUE}


def load() -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """The columns, the answers 0, 1, 2, and how many householders gave each."""
    housing = datasets.load("housing")
    return (
        housing.drop(columns=["satisfaction", "householders"]),
        housing["satisfaction"],
        housing["householders"],
    )


def odds(fit: Fit, parameter: str) -> pd.DataFrame:
    """Odds ratios with 95 % limits, a row for each column."""
    return (
        summary(fit)
        .loc[parameter]
        .loc[list(COLUMNS), ["estimate", "lower", "upper"]]
        .astype(float)
        .map(math.exp)
    )


def draw(x: pd.DataFrame, answer: pd.Series, count: pd.Series, fits: dict[str, Fit], to: Path) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_shares(left, x, answer, count, fits["ordinal"])
    draw_latent(middle, fits["ordinal"])
    draw_odds(right, fits)
    save(canvas, to)


def draw_shares(axes: Axes, x: pd.DataFrame, answer: pd.Series, count: pd.Series, fit: Fit) -> None:
    probs = predict(fit, x).probs.numpy()
    cells = [slice(first, first + 3) for first in range(0, len(x), 3)]
    for code, (name, colour) in enumerate(ANSWERS.items()):
        fitted = [100 * probs[cell.start, code] for cell in cells]
        total = np.array([count[cell].sum() for cell in cells])
        seen = 100 * np.array([count[cell][answer[cell] == code].sum() for cell in cells]) / total
        axes.scatter(fitted, seen, s=1.2 * total, color=colour, alpha=0.5, lw=0)
        say(axes, name, (2, 76 - 4.5 * code), colour)
    axes.axline((0, 0), slope=1, color=INK, lw=1)
    say(axes, "24 kinds of households,\narea by number", (78, 5), QUIET, ha="right")
    axes.set(xlim=(0, 80), ylim=(0, 80))
    dress(axes, "Shares of the answers", "by the cumulative logit, %", "among householders, %")


def draw_latent(axes: Axes, fit: Fit) -> None:
    weight, cuts = summary(fit)["estimate"]["location"], fit.params["cutpoints"].tolist()
    kinds = (
        ("terraced house,\nlow influence", weight["terrace"], 0.36, 1.6),
        ("tower block,\nhigh influence", weight["influence_high"], 0.0, -5.0),
    )
    for name, location, level, left in kinds:
        below = [0.0, *(1 / (1 + math.exp(location - cut)) for cut in cuts), 1.0]
        parts = zip(
            pairwise([-6, *cuts, 6]), pairwise(below), (-2.1, 0.1, 2.3), ANSWERS.values(), strict=True
        )
        for (low, high), (before, after), place, colour in parts:
            grid = np.linspace(low, high, 201)
            top = level + 0.25 / np.cosh((grid - location) / 2) ** 2
            axes.fill_between(grid, level, top, color=colour, alpha=0.45, lw=0)
            axes.plot(grid, top, color=INK, lw=1.2)
            say(axes, f"{100 * (after - before):.0f} %", (place, level + 0.06), INK, ha="center")
        say(axes, name, (left, level + 0.2), INK)
    for cut in cuts:
        axes.axvline(cut, color=INK, lw=0.8, ls=(0, (3, 2)))
    say(axes, "low | medium", (cuts[0] - 0.15, 0.675), QUIET, ha="right", fontsize=8.5)
    say(axes, "medium | high", (cuts[1] + 0.15, 0.675), QUIET, fontsize=8.5)
    axes.set(xlim=(-6, 6), ylim=(0, 0.7))
    axes.set_yticks([])
    dress(axes, "A latent satisfaction, and two cuts", "location + logistic noise", "")
    axes.spines["left"].set_visible(False)


def draw_odds(axes: Axes, fits: dict[str, Fit]) -> None:
    axes.axvline(1, color=RULE, lw=1)
    for name, colour, shift in (("above low", OCHRE, -0.22), ("high", BLUE, 0.22), ("ordinal", INK, 0.0)):
        found = odds(fits[name], "location" if name == "ordinal" else "logit")
        rows = np.arange(len(found)) + shift
        axes.hlines(rows, found["lower"], found["upper"], color=colour, lw=3 if name == "ordinal" else 1.8)
        axes.semilogx(found["estimate"], rows, "o", color=colour, ms=5)
    axes.set_yticks(range(len(COLUMNS)), COLUMNS.values())
    axes.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
    axes.minorticks_off()
    axes.set(ylim=(5.6, -0.6), xlim=(0.2, 5.4))
    for at, name, colour in (
        (3.55, "odds of medium or high", OCHRE),
        (3.85, "cumulative logit: of both", INK),
        (4.15, "odds of high", BLUE),
    ):
        say(axes, name, (1.2, at + 1.0), colour, fontsize=8.5)
    dress(axes, "One factor for both cuts?", "odds ratio, 95 % interval", "")


def check(x: pd.DataFrame, answer: pd.Series, count: pd.Series, fits: dict[str, Fit]) -> None:
    ordinal, categorical = fits["ordinal"], fits["categorical"]
    # What R prints: residual deviances of `polr` and `multinom`, and the odds of high influence.
    assert (round(2 * ordinal.nll, 3), round(2 * categorical.nll, 4)) == (3479.149, 3470.0839)
    estimates = summary(ordinal)["estimate"]
    assert round(estimates["location", "influence_high"], 6) == 1.288819
    assert estimates.loc["cutpoints"].astype(float).round(6).tolist() == [-0.496135, 0.690708]
    assert round(summary(categorical)["estimate"]["logit[2]", "influence_high"], 6) == 1.612631
    # The cross-entropy has an intercept for each class: fitted totals are those observed, and by columns too.
    totals = torch.tensor(count.to_numpy()) @ predict(categorical, x).probs
    assert np.allclose(totals, [count[answer == code].sum() for code in range(3)])
    # The cumulative logit is nearly, but not exactly, so.
    totals = torch.tensor(count.to_numpy()) @ predict(ordinal, x).probs
    assert np.allclose(totals, [count[answer == code].sum() for code in range(3)], rtol=0.005)
    # Six weights fewer cost 4.5 nats: 9.07 in the likelihood-ratio statistic, whose 95 % point is 12.59.
    assert round(2 * (ordinal.nll - categorical.nll), 2) == 9.07
    assert ordinal.aic < categorical.aic
    # Each cut by itself: the cumulative logit's factor is between, or within the limits of both.
    common = odds(ordinal, "location")["estimate"]
    for name in ("above low", "high"):
        alone = odds(fits[name], "logit")
        assert ((alone["lower"] < common) & (common < alone["upper"])).all()


def main() -> None:
    options = arguments(__file__, __doc__)
    x, answer, count = load()
    fits = {
        "ordinal": mle(models.ordinal, x, answer, weights=count),
        "categorical": mle(models.categorical, x, answer, weights=count),
        "above low": mle(models.bernoulli, x, (answer > 0).astype(float), weights=count),
        "high": mle(models.bernoulli, x, (answer > 1).astype(float), weights=count),
    }
    table(
        ("", "parameters", "deviance", "AIC"),
        [(n, fits[n].k, f"{2 * fits[n].nll:.2f}", f"{fits[n].aic:.2f}") for n in ("ordinal", "categorical")],
    )
    print()
    alone = [odds(fits[name], "logit")["estimate"] for name in ("above low", "high")]
    rows = [
        (name, odds(fits["ordinal"], "location")["estimate"][name], *(float(a[name]) for a in alone))
        for name in COLUMNS
    ]
    table(("odds ratio", "ordinal", "medium or high", "high"), rows)
    draw(x, answer, count, fits, options.picture)
    check(x, answer, count, fits)


if __name__ == "__main__":
    main()
