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
from typing import Any

import pyro
import torch
from pyro.poutine.condition_messenger import ConditionMessenger
from torch import Tensor, fx

from neglog.data import Data
from neglog.graphs.graph import trace_rows
from neglog.graphs.staged import BOTH, NUMBERS, ROWS, Stages, staged
from neglog.handlers import Model, Weighted, changes_priors_alone
from neglog.objective.sites import Site
from neglog.predictors import RESPONSE
from neglog.tracing import Affine, Run, layers, run

MOST = 16
"""With more predictors and constants than this a graph of all second derivatives is too long to repay."""
ODD = (29, 31, 37, 41, 43, 47)
"""Numbers of rows to trace with: one that is no other size of the problem."""
TRIED = 1009
"""So many rows a graph and its model are held together on."""
AGREEMENT = 4096
"""Graph and model must agree to so many roundings: 1e-12 in float64."""
KEPT = 64
"""So many graphs are kept for further fits."""

Head = tuple[str, int | None]
"""A predictor, and which of its outputs, where it has many."""


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
    kept: dict[fx.Node, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def parts(self) -> list[Tensor]:
        return list(self.data.parts().values())

    def keep(self, found: Mapping[fx.Node, Any]) -> None:
        """Keep what rows come to, if there is room for it."""
        own = {part.data_ptr() for part in self.parts}
        tensors = [v for v in found.values() if isinstance(v, Tensor) and v.data_ptr() not in own]
        if sum(v.untyped_storage().nbytes() for v in tensors) <= self.room:
            self.kept.update(found)


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
    stages: dict[str, Stages] = field(default_factory=dict, repr=False)

    def terms(self, what: str, numbers: Tensor, etas: Sequence[Tensor], rows: Rows) -> Terms:
        """The terms at the constants `numbers` `(C,)` and the predictors `etas`, `(N,)` each."""
        return self._named(what, self.evaluated(what, numbers, etas, rows))

    def evaluated(self, what: str, numbers: Tensor, etas: Sequence[Tensor], rows: Rows) -> Sequence[Tensor]:
        """The terms one after the other."""
        stages = self._stages(what)
        given = self._given(numbers, etas, rows)
        body = [value for kind, value in given if kind == BOTH]
        known = self._of_rows(what, [value for kind, value in given if kind == ROWS], rows)
        shared = stages.of_numbers(*(value for kind, value in given if kind == NUMBERS))
        return stages.body(*body, *known, *shared)

    def _of_rows(self, what: str, given: Sequence[Any], rows: Rows) -> Sequence[Any]:
        """What the data alone come to; for all terms at once, if it is to be kept."""
        stages = self._stages(what)
        if rows.room and not all(node in rows.kept for node in stages.rows):
            full = stages if what == SLOPES else self._stages(ALL_TERMS)
            rows.keep(dict(zip(full.rows, full.of_rows(*given), strict=True)))
        if all(node in rows.kept for node in stages.rows):
            return [rows.kept[node] for node in stages.rows]
        return stages.of_rows(*given)

    def _given(self, numbers: Tensor, etas: Sequence[Tensor], rows: Rows) -> list[tuple[str, Any]]:
        values: list[Any] = [numbers, *etas, *rows.parts]
        chosen = [rows.data.rows, *(values[i] for i in self.used)]
        return list(zip(self.kinds, chosen, strict=True))

    def _stages(self, what: str) -> Stages:
        if what not in self.stages:
            first, count = 2 + len(self.heads), self._count
            wanted = {
                VALUE: [0],
                VALUE_AND_SLOPES: range(first),
                ALL_TERMS: range(count),
                SLOPES: range(2, first),
            }[what]
            self.stages[what] = staged(self.graph, self.constants, self.kinds, wanted)
        return self.stages[what]

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


@dataclass(frozen=True, eq=False)
class Cut:
    """A model cut at its predictors: what it is a function of."""

    model: Model
    data: Data
    calls: tuple[Affine, ...]
    sites: tuple[Site, ...]
    """Those that enter the likelihood beside the predictors, and not through them."""
    still: Mapping[str, Tensor]
    """The values of all others, which do not matter."""

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """The outputs of the predictors, in the order of their calls."""
        return tuple((call.name, output) for call in self.calls for output in _outputs(call))

    def derivatives(self, numbers: Tensor, *others: Tensor, second: bool = True) -> list[Tensor]:
        """The loss, its gradient, and its second derivatives, by running the model under autograd."""
        etas, parts = others[: len(self.heads)], others[len(self.heads) :]
        data = self.data.made_of(dict(zip(self.data.parts(), parts, strict=True)))
        with pyro.validation_enabled(False), torch.enable_grad():
            leaves = [leaf.detach().requires_grad_() for leaf in (numbers, *etas)]
            loss = self._loss(leaves[0], leaves[1:], data)
            if not loss.requires_grad:
                raise RuntimeError("its density depends on no parameter")
            first = _gradients(loss, leaves, create_graph=second)
            found = [loss, *first]
            for place in range(len(numbers) if second else 0):
                found += _gradients(first[0][place], leaves)
            for j, slope in enumerate(first[1:] if second else ()):
                found += _gradients(slope.sum(), leaves[1 : j + 2])
        return [value.detach() for value in found]

    def _loss(self, numbers: Tensor, etas: Sequence[Tensor], data: Data) -> Tensor:
        values, at = dict(self.still), 0
        for site in self.sites:
            values[site.name] = site.transform(numbers[at : at + site.size].reshape(site.unconstrained))
            at += site.size
        model = self.model if data.weights is None else Weighted(data.weights)(self.model)
        ran = run(model, replace(data, weights=None), Run(values, etas=_joined(self.heads, etas)))
        return -ran.log_prob(RESPONSE).sum()


def _gradients(scalar: Tensor, leaves: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    if not scalar.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(
        torch.autograd.grad(
            scalar,
            leaves,
            retain_graph=True,
            create_graph=create_graph,
            materialize_grads=True,
            allow_unused=True,
        )
    )


def _joined(heads: Sequence[Head], etas: Sequence[Tensor]) -> dict[str, Tensor]:
    """Predictor -> its values, `(N,)`, or `(N, D)` where it has many outputs."""
    found: dict[str, list[Tensor]] = {}
    for (name, _), eta in zip(heads, etas, strict=True):
        found.setdefault(name, []).append(eta)
    single = {name for name, output in heads if output is None}
    return {name: parts[0] if name in single else torch.stack(parts, dim=-1) for name, parts in found.items()}


def _outputs(call: Affine) -> Sequence[int | None]:
    return [None] if call.outputs is None else range(len(call.outputs))


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
            while len(self.graphs) > KEPT:
                self.graphs.popitem(last=False)


_SHELF = _Shelf()


def rowwise_of(cut: Cut) -> Rowwise | str:
    """The terms of a model's rows as a graph, or why it has none."""
    size = sum(site.size for site in cut.sites)
    if size + len(cut.heads) > MOST:
        return f"it has {len(cut.heads)} predictors and {size} constants"
    key = _key(cut)
    known = None if key is None else _SHELF.get(key)
    if known is not None and _holds(known, cut, VALUE_AND_SLOPES):
        return replace(known, places=_places(cut.sites))
    try:
        found = _traced(cut)
    except Exception as error:  # whatever it is that torch cannot trace, the model itself can still be run
        return f"it cannot be traced: {error}"
    if not _holds(found, cut, ALL_TERMS):
        return "its graph does not say what the model says"
    if key is not None:
        _SHELF.put(key, found)
    return found


def _places(sites: Sequence[Site]) -> Tensor:
    return torch.cat([torch.arange(0), *(torch.arange(site.place.start, site.place.stop) for site in sites)])


def _traced(cut: Cut) -> Rowwise:
    sizes = {n for part in cut.data.parts().values() for n in part.shape[1:]} | {len(cut.heads)}
    sizes |= {site.size for site in cut.sites}
    rows = next(n for n in ODD if n not in sizes)
    inputs = _inputs(cut, rows)
    graph, used, constants = trace_rows(cut.derivatives, inputs, rows)
    groups = [NUMBERS, *[BOTH] * len(cut.heads), *[ROWS] * len(cut.data.parts())]
    kinds = (ROWS, *(groups[i] for i in used))
    return Rowwise(cut.heads, _places(cut.sites), graph, kinds, used, constants)


def _inputs(cut: Cut, rows: int) -> list[Tensor]:
    """Numbers, predictors and data of so many rows, at which nothing vanishes."""
    index = torch.arange(rows) % cut.data.rows
    data = cut.data.take(index)
    starts = [site.transform.inv(cut.still[site.name]).reshape(-1) for site in cut.sites]
    numbers = torch.cat([data.y.new_zeros(0), *starts]) + 2.0**-6
    levels = [call.constant(rows).reshape(rows, -1) for call in cut.calls]
    etas = [eta for level in levels for eta in level.detach().unbind(1)]
    bent = 0.1 * torch.sin(torch.arange(rows, dtype=data.y.dtype))
    return [numbers, *(eta + bent for eta in etas), *data.parts().values()]


def _holds(found: Rowwise, cut: Cut, what: str) -> bool:
    """Whether a graph says what the model says, on some rows."""
    numbers, *others = _inputs(cut, min(cut.data.rows, TRIED))
    etas, parts = others[: len(cut.heads)], others[len(cut.heads) :]
    known = cut.derivatives(numbers, *others, second=what == ALL_TERMS)
    rows = Rows(cut.data.made_of(dict(zip(cut.data.parts(), parts, strict=True))))
    try:
        said = found.evaluated(what, numbers, etas, rows)
    except (RuntimeError, TypeError, IndexError, ValueError):
        return False  # it was traced for data of another kind
    return all(map(_agree, said, known))


def _agree(found: Tensor, known: Tensor) -> bool:
    size = known.nan_to_num(0.0, 0.0, 0.0).abs().max() if known.numel() else 0.0
    tolerance = AGREEMENT * torch.finfo(known.dtype).eps
    return torch.allclose(
        found.expand(known.shape), known, rtol=tolerance, atol=tolerance * float(size), equal_nan=True
    )


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
    return all(isinstance(value, Tensor) and value.numel() <= MOST for value in data.values())


def _fixed(data: Mapping[str, Tensor]) -> Hashable:
    """The values of sites that were conditioned."""
    return tuple((name, v.dtype, v.shape, *v.reshape(-1).tolist()) for name, v in data.items())


def _kind(model: Model) -> Hashable | None:
    """The function inside, and what is around it, as far as it matters to the rows."""
    found: list[Hashable] = []
    for layer in layers(model):
        handler = layer.args[0] if isinstance(layer, partial) and len(layer.args) > 1 else None
        if isinstance(handler, ConditionMessenger) and _is_small(handler.data):
            found.append(_fixed(handler.data))
        elif changes_priors_alone(handler):
            continue
        elif isinstance(layer, partial):
            words = tuple(layer.keywords.items())
            if layer.args or not all(isinstance(word, str | int | float | bool | None) for _, word in words):
                return None
            found.append(words)
        elif isinstance(layer, FunctionType):
            found.append(layer)
        else:
            return None
    return tuple(found)
