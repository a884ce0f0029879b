"""Covariances that a saved fit retains in place of its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from torch import Tensor

from neglog.errors import DataError, ModelError
from neglog.likelihood.sites import Layout

SMOOTH_KINDS = ("observed", "expected", "opg", "sandwich")
"""The kinds of covariance that a fit with a smooth loss retains."""
CORNER_KINDS = ("expected", "iid", "kernel")
"""The kinds of covariance that a fit whose loss has corners retains."""

CLUSTER = "cluster"
"""The kind of covariance that a fit with groups and a smooth loss also retains."""
WEIGHTS = "weights of the network"
"""The name of the covariance ``"observed"`` of all parameters of a network, by which predictions vary."""

OF_CORNERS = {"observed": "expected", "sandwich": "kernel"}
"""Kind -> the kind that is computed in its place for a loss with corners."""
OF_SCORES = {"HC0": "sandwich", "HC1": "sandwich"}
"""Kind -> the kind that it is a multiple of, for a smooth loss."""
DEFAULT_BANDWIDTH = "hall-sheather"
"""The bandwidth of the retained covariances of a loss with corners."""


@dataclass(frozen=True, eq=False)
class Retained:
    """What a fit retains without its rows.

    Attributes:
        layout: the parameters of the covariances: all, or of a network its heads and constants.
        whole: all parameters, to which the covariance `WEIGHTS` refers.
        predictors: the names of the linear predictors.
        is_network: whether the model has the weights of a network, whose features are fixed.
        covariances: kind -> covariance `(K, K)` of the estimates in unconstrained coordinates.
        has_corners: whether the loss has corners, so that ``"observed"`` is ``"expected"``, and
            ``"sandwich"`` is ``"kernel"``.
        coefficients: the number of coefficients of the linear predictors, for ``"HC1"``.
        source: what the fit was trained on, where its rows were never held; else empty.
        reason: why there is no covariance of the kind ``"observed"``; empty where there is one.
        reasons: kind -> why the fit has no covariance of it, with its rows or without.
    """

    layout: Layout = field(repr=False)
    whole: Layout = field(repr=False)
    predictors: frozenset[str]
    is_network: bool = False
    covariances: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    has_corners: bool = False
    coefficients: int = 0
    reason: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict, repr=False)
    source: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of covariance that can be computed."""
        known = [kind for kind in self.covariances if kind != WEIGHTS]
        if not self.layout.is_flat:  # the curvature of a posterior, which is no sampling variance
            return ("observed",) if known else ()
        return (*known, *(kind for kind, of in self._stand_ins.items() if of in known))

    def covariance(self, cov_type: str, n: float, bandwidth: str) -> tuple[Tensor, str]:
        """The covariance `(K, K)` of a kind, and the computed kind, of a fit to `n` observations.

        Raises:
            ModelError: the fit had none when it was saved.
            DataError: this kind needs the rows, or groups that the fit did not have.
        """
        of = self._stand_ins.get(cov_type, cov_type)
        self._check_defined(cov_type, of)
        if cov_type not in self.kinds:
            self.refuse(f"cov_type={cov_type!r}")
        if of in ("iid", "kernel") and bandwidth != DEFAULT_BANDWIDTH:
            self.refuse(f"cov_type={cov_type!r} with bandwidth={bandwidth!r}")
        if cov_type == "HC1":
            return self._corrected(n), cov_type
        return self.covariances[of], of if self.has_corners else cov_type

    def covariance_of_weights(self, cov_type: str) -> Tensor:
        """The covariance `(K, K)` of all parameters of a network.

        Raises:
            ModelError: the fit had none when it was saved.
            DataError: this kind needs the rows.
        """
        self._check_defined(WEIGHTS, cov_type)
        if cov_type != "observed" or WEIGHTS not in self.covariances:
            self.refuse(f"cov_type={cov_type!r} of all weights of a network")
        return self.covariances[WEIGHTS]

    def _check_defined(self, *kinds: str) -> None:
        """Raise ModelError if the fit had no covariance of one of these kinds when it was saved."""
        for kind in kinds:
            if kind in self.reasons:
                raise ModelError(self.reasons[kind])
        if self.reason and (not self.kinds or kinds[0] in ("observed", "sandwich")):
            raise ModelError(self.reason)

    @property
    def _stand_ins(self) -> Mapping[str, str]:
        """Kind -> the retained kind that it is computed from."""
        return OF_CORNERS if self.has_corners else OF_SCORES

    def _corrected(self, n: float) -> Tensor:
        if not n > self.coefficients:
            raise ModelError(
                f"cov_type='HC1' needs more rows than the {self.coefficients} coefficients; there are {n:g}."
            )
        return n / (n - self.coefficients) * self.covariances["sandwich"]

    def refuse(self, needed_by: str) -> NoReturn:
        """Refuse what needs the rows.

        Raises:
            DataError: always.
        """
        has = f"it has {', '.join(self.kinds)}" if self.kinds else "it has no covariance"
        source = self.source or "was read from disk"
        again = "Give the rows as tensors" if self.source else "Fit the model again"
        raise DataError(
            f"{needed_by} needs the rows of the fit, and this one {source}, without them; {has}. "
            f"{again} for another."
        )
