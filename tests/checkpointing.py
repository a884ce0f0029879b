"""Computations with a checkpoint that are killed, in processes that are forked from that of the tests."""

import json
import os
import random
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from neglog import (
    Checkpoint,
    Fit,
    bootstrap,
    compare,
    files,
    lasso_path,
    map_estimate,
    mle,
    models,
    on_features,
    quantile_process,
    with_priors,
)
from neglog.cli.workers import side_by_side
from neglog.selection import compared
from neglog.solvers import LBFGS, Adam

X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
Y = torch.sin(3 * X[:, 0]) + 0.1 * torch.cos(40 * X[:, 0])
ATTEMPTS = 10
"""How often a computation is begun anew that ends before it is killed."""
RIVALS = {name: getattr(models, name) for name in ("gaussian", "laplace")}


def network(*more: nn.Module) -> Any:
    torch.manual_seed(0)
    return on_features(models.gaussian, nn.Sequential(nn.Linear(1, 3), *more, nn.Tanh()))


def normed() -> Any:
    """A network whose steps draw random numbers and update buffers."""
    return network(nn.BatchNorm1d(3), nn.Dropout(0.2))


def numbers(tensors: Any) -> dict[str, Any]:
    return {name: value.tolist() for name, value in tensors.items()}


def of_fit(fit: Fit) -> Any:
    return [fit.loss, fit.status, list(fit.losses), numbers(fit.params), numbers(fit.buffers)]


def lasso() -> Any:
    zero = torch.zeros((), dtype=torch.float64)
    return with_priors(models.poisson, {"log_rate.weight": dist.Laplace(zero, 1.0)})


def bases() -> Tensor:
    return torch.cat([torch.sin((k + 1) * X) for k in range(4)], 1)


def side_by_side_in_processes(checkpoint: Any) -> list[Any]:
    """A comparison as the command line makes it."""
    table = pd.DataFrame({"x": X[:, 0].numpy(), "y": Y.numpy()})
    found = compared(
        models,
        "y ~ x",
        table,
        {},
        folds=3,
        candidates=RIVALS,
        run=partial(side_by_side, cores=2),
        checkpoint=checkpoint,
    )
    return [
        [each.model, each.fit.nll, numbers(each.fit.params), each.validation.scores.tolist()]
        for each in found.comparison.entries
        if each.fit is not None and each.validation is not None
    ]


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
    "comparison": lambda c: repr(
        compare(RIVALS, X, Y, folds=3, scores=["rmse", "d2", "crps"], checkpoint=c).to_dict("list")
    ),
    "side by side": side_by_side_in_processes,
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


def outcome(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Kill a computation at a random moment after a state of it was written, and end it."""
    work, chance, pause = WORK[name], random.Random(seed), 0.05
    whole = ended(work, Checkpoint(folder / "at once"), folder / "whole")
    checkpoint = Checkpoint(folder / "state", steps=1)
    for _ in range(ATTEMPTS):
        if killed(work, checkpoint, chance.randint(1, 2), chance.uniform(0, pause)):
            break
        (folder / "state").unlink(missing_ok=True)  # it had ended before: begin anew, and kill sooner
        pause /= 2
    resumed = (folder / "state").exists()
    again = ended(work, checkpoint, folder / "again")
    left = sorted(each.name for each in folder.iterdir() if each.name.startswith("."))
    return {"resumed": resumed, "same": again == whole, "left": left}
