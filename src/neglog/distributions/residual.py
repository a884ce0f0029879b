"""The density that a loss of the residual is minus the log of, normalised by quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from neglog.calls import public
from neglog.distributions.base import Located, Parameter
from neglog.distributions.corners import Corner
from neglog.distributions.family import Family, register
from neglog.distributions.quadrature import (
    MIN_MASS,
    adaptive,
    gauss_legendre,
    nodes_of,
    over_panels,
    tails,
    tanh_sinh,
)
from neglog.distributions.quantiles import at_ends, interior
from neglog.errors import ModelError, reason_of

Rho = Callable[[Tensor], Tensor]

NORMALISER_TOLERANCE = 1e-10
"""Relative difference within which two quadratures of the normaliser must agree."""
MAX_OMITTED_SHARE = 1e-12
"""Largest share of a density beyond the last residual at which its loss is a number."""
_LOG_RANGE = 700.0
"""Range of log|residual|: exp(±700) neither overflow nor underflow in float64."""


@public
@dataclass(frozen=True, eq=False)
class LossDensity:
    """The density exp(-ρ(u)) / Z of a loss ρ of the residual u: :func:`normalised` makes it.

    Integrals are over v, with u = `centre` ± exp(|v| - 700): steps of one size at every order of magnitude,
    so that neither the width of the density nor its tails need be known. The panels between `edges` resolve
    it, corners included, and `below` and `above` are the probabilities on both sides of each edge.

    Attributes:
        rho: the loss.
        name: what it is called.
        log_z: the log of the integral of exp(-ρ).
        mean, variance: those of u; NaN where the tails are too heavy for them.
        steepness: half the jump of ρ' at u = 0 where that is a corner, pointing down; else 0.
        cornered: whether ρ' jumps anywhere else.
        information: E ρ'(u)², the information of a row on its location in units of the scale.
        skew_information: E u ρ'(u)², that on location and scale together; 0 for a symmetric loss.
    """

    rho: Rho = field(repr=False)
    name: str
    log_z: float
    mean: float
    variance: float
    steepness: float
    cornered: bool
    information: float
    skew_information: float
    centre: float = field(repr=False)
    edges: Tensor = field(repr=False)
    below: Tensor = field(repr=False)
    above: Tensor = field(repr=False)

    def log_prob(self, u: Tensor) -> Tensor:
        """The log-density at `u`, of any shape."""
        return -self.rho(u) - self.log_z

    def tails(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The probabilities of at most `u` and of more, each to 10 digits of its own; differentiable."""
        return _Tails.apply(u, self)

    def quantile(self, q: Tensor) -> Tensor:
        """The u with probability `q` below it; first derivatives in `q`."""
        inner = interior(q)
        u = _residual(self.centre, self._find(inner.detach().double())).to(q.dtype)
        density = torch.exp(self.log_prob(u)).detach()
        return at_ends(q, u + (inner - inner.detach()) / density, -math.inf, math.inf)

    @torch.no_grad()
    def _find(self, q: Tensor) -> Tensor:
        """The coordinate with probability `q` below: its panel, then Newton's method inside, safeguarded.

        The mass that is looked for is counted from that edge of the panel where the smaller tail begins.
        """
        edges, below, above = (part.to(q.device) for part in (self.edges, self.below, self.above))
        left = q <= 0.5
        up = torch.searchsorted(below, q) - 1
        down = len(above) - 1 - torch.searchsorted(above.flip(0), 1 - q)
        panel = torch.where(left, up, down).clamp(0, len(edges) - 2)
        low, high = edges[panel], edges[panel + 1]
        start, end = low.clone(), high.clone()
        wanted = torch.where(left, q - below[panel], (1 - q) - above[panel + 1])
        share = wanted / (below[panel + 1] - below[panel]).clamp_min(MIN_MASS)
        v = low + (high - low) * torch.where(left, share, 1 - share).clamp(0.0, 1.0)
        for _ in range(60):
            found = over_panels(
                self._integrand, torch.where(left, start, v), torch.where(left, v, end), gauss_legendre()
            )
            over = torch.where(left, found - wanted, wanted - found)  # rises with v
            low, high = torch.where(over <= 0, v, low), torch.where(over > 0, v, high)
            moved = v - over / self._integrand(v)
            moved = torch.where((moved >= low) & (moved <= high), moved, 0.5 * (low + high))
            done = bool(((moved - v).abs() <= 4 * torch.finfo(v.dtype).eps * v.abs()).all())
            v = moved
            if done:
                break
        return v

    def tails_at(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Both tails at the coordinate `v`: whole panels from each end, and the part of one."""
        edges, below, above = (part.to(v.device) for part in (self.edges, self.below, self.above))
        v = torch.minimum(torch.maximum(v, edges[0]), edges[-1])
        panel = (torch.searchsorted(edges, v.contiguous(), right=True) - 1).clamp(0, len(edges) - 2)
        lower = over_panels(self._integrand, edges[panel], v, gauss_legendre())
        upper = over_panels(self._integrand, v, edges[panel + 1], gauss_legendre())
        return below[panel] + lower, above[panel + 1] + upper

    def _integrand(self, v: Tensor) -> Tensor:
        return torch.exp(v.abs() - _LOG_RANGE - self.rho(_residual(self.centre, v)) - self.log_z)


class _Tails(torch.autograd.Function):
    """Both tails, with the density as their derivative, to all orders."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, density: LossDensity) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(u)
        ctx.density = density
        lower, upper = density.tails_at(_coordinate(density.centre, u.double()))
        return lower.to(u.dtype), upper.to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        lower, upper = gradients
        return (lower - upper) * torch.exp(ctx.density.log_prob(*ctx.saved_tensors)), None


@public
class FromLoss(Located):
    """FromLoss(location, scale, density): minus its log is a loss of one's own.

    Density: exp(-ρ((y - location) / scale)) / (scale Z), with ρ and Z in `density`, which is
    ``normalised(rho)``.
    Shapes: any that broadcast; `location` and `scale` in units of y.
    Estimates: the location at which the loss has residual 0; the scale is that in which the loss takes them.
    Source: Huber (1964), who reads a loss as minus the log of a density up to its scale.
    `cdf`, `sf` and `icdf` by the same quadrature, with relative accuracy in both tails; `rsample` goes
    through `icdf`. `mean` and `variance` are NaN where they do not exist; there always is a `median`.
    Raises ``ValueError`` for a scale that is not positive.

    >>> import torch
    >>> cauchy = FromLoss(0.0, 1.0, normalised(lambda r: torch.log1p(r**2)))
    >>> cauchy.cdf(torch.tensor(1.0)), cauchy.log_prob(torch.tensor(0.0)).exp() * torch.pi
    (tensor(0.7500), tensor(1.))
    """

    arg_constraints: Mapping[str, Any] = {"location": constraints.real, "scale": constraints.positive}
    tail_accuracy = 1e-10

    scale: Tensor

    def __init__(
        self,
        location: Parameter,
        scale: Parameter,
        density: LossDensity,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.density = density
        super().__init__(location, scale, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = super().expand(batch_shape, _instance)
        new.density = self.density
        return new

    def _units(self, value: Tensor) -> Tensor:
        location, scale = self._given
        return (value - location) / scale

    @property
    def knots(self) -> tuple[Tensor]:
        """Where the slope of the log-density jumps."""
        return (self._given[0],)

    def _log_prob(self, value: Tensor) -> Tensor:
        return self.density.log_prob(self._units(value)) - torch.log(self._given[1])

    def _tails(self, value: Tensor) -> tuple[Tensor, Tensor]:
        return self.density.tails(self._units(value))

    def _quantile(self, q: Tensor) -> Tensor:
        location, scale = self._given
        return location + scale * self.density.quantile(q)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws through the quantile function, so that they have derivatives in location and scale."""
        shape = self._extended_shape(sample_shape)
        tiny = torch.finfo(torch.float64).tiny
        uniform = torch.rand(shape, dtype=torch.float64, device=self.location.device).clamp(min=tiny)
        return self.location + self.scale * self.density.quantile(uniform).to(self.location.dtype)

    def spread_at(self, value: Tensor) -> Tensor:
        """The scale, which shrinks on a perfect fit whether or not there is a variance."""
        return self.scale

    @property
    def median(self) -> Tensor:
        """The median, in units of y."""
        return self.location + self.scale * self.density.quantile(self.location.new_tensor(0.5))

    @property
    def mean(self) -> Tensor:
        """The mean, in units of y."""
        return self.location + self.scale * self.density.mean

    @property
    def variance(self) -> Tensor:
        """The variance, in squared units of y."""
        return self.scale**2 * self.density.variance


def _corner(fn: FromLoss) -> Corner | None:
    density = fn.density
    constant = -torch.log(fn.scale) - density.log_z
    if density.cornered:
        # With a location that is no predictor the corner cannot be certified.
        own = fn.location.clone()
        return Corner(fn, own, fn.scale, 0.0, density.rho, constant, density.information)
    if not density.steepness:
        return None

    def smooth(u: Tensor) -> Tensor:
        # Exactly at 0 autograd returns the slope of the branch in the code; beside 0 the slope is unique.
        beside = torch.where(u == 0, u + torch.finfo(u.dtype).tiny, u)
        return density.rho(beside) - density.steepness * beside.abs()

    steepness, expected, skew = density.steepness, density.information, density.skew_information
    return Corner(fn, fn.location, fn.scale, steepness, smooth, constant, expected, skew)


register(Family(FromLoss, corner=_corner))


@public
def normalised(rho: Rho) -> LossDensity:
    """The density exp(-ρ(u)) / Z on the whole line, with Z and its tails by quadrature in float64.

    Panels are halved until they resolve the density, by Gauss's rule over the logarithm of the residual; the
    double exponential rule over its inverse hyperbolic sine, on panels of its own, must give the same Z to
    10 digits. The gradient must be the derivative: ∫ρ' exp(-ρ) over each side of the mode is the density
    there.

    Raises:
        ModelError: `rho` is not a differentiable function of tensors, element by element; it is not finite
            where its density counts; it cannot be normalised, or not to 10 digits.

    >>> import math
    >>> log_cosh = normalised(lambda r: torch.log(torch.cosh(r)))  # Z = π
    >>> abs(log_cosh.log_z - math.log(math.pi)) < 1e-12
    True
    """
    name = getattr(rho, "__name__", type(rho).__name__).replace("<lambda>", "rho")
    _check_function(rho)
    with torch.no_grad():
        centre = _centre(rho)
        peak = float(rho(_double(centre)))
        edges = _finite_edges(rho, centre)
        ends = [_End(rho, centre, peak, edges, side) for side in (-1, 1)]

        def integrand(v: Tensor) -> Tensor:
            return torch.exp(v.abs() - _LOG_RANGE - (rho(_residual(centre, v)) - peak))

        panels, mass = adaptive(integrand, _weighty(integrand, edges), gauss_legendre())
        total = float(mass.sum())
        for end in sorted(ends, key=lambda end: end.growth):
            end.check(total)
        _check_twice(rho, centre, peak, total, edges)
        lower, upper = (part / total for part in tails(mass))
    moments = _Moments(rho, centre, peak, total, panels)
    moments.check_gradient()
    zero = mass.new_zeros(1)
    return LossDensity(
        rho=rho,
        name=name,
        log_z=math.log(total) - peak,
        mean=moments.mean if all(end.has_moment(1, total) for end in ends) else math.nan,
        variance=moments.variance if all(end.has_moment(2, total) for end in ends) else math.nan,
        steepness=_steepness(rho, total),
        cornered=_is_cornered(rho, centre, peak, total, panels),
        information=moments.information,
        skew_information=moments.skew_information,
        centre=centre,
        edges=panels,
        below=torch.cat([zero, lower]),
        above=torch.cat([upper, zero]),
    )


def _double(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def _residual(centre: float, v: Tensor) -> Tensor:
    return centre + torch.sign(v) * torch.exp(v.abs() - _LOG_RANGE)


def _coordinate(centre: float, u: Tensor) -> Tensor:
    away = u - centre
    return torch.sign(away) * (torch.log(away.abs()) + _LOG_RANGE).clamp(min=0.0, max=2 * _LOG_RANGE)


_ELEMENTWISE = (
    "`rho` must be a function of a tensor of residuals that gives the loss of each, of the same shape"
)


def _check_function(rho: Rho) -> None:
    """Refuse a loss that is not one differentiable function of each residual by itself."""
    u = torch.linspace(-2.0, 3.0, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    try:
        loss = rho(u)
        alone = [rho(one.detach()) for one in u.reshape(-1)]
    except Exception as error:
        raise ModelError(
            f"{_ELEMENTWISE}; it raises {type(error).__name__}: {reason_of(error)}. Write it with "
            "torch; for a loss class of torch.nn, see losses.likelihood_of."
        ) from error
    _check_values(u, loss)
    _check_independence(loss, alone)
    _check_at_zero(rho)


def _check_values(u: Tensor, loss: Any) -> None:
    """Refuse losses of another type, shape or dtype than the residuals."""
    plain = isinstance(loss, Tensor) and not loss.is_nested
    if plain and loss.shape == u.shape and loss.dtype == u.dtype:
        return
    came = (
        f"{str(loss.dtype).removeprefix('torch.')} of shape {tuple(loss.shape)}"
        if plain
        else type(loss).__name__
    )
    raise ModelError(
        f"{_ELEMENTWISE}; called with float64 of shape (2, 3) it gives {came}. Use elementwise "
        "functions of torch alone."
    )


def _check_independence(loss: Tensor, alone: list[Tensor]) -> None:
    """Refuse losses that depend on anything but their own residual, or not differentiably on that."""
    if any(one.requires_grad for one in alone):
        raise ModelError(
            "`rho` depends on tensors that require gradients, and its normalising constant would not "
            "follow their training. Detach them, or write a model in which they are sites."
        )
    if not loss.requires_grad:
        raise ModelError(
            "`rho` has no gradient: it is constant, or computed outside torch. Write it with torch."
        )
    if not torch.allclose(
        torch.stack(alone), loss.detach().reshape(-1), rtol=1e-12, atol=1e-300, equal_nan=True
    ):
        raise ModelError(
            f"{_ELEMENTWISE}; the loss of one residual depends on the others, or differs between calls."
        )


def _check_at_zero(rho: Rho) -> None:
    """Refuse a loss that is not finite and differentiable at a residual of 0."""
    at_zero = float(rho(_double(0.0)))
    if not math.isfinite(at_zero):
        raise ModelError(
            f"`rho` is {at_zero:g} at r = 0, where a loss must be finite. Shift or bound it there."
        )
    slope = _gradient(rho, _double(0.0))
    if not bool(torch.isfinite(slope).all()):
        raise ModelError(
            f"`rho` is not differentiable at r = 0: its gradient there is {float(slope):g}. If it has a "
            "corner, write it with r.abs(), whose gradient at 0 is 0; a loss with a vertical slope has no "
            "likelihood that can be fitted."
        )


@torch.enable_grad()
def _gradient(rho: Rho, u: Tensor) -> Tensor:
    leaf = u.detach().requires_grad_()
    return torch.autograd.grad(rho(leaf).sum(), leaf)[0]


def _centre(rho: Rho) -> float:
    """Where the loss is smallest: 0, unless it is clearly smaller elsewhere."""
    grid = _residual(0.0, torch.arange(-2 * _LOG_RANGE, 2 * _LOG_RANGE + 1, dtype=torch.float64))
    values = rho(grid)
    at_zero = float(values[len(grid) // 2])
    if bool((values == -math.inf).any()):
        where = float(grid[values == -math.inf][0])
        raise ModelError(f"`rho` is -inf at r = {where:.3g}, so exp(-rho) cannot be normalised.")
    best = int(torch.where(torch.isfinite(values), values, math.inf).argmin())
    if at_zero <= float(values[best]) + 1e-12 * (1 + abs(at_zero)):
        return 0.0
    low, high = (float(grid[min(max(best + step, 0), len(grid) - 1)]) for step in (-1, 1))
    golden = 0.5 * (math.sqrt(5) - 1)
    for _ in range(80):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if float(rho(_double(left))) <= float(rho(_double(right))):
            high = right
        else:
            low = left
    return 0.5 * (low + high)


def _finite_edges(rho: Rho, centre: float) -> Tensor:
    """Edges one apart in v, from the last finite loss on the left to the last on the right."""
    edges = torch.arange(-2 * _LOG_RANGE, 2 * _LOG_RANGE + 1, dtype=torch.float64)
    lost = (~torch.isfinite(rho(_residual(centre, edges)))).nonzero()[:, 0]
    middle = len(edges) // 2
    first = int(lost[lost < middle].max()) + 1 if bool((lost < middle).any()) else 0
    last = int(lost[lost > middle].min()) if bool((lost > middle).any()) else len(edges)
    return edges[first:last]


def _weighty(integrand: Callable[[Tensor], Tensor], edges: Tensor) -> Tensor:
    """The edges between which the integrand is positive, and one more on each side."""
    some = (integrand(edges) > 0).nonzero()[:, 0]
    return edges[max(int(some.min()) - 1, 0) : int(some.max()) + 2]


class _End:
    """One side of a loss: its last finite value, and the decay of the density beyond it."""

    def __init__(self, rho: Rho, centre: float, peak: float, edges: Tensor, side: int) -> None:
        v = edges[[1, 0]] if side < 0 else edges[-2:]
        self.residual = float(_residual(centre, v)[1])
        self.log_size = float(v[1].abs()) - _LOG_RANGE
        before, self.loss = (rho(_residual(centre, v)) - peak).tolist()
        self.growth = (self.loss - before) / abs(float(v[1] - v[0]))

    def _log_rest(self, moment: int) -> float:
        """The log of ∫|u|^moment exp(-ρ) beyond the end, if ρ goes on growing like `growth` · log |u|."""
        excess = self.growth - 1 - moment
        return (1 + moment) * self.log_size - self.loss - math.log(excess) if excess > 0 else math.inf

    def has_moment(self, moment: int, total: float) -> bool:
        return self._log_rest(moment) < math.log(MAX_OMITTED_SHARE * total) + moment * math.log(total)

    def check(self, total: float) -> None:
        """Refuse a density whose mass beyond the end may not be negligible."""
        if math.isfinite(total) and self._log_rest(0) < math.log(MAX_OMITTED_SHARE * total):
            return
        if self.log_size < 0.4 * _LOG_RANGE:
            raise ModelError(
                f"`rho` is not finite beyond r = {self.residual:.3g}, where exp(-rho) is not negligible yet. "
                "A loss must be a number for every residual; beyond the largest of interest let it grow."
            )
        if self.growth <= 1 + 1e-6:
            raise ModelError(
                f"`rho` cannot be normalised: as r → {'-' if self.residual < 0 else '+'}∞ it grows like "
                f"{max(self.growth, 0.0):.3g} log|r|, and exp(-rho) has a finite integral only if it grows "
                "faster than log|r|. A bounded loss, such as Tukey's bisquare, is no likelihood; "
                "`models.student_t` is a robust loss that is."
            )
        if not math.isfinite(total):
            raise ModelError(
                "`rho` is NaN at residuals of positive density. Write it so that it is a number there."
            )
        raise ModelError(
            f"`rho` grows like {self.growth:.4g} log|r| as r → {'-' if self.residual < 0 else '+'}∞: tails "
            "too heavy to normalise to 10 digits. Let it grow faster."
        )


def _check_twice(rho: Rho, centre: float, peak: float, total: float, edges: Tensor) -> None:
    """Compare the integral with that by another rule, in another coordinate, on other panels."""
    ends = torch.asinh((_residual(centre, edges[[0, -1]]) - centre) / total)
    low, high = ends.tolist()

    def integrand(t: Tensor) -> Tensor:
        # log cosh t = |t| - log 2 + log(1 + exp(-2|t|)), which does not overflow
        stretch = t.abs() + torch.log1p(torch.exp(-2 * t.abs())) - math.log(2)
        return torch.exp(stretch - (rho(centre + total * torch.sinh(t)) - peak))

    inner = torch.arange(math.ceil(low), math.floor(high) + 1, dtype=torch.float64)
    panels = torch.unique(torch.cat([ends[:1], inner, ends[1:]]))
    again = total * float(adaptive(integrand, _weighty(integrand, panels), tanh_sinh())[1].sum())
    if not abs(again - total) <= NORMALISER_TOLERANCE * total:
        raise ModelError(
            f"`rho` could not be normalised to 10 digits: two quadratures give {total:.12g} and "
            f"{again:.12g}. It may jump, or oscillate too fast for numerical integration."
        )


class _Moments:
    """Expectations under the density, at the nodes of its panels."""

    def __init__(self, rho: Rho, centre: float, peak: float, total: float, panels: Tensor) -> None:
        v, weights = nodes_of(panels[:-1], panels[1:], gauss_legendre())
        u = _residual(centre, v)
        with torch.no_grad():
            p = weights * torch.exp(v.abs() - _LOG_RANGE - (rho(u) - peak)) / total
        keep = p > 0
        self.u, self.p, self.right, self.total = u[keep], p[keep], v[keep] > 0, total
        self.slope = _gradient(rho, self.u)
        self.mean = float(self.p @ self.u)
        self.variance = float(self.p @ (self.u - self.mean).square())
        squared = self.p * self.slope.square()
        self.information, self.skew_information = float(squared.sum()), float(squared @ self.u)

    def check_gradient(self) -> None:
        """Refuse a loss whose gradient is not its derivative: each side must integrate to the peak."""
        each = self.p * self.slope * self.total
        sides = torch.stack([-each[~self.right].sum(), each[self.right].sum()])
        # At a corner the panels resolve the density to 12 digits; its slope jumps, and is known to half.
        if not bool(((sides - 1).abs() < 1e-4).all()):
            raise ModelError(
                "`rho` is not differentiable: it jumps, or its gradient is not its derivative (a part may be "
                "detached, or rounded). Write it as one continuous function with torch."
            )


def _steepness(rho: Rho, width: float) -> float:
    """Half the jump of the slope at 0, if it is a corner that points down."""
    left, right = _gradient(rho, torch.tensor([-1e-20, 1e-20], dtype=torch.float64) * width).tolist()
    jump = 0.5 * (right - left)
    return jump if jump * width > 1e-6 else 0.0


def _is_cornered(rho: Rho, centre: float, peak: float, width: float, panels: Tensor) -> bool:
    """Whether the slope jumps at a residual other than 0 where the density counts.

    Every panel is halved towards where the slope changes most: a change that does not shrink is a jump.
    """
    edges = _residual(centre, panels)
    with torch.no_grad():
        edges = edges[rho(edges) - peak < 50]
    low, high = edges[:-1], edges[1:]
    at_low, at_high = _gradient(rho, low), _gradient(rho, high)
    for _ in range(50):
        middle = 0.5 * (low + high)
        slope = _gradient(rho, middle)
        left = (slope - at_low).abs() >= (at_high - slope).abs()
        low, at_low = torch.where(left, low, middle), torch.where(left, at_low, slope)
        high, at_high = torch.where(left, middle, high), torch.where(left, slope, at_high)
    jump = (at_high - at_low).abs() * width
    return bool(((jump > 1e-4) & (high.abs() > 1e-9 * width)).any())
