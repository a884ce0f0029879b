"""Fits in pickles and copies: the document of `save`, checked when it is read."""

import copy
import pickle
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from neglog import covariance, map_estimate, mle, models, posterior, predict, summary
from neglog.errors import DataError
from neglog.export import Saved
from neglog.predictors import linear, rows

X = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None]
Y = (2 * X[:, 0] + torch.sin(20 * X[:, 0])).round(decimals=3)


def own(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A model of this file, which a pickle refers to."""
    mean = linear("mean", x)
    scale = pyro.sample("scale", dist.LogNormal(torch.tensor(0.0, dtype=torch.float64), 1.0))
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, scale), obs=y)


@pytest.mark.parametrize("how", [mle, map_estimate])
@pytest.mark.parametrize("model", [models.gaussian, models.laplace, own])
def test_a_fit_comes_back_from_a_pickle(how: Any, model: Any) -> None:
    fit = how(model, X, Y)
    again = pickle.loads(pickle.dumps(fit))
    twice = pickle.loads(pickle.dumps(again))
    for found in (again, twice):
        assert isinstance(found, Saved)
        assert all(torch.equal(found.params[name], value) for name, value in fit.params.items())
        assert (found.nll, found.loss, found.n, found.k) == (fit.nll, fit.loss, fit.n, fit.k)
        assert torch.equal(predict(found, X).mean, predict(fit, X).mean)
        pd.testing.assert_frame_equal(summary(found), summary(fit), rtol=1e-12)


def test_joblib_dumps_a_fit(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": X[:, 0].numpy(), "y": Y.numpy()})
    fit = mle("gaussian", "y ~ poly(x, 2)", table)
    joblib.dump({"fit": fit}, tmp_path / "fit.joblib")
    again = joblib.load(tmp_path / "fit.joblib")["fit"]
    assert torch.equal(predict(again, table).mean, predict(fit, table).mean)


def test_a_deep_copy_is_an_equal_fit_with_its_rows() -> None:
    fit = mle(models.gaussian, X, Y)
    again = copy.deepcopy(fit)
    assert covariance(again, "HC3").equals(covariance(fit, "HC3"))
    again.params["sigma"].zero_()
    assert float(fit.params["sigma"]) > 0
    assert copy.copy(fit) is fit


def test_a_deep_copy_of_a_posterior_has_draws_of_its_own() -> None:
    found = posterior(models.poisson, X, Y.abs().round(), method="laplace", draws=100)
    again = copy.deepcopy(found)
    assert torch.equal(predict(again, X).mean, predict(found, X).mean)
    again.draws["log_rate.bias"].zero_()
    assert bool(found.draws["log_rate.bias"].all())


def test_a_damaged_document_in_a_pickle_is_refused() -> None:
    content = pickle.dumps(mle(models.gaussian, X, Y))
    place = content.index(b'"nll": ') + 8
    with pytest.raises(DataError, match="digest"):
        pickle.loads(content[:place] + bytes([b"0123456789"[content[place] % 10]]) + content[place + 1 :])
