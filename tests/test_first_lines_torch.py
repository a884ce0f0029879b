# ruff: noqa: E501 (each line is as it is typed)
"""The first lines of a user of PyTorch: each is what such a person would type, beside what it equals.

The second lines are PyTorch's own losses and loops, or the same question in other words.
"""

import copy
import io
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from first_lines import check_refused, check_same
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import neglog
from neglog import losses, models, solvers
from neglog.errors import DataError, ModelError

ROWS = 40


class Rows(Dataset):
    """A dataset as tutorials write one."""

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return namespace()["x"][index], namespace()["y"][index]


class Features(nn.Module):
    """A network as tutorials write one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(2, 3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(torch.relu(self.hidden(x)))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh())


def head(outputs=1):
    torch.manual_seed(0)
    return nn.Linear(2, outputs)


def trained(model, loss, x, y, *parameters, steps=20, squeeze=True):
    """The losses of a training loop."""
    optimizer = optim.Adam([*model.parameters(), *parameters], lr=0.05)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(x).squeeze(-1) if squeeze else model(x)
        value = loss(output, y)
        value.backward()
        optimizer.step()
        history.append(value.item())
    return torch.tensor(history)


def weights_after(model, *how):
    """The parameters of a model after a training loop."""
    trained(model, *how)
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def under(context, function):
    with context:
        return function()


def under_save(value):
    """The bytes that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def restored(fit):
    """A network with the weights of a fit."""
    model = network().double()
    own = {name.removeprefix("trunk."): value for name, value in fit.params.items() if "trunk" in name}
    model.load_state_dict(own)
    return model.requires_grad_(False)


def in_float64(function):
    torch.set_default_dtype(torch.float64)
    try:
        return function()
    finally:
        torch.set_default_dtype(torch.float32)


