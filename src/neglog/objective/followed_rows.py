"""Followed rows: those that the mean fits exactly, as a spread with predictors falls there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.family import scale_of, scales_of
from neglog.distributions.observed import latent
from neglog.objective.blocks import Block, joined
from neglog.objective.objective import Objective

EXACT_FIT_SHARE = 1e-4
"""A row with a scale below this share of the largest is fitted exactly."""
OTHER_LEVERAGE = 1e-2
"""Largest leverage of other rows at a row that the mean fits exactly."""
NAMED = 5
"""The largest number of exactly fitted rows that a message names."""


def followed(objective: Objective, theta: Tensor, etas: Mapping[Block, Tensor]) -> str | None:
    """The rows that the mean fits exactly, as a reason; None where there are none, or where it is not known.

    Args:
        objective: the model and its data, whose predictors are linear.
        theta: the parameters `(K,)`.
        etas: the values of the blocks of the predictors there.
    """
    location = objective.structure.response.location
    designs = {block.predictor: block.basis.dense() for block in etas if block.basis}
    if len(designs) < 2 or len(objective.parts) > 1 or location not in designs:
        return None
    return _followed(objective, objective.response(theta, joined(etas)), designs[location])


def _followed(objective: Objective, response: Any, design: Tensor) -> str | None:
    """The rows that a mean with a `design` `(N, P)` fits exactly, as a reason; None if there are none.

    Their scale is close to 0, and with the weights 1 / scale² their leverage is 1: no other row with as small
    a scale determines the mean there.

    The scale of a component of a vector is its conditional standard deviation given the components before it.
    If the covariance has predictors, that of an exactly fitted row goes to 0 unless a prior outweighs it.
    """
    data, spread = objective.data, _spread_of_rows(response, objective.data.rows)
    if spread is None:
        return None
    share = spread / spread.amax(dim=0)
    if not bool((share <= EXACT_FIT_SHARE).any()):
        return None
    weighted = design / spread.mT[:, :, None]  # (D, N, P)
    leverage = torch.linalg.qr(weighted / weighted.abs().amax((1, 2), keepdim=True))[0].square().sum(-1).mT
    exact = (share <= EXACT_FIT_SHARE) & (leverage >= 1 - OTHER_LEVERAGE)
    rows = exact.any(dim=1).nonzero()[:, 0].tolist()
    if not rows:
        return None
    named = ", ".join(str(data.row(row)) for row in rows[:NAMED]) + ", ..." * (len(rows) > NAMED)
    end = (
        ""
        if objective.layout.is_flat
        else ", and falls until priors stop it, perhaps below what float64 resolves"
    )
    one = "one spread" if data.y.dim() == 1 else "one covariance"
    same = " for all rows, as `multivariate_gaussian` has" if data.y.dim() > 1 else " for all rows"
    return (
        f"the mean follows {len(rows)} of {data.rows} rows exactly (row {named}), so their spread has fallen "
        f"to {float(share.min()):.0e} of the largest one{end}. Use fewer columns or more rows, or {one}{same}"
    )


def _spread_of_rows(response: Any, rows: int) -> Tensor | None:
    """The scale of each component of each row `(N, D)`; None where it is the same in all rows."""
    response = latent(response)
    spread = scales_of(response) if len(response.event_shape) else scale_of(response)
    if not isinstance(spread, Tensor) or spread.dim() == 0 or len(spread) != rows:
        return None
    return spread if spread.dim() == 2 else spread[:, None]
