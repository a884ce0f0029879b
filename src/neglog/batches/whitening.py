"""Whitened coordinates of many likelihoods, in which the columns of each predictor are orthogonal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.batches.likelihoods import Columns, Likelihoods


@dataclass(frozen=True)
class Whitened:
    """Coordinates z with orthogonal columns: the design of a predictor is Q R, its theta is unit R⁻¹ z."""

    likelihoods: Likelihoods
    triangles: list[Tensor]
    sound: Tensor
    """Whether all designs of a data set have full rank, `(S,)`."""

    def z(self, theta: Tensor) -> Tensor:
        """The coordinates `(S, K)` of parameters `(S, K)`."""
        z = theta.clone()
        for predictor, triangle in zip(self.likelihoods.predictors, self.triangles, strict=True):
            at = (triangle @ theta[:, predictor.places, None])[..., 0]
            z[:, predictor.places] = at / predictor.unit[:, None]
        return z

    def theta(self, z: Tensor) -> Tensor:
        """The parameters `(S, K)` of coordinates `(S, K)`, in which they are linear."""
        theta = z.clone()
        for predictor, triangle in zip(self.likelihoods.predictors, self.triangles, strict=True):
            at = torch.linalg.solve_triangular(triangle, z[:, predictor.places, None], upper=True)[..., 0]
            theta[:, predictor.places] = at * predictor.unit[:, None]
        return theta


def whitened(likelihoods: Likelihoods, units: Mapping[str, Tensor]) -> Whitened:
    """The likelihoods in whitened coordinates, each predictor in its unit `(S,)`."""
    predictors, triangles = [], []
    sound = torch.ones(likelihoods.stack.count, dtype=torch.bool)
    for predictor in likelihoods.predictors:
        rows, columns = predictor.design.values.shape[-2:]
        orthonormal, triangle = torch.linalg.qr(predictor.design.values)
        if columns and not predictor.design.shared:
            sizes = triangle.norm(dim=-2, keepdim=True)
            values = torch.linalg.svdvals(triangle / torch.where(sizes > 0, sizes, 1.0))
            full = values[:, -1] > 4 * torch.finfo(values.dtype).eps * (rows * columns) ** 0.5 * values[:, 0]
            triangle = torch.where(full[:, None, None], triangle, torch.eye(columns, dtype=values.dtype))
            sound &= full
        scaled, unit = orthonormal * rows**0.5, units[predictor.name]
        predictors.append(replace(predictor, design=Columns(scaled), unit=unit))
        triangles.append(triangle / rows**0.5)
    return Whitened(replace(likelihoods, predictors=tuple(predictors)), triangles, sound)
