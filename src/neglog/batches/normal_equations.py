"""Least squares of many data sets by their normal equations.

If data sets differ only in their weights, one product of the weights with the products of columns, and with
the residuals of an initial line, gives the equations of all, without another pass over the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.batches.likelihoods import Likelihoods, weighted_sums

PART = 4_000_000
"""Number of products of columns in memory at a time."""
EVEN = 1e-3
"""Smallest ratio of the pivots of equations that are solved from sums over rows."""
MIN_SQUARES_SHARE = 0.1
"""Smallest ratio of the residual sum of squares to that of the initial line: below it digits cancel."""


@dataclass(frozen=True, eq=False)
class Lines:
    """The least squares of S data sets: coefficients `(S, K)`, and residual sums of squares `(S,)`.

    `left` is the length of the last refinement, in the unit of y; `sound` is whether the equations are
    well-conditioned.
    """

    z: Tensor
    rss: Tensor
    left: Tensor
    sound: Tensor


def normal_equations(problems: Likelihoods) -> Lines:
    """Least squares of likelihoods with one predictor of unit 1 and orthogonal columns."""
    if not problems.weights_alone:
        return _joined([_by_row(part) for _, part in problems.pieces])
    lines = _by_sums(problems)
    index = (~lines.sound).nonzero()[:, 0]
    if len(index):
        rest = _joined([_by_row(part) for _, part in problems.take(index).pieces])
        for all_of, some in ((getattr(lines, name), getattr(rest, name)) for name in vars(lines)):
            all_of[index] = some
    return lines


def _joined(parts: list[Lines]) -> Lines:
    return Lines(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def _by_row(problems: Likelihoods) -> Lines:
    """Solve the equations from the rows, with one refinement by the residuals."""
    (predictor,), weights = problems.predictors, problems.stack.weights
    y = (problems.stack.y - predictor.offset).expand(problems.stack.count, -1)
    weights = torch.ones_like(y[:1]) if weights is None else weights.reshape(-1, problems.stack.rows)
    gram = predictor.cross(weights, predictor)
    factor, failed = torch.linalg.cholesky_ex(gram.expand(len(y), -1, -1))
    z = torch.cholesky_solve(predictor.gather(weights * y)[..., None], factor)[..., 0]
    residuals = y - predictor.design.times(predictor.unit[:, None] * z)
    weighted = weights * residuals
    slope = predictor.gather(weighted)
    step = torch.cholesky_solve(slope[..., None], factor)[..., 0]
    gain = (slope * step).sum(-1)
    rss = torch.linalg.vecdot(weighted, residuals) - gain
    sound = (failed == 0) & (_evenness(factor) > 1e-6) & torch.isfinite(rss)
    return Lines(z + step, rss, gain.clamp_min(0).sqrt(), sound)


def _by_sums(problems: Likelihoods) -> Lines:
    """Solve the equations from weighted sums, as a step from the line of equal weights.

    The sums have a relative rounding error of 1e-16, so that the step ends at the least squares of the rows.
    Equations that lose digits by cancellation are not `sound`.
    """
    (predictor,), weights = problems.predictors, problems.stack.weights
    assert weights is not None
    columns, y = predictor.design.values, problems.stack.y - predictor.offset
    near = columns.mT @ y / len(columns)  # the columns are orthogonal, each of mean square 1
    gram, slope, squares = _sums(columns, y - columns @ near, weights)
    factor, failed = torch.linalg.cholesky_ex(gram)
    step = torch.cholesky_solve(slope[..., None], factor)
    lack = slope[..., None] - gram @ step
    more = torch.cholesky_solve(lack, factor)
    left = (lack * more).sum((-2, -1)).clamp_min(0).sqrt()
    step = (step + more)[..., 0]
    rss = squares - torch.linalg.vecdot(slope, step)
    sound = (failed == 0) & (_evenness(factor) > EVEN) & (rss > MIN_SQUARES_SHARE * squares)
    return Lines(near + step, rss, left, sound)


def _sums(columns: Tensor, residuals: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted sums of products of columns `(S, K, K)`, of columns and residuals, of squared residuals."""
    size = columns.shape[1]
    i, j = torch.triu_indices(size, size)
    step = max(1, PART // (len(i) + size + 1))
    sums = weights.new_zeros((len(weights), len(i) + size + 1))
    for low in range(0, len(columns), step):
        part, rest = columns[low : low + step], residuals[low : low + step, None]
        products = torch.cat([part[:, i] * part[:, j], part * rest, rest**2], 1)
        sums += weighted_sums(weights[:, low : low + step], products)
    gram = sums.new_empty((len(sums), size, size))
    gram[:, i, j], gram[:, j, i] = sums[:, : len(i)], sums[:, : len(i)]
    return gram, sums[:, len(i) : -1], sums[:, -1]


def _evenness(factor: Tensor) -> Tensor:
    """Ratio of the smallest to the largest pivot, `(S,)`."""
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    return pivots.amin(-1) / pivots.amax(-1) if pivots.shape[-1] else torch.ones(len(pivots))
