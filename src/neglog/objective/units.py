"""Units: initial values in the unit of a response that is very large or very small."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

from torch import Tensor

from neglog.data import Data
from neglog.likelihood.structure import ModelStructure

ORDINARY = 10.0 * math.log(10.0)
"""The largest logarithm of the size of `y`, either way, at which initial values of order one are kept."""
MULTIPLES = (-3, -2, -1, 1, 2, 3)
"""The powers of the unit of `y` that a constant may be of: a log variance is of the second."""
MOVES = 6
"""The largest number of constants that are moved, one after the other."""
MIN_FALL = 1.0
"""The smallest fall of the loss, in nats, for which an initial value is moved."""


def initial_in_units(
    theta: Tensor,
    data: Data,
    places: Sequence[slice],
    loss: Callable[[Tensor], float],
) -> Tensor:
    """`theta` `(K,)` with the biases and constants at `places` in the unit of `y`.

    Scales, dispersions and log links are logarithms in `theta`, so another unit of `y` moves them by
    multiples of its log. Newton's method moves a logarithm by about one a step, and derivatives at a value
    of order one overflow beside a `y` of 1e100. The move that lowers the loss most is made first.
    """
    if not places:
        return theta
    size = data.log_size
    least = loss(theta)
    for _ in range(MOVES):
        moved = [_moved(theta, place, m * size) for place in places for m in MULTIPLES]
        losses = [loss(there) for there in moved]
        if not min(losses) < least - MIN_FALL:
            break
        least = min(losses)
        theta = moved[losses.index(least)]
    return theta


def places_of_units(structure: ModelStructure, given: Collection[str]) -> list[slice]:
    """The places of the sites that are no weights and have no initial values of their own or `given`."""
    without = {f"{call.name}.weight" for call in structure.calls} | set(given)
    sites = (site for name, site in structure.sites.items() if name not in without)
    return [site.place for site in sites if not (site.started or site.begun)]


def _moved(theta: Tensor, place: slice, by: float) -> Tensor:
    theta = theta.clone()
    theta[place] += by
    return theta
