"""Training on proper scores: the objective, its gradients, and quantiles that never cross."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pyro
import pytest
import scipy.integrate
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import neglog
from neglog import (
    beta_nll,
    datasets,
    losses,
    mle,
    models,
    on_features,
    predict,
    quantile_heads,
    score,
    scores,
)
from neglog.data import Data
from neglog.distributions import Normal
from neglog.distributions.interpolated import Interpolated
from neglog.errors import DataError, ModelError
from neglog.objective.objective import Objective
from neglog.solvers import SVI, Adam

pytestmark = pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")
ENGEL = datasets.load("engel") / 1000
X, Y = torch.tensor(ENGEL[["income"]].to_numpy()), torch.tensor(ENGEL["food_expenditure"].to_numpy())
TAUS = (0.1, 0.25, 0.5, 0.9)
SEVERAL = Interpolated(torch.tensor([-1.0, 0.0, 0.5, 3.0], dtype=torch.float64), TAUS)


def test_a_fit_by_the_crps_has_the_smallest_mean_crps():
    found = mle(score("gaussian"), X, Y, solver=Adam(steps=1500))
    least = float(scores(found, X, Y, "crps").mean())
    assert least < float(scores(mle("gaussian", X, Y), X, Y, "crps").mean())
    for name, value in found.params.items():
        for factor in (0.99, 1.01):
            moved = {**found.params, name: value * factor}
            at = Normal(X @ moved["mean.weight"] + moved["mean.bias"], moved["sigma"])
            assert float(neglog.prediction.crps.crps(at, Y).mean()) > least
    assert found.trained_on == 'score("crps")'
    with pytest.raises(ModelError, match=r"score\(\"crps\"\)"):
        _ = found.aic


def test_the_svi_loss_is_the_sum_of_the_scores():
    model = score(models.gaussian)
    at = {"mean.weight": torch.tensor([0.4]), "mean.bias": torch.tensor(0.2), "sigma": torch.tensor(0.1)}
    values = {name: value.double() for name, value in at.items()}
    with pyro.poutine.condition(data=values):
        guide = lambda x, y=None: None  # noqa: E731
        loss = Trace_ELBO().loss(lambda x, y=None: model(x, y), guide, X, Y)
    sites = pyro.poutine.trace(pyro.condition(models.gaussian, values)).get_trace(X, Y).nodes
    priors = sum(sites[name]["fn"].log_prob(value).sum() for name, value in values.items())
    expected = scores_of(values).sum() - priors
    assert loss == pytest.approx(float(expected), rel=1e-10)


def scores_of(values):
    at = Normal(X @ values["mean.weight"] + values["mean.bias"], values["sigma"])
    return neglog.prediction.crps.crps(at, Y)


def test_svi_and_adam_take_the_same_steps():
    literal = mle(score("gaussian"), X, Y, solver=SVI(pyro.optim.Adam({"lr": 0.01}), steps=20))
    fast = mle(score("gaussian"), X, Y, solver=Adam(steps=20, learning_rate=0.01, decay=1.0))
    np.testing.assert_allclose(literal.losses, fast.losses, rtol=1e-8)


@pytest.mark.parametrize(
    "objective", [score("gaussian"), quantile_heads(TAUS), beta_nll("heteroscedastic")], ids=lambda o: o.name
)
def test_gradients_of_minibatches_are_unbiased(objective):
    changed = Objective(objective.handler(1.0)(neglog.flat(objective.model)), Data(X, Y))
    theta = changed.initial + 0.1
    parts = torch.arange(len(Y)).split(47)
    each = [changed.take(part).gradient(theta) for part in parts]
    torch.testing.assert_close(sum(each), changed.gradient(theta), rtol=1e-9, atol=1e-9)


def test_quantiles_of_no_column_are_those_of_y():
    found = mle(quantile_heads(TAUS), X[:, :0], Y, solver=Adam(steps=1500, learning_rate=0.01))
    own = neglog.quantile(found, X[:1, :0], TAUS)[0]
    for tau, value in zip(TAUS, own, strict=True):
        assert abs(float((value >= Y).double().mean()) - tau) < 0.01


def test_the_median_of_heads_is_that_of_least_absolute_deviations():
    found = mle(quantile_heads([0.4, 0.5, 0.6]), X, Y, solver=Adam(steps=1000))
    known = mle(partial(models.quantile, tau=0.5), X, Y)
    pinball = [float(scores(fit, X, Y, "pinball@0.5").mean()) for fit in (found, known)]
    assert pinball[1] <= pinball[0] < 1.005 * pinball[1]


def test_quantiles_of_a_network_never_cross():
    torch.manual_seed(0)
    net = on_features(quantile_heads(TAUS), nn.Sequential(nn.Linear(1, 8), nn.Tanh()))
    fit = mle(net, X, Y, solver=Adam(steps=200, learning_rate=0.05))
    far = torch.linspace(-50, 50, 101, dtype=torch.float64)[:, None]
    assert (neglog.quantile(fit, far, TAUS).diff(dim=-1) > 0).all()
    assert fit.trained_on == "quantile_heads([0.1, 0.25, 0.5, 0.9])"


def test_the_density_between_quantiles_is_one():
    ends = [-np.inf, *SEVERAL.quantiles.tolist(), np.inf]

    def integral(function):
        def at(t):
            y = torch.tensor(t, dtype=torch.float64)
            return float(SEVERAL.log_prob(y).exp() * function(y))

        return sum(scipy.integrate.quad(at, *pair)[0] for pair in pairwise(ends))

    assert integral(lambda y: 1.0) == pytest.approx(1, rel=1e-9)
    mean = integral(lambda y: y)
    assert float(SEVERAL.mean) == pytest.approx(mean, rel=1e-8)
    assert float(SEVERAL.variance) == pytest.approx(integral(lambda y: (y - mean) ** 2), rel=1e-8)


def test_quantiles_and_tails_are_inverse_and_of_the_density():
    q = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    y = SEVERAL.icdf(q)
    torch.testing.assert_close(SEVERAL.cdf(y), q, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(SEVERAL.sf(y), 1 - q, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(SEVERAL.icdf(torch.tensor(TAUS).double()), SEVERAL.quantiles)
    leaf = (y + 1e-3).requires_grad_()
    (slope,) = torch.autograd.grad(SEVERAL.cdf(leaf).sum(), leaf)
    torch.testing.assert_close(slope, SEVERAL.log_prob(leaf).exp())
    with pytest.raises(ValueError, match="ascending"):
        Interpolated(torch.tensor([1.0, 0.0]), (0.1, 0.9), validate_args=True)


def test_losses_for_loops_of_ones_own():
    mean, log_variance = (X[:, 0] * 0.5).requires_grad_(), (0.1 * X[:, 0]).requires_grad_()
    loss = losses.loss_of(beta_nll(models.heteroscedastic, 0.5), reduction="none")
    expected = losses.heteroscedastic_nll(mean, Y, log_variance, reduction="none")
    expected = expected * log_variance.detach().mul(0.5).exp()
    torch.testing.assert_close(loss(mean, Y, log_variance), expected)
    crps = losses.loss_of(score(models.gaussian), learn="sigma", reduction="none")
    torch.testing.assert_close(
        crps(mean, Y), scores_of({"mean.weight": mean.new_tensor([0.5]), "mean.bias": 0.0, "sigma": 1.0})
    )
    assert list(crps.state_dict()) == ["log_sigma"]
    heads = losses.loss_of(quantile_heads([0.1, 0.9]))
    prediction = torch.stack([mean, mean.detach()], -1)
    assert float(heads(prediction, Y).detach()) > 0
    with pytest.raises(DataError, match="one output for each level"):
        heads(mean, Y)


def test_what_has_no_score_in_closed_form_and_other_levels_are_refused():
    with pytest.raises(ModelError, match="closed form"):
        mle(score("huber"), X, Y, solver=Adam(steps=1))
    for taus in ([0.5], [0.9, 0.1], 0.5, [0.1, 1.5]):
        with pytest.raises(ModelError, match="taus"):
            quantile_heads(taus)
    with pytest.raises(ModelError, match="crps"):
        score("gaussian", "log")


def test_predictions_are_those_of_the_density():
    found = mle(quantile_heads(TAUS), X, Y, solver=Adam(steps=100))
    assert isinstance(predict(found, X), Interpolated)
    assert float(-scores(found, X, Y).sum()) == pytest.approx(found.nll)
