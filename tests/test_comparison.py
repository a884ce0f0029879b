"""Comparison: the ranking is that of the held-out scores, and the verdict no bolder than they are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from neglog import Fit, datasets, mle, models
from neglog.candidates import kind_of, loss_of, set_up
from neglog.comparison import Comparison, Entry, compare_models, model_named
from neglog.errors import DataError, ModelError, UnboundedLikelihoodError
from neglog.formula import Learned, learn
from neglog.tables import read_table
from neglog.validation import Validation, cross_validate

DATA = Path(__file__).parent / "data"
FIT = Fit(models.gaussian, {}, nll=0.0, loss=0.0, converged=True, status="", n_iter=0, n=2.0, k=0)
REAL = {"gaussian", "heteroscedastic", "huber", "laplace", "logistic", "student_t"}
REAL_OR_POSITIVE = REAL | {"gamma", "inverse_gaussian", "lognormal", "weibull"}
"""What a positive response that is no whole number is compared under."""


@pytest.fixture
def few_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were no more models than these: what holds of each needs no others."""
    monkeypatch.setattr(models, "__all__", ["gamma", "gaussian", "heteroscedastic", "laplace"])


@pytest.fixture(scope="module")
def engel() -> Learned:
    return learn("food_expenditure ~ income", datasets.load("engel"))


@pytest.fixture(scope="module")
def comparison(engel: Learned) -> Comparison:
    return compare_models(engel, seed=4, folds=2)


def test_entries_are_the_fits_and_scores_of_their_models(engel: Learned, comparison: Comparison) -> None:
    assert {entry.model for entry in comparison.entries} == REAL_OR_POSITIVE
    x, y = engel.table[["income"]], engel.table["food_expenditure"]
    for entry in comparison.entries:
        assert entry.converged
    for entry in comparison.entries[::6]:
        model = getattr(models, entry.model)
        assert entry.fit is not None
        assert entry.validation is not None
        assert entry.fit.nll == mle(model, x, y).nll
        assert torch.equal(entry.validation.scores, cross_validate(model, x, y, seed=4, folds=2).scores)


def test_the_best_score_comes_first_and_the_noise_of_engel_grows(comparison: Comparison) -> None:
    scores = [entry.validation.mean for entry in comparison.entries if entry.validation]
    assert scores == sorted(scores, reverse=True)
    assert comparison.entries[0].model == "heteroscedastic"
    assert comparison.tied == comparison.entries[:1]
    assert comparison.verdict.startswith(
        "Train with torch.nn.GaussianNLLLoss (Gaussian NLL with a variance head): `heteroscedastic` predicts "
        "unseen rows best, 0."
    )
    assert comparison.verdict.endswith(f" nats per row ahead of `{comparison.entries[1].model}`.")


def test_weights_of_a_criterion_are_shares(comparison: Comparison) -> None:
    fits = {entry.model: entry.fit for entry in comparison.entries if entry.fit is not None}
    for criterion in ("aic", "bic"):
        found = comparison.weights(criterion)
        assert sum(found.values()) == pytest.approx(1.0)
        gap = getattr(fits["student_t"], criterion) - getattr(fits["laplace"], criterion)
        assert found["student_t"] / found["laplace"] == pytest.approx(np.exp(-gap / 2), rel=1e-9)
    with pytest.raises(ModelError, match="`criterion` must be"):
        comparison.weights("hqic")  # type: ignore[arg-type]


def validation(scores: list[float], converged: bool = True) -> Validation:
    rows = len(scores)
    values = torch.tensor(scores, dtype=torch.float64)
    return Validation(values, torch.arange(rows), torch.ones(rows, dtype=torch.float64), converged)


@pytest.mark.parametrize(
    ("others", "verdict"),
    [
        ([], "Only `a` could be scored, so there is nothing to compare A with."),
        # The paired differences 0.5 and 1.5 have the mean 1 and the standard error 0.5.
        (
            [[0.5, 0.5]],
            "Train with A: `a` predicts unseen rows best, 1.00 ± 0.50 nats per row ahead of `b`.",
        ),
        (
            [[-1.0, 2.5]],  # 2 and -0.5: 0.75 ± 1.25
            "Train with A or B: these rows do not tell `a` from `b` (0.8 ± 1.2 nats per row, less than one "
            "standard error).",
        ),
        (
            [[-1.0, 2.5], [-2.0, 3.0]],
            "Train with A, B or C: these rows do not tell `a` from `b` and `c` (0.8 ± 1.2 nats per row, less "
            "than one standard error).",
        ),
    ],
)
def test_the_verdict_is_hedged_within_one_standard_error(others: list[list[float]], verdict: str) -> None:
    first = Entry("a", "A", FIT, validation([1.0, 2.0]))
    rest = [Entry(name, name.upper(), FIT, validation(s)) for name, s in zip("bcd", others, strict=False)]
    assert Comparison((first, *rest)).verdict == verdict


