"""What ArviZ is given: the groups, their names, and that ArviZ's own functions work on them."""

import sys
from types import ModuleType

import arviz as az
import matplotlib as mpl
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive
from pyro.infer.autoguide import AutoNormal

from neglog import flat, from_pyro, mle, models, posterior, to_arviz
from neglog.errors import DataError, ModelError

GROUPS = {"posterior", "log_likelihood", "posterior_predictive", "observed_data", "constant_data"}


NEW = int(az.__version__.partition(".")[0]) >= 1
"""Whether groups are in an `xarray.DataTree`: the tests run with either generation of ArviZ."""


def groups(exported):
    return {path.strip("/") for path in exported.groups} - {""} if NEW else set(exported.groups())


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(1)
    x = pd.DataFrame(rng.normal(size=(100, 2)), columns=["age", "height"])
    return x, x["age"] + rng.normal(size=100)


@pytest.fixture(scope="module")
def found(table):
    return posterior(models.gaussian, *table, method="laplace", draws=1000)


@pytest.fixture(scope="module")
def exported(found):
    return to_arviz(found, draws=50)


def simple(x, y=None):
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal(shift, 1.0), obs=y)


def test_a_posterior_has_all_groups_and_names(exported, found, table):
    assert groups(exported) == GROUPS | {"prior", "prior_predictive", "sample_stats"}
    weight = exported.posterior["mean.weight"]
    assert weight.dims == ("chain", "draw", "column")
    assert weight.coords["column"].values.tolist() == ["age", "height"]
    np.testing.assert_array_equal(weight.sel(column="age"), found.draws["mean.weight"][..., 0])
    assert exported.constant_data["x"].dims == ("row", "column")
    assert exported.prior["sigma"].shape == (1, 50)
    assert exported.prior_predictive["y"].dims == ("chain", "draw", "row")
    np.testing.assert_array_equal(exported.observed_data["y"], table[1])


