"""Coordinates in which every problem looks alike, whatever the units of its columns and its response.

Each block of linear coefficients (bias and weights) is read through the QR decomposition of its design,
`[1, x] = Q R` and `z = R theta`: a unit step in z moves the predictor of an average row by about the noise
of a row, and predictors and gradients are summed through Q, without the cancellation that an ill-conditioned
design brings. Other parameters keep their unconstrained scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from neglog.basis import ALL_ROWS, sample_of
from neglog.blocks import Block, joined, linear_blocks
from neglog.distributions import Truncated
from neglog.handlers import Model, weighted
from neglog.kinks import Corner, corner, cornered, signed, smoothed
from neglog.literal import in_units
from neglog.objective import PART, Objective, kinked_sites, rows_of_second_derivatives
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run

MANY = 50_000
"""With more rows than this a solver starts on a part of them."""


class Coordinates:
    """The objective as a problem in z: what a solver sees.

    `solved` says that a solver starts at the optimum, and has but to confirm it.
    Implements `neglog.solvers.solution.Kinked` where the only corners are Laplace densities in a linear
    predictor or of a prior (`polyhedral`), and `Problem` always.
    """

    def __init__(
        self, objective: Objective, blocks: tuple[Block, ...], cut: bool, solved: bool = False
    ) -> None:
        self.objective, self.blocks, self.cut, self.solved = objective, blocks, cut, solved
        self.size, self.rows = objective.size, objective.rows

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

    @cached_property
    def literal(self) -> Model:
        """What `pyro.infer.SVI` runs: the model itself, with its linear coefficients sampled in z.

        A further first argument is the scale of the log-likelihood of the rows.
        """
        model = in_units(self.objective.model, self.blocks)
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
        if self.rows < MANY or not self.cut or self.solved or not self.objective.separable:
            return None
        index = sample_of(self.rows, min(self.rows // 10, PART))
        blocks = tuple(block.take(index) for block in self.blocks)
        return Coordinates(self.objective.take(index), blocks, self.cut)

    def value(self, z: Tensor) -> float:
        """The loss in nats; infinite where the model cannot be evaluated."""
        theta, total = self.theta(z), 0.0
        with torch.no_grad():
            for rows, part in self._parts:
                nll, prior = part.trial(theta, joined(self._etas(z, rows)))
                total += float(nll if rows.start else nll + prior)
        return total

    def check(self, z: Tensor) -> None:
        """Refuse a place from which the loss falls without end.

        Raises:
            UnboundedLikelihoodError: see `Objective.check_bounded`.
        """
        self.objective.check_bounded(self.theta(z))

    @torch.enable_grad()
    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient `(K,)` in z."""
        theta, total, gradient = self.theta(z).requires_grad_(), 0.0, torch.zeros_like(z)
        own = torch.zeros_like(z)
        for rows, part in self._parts:
            etas = {block: eta.requires_grad_() for block, eta in self._etas(z, rows).items()}
            nll, prior = part.trial(theta, joined(etas))
            loss = nll if rows.start else nll + prior
            total += float(loss.detach())
            if not loss.requires_grad:
                return total, torch.full_like(z, torch.nan)
            found = torch.autograd.grad(
                loss, [theta, *etas.values()], allow_unused=True, materialize_grads=True
            )
            own += found[0]
            for block, values in zip(etas, found[1:], strict=True):
                gradient[block.places] += block.gather(values, rows)
        return total, gradient + self.pull_back(own)

    def hessian(self, z: Tensor) -> Tensor:
        """The Hessian `(K, K)` in z."""
        return self.derivatives(z)[2]

    @torch.enable_grad()
    def derivatives(self, z: Tensor) -> tuple[float, Tensor, Tensor]:
        """The loss, its gradient `(K,)` and its Hessian `(K, K)` in z; NaN where the loss is not finite."""
        if not self.cut:
            value, gradient = self.value_and_gradient(z)
            if not math.isfinite(value):
                return value, gradient, z.new_full((self.size, self.size), torch.nan)
            hessian = self.pull_back(self.objective.hessian(self.theta(z)))
            return value, gradient, self.pull_back(hessian.T)
        theta, sums = self.theta(z).requires_grad_(), _Sums(self)
        for rows, part in self._parts:
            etas = {block: eta.requires_grad_() for block, eta in self._etas(z, rows).items()}
            nll, prior = part.trial(theta, joined(etas))
            sums.value += float(nll.detach() if rows.start else (nll + prior).detach())
            if not nll.requires_grad:
                return (
                    sums.value,
                    torch.full_like(z, torch.nan),
                    z.new_full((self.size, self.size), torch.nan),
                )
            if not rows.start:
                sums.add_prior(prior, theta)
            sums.add_rows(nll, theta, etas, rows)
        return sums.value, *sums.assembled()

    @cached_property
    def _constants(self) -> list[int]:
        """The places in theta of what enters the likelihood of the rows by itself, beside the predictors."""
        start = self.objective.initial
        values = {
            name: value.detach().requires_grad_() for name, value in self.objective.params(start).items()
        }
        few = self.objective.sample
        etas = {call.name: call.constant(few.rows) for call in self.objective.calls}
        cut = run(few.weighted, few.data, Run(values, etas=etas))
        likelihood = cut.log_prob(RESPONSE).sum()
        if not likelihood.requires_grad:
            return []
        found = torch.autograd.grad(likelihood, list(values.values()), allow_unused=True)
        used = [name for name, part in zip(values, found, strict=True) if part is not None]
        sites = self.objective.sites
        return [place for name in used for place in range(sites[name].place.start, sites[name].place.stop)]

    # The corners

    @property
    def kinked(self) -> bool:
        """Whether the loss has corners at all."""
        return self._kinked_predictor is not None or bool(kinked_sites(self.objective))

    @property
    def polyhedral(self) -> bool:
        """Whether the loss has corners and `Continuation` can certify an optimum at them.

        Not where the response was truncated: beyond the bounds such a loss is flat, and no optimum.
        """
        response, at = self._kinked_predictor, self.response_corner
        placed = response is None or response in {block.name for block in self.blocks}
        return self.kinked and self.cut and placed and not (at is not None and Truncated in at.bounds)

    @property
    def response_corner(self) -> Corner | None:
        """The corner of the observation's density, at the first values."""
        return self.objective.corner

    @cached_property
    def _kinked_predictor(self) -> str | None:
        """The predictor that the observation's corner is at; '' if at none; None if there is no corner."""
        if self.objective.corner is None:
            return None
        start, few = self.objective.initial, self.objective.sample
        etas = {call.name: call.value for call in few.at(start).affines}
        base = corner(few.at(start, etas).sites[RESPONSE]["fn"])
        assert base is not None
        located = (name for name, eta in etas.items() if base.loc.data_ptr() == eta.data_ptr())
        return next(located, "")

    def _changed(self, handler: Callable[[Model], Model]) -> Coordinates:
        return Coordinates(self.objective.changed(handler), self.blocks, self.cut)

    def smoothed(self, softness: float) -> Coordinates:
        """The same problem with its corners rounded off."""
        return self._changed(lambda model: smoothed(model, softness))

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
        """What each |residual| counts for, `(M,)`."""
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


