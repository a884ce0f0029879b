"""Formulas without an intercept: whatever takes their designs holds the bias at 0, or refuses them."""

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

from neglog import (
    bootstrap,
    export,
    lasso_path,
    map_estimate,
    masked,
    mle,
    mle_batch,
    models,
    on_features,
    posterior,
    predict,
    prior_predictive,
    priors_for,
    quantile_process,
    scores,
    spool,
    summary,
    with_priors,
)
from neglog.candidates import set_up
from neglog.errors import ModelError
from neglog.formula import Learned, learn
from neglog.solvers import SVI
from neglog.validation import cross_validate

BIAS = "mean.bias"


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    generator = np.random.default_rng(4)
    age = generator.uniform(20, 80, 80)
    return pd.DataFrame(
        {
            "age": age,
            "size": generator.uniform(1, 2, 80),
            "group": generator.choice(["a", "b"], 80),
            "y": 50 + 0.1 * age + generator.normal(size=80),
        }
    )


@pytest.fixture(scope="module", params=["y ~ 0 + age", "y ~ age - 1", "y ~ -1 + age"])
def learned(request: pytest.FixtureRequest, table: pd.DataFrame) -> Learned:
    return learn(request.param, table)


def through_zero(table: pd.DataFrame) -> float:
    return float((table.age * table.y).sum() / (table.age**2).sum())


def test_a_fit_has_the_slope_through_the_origin(learned: Learned, table: pd.DataFrame) -> None:
    design = learned.design
    for x in (design.x(table, ("mean",), ("sigma",)), {"mean": design.main.design(table)}):
        fit = mle(models.gaussian, x, design.y(table))
        assert fit.params["mean.weight"].item() == pytest.approx(through_zero(table), rel=1e-12)
        assert BIAS not in fit.params
        assert list(summary(fit).index) == [("mean", "age"), ("sigma", "")]
        np.testing.assert_allclose(predict(fit, x).mean, through_zero(table) * table.age, rtol=1e-12)
        np.testing.assert_allclose(
            predict(fit, x.iloc[:3] if isinstance(x, pd.DataFrame) else x).mean[0],
            through_zero(table) * table.age[0],
            rtol=1e-12,
        )


def test_python_and_the_command_line_agree(table: pd.DataFrame) -> None:
    for formula, also, name in [
        ("y ~ 0 + age", [], "gaussian"),
        ("y ~ 0 + group", ["log_variance ~ 0 + size"], "heteroscedastic"),
        ("y ~ age", ["sigma ~ 0 + size"], "gaussian"),
        ("y ~ 0 + age", ["scale ~ size - 1"], "laplace"),
    ]:
        design = learn(formula, table, also).design
        bound, x = set_up(name, design, table)
        y = design.y(table)
        theirs, ours = mle(bound, x, y), mle(getattr(models, name), x, y)
        assert ours.params.keys() == theirs.params.keys()
        assert ours.nll == pytest.approx(theirs.nll, rel=1e-9)


def test_an_intercept_is_kept_where_the_formula_has_one(table: pd.DataFrame) -> None:
    for formula in ("y ~ age", "y ~ 1 + age"):
        design = learn(formula, table).design
        assert BIAS in mle(models.gaussian, design.x(table, ("mean",)), design.y(table)).params


