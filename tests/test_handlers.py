"""Handlers change what a model means, and only that."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.infer.autoguide.initialization import init_to_value
from table import TABLE, random_params, sample
from torch import nn

from neglog import flat, map_estimate, mle, models, on_features, weighted, with_priors
from neglog.errors import DataError, ModelError
from neglog.solvers import SVI as Literal

LAW = pytest.mark.parametrize("name", TABLE)


pytestmark = pytest.mark.usefixtures("seeded")


def log_prob(model, *data, sites=lambda name, site: True):
    return poutine.trace(model).get_trace(*data).log_prob_sum(sites)


def trunk(inputs=3, hidden=4):
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh())


# flat


@LAW
def test_flat_leaves_the_likelihood_alone(name):
    model, (x, y) = TABLE[name], TABLE[name].sample()
    given = partial(pyro.condition(model.model, random_params(model)), **model.keywords())
    assert log_prob(flat(given), x, y) == log_prob(given, x, y, sites=lambda n, s: n == "y")


@LAW
def test_flat_leaves_an_observation_alone_that_is_not_given(name):
    x, _ = sample()
    trace = poutine.trace(flat(TABLE[name].model)).get_trace(x, **TABLE[name].keywords())
    assert trace.nodes["y"]["mask"] is None
    assert trace.log_prob_sum(lambda n, s: n == "y") != 0.0


def test_the_observation_is_known_by_its_name_whatever_its_plate():
    def model(x, y=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    trace = poutine.trace(flat(model)).get_trace(*sample())
    assert trace.nodes["y"]["mask"] is None
    assert trace.nodes["mean"]["mask"] is False


def test_flat_by_name_counts_the_other_priors():
    x, y = sample()
    params = random_params(TABLE["gaussian"])
    given = pyro.condition(models.gaussian, params)
    expected = log_prob(given, x, y, sites=lambda n, s: n != "sigma")
    assert log_prob(flat(given, "sigma"), x, y) == expected


def test_flat_keeps_the_supports():
    trace = poutine.trace(flat(models.gaussian)).get_trace(sample()[0])
    assert (trace.nodes["sigma"]["value"] > 0).all()
    assert trace.nodes["sigma"]["fn"].support.check(torch.tensor(-1.0)).item() is False


def test_flat_masks_a_parameter_that_the_user_conditioned():
    x, y = sample()
    fixed = pyro.condition(models.gaussian, {"mean.bias": torch.tensor(0.0, dtype=torch.float64)})
    trace = poutine.trace(flat(fixed)).get_trace(x, y)
    assert trace.nodes["mean.bias"]["mask"] is False


def test_flat_twice_is_flat():
    x, y = sample()
    given = pyro.condition(models.gaussian, random_params(TABLE["gaussian"]))
    assert log_prob(flat(flat(given)), x, y) == log_prob(flat(given), x, y)


def test_flat_names_the_sites_when_one_is_unknown():
    with pytest.raises(ModelError, match=r"'sigmma'.*'mean.weight', 'mean.bias', 'sigma'"):
        flat(models.gaussian, "sigmma")(sample()[0])


# with_priors


def test_priors_are_swapped_and_expanded():
    x, _ = sample()
    wide = with_priors(
        models.gaussian, {"mean.weight": dist.Normal(0.0, 100.0), "sigma": dist.HalfNormal(3.0)}
    )
    trace = poutine.trace(wide).get_trace(x)
    assert trace.nodes["mean.weight"]["fn"].event_shape == (3,)
    assert trace.nodes["mean.weight"]["fn"].base_dist.scale.tolist() == [100.0] * 3
    assert isinstance(trace.nodes["sigma"]["fn"], dist.HalfNormal)


def test_a_prior_for_each_column():
    scales = torch.tensor([1.0, 2.0, 3.0])
    trace = poutine.trace(with_priors(models.gaussian, {"mean.weight": dist.Normal(0.0, scales)})).get_trace(
        sample()[0]
    )
    assert trace.nodes["mean.weight"]["fn"].base_dist.scale.tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("priors", "message"),
    [
        ({"slope": dist.Normal(0.0, 1.0)}, r"'slope'.*'mean.weight', 'mean.bias', 'sigma'"),
        ({"sigma": dist.Normal(0.0, 1.0)}, "whole real line"),
        ({"mean.weight": dist.Normal(torch.zeros(2), 1.0)}, r"\(2,\).*\(3,\)"),
    ],
)
def test_priors_that_do_not_fit_are_refused(priors, message):
    with pytest.raises(ModelError, match=message):
        with_priors(models.gaussian, priors)(sample()[0])


def test_a_prior_must_be_a_distribution():
    with pytest.raises(ModelError, match="must be a distribution; it is 3"):
        with_priors(models.gaussian, {"sigma": 3})


# weighted


@LAW
def test_weights_multiply_the_likelihood_and_not_the_prior(name):
    model, (x, y) = TABLE[name], TABLE[name].sample()
    given = partial(pyro.condition(model.model, random_params(model)), **model.keywords())
    prior = log_prob(given, x, y, sites=lambda n, s: n != "y")
    likelihood = log_prob(given, x, y) - prior
    torch.testing.assert_close(log_prob(weighted(given, 3.0), x, y), prior + 3 * likelihood)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.tensor([1.0, -2.0]), "row 1 has -2"),
        (torch.tensor([1.0, torch.nan]), "row 1 has nan"),
        (torch.ones(2, 2), r"shape \(rows,\)"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        weighted(models.gaussian, weights)


def test_weights_of_another_length_are_refused():
    with pytest.raises(DataError, match="5 weights for 60 rows"):
        weighted(models.gaussian, torch.ones(5))(*sample())


# on_features


def test_two_headed_network_is_exactly_that():
    x, y = sample()
    torch.manual_seed(3)
    shared, mean, log_variance = trunk().double(), nn.Linear(4, 1).double(), nn.Linear(4, 1).double()
    features = shared(x)
    by_hand = torch.nn.functional.gaussian_nll_loss(
        mean(features)[:, 0], y, log_variance(features)[:, 0].exp(), full=True, reduction="sum", eps=1e-300
    )
    params = {f"trunk.{k}": v for k, v in shared.named_parameters()}
    for name, head in (("mean", mean), ("log_variance", log_variance)):
        params |= {f"{name}.weight": head.weight[0], f"{name}.bias": head.bias[0]}
    net = on_features(models.heteroscedastic, shared)
    torch.testing.assert_close(
        -log_prob(flat(pyro.condition(net, params)), x, y), by_hand, rtol=1e-12, atol=0
    )


def test_parameters_become_sites_with_priors():
    trace = poutine.trace(on_features(models.gaussian, trunk())).get_trace(sample()[0])
    for name, shape in (("trunk.0.weight", (4, 3)), ("trunk.0.bias", (4,))):
        fn = trace.nodes[name]["fn"]
        assert fn.event_shape == shape
        assert torch.isfinite(fn.log_prob(trace.nodes[name]["value"]))


def test_fit_starts_from_the_modules_own_values():
    x, y = sample()
    module = trunk()
    net = on_features(models.gaussian, module)
    still = pyro.optim.SGD({"lr": 0.0})
    with pytest.warns(UserWarning, match="did not converge"):
        fit = mle(net, x, y, solver=Literal(optim=still, steps=1))
    for key, value in module.named_parameters():
        torch.testing.assert_close(fit.params[f"trunk.{key}"], value.detach().double(), rtol=0, atol=0)


def test_start_serves_raw_pyro():
    x, y = sample()
    net = on_features(models.heteroscedastic, trunk())
    guide = AutoDelta(net, init_loc_fn=init_to_value(values=net.start))
    svi = SVI(net, guide, pyro.optim.Adam({"lr": 0.02}), Trace_ELBO())
    first = svi.step(x.float(), y.float())
    assert [svi.step(x.float(), y.float()) for _ in range(40)][-1] < first


def test_networks_run_under_nuts_and_predictive():
    x, y = sample(20, 1)
    net = on_features(models.gaussian, trunk(1, 2))
    mcmc = MCMC(NUTS(net, max_tree_depth=3), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(x, y)
    draws = Predictive(net, mcmc.get_samples())(x)
    assert draws["y"].shape == (5, 20)


def test_the_module_is_never_changed():
    x, y = sample()
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.warns(UserWarning, match="did not converge"):
        mle(on_features(models.gaussian, module), x, y, solver=Literal(steps=3))
    for key, value in module.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_frozen_parameters_are_constants():
    module = trunk()
    module[0].weight.requires_grad_(False)
    trace = poutine.trace(on_features(models.gaussian, module)).get_trace(sample()[0])
    assert "trunk.0.weight" not in trace.nodes
    assert "trunk.0.bias" in trace.nodes


def test_a_network_of_its_own_for_each_parameter():
    net = on_features(models.gaussian, {"mean": trunk(), "sigma": trunk()})
    trace = poutine.trace(net).get_trace(sample()[0])
    assert {"trunk.mean.0.weight", "trunk.sigma.0.weight", "log_sigma.weight"} <= set(trace.nodes)


def test_priors_of_ones_own():
    net = on_features(models.gaussian, trunk(), prior=lambda value: dist.Normal(value, 0.1))
    trace = poutine.trace(net).get_trace(sample()[0])
    assert trace.nodes["trunk.0.weight"]["fn"].base_dist.scale.unique().tolist() == [pytest.approx(0.1)]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (3, "must be a torch.nn.Module"),
        (nn.Tanh(), "no trainable parameter"),
        ({}, "must be a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_refused(module, message):
    with pytest.raises(ModelError, match=message):
        on_features(models.gaussian, module)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"mean": torch.zeros(4, 3)}, "one tensor"),
        (torch.zeros(4), r"shape \(4,\)"),
    ],
)
def test_designs_that_a_network_cannot_take_are_refused(x, message):
    with pytest.raises(DataError, match=message):
        on_features(models.gaussian, trunk())(x)


def test_features_must_keep_the_rows():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.scale * x.mean(dim=0)

    with pytest.raises(DataError, match=r"features of shape \(60, F\); it gave \(3,\)"):
        on_features(models.gaussian, Pooled())(sample()[0])


@pytest.mark.parametrize("deep", [False, True], ids=["one network", "one layer of two networks"])
def test_predictors_may_share_a_network(deep):
    torch.manual_seed(0)
    shared = torch.nn.Linear(1, 2).double()
    first = torch.nn.Sequential(shared, torch.nn.Tanh())
    second = torch.nn.Sequential(shared, torch.nn.Sigmoid()) if deep else first
    net = on_features(models.gaussian, {"mean": first, "sigma": second})
    x = torch.linspace(-1, 1, 3, dtype=torch.float64)[:, None]
    assert set(net.start) == {"trunk.mean.0.weight", "trunk.mean.0.bias"}
    head = {"mean.weight": torch.ones(2), "mean.bias": torch.zeros(()), "log_sigma.bias": torch.zeros(())}
    values = head | {"log_sigma.weight": torch.ones(2), "trunk.mean.0.bias": torch.zeros(2)}
    for weight in (torch.ones(2, 1), torch.tensor([[2.0], [-3.0]])):
        given = {k: v.double() for k, v in (values | {"trunk.mean.0.weight": weight}).items()}
        response = poutine.trace(pyro.condition(net, given)).get_trace(x).nodes["y"]["fn"]
        inside = x @ weight.double().T
        torch.testing.assert_close(response.mean, torch.tanh(inside).sum(1))
        squash = torch.sigmoid if deep else torch.tanh
        torch.testing.assert_close(response.stddev, squash(inside).sum(1).exp())


class OwnPrior(torch.distributions.HalfNormal):
    """A distribution of one's own, which Pyro does not know."""


def test_priors_of_torch_are_those_of_pyro():
    """They lack shapes of their own, and the model was blamed for it."""
    x, y = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None], torch.arange(9.0, dtype=torch.float64) ** 2
    of_torch, of_pyro = (
        map_estimate(
            with_priors("gaussian", {"mean.weight": of.Normal(0.0, 2.0), "sigma": of.HalfNormal(3.0)}), x, y
        )
        for of in (torch.distributions, dist)
    )
    assert torch.equal(of_torch.params["mean.weight"], of_pyro.params["mean.weight"])
    assert of_torch.loss == of_pyro.loss
    with pytest.raises(ModelError, match=r"pyro\.distributions"):
        with_priors("gaussian", {"sigma": OwnPrior(1.0)})
