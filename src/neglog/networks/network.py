"""Networks around their weights: predictors as functions of them, and the curvature of rows in predictors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from neglog.errors import ModelError
from neglog.fitting.fit import Fit
from neglog.modes import Mode
from neglog.objective.objective import Objective
from neglog.predictors import RESPONSE, affine, design
from neglog.tracing import Run, layers, run
from neglog.uncertainty.fisher import family_of
from neglog.uncertainty.information import data_and_objective

NUMBERS = 4_000_000
"""So many derivatives, rows times predictors times weights, are held at a time."""
SAME = 1e-9
"""Relative: predictors by two roads."""


@dataclass(frozen=True, eq=False)
class Network:
    """A fit of `on_features` as what it computes before its likelihood.

    `trunk` and `heads` name the sites of the weights, of the network and of the linear predictors on its
    features; `constants` all other parameters, such as ``sigma``. `theta` `(K,)` is the optimum. `mode` is
    evaluation mode, with the buffers of the fit.
    """

    objective: Objective
    module: Any
    mode: Mode
    values: Mapping[str, Tensor]
    theta: Tensor
    trunk: tuple[str, ...]
    heads: tuple[str, ...]
    constants: tuple[str, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """All weights, in the order of the columns of Jacobians."""
        return self.trunk + self.heads

    @property
    def names(self) -> tuple[str, ...]:
        """The predictors, one name for each output."""
        return tuple(name for call in self.objective.calls for name in self.objective.output_names(call))

    def size(self, names: tuple[str, ...]) -> int:
        """How many numbers some sites are."""
        return sum(self.objective.sites[name].size for name in names)

    def places(self, names: tuple[str, ...]) -> Tensor:
        """Where some sites stand in `theta`."""
        sites = (self.objective.sites[name] for name in names)
        found = [torch.arange(site.place.start, site.place.stop) for site in sites]
        return torch.cat(found) if found else torch.arange(0)

    def predictors(self, x: Any, weights: Mapping[str, Tensor] | None = None, module: Any = None) -> Tensor:
        """The linear predictors `(N, O)`, one column for each output, differentiable in the weights."""
        values, module = {**self.values, **(weights or {})}, module or self.module
        state = {key: values[f"{module.name}.{key}"] for key in module.trainable}
        designs = module.features(state, x, self.mode)
        columns = []
        for call in self.objective.calls:
            weight, bias = (
                values.get(f"{call.name}.{part}", own)
                for part, own in (("weight", call.weight), ("bias", call.bias))
            )
            found = affine(design(call.name, designs), weight, bias, call.outputs)
            columns.append(found if call.outputs is not None else found[:, None])
        return torch.cat(columns, dim=1)

    def jacobian(self, x: Any, names: tuple[str, ...]) -> Tensor:
        """The derivatives `(N, O, K)` of the predictors in the weights of some sites."""
        if not names:
            return x.new_zeros((len(x), len(self.names), 0))
        at = {name: self.values[name].detach() for name in names}

        def of_row(weights: Mapping[str, Tensor], row: Tensor) -> Tensor:
            return self.predictors(row[None], weights)[0]

        found = vmap(jacrev(of_row), in_dims=(None, 0))(at, x)
        return torch.cat([found[name].reshape(len(x), len(self.names), -1) for name in names], dim=2).detach()

    def blocks(self, names: tuple[str, ...]) -> Iterator[Objective]:
        """The rows in blocks whose derivatives in some sites fit in memory."""
        size = max(1, NUMBERS // max(1, self.size(names) * len(self.names)))
        for start in range(0, self.objective.rows, size):
            yield self.objective.take(slice(start, min(start + size, self.objective.rows)))

    def split(self, columns: Tensor) -> dict[str, Tensor]:
        """Columns `(..., O)` of predictors by name: `(...,)`, or `(..., D)` for one with many outputs."""
        found, at = {}, 0
        for call in self.objective.calls:
            size = 1 if call.outputs is None else len(call.outputs)
            part = columns[..., at : at + size]
            found[call.name] = part[..., 0] if call.outputs is None else part
            at += size
        return found


def network_of(fit: Fit) -> Network:
    """The network of a fit.

    Raises:
        ModelError: it has none, or one whose predictors are not linear in its features, or depend on other
            rows.
        DataError: it was read from disk, without its data.
    """
    _, objective = data_and_objective(fit)
    module = next((layer for layer in layers(objective.model) if hasattr(layer, "trainable")), None)
    if module is None:
        raise ModelError(
            f"`{objective.name}` is no network (`on_features`); for other models see `covariance`, and "
            "`posterior` with method='laplace'."
        )
    theta = objective.theta(fit.params)
    with torch.no_grad():
        few = objective.take(slice(0, min(objective.rows, 64)))
        ran = few.at(theta)
    values = {name: msg["value"].detach() for name, msg in ran.sites.items() if name != RESPONSE}
    sites = objective.sites
    trunk = tuple(name for name in sites if name.removeprefix(f"{module.name}.") in module.trainable)
    own = [f"{call.name}.{part}" for call in objective.calls for part in ("weight", "bias")]
    heads = tuple(name for name in own if name in sites and sites[name].size)
    rest = tuple(name for name in sites if name not in {*trunk, *own})
    mode = ran.networks[module.name].mode
    found = Network(objective, module, mode, values, theta, trunk, heads, rest)
    with torch.no_grad():
        seen = torch.cat([c.value.reshape(few.rows, -1) for c in ran.affines], dim=1)
        again = found.predictors(few.data.x)
    alike = seen.shape == again.shape and torch.allclose(
        seen, again, rtol=SAME, atol=SAME * float(seen.abs().max())
    )
    if not alike or not objective.separable:
        raise ModelError(
            f"`{objective.name}` is not a sum over rows of what linear predictors on the features of the "
            "network say, so it has no such approximation."
        )
    return found


@torch.enable_grad()
def row_curvature(network: Network, part: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """The information of rows in their predictors `(N, O, O)`, these and constants `(N, O, G)`, `(G, G)`.

    Fisher's information where that of the family is known, and otherwise the second derivatives of the
    negative log-likelihood, those in the predictors without their negative part; with the rows' weights.
    """
    with torch.no_grad():
        etas = network.predictors(part.data.x)
    columns = [column.clone().requires_grad_() for column in etas.T]
    gamma = network.theta[network.places(network.constants)].requires_grad_()
    values, at = dict(network.values), 0
    for name in network.constants:
        site = part.sites[name]
        values[name] = site.transform(gamma[at : at + site.size].reshape(site.unconstrained))
        at += site.size
    ran = run(part.model, part.data, Run(values, etas=network.split(torch.stack(columns, dim=1))))
    weights = part.data.weights
    mass = part.data.y.new_ones(part.rows) if weights is None else weights
    msg = ran.sites[RESPONSE]
    known = family_of(msg["fn"]) if msg["mask"] is None or msg["mask"] is True else None
    if known is not None and len(msg["fn"].batch_shape) == 1:
        return _expected(ran, known, columns, gamma, mass)
    return _observed(-(mass * ran.log_prob(RESPONSE)).sum(), columns, gamma)


def _expected(
    ran: Run, known: Any, columns: list[Tensor], gamma: Tensor, mass: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sᵀ I S, with I the information in the parameters of the family and S their derivatives."""
    fn = ran.sites[RESPONSE]["fn"]
    names, of = known
    parameters = [torch.as_tensor(getattr(fn, name), dtype=mass.dtype).expand(len(mass)) for name in names]
    with torch.no_grad():
        entries = of(fn, *(value.detach() for value in parameters))
    slopes = torch.stack([_slopes(value, columns, gamma) for value in parameters], dim=1)
    inner = slopes.new_zeros((len(mass), len(names), len(names)))
    for (a, b), entry in entries.items():
        inner[:, a, b] = inner[:, b, a] = mass * entry
    whole = slopes.mT @ inner @ slopes
    own = len(columns)
    return whole[:, :own, :own], whole[:, :own, own:], whole[:, own:, own:].sum(0)


