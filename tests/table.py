"""One table of models: what each law needs to know of a model, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
import pyro
import scipy.special
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import biject_to

from neglog import Fit, losses, mle, models
from neglog.predictors import against_first
from neglog.solvers import SVI

Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class Model:
    """A model, its hand-written NLL and SciPy's, both functions of predictors, constants and the response.

    The hand-written one may be None: then SciPy's alone is the reference.
    `constants` are its constants, at the values that samples are drawn with, those that may have a design of
    their own first; `others` are further predictors, and `outputs` says which predictors have many.
    `drawn` has other sites, at the values that samples are drawn with, where random ones will not do.
    `intercept` says whether the location has one, `smooth` whether the loss has a second derivative
    everywhere, `real` whether the response is a real number with a location and a scale, `fixed` how many
    constants cannot have a design. `beside` is the test that holds its fit of real data beside other
    software, where no case in cases.json does.
    """

    name: str
    model: Callable[..., Any]
    nll: Callable[..., Tensor] | None
    logpdf: Callable[..., Any]
    location: str
    constants: Mapping[str, Any]
    others: tuple[str, ...] = ()
    outputs: Mapping[str, int] = field(default_factory=dict)
    drawn: Mapping[str, Any] = field(default_factory=dict)
    fixed: int = 0
    intercept: bool = True
    smooth: bool = True
    real: bool = True
    row_keyword: str | None = None
    beside: str = ""

    @property
    def scale(self) -> str:
        """The predictor or constant of the spread, or whatever else may have a design of its own."""
        return (*self.others, *self.constants)[0]

    @property
    def designed(self) -> tuple[str, ...]:
        """The constants that may have a design of their own."""
        return tuple(self.constants)[: len(self.constants) - self.fixed]

    def keywords(self, rows: int = 60) -> dict[str, Tensor]:
        numbers = 1.0 + torch.arange(rows, dtype=torch.float64) % 5
        return {} if self.row_keyword is None else {self.row_keyword: numbers}

    def sample(self, rows: int = 60, columns: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
        """A design with columns of order one, and a response that the model draws."""
        x, y = sample(rows, columns, seed)
        if self.real:
            return x, y
        params = random_params(self, columns, seed, size=0.3) | {
            k: torch.as_tensor(v, dtype=torch.float64) for k, v in {**self.constants, **self.drawn}.items()
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1000)  # not the numbers that x has
            return x, pyro.condition(self.model, params)(x, **self.keywords(rows))

    def hand_written(self, params: Params, x: Tensor, y: Tensor) -> Tensor:
        """The summed hand-written NLL, or SciPy's."""
        if self.nll is None:
            return -torch.as_tensor(self.scipy(params, x, y)).sum()
        return self.nll(*self._arguments(params, x, y), **self.keywords(len(y)), reduction="sum")

    def scipy(self, params: Params, x: Tensor, y: Tensor) -> Any:
        """SciPy's log-density of each row."""
        keywords = {key: value.numpy() for key, value in self.keywords(len(y)).items()}
        return self.logpdf(*(a.numpy() for a in self._arguments(params, x, y)), **keywords)

    def _arguments(self, params: Params, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        others = (eta(name, params, x) for name in self.others)
        return eta(self.location, params, x), y, *others, *(params[name] for name in self.constants)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def eta(name: str, params: Params, x: Tensor) -> Tensor:
    weight = params[f"{name}.weight"]
    return x @ (weight if weight.dim() == 1 else weight.mT) + params.get(f"{name}.bias", 0.0)


def _huber(location: Any, y: Any, scale: Any) -> Any:
    u, delta = abs((y - location) / scale), 1.345
    rho = np.where(u <= delta, u**2 / 2, delta * (u - delta / 2))
    core = scipy.stats.norm.cdf(delta) - scipy.stats.norm.cdf(-delta)
    z = np.sqrt(2 * np.pi) * core + 2 * np.exp(-(delta**2) / 2) / delta
    return -rho - np.log(scale) - np.log(z)


def _negative_binomial(log_mean: Any, y: Any, dispersion: Any, exposure: Any) -> Any:
    mean = np.exp(log_mean) * exposure
    return scipy.stats.nbinom.logpmf(y, 1 / dispersion, 1 / (1 + dispersion * mean))


def _zero_inflated(log_count: Any, y: Any, zero: Any) -> Any:
    return np.log(zero * (y == 0) + (1 - zero) * np.exp(log_count))


def _classes(logit: Any, y: Any) -> Any:
    logits = np.column_stack([np.zeros(len(y)), logit])
    return np.take_along_axis(scipy.special.log_softmax(logits, axis=1), y[:, None].astype(int), 1)[:, 0]


def _ordered(location: Any, y: Any, cutpoints: Any) -> Any:
    cuts = np.array([-np.inf, *cutpoints, np.inf])
    k = y.astype(int)
    upper, lower = (STATS.logistic.cdf(cuts[k + side] - location) for side in (1, 0))
    return np.log(upper - lower)


def _mixture(mean: Any, y: Any, sigma: Any, weight: Any) -> Any:
    return scipy.special.logsumexp(STATS.norm.logpdf(y[:, None], mean, sigma), axis=1, b=weight)


def _beta(logit: Any, y: Any, precision: Any) -> Any:
    mean = scipy.special.expit(logit)
    return scipy.stats.beta.logpdf(y, mean * precision, scipy.special.expit(-logit) * precision)


def _covariance(log_scale: Any, partial: Any) -> Any:
    """Covariances of two components from their log standard deviations and atanh of their correlation."""
    r = np.tanh(partial[:, 0])
    correlation = np.array([[np.ones_like(r), r], [r, np.ones_like(r)]])
    return np.einsum("ni,ijn,nj->nij", np.exp(log_scale), correlation, np.exp(log_scale))


def _each(mean: Any, y: Any, covariance: Any) -> Any:
    rows = zip(y, mean, covariance, strict=True)
    return np.array([STATS.multivariate_normal.logpdf(*row) for row in rows])


STATS = scipy.stats
TABLE = {
    model.name: model
    for model in (
        Model("gaussian", models.gaussian, losses.gaussian_nll, lambda m, y, s: STATS.norm.logpdf(y, m, s),
              "mean", {"sigma": 1.0}),
        Model("laplace", models.laplace, losses.laplace_nll, lambda m, y, b: STATS.laplace.logpdf(y, m, b),
              "location", {"scale": 1.0}, smooth=False),
        Model("heteroscedastic", models.heteroscedastic, losses.heteroscedastic_nll,
              lambda m, y, v: STATS.norm.logpdf(y, m, np.exp(v / 2)), "mean", {}, others=("log_variance",)),
        Model("huber", models.huber, losses.huber_nll, _huber, "location", {"scale": 1.0}),
        Model("student_t", partial(models.student_t, df=4.0), partial(losses.student_t_nll, df=4.0),
              lambda m, y, s: STATS.t.logpdf(y, 4.0, m, s), "location", {"scale": 1.0}),
        Model("logistic", models.logistic, losses.logistic_nll,
              lambda m, y, s: STATS.logistic.logpdf(y, m, s), "location", {"scale": 1.0},
              beside="test_documents.py::test_ozone_is_fitted_as_r_fits_it"),
        Model("quantile", partial(models.quantile, tau=0.7), partial(losses.quantile_nll, tau=0.7),
              lambda q, y, s: STATS.laplace_asymmetric.logpdf(
                  y, np.sqrt(0.7 / 0.3), q, s / np.sqrt(0.7 * 0.3)),
              "quantile", {"scale": 1.0}, smooth=False),
        Model("poisson", models.poisson, losses.poisson_nll,
              lambda e, y, exposure: STATS.poisson.logpmf(y, np.exp(e) * exposure),
              "log_rate", {}, real=False, row_keyword="exposure"),
        Model("negative_binomial", models.negative_binomial, losses.negative_binomial_nll, _negative_binomial,
              "log_mean", {"dispersion": 0.7}, real=False, row_keyword="exposure"),
        Model("zero_inflated_poisson", models.zero_inflated_poisson,
              lambda e, y, z, **k: losses.zero_inflated_poisson_nll(e, y, torch.logit(z), **k),
              lambda e, y, z, exposure: _zero_inflated(STATS.poisson.logpmf(y, np.exp(e) * exposure), y, z),
              "log_rate", {"zero": 0.3}, real=False, row_keyword="exposure",
              beside="test_documents.py::test_articles_are_counted_as_pscl_counts_them"),
        Model("zero_inflated_negative_binomial", models.zero_inflated_negative_binomial,
              lambda e, y, a, z, **k: losses.zero_inflated_negative_binomial_nll(
                  e, y, a, torch.logit(z), **k),
              lambda e, y, a, z, exposure: _zero_inflated(_negative_binomial(e, y, a, exposure), y, z),
              "log_mean", {"dispersion": 0.3, "zero": 0.3}, drawn={"log_mean.bias": 2.0},
              real=False, row_keyword="exposure",
              beside="test_documents.py::test_articles_are_counted_as_pscl_counts_them"),
        Model("gamma", models.gamma, losses.gamma_nll,
              lambda e, y, k: STATS.gamma.logpdf(y, k, scale=np.exp(e) / k), "log_mean", {"shape": 3.0},
              real=False),
        Model("lognormal", models.lognormal, losses.lognormal_nll,
              lambda e, y, s: STATS.lognorm.logpdf(y, s, scale=np.exp(e)), "log_median", {"sigma": 0.8},
              real=False,
              beside="test_documents.py::test_ozone_is_fitted_as_r_fits_it"),
        Model("weibull", models.weibull, losses.weibull_nll,
              lambda e, y, k: STATS.weibull_min.logpdf(y, k, scale=np.exp(e)), "log_scale", {"shape": 1.5},
              real=False,
              beside="test_documents.py::test_ozone_is_fitted_as_r_fits_it"),
        Model("inverse_gaussian", models.inverse_gaussian, losses.inverse_gaussian_nll,
              lambda e, y, d: STATS.invgauss.logpdf(y, np.exp(e) * d, scale=1 / d), "log_mean",
              {"dispersion": 0.5}, real=False,
              beside="test_documents.py::test_ozone_is_fitted_as_r_fits_it"),
        Model("beta", models.beta, losses.beta_nll, _beta, "logit_mean", {"precision": 8.0}, real=False),
        Model("bernoulli", models.bernoulli, losses.bernoulli_nll,
              lambda e, y: STATS.bernoulli.logpmf(y, scipy.special.expit(e)), "logit", {}, real=False),
        Model("binomial", models.binomial, losses.binomial_nll,
              lambda e, y, trials: STATS.binom.logpmf(y, trials, scipy.special.expit(e)),
              "logit", {}, real=False, row_keyword="trials"),
        Model("categorical", partial(models.categorical, classes=3),
              lambda e, y, **k: losses.categorical_nll(against_first(e), y, **k), _classes,
              "logit", {}, outputs={"logit": 2}, real=False,
              beside="test_kinds.py::test_the_multinomial_logit_meets_statsmodels"),
        Model("ordinal", partial(models.ordinal, classes=4), losses.ordinal_nll, _ordered,
              "location", {"cutpoints": [-1.0, 0.2, 1.5]}, fixed=1, intercept=False, real=False,
              beside="test_kinds.py::test_the_cumulative_logit_meets_statsmodels_and_polr"),
        Model("gaussian_mixture", models.gaussian_mixture,
              lambda m, y, s, w, **k: losses.gaussian_mixture_nll(m, y, torch.log(w), s, **k), _mixture,
              "mean", {"sigma": [0.5, 1.0], "weight": [0.4, 0.6]}, outputs={"mean": 2, "sigma": 2},
              drawn={"mean.bias": [-3.0, 3.0]}, real=False,
              beside="test_kinds.py::test_a_mixture_without_columns_is_scikit_learns"),
        Model("multivariate_gaussian", partial(models.multivariate_gaussian, dimensions=3),
              lambda m, y, s, c, **k: losses.multivariate_gaussian_nll(m, y, s[:, None] * c, **k),
              lambda m, y, s, c: STATS.multivariate_normal.logpdf(y - m, cov=(s * (c @ c.T).T).T * s),
              "mean", {"scale": [1.0, 2.0, 0.5],
                       "correlation_cholesky": [[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.5, 0.5, 0.5**0.5]]},
              outputs={"mean": 3, "scale": 3}, fixed=1, real=False,
              beside="test_vectors.py::test_exact_solver_meets_the_reference"),
        Model("multivariate_heteroscedastic", partial(models.multivariate_heteroscedastic, dimensions=2),
              losses.multivariate_heteroscedastic_nll,
              lambda m, y, s, p: _each(m, y, _covariance(s, p)), "mean", {}, others=("log_scale", "partial"),
              outputs={"mean": 2, "log_scale": 2, "partial": 1}, real=False,
              beside="test_vectors.py::test_exact_solver_meets_the_reference"),
    )
}  # fmt: skip
REAL = {name: model for name, model in TABLE.items() if model.real}
STRUCTURES = (
    "gaussian",
    "laplace",
    "heteroscedastic",
    "poisson",
    "beta",
    "ordinal",
    "gaussian_mixture",
    "multivariate_gaussian",
)
"""One model of each structure, for laws that do not depend on the formula of a density: a closed form,
corners, two predictors, a keyword of the rows, a constant that may have a design, ordered constants, vectors
of constants, a vector of responses."""
SMOOTH_STRUCTURES = tuple(name for name in STRUCTURES if TABLE[name].smooth)


@cache
def fitted(name: str, estimate: Callable[..., Fit] = mle) -> Fit:
    """The fit of a model to its own sample: fits are values, and many laws use the same one."""
    return estimate(TABLE[name].model, *TABLE[name].sample(), **TABLE[name].keywords())


def fast_svi(steps: int = 100, last: float = 1e-3) -> SVI:
    """The literal path with a learning rate that falls from 0.5 to `last`.

    Its momentum forgets within ten steps: on a few rows it is at the optimum sooner than the default.
    """
    adam = {"lr": 0.5, "betas": (0.8, 0.9)}
    gamma = (last / 0.5) ** (1 / steps)
    optim = pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": adam, "gamma": gamma})
    return SVI(optim=optim, steps=steps)


def sample(rows: int = 60, columns: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A design with columns of order one, and a real response that depends on it with noise that grows."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, generator=generator, dtype=torch.float64)
    slopes = torch.linspace(-1, 2, columns, dtype=torch.float64)
    return x, 1.5 + x @ slopes + torch.exp(0.3 * x[:, 0]) * noise


def random_params(model: Model, columns: int = 3, seed: int = 0, size: float = 1.0) -> dict[str, Tensor]:
    """Values for every site, on their supports."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    params = {}
    for name in (model.location, *model.others):
        many = (model.outputs[name],) if name in model.outputs else ()
        slope = size if name == model.location else 0.3
        params[f"{name}.weight"] = slope * normal(*many, columns)
        if model.intercept or name != model.location:
            params[f"{name}.bias"] = (size if name == model.location else 1.0) * normal(*many)
    return params | {name: _near(model, name, value, normal) for name, value in model.constants.items()}


def _near(model: Model, name: str, value: Any, normal: Callable[..., Tensor]) -> Tensor:
    """A value on the support of a site, about half a unit from `value` on the unconstrained scale."""
    x = torch.zeros((2, 1), dtype=torch.float64)
    transform = biject_to(
        pyro.poutine.trace(model.model).get_trace(x, **model.keywords(2)).nodes[name]["fn"].support
    )
    at = transform.inv(torch.as_tensor(value, dtype=torch.float64))
    return transform(at + 0.5 * normal(*at.shape))
