"""Hierarchies: joint modes that do not exist are refused by name, at once; those that exist are found."""

import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from table import TABLE

from neglog import flat, map_estimate, mle, posterior, with_priors
from neglog.data import prepare
from neglog.distributions.parameters import in_dtype, parameters
from neglog.errors import ModelError, UnboundedLikelihoodError
from neglog.fitting.joint_mode import check_joint_mode
from neglog.fitting.start import starting_point
from neglog.objective.objective import Objective
from neglog.predictors import affine, linear, positive, rows
from neglog.solvers import SVI

GROUPS = 6
ROWS = 60
GROUP = torch.arange(ROWS) % GROUPS


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def problem():
    random = torch.Generator().manual_seed(0)
    x, effects, noise = (torch.randn(n, dtype=torch.float64, generator=random) for n in (ROWS, GROUPS, ROWS))
    return x[:, None], 1 + 2 * x + effects[GROUP] + 0.5 * noise


X, Y = problem()


def scale(name="tau", shape=()):
    return pyro.sample(name, dist.HalfNormal(torch.ones(shape, dtype=torch.float64)).to_event(len(shape)))


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64)


def grouped(prior, hyper=scale):
    """Group effects `u` `(GROUPS,)` under a prior that depends on other sites."""

    def model(x, y=None):
        mean, sigma = linear("mean", x), positive("sigma", x)
        u = pyro.sample("u", prior(hyper(), sigma))
        with rows(x):
            return pyro.sample("y", dist.Normal(mean + u[GROUP[: len(x)]], sigma), obs=y)

    return model


def in_plate(x, y=None):
    mean, sigma, tau = linear("mean", x), positive("sigma", x), scale()
    with pyro.plate("groups", GROUPS):
        u = pyro.sample("u", dist.Normal(zeros(), tau))
    with rows(x):
        return pyro.sample("y", dist.Normal(mean + u[GROUP[: len(x)]], sigma), obs=y)


def slopes(x, y=None):
    """Correlated intercepts and slopes: scales and a correlation matrix."""
    mean, sigma, tau = linear("mean", x), positive("sigma", x), scale("tau", (2,))
    root = pyro.sample("root", dist.LKJCholesky(2, number(2.0)))
    with pyro.plate("groups", GROUPS):
        u = pyro.sample("u", dist.MultivariateNormal(zeros(2), scale_tril=tau[:, None] * root))
    own = u[GROUP[: len(x)]]
    with rows(x):
        return pyro.sample("y", dist.Normal(mean + own[:, 0] + own[:, 1] * x[:, 0], sigma), obs=y)


def covariance(x, y=None):
    mean, sigma = linear("mean", x), positive("sigma", x)
    tau = pyro.sample("tau", dist.LKJCholesky(2, number(2.0)))
    size = scale("size")
    with pyro.plate("groups", GROUPS):
        u = pyro.sample("u", dist.MultivariateNormal(zeros(2), size**2 * tau @ tau.mT))
    with rows(x):
        return pyro.sample("y", dist.Normal(mean + u[GROUP[: len(x)]].sum(-1), sigma), obs=y)


def horseshoe(x, y=None):
    bias, sigma = pyro.sample("mean.bias", dist.Normal(zeros(), 5.0)), positive("sigma", x)
    tau = pyro.sample("tau", dist.HalfCauchy(number(1.0)))
    local = pyro.sample("local", dist.HalfCauchy(torch.ones(x.shape[1]).double()).to_event(1))
    weight = pyro.sample("mean.weight", dist.Normal(zeros(x.shape[1]), tau * local).to_event(1))
    mean = affine(x, weight, bias, None, name="mean")
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, sigma), obs=y)


def without_predictors(x, y=None):
    tau, sigma = scale(), scale("sigma")
    u = pyro.sample("u", dist.Normal(zeros(GROUPS), tau).to_event(1))
    with rows(x):
        return pyro.sample("y", dist.Normal(x[:, 0] + u[GROUP[: len(x)]], sigma), obs=y)


def nested(x, y=None):
    """Groups around a centre that has a prior of its own."""
    sigma, tau = positive("sigma", x), scale()
    centre = pyro.sample("centre", dist.Normal(zeros(), 5.0))
    u = pyro.sample("u", dist.Normal(centre.expand(GROUPS), tau).to_event(1))
    mean = linear("mean", x, bias=False)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean + u[GROUP[: len(x)]], sigma), obs=y)


def non_centred(x, y=None):
    mean, sigma, tau = linear("mean", x), positive("sigma", x), scale()
    z = pyro.sample("z", dist.Normal(zeros(GROUPS), 1.0).to_event(1))
    with rows(x):
        return pyro.sample("y", dist.Normal(mean + tau * z[GROUP[: len(x)]], sigma), obs=y)


def latent_location(x, y=None):
    mean, sigma = linear("mean", x, bias=False), positive("sigma", x)
    centre = pyro.sample("centre", dist.Normal(zeros(), 5.0))
    u = pyro.sample("u", dist.Normal(centre.expand(GROUPS), 1.0).to_event(1))
    with rows(x):
        return pyro.sample("y", dist.Normal(mean + u[GROUP[: len(x)]], sigma), obs=y)


