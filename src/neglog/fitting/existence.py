"""Existence: whether a loss has a minimum where a solver stopped, or decreases towards a boundary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pyro.distributions.constraints import ordered_vector
from torch import Tensor
from torch.distributions import constraints

from neglog.distributions.observed import cancelling
from neglog.errors import UnboundedLikelihoodError
from neglog.fitting.flat_directions import DISTANCES, MAX_FALL, MIN_RISE, Neighbourhoods, level, nearer
from neglog.likelihood.sites import Site, prior_advice
from neglog.objective.coordinates import Coordinates
from neglog.objective.links import Links, Role
from neglog.objective.objective import Objective
from neglog.objective.saturated import Spread
from neglog.objective.spread import check_spread
from neglog.tracing import Affine

MIN_SHARE = 1e-2
"""Parameters whose component of a direction is below this share of the largest are not named."""
ROUNDED_SHARE = 1e-9
"""Components of a direction below this share of the largest, in units of noise, are its rounding."""
CERTAIN_INTERCEPT = 300.0
"""An intercept, in logarithms of rates or odds, at which counts and classes are certain to rounding."""
OVERFLOW_SPREAD = 1e50
"""A scale for a response of zeros, in units of a collapsed one, below which its derivatives may overflow."""
MAX_EXPONENT = 700.0
"""The largest size of a predictor with a logarithmic link whose exponential and its inverse are finite."""
Ends = tuple[str, str]
REAL: Ends = ("-∞", "+∞")
"""The ends of the real line."""


def check_covariance(coordinates: Coordinates) -> None:
    """Refuse a vector-valued response with a combination of components that the designs fit exactly.

    Its variance goes to 0, and the likelihood of a full covariance to infinity.

    Raises:
        UnboundedLikelihoodError: naming the components.
    """
    objective = coordinates.objective
    y = objective.data.y
    if y.dim() != 2 or not objective.structure.components:
        return
    found = (block.basis for block in coordinates.blocks if block.output is not None)
    basis = next(found, None)
    columns = torch.ones_like(y[:, :1]) if basis is None else basis.dense()
    reason, needless = _singular_covariance(y, columns, objective.data.responses)
    if reason:
        _refuse_singular(objective, reason, needless)


def _refuse_singular(objective: Objective, reason: str, needless: str) -> None:
    """Refuse a singular covariance, unless priors bound it away from singularity."""
    spread = Spread(objective, next(call for call in objective.calls if call.outputs is not None))
    if objective.layout.is_flat or not spread.is_held:
        raise UnboundedLikelihoodError(
            f"`{objective.name}` has no maximum: {reason}, so the covariance becomes singular. Leave "
            f"{needless} out, or {spread.advice()}."
        )


def _singular_covariance(y: Tensor, columns: Tensor, responses: tuple[str, ...]) -> tuple[str, str]:
    """The reason why the residuals of `y` `(N, D)` have a singular covariance, and what to leave out.

    Both are empty if it is regular.
    """
    if len(y) < y.shape[1] + columns.shape[1]:
        few = (
            f"{len(y)} rows are too few for {y.shape[1]} components and {columns.shape[1]} coefficients each"
        )
        return few, "a component or columns"
    spread, _ = torch.linalg.qr(columns)
    scaled = y / y.norm(dim=0).clamp_min(1e-300)
    _, values, right = torch.linalg.svd(scaled - spread @ (spread.T @ scaled), full_matrices=False)
    if values[-1] > 8 * torch.finfo(y.dtype).eps * len(y) ** 0.5:
        return "", ""
    names = responses or tuple(f"y[{d}]" for d in range(y.shape[1]))
    vector = right[-1].abs()
    involved = (vector > 1e-6 * vector.max()).nonzero()[:, 0].tolist()
    if len(involved) > 1:
        listed = ", ".join(names[each] for each in involved)
        return f"the components {listed} of `y` are linearly dependent given `x`", "one of them"
    (only,) = involved
    constant = bool((y[:, only] == y[0, only]).all())
    what = f"{float(y[0, only]):g} in every row" if constant else "a linear function of the columns of `x`"
    return f"the component {names[only]} of `y` is {what}", "it"


def check_certain(objective: Objective) -> None:
    """Refuse counts or classes that are all equal, if an intercept can make their probability 1.

    The probability of each row then goes to 1, which no finite intercept attains.

    Raises:
        UnboundedLikelihoodError: naming the value and the intercept.
    """
    y = objective.data.y
    if objective.structure.may_collapse or y.dim() != 1 or not _is_constant(y):
        return
    for call in objective.calls:
        site = objective.sites.get(f"{call.name}.bias")
        if site is None or not site.masked:
            continue
        for shift in (-CERTAIN_INTERCEPT, CERTAIN_INTERCEPT):
            theta = objective.initial.clone()
            theta[site.place] = shift
            with torch.no_grad():
                nll = float(objective.trial(theta)[0])
            if nll <= MIN_RISE:
                raise UnboundedLikelihoodError(
                    f"`{objective.name}` has no maximum: every `y` is {float(y[0]):g}, so the likelihood "
                    f"keeps rising as `{call.name}` of Intercept → {REAL[shift > 0]}. The coefficients "
                    f"cannot be estimated without a second value of `y`; {_advice_for_certain(objective)}."
                )


def _advice_for_certain(objective: Objective) -> str:
    """Advice of proper priors; those of constants such as a dispersion are 0 at the boundary."""
    constants = " and ".join(f"`{site}`" for site in objective.structure.probe.constant_sites)
    if not constants:
        return prior_advice(objective.layout)
    return (
        f"use `map_estimate`, with priors by `with_priors` for {constants} whose density is 0 at borders, "
        "such as LogNormal(0, 1) of a dispersion and Beta(2, 2) of a probability"
    )


def check_classes(objective: Objective) -> None:
    """Refuse classes without rows, if intercepts or cutpoints can make their probability 0.

    The probability of such a class then goes to 0, which no finite intercept or cutpoint attains.

    Raises:
        UnboundedLikelihoodError: naming the classes, and which way the intercepts or cutpoints run.
    """
    y = objective.data.y
    if objective.structure.law.classes is None or y.dim() != 1:
        return
    found = torch.bincount(y.long(), minlength=objective.structure.support.upper_bound + 1)
    if bool(found.all()):
        return
    empty, present = (found == 0).nonzero()[:, 0].tolist(), found.nonzero()[:, 0].tolist()
    steps = (
        _cuts(objective, empty)
        if objective.structure.law.classes == "cutpoints"
        else _logits(objective, empty)
    )
    if not steps:
        return
    only = f"every `y` is {present[0]}" if len(present) == 1 else f"no `y` is {' or '.join(map(str, empty))}"
    raise UnboundedLikelihoodError(
        f"`{objective.name}` has no maximum: {only}, so the likelihood never falls as {' and '.join(steps)}, "
        "where the probability of a class without rows goes to 0. Number the classes that `y` has without "
        f"gaps, or {prior_advice(objective.layout)}."
    )


def _logits(objective: Objective, empty: list[int]) -> list[str]:
    """The limits of the intercepts of classes without rows; none if the intercepts have priors."""
    call = next((call for call in objective.calls if _has_flat_intercepts(objective, call)), None)
    if call is None or call.outputs is None:
        return []
    names = dict(zip(call.outputs, call.output_names(objective.data), strict=True))
    # Without rows of the baseline the intercepts of all classes with rows rise.
    is_baseline = 0 not in names and 0 in empty
    end = REAL[is_baseline]
    return [f"`{name}` of Intercept → {end}" for k, name in names.items() if (k in empty) != is_baseline]


def _has_flat_intercepts(objective: Objective, call: Affine) -> bool:
    """Whether a predictor with many outputs has intercepts without priors."""
    site = objective.sites.get(f"{call.name}.bias")
    return site is not None and site.masked and call.outputs is not None


def _cuts(objective: Objective, empty: list[int]) -> list[str]:
    """The limits of the cutpoints beside classes without rows; none if the cutpoints have priors."""
    for site in objective.sites.values():
        if site.masked and site.support is ordered_vector:
            last = site.size
            ends = {0: f"`{site.name}[0]` → -∞", last: f"`{site.name}[{last - 1}]` → +∞"}
            return [ends.get(k, f"the distance of `{site.name}[{k}]` from the one below → 0") for k in empty]
    return []


def check_values(objective: Objective) -> None:
    """Refuse a mixture whose components can each fit one of the few values of `y` exactly.

    Raises:
        UnboundedLikelihoodError: naming the values.
    """
    if not (objective.structure.law.is_mixture and objective.layout.is_flat):
        return
    values = objective.data.y.unique()
    if len(values) > objective.structure.components or not _has_free_scale(objective):
        return
    shown = " or ".join(f"{value:g}" for value in values.tolist())
    raise UnboundedLikelihoodError(
        f"`{objective.name}` has no maximum: every `y` is {shown}, and components that fit every row exactly "
        "have spreads that go to 0. Model `y` as counts or classes, or "
        f"{Spread(objective, objective.calls[0]).advice()}."
    )


def _has_free_scale(objective: Objective) -> bool:
    """Whether a constant or a predictor is the scale of a response, and none is held at a known value."""
    links = Links(objective)
    roles = (links.of(name).role for name in links.etas)
    return any(map(links.is_scale, objective.sites)) or any(role is Role.LOG_SCALE for role in roles)


def check_zeros(objective: Objective, theta: Tensor) -> None:
    """Refuse a response of zeros whose scale was close to 0 where a solver ended without an optimum.

    Zeros have no rounding error at which a scale counts as collapsed: its derivatives overflow before.

    Raises:
        UnboundedLikelihoodError: the spread goes to 0.
    """
    few = objective.few
    if objective.structure.may_collapse and not bool(objective.data.y.any()):
        check_spread(objective, theta, few.response(theta), few.data, OVERFLOW_SPREAD)


def _is_constant(y: Tensor) -> bool:
    """Whether all responses are equal; for very many rows the first few are compared first."""
    return bool((y[:64] == y[0]).all()) and bool((y == y[0]).all())


@dataclass(frozen=True)
class Recession:
    """A direction of recession, along which a loss never increases, with the parameters that change."""

    coefficients: tuple[str, ...]
    constants: tuple[str, ...]
    both: bool
    """Whether the loss is constant in the opposite direction too: the parameters are not identified."""
    direction: Tensor | None = None
    """The direction in the coordinates of the solver, `(K,)`."""
    unconstrained: Tensor | None = None
    """The direction in the unconstrained parameters, `(K,)`."""

    def __str__(self) -> str:
        return " and ".join(self.coefficients + self.constants)


def recession(coordinates: Coordinates, z: Tensor, hessian: Tensor | None = None) -> Recession | None:
    """The direction from `z` `(K,)` along which the loss never increases; None if it is curved in all.

    Separated classes, counts that are all 0 and a dispersion of 0 have their supremum at infinity. A solver
    stops all the same when the remaining decrease is below rounding. `hessian` is the one next to z, if
    known.
    """
    z, average = _closer(coordinates, z, hessian)
    if average is None or not bool(torch.isfinite(average).all()):
        return None
    value, coarse = coordinates.value(z), coordinates.objective.structure.may_collapse
    ends = Neighbourhoods(_Alone(coordinates), z[None], z.new_tensor([value]), average[None], coarse)
    if not bool(ends.flat.any()):
        return None
    gradient = coordinates.value_and_gradient(z)[1]
    found: Recession | None = None
    places = torch.cat([torch.arange(0), *(block.places for block in coordinates.blocks)])
    for (way,) in ends.ways(_intercepts(coordinates, z), places):
        for direction in _level_directions(ends, way, gradient):
            both = _is_level_everywhere(coordinates, z, value, way)
            rounded = direction.abs() <= ROUNDED_SHARE * direction.abs().amax()
            exact = torch.where(rounded, 0.0, direction)
            there = named(coordinates, coordinates.directions(exact[:, None])[:, 0], both)
            there = replace(there, direction=direction)
            if there.coefficients:
                return there
            found = found or there  # separated classes are found even if a constant is at its boundary
    return found


def _closer(coordinates: Coordinates, z: Tensor, hessian: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A point as by `nearer`, and the Hessian there divided by the number of rows.

    The second is None where the solver was stopped on a slope, far above the infimum.
    """
    end = coordinates.value(z)
    (z,), (near,), (moved,) = nearer(_Alone(coordinates), z[None], z.new_tensor([end]))
    if float(near) < end - MAX_FALL:
        return z, None
    return z, (coordinates.hessian(z) if hessian is None or moved else hessian) / coordinates.rows


