"""Data for which a likelihood has no maximum are refused by name, in every model and by every fit."""

from __future__ import annotations

import math
import re
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, linprog
from scipy.special import expit
from torch import Tensor

from neglog import (
    censored,
    flat,
    lasso_path,
    map_estimate,
    mle,
    mle_batch,
    models,
    quantile_process,
    summary,
    truncated,
    with_priors,
)
from neglog.data import prepare
from neglog.errors import (
    ConvergenceWarning,
    ModelError,
    NeglogError,
    SingularDesignError,
    UnboundedLikelihoodError,
)
from neglog.fitting import existence
from neglog.fitting import pipeline as fitting
from neglog.fitting.flat_directions import MIN_RISE, nearer
from neglog.fitting.isolated_rows import isolated_rows
from neglog.fitting.separation import separating
from neglog.fitting.start import starting_point
from neglog.objective.coordinates import Coordinates, rescaled
from neglog.objective.objective import Objective

ROWS = 80
COUNTS = {
    "bernoulli": "logit",
    "binomial": "logit",
    "poisson": "log_rate",
    "negative_binomial": "log_mean",
    "zero_inflated_poisson": "log_rate",
    "zero_inflated_negative_binomial": "log_mean",
}
REAL = ("gaussian", "laplace", "quantile", "heteroscedastic", "student_t", "huber", "logistic")


