"""Handlers: they change what a model means without editing it.

Each takes a model, a callable `(x, y=None)`, and returns another, so they nest:
``flat(with_priors(on_features(models.gaussian, trunk), {...}), "mean.bias")``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from numbers import Real
from types import TracebackType
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from neglog.arguments import check_dense, mapping, number, text
from neglog.calls import public
from neglog.conversion import is_labelled, to_tensor
from neglog.errors import DataError, ModelError, did_you_mean, written
from neglog.isolation import user_code
from neglog.layers import current_names
from neglog.models.named import model_of
from neglog.modes import Constants, Mode, features, in_mode
from neglog.observation import censored, masked, truncated
from neglog.predictors import RESPONSE, ROWS, Designs, Watched
from neglog.site_priors import check_prior, fitted_prior, is_real, prior_of

__all__ = [
    "Model",
    "censored",
    "flat",
    "is_parameter",
    "is_real",
    "masked",
    "on_features",
    "truncated",
    "weighted",
    "with_priors",
]

Model = Callable[..., Any]


@public
def is_parameter(site: dict[str, Any]) -> bool:
    """Whether a sample site is a parameter: neither the observation nor anything else inside the rows.

    A parameter that the user conditioned stays one, although Pyro then calls its site observed; the
    observation stays the observation when no `y` is given, although its site is then latent.
    """
    if site["type"] != "sample" or site["name"] == RESPONSE or site_is_subsample(site):
        return False
    return all(frame.name != ROWS for frame in site["cond_indep_stack"])


class _Sites(Messenger):
    """A messenger that acts on named parameter sites, and raises an error for unknown names."""

    def __init__(self, handler: str, names: frozenset[str]) -> None:
        super().__init__()
        self.handler, self.names = handler, names
        self.seen: list[str] = []

    def __enter__(self) -> _Sites:
        self.seen = []
        return super().__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        unknown = sorted(self.names - set(self.seen))
        if exc_type is None and unknown:
            raise ModelError(
                f"`{self.handler}` was given {', '.join(map(repr, unknown))}, which the model does not "
                f"sample.{did_you_mean(unknown[0], self.seen)} Its parameter sites are "
                f"{', '.join(map(repr, self.seen))}."
            )

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_parameter(msg):
            self.seen.append(msg["name"])
            if not self.names or msg["name"] in self.names:
                self.change(msg)

    def change(self, msg: dict[str, Any]) -> None:
        raise TypeError("a subclass defines the change")


class _Flat(_Sites):
    def change(self, msg: dict[str, Any]) -> None:
        msg["mask"] = False if msg["mask"] is None else msg["mask"] & False


def is_flat(handler: Any) -> bool:
    """Whether a handler is that of `flat`, which has the `names` of its sites."""
    return isinstance(handler, _Flat)


def _named(model: Model, named: Mapping[str, Any], argument: str) -> dict[str, Any]:
    """A mapping keyed by sites or predictors, with their current names; the model is verified to be one."""
    return dict(current_names(model, named, argument))


@public
def flat(model: Model | str, *sites: str) -> Model:
    """The model with the log-density of its parameters masked: its joint density is its likelihood.

    Maximum likelihood is then the same `pyro.infer.SVI` with a Delta guide that gave the MAP estimate. The
    sites keep their supports. With site names, only those are made flat.

    Raises:
        ModelError: when the model runs, if it does not sample a site that was named.

    >>> import torch
    >>> from neglog import models
    >>> from pyro import poutine
    >>> trace = poutine.trace(flat(models.gaussian)).get_trace(torch.zeros(2, 1))
    >>> float(trace.log_prob_sum(lambda name, site: name != "y"))
    0.0
    """
    model = model_of(model)
    for site in sites:
        text("sites", site)
    return flattened(model, _named(model, dict.fromkeys(sites), "flat"))


def flattened(model: Model, sites: Collection[str] = ()) -> Model:
    """As `flat`, of a model and names of sites that were checked before."""
    return _Flat("flat", frozenset(sites))(model)


class _WithPriors(_Sites):
    def __init__(self, priors: Mapping[str, dist.Distribution]) -> None:
        super().__init__("with_priors", frozenset(priors))
        self.priors = dict(priors)

    def change(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.priors:
            msg["fn"] = fitted_prior(msg["name"], self.priors[msg["name"]], msg["fn"])
            msg["mask"] = None if msg["mask"] is False else msg["mask"]  # a prior given to a flat site counts


def changes_priors_alone(handler: Any) -> bool:
    """Whether a handler leaves the density of the observations as it is."""
    return isinstance(handler, _Flat | _WithPriors)


def without_priors(model: Model) -> Model:
    """The model without the handlers that change priors alone, which may be those of columns."""
    if not isinstance(model, partial):
        return model
    if len(model.args) < 2:  # bound arguments
        return partial(without_priors(model.func), *model.args, **model.keywords)
    handler, within = model.args[:2]
    inner = without_priors(within)
    if not changes_priors_alone(handler):
        if inner is within or not isinstance(handler, Messenger):
            return model
        inner = handler(inner)
    return partial(inner, **model.keywords) if model.keywords else inner


@public
def with_priors(model: Model | str, priors: Mapping[str, dist.Distribution]) -> Model:
    """The model with some of its priors swapped: site name -> distribution, expanded to the site's shape.

    The density is computed in the precision of the site. Pass parameters as float64 tensors
    (``dist.Normal(0.0, torch.tensor(0.1, dtype=torch.float64))``) where their own last digits matter: torch
    rounds a Python float to float32.

    Raises:
        ModelError: a value is not a distribution; when the model runs: a site that the model does not
            sample, a shape that does not expand, a prior that is discrete or has values outside the support
            of its site, such as negative ones of a scale.

    >>> import torch, pyro.distributions as dist
    >>> from neglog import models
    >>> from pyro import poutine
    >>> wide = with_priors(models.gaussian, {"mean.weight": dist.Normal(0.0, 100.0)})
    >>> poutine.trace(wide).get_trace(torch.zeros(2, 3)).nodes["mean.weight"]["fn"].base_dist.scale
    tensor([100., 100., 100.])
    """
    model = model_of(model)
    for name, prior in mapping("priors", priors, "{'sigma': dist.HalfNormal(1.0)}").items():
        text("the keys of `priors`", name)
        if not isinstance(prior, torch.distributions.Distribution):
            raise ModelError(f"the prior for `{name}` must be a distribution; it is {written(prior)}.")
    of_pyro = {name: _of_pyro(name, prior) for name, prior in priors.items()}
    return _WithPriors(_named(model, of_pyro, "with_priors"))(model) if priors else model


def _of_pyro(name: str, prior: Any) -> dist.Distribution:
    """A distribution of torch as Pyro's of the same name, which has shapes and scales of its own.

    Raises:
        ModelError: Pyro has none of that name.
    """
    if isinstance(prior, TorchDistributionMixin):
        return prior
    twin: Any = getattr(dist, type(prior).__name__, None)
    if not (isinstance(twin, type) and issubclass(twin, type(prior))):
        raise ModelError(f"the prior for `{name}` must be of pyro.distributions; it is {written(prior)}.")
    found: dist.Distribution = object.__new__(twin)
    vars(found).update(vars(prior))
    return found


class Weighted(Messenger):
    """Multiply the log-likelihood of the rows by weights, `(N,)` or one number, that were checked before."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if is_parameter(msg) or site_is_subsample(msg) or not msg["is_observed"]:
            return  # rows that are predicted are other rows, and have no weights
        batch = msg["fn"].batch_shape
        if self.weights.dim() == 1 and (not batch or batch[-1] != len(self.weights)):
            raise DataError(
                f"`weighted` was given {len(self.weights)} weights for "
                f"{batch[-1] if batch else 1} rows; it needs one for each row."
            )
        msg["scale"] = msg["scale"] * self.weights


