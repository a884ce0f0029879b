"""Blocks: the coefficients of each linear predictor, in units in which every predictor looks alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neglog.errors import SingularDesignError
from neglog.objective import Objective, Site
from neglog.predictors import RESPONSE, affine
from neglog.tracing import Affine


@dataclass(frozen=True)
class Block:
    """The coefficients of one linear predictor in both coordinates.

    `places` are their positions in theta, the bias (where it is free) first: ``triangle @ theta[places]``
    are their positions in z. The predictor is ``design @ z[places] + offset``; `design` `(N, P)` is None
    where the true design itself depends on parameters, and `offset` is the part that is not free.
    """

    name: str
    places: Tensor
    triangle: Tensor
    design: Tensor | None
    offset: Tensor | float

    def solve(self, z: Tensor) -> Tensor:
        """The coefficients at `z` `(P,)`."""
        return torch.linalg.solve_triangular(self.triangle, z[:, None], upper=True)[:, 0]

    def solve_transposed(self, gradient: Tensor) -> Tensor:
        """A gradient `(P, ...)` in the coefficients as one in z."""
        columns = gradient.reshape(len(gradient), -1)
        return torch.linalg.solve_triangular(self.triangle.T, columns, upper=False).reshape(gradient.shape)


@torch.enable_grad()
def linear_blocks(objective: Objective, theta: Tensor) -> tuple[tuple[Block, ...], bool]:
    """The blocks of a model, in units of the noise at `theta` `(K,)`, and whether it can be cut at them.

    It can where every predictor is a fixed design times coefficients that are free or constant.

    Raises:
        SingularDesignError: a design whose coefficients have flat priors lacks full column rank.
    """
    calls = objective.at(theta.clone().requires_grad_()).affines
    names = [call.name for call in calls]
    cut = bool(calls) and len(set(names)) == len(names) and all(_is_plain(objective, c) for c in calls)
    noise = _noise(objective, theta)
    if cut:
        return tuple(_orthonormal(objective, call, noise[call.name], theta) for call in calls), True
    return tuple(_diagonal(objective, call, noise[call.name]) for call in calls), False


def _parts(objective: Objective, call: Affine) -> tuple[Site | None, Site | None]:
    """The sites of a predictor's bias and weight, where they are free and unconstrained."""
    found = (objective.sites.get(f"{call.name}.{part}") for part in ("bias", "weight"))
    bias, weight = (site if site is not None and site.is_real else None for site in found)
    return bias, weight


def _is_plain(objective: Objective, call: Affine) -> bool:
    """Whether a predictor is a fixed design times coefficients that are sites of the model, or constants."""
    parts = {"bias": call.bias, "weight": call.weight}
    own = all(
        objective.sites[name].is_real
        if (name := f"{call.name}.{part}") in objective.sites
        else not v.requires_grad
        for part, v in parts.items()
    )
    return own and not call.design.requires_grad and call.design.dim() == 2 and call.weight.dim() == 1


