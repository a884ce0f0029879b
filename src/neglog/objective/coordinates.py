"""Coordinates in which every problem looks alike, whatever the units of its columns and its response.

Each block of linear coefficients (bias and weights) is read through the QR decomposition of its design,
`[1, x] = Q R` and `z = R theta`: a unit step in z moves the predictor of an average row by about the noise
of a row, and predictors and gradients are summed through Q, without the cancellation that an ill-conditioned
design brings. Other parameters keep their unconstrained scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from neglog.distributions.corners import Corner
from neglog.handlers import Model, weighted
from neglog.kinks import corner, cornered, signed, smoothed
from neglog.likelihood.rows import CURVATURES, SLOPES, VALUE, RowLikelihood
from neglog.likelihood.sites import places_of
from neglog.objective.basis import ALL_ROWS, placed, sample_of
from neglog.objective.blocks import Block, joined, linear_blocks
from neglog.objective.literal import in_units
from neglog.objective.objective import BLOCK_ROWS, Objective, kinked_sites
from neglog.objective.pits import check_pits
from neglog.objective.shrinkage import UNTRACED, Shrinkage
from neglog.objective.spread import followed
from neglog.objective.sums import Sums
from neglog.predictors import RESPONSE

MIN_SAMPLED_ROWS = 50_000
"""Above this many rows a solver starts on a part of them."""


class Coordinates:
    """The objective as a problem in z: what a solver sees.

    `solved` states that the initial point is the optimum, which a solver confirms.
    Implements `neglog.solvers.solution.Kinked` where the only corners are Laplace densities in a linear
    predictor or of a prior (`polyhedral`), and `Problem` always.
    """

    def __init__(
        self, objective: Objective, blocks: tuple[Block, ...], cut: bool, solved: bool = False
    ) -> None:
        self.objective, self.blocks, self.cut, self.solved = objective, blocks, cut, solved
        self.size, self.rows = objective.size, objective.rows
        self.read: dict[str, Any] = {}  # other forms of the problem, stored by those who derive them

    def zeros(self, *shape: int) -> Tensor:
        return self.objective.initial.new_zeros(shape)

    # Between the coordinates

    def landed(self, theta: Tensor) -> Tensor:
        """`theta` `(..., K)` with the coefficients that a lasso prior holds at its corner exactly there."""
        theta = theta.clone()
        for name in kinked_sites(self.objective):
            site = self.objective.sites[name]
            at = corner(site.fn)
            assert at is not None
            value, loc = theta[..., site.place], at.loc.expand(site.shape).reshape(-1).to(theta)
            near = 1e-12 * at.scale.expand(site.shape).reshape(-1) + 1e-15 * loc.abs()
            close = (value - loc).abs() <= near
            theta[..., site.place] = torch.where(close, loc, value)
        return theta

    def theta(self, z: Tensor) -> Tensor:
        """The objective's vector `(K,)` at `z` `(K,)`."""
        theta = z.clone()
        for block in self.blocks:
            theta[block.places] = block.solve(z[block.places])
        return theta

    def z(self, theta: Tensor) -> Tensor:
        """The inverse of `theta`."""
        z = theta.clone()
        for block in self.blocks:
            z[block.places] = block.triangle @ theta[block.places]
        return z

    def directions(self, z: Tensor) -> Tensor:
        """The columns of a matrix `(K, M)` of steps in z, as steps in theta."""
        theta = z.clone()
        for block in self.blocks:
            theta[block.places] = torch.linalg.solve_triangular(block.triangle, z[block.places], upper=True)
        return theta

    def pull_back(self, gradient: Tensor) -> Tensor:
        """A gradient `(K, ...)` in theta as one in z, along its first dimension."""
        pulled = gradient.clone()
        for block in self.blocks:
            pulled[block.places] = block.solve_transposed(gradient[block.places])
        return pulled

    # The literal path

    @property
    def model(self) -> Model:
        """The model whose loss gradient steps descend."""
        return self.objective.model

    @property
    def trained(self) -> bool:
        """Whether gradient steps descend the loss of a network in training mode."""
        return False

    def training(self, seed: int) -> AbstractContextManager[None]:
        """Around gradient steps: nothing, but for networks that have a training mode."""
        return nullcontext()

    @cached_property
    def literal(self) -> Model:
        """What `pyro.infer.SVI` runs: the model itself, with its linear coefficients sampled in z.

        A further first argument is the scale of the log-likelihood of the rows.
        """
        model = in_units(self.model, self.blocks)
        return lambda scale, *args, **kwargs: weighted(model, scale)(*args, **kwargs)

    def literal_arguments(self, index: Tensor | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `literal` for the rows of `index`, scaled up to the whole; None is all rows."""
        data = self.objective.data if index is None else self.objective.data.take(index)
        scale = data.y.new_ones(()) if data.weights is None else data.weights
        return (scale * (self.rows / data.rows), data.x, data.y), dict(data.keywords)

    def literal_values(self, z: Tensor) -> dict[str, Tensor]:
        """The values of the sites of `literal` at `z`."""
        values = self.objective.params(self.theta(z))
        for name, place in self._literal_places():
            values[name] = z[place].reshape(self.objective.sites[name].shape)
        return values

    def from_literal(self, values: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `literal_values`."""
        z = self.objective.theta(values)
        for name, place in self._literal_places():
            z[place] = values[name].reshape(-1).to(z)
        return z

    def _literal_places(self) -> list[tuple[str, slice]]:
        predictors = dict.fromkeys(block.predictor for block in self.blocks)
        names = [f"{name}.{part}" for name in predictors for part in ("bias", "weight")]
        sites = self.objective.sites
        return [(name, sites[name].place) for name in names if name in sites and sites[name].is_real]

    # The problem

    def _etas(self, z: Tensor, rows: slice = ALL_ROWS) -> dict[Block, Tensor]:
        """The value of each block where the model is cut; none where it is not."""
        return {block: block.eta(z[block.places], rows) for block in self.blocks} if self.cut else {}

    @property
    def _parts(self) -> tuple[tuple[slice, Objective], ...]:
        """The objective in blocks of rows; whole where it is not cut."""
        return self.objective.parts if self.cut else ((ALL_ROWS, self.objective),)

    def sample(self) -> Coordinates | None:
        """The problem of a tenth of the rows, or of one block: its optimum is near that of very many."""
        if self.rows < MIN_SAMPLED_ROWS or not self.cut or self.solved or not self.objective.separable:
            return None
        index = sample_of(self.rows, min(self.rows // 10, BLOCK_ROWS))
        _ = self.objective.graph  # once for the sample too
        few = self.objective.take(index)
        pairs = zip(self.objective.data.parts().values(), few.data.parts().values(), strict=True)
        taken = {placed(whole): part for whole, part in pairs}
        blocks = tuple(block.take(index, taken) for block in self.blocks)
        return Coordinates(few, blocks, self.cut)

    def _likelihood(self, order: int) -> RowLikelihood:
        """The likelihood of the rows; a few evaluations confirm an optimum that is known."""
        return self.objective.likelihood(derivatives=order > VALUE, once=self.solved)

    @cached_property
    def _places(self) -> Tensor:
        """The places in theta of what enters the likelihood of the rows by itself, beside the predictors."""
        return places_of(self.objective.beside)

    @cached_property
    def _apart(self) -> bool:
        """Whether beside the predictors there are constants alone: no prior that counts, no coefficient."""
        own = {place for block in self.blocks for place in block.places.tolist()}
        return self.objective.priorless and own.isdisjoint(self._places.tolist())

    @cached_property
    def _shrinkage(self) -> Shrinkage:
        return Shrinkage(self.objective, torch.arange(self.size), UNTRACED)

    def _summed(self, order: int, z: Tensor, rough: bool = False) -> Sums:
        likelihood = self._likelihood(order)
        theta = (
            z if self._apart else self.theta(z)
        )  # constants, which are all that is read, are the same in z
        sums = Sums(self.blocks, self._places, self.size, z, rough, self._apart)
        if not self.objective.priorless:
            prior = self._shrinkage(theta, curved=order == CURVATURES)
            sums.add_prior(prior.value, prior.slope, prior.bend)
        for rows, part in self._parts:
            etas = [block.eta(z[block.places], rows) for block in self.blocks]
            sums.add(likelihood.evaluate(order, theta[self._places], etas, part.as_read), rows)
        return sums

    def value(self, z: Tensor) -> float:
        """The loss in nats; infinite where the model cannot be evaluated."""
        with torch.no_grad():
            if self.cut:
                return self._summed(VALUE, z).value
            nll, prior = self.objective.trial(self.theta(z))
            return float(nll + prior)

    def check(self, z: Tensor) -> str | None:
        """Refuse a point from which the loss falls without end; the reason for a fall that may be long.

        Raises:
            UnboundedLikelihoodError: see `Objective.check_bounded` and `check_pits`.
        """
        theta = self.theta(z)
        for rows, part in self._parts if self.objective.exacting else ():
            part.check_bounded(theta, joined(self._etas(z, rows)))
        objective = self.objective
        check_pits(objective, theta)
        if objective.data.y.dim() == 1 or not (self.cut and self.blocks) or len(self._parts) > 1:
            return None
        design = max((block.basis.dense() for block in self.blocks if block.basis), key=lambda d: d.shape[1])
        return followed(objective.response(theta, joined(self._etas(z))), objective.data, design)

    def end(self, z: Tensor) -> tuple[float, float]:
        """Minus the log-likelihood of the rows and minus the log prior, from the orthonormal designs.

        The coefficients of columns far from 0 are numbers whose products cancel; these are not formed.
        """
        self.check(z)
        theta, nll, prior = self.theta(z), 0.0, 0.0
        with torch.no_grad():
            for rows, part in self._parts:
                own, shared = part.terms(theta, joined(self._etas(z, rows)))
                nll, prior = nll + float(own), prior if rows.start else float(shared)
        return nll, prior

    @property
    def far(self) -> bool:
        """Whether the model is cut, and some column beside an intercept is far from 0."""
        return self.cut and any(block.is_far for block in self.blocks)

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient `(K,)` in z; NaN where the loss is not finite."""
        if not self.cut:
            return self._whole(z)
        sums = self._summed(SLOPES, z)
        return sums.value, sums.slope(self.pull_back)

    @torch.enable_grad()
    def _whole(self, z: Tensor) -> tuple[float, Tensor]:
        theta = self.theta(z).requires_grad_()
        nll, prior = self.objective.trial(theta)
        loss = nll + prior
        if not loss.requires_grad:
            return float(loss), torch.full_like(z, torch.nan)
        (gradient,) = torch.autograd.grad(loss, theta)
        return float(loss.detach()), self.pull_back(gradient)

    def hessian(self, z: Tensor) -> Tensor:
        """The Hessian `(K, K)` in z."""
        return self.derivatives(z)[2]

    def roughly(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """As `derivatives`, with a Hessian of which six digits do."""
        sums = self._summed(CURVATURES, z, rough=True)
        return sums.value, sums.slope(self.pull_back), sums.curvature(self.pull_back)

    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """The loss, its gradient `(K,)` and its Hessian `(K, K)` in z; NaN where the loss is not finite."""
        if self.cut:
            sums = self._summed(CURVATURES, z)
            return sums.value, sums.slope(self.pull_back), sums.curvature(self.pull_back)
        value, gradient = self._whole(z)
        if not math.isfinite(value):
            return value, gradient, z.new_full((self.size, self.size), torch.nan)
        hessian = self.pull_back(self.objective.hessian(self.theta(z)))
        return value, gradient, self.pull_back(hessian.T)

    # The corners

    @property
    def kinked(self) -> bool:
        """Whether the loss has corners at all."""
        return self._kinked_predictor is not None or bool(kinked_sites(self.objective))

    @property
    def polyhedral(self) -> bool:
        """Whether the loss has corners and `Continuation` can certify an optimum at them."""
        response = self._kinked_predictor
        placed = response is None or response in {block.name for block in self.blocks}
        return self.kinked and self.cut and placed

    @property
    def convex(self) -> bool:
        """Whether a place where the loss is flat may be an optimum: not where the response was truncated.

        Beyond the bounds such a loss is flat, far from any optimum.
        """
        return self.response_corner is None or not self.response_corner.is_truncated

    @property
    def response_corner(self) -> Corner | None:
        """The corner of the observation's density, at the first values."""
        return self.objective.corner

    @cached_property
    def _kinked_predictor(self) -> str | None:
        """The predictor that the response's corner is at; '' if at none; None if there is no corner."""
        at = self.objective.corner
        if at is None:
            return None
        is_straight = bool(torch.as_tensor(at.steepness).any())  # 0 marks a corner elsewhere than at 0
        return (self.objective.structure.response.location or "") if is_straight else ""

    def _changed(self, handler: Callable[[Model], Model]) -> Coordinates:
        return Coordinates(self.objective.changed(handler), self.blocks, self.cut)

    def smoothed(self, softness: float, bounded: bool = True) -> Coordinates:
        """The same problem with its corners rounded off; as if not truncated without `bounded`."""
        return self._changed(lambda model: smoothed(model, softness, bounded))

    def signed(self, signs: Tensor) -> Coordinates:
        """The same problem on one side of each corner; `signs` `(M,)` in the order of `residuals`."""
        parts, at = {}, 0
        for name, own in self._kinks.items():
            size = int(own.sum())
            parts[name] = signs.new_ones(own.shape).masked_scatter(own, signs[at : at + size])
            at += size
        return self._changed(lambda model: signed(model, parts))

    @cached_property
    def _kinks(self) -> dict[str, Tensor]:
        """Which entries of the sites with corners have one, the observation first."""
        sites = self.objective.at(self.objective.initial).sites
        names = ([RESPONSE] if self._kinked_predictor else []) + list(kinked_sites(self.objective))
        return {name: cornered(sites[name]["fn"], sites[name]["value"]) for name in names}

    def _corners(self, z: Tensor) -> dict[str, tuple[Tensor, Corner]]:
        """The value and the corner of each site that has one."""
        with torch.no_grad():
            run = self.objective.at(self.theta(z), joined(self._etas(z)))
        found = {}
        for name in self._kinks:
            at = corner(run.sites[name]["fn"])
            assert at is not None
            found[name] = (run.sites[name]["value"], at)
        return found

    def residuals(self, z: Tensor) -> Tensor:
        """The distances from the corners in units of their scales, `(M,)`."""
        return torch.cat(
            [((v - at.loc) / at.scale)[self._kinks[n]] for n, (v, at) in self._corners(z).items()]
        )

    def jacobian(self, z: Tensor) -> Tensor:
        """The derivatives `(M, K)` of the residuals while their scales stand still."""
        parts = []
        for name, (value, at) in self._corners(z).items():
            rows = torch.zeros((value.numel(), self.size), dtype=z.dtype)
            if name == RESPONSE:
                block = next(b for b in self.blocks if b.name == self._kinked_predictor)
                assert block.basis is not None
                rows[:, block.places] = -block.basis.dense()
            else:
                site = self.objective.sites[name]
                identity = torch.zeros((self.size, site.size), dtype=z.dtype)
                identity[site.place] = torch.eye(site.size, dtype=z.dtype)
                rows = self.pull_back(identity).T
            scale = at.scale.expand(value.shape).reshape(-1)
            parts.append((rows / scale[:, None])[self._kinks[name].reshape(-1)])
        return torch.cat(parts)

    def kink_weights(self) -> Tensor:
        """The weight of each |residual|, `(M,)`."""
        return self._each_row(lambda at: at.steepness)

    def kink_information(self) -> Tensor:
        """The information that each residual is expected to carry on its location, `(M,)`, in its units."""
        return self._each_row(lambda at: at.information)

    def _each_row(self, number: Callable[[Corner], float | Tensor]) -> Tensor:
        weights, parts = self.objective.data.weights, []
        for name, (value, at) in self._corners(self.z(self.objective.initial)).items():
            each = torch.as_tensor(number(at)).to(value).expand(value.shape).reshape(-1)
            each = each * weights if name == RESPONSE and weights is not None else each
            parts.append(each[self._kinks[name].reshape(-1)])
        return torch.cat(parts)


def rescaled(objective: Objective, theta: Tensor) -> Coordinates:
    """Coordinates for `objective` in which its curvature near `theta` `(K,)` is about one a row.

    Raises:
        SingularDesignError: a design whose coefficients have flat priors lacks full column rank.
    """
    return Coordinates(objective, *linear_blocks(objective, theta))
