"""Diagnostics of draws: mixing of chains, effective sample sizes, and the error of an approximation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

MOST_R_HAT = 1.01
"""Chains disagree above this (Vehtari et al. 2021)."""
LEAST_ESS = 100
"""Least effective sample size per chain for estimates of means and quantiles (Vehtari et al. 2021)."""
TAILS = (0.05, 0.95)
"""The quantiles of the effective sample size of the tails (Vehtari et al. 2021)."""
MOST_PARETO_K = 0.7
"""Above this the ratios of the densities have no usable mean (Vehtari et al. 2024)."""

EXACT_RATIO_RANGE = 1e-6
"""Range of log ratios, in nats, that is attributed to rounding: the approximation is exact."""


def mixing(draws: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The rank-normalised split R-hat of each entry of each site, and its effective sample size.

    The effective size is the smaller one of bulk and tail. A constant entry, such as the 0 above the diagonal
    of a Cholesky factor, has R-hat 1 and all draws. Draws are `(chains, draws, *shape)`; both are `(*shape)`.

    Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Bayesian Analysis 16(2).
    """
    r_hat, ess = {}, {}
    for name, values in draws.items():
        chains, count, *shape = values.shape
        found = [_entry(series) for series in values.reshape(chains, count, -1).unbind(-1)]
        numbers = torch.tensor(found, dtype=torch.float64).reshape(-1, 2)
        r_hat[name], ess[name] = (column.reshape(shape) for column in numbers.unbind(-1))
    return r_hat, ess


def _entry(series: Tensor) -> tuple[float, float]:
    import arviz

    if bool((series == series[0, 0]).all()):
        return 1.0, float(series.numel())
    # Halves of a single chain are compared as two chains are.
    halves = series if len(series) > 1 else series[:, : series.shape[1] // 2 * 2].reshape(2, -1)
    # From 1.0 on ArviZ has no quantiles of its own for the tail of an array.
    bulk, tail = arviz.ess(series.numpy()), arviz.ess(series.numpy(), method="tail", prob=TAILS)
    return float(arviz.rhat(halves.numpy())), float(np.minimum(bulk, tail))  # NaN if one is


def pareto_k(log_ratios: Tensor) -> float:
    """The shape k of a generalised Pareto distribution fitted to the largest of the ratios `(S,)`.

    The ratios are those of the posterior density to that of an approximation at draws from the latter, up
    to a factor. Below 0.5 they have a variance; above 0.7 the approximation misses some of the posterior.

    Source: Yao, Vehtari, Simpson & Gelman (2018), "Yes, but did it work?"; Vehtari et al. (2024), JMLR 25;
    the estimate of the shape is that of Zhang & Stephens (2009), with the prior of the former.
    """
    # Not ArviZ's `psislw`: it has infinite k for equal ratios, moved in 1.0, and takes 2 s to import.
    if float(log_ratios.max() - log_ratios.min()) < EXACT_RATIO_RANGE:
        return 0.0
    count = len(log_ratios)
    size = math.ceil(min(0.2 * count, 3 * math.sqrt(count)))
    ordered = (log_ratios - log_ratios.max()).sort().values
    cutoff = max(float(ordered[-size - 1]), math.log(torch.finfo(torch.float64).tiny))
    tail = ordered[ordered > cutoff].exp() - math.exp(cutoff)
    if len(tail) <= 4:
        return math.inf
    number = len(tail)
    grid = 30 + int(math.sqrt(number))
    quartile = tail[int(number / 4 + 0.5) - 1]
    points = 1 - (grid / (torch.arange(1, grid + 1, dtype=tail.dtype) - 0.5)).sqrt()
    points = points / (3 * quartile) + 1 / tail[-1]
    shapes = torch.log1p(-points[:, None] * tail).mean(1)
    profile = number * (torch.log(-points / shapes) - shapes - 1)
    estimate = float((profile.softmax(0) * points).sum())
    shape = float(torch.log1p(-estimate * tail).mean())
    return (number * shape + 10 * 0.5) / (number + 10)  # a weak prior at 0.5


def complaints(
    draws: Mapping[str, Tensor],
    stats: Mapping[str, Tensor],
    r_hat: Mapping[str, Tensor],
    ess: Mapping[str, Tensor],
) -> tuple[str, ...]:
    """The diagnostics that draws of Markov chains fail, in words."""
    found = []
    diverging = stats["diverging"]
    if broken := [name for name, values in draws.items() if not bool(torch.isfinite(values).all())]:
        found.append(f"draws of `{broken[0]}` are not finite")
    if count := int(diverging.sum()):
        found.append(
            f"{count} of {diverging.numel()} draws diverged, so that parts of the posterior were not "
            "reached: raise `target_accept`, or write the model in parameters that depend less on each other"
        )
    name, worst = _largest(r_hat)
    if not worst <= MOST_R_HAT:
        found.append(f"R-hat of `{name}` is {worst:.3f}, above {MOST_R_HAT}: the chains do not agree")
    name, worst = _largest({name: -value for name, value in ess.items()})
    least = LEAST_ESS * len(diverging)
    if not -worst >= least:
        found.append(f"`{name}` has {-worst:.0f} effective draws and needs {least}: raise `draws`")
    if bool(stats["reached_max_treedepth"].any()):
        count = int(stats["reached_max_treedepth"].sum())
        found.append(
            f"{count} trajectories reached the largest tree depth: successive draws are strongly correlated"
        )
    return tuple(found)


def _largest(values: Mapping[str, Tensor]) -> tuple[str, float]:
    sizes = {name: float(value.max()) for name, value in values.items() if value.numel()}
    name = max(sizes, key=lambda key: (math.isnan(sizes[key]), sizes[key]))
    return name, sizes[name]
