"""Every univariate model also understands `location` and `scale` for its first predictor and its scale."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from table import TABLE

import neglog
from neglog import map_estimate, mle, models
from neglog.errors import ModelError
from neglog.layers import current_names
from neglog.solvers import LBFGS

UNIVARIATE = [name for name in TABLE if not name.startswith("multivariate")]
OF_NO_SCALE = ("zero", "cutpoints")
"""Constants of models that have no scale."""
SCALES = {
    name: case.scale
    for name, case in TABLE.items()
    if name in UNIVARIATE and (case.others or case.constants) and case.scale not in OF_NO_SCALE
}
"""Model -> the predictor or constant of its spread."""
ARE_SCALES = {name: own for name, own in SCALES.items() if own in ("scale", "sigma")}
OTHERWISE = {
    name: own for name, own in SCALES.items() if own != "scale" and TABLE[name].location != "location"
}
"""Models that have names of their own for both."""


def same(one, other):
    assert list(one.params) == list(other.params)
    assert all(torch.equal(value, other.params[name]) for name, value in one.params.items())
    assert one.columns == other.columns


def both(name, x):
    """The designs of a location and, where the model has one, of a scale: by other and by own names."""
    designs = (x, x[:, :1] ** 2) if name in SCALES else (x,)
    own = (TABLE[name].location, SCALES.get(name, ""))
    return (dict(zip(names, designs, strict=False)) for names in (("location", "scale"), own))


def data(name):
    x, y = TABLE[name].sample(60, 2)
    return x, y, TABLE[name].keywords(60)


@pytest.mark.parametrize("name", UNIVARIATE)
@pytest.mark.filterwarnings("ignore::neglog.errors.ConvergenceWarning")
def test_they_are_keys_of_x(name):
    case, (x, y, rows) = TABLE[name], data(name)
    other, own = both(name, x)
    fit, known = (mle(case.model, designs, y, solver=LBFGS(max_steps=1), **rows) for designs in (other, own))
    same(fit, known)
    assert set(fit.columns) == set(own)
    few = {key: value[:3] for key, value in rows.items()}
    found, there = (neglog.predict(fit, designs, **few) for designs in both(name, x[:3]))
    assert torch.equal(found.log_prob(y[:3]), there.log_prob(y[:3]))


@pytest.mark.parametrize("name", UNIVARIATE)
def test_raw_pyro_understands_them(name):
    case, (x, y, rows) = TABLE[name], data(name)
    traces = []
    for named in both(name, x):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            traces.append(pyro.poutine.trace(case.model).get_trace(named, y, **rows))
    first, second = traces
    assert list(first.nodes) == list(second.nodes)
    assert torch.equal(first.log_prob_sum(), second.log_prob_sum())


@pytest.mark.parametrize("name", UNIVARIATE)
def test_they_name_sites_of_start_of_priors_and_of_flat(name):
    case, own = TABLE[name], SCALES.get(name, "")
    names = {"location.weight": f"{case.location}.weight", "location.bias": f"{case.location}.bias"}
    if name in ARE_SCALES:
        names |= {"scale": own, "log_scale.weight": f"log_{own}.weight"}
    for argument in ("start", "with_priors", "flat"):
        assert list(current_names(case.model, names, argument)) == list(names.values())
        assert list(current_names(neglog.flat(case.model), names, argument)) == list(names.values())


def test_start_and_priors_by_these_names_give_the_same_fits():
    x, y, _ = data("gaussian")
    found = mle(models.gaussian, x, y, start={"location.bias": 3.0, "scale": 2.0}, solver=LBFGS(max_steps=30))
    known = mle(models.gaussian, x, y, start={"mean.bias": 3.0, "sigma": 2.0}, solver=LBFGS(max_steps=30))
    same(found, known)
    priors = [dist.Normal(torch.zeros((), dtype=torch.float64), 0.1), dist.HalfNormal(0.3)]
    fits = [
        map_estimate(neglog.with_priors(models.gaussian, dict(zip(sites, priors, strict=True))), x, y)
        for sites in (("location.weight", "scale"), ("mean.weight", "sigma"))
    ]
    same(*fits)


@pytest.mark.parametrize("name", sorted(set(SCALES) - set(ARE_SCALES)))
def test_scale_is_no_site_where_the_spread_is_no_scale(name):
    """A shape of 2 is no scale of 2: `start` and priors take its own name alone."""
    x, y, rows = data(name)
    with pytest.raises(ModelError, match="'scale'"):
        mle(TABLE[name].model, x, y, start={"scale": 2.0}, **rows)


@pytest.mark.parametrize("name", sorted(set(UNIVARIATE) - set(SCALES)))
def test_models_without_a_scale_refuse_a_design_for_it(name):
    x, y, rows = data(name)
    with pytest.raises(ModelError, match="has no predictor 'scale'"):
        mle(TABLE[name].model, {"location": x, "scale": x}, y, **rows)


@pytest.mark.parametrize("name", OTHERWISE)
def test_both_names_at_once_are_refused(name):
    case, own, (x, y, rows) = TABLE[name], SCALES[name], data(name)
    with pytest.raises(ModelError, match=f"'location' is another name of '{case.location}'"):
        mle(case.model, {"location": x, case.location: x}, y, **rows)
    with pytest.raises(ModelError, match=f"'scale' is another name of '{own}'"):
        mle(case.model, {"location": x, "scale": x, own: x}, y, **rows)


def test_scale_of_a_weibull_alone_could_be_either_and_is_refused():
    """It is the exponential of its first predictor, whose design it must not replace in silence."""
    x, y, _ = data("weibull")
    with pytest.raises(ModelError, match="has no predictor 'scale'"):
        mle(models.weibull, {"scale": x}, y)


@pytest.mark.filterwarnings("ignore::neglog.errors.SamplingWarning")
def test_whatever_takes_designs_understands_them():
    x, y, _ = data("gaussian")
    named, own = {"location": x, "scale": x[:, :1]}, {"mean": x, "sigma": x[:, :1]}
    many = torch.stack([y, -y])

    def drawn(x):
        return neglog.posterior(models.gaussian, x, y, method="laplace", draws=100)

    calls = {
        "mle_batch": lambda x: neglog.mle_batch(models.gaussian, x, many).nll,
        "priors_for": lambda x: list(neglog.priors_for(models.gaussian, x, y)),
        "prior_predictive": lambda x: neglog.prior_predictive(models.gaussian, x, draws=3).y,
        "cross_validate": lambda x: neglog.cross_validate(models.gaussian, x, y, folds=2).scores,
        "posterior": lambda x: drawn(x).draws["log_sigma.bias"],
        "spool": lambda x: mle(models.gaussian, **neglog.spool([(x, y)])).nll,
    }
    for name, call in calls.items():
        one, other = call(named), call(own)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, name


def test_one_mapping_of_designs_serves_all_models_of_a_comparison():
    x, y = TABLE["lognormal"].sample(30, 2)
    names = ["gaussian", "laplace", "heteroscedastic", "weibull"]
    table = neglog.compare(names, {"location": x, "scale": x[:, :1]}, y, folds=2)
    assert table["reason"].isna().all()
    assert (table["k"] == 5).all()
    assert "with a head for `scale`" in table.loc["laplace", "replaces"]
    assert "with a head for `sigma`" in table.loc["gaussian", "replaces"]


def test_a_condition_which_knows_own_names_alone_is_told_them():
    x, y, _ = data("gaussian")
    held = pyro.condition(models.gaussian, {"location.bias": torch.tensor(0.0, dtype=torch.float64)})
    with pytest.raises(ModelError, match=r"called 'mean\.bias'"):
        mle(held, x, y)


def test_modules_of_a_network_are_named_so_too():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh()).double()
    other = neglog.on_features(models.gaussian, {"location": net})
    assert set(other.start) == set(neglog.on_features(models.gaussian, {"mean": net}).start)
