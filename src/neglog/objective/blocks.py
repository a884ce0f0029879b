"""Blocks: the coefficients of each linear predictor, in units that do not depend on those of the data."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from neglog.errors import ModelError, SingularDesignError
from neglog.likelihood.eager import joined_outputs
from neglog.likelihood.rows import SLOPES
from neglog.likelihood.sites import Site, prior_advice
from neglog.magnitudes import check_small_columns
from neglog.objective.basis import ALL_ROWS, FAIR, Basis, are_alike, is_large, placed, spread_of, triangle_of
from neglog.objective.objective import Objective
from neglog.objective.products import column_squares
from neglog.objective.saturated import Spread, interpolating
from neglog.predictors import RESPONSE, by_output
from neglog.tracing import Affine

Known = dict[Hashable, tuple[Tensor, Basis]]
OFFSET = 1e3
"""A column with a mean above this many standard deviations is centred before it is decomposed."""
MAX_CENTRED = 10_000_000
"""The largest design, in numbers, that is copied to be centred; larger ones are decomposed in place."""
VERY_FAR = 1e4
"""A column with a mean above this many standard deviations loses digits if it is decomposed in place."""
MAX_COPIED = 100_000_000
"""The largest design, in numbers, with such columns that is copied to be centred."""
MAX_JOINT_COEFFICIENTS = 128
"""Up to this many coefficients those of all predictors are transformed by one triangular solve."""
SIZE_ROWS = 50_000
"""Number of rows from which the size of a column is estimated."""


@dataclass(frozen=True, eq=False)
class Block:
    """The coefficients of one linear predictor, or of one output of it, in both coordinates.

    `places` are their positions in theta, the bias (where it is free) first: ``triangle @ theta[places]``
    are their positions in z. The predictor is ``basis.at(z[places]) + offset``; `basis` is None where the
    true design itself depends on parameters, and `offset` is the part that is not free.
    """

    predictor: str
    output: int | None
    places: Tensor
    triangle: Tensor
    basis: Basis | None
    offset: Tensor | float
    one: bool = False
    """Whether the first coefficient is the bias."""

    @property
    def name(self) -> str:
        """The predictor, with the position of the output where it has many."""
        return self.predictor if self.output is None else f"{self.predictor}[{self.output}]"

    @property
    def is_far(self) -> bool:
        """Whether a column beside an intercept is far from 0 in units of its spread."""
        return self.one and bool(is_far(self.triangle).any())

    def solve(self, z: Tensor) -> Tensor:
        """The coefficients at `z` `(P,)`."""
        return torch.linalg.solve_triangular(self.triangle, z[:, None], upper=True)[:, 0]

    def take(self, index: Tensor, taken: Mapping[Any, Tensor]) -> Block:
        """The block in the rows that `index` names; designs are `taken` already, by where they lie."""
        assert self.basis is not None
        offset = self.offset[index] if isinstance(self.offset, Tensor) else self.offset
        return replace(self, basis=self.basis.take(index, taken), offset=offset)

    def eta(self, z: Tensor, rows: slice = ALL_ROWS) -> Tensor:
        """The predictor `(N,)` at `z` `(P,)`, in some rows."""
        assert self.basis is not None
        free = self.basis.at(z, rows)
        if isinstance(self.offset, Tensor):
            return free + self.offset[rows]
        return free + self.offset if self.offset else free

    def gather(self, values: Tensor, rows: slice = ALL_ROWS) -> Tensor:
        """A gradient `(N,)` in the predictor as one `(P,)` in z."""
        assert self.basis is not None
        return self.basis.gather(values, rows)

    def cross(self, values: Tensor, other: Block, rows: slice = ALL_ROWS, rough: bool = False) -> Tensor:
        """Second derivatives `(N,)` in two predictors as those `(P, Q)` in their z; see `Basis.cross`."""
        assert self.basis is not None
        assert other.basis is not None
        return self.basis.cross(values, other.basis, rows, rough)


def triangles_of(blocks: Sequence[Block]) -> list[tuple[Tensor, Tensor]]:
    """Positions of coefficients in theta and the triangle that turns them into z; of few all in one."""
    apart = [(block.places, block.triangle) for block in blocks]
    if len(apart) < 2 or sum(len(places) for places, _ in apart) > MAX_JOINT_COEFFICIENTS:
        return apart
    places, triangles = zip(*apart, strict=True)
    return [(torch.cat(places), torch.block_diag(*triangles))]


def joined(values: Mapping[Block, Tensor]) -> dict[str, Tensor]:
    """Predictor -> its values, `(N,)`, or `(N, D)` where it has many outputs; blocks come in their order."""
    return joined_outputs([(block.predictor, block.output) for block in values], list(values.values()))


@torch.enable_grad()
def linear_blocks(objective: Objective, theta: Tensor) -> tuple[tuple[Block, ...], bool]:
    """The blocks of a model, in units of the noise at `theta` `(K,)`, and whether its predictors are linear.

    They are if every predictor is a fixed design times coefficients that are free or constant.

    Raises:
        SingularDesignError: a design whose coefficients have flat priors lacks full column rank.
    """
    calls = objective.calls
    few, is_linear = objective.sample, objective.structure.is_linear
    noise = _noise(few, theta, {call.name: call.value.detach() for call in few.affines(theta)})
    if not is_linear:
        return tuple(b for call in calls for b in _diagonal(objective, call, noise[call.name], theta)), False
    known: Known = {}
    return tuple(
        b for call in calls for b in _orthonormal(objective, call, noise[call.name], theta, known)
    ), True


def _noise(objective: Objective, theta: Tensor, etas: dict[str, Tensor]) -> dict[str, Tensor]:
    """The unit of each predictor, see `noise_unit`.

    It is at most the size of the predictor and the response together, since all scores may vanish, as for
    counts that are all 0. The value of a predictor is `()`, or `(D,)` for D outputs.
    """
    if not etas:
        return {}
    scores = scores_at(objective, theta, etas)
    y = objective.data.y.nan_to_num(nan=0.0)
    most = 1 + max(float(value.abs().max()) for value in (y, *etas.values()) if value.numel())
    sizes = {name: score.square().mean(dim=0) for name, score in zip(etas, scores, strict=True)}
    return {name: noise_unit(size, most) for name, size in sizes.items()}


def noise_unit(size: Tensor, most: Tensor | float) -> Tensor:
    """How far a predictor must move to change an average row's density, from its mean squared score.

    At most `most`; 1 where the score is 0 or not finite.
    """
    return torch.where((size > 0) & torch.isfinite(size), size.rsqrt().clamp(max=most), 1.0)


def scores_at(objective: Objective, theta: Tensor, etas: dict[str, Tensor]) -> Sequence[Tensor]:
    """The derivatives of the loss with respect to each predictor, `(N,)` or `(N, D)`."""
    if not objective.structure.is_linear:
        leaves = {name: eta.clone().requires_grad_() for name, eta in etas.items()}
        log_likelihood = objective.at(theta, leaves).log_prob(RESPONSE).sum()
        if not log_likelihood.requires_grad:
            raise _independent(objective, etas)
        return torch.autograd.grad(
            log_likelihood, list(leaves.values()), allow_unused=True, materialize_grads=True
        )
    if not objective.structure.probe.depends_on_predictors:
        raise _independent(objective, etas)
    likelihood = objective.backends.likelihood(derivatives=False, once=True)
    parts = [
        etas[name] if output is None else etas[name][:, output] for name, output in likelihood.predictors
    ]
    found = likelihood.evaluate(SLOPES, theta[likelihood.places], parts, objective.as_read).slopes
    slopes = [slope.expand(objective.rows) for slope in found]
    return list(joined_outputs(likelihood.predictors, slopes).values())


def _independent(objective: Objective, etas: Mapping[str, Tensor]) -> ModelError:
    """The error of a density that does not depend on any predictor."""
    return ModelError(
        f"the density of `y` in `{objective.name}` depends on none of its linear predictors, "
        f"{', '.join(map(repr, etas))}. Use their values in the distribution of `y`."
    )


def _places(site: Site | None, output: int | None) -> Tensor:
    """The positions of the coefficients of an output in theta."""
    if site is None:
        return torch.arange(0)
    places = torch.arange(site.offset, site.offset + site.size)
    return places if output is None else places.reshape(site.shape)[output].reshape(-1)


def block_places(bias: Site | None, weight: Site | None, output: int | None = None) -> Tensor:
    """The places in theta of the free coefficients of an output, the bias first."""
    return torch.cat([_places(bias, output), _places(weight, output)])


def _diagonal(objective: Objective, call: Affine, noise: Tensor, theta: Tensor) -> tuple[Block, ...]:
    """A design that depends on parameters is not decomposed: its coefficients are scaled to units of the
    noise only."""
    blocks = []
    for output, unit in zip(call.numbers, noise.reshape(-1).tolist(), strict=True):
        places = block_places(*objective.structure.coefficients(call.name), output)
        triangle = torch.eye(len(places), dtype=theta.dtype) / unit
        blocks.append(Block(call.name, output, places, triangle, None, 0.0))
    return tuple(blocks)


def _orthonormal(
    objective: Objective, call: Affine, noise: Tensor, theta: Tensor, known: Known
) -> tuple[Block, ...]:
    """The blocks of a fixed design: `[1, x] = Q R`, with the curvature of the priors as further rows.

    `known` are decompositions of designs under flat priors, shared by predictors with the same design.
    """
    bias, weight = objective.structure.coefficients(call.name)
    columns, one = call.design if weight is not None else call.design[:, :0], bias is not None
    masked = _masked(columns.shape[1] + one, bias, weight)
    parts = _multiplied(objective, columns)
    flat = bool(masked.all()) and objective.rows >= len(masked)
    key = placed(columns), one
    if flat and key not in known:
        known[key] = _decomposed(columns, one, parts)
    shared = known[key] if flat else None
    free = _free_columns(columns, one, masked) if shared is None else shared[0]
    check_rank(objective, call, free, bias, weight)
    fixed = _offset(call, bias, weight)
    blocks = []
    every = [block_places(bias, weight, output) for output in call.numbers]
    bends = _prior_curvature(objective, theta, every, flat)
    for output, places, size in zip(call.numbers, every, noise.reshape(-1).tolist(), strict=True):
        triangle, basis = shared or _decomposed(
            columns, one, parts, _prior_rows(bends[places], size, masked, _sizes(columns, one))
        )
        unit = objective.rows**0.5 * size
        scaled = replace(basis, transform=basis.transform * unit)
        offset = _of_output(fixed, output)
        blocks.append(Block(call.name, output, places, triangle / unit, scaled, offset, one))
    return tuple(blocks)


def _of_output(fixed: Tensor | float, output: int | None) -> Tensor | float:
    """The column of an output, where there are columns."""
    return fixed[:, output] if isinstance(fixed, Tensor) and output is not None else fixed


def _prior_rows(curvature: Tensor, noise: float, masked: Tensor, sizes: Tensor) -> Tensor:
    """The roots of the priors' second derivatives `(P,)`, in units of the noise: further rows of Q R."""
    floor = torch.where(masked, 0.0, 1e-8 * sizes.clamp_min(1e-300))
    return torch.maximum(noise * curvature.sqrt(), floor)