@public
def weighted(model: Model | str, weights: Tensor | float) -> Model:
    """The model with the log-likelihood of its rows multiplied by `weights`, `(N,)` or one number.

    Frequency weights: 2 is the row twice, 0 is the row absent. Priors are left alone. One number ``N / B``
    makes the loss of a minibatch of `B` rows an unbiased estimate of the whole.

    Raises:
        DataError: a weight is negative, NaN or infinite, or `weights` has two dimensions; when the model
            runs, a number of weights other than the number of rows.
    """
    tensor = _weights(weights)
    if tensor.dim() > 1:
        raise DataError(f"`weights` needs the shape (rows,); it has {tuple(tensor.shape)}.")
    wrong = ~(torch.isfinite(tensor) & (tensor >= 0))
    if bool(wrong.any()):
        row = int(wrong.reshape(-1).nonzero()[0])
        value = float(tensor.reshape(-1)[row])
        raise DataError(f"`weights` must be finite and not negative; row {row} has {value:g}.")
    return Weighted(tensor)(model_of(model))


def _weights(weights: Any) -> Tensor:
    """The weights of `weighted` as a tensor, `(N,)` or `()`; the labels of a series could not be compared."""
    if isinstance(weights, Real) and not isinstance(weights, bool):
        return torch.tensor(number("weights", weights), dtype=torch.float64)
    if is_labelled(weights):
        raise DataError(
            "`weights` has labels, which `weighted` cannot compare with those of the data; pass "
            "weights.to_numpy(), or fit mle(model, x, y, weights=weights)."
        )
    if isinstance(weights, Tensor) and weights.is_floating_point():
        check_dense("weights", weights)
        return weights
    return to_tensor("weights", weights, torch.float64, integers=True)


