"""What Pyro samples, for ArviZ: chains, predictive draws, guides, and what is refused."""

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from neglog import from_pyro
from neglog.errors import DataError, ModelError

NEW = int(az.__version__.partition(".")[0]) >= 1
"""Whether groups are in an `xarray.DataTree`: the tests run with either generation of ArviZ."""

X = torch.linspace(-1, 1, 6)
Y = torch.tensor([0.1, 0.5, -0.3, 1.0, 0.7, 0.2])


def simple(x, y=None):
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
    mean = pyro.deterministic("mean", shift + slope[..., 0] * x)
    pyro.factor("nothing", torch.tensor(0.0))
    with pyro.plate("data", len(x)):
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def names(exported, group):
    return set(exported[group].data_vars)


def has(exported, group):
    return group in {str(path).strip("/") for path in (exported.groups if NEW else exported.groups())}


@pytest.fixture(scope="module")
def chain():
    pyro.set_rng_seed(0)
    found = MCMC(NUTS(simple), num_samples=100, warmup_steps=20, disable_progbar=True)
    found.run(X, Y)
    return found


def known_density(shift, slope):
    return dist.Normal(shift + slope * X, 1.0).log_prob(Y)


def test_a_chain_has_its_densities_and_what_is_made_of_it(chain):
    drawn = Predictive(simple, chain.get_samples())(X)
    exported = from_pyro(
        chain, X, Y, model=simple, posterior_predictive=drawn, prior=Predictive(simple, num_samples=20)(X),
        dims={"y": ["day"]}, coords={"day": range(6)},
    )  # fmt: skip
    assert names(exported, "posterior") == {"shift", "slope", "mean"}
    assert exported.posterior["mean"].shape == (1, 100, 6)
    assert exported.sample_stats["diverging"].shape == (1, 100)
    assert names(exported, "log_likelihood") == names(exported, "observed_data") == {"y"}
    assert exported.log_likelihood["y"].dims == ("chain", "draw", "day")
    at = {name: value[3] for name, value in chain.get_samples().items()}
    np.testing.assert_allclose(exported.log_likelihood["y"][0, 3], known_density(**at), rtol=1e-5)
    assert names(exported, "posterior_predictive") == {"y"}
    assert names(exported, "prior") == {"shift", "slope"}
    assert exported.prior["slope"].shape == (1, 20, 1)
    assert exported.prior_predictive["y"].shape == (1, 20, 6)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_arviz_works_on_a_chain(chain):
    """A deterministic site or a factor is no observation: `az.loo` would ask which of them is meant."""
    exported = from_pyro(chain, X, Y, model=simple)
    assert np.isfinite(
        float(np.asarray(az.loo(exported).elpd if hasattr(az, "loo_i") else az.loo(exported).iloc[0]))
    )


def test_a_chain_of_several(chain):
    drawn = chain.get_samples(group_by_chain=True)
    several = {name: value.reshape(2, 50, *value.shape[2:]) for name, value in drawn.items()}

    class Two(MCMC):
        def __init__(self):
            pass

        def get_samples(self, num_samples=None, group_by_chain=False):
            return several

        def diagnostics(self):
            return {"divergences": {"chain 0": [], "chain 1": [4]}}

    exported = from_pyro(Two(), X, Y, model=simple)
    assert exported.log_likelihood["y"].shape == (2, 50, 6)
    assert int(exported.sample_stats["diverging"].sum()) == int(exported.sample_stats["diverging"][1, 4]) == 1
    alone = from_pyro(chain, X, Y, model=simple).log_likelihood["y"].values
    np.testing.assert_array_equal(exported.log_likelihood["y"].values.reshape(alone.shape), alone)


@pytest.mark.parametrize("kind", [AutoNormal, AutoMultivariateNormal, AutoDelta])
@pytest.mark.usefixtures("seeded")
def test_a_guide_is_drawn_from(kind):
    guide = kind(simple)
    guide(X, Y)
    exported = from_pyro(guide, X, Y, model=simple, draws=30)
    assert names(exported, "posterior") == {"shift", "slope", "mean"}
    assert exported.posterior["slope"].shape == (1, 30, 1)
    assert exported.log_likelihood["y"].shape == (1, 30, 6)
    of_predictive = from_pyro(Predictive(simple, guide=guide, num_samples=30), X)
    assert names(of_predictive, "posterior") == {"shift", "slope", "mean"}
    assert names(of_predictive, "posterior_predictive") == {"y"}
    assert of_predictive.posterior_predictive["y"].shape == (1, 30, 6)