@cache
def namespace():
    """What the lines may use."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 2, generator=generator)
    noise = torch.randn(ROWS, generator=generator)
    y = 1 + x @ torch.tensor([1.0, 2.0]) + 0.3 * noise
    counts = torch.poisson(torch.exp(y / 3), generator=generator)
    design = torch.cat([x, torch.ones(ROWS, 1)], 1).double()
    ols = torch.linalg.lstsq(design, y.double()[:, None]).solution[:, 0]
    data = {"x": x, "y": y, "counts": counts, "yes": (y + noise > 1).float(), "zeros": torch.zeros(ROWS),
            "kinds": torch.randint(0, 3, (ROWS,), generator=generator), "dataset": TensorDataset(x, y),
            "loader": DataLoader(TensorDataset(x, y), batch_size=10), "ols": ols,
            "mse": (y - design.float() @ ols.float()).square().mean().double()}  # fmt: skip
    deep = neglog.map_estimate(
        neglog.on_features("gaussian", network()), x, y, solver=solvers.LBFGS(max_steps=200)
    )
    fits = {"fit": neglog.mle("gaussian", x, y), "deep": deep}
    tools = {"Rows": Rows, "Features": Features, "network": network, "head": head, "trained": trained, "in_float64": in_float64, "under_save": under_save, "restored": restored,
             "weights_after": weights_after, "under": under, "Subset": Subset, "DataLoader": DataLoader, "TensorDataset": TensorDataset,
             "io": io, "copy": copy, "torch": torch, "nn": nn, "optim": optim, "F": F, "np": np, "neglog": neglog}  # fmt: skip
    names = {name: getattr(neglog, name) for name in neglog.__all__}
    solver = {name: getattr(solvers, name) for name in ("Adam", "LBFGS", "SVI")}
    return {**names, **data, **fits, **tools, **solver, "models": models, "losses": losses}


LINES = [
    # Losses to likelihoods
    ("losses.likelihood_of(nn.MSELoss()).free", "models.gaussian"),
    ("losses.likelihood_of(nn.L1Loss()).free", "models.laplace"),
    ("losses.likelihood_of(nn.GaussianNLLLoss()).free", "models.heteroscedastic"),
    ("losses.likelihood_of(nn.PoissonNLLLoss()).free", "models.poisson"),
    ("losses.likelihood_of(nn.BCEWithLogitsLoss()).free", "models.bernoulli"),
    ("losses.likelihood_of(nn.CrossEntropyLoss()).free", "models.categorical"),
    ("losses.likelihood_of(nn.HuberLoss(delta=0.5)).factor", "1.0"),
    ("losses.likelihood_of(nn.SmoothL1Loss(beta=2.0)).factor", "2.0"),
    ("losses.likelihood_of(nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0))).weights(yes)", "1 + yes"),
    ("losses.likelihood_of(nn.MSELoss()).nll(nn.MSELoss()(zeros, y), y)", "losses.gaussian_nll(zeros, y, 1.0)"),
    ("losses.likelihood_of(nn.L1Loss(reduction='sum')).nll(nn.L1Loss(reduction='sum')(zeros, y), y)", "losses.laplace_nll(zeros, y, 1.0, reduction='sum')"),
    ("mle(losses.likelihood_of(nn.MSELoss()).free, x, y).nll", "fit.nll"),
    ('losses.likelihood_of("squared_error").free', "models.gaussian"),
    # Likelihoods to losses
    ('losses.loss_of("gaussian")(zeros, y, 1.0)', "nn.MSELoss()(zeros, y) / 2 + np.log(2 * np.pi) / 2"),
    ('losses.loss_of("gaussian", sigma=1.0)(zeros, y)', "nn.GaussianNLLLoss(full=True)(zeros, y, torch.ones(40))"),
    ('losses.loss_of(models.gaussian, sigma=2.0)(zeros, y)', "nn.GaussianNLLLoss(full=True)(zeros, y, torch.full((40,), 4.0))"),
    ('losses.loss_of("heteroscedastic")(zeros, y, zeros)', "nn.GaussianNLLLoss(full=True)(zeros, y, torch.ones(40))"),
    ('losses.loss_of("laplace", scale=1.0, reduction="sum")(zeros, y)', "nn.L1Loss(reduction='sum')(zeros, y) + 40 * np.log(2)"),
    ('losses.loss_of("laplace", scale=1.0, reduction="none")(zeros, y)', "y.abs() + np.log(2)"),
    ('losses.loss_of("bernoulli")(y, yes)', "F.binary_cross_entropy_with_logits(y, yes)"),
    ('losses.loss_of("categorical")(torch.stack([zeros, y, -y], 1), kinds)', "F.cross_entropy(torch.stack([zeros, y, -y], 1), kinds)"),
    ('losses.loss_of("poisson")(y / 3, counts)', "nn.PoissonNLLLoss()(y / 3, counts) + torch.lgamma(counts + 1).mean()"),
    ('losses.loss_of("quantile", tau=0.5, scale=1.0)(zeros, y)', "y.abs().mean() / 2 + np.log(4)"),
    ('losses.loss_of("student_t", learn=["df", "scale"])(zeros, y)', "-torch.distributions.StudentT(1.0).log_prob(y).mean()"),
    ("losses.gaussian_nll(zeros, y, 1.0)", 'losses.loss_of("gaussian", sigma=1.0)(zeros, y)'),
    ("losses.mse(zeros, y)", "F.mse_loss(zeros, y)"),
    ("losses.mae(zeros, y)", "F.l1_loss(zeros, y)"),
    ('losses.loss_of("gaussian", sigma=1.0)(zeros, y).dtype', "torch.float32"),
    ('losses.loss_of("gaussian", sigma=1.0)(zeros.double(), y.double()).dtype', "torch.float64"),
    ('repr(losses.loss_of("gaussian", learn="sigma"))', "\"LikelihoodLoss(gaussian, learn='sigma', reduction='mean')\""),
    ('isinstance(losses.loss_of("gaussian"), nn.Module)', "True"),
    ('losses.loss_of("gaussian", learn="sigma").state_dict()["log_sigma"]', "torch.tensor(0.0)"),
    ('losses.loss_of("gaussian", learn="sigma", sigma=2.0).constants["sigma"]', "torch.tensor(2.0)"),
    ('[name for name, _ in losses.loss_of("gaussian", learn="sigma").named_parameters()]', '["log_sigma"]'),
    ('str(losses.loss_of("gaussian", learn="sigma").load_state_dict({"log_sigma": torch.tensor(0.5)}))', '"<All keys matched successfully>"'),
    ('losses.loss_of("gaussian", learn="sigma").to("cpu").double()(y.double(), y.double()).dtype', "torch.float64"),
    ('losses.loss_of("gaussian", learn="sigma").train().eval().training', "False"),
    ('copy.deepcopy(losses.loss_of("gaussian", learn="sigma"))(zeros, y)', 'losses.loss_of("gaussian", learn="sigma")(zeros, y)'),
    ('(lambda mean: (losses.gaussian_nll(mean, y, 1.0).backward(), mean.grad)[1])(zeros.clone().requires_grad_())', "-y / 40"),
    # Loops of one's own
    ('trained(head(), losses.loss_of("gaussian", sigma=0.5 ** 0.5), x, y)', "trained(head(), nn.MSELoss(), x, y) + np.log(np.pi) / 2"),
    ('weights_after(head(), losses.loss_of("gaussian", sigma=1.0), x, y)', "weights_after(head(), nn.MSELoss(), x, y)"),
    ('weights_after(head(), losses.loss_of("laplace", scale=1.0), x, y)', "weights_after(head(), nn.L1Loss(), x, y)"),
    ('weights_after(head(), losses.loss_of("bernoulli"), x, yes)', "weights_after(head(), nn.BCEWithLogitsLoss(), x, yes)"),
    ('weights_after(head(), losses.loss_of("poisson"), x, counts)', "weights_after(head(), nn.PoissonNLLLoss(), x, counts)"),
    ('trained(head(3), losses.loss_of("categorical"), x, kinds, squeeze=False)', "trained(head(3), nn.CrossEntropyLoss(), x, kinds, squeeze=False)"),
    ('(lambda loss: trained(head(), loss, x, y, *loss.parameters(), steps=5)[-1] < trained(head(), loss, x, y, steps=1)[0])(losses.loss_of("gaussian", learn="sigma"))', "True"),
    ('sum(losses.loss_of("gaussian", sigma=1.0, reduction="sum")(torch.zeros(10), target) for _, target in loader)', 'losses.loss_of("gaussian", sigma=1.0, reduction="sum")(zeros, y)'),
    # Fits
    ("mle(models.gaussian, x, y).params['mean.weight']", "ols[:2]"),
    ('mle("gaussian", x, y).params["mean.bias"].item()', "ols[2].item()"),
    ('mle("gaussian", x, y).params["sigma"].item() ** 2', "mse.item()"),
    ('mle("gaussian", x, y).nll', "20 * (torch.log(2 * torch.pi * mse) + 1).item()"),
    ('mle("gaussian", x, y).params["mean.weight"].dtype', "torch.float64"),
    ('mle("gaussian", x.double(), y.double()).nll', "fit.nll"),
    ('mle("gaussian", x.clone().requires_grad_(), y).nll', "fit.nll"),
    ('mle("gaussian", x.tolist(), y.tolist()).nll', "fit.nll"),
    ('mle("gaussian", x.numpy(), y.numpy()).nll', "fit.nll"),
    ('mle("gaussian", *dataset.tensors).nll', "fit.nll"),
    ('mle("gaussian", *dataset[:]).nll', "fit.nll"),
    ('mle("gaussian", *torch.utils.data.default_collate(list(loader.dataset))).nll', "fit.nll"),
    ('mle("gaussian", *torch.utils.data.default_collate(list(Rows()))).nll', "fit.nll"),
    ('mle("gaussian", x, y, weights=torch.ones(40)).nll', "fit.nll"),
    ('mle("gaussian", x, y, solver=LBFGS()).nll', "fit.nll"),
    ('mle("gaussian", x, y, solver=Adam(steps=5)).converged', "False"),
    ('under(torch.no_grad(), lambda: mle("gaussian", x, y).nll)', "fit.nll"),
    ('under(torch.inference_mode(), lambda: mle("gaussian", x, y).nll)', "fit.nll"),
    ('in_float64(lambda: mle("gaussian", x, y).nll)', "fit.nll"),
    ('mle("bernoulli", x, yes).nll', "mle('bernoulli', x, yes.bool()).nll"),
    ('mle("bernoulli", x, yes.long()).nll', "mle('bernoulli', x, yes).nll"),
    ('mle("poisson", x, counts.long()).nll', "mle('poisson', x, counts).nll"),
    ('tuple(mle("categorical", x, kinds).params["logit.weight"].shape)', "(2, 2)"),
    ('mle("categorical", x, F.one_hot(kinds).argmax(1)).nll', 'mle("categorical", x, kinds).nll'),
    ('class_probabilities(mle("categorical", x, kinds), x).to_numpy().sum(1)', "np.ones(40)"),
    ("mle(losses.as_likelihood(lambda r: r.abs()), x, y).nll", 'mle("laplace", x, y).nll'),
    ('mle("gaussian", torch.from_numpy(x.numpy()), torch.from_numpy(y.numpy())).nll', "fit.nll"),
    ("{name: tuple(value.shape) for name, value in fit.params.items()}", "{'mean.weight': (2,), 'mean.bias': (), 'sigma': ()}"),
    ("torch.cat([fit.params['mean.weight'], fit.params['mean.bias'][None]])", "ols"),
    ("copy.deepcopy(fit).nll", "fit.nll"),
    ("Adam(epochs=10).epochs", "10"),
    # Data sets and loaders
    ('mle("gaussian", dataset).nll', "fit.nll"),
    ('mle("gaussian", loader).nll', "fit.nll"),
    ('mle("gaussian", Subset(dataset, range(20))).nll', 'mle("gaussian", x[:20], y[:20]).nll'),
    ('mle("gaussian", torch.utils.data.random_split(dataset, [30, 10])[0]).n', "30.0"),
    ('mle("gaussian", Rows(), solver=Adam(epochs=3)).n', "40.0"),
    ('map_estimate(on_features("gaussian", network()), loader).n', "40.0"),
    ('mle(on_features("gaussian", network()), Rows(), solver=Adam(epochs=2, batch_size=10)).params["mean.weight"].dtype', "torch.float32"),
    ('mle(on_features("gaussian", network().double()), Rows(), solver=Adam(epochs=2, batch_size=10)).losses', 'mle(on_features("gaussian", network().double()), x, y, solver=Adam(epochs=2, batch_size=10)).losses'),
    ('mle(on_features("gaussian", network().double()), DataLoader(Rows(), batch_size=10, shuffle=True), solver=Adam(epochs=2)).losses', 'mle(on_features("gaussian", network().double()), dataset, solver=Adam(epochs=2, batch_size=10)).losses'),
    ('len(mle(on_features("gaussian", network()), DataLoader(Rows(), batch_size=10), solver=Adam(epochs=2)).losses)', "8"),
    ('tuple(predict(mle(on_features("gaussian", nn.Sequential(nn.Unflatten(1, (1, 2)), nn.Conv1d(1, 2, 2), nn.Flatten())), x, y, solver=Adam(epochs=2)), x).mean.shape)', "(40,)"),
    # Predictions
    ("F.mse_loss(predict(fit, x).mean, y.double())", "mse"),
    ("predict(fit, x).mean", "x.double() @ ols[:2] + ols[2]"),
    ("predict(fit, x[:1]).mean.item()", "(x[0].double() @ ols[:2] + ols[2]).item()"),
    ("predict(fit, x).stddev[0]", "mse.sqrt()"),
    ("predict(fit, x).log_prob(y).sum()", "torch.tensor(-fit.nll).double()"),
    ("predict(fit, x).icdf(torch.tensor(0.5))", "predict(fit, x).mean"),
    ("tuple(predict(fit, x).sample().shape)", "(40,)"),
    ("predict(fit, x).mean.requires_grad", "False"),
    ("log_likelihood(fit, x, y).sum().item()", "-fit.nll"),
    ('float(scores(fit, x, y, "crps").mean()) > 0', "True"),
    ("torch.distributions.kl_divergence(predict(fit, x), predict(fit, x)).sum().item()", "0.0"),
    ("torch.load(io.BytesIO(under_save(dict(fit.params))), weights_only=True)['sigma']", "fit.params['sigma']"),
    # Networks
    ("deep.k", "18"),
    ("list(deep.params)", "['trunk.0.weight', 'trunk.0.bias', 'mean.weight', 'mean.bias', 'sigma']"),
    ("tuple(predict(deep, x).mean.shape)", "(40,)"),
    ("predict(deep, x).log_prob(y).sum().item()", "-deep.nll"),
    ("predict(deep, x).mean", "restored(deep)(x.double()) @ deep.params['mean.weight'] + deep.params['mean.bias']"),
    ('map_estimate(on_features("gaussian", network()), x, y, solver=Adam(steps=3, batch_size=8)).converged', "False"),
    ('map_estimate(on_features("gaussian", Features()), x, y, solver=Adam(steps=3)).params["trunk.hidden.weight"].shape', "torch.Size([3, 2])"),
    ('map_estimate(on_features("heteroscedastic", network()), x, y, solver=Adam(steps=3)).params["log_variance.weight"].shape', "torch.Size([4])"),
    ('map_estimate(on_features("bernoulli", network()), x, yes, solver=Adam(steps=3)).n', "40.0"),
    ('(lambda net: (map_estimate(on_features("gaussian", net), x, y, solver=Adam(steps=3)), net[0].weight.sum())[1])(network())', "network()[0].weight.sum()"),
    ("laplace_approximation(deep).structure", "'kronecker'"),
]  # fmt: skip
"""A line, and a line with the same value."""


@pytest.mark.parametrize(("line", "same"), LINES, ids=[line for line, _ in LINES])
def test_a_line_has_the_value_of_the_other(line, same):
    check_same(line, same, namespace)


REFUSED = [
    ('mle("gaussian", Rows(), solver=LBFGS())', ModelError, "neglog.solvers.Adam(epochs=...)"),
    ('cross_validate("gaussian", Rows())', DataError, "default_collate(list(dataset))"),
    ('mle("gaussian", Rows(), y)', DataError, "`y` is given too"),
    ('mle("gaussian", loader, solver=Adam(batch_size=8))', DataError, "the loader has 10"),
    ("mle(nn.MSELoss(), x, y)", ModelError, "losses.likelihood_of(loss).free"),
    ("mle(F.mse_loss, x, y)", ModelError, "losses.likelihood_of(loss).free"),
    ('mle("mse", x, y)', ModelError, "Did you mean `gaussian`"),
    ('losses.loss_of("mse")', ModelError, "Did you mean `gaussian`"),
    ('losses.loss_of("cross_entropy")', ModelError, "Did you mean `categorical`"),
    ("mle(network(), x, y)", ModelError, "on_features('gaussian', network)"),
    ('on_features("gaussian", network)', ModelError, "Call it"),
    ('on_features("gaussian", nn.Tanh())', ModelError, "no trainable parameter"),
    ('map_estimate(on_features("gaussian", nn.Linear(3, 4)), x, y)', ModelError, "40x2 and 3x4"),
    ('mle("gaussian", x, y, device="cuda")', ModelError, "on the CPU, in float64"),
    ('mle("gaussian", x, y, epochs=10)', ModelError, "neglog.solvers.Adam(steps="),
    ('mle("gaussian", x, y, lr=0.01)', ModelError, "learning_rate"),
    ('mle("gaussian", x, y, optimizer=optim.Adam)', ModelError, "Did you mean `solver`"),
    ('mle("gaussian", x, y, solver=optim.Adam)', DataError, "neglog.solvers.Adam(steps="),
    ('mle("gaussian", x, y, solver="lbfgs")', DataError, "neglog.solvers.LBFGS()"),
    ("Adam(lr=0.1)", ModelError, "Did you mean `learning_rate`"),
    ('mle("gaussian", x[:, 0], y)', DataError, "x[:, None]"),
    ('mle("gaussian", x, y[:, None])', DataError, "[:, 0]"),
    ('mle("gaussian", x, y.long())', DataError, "integers"),
    ('mle("categorical", x, F.one_hot(kinds))', DataError, "y.argmax(1)"),
    ('mle("gaussian", x.to("meta"), y)', DataError, "meta tensor"),
    ("predict(fit, x[0])", DataError, "(rows, columns)"),
    ("predict(fit, x[:, :1])", DataError, "fitted on 2"),
    ("losses.likelihood_of(nn.MSELoss)", ModelError, "give one, such as torch.nn.MSELoss()"),
    ("losses.likelihood_of(F.mse_loss)", ModelError, "give one, such as torch.nn.MSELoss()"),
    ('losses.likelihood_of("MSELoss")', ModelError, "Did you mean 'squared_error'"),
    ("losses.likelihood_of(nn.BCELoss())", ModelError, "use BCEWithLogitsLoss on logits"),
    ("losses.likelihood_of(nn.NLLLoss())", ModelError, "use CrossEntropyLoss on logits"),
    ("losses.likelihood_of(nn.TripletMarginLoss())", ModelError, "not in the dictionary"),
    ('losses.loss_of("gaussian")(zeros, y)', DataError, "loss(prediction, target, sigma)"),
    ('losses.loss_of("poisson")(zeros[:, None], counts)', DataError, "squeeze(-1)"),
    ('losses.loss_of("bernoulli")(zeros, yes.long())', DataError, ".double()"),
    ('losses.loss_of("laplace", reduction="avg")', DataError, "'avg'"),
    ("losses.loss_of(nn.MSELoss())", ModelError, "losses.likelihood_of"),
    ("fit.predict(x)", AttributeError, "neglog.predict(fit, x)"),
    ("fit.state_dict()", AttributeError, "dict(fit.params)"),
    ("fit.parameters()", AttributeError, "fit.params.values()"),
]  # fmt: skip
"""Line, the error that it raises, and a fact that the error names."""


@pytest.mark.parametrize(("line", "error", "fact"), REFUSED, ids=[line for line, *_ in REFUSED])
def test_a_line_that_is_wrong_names_what_is_wrong(line, error, fact):
    check_refused(line, error, fact, namespace)
