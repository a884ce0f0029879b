"""The rows of `make uci`: networks with one hidden layer of 50, each trained in its own way."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from uci_tables import Split

from neglog import (
    beta_nll,
    ensemble,
    faithful,
    mle,
    models,
    natural_gaussian,
    on_features,
    predict,
    scores,
)
from neglog.solvers import Adam

Pair = tuple[Tensor, Tensor]
Training = Callable[[Pair, Pair, int], Any]
"""From training and validation rows, and a seed, to a fit."""

HIDDEN_UNITS = 50
STEPS, BATCH, LEARNING_RATE, DECAY = 1000, 64, 0.02, 0.01
"""Gradient steps of a training, rows of a step, and the learning rate: of the first step, last over first."""
MANY_ROWS, MANY_STEPS = 5000, 2500
"""Above this many rows there are more steps."""
MEMBERS, LONGER, FASTER = 5, 3, 1.5
"""Networks of an ensemble; the steps and the learning rate of the recipe over those of other rows."""


@dataclass(frozen=True)
class Row:
    """A row of the page.

    Attributes:
        name: in the tables.
        train: how it is trained.
        tables: the tables that it suits; all of them where it is empty.
        positive: whether the response is a positive one, divided by its mean, and not a standardised one.
    """

    name: str
    train: Training
    tables: tuple[str, ...] = ()
    positive: bool = False


def trunk(columns: int, seed: int) -> nn.Module:
    """The hidden layer, at its initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(nn.Linear(columns, HIDDEN_UNITS), nn.Tanh())


