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

from neglog import flat, mle, models, posterior, to_arviz
from neglog.errors import ModelError

GROUPS = {"posterior", "log_likelihood", "posterior_predictive", "observed_data", "constant_data"}


NEW = int(az.__version__.partition(".")[0]) >= 1
"""Whether groups are in an `xarray.DataTree`: the tests run with either generation of ArviZ."""


@pytest.fixture(autouse=True, scope="module")
def no_window():
    with mpl.rc_context({"backend": "agg"}):
        yield


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
    assert weight.dims == ("chain", "draw", "term")
    assert weight.coords["term"].values.tolist() == ["age", "height"]
    np.testing.assert_array_equal(weight.sel(term="age"), found.draws["mean.weight"][..., 0])
    assert exported.constant_data["x"].dims == ("observation", "term")
    assert exported.prior["sigma"].shape == (1, 50)
    assert exported.prior_predictive["y"].dims == ("chain", "draw", "observation")
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
    # ArviZ adds up normalised weights: where all draws are below y, that is 1 but for the rounding of a sum.
    assert ((values >= 0) & (values <= 1 + 8 * np.finfo(float).eps)).all()
    # Uniform, within four standard errors of a mean of 100.
    assert abs(values.mean() - 0.5) < 4 / np.sqrt(12 * 100)
    assert list(az.summary(exported, kind="stats").index[:2]) == ["mean.weight[age]", "mean.weight[height]"]


PLOTS = {
    False: {
        "plot_ppc": {"num_pp_samples": 5},
        "plot_loo_pit": {"y": "y"},
        "plot_forest": {},
        "plot_trace": {},
        "plot_posterior": {},
        "plot_dist_comparison": {"kind": "latent"},
    },
    True: {
        "plot_ppc_dist": {"num_samples": 5},
        "plot_ppc_pit": {},
        "plot_ppc_interval": {},
        "plot_loo_pit": {},
        "plot_forest": {},
        "plot_trace_dist": {},
        "plot_prior_posterior": {},
    },
}
"""ArviZ's pictures with what they need, of 0.x and of 1.x."""


@pytest.mark.filterwarnings("ignore:The inplace keyword", "ignore:Passing a dict or None")  # ArviZ's own
@pytest.mark.parametrize("plot", PLOTS[NEW])
def test_arviz_draws_it(exported, plot):
    """ArviZ 1.x has dimensions called `row` and `column` of its own in half of its pictures."""
    more = {"backend": "matplotlib"} if NEW else {}
    getattr(az, plot)(exported, **PLOTS[NEW][plot], **more)
    mpl.pyplot.close("all")


@pytest.mark.skipif(not NEW, reason="ArviZ 1.x")
@pytest.mark.parametrize("along", ["row", "column"])
def test_arviz_combines_its_plots(exported, along):
    plots = [(az.plot_ppc_dist, {"num_samples": 5}), (az.plot_ppc_pit, {})]
    az.combine_plots(exported, plots, expand=along, group="posterior_predictive", backend="matplotlib")
    mpl.pyplot.close("all")


def test_draws_of_nuts_are_judged_and_exported(table):
    pytest.importorskip("nutpie")
    found = posterior(models.gaussian, *table, draws=250, tune=200, seed=2)
    assert found.converged, found.status
    exported = to_arviz(found, draws=20)
    assert exported.posterior["mean.weight"].shape == (4, 250, 2)
    assert exported.sample_stats["diverging"].shape == (4, 250)
    if NEW:  # it compares chains, which an approximation has one of
        az.plot_rank_dist(exported, backend="matplotlib")
        mpl.pyplot.close("all")
    # ArviZ 1.x takes the tail of its summary from where its intervals end, at 5.5 %.
    asked = [{"method": "bulk"}, {"method": "tail", "prob": (0.05, 0.95)}]
    sizes = [float(az.ess(exported, var_names=["sigma"], **each)["sigma"]) for each in asked]
    assert min(sizes) == pytest.approx(float(found.ess["sigma"]), rel=1e-9)
    assert float(az.rhat(exported)["sigma"]) == pytest.approx(float(found.r_hat["sigma"]), rel=1e-9)


def test_a_fit_is_one_draw(table):
    fit = mle(models.gaussian, *table)
    exported = to_arviz(fit, draws=40)
    assert groups(exported) == GROUPS
    assert exported.posterior["sigma"].shape == (1, 1)
    assert exported.posterior_predictive["y"].shape == (1, 40, 100)
    assert float(exported.log_likelihood["y"].sum()) == pytest.approx(-fit.nll, rel=1e-12)


@pytest.mark.filterwarnings("ignore:The inplace keyword", "ignore:Passing a dict or None")  # ArviZ's own
def test_weights_of_no_columns_are_left_out(table):
    without = np.zeros((100, 0))
    exported = to_arviz(posterior(models.gaussian, without, table[1], method="laplace", draws=100), draws=10)
    assert set(exported.posterior.data_vars) == {"mean.bias", "sigma"}
    assert list(az.summary(exported, kind="stats").index) == ["mean.bias", "sigma"]


def test_a_flat_prior_is_left_out(table):
    exported = to_arviz(posterior(flat(models.gaussian), *table, method="laplace", draws=100))
    assert "prior" not in groups(exported)


def test_many_designs_outputs_and_weights_have_names(table):
    x, y = table
    both = pd.DataFrame({"left": y, "right": y.to_numpy() ** 2})
    designs = {"mean": x, "scale": x[["age"]]}
    weights = np.repeat([1.0, 0.0], [99, 1])
    exported = to_arviz(mle(models.multivariate_gaussian, x, both, weights=weights), draws=10)
    assert exported.posterior["mean.weight"].dims == ("chain", "draw", "mean_output", "term")
    assert exported.posterior_predictive["y"].dims == ("chain", "draw", "observation", "response")
    assert exported.observed_data.coords["response"].values.tolist() == ["left", "right"]
    assert exported.constant_data["weights"].shape == (99,)
    own = to_arviz(mle(models.laplace, {"location": designs["mean"], "scale": designs["scale"]}, y), draws=10)
    same = to_arviz(mle(models.laplace, {"location": x, "scale": x}, y), draws=10)
    assert same.posterior["log_scale.weight"].dims[-1] == "scale_term"
    assert own.posterior["location.weight"].dims[-1] == "location_term"
    assert own.posterior["log_scale.weight"].coords["scale_term"].values.tolist() == ["age"]


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
    assert dims["mean.weight"] == ["term"]
    assert coords["term"] == ["age", "height"]


def test_what_is_no_fit_is_refused(table):
    with pytest.raises(ModelError, match=r"`to_arviz` takes a fit or a posterior.*`from_pyro`"):
        to_arviz({"sigma": torch.ones(5)})
    with pytest.raises(ModelError, match=r"`draws`.* 0"):
        to_arviz(mle(models.gaussian, *table), draws=0)
