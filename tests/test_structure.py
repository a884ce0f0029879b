"""Structure is read from a run of the model: classes, wrappers and names change no number and no solver."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import (
    censored,
    distributions,
    map_estimate,
    mle,
    mle_batch,
    models,
    priors_for,
    summary,
    with_priors,
)
from neglog.data import prepare
from neglog.errors import ModelError, UnboundedLikelihoodError
from neglog.fitting.choice import choose
from neglog.fitting.pinball import pinball
from neglog.fitting.start import starting_point
from neglog.handlers import flat
from neglog.likelihood.first import first_run
from neglog.likelihood.sites import Prior
from neglog.objective.coordinates import rescaled
from neglog.objective.normals import normal_priors
from neglog.objective.objective import Objective
from neglog.objective.shrinkage import Shrinkage, prior_terms
from neglog.predictors import linear
from neglog.solvers import InteriorPoint

X = torch.randn((60, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
NOISE = torch.randn(60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
Y = 1 + X @ torch.tensor([2.0, -1.0], dtype=torch.float64) + NOISE
COUNTS = torch.poisson(torch.exp(0.3 * X[:, 0]), generator=torch.Generator().manual_seed(3))


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def written(family, predictor="mean", scale="sigma", wrap=lambda fn: fn):
    """A model of one location and one scale, in words of its own."""

    def model(x, y=None):
        eta = linear(predictor, x)
        spread = pyro.sample(scale, dist.HalfNormal(number(1.0)))
        return pyro.sample("y", wrap(family(eta, spread)), obs=y)

    return model


def structure(model, y=Y):
    return Objective(flat(model), prepare(X, y)).structure.response


WRAPPERS = {
    "bare": lambda fn: fn,
    "mask(True)": lambda fn: fn.mask(True),
    "mask(tensor)": lambda fn: fn.mask(torch.tensor(True)),
    "to_event(0)": lambda fn: fn.to_event(0),
}
CLASSES = {
    "Normal": (distributions.Normal, dist.Normal),
    "Laplace": (distributions.Laplace, dist.Laplace),
    "StudentT": (partial(distributions.StudentT, 5.0), partial(dist.StudentT, 5.0)),
}


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", CLASSES)
def test_classes_and_wrappers_take_the_same_road(name, wrap):
    ours, theirs = CLASSES[name]
    first = mle(written(ours), X, Y)
    again = mle(written(theirs, "eta", "s", WRAPPERS[wrap]), X, Y)
    assert first.status == again.status
    assert first.n_iter == again.n_iter
    for old, new in (("mean.weight", "eta.weight"), ("mean.bias", "eta.bias"), ("sigma", "s")):
        torch.testing.assert_close(first.params[old], again.params[new], rtol=1e-12, atol=1e-12)
    errors = summary(first)["std_error"].to_numpy(), summary(again)["std_error"].to_numpy()
    torch.testing.assert_close(*map(torch.tensor, errors), rtol=1e-9, atol=0)


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_wrappers_take_the_same_road_in_batches(wrap):
    y = torch.stack([Y, -Y])
    first = mle_batch(written(distributions.Normal), X, y)
    again = mle_batch(written(dist.Normal, "eta", "s", WRAPPERS[wrap]), X, y)
    assert torch.equal(first.n_iter, again.n_iter)
    torch.testing.assert_close(first.params["sigma"], again.params["s"], rtol=1e-12, atol=0)


def test_location_and_scale_are_found_whatever_they_are_called():
    found = structure(written(dist.Normal, "log_rate", "variance"))
    assert found.family is distributions.Normal
    assert (found.location, found.scale) == ("log_rate", "variance")


def test_sites_and_their_priors_are_known():
    def model(x, y=None):
        tau = pyro.sample("tau", dist.HalfNormal(number(1.0)))
        pyro.sample("u", dist.Normal(number([0.0, 0.0]), tau).to_event(1))
        pyro.sample("v", dist.Normal(number([1.0, 2.0]), 3.0).to_event(1))
        slope = pyro.sample("slope", dist.Laplace(number(0.0), number(2.0)))
        pyro.sample("half", dist.Normal(number(0.0), 1.0).mask(torch.tensor(False)))
        return pyro.sample("y", dist.Normal(linear("mean", x) + slope * x[:, 0], tau), obs=y)

    found = Objective(flat(model, "mean.weight"), prepare(X, Y)).structure
    kinds = {name: site.prior for name, site in found.sites.items()}
    assert kinds == {
        "tau": Prior.OTHER,
        "u": Prior.NORMAL,
        "v": Prior.NORMAL,
        "slope": Prior.KINKED,
        "half": Prior.OTHER,
        "mean.bias": kinds["mean.bias"],
        "mean.weight": Prior.FLAT,
    }
    assert [name for name in found.sites if not found.is_fixed(name)] == ["u"]
    assert list(found.prior_corners) == ["slope"]
    assert found.sites["tau"].is_positive
    assert not found.sites["v"].is_positive
    assert found.coefficients("mean") == (found.sites["mean.bias"], found.sites["mean.weight"])
    torch.testing.assert_close(found.sites["v"].initial, number([1.0, 2.0]))


def test_normal_priors_that_depend_on_other_sites_or_count_in_part_are_no_quadratic():
    def model(x, y=None, scale=1.0):
        tau = pyro.sample("tau", dist.HalfNormal(number(1.0)))
        pyro.sample("u", dist.Normal(number([0.0, 0.0]), tau).to_event(1))
        with pyro.poutine.scale(scale=scale):
            pyro.sample("v", dist.Normal(number([1.0, 2.0]), 3.0).to_event(1))
        return pyro.sample("y", dist.Normal(linear("mean", x), tau), obs=y)

    for scale, expected in ((1.0, {"v"}), (2.0, set())):
        objective = Objective(flat(partial(model, scale=scale), "mean.weight", "mean.bias"), prepare(X, Y))
        assert normal_priors(objective).sites == expected


def test_priors_by_formulas_are_those_of_the_model():
    def model(x, y=None):
        tau = pyro.sample("tau", dist.Exponential(number(2.0)))
        pyro.sample("u", dist.Normal(number([0.0, 0.0]), tau).to_event(1))
        pyro.sample("rates", dist.Exponential(number([0.5, 3.0])).to_event(1))
        pyro.sample("late", dist.Exponential(tau))
        pyro.sample("shares", dist.Dirichlet(number([1.0, 1.0, 1.0])))
        pyro.sample("tilted", dist.Dirichlet(number([1.0, 2.0])))
        pyro.sample("between", dist.Uniform(number(1.0), 3.0))
        pyro.sample("chance", dist.Beta(number(1.0), 1.0))
        with pyro.poutine.scale(scale=2.0):
            pyro.sample("twice", dist.Exponential(number(1.0)))
        return pyro.sample("y", dist.Normal(linear("mean", x), tau), obs=y)

    objective = Objective(model, prepare(X, Y))
    prior = Shrinkage(objective, torch.arange(objective.size))
    assert prior.exponentials.sites == {"tau", "rates", "shares", "between", "chance"}
    theta = objective.initial + torch.linspace(-1, 1, objective.size).to(objective.initial)
    found, (value, slope, bend) = prior(theta), prior_terms(objective, theta)
    assert found.value == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(found.slope, slope)
    torch.testing.assert_close(found.bend, bend)
    torch.testing.assert_close(found.sums, bend.sum(1))


def test_two_scales_of_one_initial_value_are_told_apart():
    def model(x, y=None):
        other = pyro.sample("a", dist.HalfNormal(number(1.0)))
        spread = pyro.sample("b", dist.HalfNormal(number(1.0)))
        pyro.sample("c", dist.Normal(number(0.0), other))
        return pyro.sample("y", dist.Normal(linear("mean", x), spread), obs=y)

    assert structure(model).scale == "b"


def test_what_only_equals_a_parameter_is_none():
    """A link, a factor of 1, a lower bound: the numbers may agree, but they are not the parameter."""

    def model(x, y=None, change=lambda value: value):
        spread = pyro.sample("sigma", dist.HalfNormal(number(1.0)))
        return pyro.sample("y", dist.Normal(change(linear("mean", x)), change(spread)), obs=y)

    for change in (lambda v: 1.0 * v, lambda v: v.clamp(min=-1e9), lambda v: v + 0.0, torch.exp):
        found = structure(partial(model, change=change))
        assert (found.location, found.scale, found.known_scale) == (None, None, None)


def test_a_scale_of_each_row_is_no_known_scale():
    def model(x, y=None, noise=None):
        scale = torch.ones(len(x), dtype=torch.float64) if noise is None else noise
        return pyro.sample("y", dist.Normal(linear("mean", x), scale), obs=y)

    noise = torch.ones(60, dtype=torch.float64)
    noise[30:] = 3.0
    expected = torch.linalg.lstsq(
        torch.cat([X, torch.ones(60, 1)], 1) / noise[:, None], (Y / noise)[:, None]
    ).solution[:2, 0]
    fit = mle(model, X, Y, noise=noise)
    assert fit.objective.structure.response.known_scale is None
    torch.testing.assert_close(fit.params["mean.weight"], expected, rtol=1e-9, atol=0)


def test_rows_that_a_model_masks_do_not_count():
    """A mask of some rows, or weights of the model's own, leave no closed form of all rows."""
    seen = torch.arange(60) >= 20

    def masked(x, y=None):
        spread = pyro.sample("sigma", dist.HalfNormal(number(1.0)))
        counted = seen if len(x) == 60 else torch.ones(len(x), dtype=torch.bool)
        with pyro.poutine.mask(mask=counted):
            return pyro.sample("y", dist.Normal(linear("mean", x), spread), obs=y)

    assert not structure(masked).is_complete
    expected = mle(models.gaussian, X[seen], Y[seen])
    found = mle(masked, X, Y)
    torch.testing.assert_close(found.params["sigma"], expected.params["sigma"], rtol=1e-7, atol=0)