def epochs(rows: int, longer: int = 1) -> int:
    """Passes over the rows in the steps of a training, or in so many times these."""
    return -(-longer * (MANY_STEPS if rows > MANY_ROWS else STEPS) // math.ceil(rows / BATCH))


def solver(rows: int, validation: Pair, seed: int, longer: int = 1, faster: float = 1.0) -> Adam:
    """The training of all rows: the weights are those of the epoch with the best validation score."""
    number = epochs(rows, longer)
    return Adam(
        epochs=number,
        batch_size=BATCH,
        learning_rate=faster * LEARNING_RATE,
        decay=DECAY,
        validation=validation,
        patience=number,
        seed=seed,
    )


def of(model: Any, objective: Callable[[Any], Any] | None = None, members: int = 1) -> Training:
    """The training of a network with the heads of a model, on an objective."""

    def train(rows: Pair, validation: Pair, seed: int) -> Any:
        net = on_features(model, trunk(rows[0].shape[1], seed))
        net = net if objective is None else objective(net)
        training = solver(len(rows[1]), validation, seed)
        if members == 1:
            return mle(net, *rows, solver=training)
        return ensemble(net, *rows, members=members, solver=training, seed=seed)

    return train


def with_heads(model: Any, *parameters: str) -> Training:
    """The training of a network with a head for each of these parameters of a model."""

    def train(rows: Pair, validation: Pair, seed: int) -> Any:
        net = on_features(model, dict.fromkeys(parameters, trunk(rows[0].shape[1], seed)))
        return mle(net, *rows, solver=solver(len(rows[1]), validation, seed))

    return train


class Looped:
    """A network trained by a loop in PyTorch, as users write it: GaussianNLLLoss, Adam, the best weights."""

    def __init__(self, rows: Pair, validation: Pair, seed: int) -> None:
        net = nn.Sequential(trunk(rows[0].shape[1], seed), nn.Linear(HIDDEN_UNITS, 2)).double()
        number, loss = epochs(len(rows[1])), nn.GaussianNLLLoss(full=True)
        optimiser = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
        steps = number * math.ceil(len(rows[1]) / BATCH)
        falling = torch.optim.lr_scheduler.ExponentialLR(optimiser, DECAY ** (1 / steps))
        generator, best = torch.Generator().manual_seed(seed), math.inf
        for _ in range(number):
            for index in torch.randperm(len(rows[1]), generator=generator).split(BATCH):
                out = net(rows[0][index])
                optimiser.zero_grad()
                loss(out[:, 0], rows[1][index], out[:, 1].exp()).backward()
                optimiser.step()
                falling.step()
            with torch.no_grad():
                out = net(validation[0])
                score = float(loss(out[:, 0], validation[1], out[:, 1].exp()))
            if score < best:
                best, self.net = score, deepcopy(net)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Any:
        """The predictive distribution of each row."""
        out = self.net(x)
        return torch.distributions.Normal(out[:, 0], (0.5 * out[:, 1]).exp())


def half(model: Any) -> Any:
    """β-NLL with β = ½."""
    return beta_nll(model, 0.5)


def whole(model: Any) -> Any:
    """β-NLL with β = 1."""
    return beta_nll(model, 1.0)


def recipe(rows: Pair, validation: Pair, seed: int) -> Any:
    """An ensemble trained on β-NLL, for longer and in longer steps than the other rows."""
    net = half(on_features(HETEROSCEDASTIC, trunk(rows[0].shape[1], seed)))
    training = solver(len(rows[1]), validation, seed, LONGER, FASTER)
    return ensemble(net, *rows, members=MEMBERS, solver=training, seed=seed)


HETEROSCEDASTIC = models.heteroscedastic
ROWS = {
    row.name: row
    for row in (
        Row("MSE", of(models.gaussian)),
        Row("plain NLL", of(HETEROSCEDASTIC)),
        Row("β-NLL ½", of(HETEROSCEDASTIC, half)),
        Row("β-NLL 1", of(HETEROSCEDASTIC, whole)),
        Row("faithful", of(HETEROSCEDASTIC, faithful)),
        Row("natural", of(natural_gaussian)),
        Row("Student t", with_heads(partial(models.student_t, df=4.0), "location", "scale")),
        Row("gamma", with_heads(models.gamma, "log_mean", "shape"), ("yacht", "energy", "concrete"), True),
        Row("PyTorch loop", Looped),
        Row("ensemble", of(HETEROSCEDASTIC, members=MEMBERS)),
        Row("recipe", recipe),
    )
}
"""By name, in the order of the page."""


def in_units(row: Row, split: Split) -> tuple[list[Pair], float]:
    """The training, validation and test rows for a row of the page, and the unit of y."""
    parts = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in (split.train, split.validation, split.test)]
    if not row.positive:
        return parts, split.unit
    unit = split.shift  # the mean of the response
    return [(x, (split.shift + split.unit * y) / unit) for x, y in parts], unit


def measured(row: Row, split: Split, seed: int) -> Mapping[str, float]:
    """RMSE, negative log score and CRPS of the test rows, in units of y, and the seconds of the fit."""
    (train, validation, (x, y)), unit = in_units(row, split)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of trainings that were still improving: the budget is that of all
        fit = row.train(train, validation, seed)
    seconds = time.process_time() - start
    mean = predicted(fit, x).mean
    log, crps = scored(fit, x, y)
    return {
        "rmse": unit * float((mean - y).square().mean().sqrt()),
        "nll": math.log(unit) - log,
        "crps": unit * crps,
        "seconds": seconds,
    }


def predicted(fit: Any, x: Tensor) -> Any:
    """The predictive distributions of rows, by a fit or a loop."""
    return fit.predict(x) if isinstance(fit, Looped) else predict(fit, x)


def scored(fit: Any, x: Tensor, y: Tensor) -> tuple[float, float]:
    """The mean log score and the mean CRPS of rows."""
    if not isinstance(fit, Looped):
        return float(scores(fit, x, y).mean()), float(scores(fit, x, y, "crps").mean())
    response = fit.predict(x)
    z = (y - response.mean) / response.stddev
    standard = torch.distributions.Normal(torch.zeros_like(z), 1.0)
    density = standard.log_prob(z).exp()
    crps = response.stddev * (z * (2 * standard.cdf(z) - 1) + 2 * density - math.pi**-0.5)
    return float(response.log_prob(y).mean()), float(crps.mean())
