"""Rows held out of a fit, by whose log-likelihood a training is ended."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neglog.data import Data, prepare_fit
from neglog.designs import prepare_designs
from neglog.errors import DataError, reason_of
from neglog.inputs.blueprint import Blueprint
from neglog.objective.streamed import check_rows, nll_of
from neglog.solvers.settings import gives_other_rows, row_numbers
from neglog.solvers.watched import Watched
from neglog.streams.sources import held_by, pair_of
from neglog.streams.stream import Stream, stream_of


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
    if isinstance(validation, Dataset | DataLoader):
        held = held_by(validation, in_batches=False)
        if held is None:
            return _validated_by(solver, replace(stream_of(validation), validates=True))
        validation = pair_of(validation, held[0])
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
    return _validated_by(solver, HeldOut(x_read, y, weights, keywords))


def _validated_by(solver: Any, rows: HeldOut | Stream) -> Any:
    """The solver with these rows for validation."""
    solver = copy(solver)
    object.__setattr__(solver, "validation", rows)
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
    if isinstance(validation, Stream):
        return replace(data, held_out=replace(validation, dtype=data.y.dtype, roles=roles, like=data))
    if data.held_out is not None:
        return data  # of a stream, which was divided before its head was read
    kept, out = divided(data.rows, validation, solver.seed, data.y.numpy())
    return replace(data.take(kept), held_out=data.take(out))


def divided(rows: int, validation: Any, seed: int, y: Any = None) -> tuple[Tensor, Tensor]:
    """The numbers of the rows that are kept, and of those that a `validation` holds out.

    Raises:
        DataError: rows that there are not, or none left on one side.
    """
    held = torch.zeros(rows, dtype=torch.bool)
    held[_numbers(rows, validation, seed, y)] = True
    out, kept = (numbers.nonzero()[:, 0] for numbers in (held, ~held))
    if not (len(out) and len(kept)):
        raise DataError(
            f"`validation` holds {len(out)} of {rows} rows out; there must be rows on both sides."
        )
    return kept, out


def is_division(validation: Any) -> bool:
    """Whether a `validation` divides the rows of the fit: a share, a splitter, or numbers of rows."""
    return validation is not None and not isinstance(validation, HeldOut | Stream)


class Validated(Watched):
    """A problem with a loss of the held-out rows."""

    def __init__(self, problem: Any) -> None:
        super().__init__(problem)
        self._held_out = problem.objective.data.held_out
        if isinstance(self._held_out, Data):
            try:
                check_rows(problem.objective, self._held_out)
            except DataError as error:
                raise DataError(f"`validation`: {error}") from error

    @torch.no_grad()
    def held_out_loss(self, z: Tensor) -> float:
        """Minus the mean log-likelihood of a held-out row, in nats, at `z` `(K,)`."""
        theta = self.problem.theta(z.cpu()).to(z.device)
        nll, count = nll_of(self.problem.objective, self._held_out, theta)
        return nll / count


def _rows_of_splitter(size: int, splitter: Any, y: Any) -> np.ndarray:
    """The rows that the first split of a splitter of scikit-learn holds out.

    Raises:
        DataError: the splitter refuses these rows, or needs their groups.
    """
    try:
        return np.asarray(next(iter(splitter.split(np.zeros((size, 1)), y)))[1])
    except (ValueError, TypeError, IndexError, StopIteration) as error:
        is_class = isinstance(splitter, type)
        kind, reason = (splitter, "it is a class") if is_class else (type(splitter), reason_of(error))
        raise DataError(
            f"`validation`, {kind.__name__}, cannot split these {size} rows: {reason}. Give a share, such as "
            "0.1, or the numbers of the rows: next(splitter.split(x, y, groups))[1]."
        ) from error


def _numbers(size: int, validation: Any, seed: int, y: Any) -> Tensor:
    """The numbers of the rows that are held out, given the number of all."""
    if isinstance(validation, float):
        number = max(1, round(validation * size))
        return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:number]
    if hasattr(validation, "get_n_splits"):
        return torch.as_tensor(_rows_of_splitter(size, validation, y))
    found = row_numbers(validation)
    assert found is not None, "a checked setting"
    rows = torch.as_tensor(found.astype(bool if found.dtype.kind == "b" else np.int64))
    if rows.dtype == torch.bool and len(rows) == size:
        return rows.nonzero()[:, 0]
    if rows.dtype == torch.bool or not bool(((rows >= 0) & (rows < size)).all()):
        raise DataError(
            f"`validation` must be numbers of rows from 0 to {size - 1}, or one True or False for each "
            f"of {size} rows."
        )
    return rows
