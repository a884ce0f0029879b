"""Coordinates z in which a problem does not depend on the units of its columns and its response.

Each block of linear coefficients (bias and weights) is transformed by the QR decomposition of its design,
`[1, x] = Q R` and `z = R theta`: a unit step in z changes the predictor of an average row by about the noise
of a row, and predictors and gradients are computed with Q, without the cancellation of an ill-conditioned
design. Other parameters keep their unconstrained scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from neglog.data import Data
from neglog.handlers import Model
from neglog.likelihood.rows import CURVATURES, SLOPES, VALUE
from neglog.likelihood.sites import places_of
from neglog.objective.basis import ALL_ROWS, placed, sample_of
from neglog.objective.blocks import Block, joined, linear_blocks, triangles_of
from neglog.objective.collapsed_components import check_collapsed_components
from neglog.objective.followed_rows import followed
from neglog.objective.objective import BLOCK_ROWS, Objective
from neglog.objective.pyro_model import Literal
from neglog.objective.shrinkage import UNTRACED, Shrinkage
from neglog.objective.spread import check_bounded
from neglog.objective.stacked import Stacked
from neglog.objective.sums import Sums
from neglog.solvers.stochastic import batches

NEARLY_DEPENDENT = 1e-6
"""Columns at least this far from the span of those before, as a share of their size, cancel few digits."""
MIN_SAMPLED_ROWS = 50_000
"""Above this many rows a solver starts on a sample of them."""


class InMemory:
    """The batches of a problem whose rows are in memory."""

    objective: Objective
    rows: int

    def batches_an_epoch(self, size: int | None) -> int:
        """The number of batches of this size in which all rows are."""
        return math.ceil(self.rows / min(size or self.rows, self.rows))

    def batches(self, size: int | None, steps: int, seed: int, done: int = 0) -> Iterator[Any]:
        """The batch of each gradient step but the first `done`: numbers of rows, or None for all."""
        return batches(self.rows, size, steps, seed, done)

    def data_of(self, batch: Any) -> Data:
        """The data of a batch."""
        return self.objective.data if batch is None else self.objective.data.take(batch)


class Coordinates(InMemory):
    """The objective as a problem in z: what a solver sees.

    `solved` states that the initial point is the optimum, which a solver confirms.
    `trained` states whether gradient steps descend the loss of a network in training mode, `streamed` whether
    rows are read a batch at a time.
    Implements `neglog.solvers.solution.Problem`; `neglog.objective.corners.Cornered` is the same problem with
    its corners.
    """

    trained = False
    streamed = False

    def __init__(
        self, objective: Objective, blocks: tuple[Block, ...], is_linear: bool, solved: bool = False
    ) -> None:
        self.objective, self.blocks, self.is_linear, self.solved = objective, blocks, is_linear, solved
        self.size, self.rows = objective.size, objective.rows
        self._triangles = triangles_of(blocks)
        is_whole = is_linear and len(objective.parts) == 1
        self._stacked = Stacked.of(blocks, self.size) if is_whole else None
        self.read: dict[str, Any] = {}  # other forms of the problem, stored by those who derive them

    # Between the coordinates

    def theta(self, z: Tensor) -> Tensor:
        """The objective's vector `(K,)` at `z` `(K,)`."""
        return self.directions(z[:, None])[:, 0]

    def z(self, theta: Tensor) -> Tensor:
        """The inverse of `theta`."""
        z = theta.clone()
        for block in self.blocks:
            z[block.places] = block.triangle @ theta[block.places]
        return z

    def directions(self, z: Tensor) -> Tensor:
        """The columns of a matrix `(K, M)` of steps in z, as steps in theta."""
        theta = z.clone()
        for places, triangle in self._triangles:
            theta[places] = torch.linalg.solve_triangular(triangle, z[places], upper=True)
        return theta

    def pull_back(self, gradient: Tensor) -> Tensor:
        """A gradient `(K, ...)` in theta as one in z, along its first dimension."""
        pulled = gradient.clone()
        for places, triangle in self._triangles:
            columns = gradient[places]
            flat = columns[:, None].flatten(1)  # which a predictor without columns has too
            found = torch.linalg.solve_triangular(triangle.T, flat, upper=False)
            pulled[places] = found.reshape(columns.shape)
        return pulled

    # The literal path

    @property
    def model(self) -> Model:
        """The model whose loss gradient steps descend."""
        return self.objective.model

    def training(self, seed: int) -> AbstractContextManager[None]:
        """Around gradient steps: nothing, but for networks that have a training mode."""
        return nullcontext()

    @cached_property
    def literal(self) -> Literal:
        """The model for `pyro.infer.SVI`, with its linear coefficients sampled in z."""
        return Literal(self)

    # The problem

    def etas(self, z: Tensor, rows: slice = ALL_ROWS) -> dict[Block, Tensor]:
        """The value of each block; none for a model that is not linear in its predictors' coefficients."""
        if self._stacked is not None:
            return dict(zip(self.blocks, self._stacked.etas(z, self.blocks), strict=True))
        return {block: block.eta(z[block.places], rows) for block in self.blocks} if self.is_linear else {}

    @property
    def parts(self) -> tuple[tuple[slice, Objective], ...]:
        """The objective in blocks of rows; whole for a model without linear predictors."""
        return self.objective.parts if self.is_linear else ((ALL_ROWS, self.objective),)

    @property
    def nearly_dependent(self) -> list[Block]:
        """The blocks of fixed designs with a column close to the span of those before it."""
        sizes = ((block, block.triangle.norm(dim=0)) for block in self.blocks if self.is_linear)
        return [
            block
            for block, size in sizes
            if not bool((block.triangle.diagonal().abs() >= NEARLY_DEPENDENT * size).all())
        ]

    def sample(self) -> Coordinates | None:
        """The problem of a tenth of the rows, or of one block: its optimum is near that of very many."""
        if self.rows < MIN_SAMPLED_ROWS or not self.is_linear or self.solved or not self.objective.separable:
            return None
        index = sample_of(self.rows, min(self.rows // 10, BLOCK_ROWS))
        _ = self.objective.backends.graph  # once for the sample too
        few = self.objective.take(index)
        pairs = zip(self.objective.data.parts().values(), few.data.parts().values(), strict=True)
        taken = {placed(whole): part for whole, part in pairs}
        blocks = tuple(block.take(index, taken) for block in self.blocks)
        return Coordinates(few, blocks, self.is_linear)

    @cached_property
    def _places(self) -> Tensor:
        """The positions in theta of the constants of the likelihood of the rows."""
        return places_of(self.objective.structure.constant_sites)

    @cached_property
    def _apart(self) -> bool:
        """Whether all parameters but the coefficients of predictors are constants without a prior."""
        own = {place for block in self.blocks for place in block.places.tolist()}
        return self.objective.layout.is_flat and own.isdisjoint(self._places.tolist())

    @cached_property
    def _shrinkage(self) -> Shrinkage:
        return Shrinkage(self.objective, torch.arange(self.size), UNTRACED)

    def _summed(self, order: int, z: Tensor, rough: bool = False) -> Sums:
        # A few evaluations confirm an optimum that is known.
        likelihood = self.objective.backends.likelihood(derivatives=order > VALUE, once=self.solved)
        theta = (
            z if self._apart else self.theta(z)
        )  # constants, which are all that is read, are the same in z
        sums = Sums(self.blocks, self._places, self.size, z, rough, self._apart, self._stacked)
        if not self.objective.layout.is_flat:
            prior = self._shrinkage(theta, curved=order == CURVATURES)
            sums.add_prior(prior.value, prior.slope, prior.bend)
        for rows, part in self.parts:
            etas = list(self.etas(z, rows).values())
            sums.add(likelihood.evaluate(order, theta[self._places], etas, part.as_read), rows, part.rows)
        return sums

    def value(self, z: Tensor) -> float:
        """The loss in nats; infinite where the model cannot be evaluated."""
        with torch.no_grad():
            if self.is_linear:
                return self._summed(VALUE, z).value
            nll, prior = self.objective.trial(self.theta(z))
            return float(nll + prior)

    def check(self, z: Tensor) -> str | None:
        """Refuse a point from which the loss decreases without bound; return the reason for a slow decrease.

        Raises:
            UnboundedLikelihoodError: see `check_bounded` and `check_collapsed_components`.
        """
        theta = self.theta(z)
        for rows, part in self.parts if self.objective.structure.may_collapse else ():
            check_bounded(part, theta, joined(self.etas(z, rows)))
        if self.objective.structure.law.is_mixture:
            check_collapsed_components(self.objective, theta)
        is_vector = self.objective.data.y.dim() > 1
        return followed(self.objective, theta, self.etas(z)) if is_vector else None

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient `(K,)` in z; NaN where the loss is not finite."""
        if not self.is_linear:
            return _whole(self, z)
        sums = self._summed(SLOPES, z)
        return sums.value, sums.slope(self.pull_back)

    def hessian(self, z: Tensor) -> Tensor:
        """The Hessian `(K, K)` in z."""
        return self.derivatives(z)[2]

    def roughly(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """`derivatives` with a Hessian of six digits."""
        sums = self._summed(CURVATURES, z, rough=True)
        return sums.value, sums.slope(self.pull_back), sums.curvature(self.pull_back)

    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """The loss, its gradient `(K,)` and its Hessian `(K, K)` in z; NaN where the loss is not finite."""
        if self.is_linear:
            sums = self._summed(CURVATURES, z)
            return sums.value, sums.slope(self.pull_back), sums.curvature(self.pull_back)
        value, gradient = _whole(self, z)
        if not math.isfinite(value):
            return value, gradient, z.new_full((self.size, self.size), torch.nan)
        hessian = self.pull_back(self.objective.hessian(self.theta(z)))
        return value, gradient, self.pull_back(hessian.T)

    # The corners

    @property
    def kinked(self) -> bool:
        """Whether the loss has corners at all."""
        return self.kinked_predictor is not None or bool(self.objective.structure.prior_corners)

    @property
    def polyhedral(self) -> bool:
        """Whether the loss has corners and `Continuation` can certify an optimum at them."""
        response = self.kinked_predictor
        placed = response is None or response in {block.name for block in self.blocks}
        return self.kinked and self.is_linear and placed

    @cached_property
    def kinked_predictor(self) -> str | None:
        """The predictor at which the response has its corner; '' if at none; None without a corner."""
        at = self.objective.structure.corner
        if at is None:
            return None
        is_straight = bool(torch.as_tensor(at.steepness).any())  # 0 marks a corner elsewhere than at 0
        return (self.objective.structure.response.location or "") if is_straight else ""


@torch.enable_grad()
def _whole(coordinates: Coordinates, z: Tensor) -> tuple[float, Tensor]:
    """The loss of a model without linear predictors, and its gradient `(K,)` in z."""
    theta = coordinates.theta(z).requires_grad_()
    nll, prior = coordinates.objective.trial(theta)
    loss = nll + prior
    if not loss.requires_grad:
        return float(loss), torch.full_like(z, torch.nan)
    (gradient,) = torch.autograd.grad(loss, theta)
    return float(loss.detach()), coordinates.pull_back(gradient)


def rescaled(objective: Objective, theta: Tensor) -> Coordinates:
    """Coordinates for `objective` in which its curvature near `theta` `(K,)` is about one per row.

    Raises:
        SingularDesignError: a design whose coefficients have flat priors lacks full column rank.
    """
    return Coordinates(objective, *linear_blocks(objective, theta))
