"""Problems whose rows are read a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from neglog.data import Data, check_response
from neglog.likelihood.replay import Replay
from neglog.objective.coordinates import Coordinates
from neglog.objective.lowered import Lowered
from neglog.objective.objective import Objective, of_rows
from neglog.objective.placed import data_on, on_device
from neglog.objective.shrinkage import prior_of
from neglog.objective.training import InTrainingMode
from neglog.predictors import RESPONSE
from neglog.streams.stream import Batch, Stream, in_blocks

MAX_GRAPHS = 3
"""Batches of more sizes than this are evaluated by the model itself."""
MANY_SIZES = "batches have many sizes, or more rows than those from which the fit starts"


class OfStream(Lowered):
    """Coordinates on a sample of the rows, whose gradient steps are taken on batches of a stream.

    The loss is that of all rows, in evaluation mode, and is read a batch at a time.
    """

    streamed = True
    stream: Stream

    def value(self, z: Tensor) -> float:
        """The loss in nats."""
        theta = self.theta(z)
        with torch.no_grad():
            return nll_of(self.objective, self.stream, theta)[0] + float(
                prior_of(self.objective.scant, theta)
            )

    def batches_an_epoch(self, size: int | None) -> int:
        """The number of batches of an epoch."""
        return self.stream.batches_an_epoch(size)

    def batches(self, size: int | None, steps: int, seed: int, done: int = 0) -> Iterator[Batch]:
        """The batch of each gradient step but the first `done`."""
        for batch in self.stream.batches(size, steps, seed, done):
            check_rows(self.objective, batch.data)
            yield batch

    def data_of(self, batch: Any) -> Data:
        """The data of a batch."""
        return self.objective.data if batch is None else batch.data

    def _taking(self, used: Iterable[int]) -> Callable[[Any], Iterable[Tensor]]:
        """From a batch to its parts."""
        keys = list(self._rows)
        wanted = [keys[i] for i in used]

        def take(batch: Batch) -> Iterable[Tensor]:
            parts = batch.data.parts()
            return (parts[key].to(self.device, non_blocking=True) for key in wanted)

        return take

    def _evaluation(self, z: Tensor, size: int | None, compile: bool) -> Callable[..., tuple[Tensor, Tensor]]:
        if self.device.type != "cpu" or (
            len(self._evaluations) < MAX_GRAPHS and (size or 0) <= self.objective.rows
        ):
            return super()._evaluation(z, size, compile)
        self.replays.append(Replay(self._function, (), MANY_SIZES))
        take = self._taking(range(len(self._rows)))
        return lambda z, batch: self._function(z, *take(batch))


class Streamed(OfStream):
    """A problem of a stream whose loss does not depend on training mode."""

    def __init__(self, coordinates: Coordinates) -> None:
        super().__init__(coordinates.objective, coordinates.blocks, False)
        self.stream = self.objective.data.stream
        self.rows = self.stream.rows


class StreamedInTrainingMode(InTrainingMode, OfStream):
    """A problem of a stream, of a network in training mode."""

    def __init__(self, coordinates: Coordinates) -> None:
        super().__init__(Coordinates(coordinates.objective, coordinates.blocks, False))
        self.stream = self.objective.data.stream
        self.rows = self.stream.rows


@torch.no_grad()
def nll_of(objective: Objective, rows: Data | Stream, theta: Tensor) -> tuple[float, float]:
    """Minus the log-likelihood of rows at `theta` `(K,)`, in nats, with their weights; their number."""
    nll = count = 0.0
    for data in in_blocks(rows):
        if data is not rows:
            check_rows(objective, data)
        with on_device(theta.device):
            found = of_rows(objective, data_on(data, theta.device)).at(theta).log_prob(RESPONSE)
        nll, count = nll - float(found.sum(dtype=torch.float64)), count + data.count
    return nll, count


def check_rows(objective: Objective, data: Data) -> None:
    """Refuse rows whose response a model cannot have.

    Raises:
        DataError: as `check_response`.
    """
    support = objective.structure.support
    base = getattr(support, "base_constraint", support)
    if any(
        isinstance(value, Tensor) and value.dim() for value in vars(base).values()
    ):  # it is one of each row
        support = of_rows(objective, data).response(objective.initial).support
    check_response(data, support, (data.rows, *objective.data.y.shape[1:]), objective.name)