def test_the_log_likelihood_is_that_of_each_draw_and_row(exported, table):
    at = exported.posterior.isel(chain=0, draw=7)
    mean = at["mean.bias"].item() + table[0].to_numpy() @ at["mean.weight"].to_numpy()
    sigma = torch.tensor(at["sigma"].item(), dtype=torch.float64)
    expected = dist.Normal(torch.from_numpy(mean), sigma).log_prob(torch.tensor(table[1].to_numpy()))
    np.testing.assert_allclose(exported.log_likelihood["y"].isel(chain=0, draw=7), expected, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:The inplace keyword", "ignore:Passing a dict or None")  # ArviZ's own
def test_arviz_works_on_it(exported, table):
    y = table[1].to_numpy()
    without = posterior(models.gaussian, np.zeros((100, 0)), y, method="laplace", draws=1000)
    ranking = az.compare({"line": exported, "constant": to_arviz(without)})
    assert ranking.index[0] == "line"
    leave_one_out = az.loo(exported, pointwise=True)
    elpd = float(leave_one_out.elpd if NEW else leave_one_out.elpd_loo)
    assert np.isfinite(elpd)
    assert elpd < float(exported["log_likelihood"]["y"].mean(("chain", "draw")).sum())
    values = np.asarray(az.loo_pit(exported)["y"] if NEW else az.loo_pit(exported, y="y"))
    assert values.shape == (100,)
    assert ((values >= 0) & (values <= 1)).all()
    # Uniform, within four standard errors of a mean of 100.
    assert abs(values.mean() - 0.5) < 4 / np.sqrt(12 * 100)
    with mpl.rc_context({"backend": "agg"}):
        if NEW:
            az.plot_ppc_dist(exported, num_samples=5, backend="matplotlib")
            az.plot_loo_pit(exported, backend="matplotlib")
        else:
            az.plot_ppc(exported, num_pp_samples=5)
            az.plot_loo_pit(exported, y="y")
        mpl.pyplot.close("all")
    assert list(az.summary(exported, kind="stats").index[:2]) == ["mean.weight[age]", "mean.weight[height]"]


def test_a_fit_is_one_draw(table):
    fit = mle(models.gaussian, *table)
    exported = to_arviz(fit, draws=40)
    assert groups(exported) == GROUPS
    assert exported.posterior["sigma"].shape == (1, 1)
    assert exported.posterior_predictive["y"].shape == (1, 40, 100)
    assert float(exported.log_likelihood["y"].sum()) == pytest.approx(-fit.nll, rel=1e-12)


def test_a_flat_prior_is_left_out(table):
    exported = to_arviz(posterior(flat(models.gaussian), *table, method="laplace", draws=100))
    assert "prior" not in groups(exported)


def test_many_designs_outputs_and_weights_have_names(table):
    x, y = table
    both = pd.DataFrame({"left": y, "right": y.to_numpy() ** 2})
    designs = {"mean": x, "scale": x[["age"]]}
    weights = np.repeat([1.0, 0.0], [99, 1])
    exported = to_arviz(mle(models.multivariate_gaussian, x, both, weights=weights), draws=10)
    assert exported.posterior["mean.weight"].dims == ("chain", "draw", "mean_output", "column")
    assert exported.posterior_predictive["y"].dims == ("chain", "draw", "row", "response")
    assert exported.observed_data.coords["response"].values.tolist() == ["left", "right"]
    assert exported.constant_data["weights"].shape == (99,)
    own = to_arviz(mle(models.laplace, {"median": designs["mean"], "scale": designs["scale"]}, y), draws=10)
    assert own.posterior["median.weight"].dims[-1] == "median_column"
    assert own.posterior["log_scale.weight"].coords["scale_column"].values.tolist() == ["age"]


@pytest.mark.parametrize("version", ["1.2.0", "0.23.4"])
def test_either_signature_of_arviz_is_served(monkeypatch, table, version):
    """From 1.0 on `from_dict` takes the groups as one mapping, and refuses them as keywords."""

    def old(posterior=None, *, dims=None, coords=None, **groups):
        return {"posterior": posterior, **groups}, dims, coords

    def new(data, *, name=None, sample_dims=None, coords=None, dims=None):
        return data, dims, coords

    stub = ModuleType("arviz")
    stub.__version__, stub.from_dict = version, new if version.startswith("1") else old
    fit = mle(models.gaussian, *table)
    monkeypatch.setitem(sys.modules, "arviz", stub)
    groups, dims, coords = to_arviz(fit, draws=3)
    assert set(groups) == GROUPS
    assert dims["mean.weight"] == ["column"]
    assert coords["column"] == ["age", "height"]


@pytest.mark.usefixtures("seeded")
def test_pyros_own_samples_are_taken():
    x, y = torch.zeros(6), torch.tensor([0.1, 0.5, -0.3, 1.0, 0.7, 0.2])
    chain = MCMC(NUTS(simple), num_samples=60, warmup_steps=60, disable_progbar=True)
    chain.run(x, y)
    drawn = Predictive(simple, chain.get_samples())(x)
    exported = from_pyro(chain, x, y, model=simple, posterior_predictive=drawn, coords={"row": range(6)},
                         dims={"y": ["row"]})  # fmt: skip
    assert exported.posterior["shift"].shape == (1, 60)
    assert exported.sample_stats["diverging"].shape == (1, 60)
    assert exported.log_likelihood["y"].dims == ("chain", "draw", "row")
    shift = chain.get_samples()["shift"][3]
    known = dist.Normal(shift, 1.0).log_prob(y)
    np.testing.assert_allclose(exported.log_likelihood["y"][0, 3], known, rtol=1e-6)

    prior = Predictive(simple, num_samples=20)(x)
    from_prior = from_pyro({"shift": prior["shift"]}, prior=prior)
    assert from_prior.prior["y"].shape[:2] == (1, 20)

    guide = AutoNormal(simple)
    guide(x, y)
    of_guide = from_pyro(guide, x, y, draws=30)
    assert list(of_guide.posterior) == ["shift"]
    assert of_guide.posterior["shift"].shape == (1, 30)
    with pytest.raises(DataError, match="needs 60 draws"):
        from_pyro(chain, posterior_predictive={"y": torch.zeros(5, 6)})
    with pytest.raises(ModelError, match="`source` must be"):
        from_pyro(3)
