"""Laws of every model: it is a plain Pyro function, and raw Pyro works on it as it stands."""

import copy
import inspect

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, autoguide
from pyro.infer.autoguide import AutoDelta
from table import REAL, STRUCTURES, TABLE, random_params, sample

from neglog import losses, models
from neglog.errors import DataError, ModelError
from neglog.guides import Delta
from neglog.predictors import linear, positive, rows
from neglog.signatures import row_keywords
from neglog.tracing import is_discrete, with_sizes

LAW = pytest.mark.parametrize("name", TABLE)
COUNTED = {
    "poisson": 400,
    "negative_binomial": 400,
    "zero_inflated_poisson": 400,
    "zero_inflated_negative_binomial": 400,
    "bernoulli": 2,
    "binomial": 2,  # the first row has one trial
    "categorical": 3,
    "ordinal": 4,
}
"""How many counts have a probability worth summing."""
GUIDES = [
    "AutoDelta",
    "AutoNormal",
    "AutoDiagonalNormal",
    "AutoMultivariateNormal",
    "AutoLowRankMultivariateNormal",
]
"""Those that take a model in float64 as it is, and draw from what they have learned."""


STEPS = 12
"""Of Adam, in which any loss falls."""

pytestmark = pytest.mark.usefixtures("seeded")


def trace_of(name, x, y=None, **values):
    rows_ = len(next(iter(x.values()))) if isinstance(x, dict) else len(x)
    dtype = next(iter(x.values())).dtype if isinstance(x, dict) else x.dtype
    keywords = {key: value.to(dtype) for key, value in TABLE[name].keywords(rows_).items()}
    return poutine.trace(pyro.condition(TABLE[name].model, values)).get_trace(x, y, **keywords)


def latent(trace):
    sites = {
        n: site for n, site in trace.nodes.items() if site["type"] == "sample" and n not in ("y", "rows")
    }
    return [n for n, site in sites.items() if not site["is_observed"]]


def test_every_model_has_a_row_in_the_table_and_a_loss():
    assert set(TABLE) == set(models.__all__) == set(losses.TABLE)


@LAW
def test_is_a_function_of_x_and_y(name):
    assert inspect.isfunction(getattr(models, name))
    assert list(inspect.signature(getattr(models, name)).parameters)[:2] == ["x", "y"]


@LAW
def test_has_one_plate_and_one_observation(name):
    x, y = sample()
    trace = trace_of(name, x, y)
    observed = [n for n, s in trace.nodes.items() if s["type"] == "sample" and s["is_observed"]]
    assert [n for n in observed if n != "rows"] == ["y"]
    assert [frame.name for frame in trace.nodes["y"]["cond_indep_stack"]] == ["rows"]


@LAW
def test_parameters_do_not_grow_with_the_rows(name):
    few, many = trace_of(name, sample(10)[0]), trace_of(name, sample(50)[0])
    shapes = [{n: t.nodes[n]["value"].shape for n in latent(t)} for t in (few, many)]
    assert shapes[0] == shapes[1]
    assert all(not few.nodes[n]["cond_indep_stack"] for n in latent(few))


@LAW
def test_sites_are_those_of_the_table(name):
    model = TABLE[name]
    trace = trace_of(name, sample()[0])
    assert set(latent(trace)) == set(random_params(model))
    many = (model.outputs[model.location],) if model.location in model.outputs else ()
    assert trace.nodes[f"{model.location}.weight"]["value"].shape == (*many, 3)
    if model.intercept:
        assert trace.nodes[f"{model.location}.bias"]["value"].shape == many


@LAW
def test_priors_are_proper(name):
    # A proper prior gives samples, and a finite density at them.
    trace = trace_of(name, sample()[0])
    for site in latent(trace):
        node = trace.nodes[site]
        assert torch.isfinite(node["fn"].log_prob(node["value"])).all()


@LAW
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_follows_the_dtype_of_x(name, dtype):
    x = sample()[0].to(dtype)
    trace = trace_of(name, x)
    assert {trace.nodes[n]["value"].dtype for n in [*latent(trace), "y"]} == {dtype}


@LAW
def test_row_order_does_not_matter(name):
    entry, (x, y) = TABLE[name], TABLE[name].sample()
    given, keywords = pyro.condition(entry.model, random_params(entry)), entry.keywords()
    order = torch.randperm(len(y))
    shuffled = {key: value[order] for key, value in keywords.items()}
    there = poutine.trace(given).get_trace(x, y, **keywords).log_prob_sum()
    back = poutine.trace(given).get_trace(x[order], y[order], **shuffled).log_prob_sum()
    torch.testing.assert_close(there, back, rtol=1e-12, atol=0)


