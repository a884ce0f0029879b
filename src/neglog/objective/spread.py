"""Spreads: where a density has shrunk to the rounding of the rows that it follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neglog.data import Data
from neglog.distributions.observed import latent
from neglog.distributions.shapes import broadcast_shapes
from neglog.errors import UnboundedLikelihoodError


def may_be_exact(response: Any) -> bool:
    """Whether the density of a response can be as high as one likes."""
    response = latent(response)
    return not (response.support.is_discrete or response.event_shape)


def exact_rows(response: Any, y: Tensor, times: float = 1.0) -> Tensor:
    """Where the spread of the response is no more than some times the rounding of `y`, `(N,)` or `(S, N)`."""
    nowhere = torch.zeros((), dtype=torch.bool)
    if not may_be_exact(response):
        return nowhere
    response = latent(response)  # a spread that bounds hold up may still go to 0
    try:
        # A component of a mixture may follow its rows exactly while the others keep the whole wide.
        spread_at = getattr(response, "spread_at", None)
        spread = response.stddev if spread_at is None else spread_at(y)
    except NotImplementedError:  # a distribution of the user's own, without a variance
        return nowhere
    # A y that starts at 0 is as exact as its own row, as log y is; a real y as the largest of them.
    own = getattr(response.support, "lower_bound", None) == 0
    exact = spread <= torch.finfo(y.dtype).eps * 500 * times * (
        y.abs() if own else y.abs().amax(-1, keepdim=True)
    )
    return exact.expand(broadcast_shapes(exact.shape, y.shape))


def check_spread(response: Any, data: Data, name: str) -> None:
    """Refuse a distribution of the observations, of a model of this name, that follows some rows exactly.

    Raises:
        UnboundedLikelihoodError: naming the first of them.
    """
    y = data.y
    exact = exact_rows(response, y)
    if not bool(exact.any()):
        return
    row, count = int(exact.nonzero()[0]), int(exact.sum())
    which = "every row" if count == len(exact) else f"{count} of {len(exact)} rows"
    raise UnboundedLikelihoodError(
        f"`{name}` fits {which} exactly (row {data.row(row)}: y = {float(y[row]):g}), so its "
        "spread goes to 0 and the likelihood has no maximum. Use fewer columns or more rows, condition "
        "the scale at a known value, or use `map_estimate` with a prior that keeps the scale away from 0."
    )
