"""The empirical distribution of weighted values, and its quantiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class EmpiricalDistribution:
    """The distribution of `values` `(N,)` with `weights` `(N,)`.

    NumPy's `quantile` has weights for `inverted_cdf` alone, from version 2.0 on.
    """

    def __init__(self, values: Tensor, weights: Tensor) -> None:
        order = torch.from_numpy(np.argsort(values.detach().numpy()))
        self.values, self.weights = values[order], weights
        self.cumulative = weights[order].cumsum(0)

    @property
    def total(self) -> Tensor:
        """The sum of the weights in the order of the values."""
        return self.cumulative[-1]

    def quantile(self, share: float) -> Tensor:
        """The smallest value whose cumulative weight reaches a share of the total: the inverted CDF."""
        index = torch.searchsorted(self.cumulative, share * self.total)
        return self.values[index.clamp_max(len(self.values) - 1)]

    def interpolated(self, shares: Sequence[float]) -> Tensor:
        """Quantiles `(Q,)`, linear between order statistics as NumPy's; weights are frequencies."""
        at = (torch.tensor(shares, dtype=self.values.dtype) * (self.weights.sum() - 1)).clamp_min(0)
        low, high = at.floor(), at.floor() + 1
        index = torch.stack([torch.searchsorted(self.cumulative, end, right=True) for end in (low, high)])
        below, above = self.values[index.clamp_max(len(self.values) - 1)]
        return below + (at - low) * (above - below)
