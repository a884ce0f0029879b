"""Rows held out of a fit, by whose log-likelihood a training is ended."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neglog.data import Data, prepare_fit
from neglog.designs import prepare_designs
from neglog.errors import DataError
from neglog.inputs.blueprint import Blueprint
from neglog.objective.objective import of_rows
from neglog.solvers.settings import gives_other_rows, row_numbers
from neglog.solvers.watched import Watched


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Further rows for validation, as arrays."""

    x: Any
    y: Any
    weights: Any
    keywords: Mapping[str, Any]

    def data(self, fitted: Data, roles: Any) -> Data:
        """These rows as validated data, with the columns of the rows that are fitted.

        Raises:
            DataError: other columns, no response, or as `prepare`.
        """
        dtype, missing = fitted.y.dtype, sorted(set(fitted.keywords) - set(self.keywords))
        if self.y is None:
            raise DataError("`validation` has no response; give (x, y), or {'x': x, 'y': y}.")
        if missing:
            raise DataError(
                f"`validation` needs `{missing[0]}` too: {{'x': x, 'y': y, {missing[0]!r}: ...}}."
            )
        try:
            x, columns = prepare_designs(self.x, dtype=dtype, columns=fitted.columns, network=roles.network)
            data = prepare_fit(x, self.y, weights=self.weights, dtype=dtype, roles=roles, **self.keywords)
        except DataError as error:
            raise DataError(f"`validation`: {error}") from error
        return replace(data, columns=columns, without_intercept=fitted.without_intercept)


def reading(solver: Any, blueprint: Blueprint | None) -> Any:
    """The solver with the rows of its `validation` read as those of the fit were."""
    validation = getattr(solver, "validation", None)
    rows = _rows_of(validation)
    if rows is None:
        return solver
    blueprint = blueprint or Blueprint()
    x, y, weights, keywords = (rows.pop("x"), rows.pop("y", None), rows.pop("weights", None), rows)
    x_read, keywords = blueprint.read(x, keywords, tuple(blueprint.roles), {})
    weights = keywords.pop("weights", weights)
    keywords.pop("groups", None)
    is_table = y is None and blueprint.is_table(x, {})
    y = blueprint.response(x) if is_table else (None if y is None else blueprint.codes(y))
    solver = copy(solver)
    object.__setattr__(solver, "validation", HeldOut(x_read, y, weights, keywords))
    return solver


def _rows_of(validation: Any) -> dict[str, Any] | None:
    """The arguments of rows that were given for validation; None of a share, a splitter or row numbers."""
    if validation is None or not gives_other_rows(validation):
        return None
    if isinstance(validation, tuple):
        return {"x": validation[0], "y": validation[1]}
    return dict(validation) if isinstance(validation, Mapping) else {"x": validation}


def with_held_out(data: Data, solver: Any, roles: Any) -> Data:
    """The rows of a fit by a solver, beside those that its `validation` holds out.

    Raises:
        DataError: rows that the data do not have, or none left on one side; other rows that do not fit.
    """
    validation = getattr(solver, "validation", None)
    if validation is None:
        return data
    if isinstance(validation, HeldOut):
        return replace(data, held_out=validation.data(data, roles))
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
        self._check_response()

    def _check_response(self) -> None:
        """Raise DataError for a response that no model of this support can have."""
        held_out = self._held_out
        y = held_out.data.y
        with torch.no_grad():
            support = held_out.response(held_out.initial).support
        possible = support.check(y).reshape(len(y), -1).all(1) | y.isnan().reshape(len(y), -1).any(1)
        if not bool(possible.all()):
            row = int((~possible).nonzero()[0, 0])
            raise DataError(
                f"`validation` has a response that `{held_out.name}` cannot have: row "
                f"{held_out.data.row(row)} has {y[row].tolist()}."
            )

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
    if hasattr(validation, "get_n_splits"):
        _, rows = next(iter(validation.split(np.zeros((data.rows, 1)), data.y.numpy())))
        return torch.as_tensor(np.asarray(rows))
    found = row_numbers(validation)
    assert found is not None, "a checked setting"
    rows = torch.as_tensor(found.astype(bool if found.dtype.kind == "b" else np.int64))
    if rows.dtype == torch.bool and len(rows) == data.rows:
        return rows.nonzero()[:, 0]
    if rows.dtype == torch.bool or not bool(((rows >= 0) & (rows < data.rows)).all()):
        raise DataError(
            f"`validation` must be numbers of rows from 0 to {data.rows - 1}, or one True or False for each "
            f"of {data.rows} rows."
        )
    return rows