def _columns(number: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn((ROWS, number), generator=generator, dtype=torch.float64)


def _keywords(name: str, rows: int = ROWS) -> dict[str, torch.Tensor]:
    return {"trials": torch.full((rows,), 3.0)} if name == "binomial" else {}


# Responses that are all alike


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_are_all_0_have_no_maximum(name: str, number: int) -> None:
    with pytest.raises(UnboundedLikelihoodError, match=f"every `y` is 0.*{COUNTS[name]}.*-∞"):
        mle(getattr(models, name), _columns(number), torch.zeros(ROWS), **_keywords(name))


@pytest.mark.parametrize("name", COUNTS)
def test_counts_that_are_all_0_where_rows_count_have_no_maximum(name: str) -> None:
    y, weights = torch.zeros(ROWS), torch.ones(ROWS)
    y[:7], weights[:7] = 1.0, 0.0
    with pytest.raises(UnboundedLikelihoodError, match="every `y` is 0"):
        mle(getattr(models, name), _columns(), y, weights=weights, **_keywords(name))


@pytest.mark.parametrize("name", ["bernoulli", "poisson", "zero_inflated_poisson"])
def test_counts_that_are_all_0_have_no_maximum_in_a_batch(name: str) -> None:
    with pytest.warns(ConvergenceWarning):
        fit = mle_batch(getattr(models, name), _columns(), torch.zeros(2, ROWS))
    assert not fit.converged.any()


def test_trials_that_all_succeed_have_no_maximum() -> None:
    with pytest.raises(UnboundedLikelihoodError, match=r"every `y` is 3.*\+∞"):
        mle(models.binomial, _columns(), torch.full((ROWS,), 3.0), **_keywords("binomial"))


def test_counts_that_are_all_0_have_an_answer_under_proper_priors() -> None:
    for name in ("bernoulli", "binomial", "poisson"):
        fit = map_estimate(getattr(models, name), _columns(), torch.zeros(ROWS), **_keywords(name))
        assert fit.converged
        assert fit.params[f"{COUNTS[name]}.bias"] < -3


@pytest.mark.parametrize(("name", "number"), [*((name, 2) for name in REAL), ("gaussian", 0), ("laplace", 0)])
def test_a_response_of_zeros_is_refused_as_any_constant_is(name: str, number: int) -> None:
    for constant in (0.0, 7.0):
        with pytest.raises(UnboundedLikelihoodError, match="every row exactly"):
            mle(getattr(models, name), _columns(number), torch.full((ROWS,), constant))


def test_a_mixture_refuses_a_response_of_zeros() -> None:
    with pytest.raises(UnboundedLikelihoodError, match="every row exactly"):
        mle(models.gaussian_mixture, _columns(1), torch.zeros(ROWS))


def test_a_mixture_of_two_refuses_a_response_of_two_values() -> None:
    x = torch.cat([_columns()] * 4)
    y = (x[:, 0] > 0.3).double()
    with pytest.raises(UnboundedLikelihoodError, match="every `y` is 0 or 1"):
        mle(models.gaussian_mixture, x, y)
    with pytest.raises(UnboundedLikelihoodError):
        mle(partial(models.gaussian_mixture, components=3), x[:, :0], y)


@pytest.mark.parametrize("name", ["laplace", "quantile"])
def test_a_median_of_equal_responses_is_refused_without_a_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neglog.fitting.start._null_fit", None)  # its 100 steps took a second
    for constant in (0.0, 7.0):
        with pytest.raises(UnboundedLikelihoodError, match="every row exactly"):
            mle(getattr(models, name), _columns(), torch.full((ROWS,), constant))


def test_quantiles_refuse_a_response_of_zeros() -> None:
    with pytest.raises(UnboundedLikelihoodError, match="every row exactly"):
        quantile_process(_columns(), torch.zeros(ROWS), [0.2, 0.5])


@pytest.mark.parametrize(
    ("name", "constant"), [*((name, 0.0) for name in REAL), ("gaussian", 5.0), ("quantile", 5.0)]
)
def test_priors_refuse_a_response_of_zeros_as_any_constant(
    name: str, constant: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "heteroscedastic":  # whose spread its priors hold
        monkeypatch.setattr(fitting, "starting_point", None)  # whatever comes after the refusal fails
    with pytest.raises(UnboundedLikelihoodError, match="every row exactly"):
        map_estimate(getattr(models, name), _columns(), torch.full((ROWS,), constant))


@pytest.mark.parametrize("name", ["multivariate_gaussian", "multivariate_heteroscedastic"])
def test_priors_refuse_vectors_of_zeros_as_any_constant(name: str) -> None:
    for constant in (0.0, 5.0):
        with pytest.raises(UnboundedLikelihoodError, match="covariance becomes singular"):
            map_estimate(getattr(models, name), _columns(), torch.full((ROWS, 2), constant))


@pytest.mark.parametrize(
    ("name", "constant"),
    [*((name, 0.0) for name in REAL), ("laplace", 5.0)],
)
def test_a_mode_beyond_float64_is_told_from_a_posterior_without_one(name: str, constant: float) -> None:
    """A HalfNormal of the scale is positive at 0; a Normal of its logarithm outweighs any number of rows."""
    location, scale = SCALES[name]
    y, model = torch.full((ROWS,), constant), getattr(models, name)
    held = "the mode of the posterior has a spread below the rounding of `y`"
    with pytest.raises(UnboundedLikelihoodError, match=f"every row exactly.*{held}"):
        map_estimate(model, {location: _columns(), scale: _columns(1)}, y)
    if name != "heteroscedastic":
        with pytest.raises(UnboundedLikelihoodError, match=r"every row exactly.*has no maximum"):
            map_estimate(model, _columns(), y)


@pytest.mark.parametrize("name", [name for name in REAL if name != "heteroscedastic"])
def test_a_lognormal_prior_of_a_scale_gives_zeros_their_mode(name: str) -> None:
    # The log prior is -log(scale) - log(scale)²/2: with the rows, log(scale) = -(80 + 1).
    scale = SCALES[name][1]
    fit = map_estimate(
        with_priors(getattr(models, name), {scale: dist.LogNormal(0.0, 1.0)}), _columns(), torch.zeros(ROWS)
    )
    assert fit.converged
    assert float(fit.params[scale].log()) == pytest.approx(-81.0, rel=1e-9)


@pytest.mark.parametrize("rows", [6, 40, 80, 800])
def test_the_verdict_on_zeros_depends_on_the_priors_of_a_log_variance_and_not_on_the_rows(rows: int) -> None:
    # Each row has the log-likelihood -log_variance / 2, under a Normal prior of variance v: the mode is
    # -v rows / 2. Under the prior of the model v = 25; float64 ends at -1490.
    x, y = torch.empty((rows, 0), dtype=torch.float64), torch.zeros(rows)
    with pytest.raises(UnboundedLikelihoodError, match="every row exactly: every `y` is 0") as refused:
        map_estimate(models.heteroscedastic, x, y)
    priors = {"log_variance.bias": dist.Normal(0.0, 0.3)}
    assert priors.keys() <= _advised_priors(str(refused.value)).keys()
    fit = map_estimate(with_priors(models.heteroscedastic, priors), x, y)
    assert fit.converged
    assert float(fit.params["log_variance.bias"]) == pytest.approx(-0.09 * rows / 2, rel=1e-6)


def test_equal_responses_of_heavy_tails_are_named_wherever_they_are() -> None:
    # With k of n rows followed the likelihood is of the order scale^(df (n - k) - k): infinite for small df.
    y = _columns()[:, 0] + 50.0
    y[:36] = 0.0
    with pytest.raises(UnboundedLikelihoodError, match="of 80 rows 36 responses are equal") as refused:
        mle(models.student_t, _columns(4)[:, 2:], y)
    held = with_priors(models.student_t, _advised_priors(str(refused.value)))
    assert map_estimate(held, _columns(4)[:, 2:], y).converged


def test_rows_on_one_plane_are_named_where_heavy_tails_have_no_maximum() -> None:
    generator = torch.Generator().manual_seed(100)
    x = _columns()
    y = 0.3 * x.sum(1) + torch.randn(ROWS, generator=generator, dtype=torch.float64)
    y[:24] = 1 + 0.5 * x[:24].sum(1)
    with pytest.warns(
        ConvergenceWarning, match=r"80 rows 24 are on one line or plane .*rows 0, 1, 2.*`df` below 0\.429"
    ):
        fit = mle(models.student_t, x, y)
    assert not fit.converged
    held = with_priors(models.student_t, {"scale": dist.InverseGamma(2.0, 1.0)})
    assert map_estimate(held, x, y).converged


@pytest.mark.parametrize("name", ["gaussian", "logistic", "laplace", "heteroscedastic"])
def test_rows_that_the_mean_follows_as_their_spread_falls_are_named(name: str) -> None:
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = 0.3 * x.sum(1) + torch.randn(20, generator=torch.Generator().manual_seed(100), dtype=torch.float64)
    y[torch.arange(20) % 3 > 0] = 0.0
    scale = {"gaussian": "sigma", "heteroscedastic": "log_variance"}.get(name, "scale")
    location = "location" if scale == "scale" else "mean"
    with pytest.warns(ConvergenceWarning):
        fit = mle(getattr(models, name), {location: x, scale: x}, y)
    assert re.search(r"the mean follows \d of 20 rows exactly .* so their spread has fallen", fit.status)


def test_a_mode_with_rows_that_the_mean_follows_is_named_with_what_stops_their_spread() -> None:
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(*shape, generator=random).double() for shape in ((8, 3), (8,)))
    with pytest.warns(ConvergenceWarning):
        fit = map_estimate(models.heteroscedastic, x, (2 * y).round() / 2)
    assert re.search(r"the mean follows \d of 8 rows exactly .* until priors stop it", fit.status)


def test_normal_responses_that_are_rounded_are_not_taken_for_ties_of_heavy_tails() -> None:
    # Tails lighter than those of a Normal: `df` has no finite estimate.
    y = (2 * torch.linspace(-2.0, 2.0, ROWS, dtype=torch.float64)).round()
    with pytest.warns(ConvergenceWarning, match="`df` → "):
        fit = mle(models.student_t, _columns(4)[:, 2:], y)
    assert not fit.converged


def test_priors_refuse_more_columns_than_rows() -> None:
    x, y = _columns(9)[:6], _columns(9)[20:26, 0]
    for name in ("gaussian", "laplace"):
        with pytest.raises(UnboundedLikelihoodError, match="every row exactly"):
            map_estimate(getattr(models, name), x, y)


INTERPOLATED = {
    "gaussian": "sigma",
    "huber": "scale",
    "laplace": "scale",
    "logistic": "scale",
    "lognormal": "sigma",
    "quantile": "scale",
    "student_t": "scale",
}


@pytest.mark.parametrize("name", INTERPOLATED)
def test_more_columns_than_rows_are_refused_without_a_step_and_the_advice_works(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, scale, x = getattr(models, name), INTERPOLATED[name], _columns(30)[:20]
    y = _columns()[40:60, 0]
    y = y.exp() if name == "lognormal" else y
    with pytest.raises(SingularDesignError, match=rf"with_priors\(model, {{'{scale}': dist.InverseGamma"):
        mle(model, x, y)
    held = map_estimate(with_priors(model, {scale: dist.InverseGamma(2.0, 1.0)}), x, y)
    known = map_estimate(pyro.condition(model, {scale: torch.tensor(1.0)}), x, y)
    assert held.converged
    assert known.converged
    assert float(held.params[scale]) > 0
    monkeypatch.setattr(fitting, "starting_point", None)  # whatever comes after the refusal fails
    with pytest.raises(UnboundedLikelihoodError, match=rf"'{scale}': dist.InverseGamma\(2.0, 1.0\)"):
        map_estimate(model, x, y)


SEVERAL = {
    "inverse_gaussian": "dispersion",
    "heteroscedastic": "log_variance.weight",
    "gaussian_mixture": "sigma",
    "multivariate_gaussian": "scale",
    "multivariate_heteroscedastic": "partial.weight",
}


def _advised_priors(message: str) -> dict[str, Any]:
    """The priors that a message names."""
    written = re.search(r"with_priors\(model, (\{.*?\})\)", message)
    assert written is not None
    priors: dict[str, Any] = eval(written[1], {"dist": dist, "torch": torch})
    return priors


@pytest.mark.parametrize(("name", "columns"), [*((name, 25) for name in SEVERAL), ("inverse_gaussian", 10)])
def test_each_model_names_priors_that_hold_its_spread_where_columns_fit_every_row(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 10 if columns == 10 else 20
    model, x, y = getattr(models, name), _columns(columns)[:rows], _columns()[40 : 40 + rows]
    y = y if "multivariate" in name else y[:, 0].exp()
    with pytest.raises(NeglogError) as refused:
        mle(model, x, y)
    priors = _advised_priors(str(refused.value))
    assert SEVERAL[name] in priors
    assert map_estimate(with_priors(model, priors), x, y).converged
    monkeypatch.setattr(fitting, "starting_point", None)  # whatever comes after the refusal fails
    with pytest.raises(UnboundedLikelihoodError, match="fits every row exactly") as refused:
        map_estimate(model, x, y)
    assert str(_advised_priors(str(refused.value))) == str(priors)


@pytest.mark.parametrize("name", ["gamma", "weibull"])
def test_no_prior_is_advised_where_those_of_the_model_hold_the_spread(name: str) -> None:
    model, x, y = getattr(models, name), _columns(25)[:20], _columns()[40:60, 0].exp()
    with pytest.raises(SingularDesignError, match="`map_estimate`"):
        mle(model, x, y)
    assert map_estimate(model, x, y).converged


@pytest.mark.parametrize("name", ["gaussian", "laplace", "student_t"])
def test_a_lognormal_prior_that_vanishes_too_slowly_is_refused_without_a_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "starting_point", None)
    x, y = _columns(30)[:20], _columns()[40:60, 0]
    model = with_priors(getattr(models, name), {INTERPOLATED[name]: dist.LogNormal(0.0, 1.0)})
    with pytest.raises(UnboundedLikelihoodError, match=r"dist\.InverseGamma"):
        map_estimate(model, x, y)


def test_a_known_covariance_is_fitted_where_columns_fit_every_row() -> None:
    x, y = _columns(25)[:20], _columns()[40:60]
    with pytest.raises(UnboundedLikelihoodError) as refused:
        map_estimate(models.multivariate_gaussian, x, y)
    written = re.search(r"pyro.condition\(model, (\{.*?\})\)", str(refused.value))
    assert written is not None
    known = pyro.condition(models.multivariate_gaussian, eval(written[1], {"torch": torch}))
    assert map_estimate(known, x, y).converged


def test_equal_rows_that_differ_are_not_interpolated() -> None:
    x, y = _columns(30)[:20].clone(), _columns()[40:60, 0]
    x[1] = x[0]
    fit = map_estimate(models.gaussian, x, y)
    assert fit.converged
    assert float(fit.params["sigma"]) > 0


def test_positive_coefficients_are_not_taken_for_interpolating_ones() -> None:
    positive = dist.HalfNormal(torch.ones(14, dtype=torch.float64))
    model = with_priors(models.gaussian, {"mean.weight": positive})
    with pytest.warns(ConvergenceWarning, match="border") as warned:  # coefficients at 0, their border
        fit = map_estimate(model, _columns(14)[:12].abs(), -_columns()[40:52, 0].abs())
    assert not fit.converged
    assert "every row" not in str(warned[0].message)


PATHS = {"gaussian": "mean", "student_t": "location", "heteroscedastic": "mean", "logistic": "location"}


def _lasso(name: str, site: str) -> Any:
    one = torch.ones(2, dtype=torch.float64)
    return with_priors(getattr(models, name), {f"{site}.weight": dist.Laplace(0 * one, one)})


@pytest.mark.parametrize("name", PATHS)
def test_a_path_refuses_a_response_of_zeros_as_its_fit_does(name: str) -> None:
    with pytest.raises(UnboundedLikelihoodError, match="every row exactly"):
        lasso_path(_lasso(name, PATHS[name]), _columns(), torch.zeros(ROWS))


def test_a_path_of_counts_that_are_all_0_is_at_its_border_as_its_fit_is() -> None:
    model = _lasso("zero_inflated_poisson", "log_rate")
    border, path = "largest at the border.*`zero` → 1", "no optimum was certified at 3 strengths"
    with pytest.warns(ConvergenceWarning, match=border), pytest.warns(ConvergenceWarning, match=path):
        found = lasso_path(model, _columns(), torch.zeros(ROWS), n_strengths=3)
    assert not found.converged.any()


@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("negative_binomial", 1.0),
        ("zero_inflated_poisson", 0.0),
        ("zero_inflated_poisson", 1.0),
    ],
)
def test_a_path_of_given_strengths_is_at_a_border_where_its_fit_is(name: str, constant: float) -> None:
    scale = torch.ones(2, dtype=torch.float64)
    prior = dist.Laplace(torch.zeros_like(scale), scale).to_event(1)
    model = with_priors(getattr(models, name), {f"{COUNTS[name]}.weight": prior})
    y = torch.full((ROWS,), constant)
    with pytest.warns(ConvergenceWarning, match="no optimum was certified"):
        path = lasso_path(model, _columns(), y, strengths=[2.0, 1.0])
    with pytest.warns(ConvergenceWarning, match="largest at the border"):
        fit = map_estimate(model, _columns(), y)
    assert path.converged.tolist() == [fit.converged] * 2 == [False] * 2


