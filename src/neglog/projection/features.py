"""Learned features: the designs of a network's heads as functions of its weights, also row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import pyro
import torch
from torch import Tensor
from torch.func import vmap

from neglog.graphs.graph import trace_rows
from neglog.likelihood.graph import ODD
from neglog.likelihood.replay import replayed
from neglog.likelihood.rows import gradients
from neglog.objective.objective import Objective
from neglog.projection.heads import Headed
from neglog.tracing import Run, run

FEATURE_TOLERANCE = 1e-9
"""Largest relative difference between features of rows one by one and of all rows together."""
PROBED_ROWS = 8
"""Rows on which the two are compared."""

Row = Callable[..., tuple[Tensor, ...]]
"""From the weights `(K,)` and the numbers of one row to its features, `(F,)` for each design."""


class Features:
    """The designs `(N, F)` of a network's heads as a function of the trunk's weights `(K,)`.

    They are replayed (`neglog.graphs.graph`) where that is possible. Heads on the same features share a
    design: `design` has the index of each head's.
    """

    def __init__(self, objective: Objective, network: Headed) -> None:
        self.objective, self.network = objective, network
        self.data = replace(objective.data, weights=None)
        self.parts = list(self.data.parts().values())
        # Heads that are not inside are weights of the outer problem, and no feature depends on them.
        self.places = network.outer
        at = objective.initial[self.places]
        with torch.no_grad():
            found = self._of_calls(at, *self.parts)
        numbers = list(dict.fromkeys(map(id, found)))
        self.chosen = [next(i for i, each in enumerate(found) if id(each) == number) for number in numbers]
        by_call = {
            call.name: numbers.index(id(each)) for call, each in zip(network.calls, found, strict=True)
        }
        self.design = [by_call[head.predictor] for head in network.heads]
        self.replay = replayed(self._designs, at, self.parts, None, False)

    def __call__(self, weights: Tensor) -> Sequence[Tensor]:
        """The designs at some weights `(K,)`, differentiable in these."""
        found: Sequence[Tensor] = self.replay.evaluate(weights)
        return found

    def slopes(self, weights: Tensor, coefficients: Sequence[Tensor], rows: slice) -> Tensor | None:
        """The derivatives `(O, M, K)` of O heads in the weights, in M rows; None if rows are dependent.

        Each row has its own copy of the weights, so that one backward pass per head has all derivatives.
        """
        if self._row is None:
            return None
        row, numbers = self._row
        few = [part[rows] for part in numbers]
        own = weights.expand(len(few[0]), -1).detach().requires_grad_()

        def heads(own: Tensor, *numbers: Tensor) -> Tensor:
            designs = row(own, *numbers)
            each = zip(self.design, coefficients, strict=True)
            return torch.stack([designs[at] @ of_head[1:] for at, of_head in each])

        with torch.enable_grad():
            found = [head.sum() for head in vmap(heads)(own, *few).unbind(1)]
        return torch.stack([gradients(head, [own])[0] for head in found])

    @cached_property
    def _row(self) -> tuple[Row, list[Tensor]] | None:
        """The features of a row, and the tensors of rows that it takes; None if they depend on other rows."""
        weights = self.objective.initial[self.places] + 2.0**-6
        try:
            row, numbers = self._traced(weights)
            few = [part[:PROBED_ROWS] for part in numbers]
            with torch.no_grad():
                apart = vmap(row, in_dims=(None, *(0 for _ in few)))(weights, *few)
                whole = [design[:PROBED_ROWS] for design in self(weights)]
        except Exception:  # torch cannot trace or vectorise the network: steps do without these derivatives
            return None
        same = all(
            torch.allclose(a, b, FEATURE_TOLERANCE, FEATURE_TOLERANCE)
            for a, b in zip(apart, whole, strict=True)
        )
        return (row, numbers) if same and few else None

    def _traced(self, weights: Tensor) -> tuple[Row, list[Tensor]]:
        sizes = {n for site in self.objective.sites.values() for n in site.shape}
        sizes |= {n for part in self.parts for n in part.shape[1:]}
        rows = next(n for n in ODD if n not in sizes)
        index = torch.arange(rows) % self.data.rows
        few = [part.index_select(0, index) for part in self.parts]
        with torch.no_grad():
            graph, used, constants = trace_rows(self._designs, [weights, *few], rows)
        module = graph.module()
        forward = type(module).forward
        takes = 0 in used

        def row(own: Tensor, *numbers: Tensor) -> tuple[Tensor, ...]:
            given = [each[None] for each in numbers]
            found = forward(module, 1, *([own] if takes else []), *given, *constants)
            return tuple(design[0] for design in found)

        return row, [self.parts[i - 1] for i in used if i]

    def _designs(self, weights: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        found = self._of_calls(weights, *parts)
        return tuple(found[i] for i in self.chosen)

    def _of_calls(self, weights: Tensor, *parts: Tensor) -> list[Tensor]:
        """The designs of the predictors, by running the model with the values of its heads replaced."""
        objective, network = self.objective, self.network
        data = self.data.made_of(dict(zip(self.data.parts(), parts, strict=True)))
        theta = objective.initial.index_copy(0, self.places, weights)
        etas = {call.name: call.constant(data.rows).detach() for call in network.calls}
        with pyro.validation_enabled(False):
            ran = run(objective.model, data, Run(objective.layout.params(theta), etas=etas))
        by_name = {call.name: call.design for call in ran.affines}
        return [by_name[call.name] for call in network.calls]
