"""The layout of a model that can be fitted to many data sets at once; an error for every other model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neglog.batches.likelihoods import Columns, Likelihoods, Predictor
from neglog.batches.stack import Stack
from neglog.conversion import by_key
from neglog.distributions.observed import corner
from neglog.errors import DataError, ModelError
from neglog.handlers import Model
from neglog.likelihood.sites import Site, places_of
from neglog.likelihood.structure import Response
from neglog.objective.blocks import block_places, linear_blocks
from neglog.objective.objective import Objective
from neglog.offset import OFFSET_KEYWORD
from neglog.predictors import RESPONSE
from neglog.tracing import Affine


@dataclass(frozen=True)
class Kink:
    """A log-density -steepness |u| - tilt u with u = residual / scale: quantile regression.

    `scale` is the name of its site, or None if it is fixed.
    """

    steepness: float
    tilt: float
    scale: str | None

    @property
    def tau(self) -> float:
        """The level of the quantile."""
        return 0.5 * (1 + self.tilt / self.steepness)


@dataclass(frozen=True)
class Square:
    """A Normal of one predictor with one standard deviation: least squares.

    `scale` is the name of its site, or None if it is fixed.
    """

    scale: str | None


@dataclass(frozen=True)
class Layout:
    """A model that can be fitted in a batch, with its calls of `affine` on the first data set."""

    objective: Objective
    calls: tuple[Affine, ...]

    def parts(self, call: Affine) -> tuple[Site | None, Site | None]:
        """The sites of a predictor's bias and weight, where they are free."""
        return self.objective.structure.coefficients(call.name)

    def places(self, call: Affine) -> Tensor:
        """The indices of a predictor's free coefficients in theta, the bias first."""
        return block_places(*self.parts(call))

    @property
    def constants(self) -> list[Site]:
        """The sites that are not coefficients."""
        own = {site.name for call in self.calls for site in self.parts(call) if site is not None}
        return [site for name, site in self.objective.sites.items() if name not in own]

    @property
    def parameters(self) -> tuple[Response, list[str], list[str]]:
        """The structure of the response, the names of the predictors, and those of the constants."""
        names = [call.name for call in self.calls], [site.name for site in self.constants]
        return self.objective.structure.response, *names

    def initial(self, count: int) -> Tensor:
        """The initial values of the model, `(S, K)`."""
        return self.objective.initial.repeat(count, 1)


def lay_out(model: Model, stack: Stack) -> tuple[Layout, Kink | Square | None]:
    """The layout of a model, verified on the first and the last data set, and the kind of its density.

    The kind is None for densities that are fitted by Newton's method.

    Raises:
        ModelError: it cannot be fitted in a batch.
    """
    objective = single_objective(model, stack, 0)
    layout, shape = laid_out(objective, stack)
    if stack.shared_designs or stack.rows <= max(call.design.shape[1] for call in layout.calls):
        linear_blocks(objective, objective.initial)  # for its check of the rank
    return layout, shape


def laid_out(objective: Objective, stack: Stack) -> tuple[Layout, Kink | Square | None]:
    """`lay_out` from the objective of the first data set, without the check of the rank."""
    layout = Layout(objective, objective.calls)
    _check_plain(layout)
    last = 0 if stack.weights_alone else stack.count - 1
    others = [single_objective(objective.model, stack, last)] if last else []
    ends = in_theta(layout, stack.take(torch.tensor(sorted({0, last}))))
    density = _checked_density(layout, ends, [objective, *others])
    return layout, _kink(layout, density) or _square(layout)


def single_objective(model: Model, stack: Stack, s: int) -> Objective:
    """The objective of data set `s` alone, without its weights.

    Raises:
        DataError: y is outside the support of the model, with the number of the data set.
    """
    try:
        return Objective(model, stack.one(s))
    except DataError as error:
        raise DataError(f"data set {s}: {error}") from error


def _unfit(layout: Layout, why: str) -> ModelError:
    name = layout.objective.name
    return ModelError(f"`{name}` cannot be fitted to many data sets at once: {why}. Loop over `mle`.")


def _check_plain(layout: Layout) -> None:
    calls = layout.calls
    if not calls:
        raise _unfit(layout, "it has no linear predictor")
    if len({call.name for call in calls}) < len(calls):
        raise _unfit(layout, "it has two linear predictors of the same name")
    if any(call.weight.dim() != 1 or call.design.dim() != 2 for call in calls):
        raise _unfit(layout, "it has a vector-valued predictor")
    if any(site.begun for site in layout.objective.sites.values()):
        raise _unfit(layout, "its initial values depend on `y`")


def _near_initial(layout: Layout, count: int) -> Tensor:
    """Parameters `(S, K)` of S data sets, offset from the initial values so that no term is 0 by chance."""
    theta = layout.initial(count)
    theta += 0.1 * torch.cos(torch.arange(theta.numel(), dtype=theta.dtype)).reshape(theta.shape)
    for call in layout.calls:
        weight = layout.parts(call)[1]
        if weight is not None and weight.size:
            theta[:, weight.place] /= weight.size * (1 + call.design.abs().amax(0))
    return theta


