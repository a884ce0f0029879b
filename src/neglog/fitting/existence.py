"""Existence: whether a loss has a minimum where a solver stopped, or falls for ever towards a border."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pyro.distributions.constraints import ordered_vector
from torch import Tensor
from torch.distributions import constraints

from neglog.errors import UnboundedLikelihoodError
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Site

FLAT = 1e-5
"""A curvature a row below this, in units of that at the start, is looked at."""
FAR = (1.0, 4.0, 16.0, 64.0)
"""How far to look along a flat direction, in units of the noise of a row."""
FALL = 1.0
"""A fall of the loss in nats that shows a slope, where a solver has not arrived."""
RISE = 1e-7
"""A rise of the loss in nats that shows a minimum."""
STRAIGHT = 1e9
"""The longest way along a flat direction: beyond it the rounding of the direction moves what is not flat."""
Ends = tuple[str, str]
REAL: Ends = ("-∞", "+∞")
"""The ends of the real line."""


def check_covariance(coordinates: Coordinates) -> None:
    """Refuse a vector-valued response with a combination of components that the designs follow exactly.

    Its variance goes to 0, and the likelihood of a full covariance to infinity.

    Raises:
        UnboundedLikelihoodError: naming the components.
    """
    objective = coordinates.objective
    y = objective.data.y
    if y.dim() != 2 or not hasattr(objective.response(objective.initial), "covariance_matrix"):
        return
    found = (block.basis for block in coordinates.blocks if block.output is not None)
    basis = next(found, None)
    columns = torch.ones_like(y[:, :1]) if basis is None else basis.dense()
    spread, _ = torch.linalg.qr(columns)
    sizes = y.norm(dim=0).clamp_min(1e-300)
    residual = y / sizes - spread @ (spread.T @ (y / sizes))
    _, values, right = torch.linalg.svd(residual, full_matrices=False)
    short = len(y) < y.shape[1] + columns.shape[1]
    if not short and values[-1] > 8 * torch.finfo(y.dtype).eps * len(y) ** 0.5:
        return
    names = objective.data.responses or tuple(f"y[{d}]" for d in range(y.shape[1]))
    vector = right[-1].abs()
    involved = [name for name, part in zip(names, vector.tolist(), strict=True) if part > 1e-6 * vector.max()]
    raise UnboundedLikelihoodError(
        f"`{objective.name}` has no maximum: "
        + (
            f"{len(y)} rows are too few for {y.shape[1]} components and {columns.shape[1]} coefficients each"
            if short
            else f"the components {', '.join(involved)} of `y` are linearly dependent given `x`"
        )
        + ", so their covariance becomes singular. Leave a component out, or model what it says by itself."
    )


@dataclass(frozen=True)
class Recession:
    """A direction along which a loss never rises: what runs away, and which way."""

    coefficients: tuple[str, ...]
    constants: tuple[str, ...]
    both: bool
    """Whether the loss is level the other way too: the parameters are not identified."""

    def __str__(self) -> str:
        return " and ".join(self.coefficients + self.constants)


def recession(coordinates: Coordinates, z: Tensor, hessian: Tensor | None = None) -> Recession | None:
    """What runs away from `z` `(K,)` without making the loss rise; None if the curvature holds everything.

    Separated classes, counts that are all 0 and a dispersion of 0 have their supremum at infinity. A solver
    stops there all the same, where the rest of the fall is lost in rounding. `hessian` is the one next to z,
    where it is known.
    """
    hessian = (coordinates.hessian(z) if hessian is None else hessian) / coordinates.rows
    if not bool(torch.isfinite(hessian).all()):
        return None
    values, vectors = torch.linalg.eigh(hessian)
    flat = vectors[:, values < FLAT].T
    if not len(flat):
        return None
    value, gradient = coordinates.value_and_gradient(z)
    # Where many directions are flat, that in which the solver has run is the one to look along.
    ran = (flat.T @ (flat @ z))[None]
    ran = ran / ran.norm() if ran.norm() > 1 else ran[:0]
    for way in torch.cat([_intercepts(coordinates, z), ran, flat]):
        downhill = -1.0 if float(gradient @ way) > 0 else 1.0
        for sign in (downhill, -downhill):
            direction = sign * way
            if _is_level(coordinates, z, value, direction, FAR) and not _rises(
                coordinates, z, value, direction, float(way @ hessian @ way)
            ):
                back = (*FAR, 2 * float((z @ way).abs()))  # as far as where the solver came from, and beyond
                both = _is_level(coordinates, z, value, -direction, back)
                return named(coordinates, coordinates.directions(direction[:, None])[:, 0], both)
    return None


def _is_level(
    coordinates: Coordinates, z: Tensor, value: float, direction: Tensor, distances: tuple[float, ...]
) -> bool:
    """Whether the loss does not rise along a direction, nor falls by much, as it does on a slope.

    A loss that is not a number there shows nothing, so it does not count.
    """
    return all(value - FALL <= coordinates.value(z + far * direction) <= value + RISE for far in distances)


def _rises(coordinates: Coordinates, z: Tensor, value: float, direction: Tensor, curvature: float) -> bool:
    """Whether the loss rises where a curvature a row, however small, would show.

    Of a spread far below that of the response, and of parameters of 1e9, all curvatures are small. Where the
    first rise is lost in the rounding of such a response, one farther out is not.
    """
    if curvature <= 0:
        return False
    seen = (20 * RISE / (curvature * coordinates.rows)) ** 0.5
    distances = (far * seen for far in (1.0, 1e2, 1e4) if far * seen <= STRAIGHT)
    reached = (coordinates.value(z + distance * direction) for distance in distances)
    return any(math.isfinite(there) and there > value + RISE for there in reached)


def _intercepts(coordinates: Coordinates, z: Tensor) -> Tensor:
    """The directions of the intercepts alone: where responses are all alike, nothing else needs to move."""
    found = []
    for block in coordinates.blocks:
        if f"{block.predictor}.bias" in coordinates.objective.sites and block.output is None:
            direction = torch.zeros_like(z)
            direction[block.places] = block.triangle[:, 0] / block.triangle[:, 0].norm()
            found.append(direction)
    return torch.stack(found) if found else z.new_zeros((0, len(z)))


def named(coordinates: Coordinates, direction: Tensor, both: bool) -> Recession:
    """The coefficients and constants that a direction moves, by how much they move the predictors."""
    objective = coordinates.objective
    coefficients: dict[str, float] = {}
    constants: dict[str, float] = {}
    calls = {call.name: call for call in objective.calls}
    for name, site in objective.sites.items():
        parameter, _, part = name.rpartition(".")
        moves = direction[site.place]
        if part in ("weight", "bias") and parameter in calls:
            call = calls[parameter]
            columns = objective.column_names(call) if part == "weight" else ["Intercept"]
            sizes = call.design.square().mean(dim=0).sqrt() if part == "weight" else torch.ones(1)
            outputs = objective.output_names(call)
            labels = [f"`{output}` of {column}" for output in outputs for column in columns]
            coefficients |= _arrows(
                labels, [REAL] * len(labels), (moves.reshape(len(outputs), -1) * sizes).reshape(-1)
            )
        else:
            constants |= _arrows(*_constants(site), moves)
    most = max(map(abs, [*coefficients.values(), *constants.values()]))
    return Recession(
        tuple(label for label, move in coefficients.items() if abs(move) > 1e-2 * most),
        tuple(label for label, move in constants.items() if abs(move) > 1e-2 * most),
        both,
    )


def _constants(site: Site) -> tuple[list[str], list[Ends]]:
    """What the unconstrained values of a site are called, and the ends that each of them runs to."""
    support = site.fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
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
    """Label with the end that it runs to -> how fast."""
    return {
        f"{label} → {to[move > 0]}": move
        for label, to, move in zip(labels, ends, moves.tolist(), strict=True)
    }
