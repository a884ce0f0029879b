"""Isolated rows: the few rows in which a combination of columns is of one sign, being 0 in all others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_SUBSPACES = 60
"""The largest number of subspaces that are searched."""
ROUNDED = 1e-6
"""The rounding of leverages that sum to 1."""
SEARCHED_ROWS = 500
"""The largest numbers of rows that are searched: of those with the largest leverages, and evenly spaced."""
ZERO_COMBINATION = 1e-9
"""The rounding error of a combination of length 1."""


def isolated_rows(columns: Tensor, leverages: Tensor, most: int) -> Iterator[Tensor]:
    """The minimal sets of at most `most` rows in which a combination of the columns `(N, P)` is isolated.

    Every combination of one sign is a sum of such ones with minimal supports within its own (Rockafellar
    1969), so these suffice. They are found by a branch-and-bound search: of more than `most` rows in which
    not all combinations are 0, the required combination is 0 in at least one. Branching on such a row leaves
    the combinations that are 0 there, a subspace of one dimension less. A subspace is discarded if the
    largest leverages of `most` rows sum to less than 1. Equal rows are one row with a multiplicity. With many
    rows those with the largest `leverages` `(N,)` are searched, and others evenly spaced.
    """
    some = _searched(leverages)
    values, counts = columns[some].unique(dim=0, return_counts=True)
    left, sizes, right = torch.linalg.svd(values * counts[:, None].sqrt(), full_matrices=False)
    rank = int((sizes > len(values) * torch.finfo(sizes.dtype).eps * sizes[0]).sum())
    rows = left[:, :rank] / counts[:, None].sqrt()
    space = torch.eye(rank, dtype=rows.dtype)
    frequent = rows[counts > most]
    if len(frequent):
        _, spread, across = torch.linalg.svd(frequent.T @ frequent)
        space = across[int((spread > ZERO_COMBINATION).sum()) :].T
    for way in _Search(rows, counts, most).combinations(space, ()):
        values = columns @ (right[:rank].T @ (way / sizes[:rank]))
        support = (values.abs() > ZERO_COMBINATION).nonzero()[:, 0]
        if len(support) <= most and len(values[support].sign().unique()) == 1:
            yield support


def _searched(leverages: Tensor) -> Tensor:
    """The numbers of the rows that are searched."""
    if len(leverages) <= 2 * SEARCHED_ROWS:
        return torch.arange(len(leverages))
    spaced = torch.linspace(0, len(leverages) - 1, SEARCHED_ROWS).long()
    return torch.cat([leverages.topk(SEARCHED_ROWS).indices, spaced]).unique()


@dataclass
class _Search:
    """Distinct rows `(G, P)` of orthonormal columns, with multiplicities `(G,)`."""

    rows: Tensor
    counts: Tensor
    most: int
    visited: int = 0

    def combinations(self, space: Tensor, inside: tuple[int, ...]) -> Iterator[Tensor]:
        """The isolated combinations `(P,)` of a subspace `(P, D)`, of those that are not 0 `inside`."""
        self.visited += 1
        if space.shape[1] == 0 or self.visited > MAX_SUBSPACES:
            return
        leverages = (self.rows @ space).square().sum(1)
        zero = leverages <= ZERO_COMBINATION**2
        if bool(zero[list(inside)].any()) or self._is_spread_out(leverages, list(inside)):
            return
        if space.shape[1] == 1:
            yield space[:, 0]
            return
        for row in self._candidates((~zero).nonzero()[:, 0], leverages, inside):
            across, _ = torch.linalg.qr((self.rows[row] @ space)[:, None], mode="complete")
            yield from self.combinations(space @ across[:, 1:], inside)
            inside = (*inside, row)

    def _is_spread_out(self, leverages: Tensor, inside: list[int]) -> bool:
        """Whether no few rows, with those `inside` among them, have leverages that sum to 1."""
        own, room = float((self.counts * leverages)[inside].sum()), self._room(inside)
        rest = self.counts.clone()
        rest[inside] = 0
        each = leverages.repeat_interleave(rest.clamp_max(max(room, 0)))
        return own + float(each.topk(min(max(room, 0), len(each))).values.sum()) < 1 - ROUNDED

    def _room(self, inside: list[int]) -> int:
        """The number of rows that may still be added to those `inside`, each with its multiplicity."""
        return self.most - int(self.counts[inside].sum())

    def _candidates(self, alive: Tensor, leverages: Tensor, inside: tuple[int, ...]) -> list[int]:
        """The rows of least leverage of which one at least is 0, none of them `inside`."""
        order = alive[leverages[alive].argsort()]
        order = order[~torch.isin(order, torch.tensor(inside, dtype=order.dtype))]
        enough = int((self.counts[order].cumsum(0) <= self._room(list(inside))).sum()) + 1
        return order[:enough].tolist()


def extreme_row(design: Tensor) -> int | None:
    """A row of an orthonormal design `(N, P)` with a constant that a predictor can set apart from all others.

    That of the largest norm: it alone has the largest product with itself. None where another is as large.
    """
    row = int(design.square().sum(1).argmax())
    products = design @ design[row]
    others = torch.cat([products[:row], products[row + 1 :]])
    return row if bool((others < (1 - ROUNDED) * products[row]).all()) else None
