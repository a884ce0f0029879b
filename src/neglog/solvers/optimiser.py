"""Optimisers of torch as solvers: the steps of any class of `torch.optim` on the loss of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from neglog.arguments import shown
from neglog.calls import check_settings, public
from neglog.errors import DataError
from neglog.solvers.gradient import GradientTraining, Rule


class TorchRule:
    """The rule of an optimiser of torch, on the mean loss of a row."""

    def __init__(self, z: Tensor, rows: int, optimiser: Optimizer) -> None:
        self.z, self.rows, self.optimiser = z, rows, optimiser

    def move(self, gradient: Tensor, rate: float | None) -> None:
        """One step."""
        self.z.grad = gradient / self.rows
        self.optimiser.step()

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return {"optimiser": self.optimiser.state_dict()}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.optimiser.load_state_dict(state["optimiser"])


@dataclass(frozen=True, kw_only=True)
class OfTorch(GradientTraining):
    """The settings of a training by an optimiser of torch, by name; see `Adam`."""

    steps: int | None = None
    batch_size: int | None = None
    seed: int = 0
    patience: int | None = None
    tolerance: float = 1e-6
    compile: bool = False
    rescale: bool = True
    certainty: float = 1e-2
    dtype: torch.dtype | None = None


@public
@dataclass(frozen=True, init=False)
class Optimiser(OfTorch):
    """The steps of any class of `torch.optim`, on the mean loss of a row, as in a loop in PyTorch.

    ``Optimiser(torch.optim.RAdam, lr=0.01, epochs=50)`` passes `lr` to the class. The settings of a training
    are those of `Adam`, but for `learning_rate` and `decay`: the optimiser has a rate of its own, and
    `scheduler` changes it. All parameters are one vector, in which the coefficients of linear predictors are
    in units of the noise unless `rescale` is False, as for weight decay in a model's own units.

    Args:
        optimiser: a class of `torch.optim`.
        **settings: settings of the training, as for `Adam`, and arguments of the class.

    Raises:
        DataError: `optimiser` is no such class, or refuses the values; settings that make no sense.
        ModelError: an argument that neither the training nor the class has.
    """

    optimiser: type[Optimizer] = torch.optim.Adam
    options: Mapping[str, Any] = field(default_factory=dict)

    def __init__(self, optimiser: type[Optimizer], **settings: Any) -> None:
        if not (isinstance(optimiser, type) and issubclass(optimiser, Optimizer)):
            raise DataError(
                "`optimiser` must be a class of torch.optim, such as torch.optim.RAdam; it is "
                f"{shown(optimiser)}."
            )
        if issubclass(optimiser, torch.optim.LBFGS):
            raise DataError(
                "torch.optim.LBFGS evaluates the loss inside its steps; use neglog.solvers.LBFGS()."
            )
        own = {each.name: each.default for each in fields(OfTorch)}
        options = {name: value for name, value in settings.items() if name not in own}
        check_settings(type(self), options, OfTorch, optimiser)
        values = own | {name: value for name, value in settings.items() if name in own}
        for name, value in {**values, "optimiser": optimiser, "options": MappingProxyType(options)}.items():
            object.__setattr__(self, name, value)
        self.__post_init__()
        self.rule(torch.zeros(1), 1)

    def rule(self, z: Tensor, rows: int) -> Rule:
        """The rule of the steps, which moves `z` `(K,)`."""
        try:
            return TorchRule(z, rows, self.optimiser([z], **self.options))
        except (TypeError, ValueError) as error:
            name = self.optimiser.__name__
            raise DataError(f"torch.optim.{name} does not take these settings: {error}") from None


@public
@dataclass(frozen=True, kw_only=True)
class AdamW(OfTorch):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), by `torch.optim.AdamW`.

    Args:
        learning_rate: of each step, unless there is a `scheduler`.
        weight_decay: the share by which a step of rate 1 shrinks each parameter.
        **settings: those of `Adam`.

    Raises:
        DataError: settings that make no sense.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def rule(self, z: Tensor, rows: int) -> Rule:
        """The rule of the steps, which moves `z` `(K,)`."""
        decay = self.weight_decay
        return TorchRule(z, rows, torch.optim.AdamW([z], lr=self.learning_rate, weight_decay=decay))


@public
@dataclass(frozen=True, kw_only=True)
class SGD(OfTorch):
    """Stochastic gradient descent, by `torch.optim.SGD`, on the mean loss of a row.

    Args:
        learning_rate: of each step, unless there is a `scheduler`.
        momentum: the share of the step before that is taken again.
        nesterov: whether the gradient is that after this share of the step (Nesterov).
        weight_decay: of the penalty ½ · weight_decay · z².
        **settings: those of `Adam`.

    Raises:
        DataError: settings that make no sense.
    """

    learning_rate: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def rule(self, z: Tensor, rows: int) -> Rule:
        """The rule of the steps, which moves `z` `(K,)`."""
        optimiser = torch.optim.SGD(
            [z],
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )
        return TorchRule(z, rows, optimiser)
