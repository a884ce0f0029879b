"""The covariances of a fit's estimates in a document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import torch
from torch import Tensor

from neglog.errors import DataError
from neglog.export import arrays
from neglog.export.documents import fields, flag, mapping, shortened, text, wrong
from neglog.export.documents import whole as whole_number
from neglog.fitting.retained import CLUSTER, CORNER_KINDS, SMOOTH_KINDS, WEIGHTS, Retained
from neglog.likelihood.sites import Layout, lay_out
from neglog.tracing import Run
from neglog.uncertainty.covariances import CovType

SYMMETRY = 1e-8
"""Largest difference of two opposite entries of a covariance, relative to the standard errors of both."""
LOWEST_EIGENVALUE = -1e-6
"""Smallest eigenvalue of a correlation matrix, with its rounding."""
NOTHING: dict[str, Any] = {
    "covariances": {},
    "corners": False,
    "coefficients": 0,
    "reason": "",
    "reasons": {},
}
"""The field of a fit without covariances, as those of formats 1 and 2."""
KINDS = {*get_args(CovType), WEIGHTS}
"""What a fit may have no covariance of."""


def written(retained: Retained | None) -> dict[str, Any]:
    """What a fit retains of its rows, as JSON values."""
    if retained is None:
        return NOTHING
    return {
        "covariances": arrays.written(retained.covariances),
        "corners": retained.has_corners,
        "coefficients": retained.coefficients,
        "reason": retained.reason,
        "reasons": dict(retained.reasons),
    }


def read(value: Any, bare: Run, params: Mapping[str, Tensor], predictors: frozenset[str]) -> Retained:
    """What `written` gave, checked against a run of the model without a response.

    Raises:
        DataError: a covariance is none of the model's parameters, or of a kind that it does not have.
    """
    found = fields("uncertainty", value, set(NOTHING))
    dtype = next(iter(params.values())).dtype if params else torch.float64
    whole = Layout(lay_out(bare), dtype)
    layout = _of_heads(whole)
    is_network = layout.size < whole.size
    corners = flag("uncertainty.corners", found["corners"])
    covariances = arrays.read("uncertainty.covariances", found["covariances"])
    _check_kinds(covariances, corners, layout, is_network)
    for kind, matrix in covariances.items():
        size = whole.size if kind == WEIGHTS else layout.size
        _check_covariance(f"uncertainty.covariances.{kind}", matrix, size)
    coefficients = whole_number("uncertainty.coefficients", found["coefficients"])
    if coefficients > layout.size:
        raise wrong(
            "uncertainty.coefficients", f"at most {layout.size}, the number of parameters", coefficients
        )
    reason = text("uncertainty.reason", found["reason"])
    if reason and ("expected" if corners else "observed") in covariances:
        raise wrong("uncertainty.reason", "empty, since there are standard errors", reason)
    reasons = _reasons(found["reasons"], covariances)
    return Retained(
        layout, whole, predictors, is_network, covariances, corners, coefficients, reason, reasons
    )


def _reasons(value: Any, covariances: Mapping[str, Tensor]) -> dict[str, str]:
    """Why there is no covariance of a kind, of those that are not there."""
    reasons = {
        kind: text(f"uncertainty.reasons.{kind}", each)
        for kind, each in mapping("uncertainty.reasons", value).items()
    }
    odd = sorted(set(reasons) - KINDS | set(reasons) & set(covariances))
    if odd:
        raise wrong("uncertainty.reasons", "an object of kinds of covariance that are not there", odd)
    return reasons


def _of_heads(whole: Layout) -> Layout:
    """The parameters that standard errors refer to: of a network, all but its weights."""
    heads = {name: site for name, site in whole.sites.items() if not site.started}
    offset = 0
    for name, site in heads.items():
        heads[name] = replace(site, offset=offset)
        offset += site.size
    return Layout(heads, whole.dtype)


def _check_kinds(covariances: Mapping[str, Tensor], corners: bool, layout: Layout, is_network: bool) -> None:
    known: tuple[str, ...] = CORNER_KINDS if corners else (*SMOOTH_KINDS, CLUSTER)
    if not layout.is_flat:
        known = known[:1]
    known = (*known, WEIGHTS) if is_network else known
    unknown = sorted(set(covariances) - set(known))
    if unknown:
        raise wrong("uncertainty.covariances", f"an object of no more than {', '.join(known)}", unknown)


def _check_covariance(name: str, matrix: Tensor, size: int) -> None:
    """Raise DataError unless a matrix is symmetric, of this size, and has no negative variance."""
    if tuple(matrix.shape) != (size, size):
        raise wrong(f"{name}.shape", f"{[size, size]}, by the number of parameters", list(matrix.shape))
    variances = matrix.diagonal()
    if not bool((variances >= 0).all()):
        raise wrong(name, "a covariance, without a negative variance", variances.tolist())
    errors = variances.sqrt()
    unit = torch.where(errors > 0, errors, 1.0)
    correlations = matrix / unit[:, None] / unit
    if not bool(((correlations - correlations.T).abs() <= SYMMETRY * _coarseness(matrix)).all()):
        raise DataError(f"`{name}` must be symmetric; it is {shortened(matrix.tolist())}.")
    lowest = float(torch.linalg.eigvalsh(correlations)[0]) if size else 0.0
    if not lowest >= LOWEST_EIGENVALUE * _coarseness(matrix):
        raise wrong(name, "a covariance: its correlations are positive semidefinite", matrix.tolist())


def _coarseness(matrix: Tensor) -> float:
    """The rounding of the dtype of a matrix, relative to that of float64; at most 10⁵."""
    return 1.0 if matrix.dtype == torch.float64 else 1e5
