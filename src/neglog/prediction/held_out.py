"""Scores of all held-out rows together, collected fold by fold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from neglog.errors import NeglogError
from neglog.fitting.estimates import mle
from neglog.fitting.fit import Fit
from neglog.handlers import Model
from neglog.prediction.accuracy import SUMMARIES, Summary
from neglog.prediction.predictions import predict
from neglog.prediction.scoring import complete, without_nan


@dataclass(frozen=True)
class Together:
    """The scores of all held-out rows together, of which the parts are collected by folds."""

    summaries: Mapping[str, Summary]
    null: Fit | None
    parts: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    @classmethod
    def of(cls, names: Iterable[str], model: Model, y: Any, **rows: Any) -> Together:
        """Those among the names of scores, with the null model of all rows where one of them needs it."""
        chosen = {name: SUMMARIES[name] for name in names if name in SUMMARIES}
        needs_null = any(each.needs_null for each in chosen.values())
        return cls(chosen, _null(model, y, rows) if needs_null else None)

    def parts_of(self, response: Any, y: Tensor, keywords: Mapping[str, Any]) -> dict[str, Tensor]:
        """The part of each score of some rows, with their predictive distribution.

        Raises:
            DataError: a `y` is missing, or a part is not a number.
            ModelError: a score is not defined for the response.
        """
        null = None if self.null is None else predict(self.null, _no_columns(len(y)), **keywords)
        parts = {}
        for name, summary in self.summaries.items():
            complete(y, f"score {name!r}")
            parts[name] = summary.parts(response, null, y)
            without_nan(parts[name].sum(-1), name)
        return parts

    def add(self, out: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Collect the parts of the rows `out`."""
        for name, found in parts.items():
            self.parts.setdefault(name, []).append((out, found))

    def scores(self, weights: Tensor) -> dict[str, Tensor]:
        """Values `(N,)` of each score, whose mean is the score, in the order of rows and then of folds.

        Raises:
            DataError: it is not defined for the rows.
        """
        found = {}
        for name, folds in self.parts.items():
            order = torch.cat([out for out, _ in folds]).argsort(stable=True)
            found[name] = self.summaries[name].rows(torch.cat([part for _, part in folds])[order], weights)
        return found


def _null(model: Model, y: Any, rows: Mapping[str, Any]) -> Fit:
    """The fit without columns, to all rows.

    Raises:
        NeglogError: there is none.
    """
    try:
        return mle(model, _no_columns(len(y)), y, **rows)
    except NeglogError as error:
        raise type(error)(f"the null model of 'd2', without columns, cannot be fitted: {error}") from error


def _no_columns(rows: int) -> Tensor:
    return torch.zeros((rows, 0), dtype=torch.float64)
