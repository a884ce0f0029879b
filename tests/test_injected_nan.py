"""Laws of solvers whose numbers turn into NaN, and of what else certifies, ranks or warns."""

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import neglog.solvers
from neglog import laplace_approximation, mle, models, on_features
from neglog.comparison import Comparison, Entry, _rank
from neglog.data import prepare
from neglog.errors import ModelError, NeglogError
from neglog.fitting import lasso
from neglog.networks import structures
from neglog.solvers import (
    LBFGS,
    Chain,
    Continuation,
    InteriorPoint,
    MultiStart,
    Newton,
    TrustRegion,
    VariableProjection,
)
from neglog.solvers.multistart import _is_around
from neglog.solvers.solution import Solution, is_curved
from neglog.uncertainty import covariances, hypotheses, information, profiles, resampling
from neglog.uncertainty.ranking import criterion_weights
from neglog.validation import Validation

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn((60, 2), generator=GENERATOR, dtype=torch.float64)
COUNTS = torch.poisson(torch.exp(1 + 0.5 * X[:, 0]), generator=GENERATOR)
Y = 1 + X[:, 0] + torch.randn(60, generator=GENERATOR, dtype=torch.float64)
STARTS = torch.tensor([[0.5, 0.5, 0.5], [-1.0, 0.0, 1.0]], dtype=torch.float64)
LINE = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]


WAVE = torch.tanh(2 * LINE[:, 0] + 0.5) + 0.1 * torch.cos(40 * LINE[:, 0])
with torch.random.fork_rng():
    torch.manual_seed(0)
    NETWORK = on_features(models.gaussian, torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Tanh()))
CASES = {
    "Newton": (Newton(), models.poisson, COUNTS, {"derivatives": 1}),
    "TrustRegion": (TrustRegion(), models.poisson, COUNTS, {"value_and_gradient": 0, "hessian": 0}),
    "LBFGS": (LBFGS(), models.poisson, COUNTS, {"value_and_gradient": 1}),
    "Chain": (Chain((LBFGS(max_steps=3), Newton())), models.poisson, COUNTS, {"derivatives": 1}),
    "MultiStart": (MultiStart(Newton(), STARTS), models.poisson, COUNTS, {}),
    "Continuation": (
        Continuation(max_steps=40),
        models.laplace,
        Y[:20],
        {"residuals": 0, "value_and_gradient": 0},
    ),
    "InteriorPoint": (InteriorPoint(), models.laplace, Y, {"value": 0, "whole": 0}),
    "VariableProjection": (VariableProjection(), NETWORK, WAVE, {"value_and_gradient": 0}),
}
"""Solver, model, response, and the methods whose numbers certify -> how many calls before the last."""


class Injected:
    """A problem whose methods are counted, and one of which returns NaN from some call on."""

    def __init__(self, problem, calls, method=None, at=0):
        self.problem, self.calls, self.method, self.at = problem, calls, method, at

    def __getattr__(self, name):
        found = getattr(self.problem, name)
        if name in ("check", "sample") or not callable(found):
            return found

        def call(*args):
            self.calls[name] = self.calls.get(name, 0) + 1
            numbers = found(*args)
            if name in ("smoothed", "signed", "at"):
                return Injected(numbers, self.calls, self.method, self.at)
            return spoilt(numbers) if name == self.method and self.calls[name] >= self.at else numbers

        return call


def spoilt(numbers):
    """NaN in the place of a number, and of the last entry of a tensor."""
    if isinstance(numbers, tuple):
        return tuple(spoilt(each) for each in numbers)
    if isinstance(numbers, torch.Tensor) and numbers.numel():
        return numbers.clone().index_fill_(-1, torch.tensor([numbers.shape[-1] - 1]), math.nan)
    return math.nan if isinstance(numbers, float) else numbers


