"""Families: one record for each; what it lacks is derived, and what it has agrees with the derivation."""

import math
import sys
from functools import cache
from pathlib import Path
from typing import ClassVar

import loss_tables
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution, constraints
from table import TABLE, Model, random_params

import neglog
from neglog import covariance, distributions, mle, models, scores, summary
from neglog.bayes.priors import priors_for
from neglog.comparison import compare_models
from neglog.distributions import Family, Weibull, register
from neglog.distributions.averaged import quantile_of
from neglog.distributions.derived import mean_of, rule, tails_of, variance_of
from neglog.distributions.family import REGISTERED, family, family_of, tailed
from neglog.distributions.tails import log_tails
from neglog.errors import ModelError
from neglog.export.saved import load, save
from neglog.formula import learn
from neglog.kinks import corner
from neglog.losses import TABLE as TABLE_OF_LOSSES
from neglog.losses import Loss
from neglog.prediction.crps import crps
from neglog.predictors import linear, positive, rows

DERIVED = 1e-7
"""Relative: the quadratures of a density beside formulas."""
SAME_FIT = 1e-6
"""Relative: two fits of one likelihood, by formulas and by quadratures."""


def number(value):
    return torch.tensor(value, dtype=torch.float64)


AT = {
    "Normal": (0.3, 1.7), "Laplace": (0.3, 1.7), "Logistic": (0.3, 1.7), "AsymmetricLaplace": (0.3, 1.7, 0.3),
    "StudentT": (4.5, 0.3, 1.7), "Huber": (0.3, 1.7, 1.345), "ElasticNet": (0.3, 0.7, 1.2),
    "LogNormal": (0.3, 0.6), "Gamma": (2.5, 1.3), "Weibull": (1.5, 2.2), "InverseGaussian": (1.4, 2.3),
    "Beta": (3.5, 4.5), "Poisson": (2.5,), "NegativeBinomial2": (2.5, 0.8), "Binomial": (7.0, 0.6),
    "Bernoulli": (0.7,), "Ordered": (0.3, [-1.0, 0.4, 2.0]), "Categorical": ([0.2, 0.5, 0.3],),
    "NormalMixture": ([-0.9, -0.5], [-1.0, 2.0], [0.5, 1.0]),
    "FromLoss": (0.3, 1.7, distributions.normalised(lambda u: torch.log(torch.cosh(u)) + u**4 / 20)),
    "ZeroInflated": (distributions.Poisson(torch.tensor([2.5], dtype=torch.float64)), -0.7),
}  # fmt: skip


OURS = {
    kind.__name__: kind
    for kind, record in REGISTERED.items()
    if kind.__module__.startswith("neglog.") and not record.is_bounded and record.marginal is None
}
"""The univariate families that are registered, but for other ones between bounds."""


@cache
def response(name):
    """The response `(1,)` of the model in the table of models that has this family."""
    for model in TABLE.values():
        x, params = torch.zeros(1, 3, dtype=torch.float64), random_params(model, size=0.3)
        trace = poutine.trace(pyro.condition(model.model, params)).get_trace(x, **model.keywords(1))
        if family(trace.nodes["y"]["fn"]) is OURS[name]:
            return trace.nodes["y"]["fn"]
    return pytest.fail(f"no row of the table of models has the family {name}")


def made(name):
    """A distribution `(1,)` of each registered family."""
    if name not in AT:
        return response(name)
    values = [number(value) if isinstance(value, float | list) else value for value in AT[name]]
    return getattr(distributions, name)(*values).expand([1])


NUMBERS = [name for name, kind in OURS.items() if REGISTERED[kind].ordered]
TYPICAL = number([0.02, 0.1, 0.35, 0.5, 0.8, 0.97])


@pytest.mark.parametrize("name", NUMBERS)
def test_tails_and_moments_are_those_of_the_density(name):
    fn = made(name)
    y = fn.icdf(TYPICAL[:, None])
    for known, found in zip(log_tails(fn, y), tails_of(fn, y), strict=True):
        torch.testing.assert_close(found.exp(), known.exp(), rtol=DERIVED, atol=1e-8)
    nodes, probabilities = rule(fn)
    mean = (nodes * probabilities).sum(0)
    torch.testing.assert_close(mean, fn.mean, rtol=DERIVED, atol=DERIVED)
    variance = ((nodes - mean) ** 2 * probabilities).sum(0)
    torch.testing.assert_close(variance, fn.variance, rtol=10 * DERIVED, atol=DERIVED)


