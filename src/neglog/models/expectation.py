"""Where mixtures of lines begin: a few steps of expectation maximisation from many random lines."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

RANDOM_STARTS = 40
"""Number of random starts. An optimum that a share p of them reaches is missed with probability (1 - p)⁴⁰."""
EM_STEPS = 25
"""Steps of expectation maximisation: enough to rank the starts, which Newton's method finishes."""
MIN_RELATIVE_SIGMA = 0.03
"""Smallest sigma of a component, relative to that of a single line: below, it is a spike on a few rows."""
SAME_LOG_LIKELIHOOD = 0.05
"""Difference of log-likelihoods, in nats, below which two mixtures are one optimum."""
MAX_EM_ROWS = 2_000
"""Of data with more rows than this, evenly spaced ones are used."""


@dataclass(frozen=True, eq=False)
class Lines:
    """S mixtures of K lines: coefficients `(S, K, 1 + P)`, sigma `(S, K)`, weight `(S, K)`; best first."""

    coefficients: Tensor
    sigma: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.sigma)


def mixtures_of_lines(columns: Tensor, y: Tensor, weights: Tensor, components: int) -> Lines:
    """The best of many mixtures that begin at lines through rows drawn at random, but always the same ones.

    Those with a component on too few rows, or too narrow, are left out, and of equal ones all but one.
    Source: Biernacki, Celeux & Govaert (2003), Choosing starting values for the EM algorithm.
    """
    some = torch.linspace(0, len(y) - 1, min(len(y), MAX_EM_ROWS)).round().long()
    columns, y, weights = columns[some], y[some], weights[some] / weights[some].mean()
    middle, level, y = columns.mean(0), y.mean(), y - y.mean()
    size = (columns - middle).square().mean(0).sqrt().clamp_min(1e-300)
    design = torch.cat([torch.ones_like(y)[:, None], (columns - middle) / size], 1)
    spread = _fitted(design, y, weights[None, None])[1][0, 0]
    found = _start(design, y, components, spread)
    for _ in range(EM_STEPS):
        found = _step(design, y, weights, found, MIN_RELATIVE_SIGMA * spread)
    shares, heights = _shares(design, y, found)
    values = heights @ weights
    enough = (shares * weights).sum(-1).amin(-1) > design.shape[1] + 1
    sound = enough & (found.sigma > 1.01 * MIN_RELATIVE_SIGMA * spread).all(-1) & values.isfinite()
    order = [i for i in values.argsort(descending=True).tolist() if bool(sound[i])]
    gaps = [math.inf, *(float(values[a] - values[b]) for a, b in itertools.pairwise(order))]
    kept = [i for i, gap in zip(order, gaps, strict=False) if gap > SAME_LOG_LIKELIHOOD]
    coefficients = found.coefficients[kept].clone()
    coefficients[..., 1:] /= size
    coefficients[..., 0] += level - coefficients[..., 1:] @ middle
    return _in_order(Lines(coefficients, found.sigma[kept], found.weight[kept]), middle)


def _in_order(lines: Lines, middle: Tensor) -> Lines:
    """The components by their height at the middle of the rows, the lowest first."""
    order = (lines.coefficients[..., 0] + lines.coefficients[..., 1:] @ middle).argsort(-1)
    coefficients = lines.coefficients.gather(1, order[..., None].expand(lines.coefficients.shape))
    return Lines(coefficients, lines.sigma.gather(1, order), lines.weight.gather(1, order))


def _start(design: Tensor, y: Tensor, components: int, spread: Tensor) -> Lines:
    """Each component on a line through as many rows as it has coefficients, and one more."""
    rows, width = design.shape
    shape = (RANDOM_STARTS, components, width + 1)
    chosen = torch.randint(rows, shape, generator=torch.Generator().manual_seed(0))
    each = torch.zeros((RANDOM_STARTS, components, rows), dtype=y.dtype).scatter_(-1, chosen, 1.0)
    coefficients, _ = _fitted(design, y, each)
    sigma = (spread / components).expand(RANDOM_STARTS, components)
    return Lines(coefficients, sigma, torch.full_like(sigma, 1 / components))


def _step(design: Tensor, y: Tensor, weights: Tensor, lines: Lines, least: Tensor) -> Lines:
    """Shares of the rows in the components, and with these a weighted least-squares fit of each."""
    shares = _shares(design, y, lines)[0] * weights
    coefficients, sigma = _fitted(design, y, shares)
    mass = shares.sum(-1)
    return Lines(coefficients, sigma.clamp_min(least), mass / mass.sum(-1, keepdim=True))


def _shares(design: Tensor, y: Tensor, lines: Lines) -> tuple[Tensor, Tensor]:
    """The share of each component in each row `(S, K, N)`, and the log-density of the rows `(S, N)`."""
    residuals = (y - lines.coefficients @ design.T) / lines.sigma[..., None]
    logs = (lines.weight / lines.sigma).log()[..., None] - 0.5 * residuals.square()
    heights = logs.logsumexp(1)
    return (logs - heights[:, None]).exp(), heights


def _fitted(design: Tensor, y: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Least squares under weights `(S, K, N)`: coefficients `(S, K, 1 + P)`, and sigma `(S, K)`."""
    squares = (design[:, :, None] * design[:, None, :]).flatten(1)
    mass = shares.sum(-1).clamp_min(1e-300)
    normal = (shares @ squares).unflatten(-1, (design.shape[1], design.shape[1]))
    # A ridge of rounding's size, for designs that a few rows do not determine.
    normal = normal + 1e-6 * mass[..., None, None] * torch.eye(design.shape[1], dtype=y.dtype)
    found = torch.linalg.solve_ex(normal, (shares @ (design * y[:, None]))[..., None])[0][..., 0]
    residuals = y - found @ design.T
    return found, ((shares * residuals.square()).sum(-1) / mass).sqrt()
