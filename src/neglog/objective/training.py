"""Networks in training mode: the loss of a batch for gradient steps, and the buffers that they update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from neglog.handlers import Model
from neglog.likelihood.replay import Replay
from neglog.modes import Constants, InMode, is_same
from neglog.objective.coordinates import Coordinates
from neglog.objective.lowered import Lowered
from neglog.objective.objective import Objective
from neglog.objective.placed import on_device
from neglog.tracing import Run, run, seeded

MAX_PROBED_ROWS = 10_000
"""Above this many rows a sample determines whether a network depends on its mode."""
REASON = "the network is in training mode, and a graph holds neither random numbers nor updates of buffers"
KNOWN = "training_mode"


def depends_on_mode(coordinates: Coordinates) -> bool:
    """Whether a network with weights to fit computes, draws or updates anything else in training mode."""
    known = coordinates.read
    if KNOWN not in known:
        known[KNOWN] = any(s.started for s in coordinates.objective.sites.values()) and _differs(coordinates)
    return bool(known[KNOWN])


@torch.no_grad()
def _differs(coordinates: Coordinates) -> bool:
    objective = coordinates.objective
    few = objective.few if objective.rows > MAX_PROBED_ROWS else objective
    values = few.layout.params(few.initial)
    still = run(few.model, few.data, Run(values)).networks
    constants = {name: dict(at.constants) for name, at in still.items()}
    with seeded():
        before = torch.random.get_rng_state()
        try:
            trained = run(InMode(True, constants)(few.model), few.data, Run(values)).networks
        except ValueError:  # such as BatchNorm on a single row
            return True
        if not torch.equal(torch.random.get_rng_state(), before):
            return True
    return not all(
        is_same(trained[name].value, at.value) and is_same(constants[name], at.constants)
        for name, at in still.items()
    )


def constants_of(objective: Objective) -> dict[str, Constants]:
    """The buffers and the frozen parameters of each network, by its name."""
    if not objective.networks:
        return {}
    few = objective.few
    with torch.no_grad():
        seen = run(few.model, few.data, Run(few.layout.params(few.initial))).networks
    return {name: dict(at.constants) for name, at in seen.items()}


def buffers(objective: Objective) -> dict[str, Tensor]:
    """Copies of these under names like those of sites, as in ``trunk.1.running_mean``."""
    found = constants_of(objective).items()
    return {f"{name}.{key}": value.clone() for name, own in found for key, value in own.items()}


class InTrainingMode(Lowered):
    """Coordinates of a network whose gradient steps are taken in training mode, within `training`.

    Each step runs the model itself, with fresh random numbers, and updates the buffers in `constants`. The
    loss, its gradient and its Hessian are those of all rows in evaluation mode, with the buffers so far.
    """

    trained = True

    def __init__(self, coordinates: Coordinates) -> None:
        self._constants = constants_of(coordinates.objective)
        learned = coordinates.objective.changed(InMode(False, self.constants))
        super().__init__(learned, coordinates.blocks, coordinates.is_linear)
        self.steps = InMode(False, self.constants)
        self._stepped: Model = self.steps(learned.model)

    @property
    def constants(self) -> dict[str, Constants]:
        """The buffers and the frozen parameters of each network, by its name."""
        return self._constants

    @property
    def model(self) -> Model:
        """The model, in training mode within `training`."""
        return self._stepped

    @contextmanager
    def training(self, seed: int) -> Iterator[None]:
        """InTrainingMode mode, with random numbers of their own: those after ``torch.manual_seed(seed)``."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.steps.training = True
            try:
                yield
            finally:
                self.steps.training = False

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        """The loss in evaluation mode and its gradient `(K,)` in z."""
        return Coordinates.value_and_gradient(self, z)

    def _evaluation(self, z: Tensor, size: int | None, compile: bool) -> Callable[..., tuple[Tensor, Tensor]]:
        self.replays.append(Replay(self._function, (), REASON))
        if size is None:
            rows = list(self._rows.values())
            return lambda z: self._function(z, *rows)
        take = self._taking(range(len(self._rows)))

        def evaluate(z: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
            with on_device(self.device):
                return self._function(z, *take(batch))

        return evaluate
