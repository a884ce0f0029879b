"""Bounded responses: binary, successes in trials, shares; and separation.

Binary responses, one row for each trial or one for all with the same x: with log-odds linear in x the two
log-likelihoods differ by log C(trials, successes), which contains no parameter. So `binomial` on 25 groups of
girls and `bernoulli` on their 50 weighted answers have the same optimum and the same standard errors. The age
at which half have reached menarche is where the log-odds are 0, -bias / weight; each year multiplies the odds
by exp(weight).

Shares that are not counts over a total, here of crude oil that becomes gasoline, are `beta`: the variance is
mean (1 - mean) / (1 + precision), and a degree multiplies the odds by exp(weight).

If a column separates the classes, the likelihood has no maximum: it increases with the slope, and neglog
raises an error. Under a prior there is an optimum.

Asserted: the binomial fit of R (MASS prints -21.226 and 1.632), and Ferrari & Cribari-Neto's (2004) beta
regression, with 0.01097 per degree and a precision of 440.278.
"""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from torch import Tensor

from neglog import Fit, covariance, datasets, map_estimate, mle, models, summary
from neglog.errors import UnboundedLikelihoodError

SEPARATED = torch.tensor([[-2.0], [-1.0], [-0.5], [0.5], [1.0], [2.0]], dtype=torch.float64)
ANSWERS = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
PRIOR = 2.5  # the scale of the Normal prior of weights in neglog's models
SHOWN = {1: RED, 4: OCHRE, 9: BLUE}  # batches of crude oil with a label in the picture


def fit_girls() -> tuple[pd.DataFrame, Fit, Fit]:
    """The groups, and the same regression on them and on single answers."""
    girls = datasets.load("menarche")
    grouped = mle(models.binomial, girls[["age"]], girls["reached"], trials=girls["girls"])
    single = mle(
        models.bernoulli,
        pd.concat([girls[["age"]]] * 2),
        [0.0] * len(girls) + [1.0] * len(girls),
        weights=[*(girls["girls"] - girls["reached"]), *girls["reached"]],
    )
    return girls, grouped, single


def fit_gasoline() -> tuple[pd.DataFrame, pd.DataFrame, Fit]:
    """The distillations, their design with batch 10 for reference, and the fit."""
    gasoline = datasets.load("gasoline")
    batches = pd.get_dummies(gasoline["batch"].astype(int), prefix="batch", dtype=float)
    x = batches.drop(columns="batch_10").assign(temp=gasoline["temp"])
    return gasoline, x, mle(models.beta, x, gasoline["yield"])


def median_age(fit: Fit) -> tuple[float, float]:
    """Where the log-odds are 0, with its standard error by the delta method."""
    bias, weight = fit.params["logit.bias"].item(), fit.params["logit.weight"].item()
    cov = covariance(fit).loc["logit", "logit"]
    slope = pd.Series({"Intercept": -1 / weight, "age": bias / weight**2})
    return -bias / weight, math.sqrt(slope @ cov.loc[slope.index, slope.index] @ slope)


def losses_along(slopes: Tensor) -> tuple[Tensor, Tensor]:
    """The NLL of the separated rows at each slope, and that less the log prior, without its constant."""
    logit = SEPARATED[:, 0] * slopes[:, None]
    nll = -torch.distributions.Bernoulli(logits=logit).log_prob(ANSWERS).sum(1)
    return nll, nll + 0.5 * (slopes / PRIOR) ** 2


def draw(
    girls: pd.DataFrame, grouped: Fit, gasoline: pd.DataFrame, x: pd.DataFrame, share: Fit, to: Path
) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_girls(left, girls, grouped)
    draw_gasoline(middle, gasoline, x, share)
    draw_separation(right)
    save(canvas, to)


def draw_girls(axes: Axes, girls: pd.DataFrame, fit: Fit) -> None:
    age = torch.linspace(9, 18, 300, dtype=torch.float64)
    probability = torch.sigmoid(fit.params["logit.bias"] + fit.params["logit.weight"] * age)
    axes.plot(age, probability, color=RED, lw=2)
    axes.scatter(
        girls["age"], girls["reached"] / girls["girls"], s=girls["girls"] / 5, color=INK, alpha=0.6, lw=0
    )
    half, error = median_age(fit)
    axes.plot([9, half, half], [0.5, 0.5, -0.04], color=QUIET, lw=0.9, ls=(0, (3, 3)), zorder=0)
    say(axes, f"half at {half:.2f} ± {error:.2f} years", (13.25, 0.04), INK)
    say(
        axes,
        f"a year multiplies\nthe odds by {fit.params['logit.weight'].exp().item():.2f}",
        (13.8, 0.5),
        RED,
    )
    say(axes, "area: girls asked", (9.2, 0.94), QUIET)
    axes.set(xlim=(8.9, 18.2), ylim=(-0.04, 1.04))
    dress(axes, "Binomial: girls of Warsaw, 1965", "age, years", "share that reached menarche")


