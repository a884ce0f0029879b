"""Gradients of data sets that differ only in their weights, by the compiled graph of their common rows."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from neglog.batches.likelihoods import Likelihoods
from neglog.data import Data
from neglog.likelihood.graph import GraphRows
from neglog.likelihood.rows import Rows
from neglog.objective.objective import MAX_KEPT_BYTES, Objective

MIN_REPLAYED_ROWS = 50_000
"""Below this total number of rows compiling the graph takes longer than it saves."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """The compiled graph of the rows of `data`, evaluated for many data sets stacked along the rows."""

    graph: GraphRows
    data: Data
    tiled: dict[int, Rows] = field(default_factory=dict, repr=False)

    def gradients(self, problems: Likelihoods, z: Tensor) -> Tensor:
        """Gradients `(S, K)` at `z` `(S, K)`."""
        return torch.cat([self._of(part, z[place]) for place, part in problems.pieces])

    def _of(self, problems: Likelihoods, z: Tensor) -> Tensor:
        shape, weights = (problems.stack.count, problems.stack.rows), problems.stack.weights
        assert weights is not None
        etas = [predictor.eta(z).expand(shape).reshape(-1) for predictor in problems.predictors]
        slopes = self.graph.slopes(z.new_zeros(0), etas, self._rows(len(z)))
        gradient = torch.zeros_like(z)
        for predictor, slope in zip(problems.predictors, slopes, strict=True):
            rows = weights * slope.expand(etas[0].shape).view(shape)
            gradient[:, predictor.places] += predictor.gather(rows)
        return gradient

    def _rows(self, count: int) -> Rows:
        """The data repeated `count` times along the rows."""
        if count not in self.tiled:
            most = max(self.tiled, default=0)
            size = count * self.data.rows
            larger = self.tiled[most].data.take(slice(0, size)) if most > count else self._tiled(count)
            self.tiled[count] = Rows.of(larger, MAX_KEPT_BYTES)
        return self.tiled[count]

    def _tiled(self, count: int) -> Data:
        """The repeated data; designs that the graph does not read are expanded without a copy."""
        index, first = torch.arange(self.data.rows).repeat(count), 1 + len(self.graph.predictors)
        used = set(self.graph.used)
        parts = {
            part: value[index] if part[0] != "x" or place in used else value[:1].expand(len(index), -1)
            for place, (part, value) in enumerate(self.data.parts().items(), start=first)
        }
        return replace(self.data.made_of(parts), index=None)


def replayed(objective: Objective, problems: Likelihoods) -> Replayed | None:
    """The graph of an objective, or None: for many rows, no constants, and weights as the only difference."""
    few = problems.stack.count * problems.stack.rows < MIN_REPLAYED_ROWS
    if few or not problems.weights_alone or problems.constants or objective.data.weights is not None:
        return None
    graph, names = objective.backends.graph, [(predictor.name, None) for predictor in problems.predictors]
    if not isinstance(graph, GraphRows) or len(graph.places) or list(graph.predictors) != names:
        return None
    return Replayed(graph, objective.data)