def test_the_verdict_doubts_a_best_model_that_did_not_converge() -> None:
    best = Entry("a", "A", FIT, validation([1.0, 2.0], converged=False))
    other = Entry("b", "B", FIT, validation([0.0, 0.5]))
    assert Comparison((best, other)).verdict.endswith(
        "ahead of `b`. It did not converge, so look at that first."
    )
    failed = Entry("a", "A", reason="why")
    assert Comparison((failed,)).verdict == "No model could be scored on rows it has not seen."


@pytest.mark.usefixtures("few_models")
def test_a_model_that_fails_stands_last_with_its_reason(
    engel: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(model: object, *args: object, **kwargs: object) -> object:
        if model is models.heteroscedastic:
            raise UnboundedLikelihoodError("no maximum")
        return mle(model, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("neglog.comparison.mle", fails)
    comparison = compare_models(engel, folds=2)
    last = comparison.entries[-1]
    assert last.model == "heteroscedastic"
    assert (last.fit, last.validation, last.reason, last.converged) == (None, None, "no maximum", False)


def test_a_fit_without_scores_stands_after_those_with(engel: Learned) -> None:
    table = engel.table.assign(rare=[1.0] + [0.0] * (len(engel.table) - 1))
    *fitted, last = compare_models(learn("food_expenditure ~ income + rare", table)).entries
    assert {entry.model for entry in fitted} == REAL_OR_POSITIVE - {"heteroscedastic"}
    for entry in fitted:
        assert entry.fit is not None
        assert entry.validation is None
        assert str(entry.reason).startswith("without fold ")
    assert (last.model, last.fit) == ("heteroscedastic", None)  # The rare row is fitted exactly.


def test_if_all_fail_it_is_an_error() -> None:
    line = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, 5.0], "y": [-1.0, -2.0, -3.0, -4.0, -5.0]})
    with pytest.raises(
        DataError, match=r"^no model could be fitted\. `gaussian` fits .*and `student_t` fail too\.$"
    ):
        compare_models(learn("y ~ x", line))


def test_folds_are_checked_before_anything_is_fitted(engel: Learned) -> None:
    with pytest.raises(DataError, match=r"`folds`.* 236"):
        compare_models(engel, folds=236)
    weights = np.r_[np.ones(3), np.zeros(232)]
    weighted = replace(engel, table=engel.table.assign(w=weights))
    with pytest.raises(DataError, match="from 2 to the 3 rows; it is 4"):
        compare_models(weighted, weights="w", folds=4)


@pytest.mark.usefixtures("few_models")
def test_weights_are_rows_written_out(engel: Learned) -> None:
    twice = learn("food_expenditure ~ income", engel.table.assign(w=2), keep=["w"])
    once = compare_models(engel, folds=2)
    for entry in compare_models(twice, weights="w", folds=2).entries:
        (same,) = (other for other in once.entries if other.model == entry.model)
        assert entry.fit is not None
        assert same.fit is not None
        assert entry.fit.nll == pytest.approx(2 * same.fit.nll, rel=1e-9)
        assert entry.fit.n == 470


@pytest.mark.usefixtures("few_models")
def test_each_model_takes_the_companions_that_it_knows(engel: Learned) -> None:
    learned = learn("food_expenditure ~ income", engel.table, also=["sigma ~ income", "log_variance ~ 1"])
    fits = {entry.model: entry for entry in compare_models(learned, folds=2).entries}
    for name, sites in {
        "gaussian": {"mean.weight", "mean.bias", "log_sigma.weight", "log_sigma.bias"},
        "laplace": {"location.weight", "location.bias", "scale"},
        "heteroscedastic": {"mean.weight", "mean.bias", "log_variance.weight", "log_variance.bias"},
    }.items():
        entry = fits[name].fit
        assert entry is not None
        assert set(entry.params) == sites
    assert fits["gaussian"].loss == "the negative log-likelihood of `gaussian` with a head for `sigma`"
    assert fits["laplace"].loss == "torch.nn.L1Loss (MAE)"
    with pytest.raises(ModelError, match=r"no model here has a predictor `nope`; there are .*`sigma`"):
        compare_models(learn("food_expenditure ~ income", engel.table, also=["nope ~ 1"]))


def test_no_intercept_is_a_bias_held_at_zero() -> None:
    learned = learn("dist ~ 0 + speed", read_table(DATA / "cars.csv"))
    model, x = set_up("gaussian", learned.design, learned.table)
    fit = mle(model, x, learned.design.y(learned.table))
    speed, dist = learned.table["speed"], learned.table["dist"]
    assert set(fit.params) == {"mean.weight", "sigma"}
    assert fit.params["mean.weight"].item() == pytest.approx((speed @ dist) / (speed @ speed), rel=1e-12)