def _slopes(values: Tensor, columns: list[Tensor], gamma: Tensor) -> Tensor:
    """The derivatives `(N, O + G)` of values `(N,)` in the predictors of their row and in the constants."""
    if not values.requires_grad:
        return values.new_zeros((len(values), len(columns) + len(gamma)))
    ones = torch.ones_like(values).requires_grad_()
    found = torch.autograd.grad(
        ones @ values, [*columns, gamma], create_graph=True, allow_unused=True, materialize_grads=True
    )
    by_gamma = [
        torch.autograd.grad(each, ones, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        if each.requires_grad
        else torch.zeros_like(ones)
        for each in found[-1]
    ]
    return torch.stack([*found[:-1], *by_gamma], dim=1).detach()


def _observed(nll: Tensor, columns: list[Tensor], gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    leaves = [*columns, gamma]
    slopes = torch.autograd.grad(nll, leaves, create_graph=True, allow_unused=True, materialize_grads=True)

    def second(scalar: Tensor) -> list[Tensor]:
        if not scalar.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        return list(
            torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        )

    rows = [torch.stack(second(slope.sum())[:-1], dim=1) for slope in slopes[:-1]]
    mixed = [second(slope) for slope in slopes[-1]]
    whole = torch.stack(rows, dim=1).detach()
    values, vectors = torch.linalg.eigh(0.5 * (whole + whole.mT))
    positive = (vectors * values.clamp(min=0)[:, None]) @ vectors.mT
    size = len(gamma)
    cross = torch.stack([torch.stack(each[:-1], dim=1) for each in mixed], dim=2) if size else whole[:, :, :0]
    constants = torch.stack([each[-1] for each in mixed]) if size else whole.new_zeros((0, 0))
    return positive, cross.detach(), constants.detach()


@dataclass(frozen=True, eq=False)
class Layer:
    """A `torch.nn.Linear` in a network: the sites of its weight and its bias, and its sums over the rows."""

    weight: str
    bias: str | None
    inputs: Tensor
    """The sum `(I, I)` of a aᵀ, a the inputs, with a 1 for the bias."""
    outputs: Tensor
    """The sum `(D, D)` of Jᵀ H J, J the derivatives of the predictors in the outputs."""


@torch.enable_grad()
def linear_layers(network: Network) -> tuple[list[Layer], float]:
    """The layers of a trunk of `torch.nn.Linear` and functions without weights, and how many rows they saw.

    Raises:
        ModelError: a trunk with other weights, or with a layer that is used twice, or on more than rows.
    """
    module = copy(network.module)
    module.module = deepcopy(network.module.module)
    linear = {name: m for name, m in module.module.named_modules() if isinstance(m, nn.Linear)}
    sites = {name: (_site(module.name, name, "weight"), _site(module.name, name, "bias")) for name in linear}
    linear = {name: m for name, m in linear.items() if sites[name][0] in network.trunk}
    other = [site for site in network.trunk if site not in {s for name in linear for s in sites[name]}]
    if other:
        raise ModelError(
            f"structure='kronecker' is for networks of torch.nn.Linear layers, and `{other[0]}` is no weight "
            "of one. Use 'diagonal', 'full' or 'last_layer'."
        )
    seen: list[tuple[str, Tensor, Tensor]] = []
    for name, layer in linear.items():
        layer.register_forward_hook(lambda _, given, out, name=name: seen.append((name, given[0], out)))
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    rows = 0.0
    at = {name: network.values[name].clone().requires_grad_() for name in network.trunk}
    for part in network.blocks(network.heads):
        curvature, _, _ = row_curvature(network, part)
        seen.clear()
        etas = network.predictors(part.data.x, at, module)
        mass = part.data.y.new_ones(part.rows) if part.data.weights is None else part.data.weights
        rows += float(mass.sum())
        if sorted(name for name, _, _ in seen) != sorted(linear) or any(a.dim() != 2 for _, a, _ in seen):
            raise ModelError(
                "structure='kronecker' is for layers that are used once, on rows of features; one of this "
                "network is not. Use 'diagonal', 'full' or 'last_layer'."
            )
        ends = [out for _, _, out in seen]
        slopes = [
            torch.autograd.grad(eta.sum(), ends, retain_graph=True, allow_unused=True) for eta in etas.T
        ]
        for i, (name, given, out) in enumerate(seen):
            by_eta = [torch.zeros_like(out) if each[i] is None else each[i] for each in slopes]
            jacobian, inputs = torch.stack(by_eta, dim=1), given.detach()
            if sites[name][1] in network.trunk:
                inputs = torch.cat([inputs, inputs.new_ones((len(inputs), 1))], dim=1)
            own = inputs.T @ (mass[:, None] * inputs), (jacobian.mT @ curvature @ jacobian).sum(0)
            before = sums.get(name)
            sums[name] = own if before is None else (before[0] + own[0], before[1] + own[1])
    found = []
    for name, (inputs, outputs) in sums.items():
        weight, bias = sites[name]
        found.append(Layer(weight, bias if bias in network.trunk else None, inputs, outputs))
    return found, rows


def _site(prefix: str, layer: str, part: str) -> str:
    return ".".join(filter(None, (prefix, layer, part)))