class _Sums:
    """The sums over rows that make a value, a gradient and a Hessian, while the blocks of rows come in."""

    def __init__(self, coordinates: Coordinates) -> None:
        self.coordinates, size = coordinates, coordinates.size
        self.value = 0.0
        self.gradient, self.hessian = coordinates.zeros(size), coordinates.zeros(size, size)
        self.own, self.own_second = coordinates.zeros(size), coordinates.zeros(size, size)
        self.crosses = {place: coordinates.zeros(size) for place in coordinates._constants}

    def add_prior(self, prior: Tensor | float, theta: Tensor) -> None:
        """Add the derivatives of minus the log prior."""
        if not isinstance(prior, Tensor) or not prior.requires_grad:
            return
        (slope,) = torch.autograd.grad(prior, theta, create_graph=True, retain_graph=True)
        self.own += slope.detach()
        self.own_second += rows_of_second_derivatives(slope, theta)

    def add_rows(self, nll: Tensor, theta: Tensor, etas: Mapping[Block, Tensor], rows: slice) -> None:
        """Add the derivatives of the loss of some rows, through predictors and constants."""
        leaves, blocks = [theta, *etas.values()], list(etas)
        own, *by_eta = torch.autograd.grad(
            nll, leaves, create_graph=True, allow_unused=True, materialize_grads=True
        )
        self.own += own.detach()
        for place, cross in self.crosses.items():
            row, *across = _second(own[place], leaves)
            self.own_second[place] += row
            for block, values in zip(blocks, across, strict=True):
                cross[block.places] += block.gather(values, rows)
        for j, (block, values) in enumerate(zip(blocks, by_eta, strict=True)):
            self.gradient[block.places] += block.gather(values.detach(), rows)
            curvatures = _second(values.sum(), leaves[1 : j + 2])
            for other, curvature in zip(blocks[: j + 1], curvatures, strict=True):
                part = block.cross(curvature, other, rows)
                self.hessian[block.places[:, None], other.places] += part
                if other is not block:
                    self.hessian[other.places[:, None], block.places] += part.T

    def assembled(self) -> tuple[Tensor, Tensor]:
        """The gradient `(K,)` and the Hessian `(K, K)`."""
        pull_back = self.coordinates.pull_back
        hessian = self.hessian + pull_back(pull_back(self.own_second).T)
        for place, cross in self.crosses.items():
            unit = torch.zeros_like(cross)
            unit[place] = 1.0
            part = cross[:, None] * pull_back(unit)
            hessian += part + part.T
        return self.gradient + pull_back(self.own), hessian


def _second(scalar: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    if not scalar.requires_grad:
        return [torch.zeros_like(i) for i in inputs]
    found = torch.autograd.grad(scalar, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    return [f.detach() for f in found]


def rescaled(objective: Objective, theta: Tensor) -> Coordinates:
    """Coordinates for `objective` in which its curvature near `theta` `(K,)` is about one a row.

    Raises:
        SingularDesignError: a design whose coefficients have flat priors lacks full column rank.
    """
    return Coordinates(objective, *linear_blocks(objective, theta))
