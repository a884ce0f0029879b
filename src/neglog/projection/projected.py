"""Variable projection: a network's loss, minimised over its heads and constants, in the other weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neglog.errors import ModelError
from neglog.objective.blocks import Block
from neglog.objective.coordinates import Coordinates
from neglog.objective.objective import Objective
from neglog.projection.features import Features
from neglog.projection.heads import Headed, headed
from neglog.projection.inner_solve import Nested, Optimum, nestable, with_one

MAX_HEAD_DERIVATIVES = 1_000_000
"""Derivatives of a head, rows × weights, that are formed at a time."""
MAX_GAUSS_NEWTON_WEIGHTS = 1_000
"""Above this many weights the Gauss-Newton matrix is not formed."""


def network_of(objective: Objective) -> Headed:
    """The heads, the constants and the trunk of a network.

    Raises:
        ModelError: see `Projected`.
    """
    return nestable(objective, headed(objective))[0]


class Projected(Coordinates):
    """Coordinates of a network, whose heads and constants are at their optimum given the other weights.

    `outer` are the positions of the other weights. Implements `neglog.solvers.projection.Separable`.

    Raises:
        ModelError: the model has no heads on learned features, its loss has corners, or its density cannot
            be cut at the heads.
    """

    def __init__(self, objective: Objective, blocks: tuple[Block, ...], is_linear: bool) -> None:
        super().__init__(objective, blocks, is_linear)
        if self.kinked:
            raise ModelError(
                f"`VariableProjection` needs a smooth loss, and that of `{objective.name}` has corners. Use "
                "`Adam`, or a density without, such as `huber` or `student_t`."
            )
        network = headed(objective)
        self.features = Features(objective, network)
        self.nested = Nested(objective, network, self.features.design)
        self.network = self.nested.network
        self.outer = self.network.outer
        self.trunk = self.features.places
        # Designs depend on parameters: each coefficient has its own unit, and none are combined.
        self.units = self.theta(torch.ones_like(objective.initial))

    def project(self, z: Tensor) -> tuple[Tensor, float, Tensor]:
        """The optimum `(K,)` given the weights in `z` `(K,)`, the loss there and its gradient `(K,)`.

        By the envelope theorem the gradient of the smallest loss in the weights is that of the loss with the
        other parameters fixed at their optimum.
        """
        theta = self.units * z
        weights = theta[self.trunk].requires_grad_()
        with torch.enable_grad():
            designs = self.features(weights)
        with torch.no_grad():
            found = self.nested.optimum([design.detach() for design in designs], theta)
            back = self._design_gradients(found, designs)
        learned = [i for i, design in enumerate(designs) if design.requires_grad]
        (slope,) = torch.autograd.grad(
            [designs[i] for i in learned], weights, [back[i] for i in learned], materialize_grads=True
        )
        gradient = torch.zeros_like(z)
        gradient[self.outer] = found.slope[self.outer]
        gradient[self.trunk] += slope
        for j in self.network.outside:
            design = with_one(designs[self.features.design[j]].detach())
            own = self.nested.gathered(design, j, found.slopes[j].expand(self.rows))
            gradient[self.network.heads[j].places] += own
        inner, at = self.nested.places, z.clone()
        at[inner] = found.theta[inner] / self.units[inner]
        return at, found.value, self.units * gradient

    def _design_gradients(self, found: Optimum, designs: Sequence[Tensor]) -> list[Tensor]:
        """The derivatives of the loss in the designs `(N, F)`."""
        slopes: list[list[Tensor]] = [[] for _ in designs]
        weights: list[list[Tensor]] = [[] for _ in designs]
        for i, head, slope in zip(self.features.design, self.network.heads, found.slopes, strict=True):
            slopes[i].append(slope.expand(self.rows))
            weights[i].append(head.coefficients(found.theta)[1:])
        return [torch.stack(s, dim=1) @ torch.stack(w) for s, w in zip(slopes, weights, strict=True)]

    @torch.no_grad()
    def gauss_newton(self, z: Tensor) -> Tensor | None:
        """The Gauss-Newton matrix `(W, W)` of the smallest loss in the weights.

        It is the Schur complement of the heads in JᵀCJ, where J are the derivatives of the heads' values and
        C the curvature of the rows in each; for a Normal mean that is Kaufman's approximation. None if there
        are too many weights, or features that depend on other rows.
        Source: Kaufman (1975), A variable projection method for solving separable nonlinear least squares
        problems.
        """
        if len(self.outer) > MAX_GAUSS_NEWTON_WEIGHTS:
            return None
        theta = self.units * z
        designs = self.features(theta[self.trunk])
        whole = torch.diag(self.nested.shrinkage(theta).sums.clamp_min(0.0))
        bends = self.nested.curvatures(designs, theta)
        coefficients = [head.coefficients(theta) for head in self.network.heads]
        step = max(1, MAX_HEAD_DERIVATIVES // len(self.outer))
        for start in range(0, self.rows, step):
            rows = slice(start, min(start + step, self.rows))
            slopes = self.features.slopes(theta[self.trunk], coefficients, rows)
            if slopes is None:
                return None
            for j, head in enumerate(self.network.heads):
                columns = with_one(designs[self.features.design[j]][rows])[:, head.free]
                both = torch.cat([slopes[j], columns], dim=1) * bends[j][rows, None].sqrt()
                places, array = torch.cat([self.trunk, head.places]), both.numpy()
                # NumPy computes a product with its own transpose in half the time.
                whole[places[:, None], places] += torch.from_numpy(array.T @ array)
        heads = self.network.inner[: self.nested.constants.start]
        units = self.units[self.outer]
        return units[:, None] * _schur(whole, self.outer, heads) * units


def _schur(whole: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """The Schur complement: a quadratic form in `outer` coordinates, minimised over `inner` ones."""
    corner, across = whole[inner][:, inner], whole[inner][:, outer]
    scale = corner.diagonal().clamp_min(1e-300).rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * corner * scale)
    kept = values > 1e-10 * values[-1].clamp_min(0.0)
    half = (vectors[:, kept] * values[kept].rsqrt()).T @ (scale[:, None] * across)
    return whole[outer][:, outer] - half.T @ half