@pytest.mark.parametrize("name", ["poisson", "bernoulli"])
def test_a_path_of_given_strengths_refuses_certain_counts_as_its_fit_does(name: str) -> None:
    scale = torch.ones(2, dtype=torch.float64)
    prior = dist.Laplace(torch.zeros_like(scale), scale).to_event(1)
    model = flat(
        with_priors(getattr(models, name), {f"{COUNTS[name]}.weight": prior}), f"{COUNTS[name]}.bias"
    )
    with pytest.raises(UnboundedLikelihoodError, match="every `y` is 0"):
        lasso_path(model, _columns(), torch.zeros(ROWS), strengths=[2.0, 1.0])


def test_a_response_in_tiny_units_is_no_constant() -> None:
    y = 1e-120 * _columns(1)[:, 0]
    assert mle(models.gaussian, _columns(), y).converged


# Classes without rows

CLASSES = {
    "categorical": {
        (0, 1): r"every `y` is 2.*`logit\[2\]` of Intercept → \+∞",
        (0, 2): r"every `y` is 1.*`logit\[1\]` of Intercept → \+∞",
        (1, 2): "every `y` is 0.*Intercept → -∞",
        (0,): r"no `y` is 0,.*`logit\[1\]` of Intercept → \+∞ and `logit\[2\]` of Intercept → \+∞",
        (1,): r"no `y` is 1,.*`logit\[1\]` of Intercept → -∞",
        (2,): r"no `y` is 2,.*`logit\[2\]` of Intercept → -∞",
    },
    "ordinal": {
        (0, 1): r"every `y` is 2.*`cutpoints\[0\]` → -∞ and the distance of `cutpoints\[1\]`.*→ 0",
        (0, 2): r"every `y` is 1.*`cutpoints\[0\]` → -∞ and `cutpoints\[1\]` → \+∞",
        (1, 2): r"every `y` is 0.*distance of `cutpoints\[1\]`.*→ 0 and `cutpoints\[1\]` → \+∞",
        (0,): r"no `y` is 0,.*`cutpoints\[0\]` → -∞",
        (1,): r"no `y` is 1,.*the distance of `cutpoints\[1\]` from the one below → 0",
        (2,): r"no `y` is 2,.*`cutpoints\[1\]` → \+∞",
    },
}


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize(("name", "empty"), [(name, empty) for name in CLASSES for empty in CLASSES[name]])
def test_a_class_without_rows_is_refused_by_name(name: str, empty: tuple[int, ...], number: int) -> None:
    present = [k for k in range(3) if k not in empty]
    y = torch.tensor(present * ROWS)[:ROWS]
    model = partial(getattr(models, name), classes=3)
    with pytest.raises(UnboundedLikelihoodError, match=CLASSES[name][empty]):
        mle(model, _columns(number), y)


