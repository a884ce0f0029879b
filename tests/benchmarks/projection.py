"""Variable projection beside L-BFGS on all weights: how low each has come after equal times.

`measure` runs both from the same starts, in one thread, and gives the losses after shares of a number of
seconds of processor time. What it takes to prepare, such as tracing, is part of the time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from neglog import datasets, flat, models, on_features
from neglog.data import prepare
from neglog.fitting.choice import problem_of
from neglog.fitting.start import starting_point
from neglog.objective.coordinates import rescaled
from neglog.objective.objective import Objective
from neglog.solvers import LBFGS, VariableProjection

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Of the time, at which losses are read."""
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Work:
    """A model on a trunk of two layers of so many units, and its data."""

    model: Callable[..., Any]
    draw: Callable[[], Data]
    units: int
    seconds: float


def drawn(rows: int, spread: Callable[[Tensor], Tensor], columns: int = 5) -> Data:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, generator=generator, dtype=torch.float64)
    mean = torch.sin(2 * x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + torch.tanh(x[:, 3])
    return x, mean + spread(x) * noise


def even(rows: int) -> Data:
    return drawn(rows, lambda x: torch.full_like(x[:, 0], 0.3))


def uneven(rows: int) -> Data:
    return drawn(rows, lambda x: torch.exp(0.5 * x[:, 4] - 1))


def counts(rows: int) -> Data:
    x, y = even(rows)
    return x, torch.poisson(y.clamp(max=3.0).exp(), generator=torch.Generator().manual_seed(2))


def shipped(name: str, response: str, *columns: str) -> Callable[[], Data]:
    def draw() -> Data:
        frame = datasets.load(name)
        frame = (frame - frame.mean()) / frame.std()
        x, y = frame[list(columns)].to_numpy(), frame[response].to_numpy()
        return torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)

    return draw


def known(scale: float) -> Callable[..., Any]:
    return pyro.condition(models.gaussian, {"sigma": torch.tensor(scale, dtype=torch.float64)})


def masked(model: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda trunk: flat(on_features(model, trunk))


def proper(model: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda trunk: on_features(model, trunk)


OZONE = shipped("ozone", "ozone", "radiation", "wind", "temperature", "month")
ENGEL = shipped("engel", "food_expenditure", "income")
WORKS = {
    "ozone, 3 units, map": Work(proper(models.gaussian), OZONE, 3, 2.0),
    "engel, two heads, 8 units, map": Work(proper(models.heteroscedastic), ENGEL, 8, 2.0),
    "known scale, 500 rows, 8 units, map": Work(proper(known(0.3)), lambda: even(500), 8, 4.0),
    "known scale, 500 rows, 8 units, mle": Work(masked(known(0.3)), lambda: even(500), 8, 4.0),
    "sigma, 500 rows, 8 units, map": Work(proper(models.gaussian), lambda: even(500), 8, 4.0),
    "sigma, 500 rows, 8 units, mle": Work(masked(models.gaussian), lambda: even(500), 8, 4.0),
    "two heads, 500 rows, 8 units, map": Work(proper(models.heteroscedastic), lambda: uneven(500), 8, 4.0),
    "poisson, 500 rows, 8 units, map": Work(proper(models.poisson), lambda: counts(500), 8, 4.0),
    "known scale, 10,000 rows, 16 units, map": Work(proper(known(0.3)), lambda: even(10_000), 16, 20.0),
    "known scale, 10,000 rows, 16 units, mle": Work(masked(known(0.3)), lambda: even(10_000), 16, 20.0),
    "sigma, 10,000 rows, 16 units, map": Work(proper(models.gaussian), lambda: even(10_000), 16, 20.0),
    "two heads, 10,000 rows, 16 units, map": Work(
        proper(models.heteroscedastic), lambda: uneven(10_000), 16, 20.0
    ),
}
SOLVERS = {
    "L-BFGS": lambda: LBFGS(max_steps=10**9),
    "variable projection": lambda: VariableProjection(max_steps=10**9),
}


class TimeIsUp(Exception):
    """The seconds have passed."""


class Watched:
    """A problem that notes when which loss was reached, and stops when the time is up."""

    def __init__(self, problem: Any, began: float, seconds: float) -> None:
        self.problem, self.began, self.seconds = problem, began, seconds
        self.reached: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.problem, name)

    def value_and_gradient(self, z: Tensor) -> tuple[float, Tensor]:
        value, gradient = self.problem.value_and_gradient(z)
        self.note(value)
        return value, gradient

    def project(self, z: Tensor) -> tuple[Tensor, float, Tensor]:
        found = self.problem.project(z)
        self.note(found[1])
        return found

    def note(self, value: float) -> None:
        passed = time.process_time() - self.began
        self.reached.append((passed, value))
        if passed > self.seconds:
            raise TimeIsUp

    def after(self, seconds: float) -> float:
        """The lowest loss by then."""
        return min((v for t, v in self.reached if t <= seconds and math.isfinite(v)), default=math.inf)


def run(work: Work, solver: Any, seed: int) -> tuple[list[float], float | None]:
    """The losses after the shares of the time, and the seconds to an optimum, if it was found."""
    x, y = work.draw()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = (nn.Linear(x.shape[1], work.units), nn.Tanh(), nn.Linear(work.units, work.units), nn.Tanh())
        trunk = nn.Sequential(*layers).double()
    objective = Objective(work.model(trunk), prepare(x, y))
    theta = starting_point(objective, None)
    coordinates = rescaled(objective, theta)
    began = time.process_time()
    problem = Watched(problem_of(coordinates, solver)[1], began, work.seconds)
    found = None
    try:
        ended = solver.minimise(problem, coordinates.z(theta))
        found = time.process_time() - began if ended.converged else None
    except TimeIsUp:
        pass
    return [problem.after(share * work.seconds) for share in SHARES], found


def measure(names: tuple[str, ...] = tuple(WORKS), starts: int = 3) -> dict[str, dict[str, list[Any]]]:
    """Work -> solver -> what `run` gives for each start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            name: {
                label: [run(WORKS[name], make(), seed) for seed in range(starts)]
                for label, make in SOLVERS.items()
            }
            for name in names
        }
    finally:
        torch.set_num_threads(threads)


def lines(name: str, found: dict[str, list[Any]]) -> list[str]:
    """The mean losses, the last one start by start, and how long optima took."""
    seconds = ", ".join(f"{share * WORKS[name].seconds:g}" for share in SHARES)
    said = [f"{name}: mean loss after {seconds} seconds"]
    for label, runs in found.items():
        means = [statistics.mean(losses[i] for losses, _ in runs) for i in range(len(SHARES))]
        ends = ", ".join(f"{losses[-1]:.1f}" for losses, _ in runs)
        optima = ", ".join("-" if took is None else f"{took:.1f}" for _, took in runs)
        means_said = " ".join(f"{mean:9.1f}" for mean in means)
        said.append(f"  {label:20} {means_said}   ends {ends}; seconds to an optimum {optima}")
    return said


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(WORKS), choices=list(WORKS), metavar="WORK")
    parser.add_argument("--starts", type=int, default=3)
    chosen = parser.parse_args()
    for work_name in chosen.only:
        print("\n".join(lines(work_name, measure((work_name,), chosen.starts)[work_name])), flush=True)
