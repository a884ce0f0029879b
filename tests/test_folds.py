"""Folds of splitters that hold rows out once, several times or never, held against scikit-learn."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeavePGroupsOut,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.model_selection import (
    cross_validate as of_sklearn,
)

from neglog import compare, cross_validate, mle, scores
from neglog.errors import DataError, ModelError

N = 60
RANDOM = np.random.default_rng(3)
TABLE = pd.DataFrame({"x": RANDOM.normal(size=N), "g": np.arange(N) % 5, "w": 1.0 + np.arange(N) % 3})
TABLE["y"] = TABLE["x"] + RANDOM.normal(size=N)
TABLE["answer"] = np.where(RANDOM.random(N) < 0.4, "yes", "no")
X, Y = TABLE[["x"]].to_numpy(), TABLE["y"].to_numpy()

SPLITTERS = {
    "each row twice": RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
    "at random": ShuffleSplit(4, test_size=0.3, random_state=0),
    "the future": TimeSeriesSplit(4),
    "pairs of groups": LeavePGroupsOut(2),
    "some rows never": PredefinedSplit(np.where(np.arange(N) < 20, -1, np.arange(N) % 2)),
    "once": KFold(4),
}


def pairs(splitter):
    return list(splitter.split(X, Y, TABLE["g"] if isinstance(splitter, LeavePGroupsOut) else None))


@pytest.mark.parametrize("name", SPLITTERS)
def test_means_are_those_of_all_that_scikit_learn_holds_out(name):
    splits = pairs(SPLITTERS[name])
    groups = {"groups": "g"} if name == "pairs of groups" else {}
    found = cross_validate(
        "gaussian", "y ~ x", TABLE, folds=SPLITTERS[name], scores=["rmse", "mae"], **groups
    )
    theirs = of_sklearn(
        LinearRegression(), X, Y, cv=splits, scoring=("neg_mean_squared_error", "neg_mean_absolute_error")
    )
    sizes = np.array([len(test) for _, test in splits])
    square, absolute = (
        -sizes @ theirs[f"test_neg_mean_{kind}_error"] / sizes.sum() for kind in ("squared", "absolute")
    )
    table = found.table()["mean"]
    assert table["rmse"] == pytest.approx(np.sqrt(square), abs=1e-9)
    assert table["mae"] == pytest.approx(absolute, abs=1e-9)
    alone = [
        scores(mle("gaussian", X[train], Y[train]), X[test], Y[test]).sum().item() for train, test in splits
    ]
    assert found.mean == pytest.approx(sum(alone) / sizes.sum(), abs=1e-9)


@pytest.mark.parametrize("name", SPLITTERS)
def test_each_entry_has_its_row_and_its_fold(name):
    splits = pairs(SPLITTERS[name])
    found = cross_validate("gaussian", X, Y, folds=splits)
    rows = torch.arange(N) if found.rows is None else found.rows
    assert (found.rows is None) == (name == "once")
    assert rows.tolist() == sorted(np.concatenate([test for _, test in splits]).tolist())
    for fold, (train, test) in enumerate(splits):
        of_fold, fit = found.folds == fold, mle("gaussian", X[train], Y[train])
        assert set(rows[of_fold].tolist()) == set(test)
        where = rows[of_fold].numpy()
        assert torch.allclose(found.scores[of_fold], scores(fit, X[where], Y[where]))


def test_a_row_that_is_held_out_twice_is_one_observation():
    """Twice the same folds are the same estimate, with the same standard error and the same sum."""
    once = cross_validate("gaussian", "y ~ x", TABLE, weights="w", folds=pairs(KFold(4)), scores=["rmse"])
    twice = cross_validate(
        "gaussian", "y ~ x", TABLE, weights="w", folds=2 * pairs(KFold(4)), scores=["rmse"]
    )
    assert len(twice.scores) == 2 * N
    for name in ("mean", "standard_error", "sum"):
        assert getattr(twice, name) == pytest.approx(getattr(once, name), rel=1e-12)
    np.testing.assert_allclose(twice.table(), once.table(), rtol=1e-10)


def test_unequal_repeats_have_the_standard_error_of_their_row_means():
    """Rows that are held out k times: the linearised variance of a ratio of sums over rows, by hand."""
    splits = [*pairs(KFold(4)), *pairs(KFold(4))[:2]]
    found = cross_validate("gaussian", "y ~ x", TABLE, folds=splits)
    entries = pd.DataFrame({"row": found.rows.numpy(), "score": found.scores.numpy()})
    sums, counts = (entries.groupby("row")["score"].agg(kind) for kind in ("sum", "count"))
    away = (sums - found.mean * counts) / counts.mean()
    assert found.standard_error == pytest.approx(np.sqrt(away @ away / (N - 1) / N), rel=1e-12)
    assert found.sum == pytest.approx((sums / counts).sum(), rel=1e-12)


def test_rows_of_weight_0_keep_their_place_in_a_splitter():
    weights = np.r_[0.0, 0.0, np.ones(N - 2)]
    found = cross_validate("gaussian", X, Y, weights=weights, folds=KFold(3))
    assert found.folds.tolist() == np.repeat(np.arange(3), N // 3).tolist()


def test_strata_of_labels_are_those_of_scikit_learn():
    found = cross_validate("bernoulli", "answer ~ x", TABLE, folds=StratifiedKFold(3))
    for fold, (_, test) in enumerate(StratifiedKFold(3).split(X, TABLE["answer"])):
        assert (found.folds[test] == fold).all()


@pytest.mark.parametrize("folds", [KFold(3), pairs(KFold(3)), KFold(3).split(X), ShuffleSplit(3)])
def test_a_comparison_has_the_folds_of_a_splitter(folds, tmp_path):
    """All models have the same rows held out, also by a splitter that draws them anew each time."""
    names = ["gaussian", "laplace"]
    found = compare(names, "y ~ x", TABLE, folds=folds, checkpoint=tmp_path / "state")
    if not isinstance(folds, ShuffleSplit):
        alone = {name: cross_validate(name, X, Y, folds=KFold(3)).mean for name in names}
        assert found["held_out_mean"].to_dict() == pytest.approx(alone)
    assert found["reason"].isna().all()


def test_a_comparison_of_all_models_and_of_arrays_takes_splitters():
    found = compare(["gaussian"], X, Y, folds=GroupKFold(5), groups=TABLE["g"].to_numpy())
    alone = cross_validate("gaussian", X, Y, folds=GroupKFold(5), groups=TABLE["g"].to_numpy())
    assert found.loc["gaussian", "held_out_mean"] == alone.mean
    with pytest.raises(DataError, match=r"GroupKFold.*Give the group"):
        compare(["gaussian"], X, Y, folds=GroupKFold(5))


def test_validations_of_other_rows_are_not_compared():
    one, other = (
        cross_validate("gaussian", X, Y, folds=ShuffleSplit(2, random_state=seed)) for seed in (0, 1)
    )
    with pytest.raises(DataError, match="differ in their rows"):
        one.above(other)
    assert one.above(one) == (0.0, 0.0)


@pytest.mark.parametrize("folds", [5, TimeSeriesSplit(3)])
def test_a_validation_is_pickled(folds):
    found = cross_validate("gaussian", X, Y, folds=folds, scores=["rmse"])
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert again.mean == found.mean
        assert again.standard_error == found.standard_error
        assert again.by_name.keys() == found.by_name.keys()
        with pytest.raises(TypeError):
            again.by_name["log"] = found.scores


@pytest.mark.parametrize(
    ("folds", "facts"),
    [
        ("loo", "it is 'loo'.*KFold"),
        (2.5, "it is 2.5"),
        (True, "it is True"),
        (KFold, "the class KFold"),
        (object(), "a splitter of scikit-learn, or pairs"),
        ([np.arange(3)], r"pairs of positions.*split 1"),
        ([(np.arange(30), np.arange(30, 61))], "split 1 .*from 0 to 59 to test"),
        ([(np.arange(30.0), np.arange(30, 60))], "split 1 .*from 0 to 59 to train"),
        ([(np.arange(30), [])], "split 1 .* to test, one or more"),
        ([(np.arange(30), np.arange(30, 60)), (np.arange(31), np.arange(30, 60))], "split 2 .* row 30"),
    ],
)
def test_folds_that_are_none(folds, facts):
    with pytest.raises(DataError, match=facts):
        cross_validate("gaussian", X, Y, folds=folds)


def test_masks_and_numpy_numbers_are_folds():
    first = np.arange(N) < 40
    masks = cross_validate("gaussian", X, Y, folds=[(first, ~first)])
    numbers = cross_validate("gaussian", X, Y, folds=[(np.arange(40), list(range(40, N)))])
    assert torch.equal(masks.scores, numbers.scores)
    assert torch.equal(
        cross_validate("gaussian", X, Y, folds=np.int64(3)).scores,
        cross_validate("gaussian", X, Y, folds=3).scores,
    )


def test_a_formula_in_the_place_of_the_models_is_named():
    with pytest.raises(ModelError, match=r"`models` must be .*'y ~ x'"):
        compare("y ~ x", TABLE)
