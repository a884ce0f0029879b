"""Networks as functions of their weights: predictors, Jacobians, and the curvature of rows in predictors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from neglog.distributions.family import Entries
from neglog.errors import ModelError
from neglog.fitting.fit import Fit
from neglog.handlers import Model
from neglog.likelihood.rows import CURVATURES, derivatives, named, row_slopes
from neglog.modes import Mode
from neglog.objective.objective import Objective
from neglog.predictors import RESPONSE, affine, design
from neglog.tracing import Run, layers, run
from neglog.uncertainty.fisher import known_information
from neglog.uncertainty.information import data_and_objective

MAX_JACOBIAN_ENTRIES = 4_000_000
"""Entries of a Jacobian, rows × predictors × weights, that are formed at a time."""
PREDICTOR_TOLERANCE = 1e-9
"""Largest relative difference between the predictors of the model and those of its network."""
MAX_VERIFICATION_ROWS = 64
"""Rows on which the two are compared."""


@dataclass(frozen=True, eq=False)
class Head:
    """A linear predictor on the features of a network: its name, its coefficients, and its outputs.

    `weight` and `bias` are those of a predictor whose coefficients are no sites. `outputs` are None for a
    single predictor; `names` has one name for each output.
    """

    name: str
    weight: Tensor
    bias: Tensor
    outputs: Sequence[Any] | None
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Network:
    """The linear predictors of a fit of `on_features` as a function of its weights.

    `values` has the value of each site, `predicted` the linear predictors. `mode` is evaluation mode, with
    the buffers of the fit.
    """

    module: Any
    mode: Mode
    values: Mapping[str, Tensor]
    predicted: tuple[Head, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The predictors, one name for each output."""
        return tuple(name for head in self.predicted for name in head.names)

    def size(self, names: tuple[str, ...]) -> int:
        """The number of weights in some sites."""
        return sum(self.values[name].numel() for name in names)

    def predictors(self, x: Any, weights: Mapping[str, Tensor] | None = None, module: Any = None) -> Tensor:
        """The linear predictors `(N, O)`, one column for each output, differentiable in the weights."""
        values, module = {**self.values, **(weights or {})}, module or self.module
        state = {key: values[f"{module.name}.{key}"] for key in module.trainable}
        designs = module.features(state, x, self.mode)
        columns = []
        for call in self.predicted:
            weight, bias = (
                values.get(f"{call.name}.{part}", own)
                for part, own in (("weight", call.weight), ("bias", call.bias))
            )
            found = affine(design(call.name, designs), weight, bias, call.outputs)
            columns.append(found if call.outputs is not None else found[:, None])
        return torch.cat(columns, dim=1)

    def jacobian(self, x: Any, names: tuple[str, ...]) -> Tensor:
        """The Jacobian `(N, O, K)` of the predictors in the weights of some sites."""
        if not names:
            return x.new_zeros((len(x), len(self.names), 0))
        at = {name: self.values[name].detach() for name in names}

        def of_row(weights: Mapping[str, Tensor], row: Tensor) -> Tensor:
            return self.predictors(row[None], weights)[0]

        found = vmap(jacrev(of_row), in_dims=(None, 0))(at, x)
        return torch.cat([found[name].reshape(len(x), len(self.names), -1) for name in names], dim=2).detach()

    def split(self, columns: Tensor) -> dict[str, Tensor]:
        """Columns `(..., O)` of predictors by name: `(...,)`, or `(..., D)` for one with many outputs."""
        found, at = {}, 0
        for call in self.predicted:
            size = 1 if call.outputs is None else len(call.outputs)
            part = columns[..., at : at + size]
            found[call.name] = part[..., 0] if call.outputs is None else part
            at += size
        return found


