"""The negative log-likelihoods of many data sets under one model, as functions of one vector each.

The model runs once for all of them: cut at its linear predictors, it is handed values `(S, N)` for these and
`(S, 1)` for its constants, and says `(S, N)` log-densities. Their derivatives in the few numbers of a row,
and the designs, give every gradient and every Hessian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import pyro
import torch
from torch import Tensor

from neglog.data import Data
from neglog.handlers import Model
from neglog.objective import Site, exact_rows
from neglog.predictors import RESPONSE
from neglog.stack import Stack
from neglog.tracing import Run, run


@dataclass(frozen=True, eq=False)
class Predictor:
    """A linear predictor of S data sets: ``unit * design @ z[places] + offset``.

    `design` is `(N, P)` or `(S, N, P)`, `offset` a number, `(N,)` or `(S, N)`, `unit` `(S,)`.
    """

    name: str
    places: Tensor
    design: Tensor
    unit: Tensor
    offset: Tensor | float = 0.0

    def eta(self, z: Tensor) -> Tensor:
        """Its values `(S, N)` at `z` `(S, K)`."""
        at = self.unit[:, None] * z[:, self.places]
        shared = self.design.dim() == 2
        return (at @ self.design.mT if shared else (self.design @ at[..., None])[..., 0]) + self.offset

    def gather(self, rows: Tensor) -> Tensor:
        """Derivatives `(S, N)` in its values as those `(S, P)` in its z."""
        shared = self.design.dim() == 2
        return self.unit[:, None] * (rows @ self.design if shared else (rows[:, None] @ self.design)[:, 0])

    def cross(self, rows: Tensor, other: Predictor) -> Tensor:
        """Second derivatives `(S, N)` in the values of two predictors as those `(S, P, Q)` in their z."""
        unit = (self.unit * other.unit)[:, None, None]
        if self.design.dim() == other.design.dim() == 2:
            products = self.design[:, :, None] * other.design[:, None, :]
            return unit * (rows @ products.flatten(1)).unflatten(-1, products.shape[1:])
        return unit * (self.design.mT @ (rows[..., None] * other.design))

    def take(self, index: Tensor) -> Predictor:
        offset = self.offset
        return replace(
            self,
            design=self.design[index] if self.design.dim() == 3 else self.design,
            unit=self.unit[index],
            offset=offset[index] if isinstance(offset, Tensor) and offset.dim() == 2 else offset,
        )


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """Minus the log-likelihood of each of S data sets (`neglog.solvers.together.Problems`).

    `model` is flat, `still` holds values of the sites of the predictors, which count for nothing. `constants`
    are the other sites, with their places in z.
    """

    model: Model
    stack: Stack
    predictors: tuple[Predictor, ...]
    constants: tuple[tuple[Site, Tensor], ...]
    still: Mapping[str, Tensor]
    size: int

    @property
    def rows(self) -> Tensor:
        """The number of rows that count, `(S,)`."""
        number, counted = self.stack.y.new_full((self.stack.count,), self.stack.rows), self.stack.counted
        return number if counted is None else number * 0 + counted.sum(-1)

    def take(self, index: Tensor) -> Self:
        """Those at `index`."""
        if len(index) == self.stack.count:
            return self
        predictors = tuple(predictor.take(index) for predictor in self.predictors)
        return replace(self, stack=self.stack.take(index), predictors=predictors)

    def etas(self, z: Tensor) -> dict[str, Tensor]:
        """The values `(S, N)` of each predictor at `z` `(S, K)`; 0 in rows that do not count."""
        counted = self.stack.counted
        etas = {p.name: p.eta(z).expand(self.stack.count, self.stack.rows) for p in self.predictors}
        return etas if counted is None else {k: torch.where(counted, eta, 0.0) for k, eta in etas.items()}

    def params(self, z: Tensor) -> dict[str, Tensor]:
        """The constants at `z` `(S, K)`, each `(S, 1, *shape)`."""
        return {
            site.name: site.transform(z[:, places].reshape(len(z), 1, *site.unconstrained))
            for site, places in self.constants
        }

    def at(self, etas: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Run:
        """The model run for all data sets, without its checks of values: bad ones give no number.

        What a data set has for a design of its own reaches it through the predictors alone.
        """
        data = Data(self.stack.blank(), self.stack.y, None, self.stack.keywords)
        with pyro.validation_enabled(False):
            return run(self.model, data, Run({**self.still, **params}, etas=etas))

    def log_prob(self, etas: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor:
        """The log-density of each row, `(S, N)`, without weights."""
        with pyro.validation_enabled(False):
            return self.at(etas, params).log_prob(RESPONSE).expand(self.stack.count, self.stack.rows)

    def log_likelihood(self, etas: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> Tensor:
        """The weighted log-density of each row, `(S, N)`."""
        weights, counted = self.stack.weights, self.stack.counted
        log_prob = self.log_prob(etas, params)
        log_prob = log_prob if counted is None else torch.where(counted, log_prob, 0.0)
        return log_prob if weights is None else weights * log_prob

    def response(self, z: Tensor) -> Any:
        """The distribution of the observations at `z` `(S, K)`."""
        with torch.no_grad():
            return self.at(self.etas(z), self.params(z)).sites[RESPONSE]["fn"]

    def values(self, z: Tensor) -> Tensor:
        """`(S,)`, in nats."""
        with torch.no_grad():
            return -self.log_likelihood(self.etas(z), self.params(z)).sum(-1)

    @torch.enable_grad()
    def scores(self, z: Tensor) -> dict[str, Tensor]:
        """The derivative of each row's log-likelihood in each predictor, `(S, N)`."""
        etas = {name: eta.detach().requires_grad_() for name, eta in self.etas(z).items()}
        total = self.log_likelihood(etas, self.params(z)).sum()
        return dict(zip(etas, _derivatives(total, list(etas.values())), strict=True))

    @torch.enable_grad()
    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values `(S,)`, gradients `(S, K)` and Hessians `(S, K, K)`."""
        leaf = z.detach().requires_grad_()
        etas = {name: eta.detach().requires_grad_() for name, eta in self.etas(z).items()}
        losses = -self.log_likelihood(etas, self.params(leaf))
        leaves = [leaf, *etas.values()]
        first, *by_eta = _derivatives(losses.sum(), leaves, create_graph=True)
        gradient, hessian = first.detach().clone(), z.new_zeros((*z.shape, self.size))
        for j, (predictor, rows) in enumerate(zip(self.predictors, by_eta, strict=True)):
            gradient[:, predictor.places] += predictor.gather(rows.detach())
            others = self.predictors[: j + 1]
            for other, curvature in zip(others, _derivatives(rows.sum(), leaves[1 : j + 2]), strict=True):
                part = predictor.cross(curvature, other)
                hessian[:, predictor.places[:, None], other.places] += part
                if other is not predictor:
                    hessian[:, other.places[:, None], predictor.places] += part.mT
        for place in (int(place) for _, places in self.constants for place in places):
            own, *across = _derivatives(first[:, place].sum(), leaves)
            hessian[:, place] += own
            for predictor, rows in zip(self.predictors, across, strict=True):
                part = predictor.gather(rows)
                hessian[:, place, predictor.places] += part
                hessian[:, predictor.places, place] += part
        return losses.detach().sum(-1), gradient, hessian

    def bounded(self, z: Tensor) -> Tensor:
        """Whether the spread of every row is more than the rounding of the data, `(S,)`.

        Where it is not, some rows are fitted exactly, and nothing but rounding ends the fall.
        """
        with pyro.validation_enabled(False):
            exact = exact_rows(self.response(z), self.stack.y)
        exact = exact.expand(self.stack.count, self.stack.rows)
        return ~(exact if self.stack.counted is None else exact & self.stack.counted).any(-1)


def _derivatives(scalar: Tensor, leaves: list[Tensor], create_graph: bool = False) -> list[Tensor]:
    if not scalar.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return list(
        torch.autograd.grad(
            scalar,
            leaves,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
    )
