"""The log-likelihood of rows and its derivatives as a graph.

The model and its derivatives are traced once, for any number of rows, and evaluated from then on by torch or
NumPy, without the model, its handlers and autograd. A graph is kept for further fits of the same model in the
process, and is compared with the model at the beginning of each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from threading import Lock
from types import FunctionType
from typing import Any

from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor

from neglog.graphs.graph import trace_rows
from neglog.graphs.nodes import Nodes
from neglog.graphs.staged import BOTH, NUMBERS, ROWS, Stages, staged
from neglog.handlers import Model, changes_priors_alone
from neglog.layers import layers
from neglog.likelihood.eager import EagerRows, Probe
from neglog.likelihood.rows import (
    CURVATURES,
    SLOPES,
    Output,
    RowLikelihood,
    Rows,
    Terms,
    agrees,
    count,
    named,
)

MAX_TRACED_INPUTS = 16
"""Above this many predictors and constants a graph of all second derivatives takes longer than it saves."""
ODD = (29, 31, 37, 41, 43, 47)
"""Numbers of rows for tracing: the first that differs from all other sizes of the problem is used."""
COMPARED_ROWS = 1009
"""Rows on which a graph and its model are compared."""
MAX_KEPT_GRAPHS = 128
"""The number of graphs that are kept for further fits."""


@dataclass(frozen=True, eq=False)
class GraphRows:
    """`RowLikelihood` by replaying a graph, with NumPy where rows are few, else with torch.

    Attributes:
        predictors, places: see `RowLikelihood`.
        graph: its outputs are those of `neglog.likelihood.rows.listed`.
        kinds: whether each of its inputs changes with the rows, the constants, or both.
        used: its inputs, among the constants, the predictors and the tensors of the data.
        constants: tensors that it holds.
        stages: graphs of some outputs, by these and whether NumPy evaluates them.
    """

    predictors: tuple[Output, ...]
    places: Tensor
    graph: Nodes = field(repr=False)
    kinds: tuple[str, ...]
    used: tuple[int, ...]
    constants: tuple[Tensor, ...] = field(repr=False)
    stages: dict[tuple[range, bool], Stages] = field(default_factory=dict, repr=False)
    held: set[bool] = field(default_factory=set, repr=False)
    """Backends already verified against eager evaluation: for few rows (True), for many (False)."""

    def evaluate(self, order: int, constants: Tensor, predictors: Sequence[Tensor], rows: Rows) -> Terms:
        """The terms up to an order at the constants `(C,)` and the predictors, `(N,)` each."""
        n_predictors, n_constants = len(self.predictors), len(self.places)
        found = self._outputs(range(count(order, n_predictors, n_constants)), constants, predictors, rows)
        return named(order, found, n_predictors, n_constants)

    def slopes(self, constants: Tensor, predictors: Sequence[Tensor], rows: Rows) -> Sequence[Tensor]:
        """The derivatives in the predictors alone, `(N,)` each."""
        return self._outputs(range(2, 2 + len(self.predictors)), constants, predictors, rows)

    def _outputs(
        self, wanted: range, constants: Tensor, predictors: Sequence[Tensor], rows: Rows
    ) -> Sequence[Tensor]:
        """Some of the outputs of the graph, which are those of `neglog.likelihood.rows.listed`."""
        stages = self._stages(wanted, rows.few)
        values: list[Any] = [rows.data.rows, constants, *predictors, *rows.parts]
        own, both, numbers = ([values[i] for i in places] for places in self._inputs)
        known = rows.kept.get(stages)
        if known is None:
            known = self._of_rows(wanted, own, rows)
        return stages.outputs(both, known, numbers)

    def _of_rows(self, wanted: range, given: Sequence[Any], rows: Rows) -> Sequence[Any]:
        """The subexpressions of the data alone; for all terms at once, if they are cached."""
        stages = self._stages(wanted, rows.few)
        if rows.room and not all(node in rows.kept for node in stages.rows):
            # Slopes alone are wanted where nothing else will be.
            full = self._stages(self.all if wanted.start == 0 else wanted, rows.few)
            rows.keep(dict(zip(full.rows, full.known(given), strict=True)))
        if all(node in rows.kept for node in stages.rows):
            rows.kept[stages] = [rows.kept[node] for node in stages.rows]
            return rows.kept[stages]
        return stages.known(given)

    @cached_property
    def _inputs(self) -> list[list[int]]:
        """The inputs that change with the rows alone, with both, and with the constants alone.

        The first of all inputs is the number of rows; it precedes the constants, predictors and data.
        """
        places = list(zip(self.kinds, (0, *(1 + i for i in self.used)), strict=True))
        return [[place for kind, place in places if kind == wanted] for wanted in (ROWS, BOTH, NUMBERS)]

    def _stages(self, wanted: range, arrays: bool) -> Stages:
        if (wanted, arrays) not in self.stages:
            self.stages[wanted, arrays] = staged(self.graph, self.constants, self.kinds, wanted, arrays)
        return self.stages[wanted, arrays]

    @property
    def all(self) -> range:
        """The numbers of all outputs."""
        return range(count(CURVATURES, len(self.predictors), len(self.places)))


# Graphs that are kept


class _Shelf:
    """Graphs of the models that were fitted last, by what these are made of."""

    def __init__(self) -> None:
        self.graphs: OrderedDict[Hashable, GraphRows] = OrderedDict()
        self.lock = Lock()

    def get(self, key: Hashable) -> GraphRows | None:
        with self.lock:
            if key in self.graphs:
                self.graphs.move_to_end(key)
            return self.graphs.get(key)

    def put(self, key: Hashable, graph: GraphRows) -> None:
        with self.lock:
            self.graphs[key] = graph
            while len(self.graphs) > MAX_KEPT_GRAPHS:
                self.graphs.popitem(last=False)


_SHELF = _Shelf()


def graph_of(eager: EagerRows, rows: Rows, probe: Probe | None = None) -> GraphRows | str:
    """The terms of a model's rows as a graph, or why it has none.

    A kept graph is compared with a `probe` of the model, whose data are the `rows`, or without one with
    the model in full.
    """
    # Where rows are many, samples of them are few.
    ways = {rows.few, Rows.of(eager.data.take(slice(0, 1))).few}
    size = sum(site.size for site in eager.sites)
    if size + len(eager.predictors) > MAX_TRACED_INPUTS:
        return f"it has {len(eager.predictors)} predictors and {size} constants"
    key = _key(eager)
    known = None if key is None else _SHELF.get(key)
    if known is not None and _is_current(known, eager, rows, probe, ways):
        return replace(known, places=eager.places)
    try:
        found = _traced(eager)
    except Exception as error:  # whatever torch cannot trace, the model itself can be run
        return f"it cannot be traced: {error}"
    if not _holds(found, eager, ways):
        return "its graph does not reproduce the values of the model"
    if key is not None:
        _SHELF.put(key, found)
    return found


def _is_current(known: GraphRows, eager: EagerRows, rows: Rows, probe: Probe | None, ways: set[bool]) -> bool:
    """Whether a stored graph still agrees with the model, of which global variables may have changed."""
    if probe is None:
        return _holds(replace(known, held=set()), eager, ways)
    is_held = ways <= known.held or _holds(known, eager, ways)
    return is_held and agrees_with_probe(known, probe, rows)


def is_kept(eager: EagerRows) -> bool:
    """Whether a graph of a model's rows is kept from an earlier fit."""
    key = _key(eager)
    return key is not None and _SHELF.get(key) is not None


