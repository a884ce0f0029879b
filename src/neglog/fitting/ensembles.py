"""Deep ensembles: networks of one model from initial weights of their own, trained in one graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from neglog.arguments import choice, flag, seed_of, whole
from neglog.calls import public
from neglog.checkpoint import UNKEPT
from neglog.errors import ModelError
from neglog.fitting.choice import problem_of
from neglog.fitting.fit import Fit
from neglog.fitting.held_out import Validated, reading
from neglog.fitting.pipeline import Posed, check_converged, finished, posed, solved
from neglog.fitting.surrogates import parts_of, trained_on_by
from neglog.handlers import Model, flattened
from neglog.inputs.blueprint import Blueprint
from neglog.inputs.given import given
from neglog.isolation import isolated
from neglog.layers import layers
from neglog.modes import WithMasks
from neglog.objective.training import depends_on_mode
from neglog.solvers import Adam, Solution
from neglog.solvers.gradient import GradientTraining
from neglog.solvers.stochastic import certified
from neglog.solvers.watched import Watched
from neglog.training_objectives import inside

if TYPE_CHECKING:
    import pandas as pd


@public
@dataclass(frozen=True, eq=False)
class Ensemble:
    """Fits of one network from different initial weights, whose prediction is the average of theirs.

    `neglog.predict` gives this mixture, whose `aleatoric` and `epistemic` parts of the variance are the mean
    of the members' variances and the variance of their means.

    Attributes:
        members: the fits, of which the first of `ensemble` began at the weights of the module.
        masks: seeds of the masks of Dropout under which the one member predicts; none without (`mc_dropout`).
    """

    members: tuple[Fit, ...] = field(repr=False)
    masks: tuple[int, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.masks or self.members)

    def __iter__(self) -> Iterator[Fit]:
        if not self.masks:
            return iter(self.members)
        fit = self.members[0]
        return (replace(fit, model=Masked(fit.model, seed)) for seed in self.masks)

    @property
    def model(self) -> Model:
        """The model of the first member."""
        return self.members[0].model

    @property
    def keywords(self) -> tuple[str, ...]:
        """The names of the row-wise arguments of the fits."""
        return self.members[0].keywords

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the columns of the designs, by key of `x`."""
        return self.members[0].columns

    @property
    def blueprint(self) -> Blueprint | None:
        """What was learned of the table of a formula."""
        return self.members[0].blueprint

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels of the classes of the response."""
        return self.members[0].classes

    @property
    def history(self) -> pd.DataFrame:
        """The history of each member, with its number in the column ``member``."""
        import pandas as pd

        each = [fit.history.assign(member=number) for number, fit in enumerate(self.members)]
        return pd.concat(each, ignore_index=True)


@dataclass(frozen=True, eq=False)
class Masked:
    """A model whose network draws the masks of its layers of Dropout, the same ones for the same seed."""

    model: Model
    seed: int

    def __call__(self, x: Any, y: Any = None, **keywords: Any) -> Any:
        with torch.random.fork_rng(devices=[]), WithMasks():
            torch.default_generator.manual_seed(self.seed)
            return self.model(x, y, **keywords)


@isolated
def ensemble(
    model: Model | str,
    x: Any,
    y: Any = None,
    *,
    members: int = 5,
    method: Literal["mle", "map"] = "mle",
    data: Any = None,
    weights: Any = None,
    groups: Any = None,
    drop_missing: bool = False,
    solver: Any = None,
    seed: int = 0,
    progress: bool = False,
    **keywords: Any,
) -> Ensemble:
    """A deep ensemble: several fits of one network from random initial weights.

    The first member begins at the weights of the module, the others at new ones of its layers'
    ``reset_parameters``. All are trained together in one graph, with the same minibatches; each member is
    then the fit that it would be alone. Networks that depend on their mode, as with Dropout, are trained one
    after the other. With `validation`, all members are those of the epoch at which the mean of their held-out
    losses was smallest.

    Args:
        model: a network of `on_features`, perhaps in `beta_nll`, `faithful` or `warm_up`.
        x, y, data, weights, groups, drop_missing, progress, keywords: as for `mle`.
        members: the number of fits.
        method: ``"mle"`` or ``"map"``, with the priors of the model.
        solver: `Adam` (the default), `AdamW`, `SGD` or `Optimiser`.
        seed: of the initial weights.

    Raises:
        ModelError: the model has no network; a module with parameters has no `reset_parameters`; another
            solver.
        DataError: as `mle`.

    Warns:
        ConvergenceWarning: as `mle`, once for all members.

    Source: Lakshminarayanan, Pritzel & Blundell (2017), Simple and scalable predictive uncertainty estimation
    using deep ensembles. Their members see the rows in orders of their own.

    >>> import torch
    >>> from neglog import models, on_features, predict, solvers
    >>> x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    >>> net = on_features(models.gaussian, torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh()))
    >>> training = solvers.Adam(epochs=200, validation=0.2)
    >>> found = ensemble(net, x, torch.sin(3 * x[:, 0]) + 0.1 * torch.cos(50 * x[:, 0]), solver=training)
    >>> response = predict(found, x)
    >>> torch.allclose(response.variance, response.aleatoric + response.epistemic)
    True
    """
    members, seed = whole("members", members), seed_of(seed)
    choice("method", method, ("mle", "map"))
    inputs = given(
        ensemble,
        model,
        x,
        y,
        data=data,
        weights=weights,
        groups=groups,
        drop_missing=drop_missing,
        keywords=keywords,
    )
    solver = reading(Adam() if solver is None else solver, inputs.blueprint)
    model = inside(inputs.model, flattened) if method == "mle" else inputs.model
    rows = (inputs.x, inputs.y, inputs.weights)
    problem = posed(ensemble, model, *rows, solver, None, inputs.keywords)
    if not isinstance(getattr(problem.solver, "solver", problem.solver), GradientTraining):
        raise ModelError(
            f"`ensemble` trains by gradient steps, and `solver` is `{type(solver).__name__}`; give "
            "neglog.solvers.Adam(...), AdamW, SGD or Optimiser."
        )
    starts = [problem.theta, *(_start(problem, seed, number) for number in range(1, members))]
    train = _one_by_one if depends_on_mode(problem.coordinates) else _together
    return Ensemble(tuple(inputs.kept(fit) for fit in train(problem, starts, flag("progress", progress))))


def _start(problem: Posed, seed: int, member: int) -> Tensor:
    """The initial point `(K,)` with the weights of the network that a member begins at."""
    objective, theta = problem.coordinates.objective, problem.theta.clone()
    network = network_layer(objective.model)
    for key, value in drawn(network.module, seed, member).items():
        if key in network.trainable:
            site = objective.sites[f"{network.name}.{key}"]
            theta[site.place] = site.transform.inv(value.detach().to(theta)).reshape(-1)
    return theta


def network_layer(model: Model, caller: str = "ensemble") -> Any:
    """The layer of a model that has its network.

    Raises:
        ModelError: it has none.
    """
    found = next((layer for layer in layers(model) if hasattr(layer, "trainable")), None)
    if found is None:
        raise ModelError(
            f"`{caller}` is for networks: on_features(model, module). Other models have one optimum, "
            "whatever their initial values; see `bootstrap` for its uncertainty."
        )
    return found


def drawn(module: nn.Module, seed: int, member: int) -> dict[str, Tensor]:
    """The parameters of a copy of a module whose layers have drawn new ones.

    Their seed is none that a module is likely to have been built with.

    Raises:
        ModelError: a part has parameters and no `reset_parameters`.
    """
    module = deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence((seed, member)).generate_state(1)[0]))
        for name, part in module.named_modules():
            reset = getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
            if reset is not None:
                reset()
            elif next(part.parameters(recurse=False), None) is not None:
                raise ModelError(
                    f"`{name or 'module'}` ({type(part).__name__}) has parameters and no method "
                    "`reset_parameters`, which draws initial values of them. Define it."
                )
    return dict(module.named_parameters())


class Together(Watched):
    """One problem at many points `(S, K)`: its loss is the mean of theirs, and each has its own gradient."""

    size = 2**62
    """No curvature of all points together is formed."""

    def evaluation(
        self, z: Tensor, size: int | None = None, *, compile: bool = False
    ) -> Callable[..., tuple[Tensor, Tensor]]:
        """The mean loss and the gradients `(S, K)` near points `(S, K)`; see `ReplayedProblem`."""
        evaluate = self.problem.evaluation(z, size, compile=compile)

        def mean(z: Tensor, *index: Tensor) -> tuple[Tensor, Tensor]:
            values, gradients = evaluate(z, *index)
            return values.mean(), gradients

        return mean

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """The mean loss, and the gradients `(S, K)`."""
        value, gradient = self.evaluation(z)(z)
        return float(value), gradient

    def held_out_loss(self, z: Tensor) -> float:
        """The mean of the held-out losses, in nats a row."""
        return sum(self.problem.held_out_loss(each) for each in z) / len(z)


def _together(problem: Posed, starts: list[Tensor], progress: bool) -> list[Fit]:
    """The fits from initial points, trained in one graph."""
    solver, trained_on = problem.solver, trained_on_by(problem.solver)
    coordinates, own = problem_of(problem.coordinates, getattr(solver, "solver", solver))
    own = own if coordinates.objective.data.held_out is None else Validated(own)
    start = torch.stack([coordinates.z(theta) for theta in starts])
    solutions = _solutions(parts_of(solver, own), start, progress)
    fits = [finished(coordinates, solution, problem.offset) for solution in solutions]
    uncertified = [not fit.converged for fit in fits]
    first = uncertified.index(True) if any(uncertified) else 0
    check_converged(fits[first], solutions[first], trained_on)
    return [replace(fit, trained_on=trained_on) for fit in fits]


def _solutions(parts: list[tuple[Any, Any]], z: Tensor, progress: bool) -> list[Solution]:
    """The solution of each point `(S, K)`, of trainings one after the other."""
    losses: tuple[float, ...] = ()
    for settings, problem in parts:
        found: Solution = settings.minimise(Together(problem), z, progress, checkpoint=UNKEPT)
        z, losses = found.z, losses + found.losses
    joint: dict[str, Any] = {"epochs": found.epochs, "held_out": found.held_out}
    if found.held_out is not None:
        joint |= {"status": found.status, "validated": found.validated, "converged": False}
    return [replace(certified(problem, each, losses, settings.certainty), **joint) for each in z]


def _one_by_one(problem: Posed, starts: list[Tensor], progress: bool) -> list[Fit]:
    """The fits from initial points, each trained alone."""
    return [solved(problem.coordinates, theta, problem.solver, progress, problem.offset) for theta in starts]
