"""The choice of solvers: each row of the table is taken by some model, and none before its turn."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import censored, flat, models, on_features, with_priors
from neglog.data import prepare
from neglog.fitting import choice
from neglog.fitting.choice import STRATEGIES, choose, strategy_for
from neglog.fitting.start import starting_point
from neglog.objective.coordinates import rescaled
from neglog.objective.objective import Objective
from neglog.predictors import linear
from neglog.solvers import (
    LBFGS,
    Adam,
    Chain,
    Continuation,
    InteriorPoint,
    Newton,
    ProximalNewton,
    TrustRegion,
)

X = torch.randn((60, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = 1 + X @ torch.tensor([2.0, -1.0], dtype=torch.float64) + 0.1 * torch.sin(torch.arange(60.0))
ONE = torch.tensor(1.0, dtype=torch.float64)


def network(model, *layers):
    torch.manual_seed(0)
    return on_features(model, torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), *layers))


def corner_of_a_rate(x, y=None):
    return pyro.sample("y", dist.Laplace(torch.exp(linear("eta", x)), ONE), obs=y)


def curve(x, y=None):
    rate = pyro.sample("rate", dist.Normal(0 * ONE, ONE))
    return pyro.sample("y", dist.Normal(torch.exp(rate * x[:, 0]), ONE), obs=y)


CASES = {
    "a loss that depends on training mode": (lambda: network(models.gaussian, torch.nn.Dropout(0.5)), Adam),
    "corners of priors alone": (
        lambda: with_priors(models.gaussian, {"mean.weight": dist.Laplace(0 * ONE, ONE)}),
        ProximalNewton,
    ),
    "a pinball loss of one line": (lambda: flat(models.laplace), InteriorPoint),
    "other corners in linear predictors": (lambda: flat(censored(models.laplace, upper=2.0)), Continuation),
    "corners elsewhere": (lambda: corner_of_a_rate, Adam),
    "linear predictors and constants": (lambda: models.gaussian, Newton),
    "few parameters, no network": (lambda: curve, TrustRegion),
    "many parameters times rows": (lambda: network(models.gaussian), Adam),
    "a network with flat priors": (lambda: flat(network(models.gaussian)), LBFGS),
    "a network convex in its heads": (lambda: network(models.gaussian), Chain),
    "any other": (lambda: network(models.heteroscedastic), Chain),
}


def test_every_strategy_has_a_case():
    assert list(CASES) == [strategy.problem for strategy in STRATEGIES]


@pytest.mark.parametrize("problem", CASES)
def test_each_strategy_is_taken_by_some_model(problem, monkeypatch):
    model, solver = CASES[problem]
    if problem == "many parameters times rows":
        monkeypatch.setattr(choice, "MAX_FULL_BATCH", 100)
    objective = Objective(model(), prepare(X, Y))
    coordinates = rescaled(objective, starting_point(objective, None))
    assert strategy_for(coordinates).problem == problem
    assert isinstance(choose(coordinates), solver)
