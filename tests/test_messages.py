"""Messages quote a value on one line, an array by its shape, and the first sentence of a foreign error."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import distributions, interval, losses, map_estimate, mle, summary
from neglog.arguments import written
from neglog.errors import DataError, ModelError, reason_of
from neglog.predictors import rows
from neglog.solvers import SVI


def test_an_array_is_quoted_by_its_type_and_shape():
    assert written(np.zeros((20, 2))) == "of type ndarray and shape (20, 2)"
    assert written(torch.zeros(7)) == "of type Tensor and shape (7,)"
    assert written(np.arange(3)) == "array([0, 1, 2])"


def test_a_value_is_quoted_on_one_line():
    assert written(np.eye(2)) == "array([[1., 0.], [0., 1.]])"


def test_rows_that_are_an_array_are_quoted_by_their_type():
    with pytest.raises(DataError, match=r"`rows`.* of type ndarray"):
        losses.lasso_alpha(1.0, 1.0, rows=np.zeros(500))


def test_a_foreign_error_is_quoted_to_its_first_full_stop():
    assert reason_of(ValueError("no value. Use another.\nline")) == "no value"
    assert reason_of(ValueError("a ratio of 3.5 is too large:")) == "a ratio of 3.5 is too large"
    assert reason_of(KeyError()) == "KeyError"


def test_a_loss_that_leaves_torch_is_refused_without_the_advice_of_torch():
    with pytest.raises(ModelError) as caught:
        losses.as_likelihood(lambda r: torch.as_tensor(r.numpy() ** 2))
    assert "Can't call numpy() on Tensor that requires grad. Write it with torch" in str(caught.value)
    assert "detach" not in str(caught.value)


def test_probabilities_outside_0_and_1_are_counted_and_the_first_is_named():
    q = torch.tensor([0.5, 1.5, float("nan")], dtype=torch.float64)
    fn = distributions.Normal(0.0, 1.0)
    with pytest.raises(DataError, match=r"2 of 3 are not, the first of them 1\.5"):
        distributions.Logistic(0.0, 1.0).icdf(q)
    with pytest.raises(DataError, match=r"2 of 3 are not, the first of them 1\.5"):
        distributions.Truncated(fn, torch.tensor(-1.0), torch.tensor(1.0)).icdf(q)


def test_bounds_in_the_wrong_order_are_named_by_the_first_pair():
    lower, upper = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])
    with pytest.raises(DataError, match="lower = 2 and upper = 1"):
        distributions.Censored(distributions.Normal(torch.zeros(2), 1.0), lower, upper)


def vector_of_torch(x, y=None):
    weight = pyro.sample("w", torch.distributions.Normal(torch.zeros(2).double(), 1.0))
    with rows(x):
        return pyro.sample("y", dist.Normal(x @ weight, 1.0), obs=y)


def vector_without_an_event(x, y=None):
    weight = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0))
    with rows(x):
        return pyro.sample("y", dist.Normal(x @ weight, 1.0), obs=y)


def test_a_distribution_of_torch_in_a_model_is_named_with_that_of_pyro():
    x, y = torch.eye(2, dtype=torch.float64).repeat(4, 1), torch.arange(8.0, dtype=torch.float64)
    with pytest.raises(ModelError, match=r"`vector_of_torch` has .* torch, Normal.* pyro\.distributions"):
        mle(vector_of_torch, x, y)
    with pytest.raises(ModelError, match=r"'?w'?.*\.to_event\(1\)"):
        map_estimate(vector_without_an_event, x, y, solver=SVI(steps=2))


@pytest.mark.parametrize("value", [np.str_("a"), [np.str_("a")], (np.float64(2.5), np.int64(3))])
def test_numbers_and_text_of_numpy_are_shown_as_those_of_python(value):
    assert "np." not in written(value)
    assert "'a'" in written(value) or written(value) == "(2.5, 3)"


@pytest.mark.parametrize("ask", [interval, summary])
def test_a_level_in_percent_is_refused_with_its_share(ask):
    x, y = torch.arange(8.0, dtype=torch.float64)[:, None], torch.arange(8.0, dtype=torch.float64) ** 2
    fit = mle("gaussian", x, y)
    arguments = (fit, x) if ask is interval else (fit,)
    with pytest.raises(ModelError, match=r"`level` must be between 0 and 1; it is 95, and 95 % are 0\.95"):
        ask(*arguments, level=95)
