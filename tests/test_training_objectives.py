"""Objectives of training: derivatives against their definitions, laws, and what a fit under them refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from neglog import (
    Fit,
    beta_nll,
    cross_validate,
    faithful,
    information_criteria,
    likelihood_ratio_test,
    log_likelihood,
    map_estimate,
    mle,
    models,
    on_features,
    posterior,
    predict,
    scores,
    summary,
    wald_test,
    warm_up,
    weighted,
)
from neglog.distributions.family import location_of, scale_of
from neglog.errors import ConvergenceWarning, ModelError
from neglog.solvers import SVI, Adam, Newton

torch.manual_seed(0)
X = torch.rand(80, 1, dtype=torch.float64) * 6 - 3
Y = torch.sin(2 * X[:, 0]) + (0.1 + 0.2 * X[:, 0].abs()) * torch.randn(80, dtype=torch.float64)
UNIT = Y.std(correction=0)
HEAD = {"mean.weight": torch.zeros(8), "mean.bias": torch.zeros(())}
STEPS: dict[str, Any] = {"epochs": 6, "batch_size": 20, "rescale": False}


def trunk(*more: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(1, 8), *more, nn.Tanh()).double()


def network(model: Any = models.heteroscedastic, *more: nn.Module) -> Any:
    return on_features(model, trunk(*more))


def quietly(model: Any, solver: Any, x: Any = X, y: Any = Y, **more: Any) -> Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mle(model, x, y, solver=solver, **more)


MODELS: dict[str, tuple[Any, Any]] = {
    "normal": (models.heteroscedastic, X),
    "laplace": (models.laplace, {"location": X, "scale": X}),
    "student": (models.student_t, {"location": X, "scale": X}),
    "logistic": (models.logistic, X),
}


def gradients(model: Any, x: Any, loss: Callable[[Any], Tensor]) -> list[Tensor]:
    """The gradient of a loss of the site of the response, in all parameters at draws from their priors."""
    pyro.set_rng_seed(3)
    values = {
        name: site["value"].detach().double().requires_grad_()
        for name, site in poutine.trace(model).get_trace(x, Y).nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and "Subsample" not in type(site["fn"]).__name__
    }
    site = poutine.trace(poutine.condition(model, data=values)).get_trace(x, Y).nodes["y"]
    found = torch.autograd.grad(loss(site), list(values.values()), allow_unused=True, materialize_grads=True)
    return list(found)


def as_it_is(site: Any) -> Tensor:
    return -(site["scale"] * site["fn"].log_prob(site["value"])).sum()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_gradient_of_beta_nll_is_that_of_its_definition(name: str, beta: float) -> None:
    model, x = MODELS[name]

    def definition(site: Any) -> Tensor:
        weight = scale_of(site["fn"]).detach() ** (2 * beta)
        return -(weight * site["fn"].log_prob(site["value"])).sum()

    for mine, known in zip(
        gradients(beta_nll(model, beta), x, as_it_is), gradients(model, x, definition), strict=True
    ):
        torch.testing.assert_close(mine, known, rtol=1e-12, atol=1e-12)


def test_at_beta_1_the_location_of_a_normal_density_has_the_gradient_of_the_squared_error() -> None:
    def squared(site: Any) -> Tensor:
        return 0.5 * (site["value"] - location_of(site["fn"])).square().sum()

    mine, known = (
        gradients(beta_nll(models.heteroscedastic, 1.0), X, as_it_is),
        gradients(models.heteroscedastic, X, squared),
    )
    for place in (0, 1):  # the bias and the weight of the mean
        torch.testing.assert_close(mine[place], known[place], rtol=1e-12, atol=1e-12)


def test_at_beta_0_training_is_that_on_the_likelihood() -> None:
    plain, zero = (quietly(model, Adam(**STEPS)) for model in (network(), beta_nll(network(), 0)))
    assert zero.losses == plain.losses
    assert zero.nll == plain.nll


@pytest.mark.parametrize("name", ["normal", "laplace", "student"])
def test_the_gradient_of_faithful_is_that_of_its_definition(name: str) -> None:
    model, x = MODELS[name]

    def definition(site: Any) -> Tensor:
        fn, y = site["fn"], site["value"]
        location, scale = location_of(fn), scale_of(fn)
        assert location is not None
        assert scale is not None
        others = {key: getattr(fn, key) for key in ("df",) if hasattr(fn, key)}
        names = {"location": "loc"} if "loc" in fn.arg_constraints else {"location": "location"}
        first = type(fn)(**{names["location"]: location, "scale": torch.ones_like(scale)}, **others)
        second = type(fn)(**{names["location"]: location.detach(), "scale": scale}, **others)
        return -(first.log_prob(y) + second.log_prob(y)).sum()

    for mine, known in zip(
        gradients(faithful(model), x, as_it_is), gradients(model, x, definition), strict=True
    ):
        torch.testing.assert_close(mine, known, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "more", [(), (nn.BatchNorm1d(8), nn.Dropout(0.2))], ids=["plain", "in training mode"]
)
def test_the_mean_of_faithful_is_bit_by_bit_that_of_a_constant_scale(more: tuple[nn.Module, ...]) -> None:
    constant = pyro.condition(models.gaussian, {"sigma": UNIT})
    alone = quietly(network(constant, *more), Adam(**STEPS), start=HEAD)
    fit = quietly(faithful(network(models.heteroscedastic, *more)), Adam(**STEPS), start=HEAD)
    for name, value in alone.params.items():
        assert torch.equal(fit.params[name], value), name
    for name, value in alone.buffers.items():
        assert torch.equal(fit.buffers[name], value), name


@pytest.mark.parametrize("handler", [beta_nll, faithful])
def test_the_literal_path_takes_the_same_steps(handler: Any) -> None:
    fits = [quietly(handler(network()), solver(**STEPS)) for solver in (Adam, SVI)]
    assert fits[0].losses == pytest.approx(fits[1].losses, rel=1e-10)


def test_the_fit_reports_the_likelihood_and_keeps_predictions_and_scores() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = mle(faithful(network()), X, Y, solver=Adam(**STEPS))
    assert fit.trained_on == "faithful()"
    assert "no likelihood" in fit.status
    assert not fit.converged
    assert fit.nll == pytest.approx(-log_likelihood(fit, X, Y).sum().item(), rel=1e-12)
    assert predict(fit, X).stddev.shape == (80,)
    assert bool(torch.isfinite(scores(fit, X, Y, kind="crps")).all())
    held_out = cross_validate(faithful(network()), X, Y, solver=Adam(**STEPS), folds=2)
    assert bool(torch.isfinite(held_out.scores).all())


def of(fit: Fit) -> dict[str, Callable[[], Any]]:
    plain = quietly(network(), Adam(**STEPS))
    return {
        "aic": lambda: fit.aic,
        "aicc": lambda: fit.aicc,
        "bic": lambda: fit.bic,
        "criteria": lambda: information_criteria({"a": fit, "b": plain}),
        "errors": lambda: summary(fit),
        "wald": lambda: wald_test(fit, "mean.bias = 0"),
        "ratio": lambda: likelihood_ratio_test(fit, plain),
    }


def test_what_needs_a_likelihood_is_refused_in_one_sentence() -> None:
    fit = quietly(beta_nll(network()), Adam(**STEPS))
    for name, call in of(fit).items():
        with pytest.raises(ModelError, match=r"`beta_nll\(beta=0.5\)` is no likelihood") as error:
            call()
        assert str(error.value).count(". ") == 0, name
    for refused in (map_estimate, posterior):
        with pytest.raises(ModelError, match="is no likelihood"):
            refused(faithful(network()), X, Y)


def test_objectives_that_do_not_fit_a_model_or_a_solver_are_refused() -> None:
    with pytest.raises(ModelError, match="outermost"):
        quietly(weighted(beta_nll(models.heteroscedastic), 2.0), Adam(**STEPS))
    with pytest.raises(ModelError, match="a scale"):
        mle(beta_nll(models.poisson), X, Y.abs().round(), solver=Adam(**STEPS))
    with pytest.raises(ModelError, match="gradient steps"):
        mle(faithful(models.heteroscedastic), X, Y, solver=Newton())
    with pytest.raises(ModelError, match="`beta`"):
        beta_nll(models.heteroscedastic, 2.0)
    with pytest.raises(ModelError, match="`epochs`"):
        warm_up(models.heteroscedastic, 0)


def test_a_network_is_put_inside_an_objective() -> None:
    around = quietly(network(beta_nll(models.heteroscedastic)), Adam(**STEPS))
    within = quietly(beta_nll(network()), Adam(**STEPS))
    assert around.trained_on == within.trained_on == "beta_nll(beta=0.5)"
    assert around.losses == within.losses


def test_warming_up_trains_the_location_first_and_ends_in_the_likelihood() -> None:
    solver = Adam(**STEPS, learning_rate=0.01)
    fit = quietly(warm_up(network(), 3), solver, start=HEAD)
    constant = pyro.condition(models.gaussian, {"sigma": UNIT})
    first = Adam(**{**STEPS, "epochs": 3}, learning_rate=0.01, decay=1.0)
    alone = quietly(network(constant), first, start=HEAD)
    assert fit.losses[:12] == pytest.approx(alone.losses, rel=1e-12)
    assert len(fit.losses) == 12 + 24
    after = {name: value for name, value in alone.params.items() if name != "sigma"}
    log_variance = {"log_variance.weight": torch.zeros(8), "log_variance.bias": torch.zeros(())}
    begun = quietly(warm_up(network(), 3), solver, start={**HEAD, **log_variance})
    again = quietly(network(), solver, start={**after, **log_variance})
    assert begun.losses[12:] == pytest.approx(again.losses, rel=1e-9)
    assert fit.trained_on == ""
    assert fit.aic > 0
    assert map_estimate(warm_up(models.heteroscedastic, 2), X, Y, solver=Adam(epochs=900)).converged