NORMAL = grouped(lambda tau, sigma: dist.Normal(zeros(GROUPS), tau).to_event(1))
JITTERED = grouped(lambda tau, sigma: dist.Normal(zeros(GROUPS), tau + 1e-6).to_event(1))
REFUSED = {
    "Normal": NORMAL,
    "in a plate": in_plate,
    "Student's t": grouped(lambda tau, sigma: dist.StudentT(number(4.0), zeros(GROUPS), tau).to_event(1)),
    "Cauchy": grouped(lambda tau, sigma: dist.Cauchy(zeros(GROUPS), tau).to_event(1)),
    "Laplace": grouped(lambda tau, sigma: dist.Laplace(zeros(GROUPS), tau).to_event(1)),
    "on the log scale": grouped(lambda tau, sigma: dist.LogNormal(zeros(GROUPS), tau).to_event(1)),
    "scales and correlations": slopes,
    "covariance": covariance,
    "horseshoe": horseshoe,
    "without predictors": without_predictors,
    "around a centre": nested,
    "variance": grouped(lambda tau, sigma: dist.Normal(zeros(GROUPS), tau.sqrt()).to_event(1)),
    "a part of sigma": grouped(lambda tau, sigma: dist.Normal(zeros(GROUPS), tau * sigma).to_event(1)),
    "uniform": grouped(
        lambda tau, sigma: dist.Normal(zeros(GROUPS), tau).to_event(1),
        lambda: pyro.sample("tau", dist.Uniform(zeros(), 10.0)),
    ),
    "jitter": JITTERED,
    "jitter of a hundredth": grouped(lambda tau, sigma: dist.Normal(zeros(GROUPS), tau + 1e-2).to_event(1)),
    "large jitter": grouped(lambda tau, sigma: dist.Normal(zeros(GROUPS), tau + 1e-3).to_event(1)),
    "clamped": grouped(lambda tau, sigma: dist.Normal(zeros(GROUPS), tau.clamp(min=1e-6)).to_event(1)),
    "jitter of the variance": grouped(
        lambda tau, sigma: dist.Normal(zeros(GROUPS), (tau**2 + 1e-6).sqrt()).to_event(1)
    ),
    "jitter and a prior that vanishes too slowly": with_priors(
        JITTERED,
        {"tau": dist.Gamma(number(2.0), number(1.0))},
    ),
}
ADMITTED = {
    "non-centred": non_centred,
    "latent location": latent_location,
    "known scale": pyro.condition(NORMAL, {"tau": number(1.0)}),
    "conjugate": grouped(lambda _, sigma: dist.Normal(zeros(GROUPS), sigma).to_event(1), lambda: None),
    "precision": grouped(
        lambda tau, sigma: dist.Normal(zeros(GROUPS), tau.rsqrt()).to_event(1),
        lambda: pyro.sample("tau", dist.Gamma(number(1.0), number(1.0))),
    ),
    "log scale": grouped(
        lambda tau, sigma: dist.Normal(zeros(GROUPS), tau.exp()).to_event(1),
        lambda: pyro.sample("tau", dist.Normal(zeros(), 1.0)),
    ),
    "vanishing at 0": with_priors(NORMAL, {"tau": dist.InverseGamma(number(2.0), number(1.0))}),
    "degrees of freedom": grouped(lambda tau, sigma: dist.StudentT(1 + tau, zeros(GROUPS), 1.0).to_event(1)),
    "flat effects": flat(NORMAL, "u"),
    "jitter, vanishing at 0": with_priors(JITTERED, {"tau": dist.InverseGamma(number(2.0), number(1.0))}),
    "jitter, LogNormal": with_priors(JITTERED, {"tau": dist.LogNormal(number(0.0), number(0.5))}),
    "jitter, vanishing fast": with_priors(JITTERED, {"tau": dist.Gamma(number(12.0), number(10.0))}),
    "a scale above one half": grouped(lambda tau, sigma: dist.Normal(zeros(GROUPS), tau + 0.5).to_event(1)),
}


def objective(model):
    return Objective(model, prepare(X, Y))


@pytest.mark.parametrize("name", REFUSED)
def test_a_joint_mode_where_a_scale_vanishes_is_refused(name):
    with pytest.raises(UnboundedLikelihoodError, match=r"no joint mode.*posterior.*pyro\.condition"):
        check_joint_mode(objective(REFUSED[name]))


@pytest.mark.parametrize("name", ADMITTED)
def test_a_joint_mode_that_exists_is_admitted(name):
    check_joint_mode(objective(ADMITTED[name]))


