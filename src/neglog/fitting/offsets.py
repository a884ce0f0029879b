"""Offsets: a response far from 0 is fitted without its offset, and the bias takes it up to the last digit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.observed import latent
from neglog.fitting.refinement import lack
from neglog.handlers import Model, is_real
from neglog.objective.blocks import OFFSET, Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.observation import moved, moved_prior
from neglog.predictors import RESPONSE
from neglog.tracing import Affine, Run, run

SAME_DENSITY = 1e-9
"""The relative difference of two log-densities that is rounding."""
LEVEL_ROWS = 10_000
"""The number of rows, evenly spaced, whose mean determines a bias."""


@dataclass(frozen=True)
class Offset:
    """A constant `value` of the response that the biases of one predictor take up: y - value ~ eta - value.

    It is `()`, or `(D,)` for a vector-valued response.
    """

    predictor: str
    value: Tensor
    whole: Objective
    """The objective of the response as it is."""

    @property
    def bias(self) -> str:
        """The site of the intercept."""
        return f"{self.predictor}.bias"

    def removed(self, start: Mapping[str, Any] | None) -> tuple[Objective, Mapping[str, Any] | None]:
        """The objective of the response without its offset, and `start` with the bias of that."""
        data, held_out = self.whole.data, self.whole.data.held_out
        if held_out is not None:
            held_out = replace(held_out, y=held_out.y - self.value, origin=self.value)
        data = replace(data, y=data.y - self.value, origin=self.value, held_out=held_out)
        if start is not None and self.bias in start:
            start = {**start, self.bias: torch.as_tensor(start[self.bias]) - self.value}
        bias = None if self.whole.sites[self.bias].masked else self.bias
        return Objective(_moved(self.whole, -self.value, bias), data, start), start

    def restored(self, coordinates: Coordinates) -> Coordinates:
        """The coordinates of the response as it is."""
        return Coordinates(self.whole, coordinates.blocks, coordinates.is_linear)

    def of(self, block: Block) -> float:
        """The offset that the bias of a block takes up."""
        if block.predictor != self.predictor:
            return 0.0
        return float(self.value if self.value.dim() == 0 else self.value[block.output or 0])


def offset_of(objective: Objective) -> Offset | None:
    """The offset of a response far from 0 in units of its range, where a free bias takes it up; else None.

    The subtraction of y - value is exact, and so is its fit. Whether the model is one of y - eta is read from
    the densities of all rows, moved by as much as they range. Bounds of the response move with it.
    """
    found = _middle(objective)
    if found is None:
        return None
    value, width = found
    free = (call for call in objective.calls if _is_free(objective, call, value))
    call = next((call for call in free if _is_of_differences(objective, call, value, width)), None)
    return None if call is None else Offset(call.name, value, objective)


def _middle(objective: Objective) -> tuple[Tensor, Tensor] | None:
    """The middle of a real response far from 0, and its width; None where there is no such response.

    The middle of a component that is not far from 0 counts as 0.
    """
    data, structure = objective.data, objective.structure
    if not structure.is_linear:
        return None
    y = data.y
    low, high = y.aminmax(dim=0) if not data.is_missing else _known_ends(y)
    middle = far_middle(low, high)
    return (middle, high - low) if bool(middle.any()) else None


def far_middle(low: Tensor, high: Tensor) -> Tensor:
    """The middle of responses from `low` to `high` that are far from 0 in units of their range; else 0."""
    middle, width = 0.5 * low + 0.5 * high, high - low
    far = (width > 0) & (width * OFFSET < middle.abs()) & torch.isfinite(middle)
    return torch.where(far, middle, 0.0)


def _known_ends(y: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest value of each component of a response with NaN."""
    absent = y.isnan()
    return torch.where(absent, torch.inf, y).amin(dim=0), torch.where(absent, -torch.inf, y).amax(dim=0)


def _moved(objective: Objective, by: Tensor, bias: str | None = None) -> Model:
    """The model with what is given in units of y, the bounds of y and a prior, moved `by` a constant."""
    is_moved = objective.structure.law.is_bounded or bias is not None
    return moved(objective.model, by, bias) if is_moved else objective.model


def _is_free(objective: Objective, call: Affine, value: Tensor) -> bool:
    """Whether biases are parameters on the whole real line, one for each component.

    Their prior is flat, or one whose location is next to the offset.
    """
    site, y = objective.sites.get(f"{call.name}.bias"), objective.data.y
    if y.dim() == 2 and (call.outputs is None or len(call.outputs) != y.shape[1]):
        return False
    if site is None or not site.is_real:
        return False
    if site.masked:
        return True
    prior = moved_prior(site.fn, -value)
    return prior is not None and bool((prior.mean.abs() * OFFSET <= value.abs()).all())


@torch.no_grad()
def _is_of_differences(objective: Objective, call: Affine, value: Tensor, far: Tensor) -> bool:
    """Whether the density of each row is that of y - eta: the same where both move by as much."""
    data = replace(objective.data, y=objective.data.y - value)
    outputs = () if call.outputs is None else (len(call.outputs),)
    params, eta = objective.layout.params(objective.initial), data.y.new_zeros((len(data.y), *outputs))
    still = run(_moved(objective, -value), data, Run(params, etas={call.name: eta}))
    if not is_real(latent(still.sites[RESPONSE]["fn"]).support):
        return False
    further = replace(data, y=data.y + far)
    after = run(_moved(objective, far - value), further, Run(params, etas={call.name: eta + far}))
    first, second = (at.log_prob(RESPONSE) for at in (still, after))
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
        added = 0.0 if offset is None else offset.of(block)
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