def _level_directions(ends: Neighbourhoods, way: Tensor, gradient: Tensor) -> Iterator[Tensor]:
    """`way` and its opposite, the descent direction first, if the loss does not increase along them."""
    slope = float(gradient @ way)
    # If the slope is below rounding, the descent direction is away from the initial point.
    downhill = math.copysign(1.0, -slope if abs(slope) > MIN_RISE else float(ends.z[0] @ way))
    for direction in (downhill * way, -downhill * way) if bool(way.any()) else ():
        if len(ends.along(direction[None], torch.arange(1))):
            yield direction


def _is_level_everywhere(coordinates: Coordinates, z: Tensor, value: float, way: Tensor) -> bool:
    """Whether the loss is constant along a direction both ways, at `z` and at the initial point.

    For separated rows it is so near `z` only.
    """
    reach = (*DISTANCES, 2 * float((z @ way).abs()))  # as far as where the solver came from, and beyond
    origin = coordinates.z(coordinates.objective.initial)
    there = coordinates.value(origin)
    return all(
        _is_level(coordinates, at, level, sign * way, reach)
        for at, level in ((z, value), (origin, there))
        for sign in (1.0, -1.0)
    )


def _is_level(
    coordinates: Coordinates, z: Tensor, value: float, direction: Tensor, distances: Sequence[float]
) -> bool:
    """Whether the loss neither increases along a direction nor decreases by much; see `level`."""
    least, way = torch.tensor([value], dtype=torch.float64), direction[None]
    return len(level(_Alone(coordinates), z[None], least, way, torch.arange(1), distances)) > 0


