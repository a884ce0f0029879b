"""Interpolation: responses that coefficients fit in every row, however their priors shrink them."""

from __future__ import annotations

from neglog.errors import UnboundedLikelihoodError
from neglog.objective.objective import Objective
from neglog.objective.saturated import Spread, interpolating, is_level
from neglog.objective.spread import collapsed, is_spread_held

MAX_LOG_FALL_OF_ROW = 2.0
"""Fall of the logarithm of the spread with each further row of zeros above which its mode is refused."""


def check_prior_zeros(objective: Objective) -> None:
    """Refuse a response of zeros whose spread has priors on its logarithm that hardly hold it.

    Zeros have no size that a spread could be compared with. The mode of the log spread is then the product of
    the number of rows and a fall that the priors determine alone: a verdict on that depends on no number of
    rows. The prior Normal(0, 5) of a log-variance, e^-6 of the spread with each row, is far below any unit.

    Raises:
        UnboundedLikelihoodError: naming priors under which the spread stays above 0.
    """
    y = objective.data.y
    if (
        objective.layout.is_flat
        or not objective.structure.may_collapse
        or not objective.calls
        or bool(y[:64].any() or y.any())
    ):
        return
    spread = Spread(objective, objective.calls[0])
    if not spread.sites or not all(objective.sites[name].is_real for name in spread.sites):
        return
    if spread.log_fall_of_row > MAX_LOG_FALL_OF_ROW:
        raise UnboundedLikelihoodError(
            f"`{objective.name}` fits every row exactly: every `y` is 0, so its spread falls until the prior "
            f"of its logarithm holds it, by a factor of e^{spread.log_fall_of_row:.2g} with each row: the "
            "mode of the posterior has a spread below the rounding of `y`, which has no size. Give rows with "
            f"other responses, or {spread.advice()}."
        )


def check_level(objective: Objective) -> None:
    """Refuse equal responses, which the intercept of a location fits exactly, if no prior holds the spread.

    A solver would follow the spread down to the rounding of y: of a density with a corner, in thousands of
    steps.

    Raises:
        UnboundedLikelihoodError: naming the value.
    """
    low, high = objective.data.ends
    if low == high and is_level(objective) and not is_spread_held(objective, objective.initial):
        raise collapsed(objective, objective.initial, objective.data)


def check_interpolation(objective: Objective) -> None:
    """Refuse a location that fits every row exactly, where the priors of the spread do not outweigh that.

    The density of N rows at their location is proportional to scale⁻ᴺ, and priors of coefficients that are
    real numbers are positive at any values: the posterior has a maximum only if the prior of the scale
    vanishes faster at 0, and one within the range of float64 only if it does so soon.

    Raises:
        UnboundedLikelihoodError: naming the predictor, and priors under which there is a maximum.
    """
    call = None if objective.layout.is_flat else interpolating(objective)
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


def check_saturation(objective: Objective) -> None:
    """Refuse a location with as many coefficients as rows and flat priors, beside a scale that is free.

    Steps approach its limit, in which every row is fitted exactly, without end.

    Raises:
        UnboundedLikelihoodError: the likelihood has no maximum.
    """
    call = interpolating(objective)
    if call is not None and Spread(objective, call, every=True).sites:
        raise collapsed(objective, objective.initial, objective.data)
