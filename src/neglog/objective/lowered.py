"""The loss and its gradient as a graph, for solvers that evaluate them thousands of times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import pyro
import torch
from torch import Tensor

from neglog.errors import DataError, ModelError
from neglog.handlers import Weighted
from neglog.likelihood.replay import Replay, replayed, stacked
from neglog.likelihood.rows import agree
from neglog.likelihood.sites import Site
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.objective.placed import ELSEWHERE, InAutocast, moved, moved_parts, on_device, seeded_on
from neglog.objective.quadratic import quadratic_priors
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run

MAX_FORMED_NUMBERS = 10_000_000
"""Bases of up to this many numbers are stored, in place of the design and its transform."""
MAX_QUADRATIC_PARAMETERS = 200
"""Up to this many parameters Normal priors are evaluated as one quadratic form."""
MAX_LISTED_ROWS = 5
"""The largest number of rows whose numbers a message lists."""
Rows = Mapping[tuple[str, str], Tensor]
"""Everything that has rows: ("x", key), ("y", ""), ("weights", ""), ("keywords", name) and so on."""


class Lowered(Coordinates):
    """Coordinates whose loss and gradient are evaluated by a graph, for solvers with many evaluations.

    The model is traced once for each number of rows, as a function of its linear predictors where possible,
    and stored as a graph of torch operations (`neglog.graphs`). The first values of the graph are compared
    with those of the model. A model that cannot be traced, such as one with control flow that depends on
    parameters or data, is run in every evaluation; `reason` gives the cause.
    """

    def __init__(self, objective: Objective, blocks: tuple[Block, ...], is_linear: bool) -> None:
        super().__init__(objective, blocks, is_linear)
        self._vector = _Vector(self)
        self._quadratic = quadratic_priors(self) if self.size <= MAX_QUADRATIC_PARAMETERS else None
        self._rows = objective.data.parts() | self._vector.rows
        self._evaluations: dict[tuple[Any, ...], Callable[..., tuple[Tensor, Tensor]]] = {}
        self._program: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
        self.replays: list[Replay] = []
        self.device = torch.device("cpu")
        self.precision: InAutocast | None = None

    @property
    def reason(self) -> str:
        """The reason why the model is run in every evaluation; empty if a graph is used."""
        return next((replay.reason for replay in self.replays if replay.reason), "")

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient `(K,)` in z."""
        value, gradient = self.evaluation(z)(z)
        return float(value), gradient

    def evaluation(
        self, z: Tensor, size: int | None = None, *, compile: bool = False
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        """The loss of all rows and its gradient as tensors, verified against the model at `z` `(K,)`.

        With a `size`, a batch of this many rows is a further argument, and the result is its
        unbiased estimate for all rows. With `compile` graphs are compiled to machine code. Near many points
        `(S, K)` it is that of each of them, `(S,)` and `(S, K)`.
        """
        key = (size, compile, tuple(z.shape[:-1]))
        if key not in self._evaluations:
            self._evaluations[key] = self._evaluation(z, size, compile)
            if compile and self.replays[-1].graph is None:
                raise DataError(
                    "`compile` needs a graph of the model, and it has none: "
                    f"{self.replays[-1].reason}. Leave `compile` out."
                )
        return self._evaluations[key]

    @contextmanager
    def placed(self, device: str | None, autocast: torch.dtype | None, seed: int) -> Iterator[torch.device]:
        """Around gradient steps: on a device, with networks under `torch.autocast`.

        Raises:
            DataError: `autocast` of float64, which torch leaves as it is.
        """
        where = torch.device(device or "cpu")
        if autocast is not None and self.objective.data.y.dtype != torch.float32:
            raise DataError(
                "`autocast` lowers the precision of float32, and the data are taken in float64. Give "
                "dtype=torch.float32 too."
            )
        before = dict(self.__dict__)
        self.device, self._evaluations = where, {}
        self.precision = None if autocast is None else InAutocast(where, autocast)
        if where.type != "cpu":
            self._vector, self._rows = moved_parts(self._vector, where), moved(self._rows, where)
            self._quadratic = None
        try:
            with seeded_on(where, seed):
                yield where
        finally:
            self.__dict__.update(before)
            for own in self.constants.values():
                own.update(moved(own, torch.device("cpu")))

    @property
    def constants(self) -> dict[str, dict[str, Tensor]]:
        """The buffers of networks in training mode, by the name of the network."""
        return {}

    @torch.no_grad()
    def rows_not_finite(self, z: Tensor, batch: Any) -> str:
        """The rows of a batch whose log-likelihood at `z` `(K,)` is not finite, in words; empty without."""
        if not bool(torch.isfinite(z).all()):
            return ""
        data, values = self.data_of(batch), self.objective.layout.params(self.theta(z))
        try:
            with pyro.validation_enabled(False):
                found = run(self.model, data, Run(values)).log_prob(RESPONSE)
        except (RuntimeError, ValueError):
            return ""
        wrong = (~torch.isfinite(found)).nonzero()[:, 0].tolist()
        where = " of the batch" if batch is not None and data.index is None else ""
        return f"{in_words([data.row(i) for i in wrong], data.rows)}{where}" if wrong else ""

    def program(self, z: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The fastest `evaluation` of all rows, for several threads; verified against the model at `z`
        `(K,)`."""
        if self._program is None:
            self._program = self._written(z)
        return self._program

    def _written(self, z: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        evaluate = self.evaluation(z)
        graph = next(replay.graph for replay in self.replays if replay.evaluate is evaluate)
        if graph is None:
            return evaluate
        try:
            program = graph.program(z)
        except Exception:  # torch cannot compile it, but the graph can be evaluated
            return evaluate
        return program if all(map(agree, program(z), evaluate(z))) else evaluate

    def _evaluation(self, z: Tensor, size: int | None, compile: bool) -> Callable[..., tuple[Tensor, Tensor]]:
        replay = self._replayed(z, size, compile)
        self.replays.append(replay)
        if size is None:
            return replay.evaluate
        evaluate, take = replay.evaluate, self._taking(replay.used)
        return lambda z, batch: evaluate(z, *take(batch))

    def _taking(self, used: Iterable[int]) -> Callable[[Any], Iterable[Tensor]]:
        """From a batch, the numbers of its rows, to its own parts of those in `used`."""
        parts = list(self._rows.values())
        wanted = [parts[i] for i in used]

        def take(index: Tensor) -> Iterable[Tensor]:
            index = index.to(self.device)
            return (part.index_select(0, index) for part in wanted)

        return take

    def _replayed(self, z: Tensor, size: int | None, compile: bool) -> Replay:
        """The graph of the loss of all rows, or of a minibatch, near one point `(K,)` or many `(S, K)`."""
        rows, some, others = self._rows.items(), [], None
        if self.device.type != "cpu":
            return self._run_each_time(z, size)
        if size is None:
            some = [_by_columns(part) if kind == "basis" else part for (kind, _), part in rows]
        else:
            some, others = ([part[index] for _, part in rows] for index in (slice(size), slice(-size, None)))
        if z.dim() == 1:
            return replayed(self._function, z, some, others, compile)
        return stacked(replayed(self._function, z[0], some, others, False), z, some, others, compile)

    def _run_each_time(self, z: Tensor, size: int | None) -> Replay:
        """The loss by running the model, on a device for which no graph is recorded."""
        if z.dim() > 1:
            raise ModelError("`device` is for one fit, and the members of an ensemble are trained together.")
        parts = list(self._rows.values())
        whole = parts if size is None else []

        def evaluate(z: Tensor, *rows: Tensor) -> tuple[Tensor, Tensor]:
            with on_device(self.device):
                return self._function(z, *(whole or rows))

        return Replay(evaluate, tuple(range(len(parts))), ELSEWHERE)

    def _function(self, z: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its gradient on these rows, by running the model."""
        vector, rows = self._vector, dict(zip(self._rows, parts, strict=True))
        with pyro.validation_enabled(False), torch.enable_grad():
            leaf = vector.ordered(z).detach().requires_grad_()
            loss = self._loss(leaf, rows)
            if not loss.requires_grad:
                return loss, torch.full_like(z, torch.nan)
            (gradient,) = torch.autograd.grad(loss, leaf, allow_unused=True, materialize_grads=True)
        loss, gradient = loss.detach(), vector.back(gradient)
        if self._quadratic is None:
            return loss, gradient
        value, slope = self._quadratic(z)
        return loss + value, gradient + slope

    def _loss(self, leaf: Tensor, rows: Rows) -> Tensor:
        objective = self.objective
        pieces = _split(leaf, self._vector.sizes)
        values, etas = self._vector.values(pieces), self._vector.etas(pieces, rows)
        data = objective.data.made_of(rows)
        model, share = self.model, self.rows / data.rows
        model = model if self.precision is None else self.precision(model)
        if data.weights is not None or share != 1:
            weights = (
                torch.full((), share, dtype=leaf.dtype) if data.weights is None else data.weights * share
            )
            model = Weighted(weights)(model)
        at = run(model, replace(data, weights=None), Run(values, etas=etas))
        return -at.log_prob(RESPONSE).sum() - at.prior(self._quadratic.sites if self._quadratic else ())


def in_words(rows: Sequence[int], of: int) -> str:
    """Some rows of `of` in words: all of them, or their numbers."""
    if len(rows) == of > 1:
        return f"all {of} rows"
    if len(rows) > MAX_LISTED_ROWS:
        return f"{len(rows)} of {of} rows, first {', '.join(map(str, rows[:MAX_LISTED_ROWS]))}"
    *first, last = map(str, rows)
    return f"rows {', '.join(first)} and {last}" if first else f"row {last}"


def _by_columns(design: Tensor) -> Tensor:
    """The same design, column after column in memory: both products with it take two thirds of the time."""
    return design.T.contiguous().T if design.numel() <= MAX_FORMED_NUMBERS else design


class _Vector:
    """z in an order in which the coefficients of each block are contiguous, and functions of it."""

    def __init__(self, coordinates: Coordinates) -> None:
        self.is_linear = coordinates.is_linear
        parts = [_Part(block, self.is_linear) for block in coordinates.blocks]
        self.scale = None if self.is_linear else _scale(parts, coordinates.objective.initial)
        self.blocks = parts if self.scale is None else []
        own = torch.cat([torch.arange(0), *(part.places for part in self.blocks)])
        free = torch.ones(coordinates.size, dtype=torch.bool)
        free[own] = False
        self.sizes = [len(part.places) for part in self.blocks] + [int(free.sum())]
        order = torch.cat([own, free.nonzero()[:, 0]])
        self.order = None if torch.equal(order, torch.arange(coordinates.size)) else order
        self.inverse = order.argsort()
        sites = list(coordinates.objective.sites.values())
        apart = None if self.order is not None else _sites_of_pieces(sites, self.sizes)
        self.aligned = apart is not None
        self.sites = [sites] if apart is None else apart

    @cached_property
    def rows(self) -> dict[tuple[str, str], Tensor]:
        """The kind of rows of the blocks."""
        found: dict[tuple[str, str], Tensor] = {}
        for part in self.blocks:
            found |= part.rows
        return found

    def ordered(self, z: Tensor) -> Tensor:
        return z if self.order is None else z.index_select(0, self.order)

    def back(self, gradient: Tensor) -> Tensor:
        return gradient if self.order is None else gradient.index_select(0, self.inverse)

    def values(self, z: Sequence[Tensor]) -> dict[str, Tensor]:
        """Site name -> value on its own support."""
        *blocks, free = z
        free = free if self.scale is None else free * self.scale
        pieces = [*(p.coefficients(z) for p, z in zip(self.blocks, blocks, strict=True)), free]
        if not self.aligned:
            pieces = [torch.cat(pieces).index_select(0, self.inverse)]
        found = {}
        for piece, sites in zip(pieces, self.sites, strict=True):
            for site, value in zip(sites, _split(piece, [s.size for s in sites]), strict=True):
                found[site.name] = site.transform(value.reshape(site.unconstrained))
        return found

    def etas(self, z: Sequence[Tensor], rows: Rows) -> dict[str, Tensor]:
        """The values of the linear predictors, if the model has fixed designs."""
        if not self.is_linear:
            return {}
        found: dict[str, list[Tensor]] = {}
        for part, own in zip(self.blocks, z, strict=False):
            found.setdefault(part.block.predictor, []).append(part.eta(own, rows))
        single = {part.block.predictor for part in self.blocks if part.block.output is None}
        return {name: e[0] if name in single else torch.stack(e, dim=-1) for name, e in found.items()}


def _split(vector: Tensor, sizes: list[int]) -> Sequence[Tensor]:
    return [vector] if len(sizes) == 1 else vector.split_with_sizes(sizes)


def _scale(parts: list[_Part], like: Tensor) -> Tensor | None:
    """Theta over z `(K,)`, where every coefficient has its own unit; None where they are mixed."""
    scale = torch.ones_like(like)
    for part in parts:
        if part.inverse.dim() != 1:
            return None
        scale[part.places] = part.inverse
    return scale


def _sites_of_pieces(sites: list[Site], sizes: list[int]) -> list[list[Site]] | None:
    """The sites of each piece of theta, or None where a site lies in more than one."""
    ends = list(accumulate(sizes, initial=0))
    found: list[list[Site]] = [[] for _ in sizes]
    for site in sites:
        inside = (start <= site.place.start and site.place.stop <= end for start, end in pairwise(ends))
        number = next((i for i, holds in enumerate(inside) if holds), None)
        if number is None:
            return None
        found[number].append(site)
    return found


class _Part:
    """A block, with its coefficients in the order of theta."""

    def __init__(self, block: Block, is_linear: bool) -> None:
        self.block = block
        order = block.places.argsort()
        self.places = block.places[order]
        identity = torch.eye(len(order), dtype=block.triangle.dtype)
        inverse = torch.linalg.solve_triangular(block.triangle, identity, upper=True)[order][:, order]
        diagonal = torch.equal(inverse, torch.diag(inverse.diagonal()))
        self.inverse = inverse.diagonal().clone() if diagonal else inverse
        self.rows: dict[tuple[str, str], Tensor] = {}
        self.transform: Tensor | None = None
        self.one = False
        if not is_linear:
            return
        basis = block.basis
        assert basis is not None
        if basis.triangle is not None or len(basis.columns) * len(order) <= MAX_FORMED_NUMBERS:
            self.rows["basis", block.name] = basis.dense()[:, order].contiguous()
        else:
            self.rows["basis", block.name] = basis.columns
            self.transform, self.one = basis.transform[:, order], basis.one
        if isinstance(block.offset, Tensor):
            self.rows["offset", block.name] = block.offset.expand(len(basis.columns))

    def coefficients(self, z: Tensor) -> Tensor:
        """The coefficients at `z`."""
        return self.inverse * z if self.inverse.dim() == 1 else self.inverse @ z

    def eta(self, z: Tensor, rows: Rows) -> Tensor:
        """The predictor at `z`, on these rows."""
        weights = z if self.transform is None else self.transform @ z
        columns = rows["basis", self.block.name]
        eta = columns @ weights[1:] + weights[0] if self.one else columns @ weights
        offset = rows.get(("offset", self.block.name))
        return eta if offset is None else eta + offset
