"""The time of an ensemble trained in one graph, over that of its members one by one; medians in turn.

    python tests/benchmarks/ensembles.py

Wall time, with the threads that torch has. The initial weights are new for each member in both.
"""

from __future__ import annotations

import statistics
import time
import warnings
from copy import deepcopy

import torch
from torch import Tensor, nn

from neglog import ensemble, mle, models, on_features
from neglog.fitting.ensembles import drawn
from neglog.solvers import Adam

ROUNDS, MEMBERS = 5, 5
SETTINGS = {
    "500 rows, minibatches of 100": Adam(epochs=100, batch_size=100, learning_rate=0.01),
    "500 rows at a time": Adam(steps=500, learning_rate=0.01),
}


def seconds_together(net: nn.Module, solver: Adam, x: Tensor, y: Tensor) -> float:
    """Seconds of an ensemble in one graph."""
    start = time.perf_counter()
    ensemble(on_features(models.heteroscedastic, net), x, y, members=MEMBERS, solver=solver)
    return time.perf_counter() - start


def seconds_alone(several: list[nn.Module], solver: Adam, x: Tensor, y: Tensor) -> float:
    """Seconds of its members one after the other."""
    start = time.perf_counter()
    for net in several:
        mle(on_features(models.heteroscedastic, net), x, y, solver=solver)
    return time.perf_counter() - start


def main() -> None:
    """Print a line for each setting."""
    torch.manual_seed(0)
    x = torch.rand(500, 1, dtype=torch.float64) * 10
    y = x[:, 0].sin() * 2 + (0.5 + 0.3 * x[:, 0]) * torch.randn(500, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
    several = [deepcopy(net) for _ in range(MEMBERS)]
    for member, other in enumerate(several[1:], 1):
        other.load_state_dict(drawn(net, 0, member))
    for name, solver in SETTINGS.items():
        pairs = [
            (seconds_together(net, solver, x, y), seconds_alone(several, solver, x, y)) for _ in range(ROUNDS)
        ]
        ratio = statistics.median(together / alone for together, alone in pairs)
        print(f"{name}: {statistics.median(pair[0] for pair in pairs):.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
