"""Linear heads of a network on its learned features, the constants beside them, and the trunk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neglog.errors import ModelError
from neglog.likelihood.hierarchy import slopes
from neglog.likelihood.sites import Site
from neglog.objective.objective import Objective
from neglog.predictors import RESPONSE
from neglog.tracing import Affine, Run, run


@dataclass(frozen=True, eq=False)
class Head:
    """One output of a linear predictor on learned features: its intercept and its weights, `(1 + F,)`.

    `free` marks those that are parameters, `places` are their positions in theta; `fixed` has the values of
    the others, which the user conditioned, and 0 elsewhere.
    """

    predictor: str
    output: int | None
    free: Tensor
    places: Tensor
    fixed: Tensor

    def coefficients(self, theta: Tensor) -> Tensor:
        """The intercept and the weights `(1 + F,)` at `theta` `(K,)`."""
        if len(self.places) == len(self.free):
            return theta[self.places]
        return self.fixed.masked_scatter(self.free, theta[self.places])


@dataclass(frozen=True, eq=False)
class Headed:
    """A network as its heads, the constants of its density, such as ``sigma``, and the rest, its trunk.

    `calls` are the predictors whose outputs the `heads` are. The free parameters of the constants, and of
    those heads whose indices are in `inside`, are optimised given the rest (variable projection).
    """

    calls: tuple[Affine, ...]
    heads: tuple[Head, ...]
    constants: tuple[Site, ...]
    inside: tuple[int, ...]
    size: int

    @property
    def free(self) -> tuple[int, ...]:
        """The indices of the heads with free parameters."""
        return tuple(j for j, head in enumerate(self.heads) if len(head.places))

    @property
    def outside(self) -> tuple[int, ...]:
        """The indices of those free heads that are not inside."""
        return tuple(j for j in self.free if j not in self.inside)

    @property
    def inner(self) -> Tensor:
        """The positions in theta of the heads inside, and then of the constants."""
        places = [self.heads[j].places for j in self.inside]
        return torch.cat([*places, *(torch.arange(s.place.start, s.place.stop) for s in self.constants)])

    @property
    def outer(self) -> Tensor:
        """The positions in theta of all other parameters."""
        free = torch.ones(self.size, dtype=torch.bool)
        free[self.inner] = False
        return free.nonzero()[:, 0]


@torch.enable_grad()
def headed(objective: Objective) -> Headed:
    """The heads of a network.

    Raises:
        ModelError: no predictor is linear in learned features, or the features depend on parameters of the
            heads or the density too.
    """
    few = objective.few
    values = {n: v.detach().requires_grad_() for n, v in objective.layout.params(objective.initial).items()}
    calls = _last_predictors(objective, values)
    etas = {call.name: call.constant(few.rows).detach() for call in calls}
    ran = run(few.weighted, few.data, Run(values, etas=etas))
    outputs = [call for call in ran.affines if call.name in etas]
    learned = slopes(sum((call.design.sum() for call in outputs), torch.zeros(())), values)
    heads = _all_heads(objective, outputs)
    if not learned or not heads:
        raise ModelError(
            f"`VariableProjection` solves for linear heads on features that a network learns, and "
            f"`{objective.name}` has none. Put the model on a network with `on_features`, or leave `solver` "
            "out."
        )
    constants = slopes(ran.log_prob(RESPONSE).sum(), values)
    network = Headed(calls, heads, tuple(objective.sites[name] for name in constants), (), objective.size)
    network = replace(network, inside=network.free)
    _check_features(objective, network, learned)
    return network


def _all_heads(objective: Objective, calls: Sequence[Affine]) -> tuple[Head, ...]:
    """The outputs of linear predictors; none if predictors share a name, or all coefficients are fixed."""
    names = [call.name for call in objective.calls]
    has_offset = any(call.offset is not None for call in calls)
    if len(set(names)) < len(names) or has_offset or not all(map(objective.structure.has_own, calls)):
        return ()
    heads = tuple(head for call in calls for head in _heads(objective, call))
    return heads if any(len(head.places) for head in heads) else ()


def _check_features(objective: Objective, network: Headed, learned: Collection[str]) -> None:
    """Refuse features that depend on parameters of heads or of the density."""
    trunk = set(network.outer.tolist())
    places = {name: objective.sites[name].place for name in learned}
    shared = [name for name, place in places.items() if not trunk.issuperset(range(place.start, place.stop))]
    if shared:
        raise ModelError(
            f"`VariableProjection` needs features that do not depend on heads or constants, and those of "
            f"`{objective.name}` depend on {', '.join(map(repr, shared))}. Use `LBFGS`."
        )


def _last_predictors(objective: Objective, values: Mapping[str, Tensor]) -> tuple[Affine, ...]:
    """The predictors that enter no other predictor's design, as hidden layers of a network do."""
    few = objective.few
    etas = {call.name: call.constant(few.rows).detach().requires_grad_() for call in few.calls}
    ran = run(few.weighted, few.data, Run(values, etas=etas))
    hidden = {name for call in ran.affines for name in slopes(call.design.sum(), etas)}
    return tuple(call for call in objective.calls if call.name not in hidden)


def _heads(objective: Objective, call: Affine) -> list[Head]:
    bias, weight = objective.structure.coefficients(call.name)
    return [_head(call, output, bias, weight) for output in call.numbers]


def _head(call: Affine, output: int | None, bias: Site | None, weight: Site | None) -> Head:
    width, at = call.design.shape[1], output or 0
    fixed, free = call.design.detach().new_zeros(1 + width), torch.ones(1 + width, dtype=torch.bool)
    places = []
    if bias is None:
        free[0] = False
        fixed[0] = call.bias.detach().reshape(-1)[at]
    else:
        places.append(torch.arange(bias.offset + at, bias.offset + at + 1))
    if weight is None:
        free[1:] = False
        fixed[1:] = call.weight.detach().reshape(-1, width)[at]
    else:
        places.append(torch.arange(weight.offset + at * width, weight.offset + (at + 1) * width))
    return Head(call.name, output, free, torch.cat([torch.arange(0), *places]), fixed)