def _free_columns(columns: Tensor, one: bool, masked: Tensor) -> Tensor:
    """The columns of ``[1, columns]`` whose coefficients have flat priors, `masked` `(P,)`."""
    first, others = one and bool(masked[0]), masked[int(one) :]
    if bool(others.any()):
        return _with_one(columns[:, others], first)
    return columns.new_ones((1, int(first)))  # an intercept alone is of full rank


def _multiplied(objective: Objective, columns: Tensor) -> list[tuple[slice, Tensor]]:
    """The blocks of rows whose columns least squares will multiply with themselves and with these values.

    Those of a small design are multiplied when they are needed.
    """
    if not is_large(columns):
        return []
    data = objective.data
    normal = objective.structure.response.law.is_square
    even = normal and data.weights is None and len(objective.calls) == 1
    return [(rows, part.data.y) for rows, part in objective.parts] if even and data.y.dim() == 1 else []


def _decomposed(
    columns: Tensor, one: bool, parts: Sequence[tuple[slice, Tensor]], further: Tensor | None = None
) -> tuple[Tensor, Basis]:
    """R and Q of ``[1, columns]`` with a diagonal of `further` rows `(P,)` below it.

    Columns far from 0 beside an intercept are decomposed without their means, which leaves Q as it is and
    only the first row of R: ``[1, x] = [1, x - c] T`` with c in the first row of T.
    """
    triangle, basis = _factors(columns, one, parts, further)
    if further is not None or not one or not bool(is_far(triangle).any()):
        return triangle, basis
    very = is_far(triangle, VERY_FAR)
    if columns.numel() > (MAX_COPIED if bool(very.any()) else MAX_CENTRED):
        _check_in_place(very)
        return triangle, basis
    centre = columns.mean(dim=0)
    triangle, basis = _factors(columns - centre, one, parts, None)
    triangle = triangle.clone()
    triangle[0, 1:] += triangle[0, 0] * centre
    return triangle, basis


