"""Joint modes: the joint density of latent sites need not have one if a prior depends on another site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pyro
import torch
from torch import Tensor

from neglog.errors import ModelError, UnboundedLikelihoodError
from neglog.likelihood.eager import Probe
from neglog.likelihood.hierarchy import Parents, centre, slopes
from neglog.likelihood.sites import Site
from neglog.objective.objective import Objective
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run
from neglog.wellformed import check_params

REACH = {torch.float64: (80.0, 160.0, 320.0), torch.float32: (10.0, 20.0, 40.0)}
"""Displacements of an unconstrained coordinate, such as log tau, at which a joint density is evaluated.

The square of the exponential of the largest is a normal floating-point number."""
RATE = 0.25
"""Growth of a log density, in nats per unit of an unconstrained coordinate, above which it has no maximum."""
MIN_SHRINKAGE = math.log(20.0)
"""Increase of the log prior of an effect, in nats, from which on a lower bound of its scale, such as that of
`tau + 1e-6`, is regarded as too small for the scale of effects."""
SHARE_OF_MOVE = 1e-2
"""Share of the largest component of a direction above which a site belongs to it."""
MODE_TOLERANCE = 1e-6
"""Gradient of a log prior, in nats per unit of an unconstrained coordinate, that may be rounding error."""


def check_joint_mode(objective: Objective) -> None:
    """Refuse a model whose joint density, or likelihood, has no mode in the parameters of a prior.

    The joint density of ``u ~ Normal(0, tau)`` grows as tau^-G where all G effects u are 0 and tau goes to 0,
    whatever the data. Where the priors are masked, nothing depends on tau.

    Raises:
        UnboundedLikelihoodError: the joint density grows without bound as the scale of a prior vanishes.
        ModelError: a parameter of a masked prior enters neither the likelihood nor another prior; the density
            depends on a `pyro.param`.

    Source: O'Hagan (1976), On posterior joint and marginal modes.
    """
    probe = _probed(objective)
    if probe is None:
        return
    if probe.ran.params:
        density = probe.ran.log_prob(RESPONSE).sum() + probe.ran.prior()
        check_params(objective.name, probe.ran.params, torch.stack([density, *_predicting(probe)]).sum())
    parents = probe.prior_parents
    if parents:
        _check_bounded(objective, probe, parents)
        _check_reached(objective, probe, parents)


def _probed(objective: Objective) -> Probe | None:
    """The probed model; None if it cannot be evaluated there."""
    try:
        return objective.structure.probe
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None


def _check_reached(objective: Objective, probe: Probe, parents: Parents) -> None:
    """Refuse sites that enter only masked priors."""
    entering = {name for child in _counted(objective, parents) for name in parents[child]}
    predicting = _predicting(probe)
    if predicting:
        entering |= set(slopes(torch.stack(predicting).sum(), probe.numbers))
    entering |= set(probe.constant_sites)
    for child, names in parents.items():
        for name in (name for name in names if name not in entering and objective.sites[name].masked):
            raise ModelError(
                f"`{objective.name}` has no maximum-likelihood estimate of {name!r}: it enters the prior of "
                f"{child!r} alone, which maximum likelihood leaves out. {_remedy(objective.sites[name])}"
            )


def _predicting(probe: Probe) -> list[Tensor]:
    """A scalar of each part of a predictor that depends on something."""
    parts = (part for call in probe.ran.affines for part in (call.design, call.weight, call.bias))
    return [part.sum() for part in parts if part.requires_grad]


def _counted(objective: Objective, parents: Parents) -> list[str]:
    """The sites with parents whose priors are not masked."""
    return [child for child in parents if not objective.sites[child].masked]


def _check_bounded(objective: Objective, probe: Probe, parents: Parents) -> None:
    """Refuse sites along which the joint density is unbounded, or bounded only by a bound of a scale."""
    children = _counted(objective, parents)
    for name in dict.fromkeys(name for child in children for name in parents[child]):
        total = torch.stack([parents[child][name] for child in children if name in parents[child]]).sum(0)
        child = next(child for child in children if name in parents[child])
        end = _border(objective, probe, name, total, children).format(repr(child))
        if end:
            raise _refusal(objective, name, child, f"whatever the data, its density is {end}")


def check_border(objective: Objective, direction: Tensor | None) -> None:
    """Refuse a density that is largest where a site on which a prior depends is at its boundary.

    Args:
        objective: the model and its data.
        direction: the direction `(K,)` of unconstrained parameters along which the density never falls.

    Raises:
        UnboundedLikelihoodError: the scale of effects is at a lower bound, such as that of `softplus(tau)`.
    """
    if direction is None or objective.layout.is_flat or _probed(objective) is None:
        return
    parents, least = objective.structure.probe.prior_parents, SHARE_OF_MOVE * float(direction.abs().max())
    for child in _counted(objective, parents):
        for name in parents[child]:
            site = objective.sites[name]
            if not site.is_real and float(direction[site.place].abs().max()) > least:
                end = "its density is largest where only a constant holds the scale of {} above 0,"
                raise _refusal(objective, name, child, end.format(repr(child)))


def _refusal(objective: Objective, name: str, child: str, density: str) -> UnboundedLikelihoodError:
    return UnboundedLikelihoodError(
        f"`{objective.name}` has no joint mode: {density} as {name!r}, on which the prior of {child!r} "
        f"depends, goes to its border. {_remedy(objective.sites[name])}"
    )


def _border(objective: Objective, probe: Probe, name: str, total: Tensor, children: Sequence[str]) -> str:
    """The limit of the joint density at the boundary to which its slope points; empty if it is no supremum.

    `total` is the slope of the log priors of the effects, the `children`, in the site. The text has a
    place for the name of an effect.
    """
    direction = torch.where(total.abs() > MODE_TOLERANCE, total.sign(), 0.0)
    if not bool(direction.any()):
        return ""
    heights = _heights(objective, probe, name, direction, children)
    if heights.grow:
        return "unbounded"
    if heights.collapse(float((total * direction).sum())):
        return "largest where only a constant holds the scale of {} above 0,"
    return ""


def _remedy(site: Site) -> str:
    known = "torch.tensor(1.0)" if not site.shape else f"torch.ones({tuple(site.shape)})"
    plain = site.shape == site.unconstrained and not site.is_real
    prior = (
        ", or give it a prior that vanishes at 0: "
        f"with_priors(model, {{{site.name!r}: dist.InverseGamma(2.0, 1.0)}})"
    )
    return (
        "Sample both with `posterior`; or, for `map_estimate`, fix it at a known value: "
        f"pyro.condition(model, {{{site.name!r}: {known}}}){prior if plain else ''}."
    )


@dataclass(frozen=True)
class Heights:
    """Log densities, in nats, at the start of a direction of a site and at the distances `REACH` along it.

    The effects, whose priors depend on the site, are at the location of their priors.

    Attributes:
        distances: the distances, the first of them 0.
        effects: the log prior of the effects.
        others: the log-likelihood, and the log prior of all other sites.
        size: the number of effects.
    """

    distances: tuple[float, ...]
    effects: tuple[float, ...]
    others: tuple[float, ...]
    size: int

    @property
    def grow(self) -> bool:
        """Whether the joint density grows without bound along the direction."""
        joint = tuple(map(sum, zip(self.effects, self.others, strict=True)))
        return all(math.isfinite(rate) and rate > RATE for rate in self._rates(joint))

    def collapse(self, rate: float) -> bool:
        """Whether the joint density is bounded only by a lower bound of the scale of the effects.

        Without it the log prior of the effects increases along the direction as at its start, by `rate` nats
        per unit, and that of the other sites decreases by less.
        """
        shrunk = (self.effects[1] - self.effects[0]) / self.size >= MIN_SHRINKAGE
        levels = all(abs(each) <= RATE for each in self._rates(self.effects))
        rises = [rate + each for each in self._rates(self.others)]
        return shrunk and levels and all(math.isfinite(rise) and rise > RATE for rise in rises)

    def _rates(self, heights: tuple[float, ...]) -> list[float]:
        """Rises in nats per unit, between the distances `REACH`."""
        spans = zip(pairwise(heights[1:]), pairwise(self.distances[1:]), strict=True)
        return [(high - low) / (far - near) for (low, high), (near, far) in spans]


def _heights(
    objective: Objective, probe: Probe, name: str, direction: Tensor, children: Sequence[str]
) -> Heights:
    """The log densities as a site moves along a direction; `children` are the sites of the effects."""
    distances = (0.0, *REACH.get(direction.dtype, REACH[torch.float32]))
    heights = []
    for distance in distances:
        numbers = {**probe.numbers, name: probe.numbers[name] + distance * direction}
        free = {other: number for other, number in numbers.items() if other not in children}
        values = {other: objective.sites[other].transform(number) for other, number in free.items()}
        heights.append(_height(objective, probe, values, children))
    effects, others = zip(*heights, strict=True)
    return Heights(distances, effects, others, sum(objective.sites[child].size for child in children))


def _height(
    objective: Objective, probe: Probe, values: Mapping[str, Tensor], children: Sequence[str]
) -> tuple[float, float]:
    """The log prior of the children, and the log density of all else; NaN where there is none."""
    try:
        with torch.no_grad(), pyro.validation_enabled(False):
            ran = run(objective.model, probe.data, Run(values, fill=centre))
            effects = sum(float(ran.log_prob(child).sum()) for child in children)
            return effects, float(ran.log_prob(RESPONSE).sum() + ran.prior(children))
    except (RuntimeError, ValueError):
        return math.nan, math.nan