class _Alone:
    """One problem as `Losses`."""

    def __init__(self, coordinates: Coordinates) -> None:
        self.coordinates = coordinates
        self.rows = torch.tensor([coordinates.rows], dtype=torch.float64)

    def take(self, index: Tensor) -> _Alone:
        return self

    def values(self, z: Tensor) -> Tensor:
        return torch.tensor([self._value(each) for each in z], dtype=torch.float64)

    def terms(self, z: Tensor) -> Tensor:
        objective = self.coordinates.objective
        if not objective.structure.law.is_bounded:
            return torch.zeros(len(z), dtype=torch.float64)
        data, found = objective.data, []
        for each in z:
            sizes = cancelling(objective.response(self.coordinates.theta(each)), data.y)
            found.append(sizes.sum() if data.weights is None else data.weights @ sizes)
        return torch.stack(found)

    def _value(self, z: Tensor) -> float:
        """The loss; infinite where the exponential of a predictor of a density is beyond float64.

        Probabilities of counts and classes are 0 or 1 there, to all digits.
        """
        structure = self.coordinates.objective.structure
        etas = self.coordinates.etas(z).items() if structure.may_collapse else ()
        linked = (eta for block, eta in etas if block.predictor != structure.response.location)
        if any(bool((eta.abs() > MAX_EXPONENT).any()) for eta in linked):
            return math.inf
        return self.coordinates.value(z)


