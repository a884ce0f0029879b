"""Priors in the units of the data: their rule, and that units do not matter."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

from neglog import cross_validate, flat, map_estimate, mle, models, priors_for, weighted, with_priors
from neglog.errors import DataError

X = np.array([[0.0, 5.0], [1.0, 3.0], [2.0, 7.0], [4.0, 1.0], [5.0, 2.0]])
Y = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
SD_X, SD_Y = X.std(0, ddof=1), Y.std(ddof=1)
REACH = math.sqrt(1 + ((X.mean(0) / SD_X) ** 2).sum())


def numbers(prior):
    return [getattr(prior, name).tolist() for name in prior.arg_constraints]


def test_the_rule_in_the_units_of_y():
    found = priors_for(models.gaussian, X, Y)
    assert set(found) == {"mean.weight", "mean.bias", "sigma"}
    assert found["mean.weight"].loc.tolist() == [0.0, 0.0]
    assert found["mean.weight"].scale.tolist() == pytest.approx((2.5 * SD_Y / SD_X).tolist(), rel=1e-12)
    assert numbers(found["mean.bias"]) == pytest.approx([Y.mean(), 2.5 * SD_Y * REACH], rel=1e-12)
    assert numbers(found["sigma"]) == pytest.approx([1 / SD_Y], rel=1e-12)


@pytest.mark.parametrize(
    ("model", "predictor", "y", "centre"),
    [
        (models.poisson, "log_rate", Y, math.log(4.0)),
        (models.gamma, "log_mean", Y, math.log(4.0)),
        (models.lognormal, "log_median", Y, math.log(4.0)),
        (models.beta, "logit_mean", Y / 10, 0.0),
        (models.bernoulli, "logit", Y.round() % 2, 0.0),
        (models.heteroscedastic, "log_variance", Y, 2 * math.log(SD_Y)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_rule_behind_a_link(model, predictor, y, centre):
    found = priors_for(model, X, y)
    assert found[f"{predictor}.weight"].scale.tolist() == pytest.approx((2.5 / SD_X).tolist(), rel=1e-12)
    assert numbers(found[f"{predictor}.bias"]) == pytest.approx([centre, 2.5 * REACH], rel=1e-12, abs=1e-12)


def test_a_rate_is_one_of_the_exposure():
    exposure = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = priors_for(models.poisson, X, Y, exposure=exposure)
    assert found["log_rate.bias"].loc.item() == pytest.approx(math.log(Y.sum() / exposure.sum()), rel=1e-12)


def test_weights_count_rows():
    weights = np.array([1.0, 2.0, 1.0, 3.0, 1.0])
    rows = np.repeat(np.arange(5), weights.astype(int))
    found = priors_for(models.laplace, X, Y, weights=weights)
    expected = priors_for(models.laplace, X[rows], Y[rows])
    for name in expected:
        assert numbers(found[name]) == [pytest.approx(value, rel=1e-12) for value in numbers(expected[name])]


@pytest.mark.parametrize("model", [models.gaussian, models.laplace, models.student_t, models.heteroscedastic])
def test_units_do_not_matter(model):
    """In other units of x and y the MAP estimate is the same line."""
    rng = np.random.default_rng(3)
    x = np.vstack([X] * 8) + rng.normal(size=(40, 2))
    y = x @ [1.0, -2.0] + rng.normal(size=40)
    units = np.array([1000.0, 0.01])
    one = map_estimate(with_priors(model, priors_for(model, x, y)), x, y)
    other = map_estimate(with_priors(model, priors_for(model, x * units, 100 * y)), x * units, 100 * y)
    name = next(iter(one.params))
    assert torch.allclose(other.params[name] * torch.from_numpy(units) / 100, one.params[name], rtol=1e-6)


def test_vectors_have_a_unit_for_each_component():
    y = np.column_stack([Y, 100 * Y[::-1] + X[:, 0]])
    found = priors_for(models.multivariate_gaussian, X, y)
    assert found["mean.weight"].scale.shape == (2, 2)
    sd = y.std(0, ddof=1)
    assert found["mean.bias"].loc.tolist() == pytest.approx(y.mean(0).tolist())
    assert found["scale"].rate.tolist() == pytest.approx((1 / sd).tolist())
    assert "correlation_cholesky" not in found


MANY, RESPONSES = np.random.default_rng(0).normal(size=(20, 2)), np.random.default_rng(1).normal(size=20)


@pytest.mark.parametrize("x", [MANY, {"mean": MANY, "sigma": MANY}], ids=["mean", "both"])
def test_priors_of_each_column_hold_for_formulas(x):
    table = pd.DataFrame(MANY, columns=["a", "b"]).assign(y=RESPONSES)
    formula = dict.fromkeys(x, "y ~ a + b") if isinstance(x, dict) else "y ~ a + b"
    priors = priors_for("gaussian", formula, table)
    assert priors["mean.weight"].batch_shape == (2,)
    found = map_estimate(with_priors("gaussian", priors), formula, table)
    same = map_estimate(with_priors("gaussian", priors_for("gaussian", x, RESPONSES)), x, RESPONSES)
    assert found.loss == pytest.approx(same.loss, rel=1e-12)


@pytest.mark.parametrize("inside", [lambda model: weighted(model, 2.0), flat], ids=["weighted", "flat"])
def test_priors_of_each_column_hold_inside_handlers(inside):
    table = pd.DataFrame(MANY, columns=["a", "b"]).assign(y=np.arange(20) % 3)
    priors = {"logit.weight": dist.Normal(torch.zeros(2), torch.ones(2))}
    model = inside(with_priors("categorical", priors))
    assert map_estimate(model, "y ~ a + b", table).loss == pytest.approx(
        map_estimate(model, MANY, table["y"]).loss, rel=1e-12
    )


def test_priors_of_each_column_leave_the_null_model_its_own():
    model = with_priors("gaussian", priors_for("gaussian", MANY, RESPONSES))
    table = cross_validate(model, MANY, RESPONSES, folds=2, scores=["d2"]).table()
    assert table.loc["d2", "mean"] < 1.0


def test_what_never_varies_has_no_unit():
    x = X.copy()
    x[:, 1] = 3.0
    with pytest.raises(DataError, match=r"column 'x1' of `mean` is the same in every row"):
        priors_for(models.gaussian, x, Y)
    with pytest.raises(DataError, match=r"`y` is the same in every row"):
        priors_for(models.gaussian, X, np.ones(5))


@pytest.mark.parametrize("family", [dist.Gamma, dist.InverseGamma])
def test_a_prior_given_by_python_numbers_is_computed_in_the_precision_of_the_site(family):
    # Gamma casts values to the dtype of its parameters: float32 of Python's numbers.
    ends = [
        map_estimate(with_priors(models.gaussian, {"sigma": prior}), X, Y)
        for prior in (family(2.0, 1.0), family(*torch.tensor([2.0, 1.0], dtype=torch.float64)))
    ]
    assert all(fit.converged for fit in ends)
    torch.testing.assert_close(ends[0].params["sigma"], ends[1].params["sigma"], rtol=1e-12, atol=0)


def test_a_model_with_one_bound_argument_takes_a_formula():
    def scaled(by, x, y=None):
        return models.gaussian(x, None if y is None else by * y)

    table = pd.DataFrame({"y": Y, "a": X[:, 0]})
    plain = mle(models.gaussian, "y ~ a", table)
    assert mle(partial(scaled, 1.0), "y ~ a", table).nll == pytest.approx(plain.nll, rel=1e-9)