@pytest.mark.parametrize("estimate", [mle, map_estimate])
def test_counts_written_with_pyro_are_as_ours(estimate):
    def model(x, y=None):
        return pyro.sample("y", dist.Poisson(linear("eta", x).exp()).mask(True), obs=y)

    first, again = estimate(models.poisson, X, COUNTS), estimate(model, X, COUNTS)
    torch.testing.assert_close(
        first.params["log_rate.weight"], again.params["eta.weight"], rtol=1e-7, atol=1e-7
    )
    assert first.converged
    assert again.converged


def test_priors_do_not_hang_on_names():
    """A log variance that is called `a`, a mean that is called `log_b` and a scale that is called `c`."""

    def spread(x, y=None):
        return pyro.sample("y", dist.Normal(linear("log_b", x), torch.exp(0.5 * linear("a", x))), obs=y)

    renamed = {"mean": "log_b", "log_variance": "a"}
    expected, found = priors_for(models.heteroscedastic, X, Y), priors_for(spread, X, Y)
    for name, prior in expected.items():
        predictor, part = name.split(".")
        again = found[f"{renamed[predictor]}.{part}"]
        torch.testing.assert_close(again.loc, prior.loc)
        torch.testing.assert_close(again.scale, prior.scale)
    scale = priors_for(written(dist.Normal, "log_b", "c"), X, Y)["c"]
    torch.testing.assert_close(scale.rate, priors_for(models.gaussian, X, Y)["sigma"].rate)


