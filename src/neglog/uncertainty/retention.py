"""The covariances that are saved with a fit in place of its rows."""

from __future__ import annotations

from torch import Tensor

from neglog.errors import NeglogError
from neglog.fitting.fit import Fit
from neglog.fitting.retained import CORNER_KINDS, SMOOTH_KINDS, Retained
from neglog.objective.coordinates import Coordinates
from neglog.predictors import RESPONSE
from neglog.uncertainty.covariances import unconstrained_covariance
from neglog.uncertainty.fisher import known_information
from neglog.uncertainty.information import around, cut_run, is_network


def retained(fit: Fit) -> Retained | None:
    """The covariances of a fit, of all kinds that its model has and that cost no quadrature.

    None of a fit that was read from a file without them.
    """
    if fit.objective is None:
        return fit.retained
    layout = fit.objective.layout
    predictors = frozenset(call.name for call in fit.objective.calls)
    try:
        coordinates, z = around(fit)
    except NeglogError as error:
        return Retained(layout, predictors, is_network(fit), reason=str(error))
    found: dict[str, Tensor] = {}
    reason = ""
    for kind in _kinds(coordinates, z):
        try:
            matrix, used = unconstrained_covariance(coordinates, z, kind)
            found[used] = matrix
        except NeglogError as error:
            reason = reason or str(error)
    main = "expected" if coordinates.kinked else "observed"
    return Retained(
        coordinates.objective.layout,
        predictors,
        is_network(fit),
        found,
        coordinates.kinked,
        sum(len(block.places) for block in coordinates.blocks),
        "" if main in found else reason,
    )


def _kinds(coordinates: Coordinates, z: Tensor) -> tuple[str, ...]:
    """The kinds to retain, that of the summary first."""
    if not coordinates.objective.layout.is_flat:
        return ("observed",)
    if coordinates.kinked:
        return CORNER_KINDS
    known = known_information(cut_run(coordinates, z)[0].sites[RESPONSE]["fn"]) is not None
    return tuple(kind for kind in SMOOTH_KINDS if known or kind != "expected")