@pytest.mark.parametrize("empty", [(1,), (2,), (0, 1)])
def test_a_class_without_rows_has_no_maximum_in_a_batch(empty: tuple[int, ...]) -> None:
    y = torch.tensor([k for k in range(3) if k not in empty] * ROWS)[:ROWS]
    with pytest.warns(ConvergenceWarning):
        fit = mle_batch(partial(models.ordinal, classes=3), _columns(), y.expand(2, ROWS))
    assert not fit.converged.any()


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_without_rows_has_an_answer_under_proper_priors(name: str) -> None:
    y = torch.tensor([0, 2] * ROWS)[:ROWS]
    assert map_estimate(partial(getattr(models, name), classes=3), _columns(), y).converged


# Separation: a linear programme is the judge


def _separated(x: NDArray[np.float64], y: NDArray[np.float64], top: float) -> bool:
    """Whether some direction of the coefficients lowers no row's probability, and is no null direction.

    Rows at 0 may only fall, rows at `top` only rise, and all others must stay where they are.
    """
    columns = np.column_stack([np.ones(len(y)), x])
    ways = np.concatenate([-columns[y == 0], columns[y == top]])
    still = columns[(y > 0) & (y < top)]
    if not len(ways):
        return False
    found = linprog(
        -ways.sum(0),
        A_ub=-ways,
        b_ub=np.zeros(len(ways)),
        A_eq=still if len(still) else None,
        b_eq=np.zeros(len(still)) if len(still) else None,
        bounds=[(-1, 1)] * columns.shape[1],
    )
    return bool(found.fun < -1e-7)