class Bare(TorchDistribution):
    """The density, its corners and the draws of another distribution, and nothing else."""

    arg_constraints: ClassVar = {}

    def __init__(self, fn):
        self.fn, self.knots = fn, getattr(fn, "knots", ())
        super().__init__(fn.batch_shape, validate_args=False)

    @constraints.dependent_property(event_dim=0)
    def support(self):
        return self.fn.support

    def log_prob(self, value):
        return self.fn.log_prob(value)

    def sample(self, sample_shape=()):
        return self.fn.sample(sample_shape)


BARE = ("Normal", "Laplace", "StudentT", "Gamma", "Beta", "Poisson", "NormalMixture", "Binomial")
"""Tails of each kind, a corner, a mixture, bounds on one side and on both, real numbers and counts."""


@pytest.mark.parametrize("name", BARE)
def test_quantiles_scores_and_moments_need_a_density_alone(name):
    fn = made(name)
    bare, y = Bare(fn), fn.icdf(TYPICAL[:, None])
    torch.testing.assert_close(quantile_of(bare, TYPICAL[:, None]), y, rtol=1e-6, atol=1e-6)
    several = fn.expand([len(y)])
    torch.testing.assert_close(crps(Bare(several), y[:, 0]), crps(several, y[:, 0]), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(mean_of(bare), fn.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance_of(bare), fn.variance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, kind in OURS.items() if REGISTERED[kind].information])
def test_information_is_the_expected_product_of_the_scores(name):
    fn = made(name)
    record, leaves = family_of(fn), tuple(each.clone().requires_grad_() for each in fn._given)
    nodes, probabilities = rule(fn)
    fn._given = leaves
    order = dict(zip(fn.arg_constraints, leaves, strict=False)) if hasattr(type(fn), "mean") else {}
    order |= {"concentration": leaves[-1]} if name == "InverseGaussian" else {}
    order |= {"logits": leaves[-1]} if name in ("Bernoulli", "Binomial") else {}
    own = [order.get(key, getattr(fn, key)) for key in record.parameters]
    if name in ("Bernoulli", "Binomial"):  # by their probabilities: the scores in the logits
        leaf = fn.logits.detach().clone().requires_grad_()
        values = [fn.total_count] if name == "Binomial" else []
        fn, own = type(fn)(*values, logits=leaf), [leaf]
    entries = record.information(fn, *(each.detach().reshape(1) for each in own))
    found = torch.zeros(len(own), len(own), dtype=torch.float64)
    for node, probability in zip(nodes, probabilities, strict=True):
        score = torch.stack([each.reshape(()) for each in torch.autograd.grad(fn.log_prob(node).sum(), own)])
        found += probability * torch.outer(score, score)
    known = torch.zeros_like(found)
    for (a, b), entry in entries.items():
        known[a, b] = known[b, a] = entry.reshape(())
    torch.testing.assert_close(found, known, rtol=DERIVED, atol=DERIVED)


def test_a_family_is_seen_in_every_class_and_wrapper():
    zeros, ones = torch.zeros(3), torch.ones(3)
    for fn in (dist.Normal(zeros, ones), torch.distributions.Normal(zeros, ones)):
        for seen in (fn, dist.MaskedDistribution(fn, True), torch.distributions.Independent(fn, 0)):
            assert family(seen) is distributions.Normal
            assert type(tailed(seen)) is distributions.Normal
    assert family(dist.Exponential(ones)) is Weibull
    assert family(dist.Logistic(zeros, ones)) is distributions.Logistic
    assert family(dist.Gumbel(zeros, ones)) is dist.Gumbel


class Named(dist.Laplace):
    """A class of a user's own that leaves the density as it is."""


class Halved(dist.Laplace):
    def log_prob(self, value):
        return 0.5 * super().log_prob(value)


def test_a_class_is_of_the_family_that_it_inherits_its_density_from():
    zeros, ones = torch.zeros(3), torch.ones(3)
    assert family(Named(zeros, ones)) is distributions.Laplace
    assert family(Halved(zeros, ones)) is Halved
    assert corner(Named(zeros, ones)) is not None
    assert corner(Halved(zeros, ones)) is None  # a corner of another steepness, which nothing here knows


