"""Certificates: no number that is NaN or infinite passes for an optimum, or for draws to be trusted."""

import math
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import map_estimate, mle, mle_batch, models, with_priors
from neglog.bayes.diagnostics import complaints, mixing, pareto_k
from neglog.errors import ConvergenceWarning, NeglogError
from neglog.predictors import linear, rows
from neglog.solvers import LBFGS, SGD, SVI, Adam, AdamW, Chain, Newton, Optimiser, Solution, TrustRegion
from neglog.solvers.continuation import Continuation
from neglog.solvers.proximal import ProximalNewton
from neglog.solvers.solution import largest_of, newton_direction

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn((80, 2), generator=GENERATOR, dtype=torch.float64)
COUNTS = torch.poisson(torch.exp(1 + 0.5 * X[:, 0]), generator=GENERATOR)
PRIOR = {"log_rate.weight": dist.Laplace(torch.zeros((), dtype=torch.float64), 1.0)}
FIT = mle(models.poisson, X, COUNTS)
ETA = FIT.params["log_rate.bias"] + X @ FIT.params["log_rate.weight"]
NAN = torch.tensor(math.nan, dtype=torch.float64)

POISONS = {
    "value": lambda away: away * math.nan,
    "gradient": lambda away: torch.sqrt(0 * away),
    "Hessian": lambda away: (0 * away).abs() ** 1.5,
}
"""Functions whose value, first or second derivative is NaN, the ones before it being 0."""


class Poisoned(dist.TorchDistribution):
    """Poisson's distribution, but for derivatives that are NaN where a rate is near that of the optimum."""

    arg_constraints = {}  # noqa: RUF012
    support = dist.constraints.nonnegative_integer

    def __init__(self, eta, order):
        self.eta, self.order = eta, order
        super().__init__(eta.shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return Poisoned(self.eta.expand(batch_shape), self.order)

    def sample(self, sample_shape=()):
        return torch.poisson(self.eta.exp().expand(*sample_shape, *self.eta.shape))

    def log_prob(self, value):
        away = self.eta - ETA[: len(self.eta)] if len(self.eta) == len(ETA) else self.eta * 0 + 9
        poison = torch.where(away.abs() < 0.03, POISONS[self.order](away), torch.zeros_like(away))
        return value * self.eta - self.eta.exp() - torch.lgamma(value + 1) + poison


def poisoned(order):
    def model(x, y=None):
        eta = linear("log_rate", x)
        with rows(x):
            return pyro.sample("y", Poisoned(eta, order), obs=y)

    return model


SOLVERS = {
    "default": None,
    "Newton": Newton(),
    "LBFGS": LBFGS(max_steps=50),
    "TrustRegion": TrustRegion(max_steps=60),
    "Chain": Chain((LBFGS(max_steps=2), Newton(max_steps=20))),
    "Adam": Adam(steps=150, certainty=1e6),
    "AdamW": AdamW(steps=150, learning_rate=0.05, certainty=1e6),
    "SGD": SGD(steps=100, learning_rate=0.3, certainty=1e6),
    "Optimiser": Optimiser(torch.optim.Rprop, steps=100, certainty=1e6),
    "SVI": SVI(steps=60, certainty=1e6),
}


CASES = [(s, o) for s in SOLVERS for o in POISONS if (s, o) != ("LBFGS", "Hessian")]
"""The certificate of L-BFGS is its gradient."""


@pytest.mark.parametrize(("solver", "order"), CASES)
def test_no_solver_certifies_where_numbers_are_nan(solver, order):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = mle(poisoned(order), X, COUNTS, solver=SOLVERS[solver])
    except NeglogError:
        return
    assert_honest(fit.converged, fit.params)


def assert_honest(converged, params):
    """No optimum is claimed where numbers are NaN."""
    eta = params["log_rate.bias"] + X @ params["log_rate.weight"]
    assert not converged or bool(((eta - ETA).abs() >= 0.03).all())


@pytest.mark.parametrize(
    ("solver", "order"),
    [
        *(pytest.param(None, order, id=f"None-{order}") for order in POISONS),
        *(pytest.param(ProximalNewton(max_steps=30), order, id=f"prox-{order}") for order in POISONS),
        pytest.param(Continuation(max_steps=10), "gradient", id="path-gradient"),
    ],
)
def test_no_lasso_is_certified_where_numbers_are_nan(solver, order):
    model = with_priors(poisoned(order), {"log_rate.weight": dist.Laplace(0.0 * NAN.nan_to_num(), 50.0)})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = map_estimate(model, X, COUNTS, solver=solver)
    except NeglogError:
        return
    assert_honest(fit.converged, fit.params)


@pytest.mark.parametrize("order", POISONS)
def test_no_batch_is_certified_where_numbers_are_nan(order):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = mle_batch(poisoned(order), X, COUNTS[None])
    except NeglogError:
        return
    assert_honest(bool(fit.converged[0]), {name: value[0] for name, value in fit.params.items()})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_solution_that_is_not_finite_claims_nothing(value):
    zeros = torch.zeros(2, dtype=torch.float64)
    assert Solution(zeros, 1.0, True, "optimum", 1).converged
    assert not Solution(zeros, value, True, "optimum", 1).converged
    assert not Solution(torch.tensor([0.0, value]), 1.0, True, "optimum", 1).converged


@pytest.mark.parametrize("place", [0, 1])
def test_a_newton_decrement_of_nan_is_nan(place):
    gradient, hessian = torch.ones(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    gradient[place] = math.nan
    assert math.isnan(newton_direction(hessian, gradient)[1])
    hessian[place, place] = math.nan
    _, decrement, definite = newton_direction(hessian, torch.ones(2, dtype=torch.float64))
    assert not (definite and decrement <= 1e9)


def test_the_largest_of_numbers_with_nan_is_nan():
    assert math.isnan(largest_of(0.0, math.nan))
    assert math.isnan(largest_of(math.nan, 0.0))
    assert largest_of(0.0, 1.0) == 1.0


def chains(draws, bad=None):
    found = torch.randn((4, draws), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if bad is not None:
        found[bad] = math.nan
    return {"a": found, "b": torch.ones_like(found)}


def judged(draws):
    nothing = torch.zeros((4, draws["a"].shape[1]), dtype=torch.bool)
    stats = {"diverging": nothing, "reached_max_treedepth": nothing}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return complaints(draws, stats, *mixing(draws))


@pytest.mark.parametrize("bad", [(0, -1), (slice(None), slice(500, None)), slice(None)])
def test_draws_that_are_nan_are_not_trusted(bad):
    assert judged(chains(1000)) == ()
    assert judged(chains(1000, bad))


@pytest.mark.parametrize("which", ["r_hat", "ess"])
def test_diagnostics_that_are_nan_are_complaints(which):
    nothing = torch.zeros((4, 1000), dtype=torch.bool)
    stats = {"diverging": nothing, "reached_max_treedepth": nothing}
    numbers = {"r_hat": {"a": torch.tensor([1.0, 1.0])}, "ess": {"a": torch.tensor([900.0, 900.0])}}
    assert complaints({}, stats, **numbers) == ()
    numbers[which]["a"][1] = math.nan
    assert complaints({}, stats, **numbers)


def test_the_pareto_shape_of_nan_is_not_small():
    ratios = torch.randn(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.01
    assert pareto_k(ratios) <= 0.7
    for bad in (math.nan, math.inf, -math.inf):
        ratios[3] = bad
        shape = pareto_k(ratios)
        assert not (math.isfinite(shape) and shape <= 0.7) or bad == -math.inf