def _separated_classes(x: NDArray[np.float64], y: NDArray[np.float64], name: str) -> bool:
    """Whether some direction of slopes and cutpoints, or of logits, lowers no row's probability of its class.

    Logits of all three classes may move; that all move alike has no margin.
    """
    columns, below, above = np.column_stack([np.ones(len(y)), x]), y < 2, y > 0
    if name == "ordinal":  # the predictor of a row may not pass the cutpoints beside its class
        cuts = np.eye(2)
        ways = [np.column_stack([-x[below], cuts[y[below].astype(int)]])]
        ways += [np.column_stack([x[above], -cuts[y[above].astype(int) - 1]])]
    else:  # the logit of the class of a row rises no slower than that of another
        logits = [np.kron(np.eye(3)[k], columns) for k in range(3)]
        own = np.choose(y.astype(int)[:, None], logits)
        ways = [(own - logits[k])[y != k] for k in range(3)]
    margins = np.concatenate(ways)
    found = linprog(-margins.sum(0), A_ub=-margins, b_ub=np.zeros(len(margins)), bounds=(-1, 1))
    return bool(found.fun < -1e-7)


def _small(name: str, sets: int, seed: int = 3) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((sets, 12, 2))
    odds = 1 / (1 + np.exp(-x.sum(-1)))
    if name == "poisson":
        return x, rng.poisson(0.3 * np.exp(0.5 * x.sum(-1))).astype(float), np.inf
    if name == "binomial":
        return x, rng.binomial(3, 0.15 * odds).astype(float), 3.0
    if name in CLASSES:
        latent = 3.0 * x[..., 0] + rng.logistic(size=odds.shape)
        return x, (latent > -1.0).astype(float) + (latent > 1.0), 2.0
    return x, (rng.random(odds.shape) < odds).astype(float), 1.0


@pytest.mark.parametrize(("name", "seed"), [("bernoulli", 0), ("binomial", 3), ("poisson", 3)])
def test_a_batch_certifies_what_a_linear_programme_says_exists(name: str, seed: int) -> None:
    x, y, top = _small(name, 90, seed)
    expected = np.array([not _separated(*one, top) for one in zip(x, y, strict=True)])
    assert 5 < expected.sum() < 87
    with pytest.warns(ConvergenceWarning):
        fit = mle_batch(getattr(models, name), torch.tensor(x), torch.tensor(y), **_keywords(name, 12))
    assert fit.converged.tolist() == expected.tolist()


def test_a_batch_certifies_no_classes_in_an_order_that_are_separated() -> None:
    """It certified one in three: coefficients and the distance of two cutpoints ran away along a curve."""
    x, y = (part[18:36] for part in _small("ordinal", 60)[:2])
    expected = np.array([not _separated_classes(*one, "ordinal") for one in zip(x, y, strict=True)])
    assert 3 < expected.sum() < 15
    model = partial(models.ordinal, classes=3)
    with pytest.warns(ConvergenceWarning):
        fit = mle_batch(model, torch.tensor(x), torch.tensor(y))
    assert fit.converged.tolist() == expected.tolist()
    some = slice(3)
    many = torch.tensor(np.concatenate([x, x], 1)[some]), torch.tensor(np.concatenate([y, 2 - y], 1)[some])
    with pytest.warns(ConvergenceWarning):
        weighted = mle_batch(model, *many, weights=torch.cat([torch.ones(12), torch.zeros(12)]))
    assert weighted.converged.tolist() == expected[some].tolist()


def test_a_batch_refuses_logits_of_classes_by_name() -> None:
    x, y, _ = _small("categorical", 2)
    with pytest.raises(ModelError, match="vector-valued predictor"):
        mle_batch(partial(models.categorical, classes=3), torch.tensor(x), torch.tensor(y))


@pytest.mark.parametrize("name", CLASSES)
def test_one_fit_of_classes_agrees_with_the_linear_programme(name: str) -> None:
    x, y, _ = _small(name, 12, seed=0)
    verdicts = []
    for columns, response in zip(x, y, strict=True):
        verdicts.append(_separated_classes(columns, response, name))
        fitted = partial(mle, partial(getattr(models, name), classes=3), torch.tensor(columns))
        if verdicts[-1]:
            with pytest.raises(UnboundedLikelihoodError):
                fitted(torch.tensor(response))
        else:
            assert fitted(torch.tensor(response)).converged
    assert 2 < sum(verdicts) < 10


@pytest.mark.parametrize("name", ["bernoulli", "binomial", "poisson"])
def test_one_fit_agrees_with_the_linear_programme(name: str) -> None:
    x, y, top = _small(name, 12)
    for columns, response in zip(x, y, strict=True):
        fitted = partial(mle, getattr(models, name), torch.tensor(columns), torch.tensor(response))
        if _separated(columns, response, top):
            with pytest.raises(UnboundedLikelihoodError):
                fitted(**_keywords(name, 12))
        else:
            assert fitted(**_keywords(name, 12)).converged


@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_poisson"])
def test_a_constant_at_its_border_does_not_hide_separated_counts(name: str) -> None:
    x, y, top = _small("poisson", 80)
    apart = [one for one in zip(x, y, strict=True) if one[1].any() and _separated(*one, top)]
    assert len(apart) > 2
    for columns, response in apart[:3]:
        with pytest.raises(UnboundedLikelihoodError, match="never falls"):
            mle(getattr(models, name), torch.tensor(columns), torch.tensor(response))


# Quantiles that censoring hides


def _censored_at_half() -> tuple[torch.Tensor, torch.Tensor, float]:
    y = 10.5 + _columns(3)[:, 2]
    bound = float(torch.quantile(y, 0.52))
    return _columns(), y.clamp(max=bound), bound


@pytest.mark.parametrize(("number", "tau"), [(0, 0.6), (2, 0.8)])
def test_a_quantile_beyond_its_censoring_bound_is_not_certified(tau: float, number: int) -> None:
    x, y, bound = _censored_at_half()
    with pytest.warns(ConvergenceWarning, match="only the tail of the assumed density"):
        fit = mle(censored(partial(models.quantile, tau=tau), upper=bound), x[:, :number], y)
    assert not fit.converged
    assert "of 80 rows lies beyond their bound" in fit.status.partition("optimum")[0], (
        "the reason comes first"
    )


def test_a_median_beyond_its_censoring_bound_is_not_certified() -> None:
    x, y, _ = _censored_at_half()
    bound = float(torch.quantile(y, 0.3))
    with pytest.warns(ConvergenceWarning, match="only the tail of the assumed density"):
        fit = mle(censored(models.laplace, upper=bound), x, y.clamp(max=bound))
    assert not fit.converged


