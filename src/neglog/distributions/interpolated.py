"""A distribution given by some of its quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions.base import Compound
from neglog.distributions.special import log_of


@public
class Interpolated(Compound):
    """Interpolated(quantiles, levels): quantiles at given levels, and a constant density between them.

    Density: (difference of levels) / (difference of quantiles) between two quantiles, and exponential beyond
    the first and the last, where it is continuous.
    Shapes: `quantiles` `(..., Q)` in ascending order, in units of y; `levels` `(Q,)` numbers between 0 and 1;
    Q is at least 2 and the batch is `(...)`.
    Estimates: quantiles at several levels, such as those of a network.
    Raises ``ValueError`` for quantiles that are not in ascending order.

    >>> import torch
    >>> fn = Interpolated(torch.tensor([-1.0, 0.0, 2.0]), (0.25, 0.5, 0.75))
    >>> fn.icdf(torch.tensor([0.25, 0.625])), fn.cdf(torch.tensor(0.0))
    (tensor([-1.,  1.]), tensor(0.5000))
    """

    arg_constraints: Mapping[str, Any] = {"quantiles": constraints.real_vector}
    support = constraints.real
    has_rsample = True
    _kept = ("quantiles", "levels")

    def __init__(
        self, quantiles: Tensor, levels: Sequence[float], *, validate_args: bool | None = None
    ) -> None:
        self.quantiles, self.levels = quantiles, tuple(float(level) for level in levels)
        super().__init__(quantiles.shape[:-1], validate_args=validate_args)
        if self._validate_args and not bool((quantiles.diff(dim=-1) >= 0).all()):
            raise ValueError("`quantiles` must be in ascending order along the last dimension.")

    @property
    def knots(self) -> tuple[Tensor, ...]:
        """Where the density jumps."""
        return tuple(self.quantiles.unbind(-1))

    @property
    def _shares(self) -> Tensor:
        """The probabilities `(Q - 1,)` between two quantiles."""
        return self._level.diff()

    @property
    def _level(self) -> Tensor:
        return self.quantiles.new_tensor(self.levels)

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The mean distances beyond the first and the last quantile."""
        width, share, level = self.quantiles.diff(dim=-1), self._shares, self._level
        return width[..., 0] * level[0] / share[0], width[..., -1] * (1 - level[-1]) / share[-1]

    def _place(self, value: Tensor) -> Tensor:
        """The number of quantiles at or below a value, from 0 to Q."""
        return (value.unsqueeze(-1) >= self.quantiles).sum(-1)

    def _piece(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The quantile and the level where a piece between two begins, its width, and its probability."""
        inner = (place - 1).clamp(0, len(self.levels) - 2)
        edges = self.quantiles.expand(*inner.shape, len(self.levels))
        low, high = (edges.gather(-1, (inner + by).unsqueeze(-1))[..., 0] for by in (0, 1))
        return low, self._level[inner], high - low, self._shares[inner]

    def _log_prob(self, value: Tensor) -> Tensor:
        place = self._place(value)
        _, _, width, share = self._piece(place)
        found = torch.log(share) - torch.log(width)
        low, high = self._ends
        below = (value - self.quantiles[..., 0]) / low
        above = (self.quantiles[..., -1] - value) / high
        return (
            found + torch.where(place == 0, below, 0.0) + torch.where(place == len(self.levels), above, 0.0)
        )

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper = self._log_tails(value)
        return lower.exp(), upper.exp()

    def _log_tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        place, level = self._place(value), self._level
        start, begun, width, share = self._piece(place)
        inside = begun + share * ((value - start) / width).clamp(0, 1)
        low, high = self._ends
        below = torch.log(level[0]) + ((value - self.quantiles[..., 0]) / low).clamp(max=0)
        above = torch.log1p(-level[-1]) - ((value - self.quantiles[..., -1]) / high).clamp(min=0)
        first, last = place == 0, place == len(self.levels)
        lower = torch.where(last, torch.log1p(-above.exp()), log_of(inside))
        upper = torch.where(first, torch.log1p(-below.exp()), log_of(1 - inside))
        return torch.where(first, below, lower), torch.where(last, above, upper)

    def _quantile(self, q: Tensor) -> Tensor:
        place = (q.unsqueeze(-1) >= self._level).sum(-1)
        place = place.expand(torch.broadcast_shapes(q.shape, self.batch_shape))
        start, begun, width, share = self._piece(place)
        low, high = self._ends
        inside = start + width * (q - begun) / share
        below = self.quantiles[..., 0] + low * torch.log(q / self._level[0])
        above = self.quantiles[..., -1] - high * torch.log((1 - q) / (1 - self._level[-1]))
        inside = torch.where(place == 0, below, inside)
        return torch.where(place == len(self.levels), above, inside)

    @property
    def mean(self) -> Tensor:
        """The mean of the pieces' means."""
        return self._moment(lambda low, high: 0.5 * (low + high), lambda edge, away: edge + away)

    @property
    def variance(self) -> Tensor:
        """The mean of squares about the mean."""
        centre = self.mean

        def of_piece(low: Tensor, high: Tensor) -> Tensor:
            return (0.5 * (low + high) - centre.unsqueeze(-1)).square() + (high - low).square() / 12

        def of_end(edge: Tensor, away: Tensor) -> Tensor:
            return (edge + away - centre).square() + away.square()

        return self._moment(of_piece, of_end)

    def _moment(self, of_piece: Any, of_end: Any) -> Tensor:
        """The mean of a function of y, from its mean between two quantiles and beyond one."""
        low, high = self._ends
        edges, level = self.quantiles, self._level
        inside = (self._shares * of_piece(edges[..., :-1], edges[..., 1:])).sum(-1)
        found = (
            inside + level[0] * of_end(edges[..., 0], -low) + (1 - level[-1]) * of_end(edges[..., -1], high)
        )
        return found.expand(self.batch_shape)

    def pinball(self, value: Tensor) -> Tensor:
        """The mean over the levels of the pinball losses of the quantiles, in units of y."""
        away = value.unsqueeze(-1) - self.quantiles
        return torch.maximum(self._level * away, (self._level - 1) * away).mean(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws `(*sample_shape, *batch_shape)` through the quantile function, differentiable as it is."""
        shape = self._extended_shape(sample_shape)
        uniform = torch.rand(shape, dtype=self.quantiles.dtype, device=self.quantiles.device)
        return self._quantile(uniform.clamp(min=torch.finfo(self.quantiles.dtype).tiny))
