"""Interpolation: designs whose coefficients fit every row exactly, however their priors shrink them."""

from __future__ import annotations

import torch

from neglog.distributions import Censored, Truncated
from neglog.errors import UnboundedLikelihoodError
from neglog.objective.objective import Objective
from neglog.tracing import Affine


def check_interpolation(objective: Objective) -> None:
    """Refuse a location that fits every row exactly, where the prior of the scale does not outweigh that.

    The density of N rows at their location is proportional to scale⁻ᴺ, and priors of coefficients that are
    real numbers are positive at any values: the posterior has a maximum only if the prior of the scale
    vanishes faster at 0. Of densities with a location and a scale, without bounds.

    Raises:
        UnboundedLikelihoodError: naming the scale, and priors under which there is a maximum.
    """
    call = _interpolating(objective)
    scale = None if call is None else objective.scale_site
    if call is None or scale is None or objective.is_held(objective.initial):
        return
    raise UnboundedLikelihoodError(
        f"`{objective.name}` fits every row exactly: `{call.name}` has as many coefficients as the data have "
        f"rows, {objective.rows}, or more. So its spread goes to 0, where the prior of `{scale}` does not "
        f"vanish fast enough, and the posterior has no maximum. Use {objective.scale_advice(scale)}, or a "
        f"known scale: pyro.condition(model, {{{scale!r}: torch.tensor(1.0)}}), or fewer columns."
    )


def _interpolating(objective: Objective) -> Affine | None:
    """The location of a density without bounds, where priors count and it takes any values in all rows."""
    if objective.priorless or not objective.exacting or issubclass(objective.family, Censored | Truncated):
        return None
    few = (call for call in objective.calls if objective.rows <= call.design.shape[-1] + 1)
    return next((call for call in few if _fits_every_row(objective, call)), None)


def _fits_every_row(objective: Objective, call: Affine) -> bool:
    """Whether a linear predictor is the location, and takes any values in all rows."""
    weight, bias = (objective.sites.get(f"{call.name}.{part}") for part in ("weight", "bias"))
    response = objective.structure.response
    if call.name != response.location or not response.is_plain or call.weight.dim() != 1:
        return False
    if weight is None or not weight.is_real or not (bias is None or bias.is_real):
        return False
    columns = call.design.detach()
    if bias is not None:
        columns = torch.cat([torch.ones_like(columns[:, :1]), columns], dim=1)
    return int(torch.linalg.matrix_rank(columns)) >= objective.rows