def test_degrees_of_freedom_have_no_unit():
    """The prior of log df is not centred at log sd(y), as that of the logarithm of a scale is."""
    found = priors_for(models.student_t, {"location": X, "scale": X, "df": X}, 1000 * Y)
    assert float(found["log_df.bias"].loc) == 0
    torch.testing.assert_close(found["log_scale.bias"].loc, torch.log(1000 * Y.std()))


def test_a_rate_that_is_no_exponential_has_no_logarithm():
    def model(x, y=None):
        return pyro.sample("y", dist.Poisson(torch.nn.functional.softplus(linear("log_rate", x))), obs=y)

    assert float(priors_for(model, X, COUNTS)["log_rate.bias"].loc) == 0
    assert float(priors_for(models.poisson, X, COUNTS)["log_rate.bias"].loc) != 0


QUANTILES = {
    "Laplace": (distributions.Laplace, dist.Laplace),
    "AsymmetricLaplace": (
        lambda location, scale: distributions.AsymmetricLaplace(location, scale, number(0.3)),
        lambda location, scale: distributions.AsymmetricLaplace(location, scale, number(0.3)).mask(True),
    ),
}


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("name", QUANTILES)
def test_quantile_lines_of_all_wrappers_start_and_end_alike(name, wrap):
    ours, theirs = QUANTILES[name]
    first = Objective(flat(written(ours)), prepare(X, Y))
    again = Objective(flat(written(theirs, "eta", "s", WRAPPERS[wrap])), prepare(X, Y))
    start, other = starting_point(first, None), starting_point(again, None)
    assert torch.equal(start, other)
    assert float(start[first.sites["mean.bias"].place]) in Y.tolist()
    solvers = [choose(rescaled(each, start)) for each in (first, again)]
    assert [type(solver) for solver in solvers] == [InteriorPoint, InteriorPoint]
    ends = mle(first.model, X, Y), mle(again.model, X, Y)
    assert torch.equal(ends[0].params["mean.weight"], ends[1].params["eta.weight"])