def is_far(triangle: Tensor, offset: float = OFFSET) -> Tensor:
    """Which columns beside an intercept are further from 0 than `offset` of their spreads, `(P - 1,)`."""
    return triangle[0, 1:].abs() > offset * triangle[1:, 1:].norm(dim=0)


def _check_in_place(very: Tensor) -> None:
    """Refuse columns that lose digits in place, of a design that is too large to be copied.

    Raises:
        SingularDesignError: with the positions of the columns.
    """
    places = very.nonzero()[:, 0].tolist()
    if places:
        raise SingularDesignError(
            f"columns {places} of a design of over {MAX_COPIED:,} numbers are so far from 0 that float64 "
            "cannot tell them from the intercept. Subtract a constant from each, such as its mean."
        )


def _factors(
    columns: Tensor, one: bool, parts: Sequence[tuple[slice, Tensor]], further: Tensor | None
) -> tuple[Tensor, Basis]:
    """R and Q, where the products of the columns in `parts` of the rows are made once, for all uses."""
    identity = torch.eye(columns.shape[1] + one, dtype=columns.dtype)
    plain = Basis(columns, one, identity)
    known = [plain.multiply(y, rows) for rows, y in parts]
    triangle = triangle_of(columns, one, further, sum(known[1:], known[0]) if known else None)
    if triangle is not None:
        if spread_of(triangle) <= FAIR:
            return triangle, Basis(columns, one, identity, triangle)
        inverse = torch.linalg.solve_triangular(triangle, identity, upper=True)
        return triangle, Basis(columns, one, inverse, alike=are_alike(triangle), known=plain.known)
    whole = _with_one(columns, one)
    rows = whole if further is None else torch.cat([whole, torch.diag(further)])
    orthonormal, triangle = torch.linalg.qr(rows)
    return triangle, Basis(orthonormal[: len(columns)], False, identity)


