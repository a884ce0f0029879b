"""The Normal priors whose parameters are numbers, as precisions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.family import elementwise, family_of, location_of, scale_of
from neglog.objective.objective import Objective


@dataclass(frozen=True)
class Normals:
    """Independent Normal priors of some sites: their precisions `(K,)`, 0 where there is none.

    Minus their log-density at theta is ½ thetaᵀ (`precision` theta) - `slope`ᵀ theta + `constant`.
    """

    sites: frozenset[str]
    precision: Tensor
    slope: Tensor
    constant: float


@torch.enable_grad()
def normal_priors(objective: Objective) -> Normals:
    """The Normal priors of an objective whose parameters do not depend on others."""
    found = set()
    precision, slope = torch.zeros_like(objective.initial), torch.zeros_like(objective.initial)
    ran, constant = objective.sample.at(objective.initial.clone().requires_grad_()), 0.0
    for name, site in objective.sites.items():
        msg = ran.sites[name]
        fn = elementwise(msg["fn"])
        whole = msg["mask"] is None and bool((torch.as_tensor(msg["scale"]) == 1).all())
        parts = _fixed_parts(fn) if whole else None
        if parts is None:
            continue
        found.add(name)
        loc, scale = (part.expand(site.shape).reshape(-1).to(slope) for part in parts)
        precision[site.place], slope[site.place] = scale**-2, loc * scale**-2
        constant += float((0.5 * (loc / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum())
    return Normals(frozenset(found), precision, slope, constant)


def _fixed_parts(fn: Any) -> tuple[Tensor, Tensor] | None:
    """The mean and the standard deviation of a Normal law; None of another, or if parameters change them."""
    loc, scale = location_of(fn), scale_of(fn)
    if not family_of(fn).is_square or loc is None or scale is None:
        return None
    return None if loc.requires_grad or scale.requires_grad else (loc, scale)