Module = nn.Module | Mapping[str, nn.Module]


@public
def on_features(
    model: Model | str,
    module: Module,
    *,
    prior: Callable[[Tensor], dist.Distribution] | None = None,
    name: str = "trunk",
) -> Model:
    """The model run on the features that a network computes from `x`: one trunk, a linear head a parameter.

    ``on_features(models.heteroscedastic, trunk)`` is the two-headed network for mean and log-variance. Every
    trainable parameter of `module` becomes a sample site ``NAME.PARAMETER`` of its own shape; frozen ones
    (``requires_grad=False``) and buffers are constants. The module itself is never changed.

    Args:
        model: any model of `(x, y=None)`.
        module: `(N, P)` -> `(N, F)`, or from an input of any shape, such as images `(N, C, H, W)` or integer
            tokens `(N, L)`; for a module with several inputs `x` is a mapping from the arguments of its
            `forward` to tensors. Or a mapping (or `torch.nn.ModuleDict`) from predictor name to a network.
            They may be networks of their own; or one and the same, so that constants such as ``sigma`` get a
            head too: ``dict.fromkeys(("mean", "sigma"), trunk)``. What they share is one set of sites, called
            after the first.
        prior: a function from a parameter's value to its prior, of any shape that expands to the
            parameter's; default Normal(0, 1). Under `flat` the prior does not count.
        name: the prefix of the sites.

    neglog's own solvers start from the module's values. In raw Pyro use
    ``AutoDelta(net, init_loc_fn=init_to_value(values=net.start))``.

    A network with Dropout, BatchNorm or another layer that depends on the mode is trained in training mode,
    by gradient steps (`Adam`, the default for it, or `SVI`) that update its buffers; a part that was put in
    evaluation mode, such as a frozen BatchNorm, stays in it. Everything else, ``fit.nll`` and `predict`
    among it, is in evaluation mode with the learned buffers, ``fit.buffers``. Raw Pyro runs the module in
    the mode that it has, and updates no buffers.

    Raises:
        ModelError: `module` is not a module or a mapping of them, has no trainable parameter, or a lazy one
            without a shape; when a model is trained: its batch is too small for the module.
        DataError: when the model runs: `x` has keys that are no arguments of the module, or the features are
            not `(N, F)`.

    >>> import torch
    >>> from neglog import models
    >>> net = on_features(models.heteroscedastic, torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh()))
    >>> sorted(net.start)
    ['trunk.0.bias', 'trunk.0.weight']
    >>> net(torch.zeros(5, 1)).shape
    torch.Size([5])
    """
    inside = getattr(model, "inside", None)  # of an objective of training, which stays the outermost
    if inside is not None:
        return inside(lambda inner: _OnFeatures(inner, module, prior, name))
    return _OnFeatures(model, module, prior, name)


def _check_modules(modules: Mapping[Any, Any] | nn.ModuleDict) -> None:
    for key, part in modules.items():
        if not isinstance(key, str) or not isinstance(part, nn.Module):
            raise ModelError(
                f"`module` must map names of predictors to modules; it has {written(key)}: {written(part)}."
            )