def _with_one(columns: Tensor, one: bool) -> Tensor:
    return torch.cat([columns.new_ones((len(columns), 1)), columns], dim=1) if one else columns


def _sizes(columns: Tensor, one: bool) -> Tensor:
    """Estimates of the norms of the columns of ``[1, columns]``, without a copy of them."""
    every = max(1, len(columns) // SIZE_ROWS)
    found = column_squares(columns[::every]) * every
    if every > 1 and not bool(found.all()):
        found = column_squares(columns)
    return torch.cat([found.new_full((int(one),), len(columns)), found]).sqrt()


def _masked(count: int, bias: Site | None, weight: Site | None) -> Tensor:
    """Which of the `count` coefficients of a block have a flat prior, `(P,)`."""
    slopes = count - (bias is not None)
    parts = ([bias.masked] if bias is not None else []) + ([weight.masked] * slopes if weight else [])
    return torch.tensor(parts).bool()


def _offset(call: Affine, bias: Site | None, weight: Site | None) -> Tensor | float:
    """The part of the predictor that is not free, its offset and what conditioning has fixed, or 0."""
    if bias is not None and weight is not None:
        return 0.0 if call.offset is None else by_output(call.offset, call.outputs)
    still_bias = call.bias.detach() if bias is None else torch.zeros_like(call.bias)
    still_weight = call.weight.detach() if weight is None else torch.zeros_like(call.weight)
    still = replace(call, weight=still_weight, bias=still_bias)
    return (still.value if bool(still_weight.any()) else still.null).detach()


def _prior_curvature(objective: Objective, theta: Tensor, places: Sequence[Tensor], flat: bool) -> Tensor:
    """The second derivatives of minus the log prior `(K,)` at some places.

    They are 0 elsewhere, where there is no prior or all are `flat`, and where it is not convex.
    """
    leaf, diagonal = theta.detach().requires_grad_(), torch.zeros_like(theta)
    if flat:
        return diagonal
    prior = objective.sample.at(leaf).prior()
    if not isinstance(prior, Tensor) or not prior.requires_grad:
        return diagonal
    (gradient,) = torch.autograd.grad(-prior, leaf, create_graph=True)
    for place in torch.cat(list(places)).tolist():
        if gradient[place].requires_grad:
            diagonal[place] = torch.autograd.grad(gradient[place], leaf, retain_graph=True)[0][place]
    return diagonal.nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0)


