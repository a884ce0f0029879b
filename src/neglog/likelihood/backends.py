"""Backends of the likelihood of rows: formulas, a graph, or running the model; and which of them to take."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cached_property

from torch import Tensor

from neglog.handlers import Model
from neglog.likelihood.eager import EagerRows
from neglog.likelihood.formulas import FormulaRows, formula_of
from neglog.likelihood.graph import GraphRows, graph_of, is_kept
from neglog.likelihood.rows import RowLikelihood, Rows
from neglog.likelihood.sites import Layout
from neglog.likelihood.structure import ModelStructure

MAX_SHORT_LOSS = 40
"""Above this many operations the trace of a loss costs more than some evaluations without it."""
TRIALS, MAX_TRIAL_ROWS = 40, 1000
"""Evaluations of a long loss before it is traced, where its rows are no more than the second number."""


class Backends:
    """The log-likelihood of the rows of a model as a function of its predictors, by each backend.

    Args:
        model: the model, without the weights of its rows.
        structure: its structure.
        layout: its vector of parameters.
        start: the vector `(K,)` at which the model was run first.
        rows: the rows that are evaluated.
        in_blocks: whether they are evaluated in blocks.
    """

    def __init__(
        self,
        model: Model,
        structure: ModelStructure,
        layout: Layout,
        start: Tensor,
        rows: Rows,
        in_blocks: bool,
    ) -> None:
        self.model, self.structure, self.layout, self.start = model, structure, layout, start
        self.rows, self.in_blocks, self.requests = rows, in_blocks, 0

    def of_rows(self, structure: ModelStructure, rows: Rows, in_blocks: bool) -> Backends:
        """The backends of the same model on other rows: those that are known are kept."""
        other = copy(self)
        other.structure, other.rows, other.in_blocks, other.requests = structure, rows, in_blocks, 0
        return other

    def likelihood(self, *, derivatives: bool = True, once: bool = False) -> RowLikelihood:
        """The backend to take: formulas; else a graph; else running the model.

        Each call for `derivatives` counts as an evaluation. A long loss of few rows takes as long to trace
        as some thirty of these. A model of many optima is fitted from several points, which takes more.

        Args:
            derivatives: whether derivatives are wanted.
            once: whether so few evaluations follow that a graph of few rows does not repay.
        """
        if not self.in_blocks:
            if self.formula is not None:
                return self.formula
            if once:
                known = self.__dict__.get("graph")  # if it has been made before
                return known if isinstance(known, GraphRows) else self.eager
        if "graph" not in self.__dict__ and self._may_be_short:
            self.requests += derivatives
            if self.requests <= TRIALS and not is_kept(self.eager):
                return self.eager
        return self.graph if isinstance(self.graph, GraphRows) else self.eager

    @property
    def _may_be_short(self) -> bool:
        """Whether a fit may end before the trace of its loss repays."""
        return (
            self.structure.is_linear
            and self.rows.data.rows <= MAX_TRIAL_ROWS
            and not self.structure.initial_points
            and self.structure.probe.is_longer(MAX_SHORT_LOSS)
        )

    @cached_property
    def eager(self) -> EagerRows:
        """The likelihood of the rows by running the model."""
        still = {name: value.detach() for name, value in self.layout.params(self.start).items()}
        return EagerRows(
            self.model, self.rows.data, self.structure.calls, self.structure.constant_sites, still
        )

    @cached_property
    def graph(self) -> GraphRows | str:
        """The likelihood of the rows as a graph; or why there is none."""
        if not self.structure.is_linear:
            return "it is not a function of linear predictors"
        seen = self.structure.probe
        whole = seen.data is self.rows.data
        return graph_of(self.eager, self.rows if whole else replace(self.rows, data=seen.data, kept={}), seen)

    @cached_property
    def formula(self) -> FormulaRows | None:
        """The likelihood of the rows by formulas, if the response has them."""
        if self.structure.law.standard is None or not self.structure.is_linear:
            return None
        seen = self.structure.probe
        return formula_of(self.structure.response, seen, self.layout.sites, Rows.of(seen.data))
