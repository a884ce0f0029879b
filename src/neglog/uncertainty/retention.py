"""The covariances that are saved with a fit in place of its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, get_args

from torch import Tensor

from neglog.distributions.family import events_of
from neglog.errors import NeglogError
from neglog.fitting.fit import Fit
from neglog.fitting.retained import CLUSTER, CORNER_KINDS, SMOOTH_KINDS, WEIGHTS, Retained
from neglog.objective.coordinates import Coordinates
from neglog.predictors import RESPONSE
from neglog.uncertainty.covariances import CovType, check_defined, theta_covariance, unconstrained_covariance
from neglog.uncertainty.fisher import known_information
from neglog.uncertainty.information import around, cut_run, is_network


def retained(fit: Fit) -> Retained | None:
    """The covariances of a fit, of all kinds that its model has and that cost no quadrature.

    None of a fit that was read from a file without them.
    """
    if fit.objective is None:
        return fit.retained
    whole = fit.objective.layout
    predictors = frozenset(call.name for call in fit.objective.calls)
    network = is_network(fit)
    kept = _Kept()
    if network:
        kept.add(WEIGHTS, lambda: (theta_covariance(fit), WEIGHTS))
    try:
        coordinates, z = around(fit)
    except NeglogError as error:
        return Retained(
            whole, whole, predictors, network, kept.covariances, reason=str(error), reasons=kept.reasons
        )
    for kind in _kinds(coordinates, z, fit.groups is not None):
        kept.add(kind, partial(_covariance, coordinates, z, kind, fit.groups))
    for kind in get_args(CovType):
        kept.check(kind, coordinates)
    main = "expected" if coordinates.kinked else "observed"
    return Retained(
        coordinates.objective.layout,
        whole,
        predictors,
        network,
        kept.covariances,
        coordinates.kinked,
        sum(len(block.places) for block in coordinates.blocks),
        kept.reason(main),
        kept.reasons,
    )


def _covariance(coordinates: Coordinates, z: Tensor, kind: str, groups: Any) -> tuple[Tensor, str]:
    return unconstrained_covariance(coordinates, z, kind, groups if kind == CLUSTER else None)


@dataclass(frozen=True, eq=False)
class _Kept:
    """Kind -> the covariance of a fit; kind -> why it has none."""

    covariances: dict[str, Tensor] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, compute: Callable[[], tuple[Tensor, str]]) -> None:
        """Keep the covariance of a kind, under the computed kind, or why there is none."""
        try:
            matrix, used = compute()
            self.covariances[used] = matrix
        except NeglogError as error:
            self.reasons[kind] = str(error)

    def reason(self, main: str) -> str:
        """Why there is no covariance of the kind of a summary; empty where there is one."""
        if main in self.covariances:
            return ""
        return self.reasons.get(main, self.reasons.get("observed", ""))

    def check(self, kind: CovType, coordinates: Coordinates) -> None:
        """Keep why the model has no covariance of a kind that was not computed, if it has none."""
        if kind in self.covariances or kind in self.reasons:
            return
        try:
            check_defined(coordinates, kind)
        except NeglogError as error:
            self.reasons[kind] = str(error)


def _kinds(coordinates: Coordinates, z: Tensor, has_groups: bool) -> tuple[str, ...]:
    """The kinds to retain, that of the summary first."""
    if not coordinates.objective.layout.is_flat:
        return ("observed",)
    if coordinates.kinked:
        return CORNER_KINDS
    response = cut_run(coordinates, z)[0].sites[RESPONSE]["fn"]
    # That of vectors is refused at once; any other takes a quadrature.
    known = known_information(response) is not None or bool(events_of(response)) or bool(response.event_shape)
    kinds = tuple(kind for kind in SMOOTH_KINDS if known or kind != "expected")
    return (*kinds, CLUSTER) if has_groups else kinds