class Gauss(TorchDistribution):
    """A Normal law with other names of its parameters."""

    arg_constraints: ClassVar = {"centre": constraints.real, "width": constraints.positive}
    support = constraints.real

    def __init__(self, centre, width, validate_args=None):
        self.centre, self.width = torch.broadcast_tensors(centre, width)
        super().__init__(self.centre.shape, validate_args=validate_args)

    def log_prob(self, value):
        return distributions.Normal(self.centre, self.width).log_prob(value)

    def sample(self, sample_shape=()):
        return distributions.Normal(self.centre, self.width).sample(sample_shape)

    def expand(self, batch_shape, _instance=None):
        return Gauss(self.centre.expand(batch_shape), self.width.expand(batch_shape))


@pytest.fixture
def squares():
    standard = REGISTERED[distributions.Normal].standard
    names = {"location": "centre", "scale": "width"}
    yield register(Family(Gauss, ("centre", "width"), standard=standard, **names))
    del REGISTERED[Gauss]


def test_a_record_of_squares_takes_the_road_of_the_normal_whatever_its_parameters_are_called(squares):
    def of(kind):
        def model(x, y=None):
            mean, sigma = linear("mean", x), positive("sigma", x)
            with rows(x):
                return pyro.sample("y", kind(mean, sigma), obs=y)

        return model

    def penalised(kind):
        prior = {"mean.weight": kind(number([0.0]), number([0.5]))}
        known = pyro.condition(of(kind), {"sigma": number(1.0)})
        return neglog.map_estimate(neglog.with_priors(known, prior), X, EXTREMES)

    for fits in ([mle(of(kind), X, EXTREMES) for kind in (Gauss, distributions.Normal)],
                 [penalised(kind) for kind in (Gauss, distributions.Normal)]):  # fmt: skip
        assert [fit.n_iter for fit in fits] == [0, 0]
        for name, value in fits[0].params.items():
            torch.testing.assert_close(value, fits[1].params[name], rtol=1e-12, atol=1e-12)


# A made-up likelihood: one record and one function; it has a density and draws alone.


class Rayleigh(TorchDistribution):
    """Rayleigh(scale): the length of a vector of two independent Normal numbers, a Weibull of shape 2."""

    arg_constraints: ClassVar = {"scale": constraints.positive}
    support = constraints.positive

    def __init__(self, scale, validate_args=None):
        self.scale = scale
        super().__init__(scale.shape, validate_args=validate_args)

    def log_prob(self, value):
        return torch.log(value / self.scale**2) - 0.5 * (value / self.scale) ** 2

    def sample(self, sample_shape=()):
        return self.scale * torch.sqrt(
            -2 * torch.log(torch.rand(self.shape(sample_shape), dtype=self.scale.dtype))
        )


def rayleigh(x, y=None):
    log_scale = linear("log_scale", x)
    with rows(x):
        return pyro.sample("y", Rayleigh(torch.exp(log_scale)), obs=y)


def as_weibull(x, y=None):
    log_scale = linear("log_scale", x)
    with rows(x):
        return pyro.sample("y", Weibull(math.sqrt(2) * torch.exp(log_scale), number(2.0)), obs=y)


@pytest.fixture
def registered():
    record = register(
        Family(
            Rayleigh,
            ("scale",),
            information=lambda fn, scale: {(0, 0): 4 / scale**2},
        )
    )
    yield record
    del REGISTERED[Rayleigh]


# And one without a record: Pyro's Gumbel.


def gumbel(x, y=None):
    location, scale = linear("location", x), positive("scale", x)
    with rows(x):
        return pyro.sample("y", dist.Gumbel(location, scale), obs=y)


X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
LENGTHS = torch.as_tensor(scipy.stats.rayleigh.rvs(size=40, random_state=0)) * torch.exp(0.5 * X[:, 0])
EXTREMES = torch.as_tensor(scipy.stats.gumbel_r.rvs(size=40, random_state=1)) + X[:, 0]