def run(name, monkeypatch, method=None, at=0):
    """The fit and how often each method was called; None where it was refused."""
    solver, model, y, _ = CASES[name]
    calls, minimise = {}, type(solver).minimise

    def injected(self, problem, start, progress=False):
        if self is solver:
            problem = Injected(problem, calls, method, at)
        return minimise(self, problem, start, progress)

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(type(solver), "minimise", injected)
        try:
            return mle(model, LINE if y is WAVE else X[: len(y)], y, solver=solver), calls
        except NeglogError:
            return None, calls


@pytest.mark.parametrize("name", CASES)
def test_no_solver_certifies_numbers_that_turn_into_nan(name, monkeypatch):
    """Whichever method of the problem gives NaN, from whichever of its calls on."""
    known, calls = run(name, monkeypatch)
    last = CASES[name][3]
    assert known.converged
    assert set(last) <= set(calls)
    for method in last or calls:
        count = calls[method]
        for at in {count // 2 if count < 10 else count, count - last.get(method, 0)} - {0}:
            fit, _ = run(name, monkeypatch, method, at)
            claimed = fit is not None and fit.converged
            assert not (claimed and method in last and at < count), (method, at)
            assert not claimed or abs(fit.loss - known.loss) <= 1e-6 * abs(known.loss), (method, at)


def test_every_solver_has_a_case():
    """Those of gradient steps and of lasso penalties are in the tests of certificates."""
    known = vars(neglog.solvers)
    found = {name for name in neglog.solvers.__all__ if hasattr(known[name], "minimise")}
    assert found == {*CASES, "Adam", "AdamW", "SGD", "Optimiser", "SVI", "ProximalNewton"}


FIT = mle(models.poisson, X, COUNTS)


def test_a_start_whose_loss_is_nan_leads_to_no_known_optimum():
    zeros, one = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    end = Solution(zeros, 1.0, True, "optimum", 1, hessian=one)
    assert _is_around(end, zeros, 1.0, zeros)
    assert not _is_around(end, zeros, math.nan, zeros)
    assert not _is_around(end, zeros, 1.0, zeros * math.nan)


@pytest.mark.parametrize("order", [("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")])
def test_a_criterion_of_nan_takes_no_share_of_the_others(order):
    criteria = {"a": 10.0, "b": math.nan, "c": 12.0}
    shares = criterion_weights({name: criteria[name] for name in order})
    assert shares["a"] == pytest.approx(1 / (1 + math.exp(-1)))
    assert shares["a"] + shares["c"] == pytest.approx(1.0)
    assert math.isnan(shares["b"])


def entry(name, score):
    scores, folds = torch.full((4,), score, dtype=torch.float64), torch.arange(4) % 2
    return Entry(name, name, FIT, Validation(scores, folds, torch.ones(4, dtype=torch.float64), True))


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_score_that_is_nan_ranks_last(bad):
    entries = [entry("nan", bad), entry("low", -2.0), entry("high", -1.0)]
    for _ in range(3):
        entries = entries[1:] + entries[:1]
        assert [each.model for each in sorted(entries, key=_rank)] == ["high", "low", "nan"]
    assert "Train" not in Comparison((entry("nan", bad), entry("other", bad))).verdict


def test_a_statistic_that_is_nan_has_no_p_value():
    assert 0 < hypotheses._chi_squared("test", "a = 0", 1.0, 1).p_value < 1
    with pytest.raises(ModelError, match="a = 0"):
        hypotheses._chi_squared("test", "a = 0", math.nan, 1)


def test_vuong_of_rows_without_likelihood(monkeypatch):
    other = mle(models.poisson, X[:, :1], COUNTS)
    assert 0 <= hypotheses.vuong_test(FIT, other).p_value <= 1
    monkeypatch.setattr(type(FIT.objective), "log_likelihood", lambda self, theta: COUNTS * math.nan)
    with pytest.raises(ModelError, match="finite"):
        hypotheses.vuong_test(FIT, other)


def profile_of(value):
    line = SimpleNamespace(value=lambda z: value(float(z[0])), pull_back=lambda unit: unit, rows=1)
    one = torch.ones((1, 1), dtype=torch.float64)
    return profiles.Profile(line, torch.zeros(1, dtype=torch.float64), one, 0, "`a`")


def test_a_profile_of_nan_has_no_open_end():
    """An end at infinity says that the likelihood never falls so low."""
    with pytest.raises(ModelError, match="`a`"):
        profile_of(lambda a: 0.5 * a**2 if a < 1.8 else math.nan).end(1.96)


def test_a_profile_that_is_infinite_farther_out_ends_inside():
    profile = profile_of(lambda a: 0.5 * a**2 + a if a < 2.0 else math.inf)
    assert profile.end(2.0) == pytest.approx(math.sqrt(5) - 1, abs=1e-6)


def test_heads_whose_distance_is_nan_are_not_near():
    found = SimpleNamespace(kinked=True, value=lambda z: math.nan, objective=FIT.objective)
    assert math.isnan(information._distance(found, torch.zeros(3)))


@pytest.mark.parametrize("structure", ["kronecker", "full", "last_layer", "diagonal"])
def test_a_network_whose_information_is_nan_has_no_covariance(structure, monkeypatch):
    fit = mle(NETWORK, LINE, WAVE)
    laplace_approximation(fit, structure, prior_precision=1.0)
    known = structures.row_curvature

    def spoilt_curvature(network, part):
        return tuple(each * math.inf for each in known(network, part))

    monkeypatch.setattr(structures, "row_curvature", spoilt_curvature)
    layers = structures.linear_layers

    def spoilt_layers(network):
        found, rows = layers(network)
        return [structures.replace(each, outputs=each.outputs * math.nan) for each in found], rows

    monkeypatch.setattr(structures, "linear_layers", spoilt_layers)
    with pytest.raises(ModelError, match="not finite"):
        laplace_approximation(fit, structure, prior_precision="evidence")


def test_a_lasso_path_of_nan_is_not_certified():
    one = torch.eye(2, dtype=torch.float64)
    curve = lasso.Parabola(torch.zeros(2, dtype=torch.float64), 1.0, one[0], one, 10)
    grid = torch.tensor([2.0, 0.5], dtype=torch.float64)
    flat = torch.zeros(2, dtype=torch.float64)
    penalty = SimpleNamespace(l1=one[0] + one[1], l2=flat, centre=flat)
    assert lasso._curve_path(curve, penalty, flat, grid).converged.all()
    broken = SimpleNamespace(l1=penalty.l1, l2=flat, centre=flat * math.nan)
    assert not lasso._curve_path(curve, broken, flat, grid).converged.any()


def test_a_refit_that_is_not_finite_is_left_out(monkeypatch):
    together = resampling._together

    def spoilt_refits(*args):
        params, optimal = together(*args)
        params = {name: value.clone() for name, value in params.items()}
        params["log_rate.weight"][1, 0] = math.nan
        params["log_rate.bias"][2] = math.inf
        return params, optimal

    monkeypatch.setattr(resampling, "_together", spoilt_refits)
    with pytest.warns(match="2 of 10"):
        found = resampling.bootstrap(FIT, draws=10)
    assert list(np.flatnonzero(~found.converged)) == [1, 2]
    assert np.isfinite(found.standard_errors).all()


def test_a_leverage_that_is_not_a_number_is_refused():
    data = prepare(torch.zeros((3, 1), dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    for leverage in (math.nan, 1.2):
        with pytest.raises(ModelError, match=f"row 1 has a leverage of {leverage:g}"):
            covariances._check_leverages(torch.tensor([0.5, leverage, 0.2]), data)
    covariances._check_leverages(torch.tensor([0.5, 0.6, 0.2]), data)


@pytest.mark.parametrize("entry", [math.nan, math.inf])
def test_a_hessian_that_is_not_finite_is_not_curved(entry):
    hessians = torch.eye(2, dtype=torch.float64).repeat(3, 1, 1)
    hessians[1, 0, 0] = entry
    hessians[2, 0, 1] = hessians[2, 1, 0] = entry
    assert is_curved(hessians).tolist() == [True, False, False]