def test_the_density_is_as_unbounded_as_that():
    # log p(u = 0 | tau) = -G log tau + constant: a scale of e^-20 is 20 G nats above one of 1.
    there = objective(NORMAL)
    params = {name: number(0.5).expand(site.shape) for name, site in there.sites.items()}
    heights = [
        there.value(there.layout.theta(params | {"u": zeros(GROUPS), "tau": number(at)}))
        for at in (1.0, 1e-20)
    ]
    expected = GROUPS * number(1e20).log() + 0.5  # the prior HalfNormal(1) of tau: exp(-1/2) at 1, and 1 at 0
    assert heights[0] - heights[1] == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("solver", [None, SVI(steps=10)], ids=str)
def test_map_estimate_refuses_at_once_whatever_the_solver(solver):
    began = time.process_time()
    with pytest.raises(UnboundedLikelihoodError, match="'tau', on which the prior of 'u' depends"):
        map_estimate(NORMAL, X, Y, solver=solver)
    assert time.process_time() - began < 1.0


def test_the_laplace_approximation_refuses_too():
    with pytest.raises(UnboundedLikelihoodError, match="'tau'"):
        posterior(NORMAL, X, Y, method="laplace")


def test_mle_names_a_scale_that_enters_a_masked_prior_alone():
    with pytest.raises(ModelError, match=r"'tau'.*prior of 'u'") as caught:
        mle(NORMAL, X, Y)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["horseshoe", "without predictors", "scales and correlations", "jitter"])
def test_mle_refuses_every_such_model(name):
    with pytest.raises(ModelError, match=r"no maximum-likelihood estimate of '(tau|root)'"):
        mle(REFUSED[name], X, Y)


def test_the_remedies_work():
    held = map_estimate(pyro.condition(NORMAL, {"tau": torch.tensor(1.0)}), X, Y)
    assert held.converged
    prior = {"tau": dist.InverseGamma(2.0, 1.0)}
    found = map_estimate(with_priors(NORMAL, prior), X, Y)
    assert found.converged
    assert 0.1 < found.params["tau"] < 1.0


def test_jitter_of_a_scale_is_no_joint_mode():
    # As much of the density is at tau = 0 as the logarithm of the jitter gives, and no more where it is 0.
    with pytest.raises(UnboundedLikelihoodError, match="scale of 'u'"):
        map_estimate(JITTERED, X, Y)
    found = map_estimate(ADMITTED["jitter, vanishing at 0"], X, Y)
    assert found.converged
    assert 0.1 < found.params["tau"] < 1.0


def test_a_scale_that_ends_at_its_lower_bound_is_refused_and_one_above_it_is_fitted():
    softplus = grouped(
        lambda tau, sigma: dist.Normal(zeros(GROUPS), torch.nn.functional.softplus(tau)).to_event(1)
    )
    with pytest.raises(UnboundedLikelihoodError, match=r"no joint mode: its density .* 'tau'") as refused:
        map_estimate(softplus, X, Y)
    assert "with_priors(model, {'tau': dist.InverseGamma(2.0, 1.0)})" in str(refused.value)
    assert map_estimate(with_priors(softplus, {"tau": dist.InverseGamma(2.0, 1.0)}), X, Y).converged
    # Effects of a spread above log 2, the lower bound of the scale, have a mode inside.
    fit = map_estimate(softplus, X, Y + 8 * torch.linspace(-1.0, 1.0, GROUPS).double()[GROUP])
    assert fit.converged
    assert fit.params["tau"] > 1


@pytest.mark.filterwarnings("ignore::neglog.errors.SamplingWarning")  # of so few draws
def test_nuts_starts_away_from_the_joint_mode_and_draws_the_scale():
    there = objective(NORMAL)
    start = there.layout.params(starting_point(there, None))
    assert start["tau"] > 0.1
    drawn = posterior(NORMAL, X, Y, draws=100, chains=1, tune=100, seed=1).draws["tau"]
    assert 0.3 < drawn.mean() < 3.0


def test_a_ridge_in_units_of_the_noise_is_found():
    # u ~ Normal(0, sigma) and y ~ Normal(mean + u, sigma): the joint density vanishes with sigma.
    fit = map_estimate(ADMITTED["conjugate"], X, Y)
    assert fit.converged
    assert fit.params["sigma"] > 0.1


def test_prior_parents_are_read_from_a_traced_run():
    parents = objective(slopes).structure.probe.prior_parents
    assert {name: set(of) for name, of in parents.items()} == {"u": {"tau", "root"}}
    assert objective(non_centred).structure.probe.prior_parents == {}


@pytest.mark.parametrize("name", TABLE)
def test_no_model_of_neglog_is_a_hierarchy(name):
    x, y = TABLE[name].sample()
    seen = Objective(TABLE[name].model, prepare(x, y, **TABLE[name].keywords())).structure.probe
    assert seen.prior_parents == {}


def test_tensors_are_found_in_transforms_that_hold_each_other():
    inverse = dist.transforms.ExpTransform().inv
    positive_ = dist.TransformedDistribution(dist.Normal(zeros(3), 2.0), [inverse.inv, inverse, inverse.inv])
    assert sum(part.numel() for part in parameters(positive_)) == 6
    assert in_dtype(positive_, torch.float32).log_prob(torch.ones(3)).dtype == torch.float32