def is_complete(model, y, folder):
    """A fit of a model, of which everything was computed."""
    fit = mle(model, X, y)
    assert fit.converged
    assert neglog.map_estimate(model, X, y).converged
    errors = [summary(fit, cov_type=kind)["std_error"] for kind in ("observed", "expected", "sandwich")]
    assert all(np.isfinite(each).all() and (each > 0).all() for each in errors)
    for kind, settings in {"mean": {}, "outcome": {"draws": 16}}.items():
        found = neglog.interval(fit, X[:5], kind=kind, **settings)
        assert (found["lower"] < found["upper"]).all()
    quantiles = neglog.quantile(fit, X, [0.1, 0.5, 0.9])
    assert bool((quantiles.diff(dim=1) > 0).all())
    for kind in ("log", "crps", "pinball@0.9", "interval@0.9"):
        for uncertainty in (False, True):
            found = scores(fit, X[:5], y[:5], kind, uncertainty=uncertainty, draws=4)
            assert bool(torch.isfinite(found).all())
    response = neglog.predict(fit, X)
    assert response.sample((3,)).shape == (3, 40)
    lower, upper = log_tails(response, y)  # quantile residuals
    torch.testing.assert_close(lower.exp() + upper.exp(), torch.ones_like(y), rtol=0, atol=1e-9)
    batch = neglog.mle_batch(model, X, torch.stack([y, y.flip(0)]))
    assert bool(batch.converged.all())
    torch.testing.assert_close(batch.nll[0], number(fit.nll), rtol=1e-9, atol=0)
    draws = neglog.posterior(model, X, y, method="laplace", draws=100, chains=1)
    assert bool(torch.isfinite(neglog.predict(draws, X[:5]).mean).all())
    assert set(priors_for(model, X, y)) <= set(fit.params)
    again = load(save(fit, folder / "fit"), model=model)  # code is not saved
    assert torch.equal(scores(again, X, y), scores(fit, X, y))
    return fit


def test_a_likelihood_is_one_record_and_one_function(registered, tmp_path):
    fit = is_complete(rayleigh, LENGTHS, tmp_path)
    known = mle(as_weibull, X, LENGTHS)
    for kind in ("observed", "expected", "sandwich"):
        np.testing.assert_allclose(covariance(fit, kind), covariance(known, kind), rtol=SAME_FIT, atol=1e-12)
    ours, theirs = neglog.interval(fit, X), neglog.interval(known, X)
    np.testing.assert_allclose(ours, theirs, rtol=SAME_FIT)
    for of in (
        lambda fit: neglog.quantile(fit, X, [0.05, 0.5]),
        lambda fit: scores(fit, X, LENGTHS, "crps"),
    ):
        np.testing.assert_allclose(of(fit), of(known), rtol=SAME_FIT)


@pytest.fixture
def built_in(registered, monkeypatch):
    """The made-up likelihood among those of neglog: what its module, one export and one row say."""
    rayleigh.loss = Loss(
        "squared length",
        torch_loss="the negative log-likelihood of lengths",
        density="y / scale² · exp(−y² / 2 scale²)",
        estimates="log of the scale",
        choose_when="y is the length of a vector",
        response="positive",
        page="positive.md",
    )
    row = Model(
        "rayleigh", rayleigh, None, lambda eta, y: scipy.stats.rayleigh.logpdf(y, scale=np.exp(eta)),
        "log_scale", {}, real=False,
    )  # fmt: skip
    monkeypatch.setattr(models, "rayleigh", rayleigh, raising=False)
    monkeypatch.setattr(models, "__all__", sorted([*models.__all__, "rayleigh"]))
    monkeypatch.setitem(TABLE, "rayleigh", row)
    yield row
    del rayleigh.loss


def test_a_built_in_likelihood_is_known_wherever_models_are_named(built_in, tmp_path):
    fit = mle(models.rayleigh, X, LENGTHS)
    assert fit.nll == pytest.approx(built_in.hand_written(fit.params, X, LENGTHS).item(), rel=1e-12)
    assert TABLE_OF_LOSSES["rayleigh"].name == "squared length"
    for written in (loss_tables.of_losses(), loss_tables.of_choices()):
        assert sum("| `rayleigh` |" in row and "y is the length of a vector" in row for row in written) == 1
    again = load(save(fit, tmp_path / "fit"))
    assert neglog.predict(again, X).log_prob(LENGTHS).equal(neglog.predict(fit, X).log_prob(LENGTHS))
    table = pd.DataFrame({"x": X[:, 0].numpy(), "y": LENGTHS.numpy()})
    found = compare_models(
        learn("y ~ x", table), watch=lambda names: [name for name in names if name in ("rayleigh", "weibull")]
    )
    best, second = found.entries
    assert (best.model, second.model) == ("rayleigh", "weibull")
    assert best.loss == "the negative log-likelihood of lengths"
    with pytest.raises(ModelError, match="`rayleigh` has no hand-written loss"):
        neglog.losses.loss_of("rayleigh")


