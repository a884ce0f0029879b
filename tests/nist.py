"""NIST's Statistical Reference Datasets, certified to 15 digits (linear) or 11 (nonlinear); public domain.

The numbers stand in cases/nist.json: <https://www.itl.nist.gov/div898/strd/>.
"""

import json
import math
from functools import cache
from pathlib import Path

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from reference import number

NIST = json.loads((Path(__file__).parent / "cases" / "nist.json").read_text(encoding="utf-8"))
LINEAR, NONLINEAR = NIST["linear"], NIST["nonlinear"]


def columns(case):
    """The design without the intercept: powers of x, or the columns as they are."""
    x = np.array(case["x"])
    return x if x.ndim == 2 else np.stack([x**k for k in range(1, case["degree"] + 1)], axis=1)


def exact(design, y):
    """Least squares in 50 digits, of the doubles as they stand."""
    with mpmath.workdps(50):
        a, b = mpmath.matrix(design.tolist()), mpmath.matrix(y.tolist())
        return np.array([float(v) for v in mpmath.lu_solve(a.T * a, a.T * b)])


def correct_digits(found, certified):
    """The fewest correct digits of any coefficient: the log relative error (McCullough 1998), at most 15."""
    certified = np.asarray(certified)
    error = np.abs(np.asarray(found) - certified) / np.abs(certified)
    return float(np.clip(-np.log10(np.maximum(error, 1e-15)), 0, 15).min())


def _rational(x, b, top):
    powers = [x**k for k in range(len(b))]
    numerator = sum(v * p for v, p in zip(b[:top], powers, strict=False))
    return numerator / (1 + sum(v * p for v, p in zip(b[top:], powers[1:], strict=False)))


def _exponentials(x, b):
    return sum(b[i] * torch.exp(-b[i + 1] * x) for i in (0, 2, 4))


def _peaks(x, b):
    return b[0] * torch.exp(-b[1] * x) + sum(
        b[i] * torch.exp(-((x - b[i + 1]) ** 2) / b[i + 2] ** 2) for i in (2, 5)
    )


def _seasons(x, b):
    def wave(cosine, sine, period):
        return cosine * torch.cos(2 * math.pi * x / period) + sine * torch.sin(2 * math.pi * x / period)

    return b[0] + wave(b[1], b[2], 12) + wave(b[4], b[5], b[3]) + wave(b[7], b[8], b[6])


MEANS = {
    "Bennett5": lambda x, b: b[0] * (b[1] + x) ** (-1 / b[2]),
    "BoxBOD": lambda x, b: b[0] * (1 - torch.exp(-b[1] * x)),
    "Chwirut1": lambda x, b: torch.exp(-b[0] * x) / (b[1] + b[2] * x),
    "Chwirut2": lambda x, b: torch.exp(-b[0] * x) / (b[1] + b[2] * x),
    "DanWood": lambda x, b: b[0] * x ** b[1],
    "ENSO": _seasons,
    "Eckerle4": lambda x, b: b[0] / b[1] * torch.exp(-0.5 * ((x - b[2]) / b[1]) ** 2),
    "Gauss1": _peaks,
    "Gauss2": _peaks,
    "Gauss3": _peaks,
    "Hahn1": lambda x, b: _rational(x, b, 4),
    "Kirby2": lambda x, b: _rational(x, b, 3),
    "Lanczos1": _exponentials,
    "Lanczos2": _exponentials,
    "Lanczos3": _exponentials,
    "MGH09": lambda x, b: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "MGH10": lambda x, b: b[0] * torch.exp(b[1] / (x + b[2])),
    "MGH17": lambda x, b: b[0] + b[1] * torch.exp(-x * b[3]) + b[2] * torch.exp(-x * b[4]),
    "Misra1a": lambda x, b: b[0] * (1 - torch.exp(-b[1] * x)),
    "Misra1b": lambda x, b: b[0] * (1 - (1 + b[1] * x / 2) ** -2),
    "Misra1c": lambda x, b: b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5),
    "Misra1d": lambda x, b: b[0] * b[1] * x / (1 + b[1] * x),
    "Nelson": lambda x, b: b[0] - b[1] * x[0] * torch.exp(-b[2] * x[1]),
    "Rat42": lambda x, b: b[0] / (1 + torch.exp(b[1] - b[2] * x)),
    "Rat43": lambda x, b: b[0] / (1 + torch.exp(b[1] - b[2] * x)) ** (1 / b[3]),
    "Roszman1": lambda x, b: b[0] - b[1] * x - torch.atan(b[2] / (x - b[3])) / math.pi,
    "Thurber": lambda x, b: _rational(x, b, 4),
}


def curve(mean, size, density=dist.Normal):
    """A user's own model: y about mean(x, b), b1, b2, ... and sigma its sites."""

    def model(x, y=None):
        b = [pyro.sample(f"b{i + 1}", dist.Normal(number(0.0), 100.0)) for i in range(size)]
        sigma = pyro.sample("sigma", dist.LogNormal(number(0.0), 1.0))
        found = mean(x[:, 0] if x.shape[1] == 1 else x.T, b)
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", density(found, sigma), obs=y)

    return model


@cache
def nonlinear(name):
    """Model, design and response of a case; Nelson's is the log of its response."""
    case = NONLINEAR[name]
    x, y = np.array(case["x"]), np.array(case["y"])
    model = curve(MEANS[name], len(case["certified"]))
    return model, x.reshape(len(y), -1), np.log(y) if name == "Nelson" else y