def _traced(eager: EagerRows) -> GraphRows:
    sizes = {n for part in eager.data.parts().values() for n in part.shape[1:]} | {len(eager.predictors)}
    sizes |= {site.size for site in eager.sites}
    rows = next(n for n in ODD if n not in sizes)
    inputs = eager.inputs(rows)
    graph, used, constants = trace_rows(eager.derivatives, inputs, rows)
    groups = [NUMBERS, *[BOTH] * len(eager.predictors), *[ROWS] * len(eager.data.parts())]
    kinds = (ROWS, *(groups[i] for i in used))
    return GraphRows(eager.predictors, eager.places, graph, kinds, used, constants)


def _holds(found: GraphRows, eager: EagerRows, ways: set[bool]) -> bool:
    """Whether a graph agrees with the model on some rows, evaluated by the backend for few or for many."""
    inputs = eager.inputs(min(eager.data.rows, COMPARED_ROWS))
    constants, etas, parts = (
        inputs[0],
        inputs[1 : 1 + len(eager.predictors)],
        inputs[1 + len(eager.predictors) :],
    )
    data = eager.data.made_of(dict(zip(eager.data.parts(), parts, strict=True)))
    known = eager.derivatives(*inputs)
    for few in ways - found.held:
        if not agrees(found, CURVATURES, (constants, etas, Rows(data, few=few)), known):
            return False
        found.held.add(few)
    return True


