"""One data set and many: `mle` beside `mle_batch`, and the first fit of a model beside the next ones.

``python together.py`` prints medians of interleaved runs, in milliseconds, on one thread:

- Newton's method: one data set of 1,000 Poisson rows by `mle` and by `mle_batch`;
- medians: 1,000 data sets of 50 rows by a loop over `mle` and by `mle_batch`;
- the first fit of a model in a process, which traces it and simplifies its graph, and a later one.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch

from neglog import mle, mle_batch, models

REPEATS = 15
FIRST_FITS = ("poisson", "gamma", "beta", "student_t")


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def interleaved(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    for run in runs.values():
        run()
    times = [{name: milliseconds(run) for name, run in runs.items()} for _ in range(repeats)]
    return {name: median(one[name] for one in times) for name in runs}


def newton() -> dict[str, float]:
    torch.manual_seed(0)
    x = torch.randn(1000, 5, dtype=torch.float64)
    y = torch.poisson(torch.exp(0.5 + 0.2 * x.sum(1)))
    return interleaved(
        {
            "mle": lambda: mle(models.poisson, x, y),
            "mle_batch": lambda: mle_batch(models.poisson, x, y[None]),
        },
        REPEATS,
    )


def medians(data_sets: int = 1000, repeats: int = 3) -> dict[str, float]:
    torch.manual_seed(0)
    x = torch.randn(50, 3, dtype=torch.float64)
    y = x.sum(1) + torch.randn(data_sets, 50, dtype=torch.float64)
    return interleaved(
        {
            "loop over mle": lambda: [mle(models.laplace, x, one) for one in y],
            "mle_batch": lambda: mle_batch(models.laplace, x, y),
        },
        repeats,
    )


def first_fit(name: str) -> tuple[float, float]:
    """The first and the median later fit of a model in this process; Newton itself is warm."""
    torch.manual_seed(0)
    x = torch.randn(1000, 3, dtype=torch.float64)
    mle(models.bernoulli, x, (x.sum(1) + torch.randn(1000) > 0).double())
    y = torch.rand(1000, dtype=torch.float64) * 0.98 + 0.01
    y = y.mul(4).floor() if name == "poisson" else y
    times = [milliseconds(lambda: mle(getattr(models, name), x, y)) for _ in range(6)]
    return times[0], median(times[1:])


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        print(*first_fit(sys.argv[1]))
        return
    print("Newton, 1 data set of 1,000 rows:", {k: round(v, 1) for k, v in newton().items()})
    print("medians, 1,000 data sets of 50 rows:", {k: round(v) for k, v in medians().items()})
    for name in FIRST_FITS:
        found = [
            subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
            for _ in range(5)
        ]
        first, later = (median(float(run.stdout.split()[i]) for run in found) for i in (0, 1))
        print(f"first fit of {name}: {first:.0f}, later ones {later:.1f}")


if __name__ == "__main__":
    main()
