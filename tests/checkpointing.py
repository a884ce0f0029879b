"""Computations with a checkpoint that are killed: run as a program, which forks without importing torch anew.

It prints one JSON document for test_checkpoint.py: for each computation the number of kills, and whether it
ended at the numbers of the one that was not killed.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from neglog import (
    Checkpoint,
    Fit,
    bootstrap,
    files,
    lasso_path,
    map_estimate,
    mle,
    models,
    on_features,
    quantile_process,
    with_priors,
)
from neglog.solvers import LBFGS, Adam

X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
Y = torch.sin(3 * X[:, 0]) + 0.1 * torch.cos(40 * X[:, 0])
KILLS = 2
"""How often a computation is killed."""


def network(*more: nn.Module) -> Any:
    torch.manual_seed(0)
    return on_features(models.gaussian, nn.Sequential(nn.Linear(1, 3), *more, nn.Tanh()))


def normed() -> Any:
    """A network whose steps draw random numbers and update buffers."""
    return network(nn.BatchNorm1d(3), nn.Dropout(0.2))


def numbers(tensors: Any) -> dict[str, Any]:
    return {name: value.tolist() for name, value in tensors.items()}


def of_fit(fit: Fit) -> Any:
    return [fit.loss, fit.status, list(fit.history), numbers(fit.params), numbers(fit.buffers)]


def lasso() -> Any:
    zero = torch.zeros((), dtype=torch.float64)
    return with_priors(models.poisson, {"log_rate.weight": dist.Laplace(zero, 1.0)})


def bases() -> Tensor:
    return torch.cat([torch.sin((k + 1) * X) for k in range(4)], 1)


WORK: dict[str, Callable[[Any], Any]] = {
    "adam": lambda c: of_fit(
        map_estimate(normed(), X, Y, solver=Adam(steps=110, batch_size=9), checkpoint=c)
    ),
    "lbfgs": lambda c: of_fit(map_estimate(network(), X, Y, solver=LBFGS(max_steps=30), checkpoint=c)),
    "path": lambda c: numbers(
        lasso_path(lasso(), bases(), (3 * Y).exp().round(), n_strengths=6, checkpoint=c).params
    ),
    "quantiles": lambda c: [
        of_fit(fit) for fit in quantile_process(bases(), Y, [0.1, 0.3, 0.5, 0.7, 0.9], checkpoint=c).values()
    ],
    "bootstrap": lambda c: (
        bootstrap(mle(models.gaussian, X, Y), 12, kind="weights", solver=LBFGS(), checkpoint=c)
        .draws.to_numpy()
        .tolist()
    ),
}


def forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def ended(work: Callable[[Any], Any], checkpoint: Any, out: Path) -> Any:
    """The result of a computation in a process of its own."""

    def run() -> None:
        out.write_text(json.dumps(work(checkpoint)))

    out.unlink(missing_ok=True)
    os.waitpid(forked(run), 0)
    return json.loads(out.read_text())


def killed(work: Callable[[Any], Any], checkpoint: Any, after: int, pause: float) -> bool:
    """Whether a computation was killed, a while after it had written so many states."""
    heard, tell = os.pipe()

    def run() -> None:
        publish = files.publish

        def published(path: Path, content: bytes) -> None:
            publish(path, content)
            os.write(tell, b".")

        files.publish = published
        work(checkpoint)

    child = forked(run)
    os.close(tell)
    for _ in range(after):
        os.read(heard, 1)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(heard)
    return os.WIFSIGNALED(status)


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    warnings.simplefilter("ignore")
    chance = random.Random(0)
    mle(models.gaussian, X, Y)  # what is imported on first use
    found = {}
    for name in names:
        work, path = WORK[name], folder / name
        whole = ended(work, Checkpoint(folder / f"{name} at once"), folder / "whole")
        checkpoint, kills = Checkpoint(path, steps=1), 0
        pause = 0.05
        while kills < KILLS:
            if killed(work, checkpoint, chance.randint(1, 2), chance.uniform(0, pause)):
                kills += 1
            else:  # it had ended before: begin anew, and kill sooner
                path.unlink(missing_ok=True)
                kills, pause = 0, pause / 2
        resumed = path.exists()
        again = ended(work, checkpoint, folder / "again")
        found[name] = {
            "kills": kills,
            "resumed": resumed,
            "same": again == whole,
            "left": sorted(each.name for each in folder.iterdir() if each.name.startswith(".")),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
