"""Row by row: minus the log-likelihood of some rows, and what it changes by with predictors and constants.

A model that is cut at its linear predictors is a function of a few numbers a row, the predictors, and of a
few numbers that all rows share. It and its derivatives are traced once, for any number of rows, and replayed
from then on, without the model, its handlers and autograd. A graph that was traced is kept for further fits
of the same model in the process, and is held against the model at the beginning of each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import accumulate
from threading import Lock
from types import FunctionType
from typing import Any, Protocol

import torch
from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor, fx

from neglog.data import Data
from neglog.graphs.graph import trace_rows
from neglog.graphs.staged import BOTH, NUMBERS, ROWS, Stages, staged
from neglog.handlers import Model, changes_priors_alone
from neglog.layers import layers
from neglog.objective.cuts import Cut, Head, Look
from neglog.objective.replay import agree
from neglog.objective.sites import Site

MAX_TRACED_INPUTS = 16
"""Above this many predictors and constants a graph of all second derivatives is too long to repay."""
ODD = (29, 31, 37, 41, 43, 47)
"""Numbers of rows to trace with: one that is no other size of the problem."""
COMPARED_ROWS = 1009
"""Rows on which a graph and its model are compared."""
MAX_NUMPY_ROWS = 10_000
"""Up to this many rows are evaluated in NumPy, which takes less time to call; torch is faster at many."""
MAX_KEPT_GRAPHS = 64
"""The number of graphs that are kept for further fits."""


@dataclass(frozen=True)
class Terms:
    """The loss of some rows and its derivatives, at some predictors and constants, as far as asked for.

    `slopes` are those in each predictor, `(N,)` each, and `own` `(C,)` those in the constants; `bends[j][k]`
    the second ones in two predictors, for k ≤ j; `own_bends` `(C, C)` and `crosses[c][j]` those in constants,
    and in a constant and a predictor.
    """

    value: Tensor
    own: Tensor | None = None
    slopes: Sequence[Tensor] = ()
    own_bends: Tensor | None = None
    crosses: Sequence[Sequence[Tensor]] = ()
    bends: Sequence[Sequence[Tensor]] = ()


VALUE, VALUE_AND_SLOPES, ALL_TERMS, SLOPES = "value", "value and slopes", "all", "slopes"
"""What of the terms is wanted; the slopes are those in the predictors alone."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of some data, as graphs read them; what they come to by themselves is kept if they are few."""

    data: Data
    room: int = 0
    """So many bytes of it are kept."""
    few: bool = False
    """Whether they are evaluated in arrays."""
    kept: dict[fx.Node, Any] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(data: Data, room: int = 0) -> Rows:
        """The rows of some data, evaluated as is best for so many."""
        return Rows(data, room, data.rows <= MAX_NUMPY_ROWS and data.y.dtype == torch.float64)

    @cached_property
    def parts(self) -> list[Tensor]:
        return list(self.data.parts().values())

    def keep(self, found: Mapping[fx.Node, Any]) -> None:
        """Keep what rows come to, if there is room for it."""
        own = {part.data_ptr() for part in self.parts}
        tensors = [v for v in found.values() if isinstance(v, Tensor) and v.data_ptr() not in own]
        if self.few or sum(v.untyped_storage().nbytes() for v in tensors) <= self.room:
            self.kept.update(found)


class RowTerms(Protocol):
    """The terms of a model's rows, without a run of the model; `places` `(C,)` are its constants in theta."""

    @property
    def heads(self) -> tuple[Head, ...]: ...

    @property
    def places(self) -> Tensor: ...

    def terms(self, what: str, numbers: Tensor, etas: Sequence[Tensor], rows: Rows) -> Terms: ...

    def evaluated(
        self, what: str, numbers: Tensor, etas: Sequence[Tensor], rows: Rows
    ) -> Sequence[Tensor]: ...


