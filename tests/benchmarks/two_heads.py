"""The worst error of the spread that a network with two heads learns on 20 data sets, and the time of a fit.

    python tests/benchmarks/two_heads.py

Rows: 500 with x uniform on [0, 10], mean 2 sin x and standard deviation 0.5 + 0.3 x. The network has two
layers of 64 units; x and y are standardised. It is fitted by MAP, with the default priors of the weights and
60 steps of L-BFGS. The error is relative, and the worst of those at x from 1 to 9.
"""

from __future__ import annotations

import statistics
import time
import warnings

import torch
from torch import Tensor, nn

from neglog import map_estimate, models, on_features, predict
from neglog.solvers import LBFGS

DATA_SETS, ROWS, STEPS = 20, 500, 60
WANTED_MEDIAN, WANTED_WORST, WANTED_SECONDS = 0.15, 0.30, 2.0


def spread(x: Tensor) -> Tensor:
    """The standard deviation of y."""
    return 0.5 + 0.3 * x


def fitted(seed: int) -> tuple[float, float]:
    """The worst error of the spread, and the seconds of processor time."""
    generator = torch.Generator().manual_seed(seed)
    x = 10 * torch.rand(ROWS, dtype=torch.float64, generator=generator)
    y = 2 * x.sin() + spread(x) * torch.randn(ROWS, dtype=torch.float64, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
    model = on_features(models.heteroscedastic, trunk)
    centre, unit = x.mean(), x.std()
    start = time.process_time()
    fit = map_estimate(
        model, ((x - centre) / unit)[:, None], (y - y.mean()) / y.std(), solver=LBFGS(max_steps=STEPS)
    )
    seconds = time.process_time() - start
    grid = torch.linspace(1, 9, 81, dtype=torch.float64)
    found = y.std() * predict(fit, ((grid - centre) / unit)[:, None]).stddev
    return float((found / spread(grid) - 1).abs().max()), seconds


def main() -> None:
    """Print the numbers, and whether they are as wanted."""
    results = [fitted(seed) for seed in range(DATA_SETS)]
    errors, seconds = zip(*results, strict=True)
    median, worst, longest = statistics.median(errors), max(errors), max(seconds)
    print(f"worst error of the spread: median {median:.3f}, worst {worst:.3f}; at most {longest:.2f} s a fit")
    assert median <= WANTED_MEDIAN
    assert worst < WANTED_WORST
    assert longest < WANTED_SECONDS


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
