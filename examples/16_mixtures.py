"""Two kinds of y at the same x: mixtures for Old Faithful, where one Gaussian fails.

After a short eruption the geyser rests for an hour, after a long one for an hour and a half. Conversely,
given a waiting time of 66 minutes the eruption before it was either short or long, and a Gaussian predicts a
duration in between, where few eruptions are. A mixture whose weights depend on the waiting time,

    p(y | x)  =  sum over k of  weight_k(x) · Normal(y; mean_k(x), sigma_k) ,

has both modes, with their probabilities; with a network for the parameters it is Bishop's mixture density
network (1994).

Its likelihood has no maximum. With one mean at a row and its sigma going to 0, the density of that row grows
without bound while the other components fit the remaining rows. The estimate is a local optimum, one of many,
which depends on the initial point; here the means start at quantiles of y.

Asserted: the equations of expectation maximisation, which hold at every local optimum.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, arguments, dress, figure, network, save, say, table
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor
from torch.distributions import Distribution, Normal

from neglog import Fit, datasets, map_estimate, mle, models, on_features, predict, with_priors

CENTRE, UNIT = 70.0, 15.0
"""Minutes: rests are measured in quarters of an hour about their mean, about."""
AT = 66.0
COLOURS = {"gaussian": RED, "mixture": BLUE, "network": OCHRE}
NAMES = {"gaussian": "one Gaussian", "mixture": "mixture of lines", "network": "mixture density network"}


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def load() -> tuple[pd.DataFrame, pd.Series]:
    """The rest in units of order one, and the duration of the eruption before it, in minutes."""
    faithful = datasets.load("faithful")
    return (faithful[["waiting"]] - CENTRE) / UNIT, faithful["duration"]


def fit_mixture(x: pd.DataFrame, y: pd.Series) -> Fit:
    return mle(models.gaussian_mixture, {"mean": x, "weight": x}, y)


def fit_network(x: pd.DataFrame, y: pd.Series) -> Fit:
    """All parameters of two components on one trunk of three tanh units."""
    trunk = network(1, 3, seed=0)
    model = on_features(models.gaussian_mixture, dict.fromkeys(("mean", "sigma", "weight"), trunk))
    # A Normal prior for log sigma is a LogNormal for sigma: it vanishes at 0, so there is a maximum.
    return map_estimate(with_priors(model, {"log_sigma.bias": dist.Normal(number(-1.0), number(1.0))}), x, y)


def foreseen(name: str, fits: dict[str, Fit], waiting: Tensor | list[float]) -> Distribution:
    """The law of the eruption, given rests in minutes."""
    x = pd.DataFrame({"waiting": (np.asarray(waiting) - CENTRE) / UNIT})
    return predict(fits[name], {"mean": x, "weight": x} if name == "mixture" else x)


def shares(x: Tensor, y: Tensor, fit: Fit) -> tuple[Tensor, Tensor, Tensor]:
    """How likely each row came from each component `(N, 2)`, and the weights and means of its row."""
    columns = torch.cat([torch.ones_like(x), x], dim=1)
    second = columns @ torch.cat([fit.params["logit_weight.bias"], fit.params["logit_weight.weight"][0]])
    weight = torch.stack([torch.sigmoid(-second), torch.sigmoid(second)], dim=-1)
    mean = fit.params["mean.bias"] + x @ fit.params["mean.weight"].T
    parts = weight * Normal(mean, fit.params["sigma"]).log_prob(y[:, None]).exp()
    return parts / parts.sum(-1, keepdim=True), weight, mean


def shrinking(y: Tensor, sigmas: Tensor, row: int) -> Tensor:
    """The NLL of two Normals as the first, on one row with the weight 1 / n, gets narrow."""
    broad = Normal(y.mean(), y.std(correction=0)).log_prob(y)
    narrow = Normal(y[row], sigmas[:, None]).log_prob(y)
    return -torch.logaddexp(narrow - math.log(len(y)), broad + math.log1p(-1 / len(y))).sum(-1)


def draw(x: pd.DataFrame, y: pd.Series, fits: dict[str, Fit], optimum: float, to: Path) -> None:
    canvas, (left, middle, right) = figure(3)
    draw_bands(left, x, y, fits)
    draw_cut(middle, x, y, fits)
    draw_floor(right, y, optimum)
    save(canvas, to)


def draw_bands(axes: Axes, x: pd.DataFrame, y: pd.Series, fits: dict[str, Fit]) -> None:
    waiting, duration = torch.linspace(41, 98, 200), torch.linspace(0.9, 6.1, 200, dtype=torch.float64)
    density = foreseen("mixture", fits, waiting).log_prob(duration[:, None]).exp()
    blues = LinearSegmentedColormap.from_list("", ["white", "#c3d6e6", BLUE])
    steps = [0.05, 0.15, 0.3, 0.5, 0.8, 1.2, 2.0]
    axes.contourf(waiting, duration, density, steps, cmap=blues, vmin=0, vmax=1.5, extend="max")
    single = foreseen("gaussian", fits, waiting)
    for q in (0.05, 0.5, 0.95):
        axes.plot(waiting, single.icdf(number(q)), color=RED, lw=1.6, ls="-" if q == 0.5 else (0, (4, 3)))
    axes.plot(x["waiting"] * UNIT + CENTRE, y, "o", color=INK, ms=2.6, mew=0)
    axes.axvline(AT, color=QUIET, lw=0.8, ls=(0, (1, 2)))
    say(axes, "a Gaussian, its 5, 50\nand 95 % quantiles", (42, 5.35), RED)
    say(axes, "density of a mixture\nof two lines (shades)", (97.5, 1.5), BLUE, ha="right")
    axes.set(xlim=(41, 98), ylim=(0.9, 6.1))
    dress(axes, "How long was the eruption before?", "rest until the next one, min", "eruption, min")


def draw_cut(axes: Axes, x: pd.DataFrame, y: pd.Series, fits: dict[str, Fit]) -> None:
    duration = torch.linspace(0.9, 6.1, 400, dtype=torch.float64)
    near = y[abs(x["waiting"] * UNIT + CENTRE - AT) <= 5]
    axes.hist(near, bins=np.arange(1.5, 5.6, 0.25), density=True, color=QUIET, alpha=0.25, lw=0)
    for name, place in (("gaussian", (1.05, 1.26)), ("mixture", (1.05, 1.18)), ("network", (1.05, 1.10))):
        density = foreseen(name, fits, [AT]).log_prob(duration[:, None]).exp()[:, 0]
        axes.plot(duration, density, color=COLOURS[name], lw=2)
        say(axes, NAMES[name], place, COLOURS[name])
    say(axes, f"{len(near)} eruptions with rests\nof 61 to 71 min", (5.9, 1.22), QUIET, ha="right")
    axes.set(xlim=(0.9, 6.1), ylim=(0, 1.32))
    dress(axes, f"After a rest of {AT:g} minutes", "eruption, min", "density")


def draw_floor(axes: Axes, y: pd.Series, optimum: float) -> None:
    values = torch.tensor(y.to_numpy())
    sigmas = torch.logspace(0.3, -140, 600, dtype=torch.float64)
    axes.semilogx(sigmas, shrinking(values, sigmas, 0), color=RED, lw=2)
    axes.axhline(optimum, color=BLUE, lw=1.8)
    axes.invert_xaxis()
    say(axes, "the local optimum that a fit finds", (1e-48, optimum + 14), BLUE)
    say(axes, "one component on one\nduration, ever narrower", (1e-22, 395), RED)
    axes.set_xticks([1, 1e-40, 1e-80, 1e-120], ["1", "10⁻⁴⁰", "10⁻⁸⁰", "10⁻¹²⁰"])
    axes.minorticks_off()
    axes.set(ylim=(70, 440))
    dress(axes, "The loss has no floor", "sigma of that component, min", "NLL of two Normals, nats")


def check(x: pd.DataFrame, y: pd.Series, fits: dict[str, Fit], optimum: float) -> None:
    # At an optimum one step of expectation maximisation stays where it is: lines and sigmas are those of
    # least squares weighted by the shares, which have the totals of the weights, column by column.
    design, response = torch.tensor(x.to_numpy()), torch.tensor(y.to_numpy())
    columns = torch.cat([torch.ones_like(design), design], dim=1)
    share, weight, mean = shares(design, response, fits["mixture"])
    residuals = response[:, None] - mean
    assert (columns.T @ (share * residuals)).abs().max() < 1e-6
    assert (columns.T @ (share - weight)).abs().max() < 1e-6
    variance = (share * residuals**2).sum(0) / share.sum(0)
    assert torch.allclose(fits["mixture"].params["sigma"] ** 2, variance, rtol=1e-6)
    # Another start finds the same optimum with its components exchanged.
    swapped = {"mean.bias": fits["mixture"].params["mean.bias"].flip(0)}
    again = mle(models.gaussian_mixture, {"mean": x, "weight": x}, y, start=swapped)
    assert math.isclose(again.nll, fits["mixture"].nll, rel_tol=1e-9)
    assert torch.allclose(again.params["mean.bias"].flip(0), fits["mixture"].params["mean.bias"], rtol=1e-5)
    # No floor: below the local optimum, and below anything.
    assert shrinking(response, number(1e-140)[None], 0) < optimum - 600
    # At 66 minutes one Gaussian puts most of its mass where few eruptions are, from 2.5 to 3.3 minutes.
    between = {name: foreseen(name, fits, [AT]).cdf(torch.tensor([3.3, 2.5]).double()) for name in fits}
    between = {name: (p[0] - p[1]).item() for name, p in between.items()}
    near = y[abs(x["waiting"] * UNIT + CENTRE - AT) <= 5]
    assert near.between(2.5, 3.3).mean() < 0.11
    assert between["gaussian"] > 0.5
    assert max(between["mixture"], between["network"]) < 0.3
    assert fits["mixture"].aic < fits["gaussian"].aic - 180
    assert fits["network"].nll < fits["mixture"].nll


def main() -> None:
    options = arguments(__file__, __doc__)
    x, y = load()
    fits = {
        "gaussian": mle(models.gaussian, x, y),
        "mixture": fit_mixture(x, y),
        "network": fit_network(x, y),
    }
    table(("", "parameters", "NLL"), [(NAMES[name], fit.k, fit.nll) for name, fit in fits.items()])
    optimum = mle(models.gaussian_mixture, x.iloc[:, :0], y).nll  # without columns
    draw(x, y, fits, optimum, options.picture)
    check(x, y, fits, optimum)


if __name__ == "__main__":
    main()