def test_a_quantile_within_its_censoring_bound_is_certified() -> None:
    x, y, bound = _censored_at_half()
    fit = mle(censored(partial(models.quantile, tau=0.25), upper=bound), x[:, :0], y)
    assert fit.converged
    assert "beyond" not in fit.status


# Rows with a scale of their own

SCALES = {
    "gaussian": ("mean", "sigma"),
    "laplace": ("location", "scale"),
    "huber": ("location", "scale"),
    "logistic": ("location", "scale"),
    "quantile": ("quantile", "scale"),
    "student_t": ("location", "scale"),
    "heteroscedastic": ("mean", "log_variance"),
    "gamma": ("log_mean", "shape"),
    "weibull": ("log_scale", "shape"),
    "lognormal": ("log_median", "sigma"),
    "inverse_gaussian": ("log_mean", "dispersion"),
    "beta": ("logit_mean", "precision"),
}


def _response(name: str) -> torch.Tensor:
    z = _columns(3)[:, 2]
    if name == "beta":
        return torch.sigmoid(z)
    return z.exp() if name in ("gamma", "weibull", "lognormal", "inverse_gaussian") else z


def _mark(*rows: int) -> torch.Tensor:
    column = torch.zeros((ROWS, 1), dtype=torch.float64)
    column[list(rows)] = 1.0
    return column


@pytest.mark.parametrize("rows", [(3,), (3, 7)])
@pytest.mark.parametrize("name", SCALES)
def test_a_scale_of_rows_that_the_location_can_follow_has_no_maximum(
    name: str, rows: tuple[int, ...]
) -> None:
    location, scale = SCALES[name]
    with pytest.raises(UnboundedLikelihoodError, match=f"row.* {', '.join(map(str, rows))} alone"):
        mle(getattr(models, name), {location: _columns(), scale: _mark(*rows)}, _response(name))


@pytest.mark.parametrize("rows", [(3,), (3, 7)])
def test_a_covariance_of_rows_that_the_mean_can_follow_has_no_maximum(rows: tuple[int, ...]) -> None:
    x = torch.cat([_columns(1), _mark(*rows)], 1)
    with pytest.raises(UnboundedLikelihoodError, match=f"{', '.join(map(str, rows))} alone"):
        mle(models.multivariate_heteroscedastic, x, _columns(4)[:, 2:])


def _levels(rows: int) -> torch.Tensor:
    """The treatment coding of three levels, of which the reference has the first `rows` rows alone."""
    level = torch.arange(ROWS) % 2 + 1
    level[:rows] = 0
    return torch.stack([level == 1, level == 2], 1).double()


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", SCALES)
def test_a_scale_of_a_reference_level_that_the_location_can_follow_has_no_maximum(
    name: str, rows: int
) -> None:
    location, scale = SCALES[name]
    with pytest.raises(UnboundedLikelihoodError, match=f"rows? {'0, 1' if rows == 2 else '0'} alone"):
        mle(getattr(models, name), {location: _columns(), scale: _levels(rows)}, _response(name))


@pytest.mark.parametrize("rows", [1, 2])
def test_a_covariance_of_a_reference_level_that_the_mean_can_follow_has_no_maximum(rows: int) -> None:
    x = torch.cat([_columns(1), _levels(rows)], 1)
    with pytest.raises(UnboundedLikelihoodError, match=f"{'0, 1' if rows == 2 else '0'} alone"):
        mle(models.multivariate_heteroscedastic, x, _columns(4)[:, 2:])


def test_a_dispersion_of_a_marked_count_that_its_mean_is_close_to_has_no_maximum() -> None:
    generator = torch.Generator().manual_seed(3)
    y = torch.poisson(4.0 * torch.exp(_columns()[:, 0]), generator=generator)
    for rows, named in (((3,), r"\(row 3\)"), ((3, 7), r"\(rows 3, 7\)")):
        with pytest.raises(UnboundedLikelihoodError, match=f"`log_dispersion` of x0 → -∞.*{named}"):
            mle(models.negative_binomial, {"log_mean": _columns(), "dispersion": _mark(*rows)}, y)


@pytest.mark.parametrize("rows", [4, 5])
@pytest.mark.parametrize("name", ["gaussian", "heteroscedastic"])
def test_a_scale_of_unequal_rows_that_the_location_can_follow_has_no_maximum(name: str, rows: int) -> None:
    """The first rows have a level and a line for themselves; a combination of these is 0 in one of them."""
    location, scale = SCALES[name]
    within = (torch.arange(ROWS) >= rows).double()[:, None]
    line = torch.linspace(1, 2, ROWS, dtype=torch.float64)[:, None]
    designs = {location: _columns(4), scale: torch.cat([within, line * within, line], 1)}
    named = ", ".join(map(str, range(rows - 1)))
    with pytest.raises(UnboundedLikelihoodError, match=f"rows {named} alone"):
        mle(getattr(models, name), designs, _response(name))


def test_isolated_rows_are_those_that_trying_all_sets_finds() -> None:
    rng = np.random.default_rng(1)
    total = 0
    for case in range(8):
        shape = int(rng.integers(5, 9)), int(rng.integers(1, 4))
        columns = rng.integers(-1, 3, shape) if case % 2 else (rng.random(shape) < 0.4)
        design = np.column_stack([columns, np.ones(shape[0])]).astype(float)
        expected = _isolated(design, 3)
        found = {
            tuple(rows.tolist()) for rows in isolated_rows(torch.tensor(design), torch.ones(len(design)), 3)
        }
        assert found == expected
        total += len(expected)
    assert total > 15


def _isolated(design: NDArray[np.float64], most: int) -> set[tuple[int, ...]]:
    """The minimal sets of rows of which a combination of the columns has one sign, being 0 in all others."""
    found: set[tuple[int, ...]] = set()
    for size in range(1, most + 1):
        for rows in combinations(range(len(design)), size):
            others = np.delete(design, rows, 0)
            sums = design[list(rows)].sum(0)
            top = linprog(
                -sums, A_ub=-design[list(rows)], b_ub=np.zeros(size), A_eq=others, b_eq=np.zeros(len(others)),
                bounds=(-1, 1),
            )  # fmt: skip
            if top.fun < -1e-9 and not any(set(smaller) <= set(rows) for smaller in found):
                found.add(rows)
    return found


