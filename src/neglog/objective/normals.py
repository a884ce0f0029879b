"""The Normal priors whose parameters are numbers, as precisions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.distributions.family import elementwise, location_of, scale_of
from neglog.likelihood.sites import Prior, Site
from neglog.likelihood.structure import ModelStructure
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


def normal_priors(objective: Objective) -> Normals:
    """The Normal priors of an objective whose parameters do not depend on others."""
    found = set()
    precision, slope = torch.zeros_like(objective.initial), torch.zeros_like(objective.initial)
    constant = 0.0
    for name, site in objective.sites.items():
        parts = _fixed_parts(objective.structure, site)
        if parts is None:
            continue
        found.add(name)
        loc, scale = (part.expand(site.shape).reshape(-1).to(slope) for part in parts)
        precision[site.place], slope[site.place] = scale**-2, loc * scale**-2
        constant += float((0.5 * (loc / scale).square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum())
    return Normals(frozenset(found), precision, slope, constant)


def _fixed_parts(structure: ModelStructure, site: Site) -> tuple[Tensor, Tensor] | None:
    """The mean and the standard deviation of a Normal prior; None of another, or if they are not fixed."""
    if site.prior is not Prior.NORMAL or site.scaled or not structure.is_fixed(site.name):
        return None
    fn = elementwise(site.fn)
    loc, scale = location_of(fn), scale_of(fn)
    if loc is None or scale is None or loc.requires_grad or scale.requires_grad:
        return None
    return loc, scale
