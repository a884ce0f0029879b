"""Integrals over panels, halved until each is known to a relative accuracy in the smaller tail it is in."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from neglog.errors import ModelError

Rule = tuple[Tensor, Tensor]
Integrand = Callable[[Tensor], Tensor]

PANEL_TOLERANCE = 1e-12
"""Accuracy of the integral over each panel, relative to the mass from the panel outwards."""
MIN_MASS = 1e-280
"""Masses below this have lost digits to underflow, and need no accuracy."""
MAX_PANELS = 200_000
"""Number of panels above which an integrand is refused."""
MAX_HALVINGS = 60
"""Number of times that a panel is halved at most."""
LOG_NEGLIGIBLE = 37.0
"""Fall of a log-integrand, in nats, after which the rest is below rounding: exp(-37) < 1e-16."""


@lru_cache(maxsize=1)
def gauss_legendre() -> Rule:
    """Nodes and weights of Gauss's rule with 16 points on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(16)
    return torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)


@lru_cache(maxsize=1)
def tanh_sinh() -> Rule:
    """Nodes and weights of the double exponential rule on [0, 1] (Takahasi & Mori 1974).

    The trapezoidal rule in t, with x = (1 + tanh(½π sinh t)) / 2, on steps of 1/8.
    """
    t = torch.arange(-26, 27, dtype=torch.float64) / 8
    inner = 0.5 * math.pi * torch.sinh(t)
    return torch.sigmoid(2 * inner), math.pi / 32 * torch.cosh(t) / torch.cosh(inner) ** 2


def nodes_of(start: Tensor, end: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """The nodes and weights `(..., R)` of a rule on panels from `start` to `end` `(...)`."""
    nodes, weights = (part.to(start.device) for part in rule)
    width = (end - start).unsqueeze(-1)
    return start.unsqueeze(-1) + width * nodes, width * weights


def over_panels(integrand: Integrand, start: Tensor, end: Tensor, rule: Rule) -> Tensor:
    """The integrals `(...)` over panels from `start` to `end` `(...)`."""
    nodes, weights = nodes_of(start, end, rule)
    return (integrand(nodes) * weights).sum(-1)


@torch.no_grad()
def adaptive(integrand: Integrand, edges: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Panels that resolve a positive `integrand`, as edges `(M + 1,)`, and the integral over each `(M,)`.

    A panel is halved for as long as that changes its integral by more than `PANEL_TOLERANCE` of the mass
    from it to the nearer end, so both tails have relative accuracy. A corner takes some forty halvings.

    Raises:
        ModelError: the integrand swings faster than `MAX_PANELS` panels can follow.
    """
    start, end = edges[:-1], edges[1:]
    mass = over_panels(integrand, start, end, rule)
    unsure = torch.ones_like(mass, dtype=torch.bool)
    for _ in range(MAX_HALVINGS):
        a, b = start[unsure], end[unsure]
        middle = 0.5 * (a + b)
        halves = torch.stack(
            [over_panels(integrand, a, middle, rule), over_panels(integrand, middle, b, rule)]
        )
        change = (halves.sum(0) - mass[unsure]).abs()
        start = torch.cat([start[~unsure], a, middle])
        end = torch.cat([end[~unsure], middle, b])
        mass = torch.cat([mass[~unsure], halves[0], halves[1]])
        change = torch.cat([torch.zeros_like(mass[: len(mass) - 2 * len(a)]), change, change])
        order = torch.argsort(start)
        start, end, mass, change = start[order], end[order], mass[order], change[order]
        unsure = change > PANEL_TOLERANCE * torch.minimum(*tails(mass)) + MIN_MASS
        if not bool(unsure.any()):
            break
        if len(mass) > MAX_PANELS:
            raise ModelError("`rho` jumps, or oscillates too fast for numerical integration. Smooth it.")
    return torch.cat([start, end[-1:]]), mass


def tails(mass: Tensor) -> tuple[Tensor, Tensor]:
    """The masses `(M,)` of all panels up to each, and from each on, itself included."""
    return mass.cumsum(0), mass.flip(0).cumsum(0).flip(0)
