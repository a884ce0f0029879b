"""How the time of a warm `mle` grows with rows and with columns: docs/images/benchmarks_growth.png."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from works import WORK, data

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "benchmarks_growth.png"
WORKS = ("gaussian", "poisson", "negative_binomial", "laplace")
ROWS = (1000, 10_000, 100_000, 1_000_000, 3_000_000)
COLUMNS = (5, 10, 20, 40, 80, 160)
UNITS = ((1_000_000, "M"), (1000, "k"))
Record = dict[str, object]


def seconds(fit: Callable, x: np.ndarray, y: np.ndarray, repeats: int) -> float:
    """The median time of a fit that is not the first of its kind."""
    fit(x, y)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        fit(x, y)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def measure(rows: tuple[int, ...], columns: tuple[int, ...], repeats: int, at: int = 100_000) -> Record:
    """Model -> seconds, against the rows at 20 columns and against the columns at `at` rows."""
    by_rows: dict[str, list[float]] = {}
    by_columns: dict[str, list[float]] = {}
    for work in (work for work in WORK if work.name in WORKS):
        time_of = partial(seconds, work.ours, repeats=repeats)
        by_rows[work.name] = [time_of(*data(work, n, seed=0)) for n in rows]
        by_columns[work.name] = [time_of(*data(work, at, seed=0, columns=p)) for p in columns]
    found = {"rows": list(rows), "columns": list(columns), "at": at}
    return found | {"by rows": by_rows, "by columns": by_columns}


def short(number: int) -> str:
    """3M for 3 000 000."""
    return next((f"{number // unit}{name}" for unit, name in UNITS if number % unit == 0), str(number))


def draw(found: Record, path: Path = PICTURE) -> None:
    """Two log-log panels, each with lines of the slopes that the arithmetic has."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharey=True)
    for panel, axis, slopes in zip(panels, ("rows", "columns"), ((1,), (1, 2)), strict=True):
        at = np.array(found[axis], dtype=float)
        lines: dict[str, list[float]] = found[f"by {axis}"]
        for name, times in lines.items():
            panel.loglog(at, times, "o-", markersize=4, label=name)
        high = 2.5 * max(max(times) for times in lines.values())
        for slope in slopes:
            guide = high * (at / at[-1]) ** slope
            panel.loglog(at, guide, ":", color="grey", linewidth=1)
            panel.annotate(f"∝ {axis}{'²' if slope == 2 else ''} ", (at[-3], guide[-3]), ha="right")
        fixed = "20 columns" if axis == "rows" else f"{found['at']:,} rows"
        panel.set(xlabel=f"{axis} ({fixed})")
        panel.set_xticks(at, [short(int(value)) for value in at], minor=False)
        panel.minorticks_off()
    panels[0].set_ylabel("seconds of a warm mle")
    panels[0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
