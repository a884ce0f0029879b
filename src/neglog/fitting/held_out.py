"""Rows held out of a fit, by whose log-likelihood a training is ended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.data import Data
from neglog.errors import DataError
from neglog.objective.objective import of_rows
from neglog.solvers.watched import Watched


def with_held_out(data: Data, solver: Any) -> Data:
    """The rows of a fit by a solver, beside those that its `validation` holds out.

    Raises:
        DataError: rows that the data do not have, or none left on one side.
    """
    validation = getattr(solver, "validation", None)
    if validation is None:
        return data
    held = torch.zeros(data.rows, dtype=torch.bool)
    held[_numbers(data, validation, solver.seed)] = True
    out, kept = (rows.nonzero()[:, 0] for rows in (held, ~held))
    if not (len(out) and len(kept)):
        raise DataError(
            f"`validation` holds {len(out)} of {data.rows} rows out; there must be rows on both sides."
        )
    return replace(data.take(kept), held_out=data.take(out))


class Validated(Watched):
    """A problem with a loss of the held-out rows."""

    def __init__(self, problem: Any) -> None:
        super().__init__(problem)
        self._held_out = of_rows(problem.objective, problem.objective.data.held_out)

    @torch.no_grad()
    def held_out_loss(self, z: Tensor) -> float:
        """Minus the mean log-likelihood of a held-out row, in nats, at `z` `(K,)`."""
        held_out = self._held_out
        return float(-held_out.log_likelihood(self.problem.theta(z)).sum()) / held_out.data.count


def _numbers(data: Data, validation: Any, seed: int) -> Tensor:
    """The numbers of the rows that are held out."""
    if isinstance(validation, float):
        number = max(1, round(validation * data.rows))
        return torch.randperm(data.rows, generator=torch.Generator().manual_seed(seed))[:number]
    if hasattr(validation, "split") and not isinstance(validation, Tensor):
        _, rows = next(iter(validation.split(np.zeros((data.rows, 1)), data.y.numpy())))
        return torch.as_tensor(np.asarray(rows))
    rows = torch.as_tensor(np.asarray(validation))
    if rows.dtype == torch.bool and rows.shape == (data.rows,):
        return rows.nonzero()[:, 0]
    whole = rows.dim() == 1 and not rows.dtype.is_floating_point and rows.dtype != torch.bool
    if not (whole and bool(((rows >= 0) & (rows < data.rows)).all())):
        raise DataError(
            f"`validation` must be numbers of rows from 0 to {data.rows - 1}, or one True or False for each "
            f"of {data.rows} rows."
        )
    return rows.long()
