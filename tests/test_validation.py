"""Cross-validation: the same as writing the folds out, whatever the random state."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from neglog import censored, log_likelihood, mle, models
from neglog.errors import DataError, ModelError, SingularDesignError
from neglog.validation import cross_validate

Data = tuple[Tensor, Tensor]


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0], dtype=torch.float64) + torch.randn(
        30, generator=generator, dtype=torch.float64
    )
    return x, y


def test_each_row_is_scored_by_the_fit_without_its_fold(data: Data) -> None:
    x, y = data
    result = cross_validate(models.gaussian, x, y, folds=4, seed=3)
    for fold in range(4):
        out = result.folds == fold
        fit = mle(models.gaussian, x[~out], y[~out])
        assert torch.equal(result.scores[out], log_likelihood(fit, x[out], y[out]))
    assert result.converged
    assert sorted(torch.bincount(result.folds).tolist()) == [7, 7, 8, 8]


def test_the_summary_is_that_of_the_rows(data: Data) -> None:
    result = cross_validate(models.laplace, *data)
    scores = result.scores.numpy()
    assert result.sum == pytest.approx(scores.sum(), rel=1e-14)
    assert result.mean == pytest.approx(scores.mean(), rel=1e-14)
    assert result.standard_error == pytest.approx(scores.std(ddof=1) / math.sqrt(30), rel=1e-12)


def test_leaving_out_one_row_has_a_closed_form(data: Data) -> None:
    # Without row i, least squares predicts it with the residual r_i / (1 - h_ii), and sigma² is
    # (RSS - r_i² / (1 - h_ii)) / (n - 1): Cook & Weisberg (1982), section 2.2.
    x, y = data
    design = torch.cat([torch.ones(30, 1, dtype=torch.float64), x], 1)
    hat = design @ torch.linalg.solve(design.T @ design, design.T)
    residual = y - hat @ y
    kept = 1 - hat.diagonal()
    sigma = ((residual.square().sum() - residual.square() / kept) / 29).sqrt()
    expected = torch.distributions.Normal(0.0, sigma).log_prob(residual / kept)
    result = cross_validate(models.gaussian, x, y, folds=30)
    assert torch.allclose(result.scores, expected, rtol=1e-8, atol=0)


def test_the_seed_alone_decides_the_folds(data: Data) -> None:
    before = torch.random.get_rng_state()
    first = cross_validate(models.gaussian, *data, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    again = cross_validate(models.laplace, *data, seed=1)
    assert torch.equal(first.folds, again.folds)
    assert not torch.equal(first.folds, cross_validate(models.gaussian, *data, seed=2).folds)


def test_every_kind_of_data_gives_the_same_scores(data: Data) -> None:
    x, y = data
    expected = cross_validate(models.heteroscedastic, x, y, folds=2).scores
    frame, series = pd.DataFrame(x.numpy(), columns=["a", "b"], index=range(100, 130)), pd.Series(y.numpy())
    series = series.set_axis(frame.index)
    for design, response in (
        (x.numpy(), y.numpy()),
        (frame, series),
        ({"mean": frame, "log_variance": x}, y.tolist()),
    ):
        assert torch.allclose(
            cross_validate(models.heteroscedastic, design, response, folds=2).scores, expected, rtol=1e-12
        )


def test_a_weight_is_a_row_written_out(data: Data) -> None:
    x, y = data
    weights = np.arange(30) % 3
    result = cross_validate(models.gaussian, x, y, weights=pd.Series(weights))
    index = torch.arange(30).repeat_interleave(torch.as_tensor(weights))
    for fold in range(5):
        kept = index[result.folds[index] != fold]
        out = (result.folds == fold) & torch.as_tensor(weights > 0)
        expected = log_likelihood(mle(models.gaussian, x[kept], y[kept]), x[out], y[out])
        assert torch.allclose(result.scores[out], expected, rtol=1e-9)
    written = result.scores[index].numpy()
    assert result.sum == pytest.approx(written.sum(), rel=1e-12)
    assert result.mean == pytest.approx(written.mean(), rel=1e-12)
    assert result.standard_error == pytest.approx(written.std(ddof=1) / math.sqrt(30), rel=1e-12)
    assert bool(torch.isfinite(result.scores).all())


def test_a_row_of_weight_zero_is_absent(data: Data) -> None:
    x, y = data
    weights = torch.ones(30)
    weights[4] = 0
    without = torch.arange(30) != 4
    result = cross_validate(models.gaussian, x, y, weights=weights)
    expected = cross_validate(models.gaussian, x[without], y[without])
    assert torch.allclose(result.scores[without], expected.scores, rtol=1e-12)
    assert result.mean == pytest.approx(expected.mean, rel=1e-12)


def test_the_difference_is_paired(data: Data) -> None:
    first, second = (cross_validate(model, *data) for model in (models.gaussian, models.laplace))
    mean, error = first.above(second)
    difference = (first.scores - second.scores).numpy()
    assert mean == pytest.approx(first.mean - second.mean, rel=1e-12)
    assert error == pytest.approx(difference.std(ddof=1) / math.sqrt(30), rel=1e-12)
    with pytest.raises(DataError, match="rows, folds or weights"):
        first.above(cross_validate(models.laplace, *data, seed=1))


def test_log_scores_of_densities_are_not_compared_with_those_of_probabilities(data: Data) -> None:
    x, y = data
    counts = (y - y.min()).round()
    one, other = (
        cross_validate(m, x, counts, folds=2, scores=["crps"]) for m in (models.poisson, models.gaussian)
    )
    assert one.probabilities is not None
    assert bool(one.probabilities.all())
    with pytest.raises(ModelError, match="30 of 30 rows"):
        one.above(other)
    assert math.isfinite(one.above(other, "crps")[0])  # the remedy, in units of y
    bound = float(y.median())
    tobit = cross_validate(censored(models.gaussian, lower=bound), x, y.clamp(min=bound), folds=2)
    with pytest.raises(ModelError, match="in 15 of 30 rows"):
        tobit.above(cross_validate(models.gaussian, x, y.clamp(min=bound), folds=2))


@pytest.mark.parametrize("folds", [1, 0, 31, 2.0, True])
def test_folds_that_cannot_be(data: Data, folds: int) -> None:
    with pytest.raises(DataError, match=f"`folds`.* {folds!r}"):
        cross_validate(models.gaussian, *data, folds=folds)


def test_weights_of_another_length(data: Data) -> None:
    with pytest.raises(DataError, match=r"`weights` has 3 rows and `x` has 30"):
        cross_validate(models.gaussian, *data, weights=[1, 2, 3])


def test_the_fold_that_cannot_be_fitted_is_named() -> None:
    x, y = torch.zeros(10, 1, dtype=torch.float64), torch.arange(10, dtype=torch.float64)
    x[3] = 1  # Without this row the column is constant.
    with pytest.raises(SingularDesignError, match=r"^without fold \d of 5: "):
        cross_validate(models.gaussian, x, y)


def test_a_bar_goes_to_stderr(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = cross_validate(models.gaussian, *data)
    assert capsys.readouterr() == ("", "")
    shown = cross_validate(models.gaussian, *data, progress=True)
    assert capsys.readouterr().out == ""
    assert torch.equal(quiet.scores, shown.scores)
