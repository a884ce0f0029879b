"""Interpolation: designs whose coefficients fit every row exactly, however their priors shrink them."""

from __future__ import annotations

from neglog.errors import UnboundedLikelihoodError
from neglog.objective.interpolation import Spread, interpolating
from neglog.objective.objective import Objective


def check_interpolation(objective: Objective) -> None:
    """Refuse a location that fits every row exactly, where the priors of the spread do not outweigh that.

    The density of N rows at their location is proportional to scale⁻ᴺ, and priors of coefficients that are
    real numbers are positive at any values: the posterior has a maximum only if the prior of the scale
    vanishes faster at 0, and one within the range of float64 only if it does so soon.

    Raises:
        UnboundedLikelihoodError: naming the predictor, and priors under which there is a maximum.
    """
    call = None if objective.priorless else interpolating(objective)
    spread = None if call is None else Spread(objective, call)
    if call is None or spread is None or not spread.sites or spread.is_held:
        return
    named = " and ".join(f"`{name}`" for name in spread.sites)
    raise UnboundedLikelihoodError(
        f"`{objective.name}` fits every row exactly: `{call.name}` has as many coefficients as the data have "
        f"rows, {objective.rows}, or more. So its spread goes to 0, where the prior of {named} does not "
        "vanish fast enough, and the posterior has no maximum within the range of float64. "
        f"Use fewer columns{spread.known()}, or {spread.advice()}."
    )