def test_a_file_of_distributions_registers_its_families_without_being_named(tmp_path, monkeypatch):
    """Pyro's class of that law has the record too, whether or not a model of that law was used."""
    (tmp_path / "lindley.py").write_text(
        "from neglog.distributions.family import Family, register\n"
        "class Lindley: ...\n"
        "register(Family(Lindley))\n"
    )
    monkeypatch.setattr(distributions, "__path__", [*distributions.__path__, str(tmp_path)])
    exec(Path(distributions.__file__).read_text(), dict(vars(distributions)))  # as when it is imported
    found = [kind for kind in REGISTERED if kind.__name__ == "Lindley"]
    for kind in found:
        del REGISTERED[kind]
    sys.modules.pop("neglog.distributions.lindley", None)
    assert len(found) == 1


def test_a_record_without_formulas_is_derived():
    assert family_of(Rayleigh(number([1.0]))).information is None
    fit, known = mle(rayleigh, X, LENGTHS), mle(as_weibull, X, LENGTHS)
    found, exact = covariance(fit, "expected"), covariance(known, "expected")
    np.testing.assert_allclose(found, exact, rtol=SAME_FIT, atol=1e-12)


def test_a_distribution_of_pyro_needs_no_record(tmp_path):
    fit = is_complete(gumbel, EXTREMES, tmp_path)
    location = fit.params["location.weight"] * X[:, 0] + fit.params["location.bias"]
    scale, quantiles = fit.params["scale"], scipy.stats.gumbel_r(location, fit.params["scale"]).ppf(0.9)
    np.testing.assert_allclose(neglog.quantile(fit, X, 0.9), quantiles, rtol=1e-9)
    # The information in location and scale, in units of 1 / scale²: 1, γ - 1 and π² / 6 + (1 - γ)².
    gamma = 0.5772156649015329
    design = np.column_stack([X[:, 0], np.ones(40)])
    whole = np.zeros((3, 3))
    whole[:2, :2], whole[2, 2] = design.T @ design, 40 * (math.pi**2 / 6 + (1 - gamma) ** 2)
    whole[:2, 2] = whole[2, :2] = (gamma - 1) * design.sum(0)
    found = covariance(fit, "expected")
    order = [("location", "x0"), ("location", "Intercept"), ("scale", "")]
    exact = np.linalg.inv(whole / float(scale) ** 2)
    np.testing.assert_allclose(found.loc[order, order], exact, rtol=1e-6, atol=1e-12)


def test_counts_of_pyro_need_no_record():
    def model(x, y=None):
        logit = linear("logit", x)
        with rows(x):
            return pyro.sample("y", dist.Geometric(logits=logit), obs=y)

    y = torch.as_tensor(scipy.stats.geom.rvs(0.3, size=40, random_state=2) - 1).double()
    fit = mle(model, X, y)
    p = neglog.predict(fit, X).probs
    # The information of a geometric count in its logit is (1 - p).
    design = np.column_stack([X[:, 0], np.ones(40)])
    found = covariance(fit, "expected")
    order = [("logit", "x0"), ("logit", "Intercept")]
    exact = np.linalg.inv(design.T @ ((1 - p.numpy())[:, None] * design))
    np.testing.assert_allclose(found.loc[order, order], exact, rtol=1e-6)
    np.testing.assert_allclose(neglog.quantile(fit, X, 0.8), scipy.stats.geom(p).ppf(0.8) - 1)


def heavy(scale):
    return Bare(dist.Cauchy(number([0.3]), number([scale])))


def test_what_does_not_follow_from_a_density_is_refused_by_name():
    with pytest.raises(ModelError, match="`Bare` has no mean"):
        mean_of(heavy(1.2))
    with pytest.raises(ModelError, match="`Bare` has no distribution function, and none follows"):
        log_tails(Bare(dist.VonMises(number([0.0]), number([1.0]))), number([0.3]))
    end = number([2.0]).requires_grad_()
    with pytest.raises(ModelError, match="support depends on a parameter"):
        rule(dist.Uniform(number([0.0]), end))
    with pytest.raises(ModelError, match="vectors"):
        rule(dist.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()))