def test_a_reference_level_of_more_rows_than_the_location_can_follow_is_fitted() -> None:
    fit = mle(models.gaussian, {"mean": _columns(), "sigma": _levels(6)}, _response("gaussian"))
    assert fit.converged


def test_a_scale_of_more_rows_than_the_location_can_follow_is_fitted() -> None:
    fit = mle(models.gaussian, {"mean": _columns(), "sigma": _mark(*range(6))}, _response("gaussian"))
    assert fit.converged


def test_rows_with_a_mean_of_their_own_are_fitted() -> None:
    x = {"mean": torch.cat([_columns(), _mark(3)], 1), "sigma": _columns(1)}
    assert mle(models.gaussian, x, _response("gaussian")).converged


def _in_order(rows: int, columns: int, classes: int, noise: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    latent = x.sum(dim=1) + noise * torch.randn(rows, generator=generator, dtype=torch.float64)
    cuts = torch.quantile(latent, torch.linspace(0, 1, classes + 1, dtype=torch.float64)[1:-1])
    return x, torch.bucketize(latent, cuts).double()


@pytest.mark.parametrize(("rows", "columns", "classes"), [(20, 2, 3), (60, 1, 3), (300, 3, 4), (3000, 2, 3)])
def test_separated_classes_in_an_order_are_found_soon(
    rows: int, columns: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    original = Coordinates._summed
    monkeypatch.setattr(Coordinates, "_summed", lambda *args, **kw: calls.append(1) or original(*args, **kw))
    with pytest.raises(UnboundedLikelihoodError, match="separates the responses perfectly"):
        mle(models.ordinal, *_in_order(rows, columns, classes, 0.0))
    assert len(calls) <= 20  # there were 97 to 361, and no error but where there were 287


def test_a_class_of_each_row_has_a_mode_under_the_priors_of_cutpoints() -> None:
    """Steps of the null model, on the way to it, may round the distance of two cutpoints to 0."""
    x = torch.randn(8, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fit = map_estimate(models.ordinal, x, torch.arange(8.0, dtype=torch.float64))
    assert fit.converged
    assert bool((fit.params["cutpoints"].diff() > 0.1).all())


def test_classes_in_an_order_with_few_mistakes_are_fitted() -> None:
    x, y = _in_order(300, 3, 4, 0.05)
    assert separating(x.numpy(), y.numpy().astype(int), 3) is None
    assert mle(models.ordinal, x, y).converged


@pytest.mark.parametrize("weight", [1e-6, 1e-10, 1e-14])
def test_rows_of_small_weight_that_contradict_separated_ones_give_a_maximum(weight):
    """It is far away and finite: the root of the score, a sum of tails that float64 has to all digits."""
    x = np.concatenate([np.linspace(-2.0, 2.0, 40), [1.0, -1.0]])
    y = np.concatenate([np.repeat([0.0, 1.0], 20), [0.0, 1.0]])
    weights = np.repeat([1.0, weight], [40, 2])

    signs = np.where(y == 1, 1.0, -1.0)

    def score(slope):
        return float(weights @ (x * signs * expit(-slope * x * signs)))

    fit = mle(models.bernoulli, x[:, None], y, weights=weights)
    assert fit.converged
    root = brentq(score, 50.0, 700.0, xtol=1e-9, rtol=1e-14)
    assert fit.params["logit.weight"].item() == pytest.approx(root, rel=1e-6)


def test_rows_of_no_weight_do_not_hide_separated_ones():
    x = np.concatenate([np.linspace(-2.0, 2.0, 40), [1.0, -1.0]])[:, None]
    y = np.concatenate([np.repeat([0.0, 1.0], 20), [0.0, 1.0]])
    with pytest.raises(
        UnboundedLikelihoodError, match="2 rows of negligible weight, such as row 40 with 1e-20"
    ):
        mle(models.bernoulli, x, y, weights=np.repeat([1.0, 1e-20], [40, 2]))
    with pytest.raises(UnboundedLikelihoodError, match="separates the responses perfectly"):
        mle(models.bernoulli, x[:40], y[:40], weights=np.linspace(1e-12, 1.0, 40))


@pytest.mark.parametrize("reference", [False, True])
def test_counts_of_a_row_with_a_dispersion_of_its_own_are_poisson_at_the_border(reference: bool) -> None:
    row = (torch.arange(30) == 3).to(torch.float64)[:, None]
    y = torch.arange(30).to(torch.float64).square() % 13
    x = {"log_mean": _columns(1)[:30], "dispersion": 1 - row if reference else row}
    remedy = r"bounded.*border.*Poisson.*Leave the column out of `log_disp"
    with pytest.raises(UnboundedLikelihoodError, match=remedy):
        mle(models.negative_binomial, x, y)


@pytest.mark.parametrize("name", ["gamma", "weibull", "inverse_gaussian"])
def test_a_truncated_density_that_runs_to_a_power_of_y_has_no_maximum(name):
    """Far out the parameters overflow, and an infinite loss there hides no recession."""
    y = np.arange(1.0, 102.0)
    with pytest.raises(UnboundedLikelihoodError, match=r"Intercept → \+∞"):
        mle(truncated(getattr(models, name), lower=1.0, upper=101.0), np.empty((101, 0)), y)


@pytest.mark.parametrize("share", [28, 50])
def test_equal_responses_under_students_t_have_no_maximum(share):
    # With s rows on a plane and fewer degrees of freedom than s / (n - s) (Fernández & Steel, 1999).
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(*shape, dtype=torch.float64, generator=random) for shape in ((80, 2), (80,)))
    y[:share] = 0.0
    with pytest.raises(UnboundedLikelihoodError, match=f"fits {share} of 80 rows exactly"):
        mle(models.student_t, x, y)


@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated_poisson"])
def test_counts_at_a_border_name_the_model_that_they_are_there(name: str) -> None:
    # Fewer zeros, and a smaller variance, than Poisson counts of mean 3.
    x, y = _columns(1), 2.0 + torch.arange(ROWS, dtype=torch.float64) % 3
    with pytest.warns(ConvergenceWarning, match="→ 0.*`poisson`"):
        fit = mle(getattr(models, name), x, y)
    assert not fit.converged
    assert mle(models.poisson, x, y).converged


def test_a_profile_interval_of_zero_inflation_that_reaches_the_border_ends_at_0() -> None:
    # 13 zeros of 80, a few more than the 10.8 of Poisson counts of mean 2.
    y = torch.tensor([0.0] * 13 + [1.0] * 21 + [2.0] * 21 + [3.0] * 14 + [4.0] * 7 + [5.0] * 4)
    fit = mle(models.zero_inflated_poisson, torch.empty((80, 0), dtype=torch.float64), y.double())
    assert fit.converged
    table = summary(fit, interval="profile")
    assert float(table["lower"].loc["zero"].iloc[0]) == 0.0
    assert 0 < float(table["upper"].loc["zero"].iloc[0]) < 1


def test_the_loss_where_a_mean_overflows_is_no_number_to_compare() -> None:
    """A truncated gamma becomes a power of y, but rates that are subnormal numbers gave other losses."""
    y = torch.linspace(16.0, 85.0, 15, dtype=torch.float64)
    objective = Objective(flat(truncated(models.gamma, 15.0, 86.0)), prepare(torch.empty((15, 0)), y))
    coordinates = rescaled(objective, starting_point(objective, None))
    shape = torch.tensor(1.28, dtype=torch.float64)

    def loss(log_mean: float) -> float:
        bias, weight = torch.tensor(log_mean).double(), torch.empty(0).double()
        values = {"log_mean.weight": weight, "log_mean.bias": bias, "shape": shape}
        z = coordinates.z(objective.layout.theta(values))
        return float(existence._Alone(coordinates).values(z[None])[0])

    assert abs(loss(100.0) - loss(600.0)) < 1e-9
    assert loss(712.0) == loss(730.0) == math.inf


class Exponentials:
    """Losses exp(-z), which are level to rounding far out, and z²."""

    rows = torch.ones(3, dtype=torch.float64)

    def __init__(self, index=(0, 1, 2)):
        self.index = torch.as_tensor(index)

    def take(self, index):
        return Exponentials(self.index[index])

    def values(self, z):
        return torch.where(self.index == 2, z[:, 0] ** 2, torch.exp(-z[:, 0].abs()))


def test_points_far_out_move_closer_where_the_loss_is_no_higher():
    """Far out the curvature underflows; the loss stays what it is, at each problem by itself."""
    z = torch.tensor([[1000.0], [20.0], [100.0]], dtype=torch.float64)
    losses = Exponentials()
    closer, values, moved = nearer(losses, z, losses.values(z))
    assert closer[:, 0].tolist() == [62.5, 20.0, 50.0]
    assert moved.tolist() == [True, False, True]
    assert torch.equal(values, losses.values(closer))
    torch.testing.assert_close(values[:2], losses.values(z)[:2], rtol=0, atol=MIN_RISE)
    assert z[0] == 1000


def _counts(rows: int) -> tuple[Tensor, Tensor]:
    """Two columns, and Poisson counts of them."""
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rate = torch.exp(0.8 + 0.3 * x.sum(1))
    random = torch.Generator().manual_seed(100)
    torch.randn(rows, generator=random, dtype=torch.float64)
    torch.rand(rows, generator=random, dtype=torch.float64)
    return x, torch.poisson(rate, generator=random)


def test_a_dispersion_that_runs_to_0_until_it_underflows_is_named():
    """Steps went on until exp(-745) is 0, which the distribution refused as an argument."""
    x, y = _counts(60)
    with pytest.raises(UnboundedLikelihoodError, match="never falls as `log_dispersion` of"):
        mle(models.negative_binomial, {"log_mean": x, "dispersion": x}, y)


def test_a_df_with_columns_that_runs_to_infinity_until_derivatives_overflow_is_named():
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(60, generator=torch.Generator().manual_seed(100), dtype=torch.float64)
    with pytest.raises(UnboundedLikelihoodError, match="never falls as `log_df` of"):
        mle(models.student_t, {"location": x, "df": x}, 0.3 * x.sum(1) + noise)


@pytest.mark.parametrize("name", ["beta", "weibull", "gamma", "gaussian", "laplace", "student_t"])
def test_as_many_coefficients_as_rows_are_refused_at_once(name, monkeypatch):
    """Of `beta` and `weibull` the scale went to 0 for 200 steps, and the fit was not certified."""
    monkeypatch.setattr(fitting, "_minimum", None)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 19)), random.uniform(0.1, 0.9, 20)
    with pytest.raises(UnboundedLikelihoodError, match="fits every row exactly"):
        mle(getattr(models, name), x, y)
    known = pyro.condition(models.gamma, {"shape": torch.tensor(1.0, dtype=torch.float64)})
    monkeypatch.undo()
    assert mle(known, x, y).converged


@pytest.mark.parametrize("columns", [0, 1])
def test_an_intercept_at_the_bound_of_its_prior_is_at_a_border(columns: int) -> None:
    """It was said to go to infinity, as for separated classes; without columns it was an error of torch."""
    x = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]], dtype=torch.float64)[:, :columns]
    y = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    bounds = dist.Uniform(torch.tensor(-10.0).double(), torch.tensor(1.0).double())
    with pytest.warns(ConvergenceWarning, match=r"largest at the border: .*`mean\.bias` → 1"):
        fit = map_estimate(with_priors(models.gaussian, {"mean.bias": bounds}), x, y)
    assert not fit.converged
    assert fit.params["mean.bias"].item() == pytest.approx(1.0, abs=1e-6)
