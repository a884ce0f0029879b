"""Functions that users write: an error in one is an error of neglog that names it, and keeps its cause."""

import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import neglog
from neglog import losses, map_estimate, mle, models, on_features, predictors, studies
from neglog.beginnings import many_optima
from neglog.errors import ModelError, NeglogError
from neglog.predictors import against_first, linear, positive, rows, sized
from neglog.tracing import predictor_names

N = 20
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 2)), RNG.normal(size=N)
CLASSES = np.arange(N) % 3.0


class OwnError(Exception):
    """An error that no library has."""


def failing(*_, **__):
    raise OwnError("line 12 of the user")


def of_location(function):
    """A model whose location goes through a function of the user's."""

    def model(x, y=None):
        location, scale = function(linear("location", x)), positive("scale", x)
        with rows(x):
            return pyro.sample("y", dist.StudentT(4.0, location, scale), obs=y)

    return model


def of_classes(read):
    """A model of classes whose number a function of the user's reads from the response."""

    @sized(classes=read)
    def model(x, y=None, classes=None):
        logits = against_first(linear("logits", x, outputs=classes - 1))
        with rows(x):
            return pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    return model


def begun(function):
    """A model whose scale begins where a function of the user's says."""
    return poutine.infer_config(
        models.student_t, lambda site: {"begin": function} if site["name"] == "scale" else {}
    )