def _checked_density(layout: Layout, ends: Likelihoods, alone: list[Objective]) -> Any:
    """The distribution of all responses, its log-density verified against that of single data sets."""
    theta = _near_initial(layout, len(alone))
    runs = [one.at(at) for one, at in zip(alone, theta, strict=True)]
    if any(len(at.sites[RESPONSE]["fn"].event_shape) for at in runs):
        raise _unfit(layout, "its response is a vector")
    expected = torch.stack([at.log_prob(RESPONSE) for at in runs])
    etas, params = ends.etas(theta), ends.params(theta)
    try:
        at = ends.at(etas, params)
        together = ends.density(at)
    except (RuntimeError, ValueError, IndexError) as error:
        raise _unfit(layout, f"it does not run for all of them together ({error})") from error
    counted = torch.ones(()).bool() if ends.stack.counted is None else ends.stack.counted
    wrong = counted & ~torch.isclose(together, expected, rtol=1e-9, equal_nan=True)
    if bool(wrong.any()):
        raise _unfit(
            layout, "its likelihood depends on more than linear predictors with fixed designs and constants"
        )
    return at.sites[RESPONSE]["fn"]


def _kink(layout: Layout, density: Any) -> Kink | None:
    """The kind of a nonsmooth density, or None for a smooth one.

    Raises:
        ModelError: its corner is not at a linear predictor, or its scale is not a constant.
    """
    at = corner(density)
    if at is None:
        return None
    response, predictors, constants = layout.parameters
    scale, known = response.scale, not constants and response.known_scale is not None
    u = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64).reshape(-1, 1, 1)
    tilts, steepness = torch.as_tensor(at.smooth(u) / u), torch.as_tensor(at.steepness)
    tilt = tilts.reshape(-1)[0]
    straight = (
        bool(((tilts - tilt).abs() < 1e-12).all()) and len(steepness.unique()) == 1 and not at.is_bounded
    )
    if not response.is_y:
        raise _unfit(
            layout, "it takes absolute values of a function of `y`; pass the values of that function as `y`"
        )
    if predictors != [response.location] or not (constants == [scale] or known) or not straight:
        raise _unfit(
            layout,
            "a density with absolute values may have one linear predictor and one scale, and no other "
            "parameter",
        )
    return Kink(float(steepness.reshape(-1)[0]), float(tilt), scale)


def _square(layout: Layout) -> Square | None:
    """The kind of a Normal around its only predictor with one standard deviation, or None."""
    response, predictors, constants = layout.parameters
    plain = response.is_plain and response.row_scale == 1
    if not response.law.is_square or not plain or predictors != [response.location]:
        return None
    if response.known_scale is not None and not constants:
        return Square(None)
    return Square(response.scale) if constants == [response.scale] else None


def _designs(layout: Layout, chunk: Stack) -> list[Tensor]:
    """The design of each predictor for the data sets of a chunk, `(N, P)` or `(S, N, P)`."""
    keys = {id(value): key for key, value in by_key(layout.objective.data.x).items()}
    given = by_key(chunk.x)
    return [
        given[keys[id(call.design)]] if id(call.design) in keys else _computed_design(layout, chunk, i)
        for i, call in enumerate(layout.calls)
    ]


def _computed_design(layout: Layout, chunk: Stack, i: int) -> Tensor:
    """The design of predictor `i`, which the model computes from its arguments."""
    design = layout.calls[i].design
    if chunk.shared_designs or design.shape[1] == 0:
        return design
    singles = [Objective(layout.objective.model, chunk.one(s)) for s in range(chunk.count)]
    return torch.stack([one.at(one.initial).affines[i].design for one in singles])


def _columns(layout: Layout, call: Affine, design: Tensor, chunk: Stack) -> Tensor:
    """The columns of a predictor's free coefficients; 0 in rows of weight 0 unless the design is shared."""
    bias, weight = layout.parts(call)
    ones = design.new_ones((*design.shape[:-1], 1 if bias is not None else 0))
    columns = torch.cat([ones, design], dim=-1) if weight is not None else ones
    if design.dim() == 2 or chunk.counted is None:
        return columns
    return torch.where(chunk.counted[..., None], columns, 0.0)


def _offset(layout: Layout, call: Affine, design: Tensor, chunk: Stack) -> Tensor | float:
    """The fixed part of a predictor: its offset, and coefficients that are conditioned on."""
    bias, weight = layout.parts(call)
    still = call.bias.detach() if bias is None else 0.0
    still = still if weight is not None else still + design @ call.weight.detach().to(design.dtype)
    return still if call.offset is None else still + chunk.keywords[OFFSET_KEYWORD]


def likelihoods_of(
    layout: Layout, chunk: Stack, predictors: list[Predictor], places: Mapping[str, Tensor], size: int
) -> Likelihoods:
    """The likelihoods of a chunk as functions of vectors of `size` numbers, some constants at `places`."""
    constants = tuple((site, places[site.name]) for site in layout.constants if site.name in places)
    objective = layout.objective
    still = objective.layout.params(objective.initial)
    return Likelihoods(objective.model, chunk, tuple(predictors), constants, still, size)


def in_theta(layout: Layout, chunk: Stack) -> Likelihoods:
    """The likelihoods as functions of theta `(S, K)` itself."""
    one, predictors = torch.ones(chunk.count, dtype=torch.float64), []
    for call, design in zip(layout.calls, _designs(layout, chunk), strict=True):
        columns, offset = _columns(layout, call, design, chunk), _offset(layout, call, design, chunk)
        predictors.append(Predictor(call.name, layout.places(call), Columns(columns), one, offset))
    places = {site.name: places_of([site]) for site in layout.constants}
    return likelihoods_of(layout, chunk, predictors, places, layout.objective.size)
