"""Tracing: run a model, and record its sites and linear predictors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer.autoguide.initialization import init_to_median
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import biject_to

from neglog.conversion import ALL
from neglog.data import Data, observed
from neglog.designs import response_tensor
from neglog.distributions.family import events_of, plain
from neglog.errors import ModelError, NeglogError, did_you_mean
from neglog.handlers import Model, is_parameter, is_real, without_priors
from neglog.isolation import failed, isolated, user_code
from neglog.layers import current_names, design_names, layers, replaced
from neglog.modes import Constants, Mode, Network
from neglog.predictors import RESPONSE, Designs, Watched, affine, by_output, design_keys, read_size
from neglog.wellformed import check_conditions, check_sites


def as_fitted(model: Model, data: Data) -> tuple[Model, Data]:
    """A model and its data in the form in which they are fitted.

    Designs are under the own names of predictors, rows without an observed `y` are left out, sizes are read
    from `y`, and biases are at 0 where a design has no intercept.

    Raises:
        DataError: an entry of `y` is missing, and the model is not inside `masked`; or all entries are.
        ModelError: see `without_biases`.
    """
    if isinstance(data.x, Mapping):
        data = _under_own_names(model, data, data.x)
    if data.is_missing:
        data = observed(data, takes_missing(model))
    model = with_sizes(model, data.y)
    return (without_biases(model, data) if data.without_intercept else model), data


def _under_own_names(model: Model, data: Data, designs: Mapping[str, Tensor]) -> Data:
    """The data with designs under the own names of predictors, where the model understands others too."""
    x = current_names(model, designs, "x")
    if x is designs:
        return data
    names = design_names(model, designs)
    marked = frozenset(replaced(names, dict.fromkeys(data.without_intercept)))
    return replace(data, x=x, columns=replaced(names, data.columns), without_intercept=marked)


@dataclass
class Affine:
    """A call of the `affine` effect: the predictor's name, its design and its coefficients."""

    name: str
    design: Tensor
    weight: Tensor
    bias: Tensor
    outputs: Sequence[Any] | None = None
    offset: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The predictor, `(N,)` or `(N, D)`."""
        return affine(self.design, self.weight, self.bias, self.outputs, self.offset)

    def constant(self, rows: int) -> Tensor:
        """The predictor, for a number of rows, where all weights are 0, without its offset."""
        return self.bias.to(self.design.dtype).expand(rows, *self.bias.shape)

    def column_names(self, data: Data) -> list[str]:
        """The names of the columns of the design."""
        known = data.columns
        for key in (*design_keys(self.name), ALL):
            if key in known and len(known[key]) == self.design.shape[1]:
                return list(known[key])
        return [f"x{j}" for j in range(self.design.shape[1])]

    def output_names(self, data: Data) -> tuple[str, ...]:
        """The names of the outputs: `mean`, or `mean[height]`, `mean[weight]` where there are many.

        Those that are numbered like the columns of the response are called after them.
        """
        if self.outputs is None:
            return (self.name,)
        responses = data.responses
        names = responses if self.outputs == range(len(responses)) else self.outputs
        return tuple(f"{self.name}[{name}]" for name in names)

    @property
    def numbers(self) -> Sequence[int | None]:
        """The numbers of its outputs; None alone, where it is one predictor."""
        return [None] if self.outputs is None else range(len(self.outputs))

    @property
    def null(self) -> Tensor:
        """The predictor where all weights are 0."""
        level = self.constant(len(self.design))
        return level if self.offset is None else level + by_output(self.offset, self.outputs)


@dataclass(frozen=True)
class Features:
    """The features that a network computed from `x`, and the mode in which it was run."""

    network: Network
    mode: Mode
    value: Any

    @property
    def constants(self) -> Constants:
        """The buffers and the frozen parameters that it had."""
        known = self.mode.constants
        return self.network.constants() if known is None else known


class Run(Messenger):
    """Run a model at given values, and record its sites and its linear predictors.

    With `etas` the predictors among its keys have these values, `(N,)` or `(N, D)`.
    Networks are run in evaluation mode, unless a handler around the model changes it.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor] | None = None,
        *,
        etas: Mapping[str, Tensor] | None = None,
        fill: Callable[[dict[str, Any]], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.values, self.etas, self.fill = values or {}, dict(etas or {}), fill
        self.sites: dict[str, dict[str, Any]] = {}
        self.repeated: set[str] = set()
        self.params: dict[str, Tensor] = {}
        self.affines: list[Affine] = []
        self.networks: dict[str, Features] = {}

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if site_is_subsample(msg):
            return
        msg["fn"] = plain(msg["fn"])
        if msg["is_observed"]:
            return
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]
            msg["done"] = True
        elif self.fill is not None and is_parameter(msg):
            msg["value"] = self.fill(msg)
            msg["done"] = True

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if not site_is_subsample(msg):
            if msg["name"] in self.sites:
                self.repeated.add(msg["name"])
            self.sites[msg["name"]] = msg

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        self.params[msg["name"]] = msg["value"]

    def _pyro_affine(self, msg: dict[str, Any]) -> None:
        call = Affine(msg["name"], *msg["args"])
        call.offset = msg["kwargs"].get("offset", call.offset)
        self.affines.append(call)
        value = self.predicted(call)
        if value is not None:
            msg["value"] = value
            msg["done"] = True

    def predicted(self, call: Affine) -> Tensor | None:
        """The values that a predictor has in this run; None where it is computed from its columns."""
        if call.name in self.etas:
            return self.etas[call.name]
        if self.fill is not None and call.weight.dim() <= 2 and not bool(call.weight.any()):
            return call.null  # where weights start, no design is read
        return None

    def _pyro_network(self, msg: dict[str, Any]) -> None:
        if msg["kwargs"].get("mode") is None:
            msg["kwargs"]["mode"] = Mode(training=False)

    def _pyro_post_network(self, msg: dict[str, Any]) -> None:
        self.networks[msg["name"]] = Features(msg["args"][0], msg["kwargs"]["mode"], msg["value"])

    def log_prob(self, site: str) -> Tensor:
        """The log-density of a site with its weights and mask, in the shape of its batch."""
        msg = self.sites[site]
        fn = _unchecked(msg["fn"]) if site == RESPONSE else msg["fn"]
        return scale_and_mask(fn.log_prob(msg["value"]), msg["scale"], msg["mask"])

    def prior(self, without: Collection[str] = ()) -> Tensor | float:
        """The summed log-density of all other sites than the observation, and than those named."""
        return sum(
            (
                self.log_prob(name).sum()
                for name, msg in self.sites.items()
                if name != RESPONSE and name not in without and msg["mask"] is not False
            ),
            0.0,
        )


