"""From a likelihood to a loss to train with: a module of torch.nn."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from numbers import Real
from typing import Any

import torch
from pyro.poutine.condition_messenger import ConditionMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from neglog import models
from neglog.aliases import former_attribute
from neglog.arguments import checked_model, shown
from neglog.calls import public
from neglog.errors import DataError, ModelError, did_you_mean, written
from neglog.handlers import changes_priors_alone
from neglog.layers import layers
from neglog.losses import classes, counted, mixtures, real, skewed, vectors
from neglog.losses.objectives import heads_of, natural_gaussian_nll, objective_of
from neglog.losses.own import ResidualModel
from neglog.losses.shapes import Reduction, reduce
from neglog.models.named import model_named
from neglog.natural import natural_gaussian
from neglog.tracing import positive_names
from neglog.training_objectives import TrainingObjective, WarmUp, levels_of

Model = Callable[..., Any]
HAND_WRITTEN = (real, counted, skewed, classes, mixtures, vectors)
"""The modules of negative log-likelihoods of predictions and targets, each called after its model."""


@public
class LikelihoodLoss(nn.Module):
    """A negative log-likelihood as a training loss: see :func:`loss_of`, which makes it.

    Call it with the prediction, the target, and then what is neither fixed nor learned, in the order of
    `arguments`. Learned constants are its parameters ``log_NAME``, which the optimiser needs too.
    """

    asks = former_attribute("asks", "arguments")

    def __init__(
        self,
        name: str,
        nll: Callable[..., Tensor],
        arguments: tuple[str, ...],
        fixed: Mapping[str, float],
        learned: Mapping[str, float],
        reduction: Reduction,
    ) -> None:
        super().__init__()
        self.name, self.nll, self.arguments = name, nll, arguments
        self.fixed, self.reduction = dict(fixed), reduction
        self.learned = tuple(learned)
        for key, value in learned.items():
            self.register_parameter(f"log_{key}", nn.Parameter(torch.tensor(math.log(value))))

    @property
    def constants(self) -> dict[str, float | Tensor]:
        """The constants by name: numbers that are fixed, and the present values of those learned."""
        return self.fixed | {key: torch.exp(self.get_parameter(f"log_{key}")) for key in self.learned}

    def forward(self, prediction: Tensor, target: Tensor, *rest: Any, **named: Any) -> Tensor:
        """The loss, in nats.

        Raises:
            DataError: shapes that differ, since nothing is broadcast; something missing, or too much.
        """
        given = dict(zip(self.arguments, rest, strict=False)) | named
        if (
            len(rest) > len(self.arguments)
            or len(given) != len(rest) + len(named)
            or not set(given) <= set(self.arguments)
        ):
            raise DataError(
                f"{self!r} takes {', '.join(self.arguments) or 'nothing'} after the target; it was "
                f"given {len(rest)} by position, and by name {', '.join(named) or 'none'}. {self._usage()}"
            )
        try:
            return self.nll(prediction, target, **given, **self.constants, reduction=self.reduction)
        except ModelError as error:  # a call without an argument; invalid values are a DataError
            raise DataError(f"{self!r} lacks an argument. {self._usage()}") from error

    def _usage(self) -> str:
        return f"Call loss({', '.join(('prediction', 'target', *self.arguments))})."

    def extra_repr(self) -> str:
        """The constants, for the `repr` of the module."""
        parts = [self.name, *(f"{key}={value:g}" for key, value in self.fixed.items())]
        return ", ".join(
            [*parts, *(f"learn={key!r}" for key in self.learned), f"reduction={self.reduction!r}"]
        )


@public
def loss_of(
    model: Model | str,
    *,
    learn: str | Iterable[str] = (),
    reduction: Reduction = "mean",
    **fixed: float,
) -> LikelihoodLoss:
    """The negative log-likelihood of a model as a `torch.nn.Module`, to train a network of one's own with.

    It is the hand-written function `neglog.losses.NAME_nll`: every constant included, strict about shapes,
    and nothing clamped.

    Args:
        model: a model of `neglog.models`, its name, ``functools.partial(models.huber, delta=2.0)``, or one of
            `losses.as_likelihood`. Priors that handlers set do not count; a condition fixes a constant.
        learn: the positive constants to train along, such as ``"sigma"``: each is a `torch.nn.Parameter`
            ``log_NAME``, whose initial value is the log of its value in `fixed`, or 0.
        reduction: "mean", "sum" or "none".
        fixed: constants that stay as they are, as numbers: ``sigma=2.0``.

    The loss is called as ``loss(prediction, target, ...)``: arguments that are neither learned nor fixed
    follow the target, each a number or a tensor, in the order of `LikelihoodLoss.arguments`. Examples:
    ``loss_of(models.heteroscedastic)`` is called as ``loss(mean, target, log_variance)``,
    ``loss_of(models.gaussian)`` as ``loss(mean, target, sigma)``.

    Of an objective of training (`neglog.beta_nll`, `faithful`, `score`) it is that one, called likewise, and
    of `quantile_heads` a loss of one prediction for each level. `warm_up` ends in the likelihood.

    Raises:
        ModelError: there is no hand-written loss of the model, it has no such constant, or it is inside a
            handler that changes its likelihood.

    >>> import torch
    >>> from neglog import models
    >>> loss = loss_of(models.gaussian, learn="sigma")
    >>> loss
    LikelihoodLoss(gaussian, learn='sigma', reduction='mean')
    >>> loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
    tensor(3.1689, grad_fn=<MeanBackward0>)
    >>> list(loss.state_dict())
    ['log_sigma']
    """
    model = model_named(model) if isinstance(model, str) else model
    reduce(torch.zeros(1), reduction)  # refuses an unknown one
    if not isinstance(model, TrainingObjective):
        return _of_likelihood(model, learn, reduction, fixed)
    if levels_of(model):
        return LikelihoodLoss(model.name, heads_of(levels_of(model)), (), {}, {}, reduction)
    found = _of_likelihood(model.model, learn, reduction, fixed)
    if not isinstance(model, WarmUp):
        found.name, found.nll = f"{model.name} of {found.name}", objective_of(model, found.nll)
    return found


def _of_likelihood(model: Model, learn: Any, reduction: Reduction, fixed: dict[str, float]) -> LikelihoodLoss:
    """The loss of a model that is trained on its likelihood."""
    name, nll, bound = _resolved(checked_model(model))
    parameters = dict(list(inspect.signature(nll).parameters.items())[2:])
    names = [key for key, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    learned = _texts("learn", learn)
    settings = bound | fixed
    _check_names(name, names, settings)
    if learned:
        _check_learnable(name, model, parameters, learned)
    starts = {key: _start(key, settings.pop(key, 1.0)) for key in learned}
    _check_numbers(settings)
    # Tuning constants of the loss itself, such as delta, keep their defaults and are no arguments.
    tuning = {key for key in names if parameters[key].annotation == "float"}
    arguments = tuple(key for key in names if key not in {*settings, *starts, *tuning})
    return LikelihoodLoss(name, nll, arguments, settings, starts, reduction)


def _texts(name: str, given: Any) -> tuple[str, ...]:
    """One name or many."""
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Sequence | Set) or not all(isinstance(each, str) for each in given):
        raise ModelError(f"`{name}` must be a name, or a tuple of names; it is {shown(given)}.")
    return tuple(given)


def _resolved(model: Model) -> tuple[str, Callable[..., Tensor], dict[str, Any]]:
    """A model's name, its hand-written loss and the constants that are bound to it."""
    bound, inner = _bound_constants(model)
    if isinstance(inner, ResidualModel):
        return inner.__name__, inner.nll, bound
    if inner is natural_gaussian:
        return inner.__name__, natural_gaussian_nll, bound
    name = getattr(inner, "__name__", type(inner).__name__)
    written_out = (getattr(module, f"{name}_nll", None) for module in HAND_WRITTEN)
    nll = next((each for each in written_out if each is not None), None)
    if nll is None or getattr(models, name, None) is not inner:
        raise ModelError(
            f"`{name}` has no hand-written loss; `loss_of` knows the models of neglog.models and those of "
            "losses.as_likelihood. For another model, train with minus its log_prob."
        )
    return name, nll, {key: value for key, value in bound.items() if key not in getattr(inner, "sizes", ())}


