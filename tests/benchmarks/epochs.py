"""An epoch of minibatches of 256 rows: neglog's `Adam` beside a hand-written loop, data loading included.

`python tests/benchmarks/epochs.py [rows]` takes epochs of the two in turn, in one thread and float32, on the
two-headed network, and prints the median processor time of each and their ratio. The loop reads a shuffled
`DataLoader` of a `TensorDataset`; `by index` is a loop that indexes the tensors by a permutation instead.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from neglog import mle, models, on_features
from neglog.errors import ConvergenceWarning
from neglog.solvers import Adam, StopFit

BATCH, RATE, EPOCHS = 256, 1e-3, 3


def data(rows: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = 10 * torch.rand(rows, 1, generator=generator)
    noise = (0.5 + 0.3 * x[:, 0]) * torch.randn(rows, generator=generator)
    return TensorDataset((x - 5) / 3, torch.sin(x[:, 0]) + noise)


def trunk() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())


def neglog(rows: TensorDataset) -> Iterator[float]:
    """The processor time of each epoch."""
    times: list[float] = []

    def note(_: object) -> None:
        times.append(time.process_time())
        if len(times) > EPOCHS:
            raise StopFit

    solver = Adam(
        epochs=EPOCHS + 1, batch_size=BATCH, learning_rate=RATE, dtype=torch.float32, callbacks=(note,)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mle(on_features(models.heteroscedastic, trunk()), rows, solver=solver)
    return (after - before for before, after in pairwise(times))


def by_loader(rows: TensorDataset) -> Iterator[list[Tensor]]:
    return iter(DataLoader(rows, batch_size=BATCH, shuffle=True))


def by_index(rows: TensorDataset) -> Iterator[list[Tensor]]:
    for index in torch.randperm(len(rows)).split(BATCH):
        yield [each[index] for each in rows.tensors]


def loop(rows: TensorDataset, batches: Callable[[TensorDataset], Iterator[list[Tensor]]]) -> Iterator[float]:
    """The processor time of each epoch of a loop in PyTorch."""
    net = nn.Sequential(trunk(), nn.Linear(64, 2))
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE)
    loss_of = nn.GaussianNLLLoss(full=True)
    for _ in range(EPOCHS):
        begun = time.process_time()
        for x, y in batches(rows):
            optimiser.zero_grad()
            mean, log_variance = net(x).unbind(1)
            loss_of(mean, y, log_variance.exp()).backward()
            optimiser.step()
        yield time.process_time() - begun


def main(rows: int = 1_000_000, repeats: int = 3) -> None:
    torch.set_num_threads(1)
    table = data(rows)
    runs: dict[str, Callable[[], Iterator[float]]] = {
        "neglog": lambda: neglog(table),
        "loader": lambda: loop(table, by_loader),
        "by index": lambda: loop(table, by_index),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name] += run()
    medians = {name: statistics.median(each) for name, each in times.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.2f} s an epoch, {medians['neglog'] / median:.2f} of its time for neglog")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
