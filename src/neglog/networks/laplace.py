"""Laplace's approximation for networks: uncertainty of their weights, and of predictions through them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from neglog.arguments import choice, number, seed_of, shown, whole
from neglog.calls import public
from neglog.distributions import Normal
from neglog.distributions.averaged import Averaged, Listed
from neglog.distributions.family import family_of, location_of, scale_of
from neglog.errors import ModelError
from neglog.fitting.fit import Fit
from neglog.isolation import isolated
from neglog.networks.network import MAX_JACOBIAN_ENTRIES, Network, network_of
from neglog.networks.structures import Evidence, evidence_of, structured
from neglog.persistence import AsDocument
from neglog.prediction.predictions import rows_of
from neglog.prediction.predictor import Predictor
from neglog.predictors import RESPONSE
from neglog.tracing import Run, run

Structure = Literal["last_layer", "diagonal", "kronecker", "full"]
MAX_FULL_COVARIANCE_WEIGHTS = 5000
"""Above this many weights the full covariance matrix of a network is not formed."""
PRECISION_GRID = torch.logspace(-8, 10, 73, dtype=torch.float64)
"""Prior precisions at which the marginal likelihood is evaluated first; the best is refined."""


@public
@dataclass(frozen=True, eq=False)
class LaplaceApproximation(AsDocument, Predictor):
    """A Normal distribution of the weights of a network around a fit. A value, as `Fit` is.

    Attributes:
        fit: the fit at the mean of the approximation.
        structure: the structure of the covariance of the weights.
        prior_precision: the precision of the Normal priors in the place of flat ones, or None without
            such priors.
        log_evidence: the log marginal likelihood of the data, in nats, with a density of 1 for priors that
            are flat; None where the weights have flat priors and there is no `prior_precision`.
        predictors: the names of the predictors, one for each output.
    """

    fit: Fit = field(repr=False)
    structure: Structure
    prior_precision: float | None
    log_evidence: float | None
    network: Network = field(repr=False)
    parts: tuple[Any, ...] = field(repr=False)
    evidence: Evidence | None = field(default=None, repr=False)

    def log_marginal_likelihood(self, prior_precision: Tensor | float | None = None) -> Tensor:
        """The log marginal likelihood `()` of the data, differentiable in a tensor `prior_precision`.

        Args:
            prior_precision: in the place of that of the approximation.

        Raises:
            ModelError: the weights have flat priors, and there is no precision in their place.
        """
        evidence, precision = self.evidence, prior_precision
        precision = self.prior_precision if precision is None else precision
        if evidence is None or (len(evidence.rates) and precision is None):
            raise ModelError(
                "weights with flat priors have no marginal likelihood; give `prior_precision`, a number or a "
                "tensor."
            )
        given = 1.0 if precision is None else precision
        return evidence.at(torch.as_tensor(given, dtype=evidence.rates.dtype))

    def __copy__(self) -> LaplaceApproximation:
        return self

    def __deepcopy__(self, memo: Any) -> LaplaceApproximation:
        """An equal approximation whose tensors are its own; rows, which nothing changes, are shared."""
        own = {name: deepcopy(getattr(self, name), memo) for name in ("fit", "parts", "evidence")}
        return replace(self, **own)

    @property
    def predictors(self) -> tuple[str, ...]:
        """The names of the predictors, in the order of the outputs of `linearised`."""
        return self.network.names

    @isolated
    def linearised(self, x: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        """The mean `(N, O)` and the covariance `(N, O, O)` of the predictors at `x`.

        The network is linearised in its weights around the fit, so that Normal weights imply Normal
        predictors. Sources: MacKay (1992); Immer, Korzepa & Bauer (2021) for why this predicts better than
        the network itself at random weights.

        Args:
            x: designs, as for `predict`.
            keywords: further row-wise arguments of the model.

        Raises:
            DataError: as `predict`.
        """
        data = rows_of(self.fit, x, keywords, self.linearised)
        names = tuple(name for part in self.parts for name in part.names)
        size = max(1, MAX_JACOBIAN_ENTRIES // max(1, self.network.size(names) * len(self.predictors)))
        means, covariances = [], []
        with torch.no_grad():
            for start in range(0, data.rows, size):
                rows = data.x[start : start + size]  # type: ignore[index]
                means.append(self.network.predictors(rows))
                covariances.append(
                    sum(p.covariance(self.network.jacobian(rows, p.names)) for p in self.parts)
                )
        return torch.cat(means), torch.cat(covariances)

    @isolated
    def predict(self, x: Any, *, draws: int = 256, seed: int = 0, **keywords: Any) -> Any:
        """The predictive distribution of `y` given `x`, of batch shape `(N,)`.

        For a Normal density with one standard deviation it is Normal: the variances of the noise and of the
        mean add. Otherwise it is the average of the model's distributions over draws of the linearised
        predictors (`neglog.distributions.averaged.Averaged`). Constants such as ``sigma`` are fixed at their
        estimates.

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
        noise_scale = _scale_of_normal(first, mean[:, 0]) if mean.shape[1] == 1 else None
        if noise_scale is not None:
            return Normal(mean[:, 0], (noise_scale.square() + covariance[:, 0, 0]).sqrt())
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

    Its precision is the generalised Gauss-Newton matrix, Σ Jᵀ H J over the rows, plus the curvature of the
    priors. J is the Jacobian of the predictors in the weights; H is the information of a row in its
    predictors: Fisher's where it is known for the family, and otherwise the positive part of the second
    derivatives of the negative log-likelihood. `structure` is the structure of the precision:

    - ``"last_layer"``: the heads and the constants alone, given the features.
    - ``"diagonal"``: the diagonal, so that all weights are independent.
    - ``"kronecker"``: a block for each `torch.nn.Linear` of the network, the Kronecker product of the second
      moments of its inputs and of its back-propagated curvature (K-FAC); the heads and constants as in
      ``"last_layer"``.
    - ``"full"``: the whole matrix, for up to 5000 weights.

    Args:
        fit: a fit of a network, at or near its optimum.
        prior_precision: the precision of Normal(0, 1 / precision) priors on those weights of the network and
            its heads whose priors are flat, as after `mle`; biases of heads keep flat priors. ``"evidence"``
            maximises the marginal likelihood of the data under this approximation.

    Raises:
        ModelError: the fit has no network; an unknown structure; flat priors on the weights of a network
            without a `prior_precision`, or a `prior_precision` where all priors are proper; a precision that
            is not positive; singular information in the heads; for ``"kronecker"``, other layers than
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
    if structure == "full" and size > MAX_FULL_COVARIANCE_WEIGHTS:
        raise ModelError(
            f"structure='full' is for up to {MAX_FULL_COVARIANCE_WEIGHTS} weights, and this network has "
            f"{size}; use 'kronecker'."
        )
    parts = structured(network, structure)
    precision = _checked_precision(structure, prior_precision, any(bool(part.flat.any()) for part in parts))
    if precision == "evidence":
        precision = _best_precision(parts)
    regularised = tuple(part.regularised(precision or 0.0) for part in parts)
    evidence = evidence_of(network, parts)
    is_known = precision is not None or not len(evidence.rates)
    value = float(evidence.at(torch.tensor(precision or 1.0, dtype=torch.float64))) if is_known else None
    return LaplaceApproximation(fit, structure, precision, value, network.without_rows, regularised, evidence)


