"""Adam on a recorded graph: the steps of `SVI` without running the model in each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neglog.calls import public
from neglog.solvers.gradient import GradientTraining, Rule

BETAS = (0.9, 0.999)
DENOMINATOR_EPSILON = 1e-8


@public
@dataclass(frozen=True)
class Adam(GradientTraining):
    """Adam (Kingma & Ba 2015): the steps of `SVI` with `pyro.optim.Adam`, many times faster.

    Model, handlers and autograd are run once; each step evaluates the recorded graph.

    Args:
        steps: gradient steps; 2000 where `epochs` is None too.
        learning_rate: of the first step.
        batch_size: rows a step, or None for all of them. The likelihood of a minibatch is scaled up to the
            whole and the prior is not, so its gradient is an unbiased estimate. Rows are shuffled each epoch.
        seed: of the shuffle, and of the random numbers of a network in training mode.
        decay: the learning rate after `steps` over that of the first step; it falls geometrically.
        patience: stop early when the mean loss of the last `patience` steps is no better, by more than
            `tolerance` nats a row, than that of the `patience` steps before; None never stops early.
            Losses are looked at every 50 steps, or at the end of an epoch. With `validation`, the number of
            epochs in which the held-out loss may be above the smallest one; None is 20.
        tolerance: see `patience`.
        compile: whether to compile the steps to machine code, which takes a C++ compiler and some seconds.
        rescale: whether linear coefficients are optimised in units of the noise on an orthonormal design.
        certainty: see below.
        dtype: in which the data are taken: float64 by default; of data sets that are read in batches, that of
            the network's own parameters.
        epochs: passes over the rows, in place of `steps`.
        validation: rows that are held out of the fit, whose log-likelihood decides when it ends: a share of
            the rows, drawn by `seed`; a splitter of scikit-learn, of which the first split is taken; or the
            numbers of the rows. Or other rows: ``(x, y)``, a mapping with ``x``, ``y``, ``weights`` and
            row-wise arguments, or a table for the formula of the fit. The weights are
            those of the best epoch.
        scheduler: a function of an optimiser of torch that returns a scheduler of
            `torch.optim.lr_scheduler`, such as ``partial(CosineAnnealingLR, T_max=100)``. It advances once
            an epoch, `OneCycleLR` and `CyclicLR` once a step, and takes the place of `decay`.
        max_norm: gradients are scaled to a Euclidean norm of at most this, in nats a row.
        ema_decay: the fit is the exponential moving average of the weights, of which this share is kept at
            each step, such as 0.999.
        device: where the steps are taken, such as "cuda" or "mps"; the parameters of the fit are on the CPU.
        autocast: the dtype of the network under `torch.autocast`, such as ``torch.bfloat16``; data are then
            taken with `dtype=torch.float32`.
        callbacks: functions of an `Epoch`, called at the end of each; one that raises `StopFit` ends the
            training.

    The fit has converged if by the final gradient and Hessian of the whole data an optimum is less than
    `certainty` standard errors away. This is not claimed for a loss with corners, for more than 200
    parameters, or for a network that depends on its mode. Such a network is trained in training mode, by
    running the model in each step.

    Raises:
        DataError: settings that make no sense; `compile` without a C++ compiler.
    """

    steps: int | None = None
    learning_rate: float = 0.05
    batch_size: int | None = None
    seed: int = 0
    decay: float = 1e-4
    patience: int | None = None
    tolerance: float = 1e-6
    compile: bool = False
    rescale: bool = True
    certainty: float = 1e-2
    dtype: torch.dtype | None = None

    def rule(self, z: Tensor, rows: int) -> Rule:
        """The rule of the steps, which moves `z` `(K,)`."""
        return Moments(z, self.learning_rate)

    def rate(self, done: int, total: int) -> float | None:
        """The learning rate after `done` of `total` steps."""
        return self.learning_rate * float(self.decay) ** (done / total)


class Moments:
    """The running means of gradients `(K,)` and their squares, and the steps of Adam that they make."""

    def __init__(self, z: Tensor, learning_rate: float) -> None:
        self.z, self.steps = z, 0
        self.first, self.second, self.root = (torch.zeros_like(z) for _ in range(3))
        self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
            [torch.zeros(1)], lr=learning_rate
        )  # of which the rate is read

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return {"first": self.first, "second": self.second, "steps": self.steps}

    def resume(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.first.copy_(state["first"])
        self.second.copy_(state["second"])
        self.steps = state["steps"]

    def move(self, gradient: Tensor, rate: float | None) -> None:
        """Move the vector in place."""
        if rate is None:
            self.optimiser.step()  # which a scheduler of torch expects
            rate = float(self.optimiser.param_groups[0]["lr"])
        z = self.z
        self.steps += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        grown = math.sqrt(1 - BETAS[1] ** self.steps)
        torch.sqrt(self.second, out=self.root)
        # The means start at 0, which is made good here: m / (1 - β₁ᵗ) over sqrt(v / (1 - β₂ᵗ)) + ε.
        z.addcdiv_(
            self.first,
            self.root.add_(DENOMINATOR_EPSILON * grown),
            value=-rate * grown / (1 - BETAS[0] ** self.steps),
        )
