"""Outweighed rows: the log scale of a row can decrease by more than those of all others increase."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, combinations

import numpy as np
import torch
from torch import Tensor

from neglog.fitting.log_scales import LogScale

MIN_LEVERAGE = 0.5
"""The leverage of a row below which its predictor is outweighed by those of the others."""
MIN_GAIN_SHARE = 1e-4
"""Least gain, as a share of the decrease of the row's predictor, that exceeds rounding of the programme."""
MAX_DIRECTIONS = 20_000
"""The largest number of combinations of columns that are looked at."""
MAX_ENTRIES = 50_000_000
"""The largest number of entries of the matrices that all combinations fill."""
ROUNDED_CHANGE = 1e-10
"""The rounding of a combination of columns of norm 1."""
ROUNDED_PREDICTOR = 1e-7
"""The violation of a constraint, in units of the norm of a column, that the programme leaves."""


def outweighing_rows(columns: Tensor, leverages: Tensor, weights: Tensor, law: LogScale) -> Iterator[Tensor]:
    """The rows `(1,)` in which a combination of the columns `(N, P)` of a log scale outweighs all others.

    With s = X d, counted towards a spread of 0, the log-likelihood of an exactly fitted row increases by
    `ratio` times s, and that of each other row with s <= 0 decreases by at most |s|. A linear programme
    maximises the weighted sum. If the weighted s of the row, times a ratio of at most 1, exceeds the sum of
    the others, its square exceeds the sum of their squares, so that its leverage among weighted rows is above
    1/2.
    """
    for row in (leverages > MIN_LEVERAGE).nonzero()[:, 0]:
        if _outweighs(columns, weights, int(row), law):
            yield row[None]


def outweighing_groups(columns: Tensor, weights: Tensor, law: LogScale, most: int) -> Iterator[Tensor]:
    """Groups of 2 to `most` rows in which one of the shifted columns `(N, P)` outweighs all other rows.

    With the shift to the largest value of the other rows, each of these loses its distance from it, and the
    group gains more than the sum.
    """
    kept = (weights > 0).nonzero()[:, 0]
    for column in columns[kept].mT:
        for side in (law.sign, -law.sign):
            values, order = (side * column).sort(descending=True)
            gaps, share = values[:, None] - values[1 : most + 1], weights[kept][order, None]
            gains = (share * gaps).sum(0)  # the gains of the group less the losses of the others
            own = (share * gaps.clamp_min(0.0)).sum(0)
            gains = gains - (1 - law.ratio) * own
            for size in range(2, min(most, len(values) - 1) + 1):
                if gains[size - 1] > MIN_GAIN_SHARE * own[size - 1]:
                    yield kept[order[:size]].sort().values


def outweighing_combinations(columns: Tensor, weights: Tensor, law: LogScale, most: int) -> Iterator[Tensor]:
    """Groups of 2 to `most` rows in which a combination of at least three columns `(N, P)` does.

    The combinations that increase no log scale outside a group are a cone. A linear function that is negative
    in the cone is negative on one of its extreme rays, on which P - 1 independent rows are 0. Where there are
    too many sets of P - 1 rows, those of the largest values are taken.
    """
    kept = (weights > 0).nonzero()[:, 0]
    rows, share = columns[kept], weights[kept]
    size = columns.shape[1] - 1
    if size < 2 or len(rows) <= size:
        return
    distinct = rows.unique(dim=0)
    number, most_sets = size, min(MAX_DIRECTIONS, MAX_ENTRIES // (len(rows) + columns.shape[1] ** 2))
    if len(distinct) < size or most_sets < 1:
        return
    while number < len(distinct) and math.comb(number + 1, size) <= most_sets:
        number += 1
    some = distinct[distinct.norm(dim=1).argsort(descending=True)[:number]]
    # torch.combinations forms all tuples first: 17 rows in sets of 10 would be 10¹² of them.
    sets = np.fromiter(chain.from_iterable(combinations(range(number), size)), dtype=np.int64)
    ways = torch.linalg.qr(some[torch.from_numpy(sets).view(-1, size)].mT, mode="complete")[0][..., -1]
    # Of a combination and its opposite one has a gain: that in which the sum of all changes is negative.
    ways = torch.where((ways @ (share @ rows) > 0)[:, None], -ways, ways)
    number_falling = (ways @ rows.T < -ROUNDED_CHANGE).sum(1)
    change = ways[(number_falling >= 2) & (number_falling <= most)] @ rows.T
    change = torch.where(change.abs() > ROUNDED_CHANGE, change, 0.0)
    own = -(change.clamp_max(0.0) @ share)
    gain = -(change @ share) - (1 - law.ratio) * own
    for group in (change[gain > MIN_GAIN_SHARE * own] < 0).unique(dim=0):
        yield kept[group.nonzero()[:, 0]]


def _outweighs(columns: Tensor, weights: Tensor, row: int, law: LogScale) -> bool:
    from scipy.optimize import linprog  # only here: it takes long to import

    kept = (weights > 0).numpy()
    design, share = -law.sign * columns.numpy(), weights.numpy().copy()
    share[row] *= law.ratio
    others = kept & (np.arange(len(design)) != row)
    limits = np.zeros(int(others.sum()))
    found = linprog(share @ design, A_ub=-design[others], b_ub=limits, bounds=(-1, 1))
    if found.x is None or not kept[row]:
        return False
    gain, fall = -float(share @ design @ found.x), -float(share[row] * (design[row] @ found.x))
    rounding = ROUNDED_PREDICTOR * float(share.sum())
    return gain > MIN_GAIN_SHARE * fall + rounding and fall > 0


def row_weights(weights: Tensor | None, rows: int) -> Tensor:
    """The weights of the rows `(N,)`, 1 where there are none."""
    return torch.ones(rows, dtype=torch.float64) if weights is None else weights.to(torch.float64)