@dataclass(frozen=True, eq=False)
class Rowwise:
    """The terms of a model's rows, replayed.

    `places` `(C,)` are those of the constants in theta.
    """

    heads: tuple[Head, ...]
    places: Tensor
    graph: fx.Graph = field(repr=False)
    kinds: tuple[str, ...]
    used: tuple[int, ...]
    constants: tuple[Tensor, ...] = field(repr=False)
    stages: dict[tuple[str, bool], Stages] = field(default_factory=dict, repr=False)
    held: set[bool] = field(default_factory=set, repr=False)
    """Whether few rows, and whether many, were held against the model in full."""

    def terms(self, what: str, numbers: Tensor, etas: Sequence[Tensor], rows: Rows) -> Terms:
        """The terms at the constants `numbers` `(C,)` and the predictors `etas`, `(N,)` each."""
        return self._named(what, self.evaluated(what, numbers, etas, rows))

    def evaluated(self, what: str, numbers: Tensor, etas: Sequence[Tensor], rows: Rows) -> Sequence[Tensor]:
        """The terms one after the other."""
        stages = self._stages(what, rows.few)
        given = self._given(numbers, etas, rows)
        body = [value for kind, value in given if kind == BOTH]
        known = self._of_rows(what, [value for kind, value in given if kind == ROWS], rows)
        return stages.outputs(body, known, [value for kind, value in given if kind == NUMBERS])

    def _of_rows(self, what: str, given: Sequence[Any], rows: Rows) -> Sequence[Any]:
        """What the data alone come to; for all terms at once, if it is to be kept."""
        stages = self._stages(what, rows.few)
        if rows.room and not all(node in rows.kept for node in stages.rows):
            full = stages if what == SLOPES else self._stages(ALL_TERMS, rows.few)
            rows.keep(dict(zip(full.rows, full.known(given), strict=True)))
        if all(node in rows.kept for node in stages.rows):
            return [rows.kept[node] for node in stages.rows]
        return stages.known(given)

    def _given(self, numbers: Tensor, etas: Sequence[Tensor], rows: Rows) -> list[tuple[str, Any]]:
        values: list[Any] = [numbers, *etas, *rows.parts]
        chosen = [rows.data.rows, *(values[i] for i in self.used)]
        return list(zip(self.kinds, chosen, strict=True))

    def _stages(self, what: str, arrays: bool) -> Stages:
        if (what, arrays) not in self.stages:
            first, count = 2 + len(self.heads), self._count
            wanted = {
                VALUE: [0],
                VALUE_AND_SLOPES: range(first),
                ALL_TERMS: range(count),
                SLOPES: range(2, first),
            }[what]
            self.stages[what, arrays] = staged(self.graph, self.constants, self.kinds, wanted, arrays)
        return self.stages[what, arrays]

    @property
    def _count(self) -> int:
        heads, own = len(self.heads), len(self.places)
        return 2 + heads + own * (1 + heads) + heads * (heads + 1) // 2

    def _named(self, what: str, found: Sequence[Tensor]) -> Terms:
        if what == VALUE:
            return Terms(found[0])
        heads, own = len(self.heads), len(self.places)
        terms = Terms(found[0], found[1], found[2 : 2 + heads])
        return (
            terms
            if what == VALUE_AND_SLOPES
            else replace(terms, **_second_of(found[2 + heads :], heads, own))
        )


def _second_of(found: Sequence[Tensor], heads: int, own: int) -> dict[str, Any]:
    """The second derivatives in the order in which `_derivatives` gives them."""
    rows = [found[c * (1 + heads) : (c + 1) * (1 + heads)] for c in range(own)]
    rest, ends = found[own * (1 + heads) :], list(accumulate(range(heads + 1)))
    return {
        "own_bends": torch.stack([row[0] for row in rows]) if rows else found[0].new_zeros((0, 0)),
        "crosses": [row[1:] for row in rows],
        "bends": [rest[ends[j] : ends[j + 1]] for j in range(heads)],
    }


# Graphs that are kept


class _Shelf:
    """Graphs of the models that were fitted last, by what these are made of."""

    def __init__(self) -> None:
        self.graphs: OrderedDict[Hashable, Rowwise] = OrderedDict()
        self.lock = Lock()

    def get(self, key: Hashable) -> Rowwise | None:
        with self.lock:
            if key in self.graphs:
                self.graphs.move_to_end(key)
            return self.graphs.get(key)

    def put(self, key: Hashable, rowwise: Rowwise) -> None:
        with self.lock:
            self.graphs[key] = rowwise
            while len(self.graphs) > MAX_KEPT_GRAPHS:
                self.graphs.popitem(last=False)


_SHELF = _Shelf()