@LAW
def test_runs_under_raw_svi(name):
    model, keywords = TABLE[name].model, TABLE[name].keywords()
    x, y = TABLE[name].sample()
    svi = SVI(model, Delta(model), pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    history = [svi.step(x, y, **keywords) for _ in range(STEPS)]
    assert np.mean(history[-6:]) < np.mean(history[:6])


@pytest.mark.parametrize("name", STRUCTURES)
def test_runs_under_pyros_own_autodelta(name):
    model, keywords = TABLE[name].model, TABLE[name].keywords()
    x, y = TABLE[name].sample()
    svi = SVI(model, AutoDelta(model), pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    history = [svi.step(x, y, **keywords) for _ in range(STEPS)]
    assert np.mean(history[-6:]) < np.mean(history[:6])


@LAW
@pytest.mark.parametrize("guide", GUIDES)
def test_runs_under_every_guide_of_pyro(name, guide):
    # A guide fails on sites that are called like one of its methods.
    model, keywords = TABLE[name].model, TABLE[name].keywords()
    x, y = TABLE[name].sample()
    automatic = getattr(autoguide, guide)(model)
    loss = SVI(model, automatic, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()).step(x, y, **keywords)
    assert np.isfinite(loss)
    drawn = Predictive(model, guide=automatic, num_samples=3)(x, **keywords)
    assert drawn["y"].shape == (3, *y.shape)
    assert set(drawn) >= set(random_params(TABLE[name]))


def test_autodelta_has_a_method_named_median_and_a_scope_steps_aside():
    # Pyro 1.9 keeps the value of the site `median.weight` as an attribute of the guide, under `median`.
    def absolute(x, y=None):
        median = linear("median", x)
        with rows(x):
            return pyro.sample("y", pyro.distributions.Laplace(median, 1.0), obs=y)

    x, y = sample()
    with pytest.raises(AttributeError, match="weight"):
        AutoDelta(absolute)(x, y)
    model = scope(absolute, prefix="absolute")
    svi = SVI(model, AutoDelta(model), pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    history = [svi.step(x, y) for _ in range(STEPS)]
    assert np.mean(history[-6:]) < np.mean(history[:6])


@pytest.mark.parametrize("name", ["gaussian", "heteroscedastic"])
def test_delta_is_autodelta(name):
    x, y = sample()
    model = TABLE[name].model
    params = random_params(TABLE[name])
    start = pyro.infer.autoguide.initialization.init_to_value(values=params)
    ours = Trace_ELBO().loss(model, Delta(model, init_loc_fn=start), x, y)
    theirs = Trace_ELBO().loss(model, AutoDelta(model, init_loc_fn=start), x, y)
    assert ours == theirs


def test_delta_takes_sites_inside_plates():
    def model(x, y=None):
        with pyro.plate("columns", x.shape[1]):
            weight = pyro.sample("weight", pyro.distributions.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", pyro.distributions.Normal(x @ weight, 1.0), obs=y)

    x, y = sample()
    start = pyro.infer.autoguide.initialization.init_to_value(values={"weight": torch.ones(3).double()})
    ours = Trace_ELBO().loss(model, Delta(model, init_loc_fn=start), x, y)
    pyro.clear_param_store()
    assert ours == Trace_ELBO().loss(model, AutoDelta(model, init_loc_fn=start), x, y)


@pytest.mark.parametrize("name", STRUCTURES)
def test_runs_under_raw_nuts(name):
    x, y = TABLE[name].sample(30, 1)
    kernel = NUTS(TABLE[name].model, max_tree_depth=4)
    mcmc = MCMC(kernel, num_samples=3, warmup_steps=3, disable_progbar=True)
    mcmc.run(x, y, **TABLE[name].keywords(30))
    draws = mcmc.get_samples()
    assert set(draws) == set(random_params(TABLE[name], columns=1))
    assert all(torch.isfinite(d).all() for d in draws.values())


@LAW
@pytest.mark.parametrize("parallel", [False, True])
def test_runs_under_raw_predictive(name, parallel):
    x, _ = sample()
    draws = Predictive(TABLE[name].model, num_samples=7, parallel=parallel)(x, **TABLE[name].keywords())
    assert draws["y"].shape == (7, *TABLE[name].sample()[1].shape)
    assert torch.isfinite(draws["y"]).all()


@LAW
def test_parallel_prediction_matches_one_by_one(name):
    x, y = TABLE[name].sample(5)
    many = [random_params(TABLE[name], seed=s) for s in range(4)]
    draws = {site: torch.stack([p[site] for p in many]) for site in many[0]}
    model = TABLE[name].model
    alone = [trace_of(name, x, None, **params).nodes["y"]["fn"].log_prob(y) for params in many]
    with poutine.trace() as together:
        batched = {n: v.reshape(4, 1, *v.shape[1:]) for n, v in draws.items()}
        pyro.condition(model, batched)(x, **TABLE[name].keywords(5))
    torch.testing.assert_close(together.trace.nodes["y"]["fn"].log_prob(y), torch.stack(alone))


@LAW
def test_runs_without_rows(name):
    """torch cannot check parameters of size 0 whose last dimension is an event."""
    x, y = TABLE[name].sample()
    model, none = with_sizes(TABLE[name].model, y), {k: v[:0] for k, v in TABLE[name].keywords().items()}
    for given in (None, y[:0]):
        site = poutine.trace(model).get_trace(x[:0], given, **none).nodes["y"]
        assert site["value"].shape == y[:0].shape
        assert site["fn"].log_prob(site["value"]).shape == (0,)


@LAW
def test_can_be_drawn(name):
    x, y = TABLE[name].sample()
    keywords = TABLE[name].keywords()
    graph = pyro.render_model(TABLE[name].model, model_args=(x, y), model_kwargs=keywords)
    assert TABLE[name].location in graph.source
    assert "rows" in graph.source


@pytest.mark.parametrize("name", [name for name, entry in TABLE.items() if entry.others or entry.designed])
def test_designs_by_name_and_designs_without_columns(name):
    model, (x, y) = TABLE[name], TABLE[name].sample()
    empty = x[:, :0]
    trace = trace_of(name, {model.location: x, model.scale: empty}, y)
    assert trace.nodes[f"{model.location}.weight"]["value"].shape[-1] == 3
    scale = (
        model.scale if model.others else next(s for s in trace.nodes if s.endswith(f"_{model.scale}.bias"))
    )
    scale = scale.removesuffix(".bias")
    many = (model.outputs[model.scale],) if model.scale in model.outputs else ()
    assert trace.nodes[f"{scale}.weight"]["value"].shape == (*many, 0)
    assert trace.nodes[f"{scale}.bias"]["value"].shape == many


@pytest.mark.parametrize("name", REAL)
def test_a_predictor_without_a_design_is_a_constant(name):
    model, (x, _) = TABLE[name], sample()
    trace = trace_of(name, {model.location: x})
    scale = trace.nodes["y"]["fn"].stddev
    assert torch.all(scale == scale[0])


@pytest.mark.parametrize("name", REAL)
def test_real_densities_integrate_to_one(name):
    x = sample(1)[0]
    fn = trace_of(name, x, None, **random_params(TABLE[name])).nodes["y"]["fn"]
    # Heavy tails want a grid that reaches far: t = sinh(s) spaces it evenly at 0 and geometrically far out.
    s = torch.linspace(-25, 25, 400_001, dtype=torch.float64)
    grid = fn.loc + fn.scale * torch.sinh(s)
    density = fn.log_prob(grid[:, None]).exp()[:, 0] * fn.scale * torch.cosh(s)
    # The trapezoid rule errs by h² / 12 times the jump of the slope at a corner: 1e-4² / 12 · 2 ≈ 3e-9.
    assert torch.trapezoid(density, s).item() == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("name", COUNTED)
def test_counted_probabilities_add_up_to_one(name):
    x = sample(1)[0]
    fn = trace_of(name, x, None, **random_params(TABLE[name], size=0.3)).nodes["y"]["fn"]
    counts = torch.arange(COUNTED[name], dtype=torch.float64)
    assert fn.log_prob(counts[:, None]).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_a_column_vector_is_asked_for():
    with pytest.raises(DataError, match=r"shape \(rows, columns\).*x\[:, None\]"):
        models.gaussian(torch.zeros(5))


def test_an_empty_mapping_has_no_rows():
    with pytest.raises(ModelError, match="empty mapping"):
        models.gaussian({})


def test_models_are_not_changed_by_use():
    before = copy.copy(models.gaussian.__dict__)
    Predictive(models.gaussian, num_samples=2)(sample()[0])
    assert models.gaussian.__dict__ == before


def test_predictors_serve_models_of_ones_own():
    def own(x, y=None):
        location, rate = linear("location", x), positive("rate", x)
        with rows(x):
            return pyro.sample("y", pyro.distributions.Normal(location, 1 / rate), obs=y)

    trace = poutine.trace(own).get_trace({"location": sample()[0], "rate": sample()[0][:, :1]})
    assert {"location.weight", "location.bias", "log_rate.weight", "log_rate.bias"} <= set(trace.nodes)


def test_no_model_calls_a_function_of_torch_that_imports_sympy(monkeypatch):
    """torch's `broadcast_shapes` does when it is first called, which takes a second."""
    monkeypatch.setattr(torch, "broadcast_shapes", None)
    for name in models.__all__:
        is_discrete(getattr(models, name), **row_keywords(getattr(models, name)))
    x = torch.zeros((3, 1))
    for name in ("weibull", "multivariate_gaussian", "multivariate_heteroscedastic"):
        poutine.trace(with_sizes(getattr(models, name), torch.eye(3))).get_trace(x)