def _bound_constants(model: Model) -> tuple[dict[str, Any], Any]:
    """The constants that handlers and partials fix, the outermost first, and the function inside them all."""
    bound: dict[str, Any] = {}
    layer: Any = model
    for layer in layers(model):
        messengers = [part for part in getattr(layer, "args", ()) if isinstance(part, Messenger)]
        for messenger in messengers:
            bound = _condition(messenger) | bound
        if isinstance(layer, partial) and not messengers:
            bound = {key: value for key, value in layer.keywords.items() if value is not None} | bound
    return bound, layer


def _condition(messenger: Messenger) -> dict[str, Any]:
    """The constants that a handler fixes: the values of a condition; none for a prior.

    Raises:
        ModelError: it changes more than priors and constants.
    """
    if isinstance(messenger, ConditionMessenger):
        return {key: value.item() if value.numel() == 1 else value for key, value in messenger.data.items()}
    if changes_priors_alone(messenger):
        return {}
    kind = type(messenger).__name__.removeprefix("_")
    raise ModelError(f"a model inside the handler {kind} has another likelihood. Give the model itself.")


def _check_names(name: str, names: list[str], settings: Mapping[str, Any]) -> None:
    unknown = sorted(set(settings) - set(names))
    if unknown:
        raise ModelError(
            f"the loss of `{name}` has no constant {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, names)) or 'none'}.{did_you_mean(unknown, names)}"
        )


def _check_numbers(settings: Mapping[str, Any]) -> None:
    """Refuse constants that are to be fixed and are no numbers."""
    for key, value in settings.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise ModelError(
                f"`{key}` must be a number to be fixed, not {type(value).__name__}. Pass a tensor with each "
                "call."
            )


def _check_learnable(
    name: str, model: Model, parameters: Mapping[str, inspect.Parameter], learned: tuple[str, ...]
) -> None:
    """Refuse names of anything but a positive constant of the model."""
    positive = _positive_constants(model, parameters)
    for key in learned:
        if key not in positive:
            raise ModelError(
                f"`{name}` has no positive constant {key!r} to learn; it has "
                f"{', '.join(map(repr, positive)) or 'none'}."
            )


def _positive_constants(model: Model, parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    """The positive parameters of a model that its loss takes as a number or a tensor."""
    own = {inspect.unwrap(layer) for layer in layers(model) if inspect.isfunction(layer)}
    taken = set().union(*(inspect.signature(function).parameters for function in own))
    by_row = {key: torch.ones(2) for key in ("exposure", "trials") if key in taken}
    taken_by_loss = {key for key, each in parameters.items() if each.annotation == "Tensor | float"}
    return [key for key in positive_names(model, **by_row) if key in taken_by_loss]


def _start(name: str, value: Any) -> float:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < float(value) < math.inf:
        raise ModelError(
            f"`{name}` must start at a positive, finite number to be learned; it is {written(value)}."
        )
    return float(value)