def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"no model `ols`.*`gaussian`.*There are `bernoulli`, .*`student_t`"):
        model_named("ols")


def test_a_model_without_a_loss_of_its_own_has_its_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neglog.losses.TABLE", {})
    assert loss_of("gaussian", ()) == "the negative log-likelihood of `gaussian`"


def test_a_loss_without_a_class_in_torch_is_named_once() -> None:
    assert loss_of("gamma", ()) == "the Gamma deviance"
    assert loss_of("lognormal", ()) == "torch.nn.MSELoss, on log y (squared log error)"
    assert loss_of("poisson", ()) == "torch.nn.PoissonNLLLoss (Poisson deviance)"


def table_of(y: np.ndarray, **columns: np.ndarray) -> pd.DataFrame:
    generator = np.random.default_rng(3)
    return pd.DataFrame({"x": generator.normal(size=len(y)), **columns, "y": y})


def test_zeros_and_ones_are_compared_by_their_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Densities of 0 and 1 have any height: MAE was recommended for a column that is nearly always 0."""
    y = np.zeros(80)
    y[[3, 20, 41, 60, 77]] = 1.0
    comparison = compare_models(learn("y ~ x", table_of(y)))
    assert comparison.response == "discrete"
    assert {entry.model for entry in comparison.entries} == {"bernoulli", "poisson"}
    assert {entry.reason for entry in comparison.entries} == {None}
    assert "the response is 0 or 1" in str(comparison.scope)
    assert "--response continuous (response='continuous')" in str(comparison.scope)
    monkeypatch.setattr(models, "__all__", ["bernoulli", "gamma", "gaussian", "laplace", "poisson"])
    asked = compare_models(learn("y ~ x", table_of(y)), response="continuous")
    assert asked.response == "continuous"
    assert [entry.model for entry in asked.entries] == ["laplace", "gaussian", "gamma"]


def test_models_that_agree_are_ranked_by_their_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts with less spread than Poisson's: the zeros that the other has more run to their border."""
    monkeypatch.setattr(models, "__all__", ["zero_inflated_poisson", "poisson"])
    comparison = compare_models(learn("y ~ 1", table_of(np.tile([1.0, 2.0, 2.0, 3.0], 10))), folds=2)
    assert [entry.model for entry in comparison.entries] == ["poisson", "zero_inflated_poisson"]
    assert comparison.tied == comparison.entries
    assert "(0.000000 ± 0.000000 nats per row" in comparison.verdict


@pytest.mark.parametrize(
    ("y", "kind", "words"),
    [
        ([0, 1, 1, 0], "discrete", "is 0 or 1"),
        ([0, 3, 1, 250], "discrete", "whole numbers from 0 on"),
        ([1, 3, 2, 9], "discrete", "less than 10"),
        ([214_000, 189_500, 320_000], "continuous", "at least 10"),
        ([-3, 2, 4, 8], "continuous", "negative"),
        ([0.5, 1, 2, 3], "continuous", None),
    ],
)
def test_whole_numbers_are_counts_or_rounded_measurements(
    y: list[float], kind: str, words: str | None
) -> None:
    values = torch.tensor(y, dtype=torch.float64)
    found, why = kind_of(values, torch.ones(len(y)))
    assert found == kind
    assert (why is None) == (words is None)
    assert words is None or words in str(why)
    more, weights = torch.cat([values, torch.tensor([0.25, -1.0])]), torch.ones(len(y) + 2)
    weights[-2:] = 0  # rows that are not there
    assert kind_of(more, weights)[0] == kind
    other = "continuous" if kind == "discrete" else "discrete"
    assert kind_of(values, torch.ones(len(y)), other)[0] == other  # type: ignore[arg-type]
    with pytest.raises(DataError, match="`response` must be 'discrete', 'continuous' or None"):
        kind_of(values, torch.ones(len(y)), "counts")  # type: ignore[arg-type]


def test_what_no_model_draws_has_a_remedy_that_works(engel: Learned) -> None:
    with pytest.raises(DataError, match=r"no discrete model .*\(response='continuous'\)"):
        compare_models(engel, response="discrete")
    assert kind_of(torch.tensor([1.5]), torch.ones(1), "continuous")[0] == "continuous"
    two = table_of(np.random.default_rng(1).normal(size=30), z=np.random.default_rng(2).normal(size=30))
    learned = learn("y + z ~ x", two)
    with pytest.raises(DataError, match="Fit `multivariate_gaussian` and `multivariate_heteroscedastic`"):
        compare_models(learned)
    x, y = learned.design.x(two, ("mean",)), learned.design.y(two)
    assert mle(models.multivariate_gaussian, x, y).bic > 0