def check_rank(
    objective: Objective, call: Affine, free: Tensor, bias: Site | None, weight: Site | None
) -> None:
    """Require full rank of the columns with flat priors: `free` `(N, F)`, or their triangular factor.

    Raises:
        SingularDesignError: names the dependent columns, or reports that there are too few rows.
    """
    rows, count = objective.rows, free.shape[1]
    if count == 0:
        return
    if rows < count:
        listed = ", ".join(_free_names(objective, call, bias, weight))
        raise SingularDesignError(
            f"`{call.name}` has {count} coefficients ({listed}) and the data have {rows} rows; "
            f"they are not identified. Leave columns out, or {_advice_for_few_rows(objective, call)}."
        )
    sizes = free.norm(dim=0)
    triangle = torch.linalg.qr(free / torch.where(sizes > 0, sizes, 1.0), mode="r").R
    _, values, right = torch.linalg.svd(triangle)
    if values[-1] > 4 * torch.finfo(free.dtype).eps * (rows * count) ** 0.5 * values[0]:
        return
    check_small_columns(call.design, call.column_names(objective.data))
    vector, names = right[-1].abs(), _free_names(objective, call, bias, weight)
    involved = [name for name, part in zip(names, vector.tolist(), strict=True) if part > 1e-6 * vector.max()]
    raise SingularDesignError(_dependence(call.name, involved, prior_advice(objective.layout)))


def _free_names(objective: Objective, call: Affine, bias: Site | None, weight: Site | None) -> list[str]:
    """The names of the columns of a predictor whose coefficients have flat priors."""
    names = ["Intercept"] if bias is not None and bias.masked else []
    return names + (call.column_names(objective.data) if weight is not None and weight.masked else [])


def _advice_for_few_rows(objective: Objective, call: Affine) -> str:
    """Advice of proper priors, also of the scale if the columns fit every row exactly."""
    spread = Spread(objective, call, every=True)
    if interpolating(objective) is not call or spread.is_held:
        return prior_advice(objective.layout)
    return spread.advice()


def _of_splines(columns: list[str]) -> str:
    """The remedy where cardinal splines of each category sum to one beside an intercept; empty elsewhere."""
    splines = [name for name in columns if ":" in name and re.search(r"\bc[rsc]\(", name)]
    if "Intercept" not in columns or not splines:
        return ""
    return (
        "Splines whose columns sum to one in each category need a formula without an intercept, `0 + ...`, "
        "or the categories as well, as in C(g) * cr(x, df=4). "
    )


def _dependence(predictor: str, columns: list[str], advice: str) -> str:
    """The message for linearly dependent columns, or one column of zeros."""
    if len(columns) > 1:
        return (
            f"the columns {', '.join(columns)} of `{predictor}` are linearly dependent, so their "
            f"coefficients are not identified. {_of_splines(columns)}Leave one of them out, or {advice}."
        )
    return (
        f"the column {columns[0]} of `{predictor}` is 0 in every row, so its coefficient is not identified. "
        "Leave it out."
    )
