"""Rows of test_advice.py: data sets and loaders of torch, and about inputs of networks."""

import warnings
from dataclasses import replace

import torch
from remedies import row
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import neglog
from neglog import mle, on_features
from neglog.errors import DataError, ModelError
from neglog.solvers import LBFGS, Adam

torch.manual_seed(0)
X = torch.randn(24, 2, dtype=torch.float64)
Y = X[:, 0] + 0.5 * torch.randn(24, dtype=torch.float64)
IDS = torch.randint(0, 3, (24, 2))
SOLVER = Adam(epochs=2)


class Rows(Dataset):
    def __init__(self, *parts, names=()):
        self.parts, self.names = parts, names

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, i):
        found = tuple(part[i] for part in self.parts)
        return dict(zip(self.names, found, strict=True)) if self.names else found


class Flow(IterableDataset):
    def __iter__(self):
        return zip(X, Y, strict=True)


class Ragged(Rows):
    def __getitem__(self, i):
        return (X[i, : 1 + (i < 12)], Y[i])


class Shorter(Rows):
    def __len__(self):
        return 30


def network(*layers):
    return on_features("gaussian", nn.Sequential(*(layers or (nn.Linear(2, 3), nn.Tanh()))).double())


def fitted(x, *more, solver=SOLVER, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mle(network(), x, *more, solver=solver, **keywords)


def of_images():
    layers = (nn.Flatten(), nn.Linear(4, 3), nn.Tanh())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return mle(network(*layers), torch.ones(6, 2, 2).double() * Y[:6, None, None], Y[:6], solver=SOLVER)


def lines(batch_size=8, **settings):
    return DataLoader(Rows(X, Y), batch_size=batch_size, **settings)


ROWS = {
    "a solver of all rows": row(
        ModelError,
        "LBFGS",
        provoke=lambda _: fitted(Rows(X, Y), solver=LBFGS()),
        follow=lambda _: (fitted(Rows(X, Y)), fitted(X, Y, solver=LBFGS())),
    ),
    "rows held out of a loader": row(
        DataError,
        "an order of its own",
        provoke=lambda _: fitted(lines(), solver=replace(SOLVER, validation=0.2)),
        follow=lambda _: (
            fitted(lines(), solver=replace(SOLVER, validation=lines())),
            fitted(Rows(X, Y), solver=replace(SOLVER, validation=0.2)),
        ),
    ),
    "a loader that ends": row(
        DataError,
        "after 24 rows",
        provoke=lambda _: fitted(DataLoader(Flow(), batch_size=8), num_rows=30),
        follow=lambda _: fitted(DataLoader(Flow(), batch_size=8), num_rows=24),
    ),
    "a data set that fails": row(
        DataError,
        "IndexError",
        provoke=lambda _: fitted(Shorter(X, Y)),
        follow=lambda _: fitted(Rows(X, Y)),
    ),
    "rows of three parts": row(
        DataError,
        "pair (x, y)",
        provoke=lambda _: fitted(Rows(X, Y, Y)),
        follow=lambda _: (fitted(Rows(X, Y)), fitted(Rows(X, Y, names=("x", "y")))),
    ),
    "tensors of three parts": row(
        DataError,
        "3 parts",
        provoke=lambda _: fitted(TensorDataset(X, Y, Y)),
        follow=lambda _: (fitted(X, Y), fitted(Rows(X, Y, Y.exp(), names=("x", "y", "weights")))),
    ),
    "a response that is missing in a batch": row(
        DataError,
        "`y` is NaN",
        provoke=lambda _: fitted(X, Y, solver=replace(SOLVER, validation=Rows(X, Y.log()))),
        follow=lambda _: fitted(X, Y, solver=replace(SOLVER, validation=Rows(X[Y > 0], Y[Y > 0].log()))),
    ),
    "rows of two shapes": row(
        DataError,
        "the shape",
        provoke=lambda _: fitted(X, Y, solver=replace(SOLVER, validation=Rows(X[:, :1], Y))),
        follow=lambda _: fitted(X, Y, solver=replace(SOLVER, validation=Rows(X, Y))),
    ),
    "two batch sizes": row(
        DataError,
        "the loader has 8",
        provoke=lambda _: fitted(lines(), solver=replace(SOLVER, batch_size=4)),
        follow=lambda _: (fitted(lines()), fitted(Rows(X, Y), solver=replace(SOLVER, batch_size=4))),
    ),
    "two batch sizes of tensors": row(
        DataError,
        "the loader has 8",
        provoke=lambda _: fitted(
            DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True), solver=replace(SOLVER, batch_size=4)
        ),
        follow=lambda _: fitted(DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)),
    ),
    "no number of rows": row(
        DataError,
        "no length",
        provoke=lambda _: fitted(DataLoader(Flow(), batch_size=8)),
        follow=lambda _: fitted(DataLoader(Flow(), batch_size=8), num_rows=24),
    ),
    "another number of rows": row(
        DataError,
        "has 24",
        provoke=lambda _: fitted(Rows(X, Y), num_rows=20),
        follow=lambda _: fitted(Rows(X, Y)),
    ),
    "a number of rows beside tensors": row(
        DataError,
        "`num_rows`",
        provoke=lambda _: fitted(X, Y, num_rows=24),
        follow=lambda _: fitted(X, Y),
    ),
    "weights beside a data set": row(
        DataError,
        "`weights` is given too",
        provoke=lambda _: fitted(Rows(X, Y), weights=Y.exp()),
        follow=lambda _: (
            fitted(Rows(X, Y, Y.exp(), names=("x", "y", "weights"))),
            fitted(X, Y, weights=Y.exp()),
        ),
    ),
    "what needs the rows of a stream": row(
        DataError,
        "in batches, without them; give the rows as tensors",
        provoke=lambda _: neglog.bootstrap(fitted(Rows(X, Y))),
        follow=lambda _: neglog.bootstrap(mle("gaussian", X, Y), draws=20),
    ),
    "inputs that a module does not take": row(
        DataError,
        "argument of `forward`",
        provoke=lambda _: mle(network(), {"mean": X}, Y),
        follow=lambda _: (
            fitted({"input": X}, Y),
            mle(on_features("heteroscedastic", {"mean": nn.Linear(2, 2).double()}), X, Y, solver=SOLVER),
        ),
    ),
    "an input of one axis": row(
        DataError,
        "[:, None]",
        provoke=lambda _: network(nn.Linear(1, 2))(X[:, 0]),
        follow=lambda _: network(nn.Linear(1, 2))(X[:, 0][:, None]),
    ),
    "integers for a layer of numbers": row(
        DataError,
        "x.double()",
        provoke=lambda _: fitted(IDS, Y),
        follow=lambda _: fitted(IDS.double(), Y),
    ),
    "a device that there is not": row(
        DataError,
        "no such device here",
        provoke=lambda _: fitted(X, Y, solver=Adam(epochs=2, device="cuda:99")),
        follow=lambda _: fitted(X, Y, solver=Adam(epochs=2)),
    ),
    "lower precision of float64": row(
        DataError,
        "dtype=torch.float32",
        provoke=lambda _: fitted(X, Y, solver=Adam(epochs=2, autocast=torch.bfloat16)),
        follow=lambda _: fitted(X, Y, solver=Adam(epochs=2, autocast=torch.bfloat16, dtype=torch.float32)),
    ),
    "compilation without a graph": row(
        DataError,
        "`compile` needs a graph",
        provoke=lambda _: mle(
            network(nn.Linear(2, 3), nn.Dropout(0.1)), X, Y, solver=Adam(epochs=2, compile=True)
        ),
        follow=lambda _: mle(network(nn.Linear(2, 3), nn.Dropout(0.1)), X, Y, solver=Adam(epochs=2)),
    ),
    "an argument beside the rows of a data set": row(
        DataError,
        "cannot be given beside a Rows",
        provoke=lambda _: neglog.scores(fitted(X, Y), Rows(X), Y),
        follow=lambda _: neglog.scores(fitted(X, Y), Rows(X, Y, names=("x", "y"))),
    ),
    "rows to predict of three parts": row(
        DataError,
        "neither inputs, nor pairs",
        provoke=lambda _: neglog.predict(fitted(X, Y), Rows(X, Y, Y)),
        follow=lambda _: neglog.predict(fitted(X, Y), Rows(X, Y)),
    ),
    "no rows to predict": row(
        DataError,
        "the Rows has no rows",
        provoke=lambda _: neglog.predict(fitted(X, Y), Rows(X[:0], Y[:0])),
        follow=lambda _: neglog.predict(fitted(X, Y), Rows(X[:1], Y[:1])),
    ),
    "a fit to images in a file": row(
        ModelError,
        "Keep the weights",
        provoke=lambda folder: neglog.save(of_images(), folder / "fit"),
        follow=lambda folder: [torch.save(of_images().module.state_dict(), folder / "weights.pt")],
    ),
}