class Network(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = torch.nn.Linear(2, 2), function

    def forward(self, x):
        return self.function(self.layer(x))


def hooked(hook):
    layer = torch.nn.Linear(2, 2)
    layer.register_forward_hook(hook)
    return layer


POSTERIOR = partial(neglog.posterior, method="laplace", draws=100)
CALLS = {
    "a size, mle": (lambda f: mle(of_classes(f), X, CLASSES), "`classes` from `y`"),
    "a size, posterior": (lambda f: POSTERIOR(of_classes(f), X, CLASSES), "`classes` from `y`"),
    "a size, by hand": (lambda f: of_classes(f)(torch.tensor(X), torch.tensor(CLASSES)), "`classes` from"),
    "a size, names": (lambda f: predictor_names(of_classes(f)), "`classes` from `y`"),
    "a model, mle": (lambda f: mle(of_location(f), X, Y), "`model`"),
    "a model, map_estimate": (lambda f: map_estimate(of_location(f), X, Y), "`model`"),
    "a model, mle_batch": (lambda f: neglog.mle_batch(of_location(f), X, np.stack([Y, Y])), "`model`"),
    "a model, posterior": (lambda f: POSTERIOR(of_location(f), X, Y), "`model`"),
    "a model, priors_for": (lambda f: neglog.priors_for(of_location(f), X, Y), "`model`"),
    "a model, prior_predictive": (lambda f: neglog.prior_predictive(of_location(f), X, draws=1), "`model`"),
    "a model, names": (lambda f: predictor_names(of_location(f)), "`model`"),
    "a model, robustness": (
        lambda f: studies.robustness({"own": of_location(f)}, rows=10, data_sets=2, shares=(0.0,)),
        "`model`",
    ),
    "a network": (lambda f: mle(on_features(models.gaussian, Network(f)), X, Y), "`module`"),
    "a network, by hand": (
        lambda f: on_features(models.gaussian, Network(f))(torch.tensor(X)),
        "`module`",
    ),
    "a hook of a network": (lambda f: mle(on_features(models.gaussian, hooked(f)), X, Y), "`module`"),
    "a prior of weights": (
        lambda f: map_estimate(on_features(models.gaussian, Network(torch.tanh), prior=f), X, Y),
        "`prior`",
    ),
    "an initial value": (lambda f: mle(begun(f), X, Y), "`scale` its initial value"),
    "other initial values": (lambda f: mle(many_optima(f)(of_location(torch.sin)), X, Y), "`many_optima`"),
    "a loss": (losses.as_likelihood, "`rho`"),
    "a guide": (neglog.from_pyro, "the guide"),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_error_of_a_function_is_named_and_kept(name):
    call, names = CALLS[name]
    with pytest.raises(ModelError) as caught:
        call(failing)
    assert names in str(caught.value)
    assert "OwnError" in str(caught.value)
    assert "line 12 of the user" in str(caught.value)
    causes = [caught.value]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    assert isinstance(causes[-1], OwnError)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    NESTED = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
NONSENSE = {
    "None": None,
    "NaN": float("nan"),
    "a complex number": 1j,
    "text": "a",
    "an array": np.ones(3),
    "a tensor of another shape": torch.ones(2, 3),
    "complex features": torch.tensor(X) + 1j,
    "integers as features": torch.ones(N, 2, dtype=torch.long),
    "a meta tensor": torch.ones(N, 2, device="meta"),
    "a sparse tensor": torch.eye(N, 2).to_sparse(),
    "a nested tensor": NESTED,
    "a generator": iter(()),
    "a class": int,
    "a distribution": dist.Normal(0.0, 1.0),
}
FITTING = {
    "a prior of weights": ("a distribution",),
    "other initial values": (),
    "a hook of a network": ("None",),  # torch takes None as no change
}
"""What is an answer, and no nonsense, of which function."""


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore")
def test_nonsense_of_a_function_is_an_error_of_neglog(name):
    for kind, value in NONSENSE.items():
        if kind in FITTING.get(name, ()):
            continue
        try:
            CALLS[name][0](lambda *_, value=value, **__: value)
        except NeglogError:
            continue
        except Exception as error:
            raise AssertionError(f"{name} that gives {kind} raises {type(error).__name__}") from error
        assert "a model" in name, (name, kind)  # a constant in the place of a predictor may be a model


@pytest.mark.parametrize("size", [np.int64(3), torch.tensor(3), 3])
def test_whole_numbers_of_every_kind_are_sizes(size):
    assert mle(of_classes(lambda y: size), X, CLASSES).params["logits.bias"].shape == (2,)


@pytest.mark.parametrize("size", [2.5, True, -1, torch.tensor(3.0), torch.ones(3, dtype=torch.long)])
def test_other_sizes_are_refused(size):
    with pytest.raises(ModelError, match=r"`classes` from `y` must return a whole number.*int\(\)"):
        mle(of_classes(lambda y: size), X, CLASSES)


def test_a_density_without_its_predictors_is_named():
    with pytest.raises(ModelError, match="linear predictors, 'location'"):
        neglog.mle_batch(_constant, X, np.stack([Y, Y]))


def _constant(x, y=None):
    linear("location", x)
    scale = positive("scale", x)
    with rows(x):
        return pyro.sample("y", dist.StudentT(4.0, torch.tensor(1.0, dtype=x.dtype), scale), obs=y)


def test_a_student_t_of_mixed_dtypes_is_fitted():
    """torch keeps the degrees of freedom in the dtype of the first tensor, and writes the variance there."""
    single = of_location(lambda location: location)
    mixed = of_location(lambda location: location + torch.tensor(0.0))
    assert mle(mixed, X, Y).nll == pytest.approx(mle(single, X, Y).nll)
    fit = mle(poutine.condition(of_float32, {"scale": torch.tensor(1.0)}), X, Y)
    assert fit.converged


def of_float32(x, y=None):
    bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
    scale = predictors.positive("scale", x)
    with rows(x):
        return pyro.sample("y", dist.StudentT(4.0, bias, scale.double()), obs=y)


def test_something_else_than_a_distribution_is_named():
    def model(x, y=None):
        linear("mean", x)
        return pyro.sample("y", lambda: 1.0, obs=y)

    for call in (lambda: mle(model, X, Y), lambda: neglog.prior_predictive(model, X, draws=1)):
        with pytest.raises(ModelError, match=r"'y' .*type function"):
            call()