@dataclass(frozen=True, eq=False)
class FittedNetwork(Network):
    """A network with the rows that it was fitted to.

    `trunk` and `heads` name the sites of the weights, of the network and of the linear predictors on its
    features; `constants` all other parameters, such as ``sigma``. `theta` `(K,)` is the optimum.
    """

    objective: Objective
    theta: Tensor
    trunk: tuple[str, ...]
    heads: tuple[str, ...]
    constants: tuple[str, ...]

    @property
    def weights(self) -> tuple[str, ...]:
        """All weights, in the order of the columns of Jacobians."""
        return self.trunk + self.heads

    @property
    def without_rows(self) -> Network:
        """The network alone, which is all that predictions need."""
        return Network(self.module, self.mode, self.values, self.predicted)

    def places(self, names: tuple[str, ...]) -> Tensor:
        """The positions of some sites in `theta`."""
        sites = (self.objective.sites[name] for name in names)
        found = [torch.arange(site.place.start, site.place.stop) for site in sites]
        return torch.cat(found) if found else torch.arange(0)

    def blocks(self, names: tuple[str, ...]) -> Iterator[Objective]:
        """Blocks of rows whose Jacobian in some sites has at most `MAX_JACOBIAN_ENTRIES` entries."""
        size = max(1, MAX_JACOBIAN_ENTRIES // max(1, self.size(names) * len(self.names)))
        for start in range(0, self.objective.rows, size):
            yield self.objective.take(slice(start, min(start + size, self.objective.rows)))


def module_of(model: Model) -> Any:
    """The layer of a model of `on_features` that has its network; None of another model."""
    return next((layer for layer in layers(model) if hasattr(layer, "trainable")), None)


def network_of(fit: Fit) -> FittedNetwork:
    """The network of a fit.

    Raises:
        ModelError: the model has no network, or one whose predictors are not linear in its features, or
            depend on other rows.
        DataError: the fit was read from disk, without its data.
    """
    _, objective = data_and_objective(fit, "`laplace_approximation`")
    module = module_of(objective.model)
    if module is None:
        raise ModelError(
            f"`{objective.name}` is not a network of `on_features`; for other models see `covariance`, and "
            "`posterior` with method='laplace'."
        )
    theta = objective.layout.theta(fit.params)
    few = objective.take(slice(0, min(objective.rows, MAX_VERIFICATION_ROWS)))
    with torch.no_grad():
        ran = few.at(theta)
    network = FittedNetwork(
        module,
        ran.networks[module.name].mode,
        {name: msg["value"].detach() for name, msg in ran.sites.items() if name != RESPONSE},
        tuple(
            Head(call.name, call.weight, call.bias, call.outputs, call.output_names(objective.data))
            for call in objective.calls
        ),
        objective,
        theta,
        *_partition(objective, module),
    )
    if not _reproduces(network, few, ran) or not objective.separable:
        raise ModelError(
            f"`{objective.name}` has a log-likelihood that is not a sum over rows of functions of linear "
            "predictors on the features of the network, so this approximation is not defined."
        )
    return network


def _partition(objective: Objective, module: Any) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The sites of the trunk, of the heads, and of the constants."""
    sites = objective.sites
    trunk = tuple(name for name in sites if name.removeprefix(f"{module.name}.") in module.trainable)
    coefficients = [f"{call.name}.{part}" for call in objective.calls for part in ("weight", "bias")]
    heads = tuple(name for name in coefficients if name in sites and sites[name].size)
    constants = tuple(name for name in sites if name not in {*trunk, *coefficients})
    return trunk, heads, constants


@torch.no_grad()
def _reproduces(network: Network, part: Objective, ran: Run) -> bool:
    """Whether a network has the predictors of a run of its model, up to rounding."""
    expected = torch.cat([call.value.reshape(part.rows, -1) for call in ran.affines], dim=1)
    found = network.predictors(part.data.x)
    rounding = PREDICTOR_TOLERANCE * float(expected.abs().max())
    return expected.shape == found.shape and torch.allclose(
        expected, found, rtol=PREDICTOR_TOLERANCE, atol=rounding
    )


@torch.enable_grad()
def row_curvature(network: FittedNetwork, part: Objective) -> tuple[Tensor, Tensor, Tensor]:
    """The information of rows in predictors `(N, O, O)`, in both `(N, O, G)`, and in constants `(G, G)`.

    Fisher's information where it is known for the family, and otherwise the second derivatives of the
    negative log-likelihood, those in the predictors projected to their positive part; with row weights.
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
    mass = _row_weights(part)
    msg = ran.sites[RESPONSE]
    is_plain = (msg["mask"] is None or msg["mask"] is True) and len(msg["fn"].batch_shape) == 1
    known = known_information(msg["fn"]) if is_plain else None
    if known is not None:
        return _expected(*known, columns, gamma, mass)
    return _observed(-(mass * ran.log_prob(RESPONSE)).sum(), columns, gamma)


def _row_weights(part: Objective) -> Tensor:
    """The frequency weights `(N,)` of rows, 1 where the data have none."""
    weights = part.data.weights
    return part.data.y.new_ones(part.rows) if weights is None else weights


def _expected(
    parameters: list[Tensor], entries: Entries, columns: list[Tensor], gamma: Tensor, mass: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sᵀ I S, with I the Fisher information in the parameters of the family and S their derivatives."""
    slopes = torch.stack([_slopes(value, columns, gamma) for value in parameters], dim=1)
    inner = slopes.new_zeros((len(mass), len(parameters), len(parameters)))
    for (a, b), entry in entries.items():
        inner[:, a, b] = inner[:, b, a] = mass * entry
    whole = slopes.mT @ inner @ slopes
    own = len(columns)
    return whole[:, :own, :own], whole[:, :own, own:], whole[:, own:, own:].sum(0)


def _slopes(values: Tensor, columns: list[Tensor], gamma: Tensor) -> Tensor:
    """The derivatives `(N, O + G)` of values `(N,)` in the predictors of their row and in the constants."""
    own, shared = row_slopes(values, gamma, columns)
    none = torch.zeros_like(values)
    return torch.stack([*own, *(shared.get(place, none) for place in range(len(gamma)))], dim=1).detach()


def _observed(nll: Tensor, columns: list[Tensor], gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The second derivatives of the negative log-likelihood, positive semi-definite in the predictors."""
    outputs, size = len(columns), len(gamma)
    terms = named(CURVATURES, derivatives(CURVATURES, nll, gamma, columns), outputs, size)
    assert terms.constant_hessian is not None
    rows = [
        torch.stack([terms.hessian[max(j, k)][min(j, k)] for k in range(outputs)], dim=1)
        for j in range(outputs)
    ]
    values, vectors = torch.linalg.eigh(torch.stack(rows, dim=1))
    positive = (vectors * values.clamp(min=0)[:, None]) @ vectors.mT
    crosses = [torch.stack(list(across), dim=1) for across in terms.cross_hessian]
    return positive, torch.stack(crosses, dim=2) if size else positive[:, :, :0], terms.constant_hessian


@dataclass(frozen=True, eq=False)
class Layer:
    """A `torch.nn.Linear` in a network: the sites of its weight and its bias, and its sums over the rows."""

    weight: str
    bias: str | None
    inputs: Tensor
    """The sum `(I, I)` of a aᵀ, a the inputs, with a 1 for the bias."""
    outputs: Tensor
    """The sum `(D, D)` of Jᵀ H J, J the derivatives of the predictors in the outputs."""

    def __add__(self, other: Layer) -> Layer:
        """The layer with the sums over the rows of both."""
        return replace(self, inputs=self.inputs + other.inputs, outputs=self.outputs + other.outputs)


@torch.enable_grad()
def linear_layers(network: FittedNetwork) -> tuple[list[Layer], float]:
    """The layers of a trunk of `torch.nn.Linear` and functions without weights, and the sum of row weights.

    Raises:
        ModelError: a trunk with other weights, or with a layer that is used twice, or on more than rows.
    """
    recorder = _Recorder(network)
    weights = {name: network.values[name].clone().requires_grad_() for name in network.trunk}
    sums: dict[str, Layer] = {}
    rows = 0.0
    for part in network.blocks(network.heads):
        curvature, _, _ = row_curvature(network, part)
        etas = recorder.predictors(part.data.x, weights)
        mass = _row_weights(part)
        rows += float(mass.sum())
        for call, jacobian in zip(recorder.calls, _jacobians(etas, recorder.calls), strict=True):
            inputs = call.inputs
            layer = Layer(
                *recorder.sites[call.name],
                inputs.T @ (mass[:, None] * inputs),
                (jacobian.mT @ curvature @ jacobian).sum(0),
            )
            sums[call.name] = sums[call.name] + layer if call.name in sums else layer
    return list(sums.values()), rows


@dataclass(frozen=True, eq=False)
class _Call:
    """A forward pass of a layer: its inputs `(N, I)`, with a 1 for the bias, and its outputs `(N, D)`."""

    name: str
    inputs: Tensor
    outputs: Tensor


class _Recorder:
    """A network whose `torch.nn.Linear` layers record their forward passes.

    `sites` has the sites of each layer's weight and bias, None for a bias that is not a parameter.

    Raises:
        ModelError: a weight of the trunk belongs to no such layer.
    """

    def __init__(self, network: FittedNetwork) -> None:
        self.network, self.module = network, copy(network.module)
        self.module.module = deepcopy(network.module.module)
        self.calls: list[_Call] = []
        self.sites: dict[str, tuple[str, str | None]] = {}
        for name, layer in self.module.module.named_modules():
            weight, bias = (_site(self.module.name, name, part) for part in ("weight", "bias"))
            if isinstance(layer, nn.Linear) and weight in network.trunk:
                self.sites[name] = weight, bias if bias in network.trunk else None
                layer.register_forward_hook(partial(self._record, name))
        self._check_trunk()

    def _check_trunk(self) -> None:
        known = {site for sites in self.sites.values() for site in sites}
        other = [site for site in self.network.trunk if site not in known]
        if other:
            raise ModelError(
                f"structure='kronecker' is for networks of torch.nn.Linear layers, and `{other[0]}` is no "
                "weight of one. Use 'diagonal', 'full' or 'last_layer'."
            )

    def _record(self, name: str, layer: nn.Module, given: tuple[Tensor, ...], outputs: Tensor) -> None:
        inputs = given[0].detach()
        if self.sites[name][1] is not None:
            inputs = torch.cat([inputs, inputs.new_ones((*inputs.shape[:-1], 1))], dim=-1)
        self.calls.append(_Call(name, inputs, outputs))

    def predictors(self, x: Any, weights: Mapping[str, Tensor]) -> Tensor:
        """The predictors `(N, O)` as `Network.predictors`; `calls` are then the forward passes of them.

        Raises:
            ModelError: a layer is used twice or not at all, or on something else than rows.
        """
        self.calls.clear()
        etas = self.network.predictors(x, weights, self.module)
        once = sorted(call.name for call in self.calls) == sorted(self.sites)
        if not once or any(call.inputs.dim() != 2 for call in self.calls):
            raise ModelError(
                "structure='kronecker' is for layers that are used once, on rows of features; one of this "
                "network is not. Use 'diagonal', 'full' or 'last_layer'."
            )
        return etas


def _jacobians(etas: Tensor, calls: Sequence[_Call]) -> list[Tensor]:
    """The derivatives `(N, O, D)` of the predictors `(N, O)` of rows in the outputs of each layer."""
    outputs = [call.outputs for call in calls]
    slopes = [
        torch.autograd.grad(eta.sum(), outputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        for eta in etas.T
    ]
    return [torch.stack(of_layer, dim=1) for of_layer in zip(*slopes, strict=True)]


def _site(prefix: str, layer: str, part: str) -> str:
    return ".".join(filter(None, (prefix, layer, part)))