def _intercepts(coordinates: Coordinates, z: Tensor) -> list[Tensor]:
    """The directions `(1, K)` of the intercepts alone, which suffice if responses are all equal."""
    found = []
    for block in coordinates.blocks:
        bias = coordinates.objective.sites.get(f"{block.predictor}.bias")
        if bias is not None and bias.is_real and block.output is None:
            direction = torch.zeros_like(z)
            direction[block.places] = block.triangle[:, 0] / block.triangle[:, 0].norm()
            found.append(direction[None])
    return found


def named(coordinates: Coordinates, direction: Tensor, both: bool) -> Recession:
    """The coefficients and constants that a direction changes, by their effect on the predictors."""
    objective = coordinates.objective
    coefficients: dict[str, float] = {}
    constants: dict[str, float] = {}
    calls = {f"{call.name}.{part}": call for call in objective.calls for part in ("weight", "bias")}
    for name, site in objective.sites.items():
        moves = direction[site.place]
        if name in calls and site.is_real:  # one between the bounds of its prior has a border there
            coefficients |= _coefficients(objective, calls[name], name, moves)
        else:
            constants |= _arrows(*_constants(site), moves)
    least = MIN_SHARE * max(map(abs, [*coefficients.values(), *constants.values()]))
    return Recession(_above(coefficients, least), _above(constants, least), both, unconstrained=direction)


def _above(moves: Mapping[str, float], least: float) -> tuple[str, ...]:
    """The labels of the moves that are larger than the `least`."""
    return tuple(label for label, move in moves.items() if abs(move) > least)


def _coefficients(objective: Objective, call: Affine, name: str, moves: Tensor) -> dict[str, float]:
    """The coefficients of a site of a predictor, by their effect on the predictor of an average row."""
    columns, sizes = ["Intercept"], torch.ones(1)
    if name == f"{call.name}.weight":
        columns, sizes = call.column_names(objective.data), call.design.square().mean(dim=0).sqrt()
    outputs = call.output_names(objective.data)
    labels = [f"`{output}` of {column}" for output in outputs for column in columns]
    return _arrows(labels, [REAL] * len(labels), (moves.reshape(len(outputs), -1) * sizes).reshape(-1))


def _constants(site: Site) -> tuple[list[str], list[Ends]]:
    """The labels of the unconstrained values of a site, and the limits at both ends of each."""
    support = site.support
    names = [f"`{site.name}[{i}]`" for i in range(site.size)] if site.size > 1 else [f"`{site.name}`"]
    if support is ordered_vector:  # all but the first are logs of the distance to the one before
        steps = [f"the distance of {name} from the one below" for name in names[1:]]
        return names[:1] + steps, [REAL] + [("0", "+∞")] * len(steps)
    low, high = getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)
    ends = (0.0, 1.0) if support is constraints.simplex else (float(low), float(high))
    return names, [(_end(ends[0]), _end(ends[1]))] * site.size


def _end(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else REAL[value > 0]


def _arrows(labels: list[str], ends: list[Ends], moves: Tensor) -> dict[str, float]:
    """Label with its limit -> the component of the direction."""
    return {
        f"{label} → {to[move > 0]}": move
        for label, to, move in zip(labels, ends, moves.tolist(), strict=True)
    }
