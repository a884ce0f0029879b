"""Training a network is maximum likelihood: the estimate of sigma with many rows, and overfitting with few.

A network of five inputs is trained by minibatches on the likelihood of `models.gaussian`. For any prediction
the best sigma follows from   d NLL / d sigma = 0 :

    sigma² = RSS / n = MSE on the training rows,    mean NLL = (1 + log(2 pi MSE)) / 2 .

So sigma-hat is the training RMSE, and the loss is a function of it: training by MSE and by likelihood are the
same, but the likelihood also estimates the noise. With many rows the estimate converges to the true sigma,
here 1. With few rows the network fits single rows: residuals and sigma-hat are far too small, while the error
on new rows increases. sigma-hat estimates the error on new rows only if the training RMSE does.

The problem is Friedman's (1991), five inputs, uniform on the unit cube, and unit noise:
y ~ Normal(10 sin(pi x1 x2) + 20 (x3 - 1/2)² + 10 x4 + 5 x5, 1). Rows, network and optimiser are our choice.
The loop is Pyro's own, `SVI.step` with a Delta guide, to read the guide after every epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from _common import BLUE, INK, OCHRE, QUIET, RED, arguments, dress, figure, network, save, say, table
from matplotlib.axes import Axes
from pyro import poutine
from pyro.infer.autoguide.initialization import init_to_value
from torch import Tensor

from neglog import flat, models, on_features, weighted
from neglog.guides import Delta

SIGMA = 1.0
HIDDEN = (32, 16)


@dataclass(frozen=True)
class Epochs:
    """What was read after every epoch, `(E + 1,)` each; the first entry is the start."""

    sigma: Tensor
    train: Tensor
    fresh: Tensor
    nll: Tensor


def draw_rows(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs `(rows, 5)`, moved to [-1, 1] for the network's sake, and responses `(rows,)`."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(rows, 5, generator=generator, dtype=torch.float64)
    mean = (
        10 * torch.sin(math.pi * u[:, 0] * u[:, 1]) + 20 * (u[:, 2] - 0.5) ** 2 + 10 * u[:, 3] + 5 * u[:, 4]
    )
    return 2 * u - 1, mean + SIGMA * torch.randn(rows, generator=generator, dtype=torch.float64)


def train(x: Tensor, y: Tensor, epochs: int, batch: int, fresh: int) -> Epochs:
    """Maximum likelihood by `pyro.infer.SVI`, the learning rate falling from 0.03 to 0.001."""
    fresh_x, fresh_y = draw_rows(fresh, seed=99)
    net = on_features(models.gaussian, network(5, *HIDDEN, seed=0))
    heads = {"mean.weight": y.new_zeros(HIDDEN[-1]), "mean.bias": y.mean(), "sigma": y.std()}
    likelihood = flat(net)  # masks the priors
    of_all = weighted(likelihood, len(y) / batch)  # scales a minibatch up to all rows
    shuffle = torch.Generator().manual_seed(0)
    adam = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.03}, "gamma": 0.03 ** (1 / epochs)}
    optim = pyro.optim.ExponentialLR(adam)

    with pyro.get_param_store().scope():  # leaves Pyro's global store of parameters as it was
        guide = Delta(of_all, init_loc_fn=init_to_value(values=net.start | heads))
        guide(x[:batch], y[:batch])
        svi = pyro.infer.SVI(of_all, guide, optim, pyro.infer.Trace_ELBO())
        read = [look(likelihood, guide, x, y, fresh_x, fresh_y)]
        for _ in range(epochs):
            for rows in torch.randperm(len(y), generator=shuffle).split(batch):
                svi.step(x[rows], y[rows])
            optim.step()
            read.append(look(likelihood, guide, x, y, fresh_x, fresh_y))
    return Epochs(*torch.tensor(read, dtype=torch.float64).T)


def look(
    model: Any, guide: Delta, x: Tensor, y: Tensor, fresh_x: Tensor, fresh_y: Tensor
) -> tuple[float, ...]:
    """sigma, training RMSE, RMSE on fresh rows, and the mean NLL of the training rows."""
    now = {name: value.detach() for name, value in guide.median().items()}
    at = pyro.condition(model, now)
    seen, unseen = (poutine.trace(at).get_trace(rows).nodes["y"]["fn"] for rows in (x, fresh_x))
    rmse = ((seen.mean - y).square().mean().sqrt(), (unseen.mean - fresh_y).square().mean().sqrt())
    return now["sigma"].item(), rmse[0].item(), rmse[1].item(), -seen.log_prob(y).mean().item()


def least_nll(rmse: Tensor) -> Tensor:
    """The mean NLL at the best sigma, for a network with this RMSE."""
    return 0.5 * (1 + torch.log(2 * math.pi * rmse**2))


def draw(runs: dict[int, Epochs], to: Path) -> None:
    canvas, (left, middle, right) = figure(3)
    (many, enough), (few, overfitted) = runs.items()
    draw_epochs(left, f"{many} rows: σ̂ comes down to the truth", enough)
    draw_epochs(middle, f"{few} rows: it falls through", overfitted)
    draw_loss(right, runs)
    low = min(e.sigma.min().item() for e in runs.values())
    for axes in (left, middle):
        axes.set_ylim(0.6 * low, 7)
        axes.set_yticks([0.3, 1, 3], ["0.3", "1", "3"])
    save(canvas, to)


def draw_epochs(axes: Axes, title: str, run: Epochs) -> None:
    last = len(run.sigma) - 1
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.axhline(SIGMA, color=INK, lw=1.2, ls=(0, (4, 3)))
    for values, colour, width in ((run.fresh, OCHRE, 1.6), (run.sigma, RED, 2.4), (run.train, BLUE, 1.1)):
        axes.plot(values, color=colour, lw=width)
    below = min(run.sigma[-1].item(), 0.88)
    say(axes, "RMSE on\nfresh rows", (1.03 * last, max(run.fresh[-1].item(), 1.24)), OCHRE)
    say(axes, "σ̂", (1.03 * last, below), RED)
    say(axes, "RMSE on\ntraining rows", (1.03 * last, below / 1.35), BLUE)
    say(axes, "true σ", (0, 0.87), INK)
    axes.set_xlim(-0.02 * last, 1.36 * last)
    axes.set_xticks(range(0, last + 1, 20 if last < 100 else 50))
    dress(axes, title, "epoch", "in units of y")


def draw_loss(axes: Axes, runs: dict[int, Epochs]) -> None:
    reach = torch.logspace(-0.85, 0.8, 50, dtype=torch.float64)
    axes.semilogx(reach, least_nll(reach), color=QUIET, lw=1.2, ls=(0, (4, 3)))
    say(axes, "least possible\nat this RMSE", (0.32, -0.45), QUIET, ha="right")
    (many, enough), (few, overfitted) = runs.items()
    axes.plot(overfitted.train, overfitted.nll, "o", color=RED, ms=2.5)
    axes.plot(enough.train, enough.nll, "o", color=INK, ms=6, mfc="none", mew=0.8)
    say(axes, f"{many} rows", (1.25, 1.35), INK, ha="right")
    say(axes, f"{few} rows", (0.5, 0.5), RED, ha="right")
    axes.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.invert_xaxis()
    dress(
        axes,
        "The loss is log RMSE, plus a constant",
        "training RMSE, epoch by epoch",
        "mean NLL, nats per row",
    )


def check(enough: Epochs, overfitted: Epochs, rows: int) -> None:
    # At the optimum in sigma they are equal; Adam's last steps leave a few percent.
    assert abs(enough.sigma[-1] / enough.train[-1] - 1) < 0.06
    # No sigma beats RSS / n: an identity, good to rounding.
    for run in (enough, overfitted):
        assert (run.nll > least_nll(run.train) - 1e-12).all()
    assert enough.nll[-1] - least_nll(enough.train[-1]) < 0.004  # 0.06²: the loss is flat at the best sigma
    # From 5 down to 1. sigma itself is known to 1 / sqrt(2 rows), 2 % of 2000 rows; a network that misses the
    # mean a little makes it larger, one that follows the rows smaller: 5 % and more of the 300 small ones.
    assert abs(enough.sigma[-1] - SIGMA) < (0.08 if rows >= 2000 else 0.2)
    assert enough.sigma[0] > 4
    # 100 rows, or 25, for 738 parameters: the network follows the noise, and pays for it on fresh rows.
    assert overfitted.sigma[-1] < 0.7 * SIGMA
    assert overfitted.fresh[-1] > 1.5 * SIGMA


def main() -> None:
    options = arguments(__file__, __doc__)
    many, epochs, batch = (300, 60, 50) if options.small else (2000, 60, 100)
    few, fresh = (25, 1000) if options.small else (100, 4000)
    runs = {
        many: train(*draw_rows(many, seed=1), epochs=epochs, batch=batch, fresh=fresh),
        few: train(*draw_rows(few, seed=2), epochs=200, batch=25, fresh=fresh),
    }
    for rows, run in runs.items():
        print(f"{rows} rows")
        at = [0, 1, 3, 10, 30, len(run.sigma) - 1]
        table(
            ("epoch", "sigma", "train RMSE", "fresh RMSE", "mean NLL", "least NLL"),
            zip(
                at,
                *(c[at].tolist() for c in (run.sigma, run.train, run.fresh, run.nll, least_nll(run.train))),
                strict=True,
            ),
        )
    draw(runs, options.picture)
    check(runs[many], runs[few], many)


if __name__ == "__main__":
    main()
