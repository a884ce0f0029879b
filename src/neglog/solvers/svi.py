"""`pyro.infer.SVI` itself, with `AutoDelta`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from neglog.arguments import shown
from neglog.calls import public
from neglog.checkpoint import UNKEPT
from neglog.errors import DataError, ModelError, reason_of
from neglog.guides import Delta
from neglog.solvers.solution import Solution
from neglog.solvers.stochastic import MaybeKinked
from neglog.solvers.training import Run, Training


class Literal(Protocol):
    """A Pyro model whose loss is a problem's."""

    @property
    def model(self) -> Callable[..., Any]:
        """The model, with the scale of the log-likelihood of its rows as a further first argument."""
        ...

    def values(self, z: Tensor) -> dict[str, Tensor]:
        """Site name -> value at `z` `(K,)`."""
        ...

    def z(self, values: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `values`."""
        ...

    def arguments(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `model` for a batch (None: all rows)."""
        ...


class LiteralProblem(MaybeKinked, Protocol):
    """A problem that can also be run as the Pyro model that it came from."""

    @property
    def literal(self) -> Literal:
        """The Pyro model that the problem came from."""
        ...


@public
@dataclass(frozen=True)
class SVI(Training):
    """Stochastic variational inference with a Delta guide: gradient steps on `Trace_ELBO`.

    Args:
        optim: a `pyro.optim` optimiser or scheduler (schedulers advance once a step; so does an optimiser's
            own decay), or None for Adam whose learning rate falls from 0.05 to 5e-6 over all steps.
            It is copied, so that one instance serves many fits.
        steps: gradient steps; 2000 where `epochs` is None too.
        batch_size: rows a step, or None for all of them. The likelihood of a minibatch is scaled up to the
            whole and the prior is not, so its gradient is an unbiased estimate. Rows are shuffled each epoch.
        seed: of the shuffle, and of the random numbers of a network in training mode.
        patience: stop early when the mean loss of the last `patience` steps is no better, by more than
            `tolerance` nats a row, than that of the `patience` steps before; None never stops early. With
            `validation`, as for `Adam`.
        tolerance: see `patience`.
        rescale: whether linear coefficients are optimised in units of the noise on an orthonormal design, so
            that columns and responses of any size fit alike; False for the model's own coordinates.
        dtype: in which the data are taken.
        epochs, validation, callbacks: as for `Adam`.

    The fit has converged if by the final gradient and Hessian of the whole data an optimum is less than
    `certainty` standard errors away. This is not claimed for a loss with corners, for more than 200
    parameters, or for a network that depends on its mode, which is trained in training mode.
    """

    optim: Any = None
    steps: int | None = None
    batch_size: int | None = None
    seed: int = 0
    patience: int | None = None
    tolerance: float = 1e-6
    rescale: bool = True
    certainty: float = 1e-2
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optim is not None and not isinstance(self.optim, pyro.optim.PyroOptim):
            raise DataError(
                f"`optim` must be a pyro.optim optimiser or scheduler; it is {shown(self.optim)}."
            )

    @torch.enable_grad()
    def minimise(
        self, problem: LiteralProblem, start: Tensor, progress: bool = False, checkpoint: Any = UNKEPT
    ) -> Solution:
        """Run the steps from `start` `(K,)`, or from the state of a checkpoint on."""
        optim = self._optimiser(self.total(problem))
        first = next(problem.batches(self.batch_size, 1, self.seed))
        with pyro.get_param_store().scope():
            return Run(self, problem, LiteralSteps(problem, start, optim, first), checkpoint).solution(
                progress
            )

    def _optimiser(self, steps: int) -> Any:
        if self.optim is not None:
            return copy.deepcopy(self.optim)
        gamma = 1e-4 ** (1 / max(1, steps))
        adam = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": gamma}
        return pyro.optim.ExponentialLR(adam)


class LiteralSteps:
    """The steps of `pyro.infer.SVI`; see `neglog.solvers.training.Steps`."""

    def __init__(self, problem: LiteralProblem, start: Tensor, optim: Any, first: Tensor | None) -> None:
        self.literal, self.optim = problem.literal, optim
        self.learning_rate, self.fault = math.nan, None
        values = {name: value.clone() for name, value in self.literal.values(start).items()}
        self.guide = Delta(self.literal.model, init_loc_fn=init_to_value(values=values))
        self.svi = pyro.infer.SVI(self.literal.model, self.guide, optim, Trace_ELBO())
        arguments, keywords = self.literal.arguments(first)
        self.guide(*arguments, **keywords)  # which runs the model once, before training begins

    @property
    def z(self) -> Tensor:
        """The point `(K,)` that the steps have reached."""
        return self.literal.z({name: value.clone() for name, value in self.guide.median().items()})

    def step(self, batch: Any) -> float:
        """Take the step of a batch, or of all rows; the loss before it."""
        arguments, keywords = self.literal.arguments(batch)
        loss = _loss_of_step(self.svi, self.guide, arguments, keywords)
        optimiser = next(iter(self.optim.optim_objs.values()))
        self.learning_rate = float(getattr(optimiser, "optimizer", optimiser).param_groups[0]["lr"])
        if hasattr(self.optim, "pt_scheduler_constructor"):
            _advance(self.optim, loss)
        return loss

    def end_epoch(self, loss: float) -> None:
        """Nothing: schedulers of `pyro.optim` advance once a step."""

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return _state(self.guide, self.optim)

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        _resume(state, self.guide, self.optim)


def _state(guide: Any, optim: Any) -> dict[str, Any]:
    """The parameters of the guide and the state of their optimisers, for a checkpoint."""
    parameters = dict(guide.named_parameters())
    return {
        "parameters": {name: value.detach() for name, value in parameters.items()},
        "optimisers": {name: _parts(optim.optim_objs[value]) for name, value in parameters.items()},
    }


def _parts(optimiser: Any) -> list[dict[str, Any]]:
    """The state of an optimiser, or of a scheduler and its optimiser."""
    inner = getattr(optimiser, "optimizer", None)
    return [each.state_dict() for each in (optimiser, inner) if each is not None]


def _resume(state: Mapping[str, Any], guide: Any, optim: Any) -> None:
    """Take up the state of a checkpoint."""
    parameters = dict(guide.named_parameters())
    for value in parameters.values():
        value.grad = torch.zeros_like(value)
    optim(list(parameters.values()))  # a step that makes the optimisers, whose state is then replaced
    for name, value in parameters.items():
        with torch.no_grad():
            value.copy_(state["parameters"][name])
        optimiser = optim.optim_objs[value]
        parts = (optimiser, getattr(optimiser, "optimizer", None))
        for part, own in zip(parts, state["optimisers"][name], strict=False):
            part.load_state_dict(own)


def _loss_of_step(svi: Any, guide: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> float:
    """The loss before a gradient step; NaN where the step before led to parameters that are not finite."""
    try:
        return float(svi.step(*arguments, **keywords))
    except ValueError as error:  # of a prior that checks its values
        if "log_prob shape" in str(error):
            raise ModelError(
                f"SVI of Pyro refuses the model {reason_of(error)}: several values of a site need a plate, "
                "or an event. Add .to_event(1) to the distribution of a vector."
            ) from error
        if all(bool(torch.isfinite(value).all()) for value in guide.parameters()):
            raise
        return math.nan


def _advance(scheduler: Any, loss: float) -> None:
    if scheduler.pt_scheduler_constructor is torch.optim.lr_scheduler.ReduceLROnPlateau:
        scheduler.step(loss)
    else:
        scheduler.step()
