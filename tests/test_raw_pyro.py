"""Laws of every model inside every handler: raw Pyro has the loss that a fit minimises, and draws from it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.infer.autoguide.initialization import init_to_median, init_to_value
from table import TABLE

from neglog import censored, masked, on_features, truncated, weighted, with_priors
from neglog.data import prepare
from neglog.objective.objective import Objective

ROWS = 20
ROUNDING = 1e-12
"""Relative: sums of a few dozen terms in another order."""
REAL = [name for name, entry in TABLE.items() if entry.real]
HANDLERS = {
    "none": lambda model, entry: model,
    "weighted": lambda model, entry: weighted(model, torch.linspace(0.5, 2.0, ROWS, dtype=torch.float64)),
    "masked": lambda model, entry: masked(model),
    "with_priors": lambda model, entry: with_priors(
        model, {f"{entry.location}.weight": dist.Normal(0.0, torch.tensor(0.5, dtype=torch.float64))}
    ),
    "on_features": lambda model, entry: on_features(model, trunk()),
    "censored": lambda model, entry: censored(model, lower=-1.0, upper=1.0),
    "truncated": lambda model, entry: truncated(model, lower=-9.0, upper=9.0),
}
CASES = [
    (name, handler)
    for name in TABLE
    for handler in HANDLERS
    if name in REAL or handler not in ("censored", "truncated")
]
DRAWN = ("none", "on_features", "truncated")
"""Handlers that change what is drawn, or from what."""

pytestmark = pytest.mark.usefixtures("seeded")


def trunk():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh()).double()


def case(name, handler):
    entry = TABLE[name]
    x, y = entry.sample(ROWS)
    y = y.clamp(-1.0, 1.0) if handler == "censored" else y
    return HANDLERS[handler](entry.model, entry), x, y, entry.keywords(ROWS)


@pytest.mark.parametrize(("name", "handler"), CASES)
def test_raw_svi_has_the_loss_of_a_fit(name, handler):
    model, x, y, keywords = case(name, handler)
    objective = Objective(model, prepare(x, y, **keywords))
    theta = objective.initial + 0.1 * torch.sin(torch.arange(objective.size, dtype=torch.float64))
    values = objective.layout.params(theta)
    guide = AutoDelta(model, init_loc_fn=init_to_value(values=values, fallback=init_to_median))
    loss = SVI(model, guide, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO()).evaluate_loss(x, y, **keywords)
    assert loss == pytest.approx(objective.value(theta), rel=ROUNDING, abs=ROUNDING)


@pytest.mark.parametrize(("name", "handler"), [case for case in CASES if case[1] in DRAWN])
def test_raw_predictive_draws_responses(name, handler):
    model, x, y, keywords = case(name, handler)
    guide = AutoDelta(model)
    guide(x, y, **keywords)
    drawn = Predictive(model, guide=guide, num_samples=3)(x, **keywords)["y"]
    assert drawn.shape == (3, *y.shape)
    assert torch.isfinite(drawn).all()
