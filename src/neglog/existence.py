"""Existence: whether a loss has a minimum where a solver stopped, or falls for ever towards a border."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.coordinates import Coordinates

FLAT = 1e-5
"""A curvature a row below this, in units of that at the start, is looked at."""
FAR = (1.0, 4.0, 16.0, 64.0)
"""How far to look along a flat direction, in units of the noise of a row."""
RISE = 1e-7
"""A rise of the loss in nats that shows a minimum."""


@dataclass(frozen=True)
class Recession:
    """A direction along which a loss never rises: what runs away, and which way."""

    coefficients: tuple[str, ...]
    constants: tuple[str, ...]

    def __str__(self) -> str:
        return " and ".join(self.coefficients + self.constants)


def recession(coordinates: Coordinates, z: Tensor) -> Recession | None:
    """What runs away from `z` `(K,)` without making the loss rise; None if the curvature holds everything.

    Separated classes, counts that are all 0 and a dispersion of 0 have their supremum at infinity. A solver
    stops there all the same, where the rest of the fall is lost in rounding.
    """
    hessian = coordinates.hessian(z) / coordinates.rows
    if not bool(torch.isfinite(hessian).all()):
        return None
    values, vectors = torch.linalg.eigh(hessian)
    value, gradient = coordinates.value_and_gradient(z)
    for i in (values < FLAT).nonzero()[:, 0].tolist():
        downhill = -1.0 if float(gradient @ vectors[:, i]) > 0 else 1.0
        for sign in (downhill, -downhill):
            direction = sign * vectors[:, i]
            # A loss that is not a number there shows nothing, so it does not count as flat.
            if all(coordinates.value(z + far * direction) <= value + RISE for far in FAR):
                return _named(coordinates, coordinates.directions(direction[:, None])[:, 0])
    return None


def _named(coordinates: Coordinates, direction: Tensor) -> Recession:
    """The coefficients and constants that a direction moves, by how much they move the predictors."""
    objective = coordinates.objective
    coefficients: dict[str, float] = {}
    constants: dict[str, float] = {}
    calls = {call.name: call for call in objective.at(objective.initial).affines}
    for name, site in objective.sites.items():
        parameter, _, part = name.rpartition(".")
        moves = direction[site.place]
        if part == "weight" and parameter in calls:
            call = calls[parameter]
            labels = [f"`{parameter}` of {column}" for column in objective.column_names(call)]
            coefficients |= _arrows(labels, moves * call.design.square().mean(dim=0).sqrt())
        elif part == "bias" and parameter in calls:
            coefficients |= _arrows([f"`{parameter}` of Intercept"], moves)
        else:
            constants |= _arrows([f"`{name}`"] * site.size, moves, ends=site.fn.support)
    most = max(map(abs, [*coefficients.values(), *constants.values()]))
    return Recession(
        tuple(label for label, move in coefficients.items() if abs(move) > 1e-2 * most),
        tuple(label for label, move in constants.items() if abs(move) > 1e-2 * most),
    )


def _arrows(labels: list[str], moves: Tensor, ends: object = None) -> dict[str, float]:
    """Label with the end that it runs to -> how fast."""
    found = {}
    for label, move in zip(labels, moves.tolist(), strict=True):
        low = "-∞" if ends is None else "0"
        found[f"{label} → {'+∞' if move > 0 else low}"] = move
    return found
