"""Rows of test_advice.py: saved models of the caller's own, checkpoints and pickles."""

import pickle
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from remedies import Row, row
from torch import nn

from neglog import (
    covariance,
    lasso_path,
    load,
    map_estimate,
    mle,
    models,
    on_features,
    posterior,
    save,
    to_arviz,
)
from neglog.checkpoint import Checkpoint, Journal
from neglog.errors import DataError, ModelError
from neglog.predictors import linear, rows
from neglog.solvers import Adam

N = 20
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 2)), RNG.normal(size=N)


def own(x, y=None):
    mean = linear("mean", x)
    with rows(x):
        return pyro.sample("y", dist.Normal(mean, torch.ones((), dtype=x.dtype)), obs=y)


def saved(folder, model=own):
    return save(mle(model, X, Y), folder / "m")


def network(dtype=torch.float64):
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh()).to(dtype)


def saved_network(folder):
    single = Adam(steps=3, dtype=torch.float32)
    fit = map_estimate(on_features(models.gaussian, network(torch.float32)), X, Y, solver=single)
    return save(fit, folder / "n")


def kept(folder, name="c", steps=5):
    return map_estimate(models.gaussian, X, Y, solver=Adam(steps=steps), checkpoint=folder / name)


def kept_twice(folder, name="c"):
    kept(folder)
    return kept(folder, name, steps=6)


def beside_a_text(folder, name="d"):
    (folder / "d").write_bytes(b"no checkpoint")
    return kept(folder, name)


def drawn(method="laplace", **settings):
    return posterior(models.gaussian, X, Y, method=method, draws=100, **settings)


@cache
def path():
    return lasso_path(models.gaussian, X, Y, n_strengths=3)


def pickled(value):
    return pickle.loads(pickle.dumps(value))


def in_a_new_folder(folder):
    (folder / "no").mkdir()
    return kept(folder / "no")


def grouped(folder, **groups):
    return covariance(load(save(mle(models.poisson, X, np.arange(N) % 4, **groups), folder / "g")), "cluster")


ROWS: dict[str, Row] = {
    "groups that a saved fit did not have": row(
        DataError,
        "mle(model, x, y, groups=...)",
        provoke=grouped,
        follow=lambda p: grouped(p, groups=np.arange(N) // 4),
    ),
    "a saved model of one's own": row(
        ModelError,
        "`own`",
        "load(folder, model=...)",
        provoke=lambda p: load(saved(p)),
        follow=lambda p: load(saved(p), model=own),
    ),
    "another model than the saved one": row(
        ModelError,
        "`gaussian`",
        "`laplace`",
        provoke=lambda p: load(saved(p, models.gaussian), model=models.laplace),
        follow=lambda p: load(saved(p, models.gaussian), model=models.gaussian),
    ),
    "a network for a fit without one": row(
        ModelError,
        "`module`",
        provoke=lambda p: load(saved(p, models.gaussian), module=network()),
        follow=lambda p: load(saved(p, models.gaussian)),
    ),
    "a saved network": row(
        ModelError,
        "load(folder, module=...)",
        provoke=lambda p: load(saved_network(p)),
        follow=lambda p: load(saved_network(p), module=network(torch.float32)),
    ),
    "a network of another dtype": row(
        ModelError,
        "module.to(torch.float32)",
        provoke=lambda p: load(saved_network(p), module=network()),
        follow=lambda p: load(saved_network(p), module=network().to(torch.float32)),
    ),
    "a checkpoint in a folder that is not there": row(
        DataError,
        "`checkpoint`",
        provoke=lambda p: kept(p / "no"),
        follow=in_a_new_folder,
    ),
    "a checkpoint that is a folder": row(
        DataError,
        "is a folder",
        provoke=lambda p: kept(p, "."),
        follow=lambda p: kept(p, "f"),
    ),
    "the checkpoint of another call": row(
        DataError,
        "another call",
        provoke=kept_twice,
        follow=lambda p: kept_twice(p, "e"),
    ),
    "a file that is no checkpoint": row(
        DataError,
        "no checkpoint",
        provoke=beside_a_text,
        follow=lambda p: beside_a_text(p, "e"),
    ),
    "a state that no file keeps": row(
        ModelError,
        "function",
        provoke=lambda p: Journal(Checkpoint(p / "f"), {}).write(lambda: 0),
        follow=lambda _: map_estimate(models.gaussian, X, Y, solver=Adam(steps=5)),
    ),
    "a checkpoint of draws without chains": row(
        ModelError,
        "'laplace'",
        provoke=lambda p: drawn(checkpoint=p / "g"),
        follow=lambda _: drawn(),
    ),
    "a pickled posterior without its rows": row(
        DataError,
        "rows of the posterior",
        provoke=lambda _: to_arviz(pickled(drawn())),
        follow=lambda _: to_arviz(drawn()),
    ),
    "a pickled path without its rows": row(
        DataError,
        "rows of the path",
        provoke=lambda _: pickled(path()).fit(0),
        follow=lambda _: path().fit(0),
    ),
}
