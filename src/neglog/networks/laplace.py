"""Laplace's approximation for networks: the doubt about their weights, and with it about predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from neglog.arguments import choice, number, seed_of, shown, whole
from neglog.distributions import Normal
from neglog.distributions.averaged import Averaged, Listed
from neglog.errors import ModelError
from neglog.fitting.fit import Fit
from neglog.isolation import isolated
from neglog.networks.network import NUMBERS, Network, network_of
from neglog.networks.structures import structured
from neglog.prediction.predict import rows_of
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run

Structure = Literal["last_layer", "diagonal", "kronecker", "full"]
FULL = 5000
"""A network of at most so many weights has all their covariances formed."""
PRECISIONS = torch.logspace(-8, 10, 73, dtype=torch.float64)
"""Where the marginal likelihood is looked at first; the best of them is refined."""


@dataclass(frozen=True, eq=False)
class LaplaceApproximation:
    """A Normal distribution of the weights of a network around a fit. A value, as `Fit` is.

    Attributes:
        fit: what it is around.
        structure: which covariances it has.
        prior_precision: that of the Normal priors which were added to flat ones, or None if there are none.
        log_evidence: the log marginal likelihood of the data, in nats, up to a constant that does not depend
            on `prior_precision`; None where there is none.
        predictors: the names of the predictors, one for each output.
    """

    fit: Fit = field(repr=False)
    structure: Structure
    prior_precision: float | None
    log_evidence: float | None
    network: Network = field(repr=False)
    parts: tuple[Any, ...] = field(repr=False)

    @property
    def predictors(self) -> tuple[str, ...]:
        return self.network.names

    @isolated
    def linearised(self, x: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        """The mean `(N, O)` and the covariance `(N, O, O)` of the predictors at `x`.

        The network is taken as linear in its weights around the fit: Normal weights then make Normal
        predictors. Sources: MacKay (1992); Immer, Korzepa & Bauer (2021) for why this and not the network
        itself at random weights.

        Args:
            x: as `predict` has it.
            keywords: what else the model takes for each row.

        Raises:
            DataError: as `predict`.
        """
        data = rows_of(self.fit, x, keywords, self.linearised)
        names = tuple(name for part in self.parts for name in part.names)
        size = max(1, NUMBERS // max(1, self.network.size(names) * len(self.predictors)))
        means, covariances = [], []
        with torch.no_grad():
            for start in range(0, data.rows, size):
                rows = data.x[start : start + size]  # type: ignore[index]
                means.append(self.network.predictors(rows))
                covariances.append(sum(p.spread(self.network.jacobian(rows, p.names)) for p in self.parts))
        return torch.cat(means), torch.cat(covariances)

    @isolated
    def predict(self, x: Any, *, draws: int = 256, seed: int = 0, **keywords: Any) -> Any:
        """The distribution of `y` given `x`, with the doubt about the network: of batch shape `(N,)`.

        Of a Normal density with one spread for all it is Normal: the variances of the noise and of the mean
        add. Otherwise it is the mean of the model's distributions over draws of the linearised predictors
        (`neglog.distributions.averaged.Averaged`). Constants such as ``sigma`` are held at their estimates.

        Raises:
            DataError: as `predict`.
            ModelError: `draws` is not a positive whole number.
        """
        draws, seed = whole("draws", draws), seed_of(seed)
        mean, covariance = self.linearised(x, **keywords)
        data = rows_of(self.fit, x, keywords, self.predict)

        def response(etas: Tensor) -> Any:
            at = Run(self.network.values, etas=self.network.split(etas))
            with torch.no_grad():
                return run(self.fit.model, data, at, response=False).sites[RESPONSE]["fn"]

        first = response(mean)
        if mean.shape[1] == 1 and _is_plain(first, mean[:, 0]):
            return Normal(mean[:, 0], (first.scale.square() + covariance[:, 0, 0]).sqrt())
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0).sqrt()[:, None]
        noise = torch.randn(
            (draws, *mean.shape), dtype=mean.dtype, generator=torch.Generator().manual_seed(seed)
        )
        etas = mean + (root @ noise[..., None])[..., 0]
        try:
            together = response(etas)
            if together.batch_shape == (draws, len(mean)):
                return Averaged(together, first)
        except (RuntimeError, ValueError, IndexError):
            pass
        return Averaged(Listed([response(each) for each in etas]), first)


@isolated
def laplace_approximation(
    fit: Fit,
    structure: Structure = "kronecker",
    *,
    prior_precision: float | Literal["evidence"] | None = None,
) -> LaplaceApproximation:
    """A Normal approximation of the posterior of a network's weights (`on_features`), around a fit.

    Its precision is the generalised Gauss-Newton matrix, Σ Jᵀ H J over the rows, and the curvature of the
    priors: J are the derivatives of the predictors in the weights, H the information of a row in its
    predictors: Fisher's where that of the family is known, and otherwise the second derivatives of the
    negative log-likelihood without their negative part. `structure` says what of it is kept:

    - ``"last_layer"``: the heads and the constants alone, given the features.
    - ``"diagonal"``: each weight by itself.
    - ``"kronecker"``: each `torch.nn.Linear` of the network by itself, as the Kronecker product of what goes
      in and of what comes back (K-FAC); the heads and constants as in ``"last_layer"``.
    - ``"full"``: all of them, for up to 5000 weights.

    Args:
        fit: a fit of a network, at or near its optimum.
        prior_precision: of Normal(0, 1 / precision) priors on the weights of the network and its heads where
            they are flat, as those of `mle` are; biases of heads stay flat. ``"evidence"`` takes the one
            under which the data have the largest marginal likelihood, as this approximation has it.

    Raises:
        ModelError: the fit has no network; no such structure; flat priors on the weights of a network without
            a `prior_precision`, or one where all priors are proper; a precision that is not positive;
            information that does not hold the heads; for ``"kronecker"``, other layers than
            `torch.nn.Linear`, or priors that differ within a layer; for ``"full"``, too many weights.
        DataError: the fit was read from disk, without its data.

    Sources: MacKay (1992), A practical Bayesian framework for backpropagation networks; Martens & Grosse
    (2015), Optimizing neural networks with Kronecker-factored approximate curvature; Ritter, Botev & Barber
    (2018), A scalable Laplace approximation for neural networks; Daxberger et al. (2021), Laplace redux.
    K-FAC is written here for any likelihood; that of curvlinops 3, which laplace-torch 0.3 calls, is for
    squared errors and cross-entropies.

    >>> import torch
    >>> from neglog import map_estimate, models, on_features
    >>> x = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    >>> net = on_features(models.gaussian, torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh()))
    >>> fit = map_estimate(net, x, torch.sin(3 * x[:, 0]) + 0.1 * torch.cos(50 * x[:, 0]))
    >>> variance = (
    ...     laplace_approximation(fit).predict(torch.tensor([[0.0], [3.0]], dtype=torch.float64)).variance
    ... )
    >>> bool(variance[1] > variance[0])
    True
    """
    choice("structure", structure, get_args(Structure))
    network = network_of(fit)
    size = network.size(network.weights)
    if structure == "full" and size > FULL:
        raise ModelError(
            f"structure='full' is for up to {FULL} weights, and this network has {size}; use 'kronecker'."
        )
    parts = structured(network, structure)
    precision = _checked(structure, prior_precision, any(bool(part.flat.any()) for part in parts))
    if precision == "evidence":
        precision = _most_evident(parts)
    held = tuple(part.held(precision or 0.0) for part in parts)
    evidence = None if precision is None else _log_evidence(fit, parts, precision)
    return LaplaceApproximation(fit, structure, precision, evidence, network, held)


def _is_plain(response: Any, eta: Tensor) -> bool:
    """Whether a response is Normal around a predictor, with one spread for all rows."""
    return type(response) is Normal and torch.equal(response.loc, eta) and len(response.scale.unique()) == 1


def _most_evident(parts: Sequence[Any]) -> float:
    """The prior precision under which the marginal likelihood of the data is largest.

    The best of `PRECISIONS`, and from there MacKay's iteration: it is the number of weights that the rows
    hold, the sum of r / (r + precision) over their information r, by the sum of the squares of all.
    """
    rates, size = torch.cat([part.spectrum()[0] for part in parts]), sum(part.size() for part in parts)
    best = float(max(PRECISIONS, key=lambda each: float(_gain(rates, size, float(each)))))
    for _ in range(100):
        again = float((rates / (rates + best)).sum()) / size if size else math.inf
        if not 0 < again < math.inf or _gain(rates, size, again) < _gain(rates, size, best):
            break
        best = again
    return best


def _gain(rates: Tensor, size: float, precision: float) -> float:
    """What priors of this precision add to the log marginal likelihood, but for a constant."""
    return -0.5 * float((rates / precision + 1).log().sum()) - 0.5 * precision * size


def _log_evidence(fit: Fit, parts: Sequence[Any], precision: float) -> float:
    found = [(*part.spectrum(), part.size()) for part in parts]
    return -fit.loss + sum(_gain(rates, size, precision) - 0.5 * float(rest) for rates, rest, size in found)


def _checked(structure: str, precision: Any, flat: bool) -> float | Literal["evidence"] | None:
    if precision is None:
        if flat and structure != "last_layer":
            raise ModelError(
                "the weights of this network have flat priors, and the rows alone do not hold them all. Give "
                "`prior_precision`, a number or 'evidence', or fit by `map_estimate`."
            )
        return None
    if not flat:
        raise ModelError("all weights have priors of their own; leave `prior_precision` out.")
    if isinstance(precision, str) and precision == "evidence":
        return "evidence"
    try:
        return number("prior_precision", precision, 0)
    except ModelError as error:
        raise ModelError(
            f"`prior_precision` must be a positive number or 'evidence'; it is {shown(precision)}."
        ) from error