def _noise(objective: Objective, theta: Tensor) -> dict[str, float]:
    """How far each predictor must move to change an average row's density: 1 / sqrt(mean squared score).

    At most the size of the predictor and the response together: where every density is at its best, as at
    counts that are all 0, scores say nothing.
    """
    with torch.no_grad():
        calls = objective.at(theta).affines
        etas = {call.name: affine(call.design, call.weight, call.bias) for call in calls}
    if not etas:
        return {}
    leaves = {name: eta.detach().requires_grad_() for name, eta in etas.items()}
    log_likelihood = objective.at(theta, leaves).log_prob(RESPONSE).sum()
    scores = torch.autograd.grad(
        log_likelihood, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    sizes = {name: float(score.square().mean()) for name, score in zip(leaves, scores, strict=True)}
    most = 1 + max(float(value.abs().max()) for value in (objective.data.y, *etas.values()))
    return {name: min(size**-0.5, most) if 0 < size < torch.inf else 1.0 for name, size in sizes.items()}


def _places(sites: tuple[Site | None, ...]) -> Tensor:
    parts = [torch.arange(s.offset, s.offset + s.size) for s in sites if s is not None]
    return torch.cat(parts) if parts else torch.arange(0)


def _diagonal(objective: Objective, call: Affine, noise: float) -> Block:
    """Where the design depends on parameters, the coefficients are put in units of the noise, no more."""
    places = _places(_parts(objective, call))
    return Block(call.name, places, torch.eye(len(places), dtype=objective.initial.dtype) / noise, None, 0.0)


def _orthonormal(objective: Objective, call: Affine, noise: float, theta: Tensor) -> Block:
    """The block of a fixed design: `[1, x] = Q R`, with the curvature of the priors as further rows."""
    bias, weight = _parts(objective, call)
    places = _places((bias, weight))
    columns = _free_columns(call, bias, weight)
    check_rank(objective, call, columns, bias, weight)
    prior = noise * _prior_curvature(objective, theta, places).sqrt()
    floor = torch.where(_masked(bias, weight), 0.0, 1e-8 * columns.norm(dim=0).clamp_min(1e-300))
    augmented = torch.cat([columns, torch.diag(torch.maximum(prior, floor))])
    orthonormal, triangle = torch.linalg.qr(augmented)
    unit = len(columns) ** 0.5 * noise
    offset = 0.0 if bias is not None and weight is not None else _offset(call, bias, weight)
    return Block(call.name, places, triangle / unit, orthonormal[: len(columns)] * unit, offset)


def _free_columns(call: Affine, bias: Site | None, weight: Site | None) -> Tensor:
    ones = call.design.new_ones((len(call.design), 1 if bias is not None else 0))
    return torch.cat([ones, call.design], dim=1) if weight is not None else ones


def _masked(bias: Site | None, weight: Site | None) -> Tensor:
    """Which of the block's coefficients have a flat prior, `(P,)`."""
    return torch.tensor(
        [site.masked for site in (bias, weight) if site is not None for _ in range(site.size)]
    ).bool()


def _offset(call: Affine, bias: Site | None, weight: Site | None) -> Tensor | float:
    """The part of the predictor that conditioning has fixed."""
    fixed_bias = call.bias.detach() if bias is None else 0.0
    return (call.design @ call.weight.detach() if weight is None else 0.0) + fixed_bias


def _prior_curvature(objective: Objective, theta: Tensor, places: Tensor) -> Tensor:
    """The second derivatives of minus the log prior, `(P,)`; 0 where there is none or it is not convex."""
    leaf = theta.detach().requires_grad_()
    prior = objective.at(leaf).prior()
    if not isinstance(prior, Tensor) or not prior.requires_grad:
        return theta.new_zeros(len(places))
    (gradient,) = torch.autograd.grad(-prior, leaf, create_graph=True)
    diagonal = theta.new_zeros(len(places))
    for i, place in enumerate(places.tolist()):
        if gradient[place].requires_grad:
            diagonal[i] = torch.autograd.grad(gradient[place], leaf, retain_graph=True)[0][place]
    return diagonal.nan_to_num(0.0, 0.0, 0.0).clamp_min(0.0)


def check_rank(
    objective: Objective, call: Affine, columns: Tensor, bias: Site | None, weight: Site | None
) -> None:
    """Hold the columns whose coefficients have flat priors to full rank.

    Raises:
        SingularDesignError: names the dependent columns, or says that there are too few rows.
    """
    masked = _masked(bias, weight)
    names = (["Intercept"] if bias is not None else []) + (
        objective.column_names(call) if weight is not None else []
    )
    names = [name for name, flat in zip(names, masked.tolist(), strict=True) if flat]
    free = columns[:, masked]
    rows, count = free.shape
    if count == 0:
        return
    if rows < count:
        raise SingularDesignError(
            f"`{call.name}` has {count} coefficients ({', '.join(names)}) and the data have {rows} rows; "
            "they are not identified. Leave columns out, or use `map_estimate` with proper priors."
        )
    sizes = free.norm(dim=0)
    triangle = torch.linalg.qr(free / torch.where(sizes > 0, sizes, 1.0), mode="r").R
    _, values, right = torch.linalg.svd(triangle)
    if values[-1] > 4 * torch.finfo(free.dtype).eps * (rows * count) ** 0.5 * values[0]:
        return
    vector = right[-1].abs()
    involved = [name for name, part in zip(names, vector.tolist(), strict=True) if part > 1e-6 * vector.max()]
    raise SingularDesignError(
        f"the columns {', '.join(involved)} of `{call.name}` are linearly dependent, so their coefficients "
        "are not identified. Leave one of them out, or use `map_estimate` with proper priors."
        if len(involved) > 1
        else f"the column {involved[0]} of `{call.name}` is 0 in every row, so its coefficient is not "
        "identified. Leave it out."
    )