def _scale_of_normal(response: Any, eta: Tensor) -> Tensor | None:
    """The standard deviation of a Normal response around a predictor, if all rows have the same one."""
    location, scale = location_of(response), scale_of(response)
    if not family_of(response).is_square or location is None or scale is None:
        return None
    return scale if torch.equal(location, eta) and len(scale.unique()) == 1 else None


def _best_precision(parts: Sequence[Any]) -> float:
    """The prior precision under which the marginal likelihood of the data is largest.

    MacKay's fixed-point iteration from the best of `PRECISION_GRID`: the effective number of parameters, the
    sum of r / (r + precision) over the eigenvalues r of the information, by the squared norm of the weights.
    """
    rates = torch.cat([part.spectrum()[0] for part in parts])
    norm = sum(part.squared_norm() for part in parts)
    evidence = Evidence(rates, norm, 0.0)

    def gain(precision: float) -> float:
        return float(evidence.at(torch.tensor(precision, dtype=rates.dtype)))

    best = max(PRECISION_GRID.tolist(), key=gain)
    for _ in range(100):
        again = float((rates / (rates + best)).sum()) / norm if norm else math.inf
        if not 0 < again < math.inf or gain(again) < gain(best):
            break
        best = again
    return best


def _checked_precision(structure: str, precision: Any, flat: bool) -> float | Literal["evidence"] | None:
    if precision is None:
        if flat and structure != "last_layer":
            raise ModelError(
                "the weights of this network have flat priors, and the rows alone do not determine them all. "
                "Give `prior_precision`, a number or 'evidence', or fit by `map_estimate`."
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