def test_a_quantile_line_takes_no_run_of_the_model_beyond_its_structure():
    runs = []

    def model(x, y=None):
        runs.append(1)
        return written(dist.Laplace)(x, y)

    objective = Objective(flat(model), prepare(X, Y))
    coordinates = rescaled(objective, starting_point(objective, None))
    runs.clear()
    assert pinball(coordinates) is not None
    assert not runs


@pytest.mark.parametrize(
    ("name", "y"), [("poisson", COUNTS), ("gaussian", Y), ("bernoulli", (Y > 1).double())]
)
def test_a_further_fit_runs_the_model_twice(name, y):
    """Once near its initial values, which shows its structure, and once at the optimum."""
    runs = []

    def model(x, y=None):
        runs.append(1)
        return getattr(models, name)(x, y)

    first = mle(model, X, y)
    runs.clear()
    assert mle(model, X, y).nll == first.nll
    assert len(runs) == 2


@pytest.mark.parametrize(
    "model", [models.poisson, models.gamma, models.heteroscedastic, models.zero_inflated_poisson]
)
def test_a_run_near_the_initial_values_finds_those_of_a_run_at_them(model):
    data = prepare(X, Y.exp() if model is models.gamma else COUNTS, weights=COUNTS + 1)
    near, at = (first_run(model, data, {"shape": number(2.0)}, near) for near in (True, False))
    assert near.probe is not None
    assert at.probe is None
    assert list(near.initial) == [name for name in at.ran.sites if name in near.initial]
    for name, value in near.initial.items():
        assert torch.equal(value, at.initial[name])
    for call, same in zip(near.calls, at.calls, strict=True):
        assert torch.equal(call.bias, same.bias)
        assert torch.equal(call.weight, same.weight)


def test_a_hierarchy_is_run_at_its_initial_values():
    """The prior of a coefficient there is that at the initial value of its scale."""

    def model(x, y=None):
        scale = pyro.sample("scale", dist.Exponential(number(1.0)))
        location = pyro.sample("location", dist.Normal(scale, 1.0))
        eta = linear("eta", x)
        return pyro.sample("y", dist.Normal(eta + location, 1.0), obs=y)

    first = first_run(model, prepare(X, Y), None, near=True)
    assert first.probe is None
    assert first.initial["location"] == first.initial["scale"]


def test_what_a_model_observes_need_not_be_y():
    """A model of log(y) has the optimum of the same model without the logarithm, on log(y)."""
    positive = torch.exp(Y)
    for family in (distributions.Laplace, distributions.Normal):

        def model(x, y=None, family=family):
            spread = pyro.sample("sigma", dist.HalfNormal(number(1.0)))
            return pyro.sample(
                "y", family(linear("mean", x), spread), obs=None if y is None else torch.log(y)
            )

        assert not structure(model, positive).is_y
        expected, found = mle(written(family), X, Y), mle(model, X, positive)
        torch.testing.assert_close(
            found.params["mean.weight"], expected.params["mean.weight"], rtol=1e-9, atol=0
        )


