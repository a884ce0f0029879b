"""Simulation-based calibration: parameters from the prior, data from the parameters, ranks that are uniform.

If parameters are drawn from their prior, data given these, and posterior draws given the data, the parameters
and the draws have the same distribution given the data. So the rank of the parameters among the draws is
uniform (Cook, Gelman & Rubin 2006; Talts et al. 2018), for any model; errors in a prior, a likelihood, a
Jacobian or a sampler change its distribution. Ranks of single parameters do not detect draws that ignore the
data; those of the joint log density do (Modrák et al. 2023), so they are included.

Four models with twelve rows, and NUTS. A curve is the share of ranks below each value minus that of a uniform
distribution; 95 % of uniform samples stay within the band everywhere (Säilynoja, Bürkner & Vehtari 2022).

Asserted: the Kolmogorov–Smirnov test of each quantity, at a level at which it rejects one of 10 000 correct
programs.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, RULE, arguments, dress, figure, save, say, table
from matplotlib.axes import Axes
from scipy.stats import binom, kstest

from neglog import models, posterior, prior_predictive, with_priors
from neglog.errors import SamplingWarning

NAMES = {"gaussian": "mean", "poisson": "log_rate", "negative_binomial": "log_mean", "bernoulli": "logit"}
"""The models, and their predictors."""
ROWS, RANKS, THIN = 12, 100, 4
"""Rows of a data set; draws that a truth is ranked among, and how many are made for each."""
FALSE_ALARM = 1e-4
COLOURS = {"weight": BLUE, "bias": OCHRE, "spread": RED, "joint": INK}


def model_of(name: str):
    """A model, with priors of which no draw makes rates that overflow."""
    predictor, two = NAMES[name], torch.full((1,), 0.5, dtype=torch.float64)
    priors = {
        f"{predictor}.weight": dist.Normal(0 * two, two),
        f"{predictor}.bias": dist.Normal(0 * two[0], 1.0),
    }
    return with_priors(getattr(models, name), priors)


def design() -> torch.Tensor:
    return torch.linspace(-1.5, 1.5, ROWS, dtype=torch.float64)[:, None]


def joint(model, values: dict[str, torch.Tensor], y: torch.Tensor) -> float:
    """The log density of the data and the parameters."""
    held = pyro.condition(model, data={**values, "y": y})
    return float(pyro.poutine.trace(held).get_trace(design()).log_prob_sum())


def ranks(name: str, seed: int, count: int = RANKS) -> dict[str, float]:
    """The share of draws below the truth, of each quantity, between 0 and 1."""
    model, x = model_of(name), design()
    first = prior_predictive(model, x, draws=1, seed=seed)
    truth, y = {site: values[0, 0] for site, values in first.draws.items()}, first.y[0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SamplingWarning)  # few draws: enough for a rank
        found = posterior(model, x, y, draws=count * THIN, tune=150, chains=1, seed=seed)
    draws = {site: values[0, ::THIN] for site, values in found.draws.items()}
    below = {kind(site): float((draws[site] < truth[site]).double().sum()) for site in draws}
    joints = [joint(model, {site: values[i] for site, values in draws.items()}, y) for i in range(count)]
    below["joint"] = float((np.array(joints) < joint(model, truth, y)).sum())
    # Uniform on the whole numbers to `count`; a random share of one makes it uniform between 0 and 1.
    random = np.random.default_rng(seed)
    return {quantity: (rank + random.random()) / (count + 1) for quantity, rank in below.items()}


def kind(site: str) -> str:
    return site.rpartition(".")[2] if "." in site else "spread"


def collected(name: str, times: int, workers: int, count: int) -> dict[str, np.ndarray]:
    """The ranks of each quantity, of many data sets."""
    seeds = [1000 * list(NAMES).index(name) + i for i in range(times)]
    rank = partial(ranks, name, count=count)
    if workers == 1:
        found = [rank(seed) for seed in seeds]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=alone) as pool:
            found = list(pool.map(rank, seeds, chunksize=10))
    return {quantity: np.array([each[quantity] for each in found]) for quantity in found[0]}


def alone() -> None:
    torch.set_num_threads(1)


def band(
    times: int, level: float = 0.95, simulations: int = 2000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid, and the lower and upper ends there within which a uniform's ECDF stays everywhere."""
    grid = np.linspace(0, 1, 101)[1:-1]
    uniform = np.random.default_rng(0).random((simulations, times))
    counts = np.stack([(uniform <= z).sum(1) for z in grid], axis=1)
    tails = np.minimum(binom.cdf(counts, times, grid), binom.sf(counts - 1, times, grid))
    tail = np.quantile(tails.min(1), 1 - level)
    return grid, binom.ppf(tail, times, grid) / times - grid, binom.isf(tail, times, grid) / times - grid


def draw(found: dict[str, dict[str, np.ndarray]], to: Path) -> None:
    canvas, panels = figure(len(found), size=(3.3, 3.2))
    for axes, (name, by_quantity) in zip(panels, found.items(), strict=True):
        draw_model(axes, name, by_quantity)
    panels[0].set_ylabel("share below, less the uniform's", color=INK)
    save(canvas, to)


def draw_model(axes: Axes, name: str, by_quantity: dict[str, np.ndarray]) -> None:
    times = len(by_quantity["joint"])
    grid, low, high = band(times)
    axes.fill_between(grid, low, high, color=RULE, alpha=0.5, lw=0)
    axes.axhline(0, color=QUIET, lw=0.8)
    for line, (quantity, values) in enumerate(by_quantity.items()):
        share = (values[:, None] <= grid).mean(0)
        axes.plot(grid, share - grid, color=COLOURS[quantity], lw=1.2)
        say(axes, quantity, (0.04 + 0.26 * line, 1.25 * high.max()), COLOURS[quantity], fontsize=8)
    axes.set(ylim=(1.5 * low.min(), 1.5 * high.max()))
    dress(axes, name.replace("_", " "), f"rank, {times} data sets", "")


def tests(found: dict[str, dict[str, np.ndarray]], pooled: bool) -> dict[str, float]:
    """The p-value of each quantity of each model, or of the models together."""
    if pooled:
        quantities = dict.fromkeys(q for by_quantity in found.values() for q in by_quantity)
        parts = {
            q: [by_quantity[q] for by_quantity in found.values() if q in by_quantity] for q in quantities
        }
        return {q: kstest(np.concatenate(values), "uniform").pvalue for q, values in parts.items()}
    return {
        f"{name}, {q}": kstest(values, "uniform").pvalue
        for name, by_quantity in found.items()
        for q, values in by_quantity.items()
    }


def main() -> None:
    options = arguments(__file__, __doc__)
    names = ("gaussian", "poisson", "bernoulli") if options.small else NAMES
    times, workers, count = (2, 1, 50) if options.small else (300, 2, RANKS)
    found = {name: collected(name, times, workers, count) for name in names}
    values = tests(found, pooled=options.small)
    table(("ranks", "p-value"), values.items())
    draw(found, options.picture)
    assert min(values.values()) > FALSE_ALARM / len(values)


if __name__ == "__main__":
    main()
