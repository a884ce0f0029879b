"""Rows of a location and a scale: their log-likelihood and its derivatives by formulas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.family import Standard
from neglog.likelihood.eager import Probe, outputs_of
from neglog.likelihood.graph import agrees_with_probe
from neglog.likelihood.rows import SLOPES, VALUE, Output, Rows, Terms, impossible
from neglog.likelihood.sites import Site, places_of
from neglog.likelihood.structure import Response


@dataclass(frozen=True, eq=False)
class FormulaRows:
    """`RowLikelihood` of rows whose density is exp(-loss(r)) / scale, r = (y - eta) / scale, by formulas.

    Attributes:
        predictors: the one predictor, which is the location.
        places: the place `(C,)` of the scale in theta, where it is a `site`; else the scale is `known`.
        factor: the factor of each log-density, in addition to the weight of its row.
        standard: the loss of a standardised residual.
        kind: the class of the distribution, a function of location and scale.
    """

    predictors: tuple[Output, ...]
    places: Tensor
    site: Site | None
    known: float
    factor: float
    standard: Standard
    kind: Any

    def evaluate(self, order: int, constants: Tensor, predictors: Sequence[Tensor], rows: Rows) -> Terms:
        """The terms up to an order at the unconstrained scale `(C,)` and the location, one of `(N,)`."""
        y, weights, count = rows.data.y, rows.data.weights, len(self.places)
        scale, slope, bend = self._scale(constants)
        if not scale > 0:  # it underflowed
            return impossible(order, rows, 1, count)
        each = torch.full_like(y, self.factor) if weights is None else weights * self.factor
        r, total = (y - predictors[0]) / scale, each.sum()
        value = each @ self.standard.loss(r) + total * (math.log(scale) + self.standard.constant)
        value = value.nan_to_num(nan=math.inf, posinf=math.inf)
        if order == VALUE:
            return Terms(value)
        first = self.standard.slope(r)
        location = each * first
        own = (total - location @ r) / scale
        found = Terms(value, (own * slope).expand(count), [location / -scale])
        if order == SLOPES:
            return found
        second = each * self.standard.bend(r)
        curved = (2 * location @ r + second @ r.square() - total) / scale / scale
        return replace(
            found,
            constant_hessian=(curved * (slope * slope) + own * bend).expand(count, count),
            cross_hessian=[[(location + r * second) * (slope / scale) / scale]] * count,
            hessian=[[second / scale / scale]],
        )

    def response(self, theta: Tensor, etas: Mapping[str, Tensor]) -> Any:
        """The distribution of the observations at `theta` `(K,)` and the predictor."""
        eta = etas[self.predictors[0][0]]
        scale = self._scale(theta[self.places])[0]
        return self.kind(eta, torch.full_like(eta, scale), validate_args=False)

    def _scale(self, numbers: Tensor) -> tuple[float, float, float]:
        """The scale at its unconstrained value, and its two derivatives in that."""
        if self.site is None:
            return self.known, 0.0, 0.0
        if self.site.is_logarithm:  # an exponential is its own derivative
            scale = float(numbers.detach().exp())
            return scale, scale, scale
        with torch.enable_grad():
            leaf = numbers.detach().requires_grad_()
            scale = self.site.transform(leaf.reshape(self.site.unconstrained)).sum()
            (slope,) = torch.autograd.grad(scale, leaf, create_graph=True)
            bend = torch.zeros_like(leaf)
            if slope.requires_grad:
                (bend,) = torch.autograd.grad(slope.sum(), leaf)
        return float(scale.detach()), float(slope.detach()), float(bend)


def formula_of(response: Response, probe: Probe, sites: Mapping[str, Site], rows: Rows) -> FormulaRows | None:
    """The formulas of a model's rows; None where its response has none, or is more than its rows.

    They are compared with a `probe` of the model, whose data are the `rows`.
    """
    standard, predictors = _standard(response), outputs_of(probe.ran.affines)
    own = [sites[name] for name in probe.constant_sites]
    if standard is None or predictors != ((response.location, None),) or len(own) != bool(response.scale):
        return None
    site = own[0] if own else None
    places = places_of(own)
    known, factor = response.known_scale or 0.0, response.row_scale
    found = FormulaRows(predictors, places, site, known, factor, standard, response.family)
    return found if len(places) <= 1 and agrees_with_probe(found, probe, rows) else None


def _standard(response: Response) -> Standard | None:
    """The loss of a standardised residual; None where each row has more than a location and one scale."""
    if not response.is_plain or not (response.scale or response.known_scale):
        return None
    return response.law.standard
