"""Models that say one thing and would be fitted as another are refused by name."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import flat, map_estimate, mle, models, on_features, with_priors
from neglog.errors import ModelError
from neglog.guides import Delta
from neglog.predictors import linear, positive, rows

X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
X = torch.cat([X, X**2], 1)
Y = 1 + X[:, 0] + 0.3 * torch.sin(50 * X[:, 0])
COUNTS = (Y.abs() * 2).round()


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def twice(x, y=None):
    mean = linear("mean", x) + linear("mean", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, positive("sigma", x)), obs=y)


def one_site_twice(x, y=None):
    mean, sigma = linear("mean", x), positive("sigma", x) + positive("sigma", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def response_twice(x, y=None):
    mean, sigma = linear("mean", x), positive("sigma", x)
    with rows(x):
        pyro.sample("y", dist.Normal(mean + 5, sigma), obs=y)
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def two_observations(x, y=None):
    mean, sigma = linear("mean", x), positive("sigma", x)
    with rows(x):
        pyro.sample("z", dist.Normal(mean + 5, sigma), obs=y)
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def deterministic(x, y=None):
    mean, sigma = linear("mean", x), positive("sigma", x)
    with rows(x):
        pyro.deterministic("half", mean / 2)
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def with_param(detach, inside=False):
    def model(x, y=None):
        width = pyro.param("width", number(1.0), constraint=dist.constraints.positive)
        width = width.detach() if detach else width
        mean = linear("mean", x) if not inside else linear("mean", x * width)
        with rows(x):
            return pyro.sample("y", dist.Normal(mean, 1.0 if inside else width), obs=y)

    return model


@pytest.mark.parametrize("fit", [mle, map_estimate])
@pytest.mark.parametrize(
    ("model", "match"),
    [
        (twice, r"'mean\.bias' more than once"),
        (one_site_twice, "'sigma' more than once"),
        (response_twice, "'y' more than once"),
        (two_observations, "observes 'z' for each row besides 'y'"),
        (with_param(False), r"pyro\.param\('width'\), which no fit estimates"),
        (with_param(False, inside=True), r"pyro\.param\('width'\), which no fit estimates"),
    ],
)
def test_what_would_be_left_out_of_account_is_refused(fit, model, match):
    with pytest.raises(ModelError, match=match):
        fit(model, X, Y)


def test_what_is_only_kept_is_not():
    expected = mle(models.gaussian, X, Y).nll
    assert mle(deterministic, X, Y).nll == pytest.approx(expected, rel=1e-12)
    assert mle(with_param(True), X, Y).converged


@pytest.mark.parametrize(
    ("held", "match"),
    [
        ({"means.bias": number(0.0)}, r"'means\.bias', which `gaussian` does not sample.*mean 'mean\.bias'"),
        ({"mean.weight": number(0.0)}, r"'mean\.weight' of `gaussian` the shape \(\); it needs \(2,\)"),
        ({"mean.weight": torch.zeros(1)}, r"'mean\.weight' of `gaussian` the shape \(1,\); it needs \(2,\)"),
        ({"mean.bias": torch.zeros(30)}, r"'mean\.bias' of `gaussian` the shape \(30,\); it needs \(\)"),
    ],
)
def test_a_condition_on_another_site_or_shape_is_refused(held, match):
    with pytest.raises(ModelError, match=match):
        mle(pyro.condition(models.gaussian, held), X, Y)


def test_a_condition_on_a_former_name_says_the_current_one():
    with pytest.raises(ModelError, match=r"'median\.bias'.* is called 'location\.bias'"):
        mle(pyro.condition(models.laplace, {"median.bias": number(0.0)}), X, Y)


def test_a_scale_known_row_by_row_stays_possible():
    sizes = torch.linspace(0.5, 2.0, 30, dtype=torch.float64)
    fit = mle(pyro.condition(models.gaussian, {"sigma": sizes}), X, Y)
    design = torch.cat([torch.ones_like(X[:, :1]), X], 1) / sizes[:, None]
    expected = torch.linalg.lstsq(design, (Y / sizes)[:, None]).solution[:, 0]
    torch.testing.assert_close(fit.params["mean.bias"], expected[0], rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("model", "site", "prior"),
    [
        (models.gaussian, "sigma", dist.Poisson(3.0)),
        (models.gaussian, "sigma", dist.Uniform(-1.0, 1.0)),
        (models.gaussian, "sigma", dist.Normal(0.0, 1.0)),
        (models.gaussian, "mean.weight", dist.Poisson(3.0)),
        (models.zero_inflated_poisson, "zero", dist.Gamma(50.0, 1.0)),
        (models.gaussian_mixture, "weight", dist.Gamma(2.0, 1.0)),
    ],
)
def test_a_prior_with_values_outside_the_support_is_refused(model, site, prior):
    with pytest.raises(ModelError, match=f"prior for `{site}`.*support"):
        map_estimate(with_priors(model, {site: prior}), X, COUNTS)


@pytest.mark.parametrize(
    ("site", "prior"),
    [
        ("sigma", dist.LogNormal(0.0, 1.0)),
        ("sigma", dist.Beta(2.0, 2.0)),
        ("sigma", dist.Uniform(0.0, 3.0)),
        ("mean.weight", dist.HalfNormal(1.0)),
        ("mean.weight", dist.MultivariateNormal(torch.zeros(2), torch.eye(2))),
    ],
)
def test_a_prior_on_a_part_of_the_support_is_not(site, prior):
    assert with_priors(models.gaussian, {site: prior})(X).shape == (30,)


def test_a_prior_with_more_dimensions_than_its_site_is_refused():
    prior = dist.MultivariateNormal(torch.zeros(1), torch.eye(1))
    with pytest.raises(ModelError, match=r"shape \(1,\), which does not expand to the site's \(\)"):
        map_estimate(with_priors(models.gaussian, {"mean.bias": prior}), X, Y)


def test_a_prior_given_to_a_flat_site_counts():
    prior = {"mean.weight": dist.Normal(0.0, number(1e-3))}
    found = map_estimate(with_priors(flat(models.gaussian), prior), X, Y)
    others = map_estimate(flat(with_priors(models.gaussian, prior), "mean.bias", "sigma"), X, Y)
    assert found.params["mean.weight"].abs().max() < 1e-3
    assert found.loss == pytest.approx(others.loss, rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mle(models.gaussian, X, Y, start={"mean.weigth": torch.zeros(2)}),
        lambda: map_estimate(flat(models.gaussian, "mean.weigth"), X, Y),
        lambda: map_estimate(with_priors(models.gaussian, {"mean.weigth": dist.Normal(0.0, 1.0)}), X, Y),
        lambda: mle(pyro.condition(models.gaussian, {"mean.weigth": torch.zeros(2)}), X, Y),
    ],
)
def test_an_unknown_site_is_named_with_the_nearest(wrong):
    with pytest.raises(ModelError, match=r"'mean\.weigth'.*Did you mean 'mean\.weight'\?"):
        wrong()


def test_an_unknown_predictor_is_named_with_the_nearest():
    with pytest.raises(ModelError, match=r"no predictor 'maen'.*Did you mean 'mean'\?"):
        mle(models.gaussian, {"maen": X}, Y)


def test_a_network_for_no_predictor_is_refused():
    nets = {name: torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh()).double() for name in "ab"}
    net = on_features(models.gaussian, {"mean": nets["a"], "sgima": nets["b"]})
    with pytest.raises(ModelError, match="network for 'sgima', which is no predictor"):
        map_estimate(net, X, Y)


def test_a_guide_keeps_sites_apart_whose_names_differ_in_a_dot():
    def model(x, y=None):
        mean = linear("mean", x)
        extra = pyro.sample("mean_weight", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        with rows(x):
            return pyro.sample("y", dist.Normal(mean + x.flip(0) @ extra, 1.0), obs=y)

    values = {"mean.weight": torch.ones(2).double(), "mean_weight": torch.full((2,), 3.0).double()}
    start = pyro.infer.autoguide.initialization.init_to_value(values=values)
    found = Delta(model, init_loc_fn=start)(X, Y)
    assert all(torch.equal(found[name].detach(), value) for name, value in values.items())