@pytest.mark.usefixtures("seeded")
def test_a_predictive_of_samples_is_called(chain):
    source = Predictive(simple, chain.get_samples())
    exported = from_pyro(source, X)
    assert names(exported, "posterior") == {"shift", "slope", "mean"}
    assert exported.posterior["slope"].shape == (1, 100, 1)
    assert exported.posterior_predictive["y"].shape == (1, 100, 6)
    # Given the observations too, it is not they that are predicted, and their densities are known.
    with_y = from_pyro(source, X, Y)
    assert float(with_y.posterior_predictive["y"].std("draw").min()) > 0.1
    np.testing.assert_array_equal(with_y.observed_data["y"], Y)
    same = from_pyro(chain, X, Y, model=simple).log_likelihood["y"]
    np.testing.assert_allclose(with_y.log_likelihood["y"], same, rtol=1e-6)


@pytest.mark.usefixtures("seeded")
def test_a_predictive_may_work_on_all_draws_at_once():
    def model(x, y=None):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(shift, 1.0), obs=y)

    exported = from_pyro(Predictive(model, {"shift": torch.arange(9.0)}, parallel=True), X, Y)
    assert exported.posterior["shift"].shape == (1, 9)
    assert exported.posterior_predictive["y"].shape == exported.log_likelihood["y"].shape == (1, 9, 6)


@pytest.mark.usefixtures("seeded")
def test_a_predictive_of_nothing_is_a_prior():
    source = Predictive(simple, num_samples=40)
    exported = from_pyro(source, X, Y)
    assert names(exported, "prior") == {"shift", "slope", "mean"}
    assert exported.prior["slope"].shape == (1, 40, 1)
    assert names(exported, "prior_predictive") == names(exported, "observed_data") == {"y"}
    assert not has(exported, "posterior")
    assert "y" in names(from_pyro(source, X), "prior")  # of what is observed nothing says


@pytest.mark.usefixtures("seeded")
def test_rows_that_are_masked_have_no_density():
    def model(x, y=None):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)), poutine.mask(mask=x > 0), poutine.scale(scale=7.0):
            pyro.sample("y", dist.Normal(shift, 1.0), obs=y)

    found = from_pyro({"shift": np.zeros(4)}, X, Y, model=model).log_likelihood["y"][0, 0]
    expected = torch.where(X > 0, dist.Normal(0.0, 1.0).log_prob(Y), 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def subsampled(x, y=None):
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=2) as rows:
        pyro.sample("y", dist.Normal(shift, 1.0), obs=y[rows])


def unseen():
    pyro.sample("shift", dist.Normal(0.0, 1.0))


SHIFT = {"shift": torch.zeros(5)}


@pytest.mark.parametrize(
    ("source", "args", "settings", "error", "message"),
    [
        (3, (), {}, ModelError, "`source` must be .* it is int"),
        ({}, (), {}, ModelError, "it is an empty dict"),
        (MCMC(NUTS(simple), num_samples=3), (), {}, ModelError, "an MCMC without samples: call its `run`"),
        (lambda: None, (), {}, ModelError, "a function without a sample site"),
        (simple, (), {}, ModelError, "the guide does not run on the arguments that were given: TypeError"),
        (simple, (X,), {"draws": 0}, ModelError, "`draws` must be a positive whole number; it is 0"),
        ({"shift": 3.0}, (), {}, DataError, "`source` needs a tensor of draws of 'shift'; it is float"),
        ({"shift": torch.tensor(3.0)}, (), {}, DataError, "at least one"),
        (SHIFT | {"slope": torch.zeros(6, 1)}, (), {}, DataError, "as many draws of each site"),
        (SHIFT, (X, Y), {"model": 3}, ModelError, "`model` must be a Pyro function; it is int"),
        (SHIFT, (), {"model": simple}, ModelError, "the model does not run on the arguments"),
        (SHIFT, (X, Y), {"model": simple}, ModelError, "a latent site 'slope' without samples"),
        (SHIFT | {"slope": torch.zeros(5, 1)}, (X,), {"model": simple}, ModelError, "latent site 'y'"),
        (SHIFT, (X, Y), {"model": subsampled}, ModelError, "subsamples the rows of 'y'"),
        (SHIFT, (), {"model": unseen}, ModelError, "the model observes nothing"),
        (SHIFT, (), {"posterior_predictive": {"y": torch.zeros(4)}}, DataError, "needs 5 draws; 'y' has 4"),
        (SHIFT, (), {"posterior_predictive": torch.zeros(5)}, DataError, "must be a mapping.*it is Tensor"),
        (Predictive(simple, num_samples=5), (X, Y), {"model": simple}, ModelError, "of the prior alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused(source, args, settings, error, message):
    with pytest.raises(error, match=message):
        from_pyro(source, *args, **settings)