def _check_tensors(module: nn.Module) -> None:
    """Raise ModelError if a parameter or a buffer has no values, or a lazy parameter no shape."""
    lazy = next((key for key, p in module.named_parameters() if is_lazy(p)), None)
    if lazy is not None:
        raise ModelError(
            f"the parameter `{lazy}` of `module` has no shape yet, so there is nothing to fit. Run the "
            "module once on an example of its input, as in `module(torch.zeros(2, columns))`."
        )
    meta = next((key for key, each in module.state_dict().items() if each.is_meta), None)
    if meta is not None:
        raise ModelError(
            f"`{meta}` of `module` is on the meta device, where tensors have a shape and no values. Build "
            "the module on the CPU: with torch.device('cpu')."
        )


@contextmanager
def _explained_batch_norm() -> Iterator[None]:
    """The error of a BatchNorm in training mode on a single row, with its remedy."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ModelError(
            "`module` has BatchNorm, which cannot be trained on a batch of one row. Give more rows, and "
            "a `batch_size` that does not leave a single one over."
        ) from error


@contextmanager
def _explained_integers(x: Designs) -> Iterator[None]:
    """The error of a network that takes no integers, with its remedy."""
    try:
        yield
    except ModelError as error:
        if _floating(x) is not None:
            raise
        raise DataError(
            f"`x` holds integers, which reach `module` as they are. Numbers need x.double(): {error}"
        ) from error


def _check_input(name: str, value: Any, axes: int) -> None:
    """Raise DataError unless an input of a network is a dense tensor with at least this many axes."""
    if isinstance(value, Tensor):
        check_dense(name, value)
    if not isinstance(value, Tensor) or value.dim() < axes:
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise DataError(
            f"`on_features` needs `{name}` as a tensor of shape (rows, columns), or with more axes; it came "
            f"as {what}. For a single column, pass {name}[:, None]."
        )


def _floating(x: Designs) -> Tensor | None:
    """The input of a network, or the first one, that has a floating-point dtype; None of integers."""
    values = x.values() if isinstance(x, Mapping) else (x,)
    return next((value for value in values if value.is_floating_point()), None)


def _called(module: nn.Module, state: dict[str, Tensor], x: Designs) -> Tensor:
    """The output of a module at some weights, on one input, or on one for each argument."""
    args, keywords = ((), dict(x)) if isinstance(x, Mapping) else ((x,), {})
    found: Tensor = functional_call(module, state, args, keywords)
    return found


class _OnFeatures:
    def __init__(
        self,
        model: Model | str,
        module: Module,
        prior: Callable[[Tensor], dist.Distribution] | None,
        name: str,
    ) -> None:
        model = model_of(model)
        if isinstance(module, Mapping | nn.ModuleDict) and module:
            _check_modules(module)
            module = nn.ModuleDict(_named(model, dict(module.items()), "module"))
        self.model, self.name = model, text("name", name)
        check_prior(prior)
        if not isinstance(module, nn.Module):
            raise ModelError(
                f"`module` must be a torch.nn.Module or a mapping from predictor name to one; it "
                f"is {written(module)}.{' Call it, and give the module.' * callable(module)}"
            )
        self.module, self.prior = module, prior
        _check_tensors(module)
        self.trainable = {key: p for key, p in module.named_parameters() if p.requires_grad}
        if not self.trainable:
            raise ModelError("`module` has no trainable parameter, so there is nothing to fit in it.")

    @property
    def start(self) -> dict[str, Tensor]:
        """Site name -> a copy of the module's own value: where a fit of this model starts."""
        return {f"{self.name}.{key}": p.detach().clone() for key, p in self.trainable.items()}

    def __call__(self, x: Designs, y: Tensor | None = None, **kwargs: Any) -> Any:
        x = self._inputs(x)
        like = _floating(x)
        weights = {key: self._sample(key, p, like) for key, p in self.trainable.items()}
        found = features(self, weights, x, name=self.name)
        if not isinstance(found, Mapping):
            return self.model(found, y, **kwargs)
        watched = Watched(found)
        value = self.model(watched, y, **kwargs)
        unread = sorted(set(watched) - watched.used)
        if unread:
            raise ModelError(
                f"`on_features` has a network for {', '.join(map(repr, unread))}, which is no predictor "
                "of the model, so that nothing would depend on it. Name the predictors that it has."
            )
        return value

    def _inputs(self, x: Any) -> Designs:
        """The input of the network: a tensor `(N, ...)`, or one for each argument of its `forward`.

        Raises:
            DataError: it is something else; there is no such argument.
        """
        if not isinstance(x, Mapping):
            _check_input("x", x, axes=2)
            return x
        self._check_arguments(x)
        inputs = {key: x[key] for key in x}
        for key, value in inputs.items():
            _check_input(f"x[{key!r}]", value, axes=1)
        return inputs

    def _check_arguments(self, names: Collection[Any]) -> None:
        """Raise DataError unless `forward` has arguments of these names, and needs no others."""
        modules = list(self.module.values()) if isinstance(self.module, nn.ModuleDict) else [self.module]
        for module in modules:
            try:
                inspect.signature(module.forward).bind(**dict.fromkeys(map(str, names)))
            except TypeError as error:
                own = ", ".join(inspect.signature(module.forward).parameters)
                raise DataError(
                    f"`x` must be one tensor, or have a key for each argument of `forward` of `module`, "
                    f"{own}; its keys are {', '.join(map(repr, names)) or 'none'} ({error}). For a network "
                    "of its own for each parameter, give `on_features` a mapping of modules."
                ) from None

    def constants(self) -> Constants:
        """Copies of the buffers and the frozen parameters."""
        everything = dict(self.module.named_parameters()) | dict(self.module.named_buffers())
        return {key: t.detach().clone() for key, t in everything.items() if key not in self.trainable}

    def _sample(self, key: str, parameter: Tensor, like: Tensor | None) -> Tensor:
        value = parameter.detach().clone() if like is None else parameter.detach().to(like)
        normal = dist.Normal(torch.zeros_like(value), 1.0).to_event(value.dim())
        site = f"{self.name}.{key}"
        prior = normal if self.prior is None else fitted_prior(site, prior_of(self.prior, value), normal)
        return pyro.sample(site, prior, infer={"start": value})

    def features(self, weights: Mapping[str, Tensor], x: Designs, mode: Mode | None) -> Designs:
        """The features `(N, F)` at some weights, or a mapping of them; constants take the dtype of these.

        A module may write to its buffers, which are copies.
        """
        known = None if mode is None else mode.constants
        constants = self.constants() if known is None else {key: t.clone() for key, t in known.items()}
        like = next(iter(weights.values()))
        state = {key: t.to(like if t.is_floating_point() else like.device) for key, t in constants.items()}
        state |= weights
        with (
            _explained_batch_norm(),
            _explained_integers(x),
            user_code("`module`"),
            in_mode(self.module, mode),
        ):
            found = self._features(state, x)
        if mode is not None and mode.training and known is not None:
            known.update({key: state[key].detach() for key in known})
        return found

    def _features(self, state: dict[str, Tensor], x: Designs) -> Designs:
        if not isinstance(self.module, nn.ModuleDict):
            return self._checked(_called(self.module, state, x), x)
        found: dict[nn.Module, Tensor] = {}
        for predictor, part in self.module.items():
            if part not in found:
                prefix = f"{predictor}."
                names = {k.removeprefix(prefix): v for k, v in self._names() if k.startswith(prefix)}
                own = {name: state[kept] for name, kept in names.items()}
                found[part] = self._checked(_called(part, own, x), x)
                state.update({kept: own[name] for name, kept in names.items()})
        return {predictor: found[part] for predictor, part in self.module.items()}

    def _names(self) -> list[tuple[str, str]]:
        """Each name of a parameter or buffer of the module, and the one under which its value is kept.

        They differ where predictors share a network, or layers of it.
        """
        pairs: list[tuple[str, str]] = []
        for kind in (self.module.named_parameters, self.module.named_buffers):
            kept = {id(value): name for name, value in kind()}
            pairs += [(name, kept[id(value)]) for name, value in kind(remove_duplicate=False)]
        return pairs

    @staticmethod
    def _checked(features: Tensor, x: Designs) -> Tensor:
        rows = len(next(iter(x.values())) if isinstance(x, Mapping) else x)
        if isinstance(features, Tensor):
            check_dense("features", features)
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != rows:
            what = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise DataError(f"`module` must give features of shape ({rows}, F); it gave {what}.")
        if not features.is_floating_point():
            raise DataError(f"`module` must give features of a floating-point dtype, not {features.dtype}.")
        return features