def test_a_lasso_of_the_logarithm_is_that_of_its_rows():
    prior = dist.Laplace(number(0.0), number(0.05))

    def model(x, y=None, transform=torch.log):
        value = None if y is None else transform(y)
        return pyro.sample("y", dist.Normal(linear("mean", x), number(1.0)), obs=value)

    sharp = with_priors(model, {"mean.weight": prior})
    lasso = [partial(flat(sharp, "mean.bias"), transform=t) for t in (torch.log, torch.clone)]
    found, expected = map_estimate(lasso[0], X, torch.exp(Y)), map_estimate(lasso[1], X, Y)
    torch.testing.assert_close(
        found.params["mean.weight"], expected.params["mean.weight"], rtol=1e-8, atol=1e-9
    )


def test_rows_that_a_model_scales_itself_keep_the_interior_point():
    factors = torch.where(torch.arange(60) < 30, number(2.0), number(1.0))

    def scaled(x, y=None):
        spread = pyro.sample("sigma", dist.HalfNormal(number(1.0)))
        with pyro.poutine.scale(scale=factors[: len(x)]):
            return pyro.sample("y", dist.Laplace(linear("mean", x), spread), obs=y)

    assert not structure(scaled).is_complete
    found, expected = mle(scaled, X, Y), mle(written(dist.Laplace), X, Y, weights=factors)
    torch.testing.assert_close(
        found.params["mean.weight"], expected.params["mean.weight"], rtol=1e-12, atol=0
    )
    assert "vertex" in found.status


def test_the_location_inside_bounds_is_found():
    found = structure(lambda x, y=None: censored(written(dist.Laplace), upper=2.0)(x, y))
    assert found.location == "mean"


def test_classes_without_rows_are_refused_whoever_wrote_the_family():
    classes = torch.tensor([0.0, 2.0], dtype=torch.float64).repeat(30)

    def model(x, y=None):
        logits = linear("logits", x, outputs=range(1, 3))
        logits = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=-1)
        return pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    with pytest.raises(UnboundedLikelihoodError, match=r"no `y` is 1"):
        mle(model, X, classes)


def test_batches_do_not_take_y_for_a_function_of_it():
    y = torch.exp(torch.stack([Y, -Y]))

    def model(x, y=None, family=dist.Normal):
        spread = pyro.sample("sigma", dist.HalfNormal(number(1.0)))
        value = None if y is None else torch.log(y)
        return pyro.sample("y", family(linear("mean", x), spread), obs=value)

    found, expected = mle_batch(model, X, y), mle(written(dist.Normal), X, -Y)
    weight = found.params["mean.weight"][1]
    torch.testing.assert_close(weight, expected.params["mean.weight"], rtol=1e-7, atol=0)
    with pytest.raises(ModelError, match="a function of `y`"):
        mle_batch(partial(model, family=dist.Laplace), X, y)


SCALES = {
    "half Normal": dist.HalfNormal(1.0),
    "exponential": dist.Exponential(1.0),
    "shifted": dist.TransformedDistribution(
        dist.Exponential(1.0), [dist.transforms.AffineTransform(0.5, 1.0)]
    ),
    "share": dist.Uniform(0.0, 9.0),
    "softplus": dist.ImproperUniform(dist.constraints.softplus_positive, (), ()),
}


@pytest.mark.parametrize("name", SCALES)
def test_the_derivatives_of_a_scale_are_those_of_its_transform(name: str) -> None:
    """An exponential is its own derivative; other transforms are differentiated."""

    def model(x, y=None):
        mean = linear("mean", x)
        scale = pyro.sample("scale", SCALES[name])
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", distributions.Normal(mean, scale.double()), obs=y)

    objective = Objective(flat(model), prepare(X, Y), {"scale": torch.tensor(2.0)})
    site, formula = objective.sites["scale"], objective.backends.formula
    assert site.is_logarithm == (name in ("half Normal", "exponential"))
    at = torch.tensor([0.3], dtype=torch.float64)
    slope = torch.autograd.functional.jacobian(lambda u: site.transform(u).sum(), at)
    bend = torch.autograd.functional.hessian(lambda u: site.transform(u).sum(), at)
    assert formula._scale(at) == (float(site.transform(at)), float(slope), float(bend))