def _unchecked(fn: Any) -> Any:
    """The distribution without the check of its values, where the support is known to be the same always.

    The data are validated against it once, before any fit.
    """
    if isinstance(type(fn).support, property):
        return fn
    other = copy(fn)
    other._validate_args = False
    return other


def run(model: Model, data: Data, run: Run, *, response: bool = True) -> Run:
    """Run the model on data inside the messenger; without the response it draws one, in private."""
    if response:
        with run:
            model(data.x, data.y, **data.keywords)
        return run
    with seeded(), run:
        model(data.x, None, **data.keywords)
    return run


@contextmanager
def seeded() -> Iterator[None]:
    """Random numbers in private: the state of torch's generator is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def initial_value(
    msg: dict[str, Any], data: Data | None = None, given: Mapping[str, Any] | None = None
) -> Tensor:
    """The initial value of a site, deterministic given torch's random state.

    The value that is `given`, if it has the shape and lies inside the support; a network's own value
    (`infer={"start": value}`); a function of the data, where there are any (`infer={"begin": function of y,
    the weights of its rows and the shape}`); else the centre of the prior.
    """
    if given and msg["name"] in given:
        value = torch.as_tensor(given[msg["name"]], dtype=torch.float64)
        if value.shape == msg["fn"].shape() and _is_inside(msg["fn"].support, value):
            return value
    if "start" in msg["infer"]:
        return msg["infer"]["start"]
    if "begin" in msg["infer"] and data is not None:
        return _value_from_data(msg, data)
    return _prior_centre(msg)


def _prior_centre(msg: dict[str, Any]) -> Tensor:
    """The mean of a prior on all real numbers, so that linear predictors are small; else the median.

    Raises:
        ModelError: the median is not known, and the prior cannot be drawn from.
    """
    if is_real(msg["fn"].support):
        try:
            mean = msg["fn"].mean.detach()
        except NotImplementedError:
            mean = torch.tensor(torch.nan)
        zero = torch.zeros(msg["fn"].shape(), dtype=mean.dtype)
        return torch.where(torch.isfinite(mean), mean, zero)
    try:
        return init_to_median(msg).detach()
    except NotImplementedError as error:  # as `ImproperUniform` has it
        raise ModelError(
            f"the prior of `{msg['name']}` cannot be drawn from, so it gives no initial value. Write a "
            "proper prior on the same support, and use `flat` if it should not count."
        ) from error


def _value_from_data(msg: dict[str, Any], data: Data) -> Tensor:
    """The initial value of a site, as its function computes it from the data.

    Raises:
        ModelError: its function raises an error, or returns no tensor of the shape of the site.
    """
    weights = data.y.new_ones(data.rows) if data.weights is None else data.weights
    shape, what = msg["fn"].shape(), f"the function that gives `{msg['name']}` its initial value"
    with user_code(what):
        value = msg["infer"]["begin"](data.y, weights, shape)
    if not isinstance(value, Tensor) or value.shape != shape:
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ModelError(f"{what} must return a tensor of shape {tuple(shape)}; it returned {came}.")
    return value


def _is_inside(support: Any, value: Tensor) -> bool:
    """Whether a value is in a support, and not on its border."""
    return bool(support.check(value).all()) and bool(torch.isfinite(biject_to(support).inv(value)).all())


def prototype(model: Model, data: Data, first: Run) -> None:
    """Run a model inside a messenger that sets all parameters, to see its sites.

    Raises:
        ModelError: the model fails at these parameters, or cannot be fitted to these designs.
    """
    x: Designs = Watched(data.x) if isinstance(data.x, Mapping) else data.x
    watched = Data(x, data.y, None, data.keywords)
    try:
        with seeded():  # some priors know their median by sampling alone
            run(model, watched, first)
    except Exception as error:
        check_conditions(model, model_name(model), first.sites, complete=False)
        if isinstance(error, NeglogError | torch.linalg.LinAlgError):
            raise
        if "to satisfy the constraint" not in str(error):
            raise failed(f"`{model_name(model)}`", error) from error
        raise ModelError(_nowhere(model, first, error)) from error
    if RESPONSE not in first.sites:
        raise ModelError(
            f"`{model_name(model)}` has no sample site named 'y'; the observation must be "
            f"pyro.sample('y', ..., obs=y). Its sites are {', '.join(map(repr, first.sites))}."
        )
    check_sites(model, model_name(model), first.sites, first.repeated)
    if isinstance(x, Watched) and x.used != set(x):
        unused = ", ".join(map(repr, sorted(set(x) - x.used)))
        names = dict.fromkeys(
            (*predictor_names(model, **data.keywords), *positive_names(model, **data.keywords))
        )
        raise ModelError(
            f"`{model_name(model)}` has no predictor {unused}; it has {', '.join(map(repr, names))}."
            f"{did_you_mean(min(set(x) - x.used), names)}"
        )


def _nowhere(model: Model, first: Run, error: Exception) -> str:
    """The error message for a model that has no density at its initial values."""
    numbers = {name: msg["value"] for name, msg in first.sites.items() if msg["value"].numel() == 1}
    at = ", ".join(f"{name} = {float(value):g}" for name, value in numbers.items())
    refused = str(error).splitlines()[0].removesuffix(", but found invalid values:")
    return (
        f"`{model_name(model)}` has no density at the initial values of its "
        f"parameters{f' ({at})' if at else ''}: {refused[:1].lower()}{refused[1:]}. "
        "`start={'name': 1.0}` gives others."
    )


def takes_missing(model: Model) -> bool:
    """Whether the model is inside `masked`."""
    return any(getattr(layer, "missing", False) for layer in layers(model))


def model_name(model: Model) -> str:
    """The name of the function inside handlers and partials."""
    *_, inner = layers(model)
    return getattr(inner, "__name__", type(inner).__name__)


def without_biases(model: Model, data: Data) -> Model:
    """The model with the biases at 0 of the predictors whose designs have no intercept.

    Raises:
        ModelError: such a design serves several predictors, or a network.
    """
    if not data.without_intercept:
        return model
    with torch.no_grad(), user_code(f"`{model_name(model)}`"):
        seen = run(model, data, Run(fill=initial_value), response=False)
    found: dict[str, Tensor] = {}
    for key in data.without_intercept:
        design = data.x[key] if isinstance(data.x, Mapping) else data.x
        for name in _served(model, seen, design):
            bias = seen.sites.get(f"{name}.bias")
            if bias is not None and not bias["is_observed"]:
                found[f"{name}.bias"] = torch.zeros_like(bias["value"])
    return pyro.condition(model, data=found) if found else model


def _served(model: Model, seen: Run, design: Tensor) -> list[str]:
    """The predictors of a design without an intercept: one, or none for a model without `linear`."""
    names = list(dict.fromkeys(call.name for call in seen.affines if call.design is design))
    if len(names) > 1:
        listed = ", ".join(map(repr, names))
        raise ModelError(
            f"`x` is the design of a formula without an intercept, and serves {listed} of "
            f"`{model_name(model)}`. Give each its own: x=learned.design.x(table, ({listed}))."
        )
    if not names and (seen.affines or seen.networks):
        raise ModelError(
            "`x` is the design of a formula without an intercept, and goes through a network, which has "
            "biases of its own. Write the formula with an intercept: `y ~ x`."
        )
    return names


def with_sizes(model: Model, y: Tensor) -> Model:
    """The model with the sizes that it reads from a response (`neglog.predictors.sized`) bound."""
    given: set[str] = set()
    for layer in layers(model):
        given |= set(getattr(layer, "keywords", ()))
        if hasattr(layer, "sizes"):
            sizes = {n: read_size(n, read, y) for n, read in layer.sizes.items() if n not in given}
            return partial(model, **sizes) if sizes else model
    return model


TWO = torch.eye(2, dtype=torch.float64)
"""A response of two columns, or of two classes, for runs of which only the names of sites are used."""


def _empty(rows: int = 2) -> Tensor:
    return torch.zeros((rows, 0), dtype=torch.float64)


def _bare(model: Model, x: Designs, keywords: Mapping[str, Tensor]) -> Run:
    ones = {key: torch.ones(2, dtype=torch.float64) for key in keywords}
    with user_code(f"`{model_name(model)}`"):
        data = Data(x, torch.zeros(2), None, ones)
        return run(without_priors(model), data, Run(fill=initial_value), response=False)


@isolated
def predictor_names(model: Model, **keywords: Tensor) -> tuple[str, ...]:
    """The linear predictors of a model, the location first: ``("mean", "log_variance")``.

    >>> from neglog import models
    >>> predictor_names(models.heteroscedastic)
    ('mean', 'log_variance')
    """
    bare = _bare(with_sizes(model, TWO), _empty(), keywords)
    return tuple(dict.fromkeys(affine.name for affine in bare.affines))


class _Lookups(dict[str, Tensor]):
    """A mapping without the designs of predictors, which records the keys that are looked up."""

    def __init__(self) -> None:
        super().__init__({ALL: _empty()})
        self.keys_looked_up: list[str] = []

    def __contains__(self, key: object) -> bool:
        self.keys_looked_up.append(str(key))
        return False


@isolated
def positive_names(model: Model, **keywords: Tensor) -> tuple[str, ...]:
    """The constants of a model that may be given a design of their own: ``("sigma",)``.

    >>> from neglog import models
    >>> positive_names(models.laplace)
    ('scale',)
    """
    lookups = _Lookups()
    linear = {affine.name for affine in _bare(with_sizes(model, TWO), lookups, keywords).affines}
    return tuple(dict.fromkeys(name for name in lookups.keys_looked_up if name not in linear))


@isolated
def is_discrete(model: Model, **keywords: Tensor) -> bool:
    """Whether the model draws whole numbers or classes, by their probabilities, and not by a density.

    >>> from neglog import models
    >>> is_discrete(models.poisson), is_discrete(models.gaussian)
    (True, False)
    """
    response = _bare(with_sizes(model, TWO), _empty(), keywords).sites[RESPONSE]["fn"]
    return bool(response.support.is_discrete)


@isolated
def drawn_events(model: Model) -> tuple[int, ...]:
    """The codes of classes that a model gives a probability (`events_of`); none where it draws no class.

    >>> from neglog import models
    >>> drawn_events(models.bernoulli), drawn_events(models.poisson)
    ((1,), ())
    """
    return events_of(_bare(with_sizes(model, TWO), _empty(), {}).sites[RESPONSE]["fn"])


@isolated
def admits(model: Model, y: Any) -> bool:
    """Whether every value of `y` is one that the model can draw.

    >>> import torch
    >>> from neglog import models
    >>> admits(models.gaussian, torch.tensor([-1.0, 2.5]))
    True

    Raises:
        DataError: `y` is no array of numbers.
    """
    values = response_tensor(y)
    try:
        fn = _bare(model, _empty(), {}).sites[RESPONSE]["fn"]
    except ModelError:  # it needs more of each row than a response, such as a number of trials
        return False
    return values.dim() > 0 and values.shape[1:] == fn.event_shape and bool(fn.support.check(values).all())
