"""Prior units: responses in a unit that the priors of a model exclude."""

from __future__ import annotations

import math

from torch import Tensor

from neglog.errors import DataError
from neglog.objective.objective import Objective, sample_loss
from neglog.objective.units import ORDINARY, initial_in_units, places_of_units

UNRESOLVED = 1e14
"""The loss in nats a row that shows priors of another unit than that of `y`."""
LOSS_SHARE_WITHOUT_PRIORS = 1e-3
"""The share of such a loss that is left without the priors, where they are what makes it."""


def check_prior_units(objective: Objective) -> None:
    """Refuse a response in units that the priors exclude so far that float64 cannot resolve the posterior.

    Priors of order one beside a `y` of 1e30 make a loss of 1e40 nats a row, whose rounding hides the optimum.

    Raises:
        DataError: with the unit in which `y` is of order one.
    """
    data, places = objective.data, places_of_units(objective.structure, ())
    if objective.layout.is_flat or abs(data.log_size) <= ORDINARY:
        return
    held = sample_loss(objective, objective.initial)

    def unheld(theta: Tensor) -> float:
        return sample_loss(objective, theta, priors=False)

    free = unheld(initial_in_units(objective.initial, data, places, unheld))
    most = UNRESOLVED * objective.sample.data.count
    if held <= most or not free < LOSS_SHARE_WITHOUT_PRIORS * held:
        return
    order = f"1e{math.floor(data.log_size / math.log(10.0))}"
    raise DataError(
        f"`y` has values of order {order}, which are far outside the priors of `{objective.name}`: the "
        f"loss is {held / objective.sample.data.count:.0e} nats a row, and its rounding hides the "
        f"optimum. Fit it in another unit: pass y / {order}, or give priors in the unit of `y`, as by "
        "with_priors(model, priors_for(model, x, y))."
    )
