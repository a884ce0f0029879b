"""Medians: the null model of least absolute deviations and quantiles, whose optimum is a quantile of y."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.kinks import Corner, corner
from neglog.objective.objective import Objective
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run

TIGHT = 1e-8
"""A mean loss below this share of the largest response is left to the solvers to judge."""


def slopes(at: Corner, dtype: torch.dtype) -> tuple[float, float] | None:
    """Steepness and tilt of a density exp(-steepness |u| - tilt u), if it is one, in all rows alike."""
    u = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=dtype)
    tilts, steepness = torch.as_tensor(at.smooth(u[:, None])) / u[:, None], torch.as_tensor(at.steepness)
    same = bool(((tilts - tilts.reshape(-1)[0]).abs() < 1e-12).all()) and len(steepness.unique()) == 1
    steep, tilt = float(steepness.reshape(-1)[0]), float(tilts.reshape(-1)[0])
    return (steep, tilt) if same and steep > abs(tilt) else None


def masses(msg: dict[str, Any], eta: Tensor) -> Any:
    """What each row counts for, `(N,)`; None where some row counts for nothing."""
    scale = torch.as_tensor(msg["scale"], dtype=eta.dtype)
    known = msg["mask"] is None or bool(torch.as_tensor(msg["mask"]).all())
    if not known or msg["fn"].event_shape or not bool((scale > 0).all()):
        return None
    return np.ascontiguousarray(scale.expand(eta.shape).numpy())


def null_median(objective: Objective, theta: Tensor, free: Collection[str]) -> Tensor | None:
    """`theta` `(K,)` with the sites `free`, the bias and the scale of one quantile, where they are best.

    None where these are not all that is free, the density is another, or priors or columns count. Of many
    rows a sample says it.
    """
    few = objective.sample
    if objective.corner is None or len(objective.calls) != 1 or few.data.y.dim() != 1:
        return None
    (call,) = objective.calls
    params = objective.params(theta)
    if call.outputs is not None or bool(params.get(f"{call.name}.weight", call.weight).any()):
        return None
    if not all(objective.sites[name].masked for name in free):
        return None
    eta = torch.zeros_like(few.data.y)
    cut = run(few.weighted, few.data, Run(params, etas={call.name: eta}))
    at = corner(cut.sites[RESPONSE]["fn"])
    if at is None or at.bounds or at.loc.data_ptr() != eta.data_ptr() or any(at.scale.stride()):
        return None
    names = [name for name in free if name != f"{call.name}.bias"]
    if len(names) == len(free) or len(names) > 1:
        return None
    if names and at.scale.data_ptr() != params[names[0]].data_ptr():
        return None
    found, weights = slopes(at, eta.dtype), masses(cut.sites[RESPONSE], eta)
    if found is None or weights is None:
        return None
    steepness, tilt = found
    y, tau = cut.sites[RESPONSE]["value"].numpy(), 0.5 * (1 + tilt / steepness)
    order = np.argsort(y)
    sums = np.cumsum(weights[order])
    bias = y[order[min(int(np.searchsorted(sums, tau * sums[-1])), len(y) - 1)]]
    loss = 2 * steepness * float(weights @ ((y - bias) * (tau - (y < bias)))) / sums[-1]
    if not loss > TIGHT * float(np.abs(y).max()):
        return None
    theta = theta.clone()
    for name, value in {f"{call.name}.bias": bias, **dict.fromkeys(names, loss)}.items():
        site = objective.sites[name]
        theta[site.place] = site.transform.inv(torch.tensor(value, dtype=theta.dtype)).reshape(-1)
    return theta