def rowwise_of(cut: Cut, rows: Rows, look: Look | None = None) -> Rowwise | str:
    """The terms of a model's rows as a graph, or why it has none.

    A graph that is kept is held against a `look` at the model, whose data are the `rows`; without one it is
    held against the model in full.
    """
    # Where rows are many, samples of them are few.
    ways = {rows.few, Rows.of(cut.data.take(slice(0, 1))).few}
    size = sum(site.size for site in cut.sites)
    if size + len(cut.heads) > MAX_TRACED_INPUTS:
        return f"it has {len(cut.heads)} predictors and {size} constants"
    key = _key(cut)
    known = None if key is None else _SHELF.get(key)
    if known is not None and _is_current(known, cut, rows, look, ways):
        return replace(known, places=_places(cut.sites))
    try:
        found = _traced(cut)
    except Exception as error:  # whatever it is that torch cannot trace, the model itself can still be run
        return f"it cannot be traced: {error}"
    if not _holds(found, cut, ways):
        return "its graph does not say what the model says"
    if key is not None:
        _SHELF.put(key, found)
    return found


def _is_current(known: Rowwise, cut: Cut, rows: Rows, look: Look | None, ways: set[bool]) -> bool:
    """Whether a stored graph still agrees with the model, of which global variables may have changed."""
    if look is None:
        return _holds(replace(known, held=set()), cut, ways)
    return _holds(known, cut, ways) and says_what_was_seen(known, look, rows)


def is_kept(cut: Cut) -> bool:
    """Whether a graph of a model's rows is kept from an earlier fit."""
    key = _key(cut)
    return key is not None and _SHELF.get(key) is not None


def _places(sites: Sequence[Site]) -> Tensor:
    return torch.cat([torch.arange(0), *(torch.arange(site.place.start, site.place.stop) for site in sites)])


def _traced(cut: Cut) -> Rowwise:
    sizes = {n for part in cut.data.parts().values() for n in part.shape[1:]} | {len(cut.heads)}
    sizes |= {site.size for site in cut.sites}
    rows = next(n for n in ODD if n not in sizes)
    inputs = cut.inputs(rows)
    graph, used, constants = trace_rows(cut.derivatives, inputs, rows)
    groups = [NUMBERS, *[BOTH] * len(cut.heads), *[ROWS] * len(cut.data.parts())]
    kinds = (ROWS, *(groups[i] for i in used))
    return Rowwise(cut.heads, _places(cut.sites), graph, kinds, used, constants)


def _holds(found: Rowwise, cut: Cut, ways: set[bool]) -> bool:
    """Whether a graph says what the model says, on some rows that are evaluated as few, or as many."""
    if ways <= found.held:
        return True
    inputs = cut.inputs(min(cut.data.rows, COMPARED_ROWS))
    numbers, etas, parts = inputs[0], inputs[1 : 1 + len(cut.heads)], inputs[1 + len(cut.heads) :]
    data = cut.data.made_of(dict(zip(cut.data.parts(), parts, strict=True)))
    known = cut.derivatives(*inputs)
    for few in ways - found.held:
        if not _says(found, ALL_TERMS, (numbers, etas, Rows(data, few=few)), known):
            return False
        found.held.add(few)
    return True


def says_what_was_seen(found: RowTerms, look: Look, rows: Rows) -> bool:
    """Whether a graph, or formulas, say what was seen of the model."""
    where = look.own, [eta.detach() for eta in look.etas], rows
    return _says(found, VALUE_AND_SLOPES, where, look.first)


def _says(found: RowTerms, what: str, where: tuple[Tensor, Sequence[Tensor], Rows], known: Any) -> bool:
    try:
        said = found.evaluated(what, *where)
    except (RuntimeError, TypeError, IndexError, ValueError):
        return False  # it was traced for data of another kind
    return all(agree(a.expand(b.shape), b) for a, b in zip(said, known, strict=False))


def _key(cut: Cut) -> Hashable | None:
    """What decides how a model's rows are computed; None where that is more than can be told."""
    kind = _kind(cut.model)
    if kind is None:
        return None
    sites = tuple((site.name, site.unconstrained, site.shape, str(site.fn.support)) for site in cut.sites)
    parts = cut.data.parts().items()
    # Designs of any width: few models read them, and what they read is held against them.
    read = tuple((name, part.dtype, part.shape[1:] if name[0] != "x" else ()) for name, part in parts)
    return kind, cut.heads, sites, read


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
    """The identity of a layer: layers of one key compute the rows alike; None if that is not known."""
    handler = _handler(layer)
    if isinstance(handler, ConditionMessenger) and _is_small(handler.data):
        return _fixed(handler.data)
    if isinstance(layer, partial):
        words = tuple(layer.keywords.items())
        are_plain = all(isinstance(word, str | int | float | bool | None) for _, word in words)
        return words if are_plain and not layer.args else None
    if isinstance(layer, FunctionType):
        return layer
    return (type(layer), layer.lower, layer.upper) if hasattr(layer, "row_bounds") else None