def agrees_with_probe(found: RowLikelihood, probe: Probe, rows: Rows) -> bool:
    """Whether a graph, or formulas, agree with the recorded values of the model."""
    where = probe.constants, [eta.detach() for eta in probe.etas], rows
    return agrees(found, SLOPES, where, probe.first)


def _key(eager: EagerRows) -> Hashable | None:
    """A key of everything that determines how a model's rows are computed; None if there is none."""
    kind = _kind(eager.model)
    if kind is None:
        return None
    sites = tuple((site.name, site.unconstrained, site.shape, str(site.fn.support)) for site in eager.sites)
    parts = eager.data.parts().items()
    # Designs of any width: few models read them, and the graph is compared with the model.
    read = tuple((name, part.dtype, part.shape[1:] if name[0] != "x" else ()) for name, part in parts)
    return kind, eager.predictors, sites, read


def _is_small(data: Mapping[str, Any]) -> bool:
    return all(isinstance(value, Tensor) and value.numel() <= MAX_TRACED_INPUTS for value in data.values())


def _fixed(data: Mapping[str, Tensor]) -> Hashable:
    """The values of sites that were conditioned."""
    return tuple((name, v.dtype, v.shape, *v.reshape(-1).tolist()) for name, v in data.items())


def _kind(model: Model) -> Hashable | None:
    """The function inside and the layers around it that change the rows; None where one is unknown."""
    keys = [_layer_key(layer) for layer in layers(model) if not changes_priors_alone(_handler(layer))]
    return None if any(key is None for key in keys) else tuple(keys)


def _handler(layer: Any) -> Any:
    """The handler that a layer of a model applies; None if it is another kind of layer."""
    return layer.args[0] if isinstance(layer, partial) and len(layer.args) > 1 else None


def _layer_key(layer: Any) -> Hashable | None:
    """A key of a layer: layers with the same key compute the rows equally; None if that is not known."""
    handler = _handler(layer)
    if isinstance(handler, ConditionMessenger) and _is_small(handler.data):
        return _fixed(handler.data)
    if hasattr(handler, "row_key"):
        return handler.row_key
    if isinstance(layer, partial):
        return _words_key(layer)
    if isinstance(layer, FunctionType):
        return layer
    if hasattr(layer, "row_keywords"):  # an offset, of which a predictor that is handed in has its share
        return (type(layer),)
    return (type(layer), layer.lower, layer.upper) if hasattr(layer, "row_bounds") else None


def _words_key(layer: partial[Any]) -> Hashable | None:
    """The keywords that a layer sets; None where one is no plain value, or where it sets other arguments."""
    words = tuple(layer.keywords.items())
    are_plain = all(isinstance(word, str | int | float | bool | None) for _, word in words)
    return words if are_plain and not layer.args else None
