"""The former name of a renamed predictor: `laplace` called its location `median`."""

import json

import pyro
import pyro.distributions as dist
import pytest
import torch

from neglog import (
    export,
    flat,
    map_estimate,
    mle,
    mle_batch,
    models,
    on_features,
    predict,
    with_priors,
)
from neglog.bayes.priors import priors_for
from neglog.errors import DataError, ModelError
from neglog.export import documents
from neglog.layers import current_names, layers, replaced

X = torch.linspace(0, 1, 30, dtype=torch.float64)[:, None]
Y = 1 + 2 * X[:, 0] + torch.sin(40 * X[:, 0])
WEIGHT = torch.tensor([1.5], dtype=torch.float64)
SITES = ["location.weight", "location.bias", "scale"]


def former(argument):
    return pytest.warns(FutureWarning, match=f"in `{argument}`, 'median.*' is now 'location")


def same(a, b):
    assert list(a.params) == list(b.params)
    assert all(torch.equal(value, b.params[name]) for name, value in a.params.items())


def test_estimates_have_the_current_name_alone():
    assert list(mle(models.laplace, X, Y).params) == SITES


@pytest.mark.parametrize("fit", [mle, map_estimate])
def test_is_a_key_of_x(fit):
    with former("x"):
        old = fit(models.laplace, {"median": X}, Y)
    new = fit(models.laplace, {"location": X}, Y)
    same(old, new)
    assert old.columns == new.columns == {"location": ("x0",)}
    with former("x"):
        there = predict(old, {"median": X}).mean
    torch.testing.assert_close(there, predict(new, {"location": X}).mean, rtol=0, atol=0)


def test_is_a_key_of_x_under_raw_pyro():
    with former("x"):
        traced = pyro.poutine.trace(models.laplace).get_trace({"median": X}, Y)
    assert traced.nodes["location.weight"]["value"].shape == (1,)


def test_is_a_key_of_x_for_many_data_sets_and_for_priors():
    many = torch.stack([Y, Y.flip(0)])
    with former("x"):
        old = mle_batch(models.laplace, {"median": X}, many)
    same(old, mle_batch(models.laplace, {"location": X}, many))
    with former("x"):
        assert set(priors_for(models.laplace, {"median": X}, Y)) == set(SITES)


def test_is_a_site_of_start():
    with former("start"):
        old = mle(models.laplace, X, Y, start={"median.weight": WEIGHT})
    same(old, mle(models.laplace, X, Y, start={"location.weight": WEIGHT}))


def test_is_a_site_of_priors():
    prior = dist.Normal(0.0, torch.tensor(0.1, dtype=torch.float64))
    with former("with_priors"):
        old = with_priors(models.laplace, {"median.weight": prior})
    same(map_estimate(old, X, Y), map_estimate(with_priors(models.laplace, {"location.weight": prior}), X, Y))


def test_is_a_site_that_is_flat():
    with former("flat"):
        old = flat(models.laplace, "median.weight", "scale")
    same(map_estimate(old, X, Y), map_estimate(flat(models.laplace, "location.weight", "scale"), X, Y))


def test_is_known_through_other_handlers():
    held = pyro.condition(flat(models.laplace), {"scale": torch.tensor(1.0, dtype=torch.float64)})
    with former("with_priors"):
        with_priors(held, {"median.bias": dist.Normal(0.0, 1.0)})


def test_is_a_module_of_a_network():
    net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh()).double()
    for modules in ({"median": net}, torch.nn.ModuleDict({"median": net})):
        with former("module"):
            old = on_features(models.laplace, modules)
        assert set(old.start) == {"trunk.location.0.weight", "trunk.location.0.bias"}


def test_both_names_at_once_are_refused():
    with pytest.raises(ModelError, match="'median' is another name of 'location'"):
        mle(models.laplace, {"median": X, "location": X}, Y)


def test_is_unknown_to_other_models():
    with pytest.raises(ModelError, match="has no predictor 'median'"):
        mle(models.huber, {"median": X}, Y)
    with pytest.raises(ModelError, match=r"'median\.weight'"):
        mle(models.huber, X, Y, start={"median.weight": WEIGHT})


def test_what_is_named_otherwise_is_handed_on_as_it_is():
    given = {"location": X, "scale": X}
    assert current_names(models.laplace, given, "x") is given
    assert replaced({"median": "location"}, {"log_median": 1, "median.bias": 2}) == {
        "log_median": 1,
        "location.bias": 2,
    }


def age(folder):
    """Write the names that a saved fit had before the predictor was renamed."""
    path = folder / "model.json"
    text = path.read_text(encoding="utf-8").replace('"location', '"median')
    path.write_bytes(documents.encoded({k: v for k, v in json.loads(text).items() if k != documents.DIGEST}))


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (models.laplace, X),
        (models.laplace, {"location": X, "scale": X}),
        (pyro.condition(models.laplace, {"location.bias": torch.tensor(1.0, dtype=torch.float64)}), X),
    ],
    ids=["one design", "a design each", "conditioned"],
)
def test_a_fit_that_was_saved_under_it_loads(tmp_path, model, x):
    fit = mle(model, x, Y)
    export.save(fit, tmp_path / "fit")
    age(tmp_path / "fit")
    assert "median.weight" in json.loads((tmp_path / "fit" / "model.json").read_text())["params"]
    again = export.load(tmp_path / "fit")
    same(again, fit)
    assert torch.equal(predict(again, x).mean, predict(fit, x).mean)
    assert "location.weight" in again.params


def test_a_saved_list_of_flat_sites_loads(tmp_path):
    fit = map_estimate(flat(models.laplace, "location.weight"), X, Y)
    export.save(fit, tmp_path / "fit")
    age(tmp_path / "fit")
    again = export.load(tmp_path / "fit")
    (handler,) = (layer.args[0] for layer in layers(again.model) if getattr(layer, "args", ()))
    assert handler.names == {"location.weight"}


def test_a_saved_fit_with_estimates_under_both_names_is_refused(tmp_path):
    export.save(mle(models.laplace, X, Y), tmp_path / "fit")
    path = tmp_path / "fit" / "model.json"
    fields = json.loads(path.read_text())
    fields["params"]["median.bias"] = fields["params"]["location.bias"]
    path.write_bytes(documents.encoded({k: v for k, v in fields.items() if k != documents.DIGEST}))
    with pytest.raises(DataError, match=r"median\.bias"):
        export.load(tmp_path / "fit")