def test_everything_that_fits_obeys(table: pd.DataFrame, tmp_path: Path) -> None:
    design = learn("y ~ 0 + age", table).design
    x, y, slope = design.x(table, ("mean",)), design.y(table), through_zero(table)
    gaussian, flat_slope = models.gaussian, pytest.approx(slope, rel=1e-4)
    fits = {
        "map": map_estimate(gaussian, x, y),
        "rows": mle(gaussian, x.iloc[:70], y.iloc[:70]),
        "masked": mle(masked(gaussian), x, y.where(table.age < 79)),
        "saved": export.load(export.save(mle(gaussian, x, y), tmp_path / "fit")),
        "spooled": mle(gaussian, **spool([(x.iloc[:40], y.iloc[:40]), (x.iloc[40:], y.iloc[40:])])),
    }
    for name, fit in fits.items():
        assert BIAS not in fit.params, name
        assert fit.params["mean.weight"].item() == pytest.approx(slope, rel=0.02), name
    assert fits["spooled"].params["mean.weight"].item() == flat_slope
    batch = mle_batch(gaussian, x, torch.tensor(np.stack([y, 2 * y])))
    assert batch.params["mean.weight"].flatten().tolist() == pytest.approx([slope, 2 * slope], rel=1e-9)
    found = bootstrap(mle(gaussian, x, y), draws=20, seed=0)
    assert ("mean", "(Intercept)") not in found.draws.columns
    drawn = posterior(gaussian, x, y, method="laplace", draws=200)
    assert BIAS not in drawn.draws
    assert BIAS not in priors_for(gaussian, x, y)
    for response in (None, y):
        assert BIAS not in prior_predictive(gaussian, x, response, draws=2).draws
    for fit in quantile_process(x, y, [0.3, 0.6]).fits.values():
        assert "quantile.bias" not in fit.params
    prior = {"mean.weight": dist.Laplace(torch.zeros((), dtype=torch.float64), 1.0)}
    assert BIAS not in lasso_path(with_priors(gaussian, prior), x, y, n_strengths=3).params


def test_held_out_rows_are_scored_without_it(table: pd.DataFrame) -> None:
    design = learn("y ~ 0 + age", table).design
    x, y = design.x(table, ("mean",)), design.y(table)
    bound, same = set_up("gaussian", design, table)
    ours, theirs = cross_validate(models.gaussian, x, y), cross_validate(bound, same, y)
    assert ours.mean == pytest.approx(theirs.mean, rel=1e-9)
    fit = mle(models.gaussian, x, y)
    assert float(scores(fit, x, y).mean()) == pytest.approx(-fit.nll / len(y), rel=1e-9)


def test_the_literal_path_obeys(table: pd.DataFrame) -> None:
    design = learn("y ~ 0 + size", table).design
    x, y = design.x(table, ("mean",)), design.y(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = mle(models.gaussian, x, y, solver=SVI(steps=5))
    assert set(fit.params) == {"mean.weight", "sigma"}


def test_one_design_without_an_intercept_for_two_predictors_is_refused(table: pd.DataFrame) -> None:
    learned = learn("y ~ 0 + age", table)
    x, y = learned.design.x(table, ("mean",)), learned.design.y(table)
    with pytest.raises(ModelError, match="serves 'mean', 'log_variance'") as caught:
        mle(models.heteroscedastic, x, y)
    remedy = str(caught.value).partition("x=")[2].rstrip(".")
    fit = mle(models.heteroscedastic, eval(remedy, {"learned": learned, "table": table}), y)
    assert BIAS not in fit.params
    assert "log_variance.bias" in fit.params


def test_a_network_on_a_design_without_an_intercept_is_refused(table: pd.DataFrame) -> None:
    design = learn("y ~ 0 + age", table).design
    network = on_features(models.gaussian, torch.nn.Linear(1, 2, dtype=torch.float64))
    with pytest.raises(ModelError, match=r"network.*Write the formula with an intercept: `y ~ x`"):
        mle(network, design.x(table, ("mean",)), design.y(table))


def test_a_model_without_linear_decides_for_itself(table: pd.DataFrame) -> None:
    import pyro

    def line(x: torch.Tensor, y: torch.Tensor | None = None) -> None:
        slope = pyro.sample("slope", dist.Normal(torch.tensor(0.0, dtype=torch.float64), 10.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x[:, 0] * slope, 1.0), obs=y)

    design = learn("y ~ 0 + age", table).design
    fit = mle(line, design.x(table, ("mean",)), design.y(table))
    assert math.isclose(fit.params["slope"].item(), through_zero(table), rel_tol=1e-9)