def draw_gasoline(axes: Axes, gasoline: pd.DataFrame, x: pd.DataFrame, fit: Fit) -> None:
    temp = torch.linspace(195, 455, 100, dtype=torch.float64)
    for batch in range(1, 11):
        colour = SHOWN.get(batch, QUIET)
        mine = gasoline["batch"] == batch
        row = torch.tensor(x[mine].drop(columns="temp").iloc[0].tolist(), dtype=torch.float64)
        weight = fit.params["logit_mean.weight"]
        logit = fit.params["logit_mean.bias"] + row @ weight[:-1] + weight[-1] * temp
        axes.plot(temp, torch.sigmoid(logit), color=colour, lw=1.8 if batch in SHOWN else 0.7, zorder=2)
        axes.scatter(gasoline["temp"][mine], gasoline["yield"][mine], s=22, color=colour, lw=0, zorder=3)
        if batch in SHOWN:
            say(axes, f"crude {batch}", (459, torch.sigmoid(logit[-1]).item()), colour)
    odds = math.exp(10 * fit.params["logit_mean.weight"][-1].item())
    say(axes, f"10 °F multiply the odds\nof becoming gasoline by {odds:.3f}", (197, 0.585), INK)
    axes.set(xlim=(190, 500), ylim=(0, 0.64))
    axes.set_yticks([0, 0.2, 0.4, 0.6], ["0", "20 %", "40 %", "60 %"])
    dress(
        axes, "Beta: gasoline from ten crude oils", "end point of the distillation, °F", "share of the crude"
    )


def draw_separation(axes: Axes) -> None:
    slopes = torch.linspace(0, 12, 400, dtype=torch.float64)
    nll, posterior = losses_along(slopes)
    axes.plot(slopes, nll, color=RED, lw=2)
    axes.plot(slopes, posterior, color=BLUE, lw=2)
    best = posterior.argmin()
    axes.plot([slopes[best]], [posterior[best]], "o", color=BLUE, ms=6)
    axes.axhline(0, color=RULE, lw=1)
    say(axes, "−log likelihood: falls for ever,\nthere is no maximum", (4.2, 0.62), RED)
    say(axes, "−log posterior: one optimum,\nset by the prior", (1.0, 4.6), BLUE)
    for value, answer in zip(SEPARATED[:, 0].tolist(), ANSWERS.tolist(), strict=True):
        axes.plot([10.3 + 0.6 * value], [2.6 + 0.5 * answer], "o", color=INK, ms=4)
    say(axes, "y = 1", (8.8, 3.1), QUIET, ha="right", fontsize=8)
    say(axes, "y = 0", (8.8, 2.6), QUIET, ha="right", fontsize=8)
    say(axes, "the six rows, by x", (10.3, 2.15), QUIET, ha="center", fontsize=8)
    axes.set(xlim=(0, 12), ylim=(-0.15, 6))
    dress(axes, "The trap: separated classes", "slope (bias 0)", "loss, nats")


def check(girls: pd.DataFrame, grouped: Fit, single: Fit, share: Fit) -> None:
    weight, bias = grouped.params["logit.weight"].item(), grouped.params["logit.bias"].item()
    assert (round(bias, 5), round(weight, 5)) == (-21.22639, 1.63197)
    # The same optimum from single answers; Newton ends within 1e-8 standard errors, here of 0.06 and 0.8.
    assert abs(single.params["logit.weight"].item() - weight) < 1e-7
    errors = [summary(fit)["std_error"]["logit", "age"] for fit in (grouped, single)]
    assert math.isclose(*errors, rel_tol=1e-7)
    # Their likelihoods differ by the binomial coefficients: log C(n, k) summed over the groups.
    n, k = (torch.tensor(girls[name].to_numpy()) for name in ("girls", "reached"))
    ways = (torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)).sum().item()
    assert abs(single.nll - grouped.nll - ways) < 1e-6
    # Ferrari & Cribari-Neto (2004), table 1.
    table_1 = {"Intercept": -6.15957, "batch_1": 1.72773, "batch_9": 0.38579, "temp": 0.01097}
    estimates = summary(share)["estimate"]
    for term, published in table_1.items():
        assert round(estimates["logit_mean", term], 5) == published
    assert round(estimates["precision", ""], 3) == 440.278
    try:
        mle(models.bernoulli, SEPARATED, ANSWERS)
    except UnboundedLikelihoodError:
        pass
    else:
        raise AssertionError("separated classes have no maximum of the likelihood")
    # The prior's optimum: the grid is 0.03 wide, and by symmetry the bias is 0.
    penalised = map_estimate(models.bernoulli, SEPARATED, ANSWERS).params
    slopes = torch.linspace(0, 12, 400, dtype=torch.float64)
    assert abs(penalised["logit.weight"].item() - slopes[losses_along(slopes)[1].argmin()].item()) < 0.03
    assert abs(penalised["logit.bias"].item()) < 1e-6


def main() -> None:
    options = arguments(__file__, __doc__)
    girls, grouped, single = fit_girls()
    gasoline, x, share = fit_gasoline()
    rows = [
        (
            name,
            *(fit.params[f"logit.{site}"].item() for site in ("weight", "bias")),
            *median_age(fit),
            fit.nll,
        )
        for name, fit in (("binomial, 25 groups", grouped), ("bernoulli, 50 answers", single))
    ]
    table(("menarche", "per year", "bias", "half at", "± s.e.", "NLL"), rows)
    print()
    shown = summary(share).loc[[("logit_mean", "temp"), ("precision", "")], ["estimate", "std_error"]]
    table(("gasoline, beta", "estimate", "± s.e."), [(name, *row) for (name, _), row in shown.iterrows()])
    draw(girls, grouped, gasoline, x, share, options.picture)
    check(girls, grouped, single, share)


if __name__ == "__main__":
    main()
