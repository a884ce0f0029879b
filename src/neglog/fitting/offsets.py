"""Offsets: a response far from 0 is fitted without its offset, and the bias takes it up to the last digit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.observed import latent
from neglog.fitting.refinement import lack
from neglog.objective.blocks import OFFSET, Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run

SAME_DENSITY = 1e-9
"""The relative difference of two log-densities that is rounding."""
LEVEL_ROWS = 10_000
"""The number of rows, evenly spaced, whose mean determines a bias."""


@dataclass(frozen=True)
class Offset:
    """A constant `value` of the response that the bias of one predictor takes up: y - value ~ eta - value."""

    predictor: str
    value: float
    whole: Objective
    """The objective of the response as it is."""

    @property
    def bias(self) -> str:
        """The site of the intercept."""
        return f"{self.predictor}.bias"

    def removed(self, start: Mapping[str, Any] | None) -> tuple[Objective, Mapping[str, Any] | None]:
        """The objective of the response without its offset, and `start` with the bias of that."""
        data = replace(self.whole.data, y=self.whole.data.y - self.value)
        if start is not None and self.bias in start:
            start = {**start, self.bias: torch.as_tensor(start[self.bias]) - self.value}
        return Objective(self.whole.model, data, start), start

    def restored(self, coordinates: Coordinates) -> Coordinates:
        """The coordinates of the response as it is."""
        return Coordinates(self.whole, coordinates.blocks, coordinates.is_linear)


def offset_of(objective: Objective) -> Offset | None:
    """The offset of a response far from 0 in units of its range, where a free bias takes it up; else None.

    The subtraction of y - value is exact, and so is its fit. Whether the model is one of y - eta is read from
    the densities of all rows, moved by as much as they range.
    """
    found = _middle(objective)
    if found is None:
        return None
    value, width = found
    names = (call.name for call in objective.calls if call.outputs is None)
    free = (name for name in names if _is_free(objective, f"{name}.bias"))
    name = next((name for name in free if _is_of_differences(objective, name, value, width)), None)
    return None if name is None else Offset(name, value, objective)


def _middle(objective: Objective) -> tuple[float, float] | None:
    """The middle of a real response far from 0, and its width; None where there is no such response."""
    y = objective.data.y
    if y.dim() != 1 or not objective.structure.may_collapse or not objective.structure.is_linear:
        return None
    low, high = (float(end) for end in y.aminmax())
    value, width = 0.5 * low + 0.5 * high, high - low
    return (value, width) if 0 < width * OFFSET < abs(value) < torch.inf else None


def _is_free(objective: Objective, bias: str) -> bool:
    """Whether a bias is a parameter on the whole real line with a flat prior."""
    site = objective.sites.get(bias)
    return site is not None and site.masked and site.is_real


@torch.no_grad()
def _is_of_differences(objective: Objective, name: str, value: float, far: float) -> bool:
    """Whether the density of each row is that of y - eta: the same where both move by as much."""
    data = replace(objective.data, y=objective.data.y - value)
    params, eta = objective.layout.params(objective.initial), torch.zeros_like(data.y)
    still = run(objective.model, data, Run(params, etas={name: eta}))
    response = still.sites[RESPONSE]["fn"]
    if latent(response) is not response or hasattr(response.support, "lower_bound"):
        return False
    moved = run(objective.model, replace(data, y=data.y + far), Run(params, etas={name: eta + far}))
    first, second = (at.log_prob(RESPONSE) for at in (still, moved))
    return bool(torch.isclose(first, second, rtol=SAME_DENSITY, atol=SAME_DENSITY).all())


def levelled(coordinates: Coordinates, theta: Tensor, z: Tensor, offset: Offset | None) -> Tensor:
    """`theta` `(K,)` with the biases for which the predictors are those at `z` on average, and the offset.

    A weight of a column far from 0 is rounded, and its product with the column moves by as much in all rows
    alike; so does the bias that is found from it. Differences in twice the digits tell by how much.
    """
    theta = theta.clone()
    objective = coordinates.objective
    if offset is not None and not coordinates.blocks:
        theta[objective.sites[offset.bias].place] += offset.value
    for block in coordinates.blocks:
        added = offset.value if offset is not None and offset.predictor == block.predictor else 0.0
        if block.is_far or added:
            theta[block.places[0]] += added
            theta[block.places[0]] += _missing(objective, block, theta, z, added)
    return theta


def _missing(objective: Objective, block: Block, theta: Tensor, z: Tensor, added: float) -> Tensor:
    """Mean difference between the predictor at `z` plus `added` and the predictor at `theta`."""
    call = next(call for call in objective.calls if call.name == block.predictor)
    rows = torch.arange(0, objective.rows, max(1, objective.rows // LEVEL_ROWS))
    design = call.design[rows] if len(block.places) > 1 else call.design[rows, :0]
    columns = torch.cat([design.new_ones((len(design), 1)), design], dim=1)
    eta = block.eta(z[block.places])[rows] - _fixed(block, rows)
    return lack(columns, eta, theta[block.places], torch.full_like(eta, -added)).mean()


def _fixed(block: Block, rows: Tensor) -> Tensor | float:
    return block.offset[rows] if isinstance(block.offset, Tensor) else block.offset
