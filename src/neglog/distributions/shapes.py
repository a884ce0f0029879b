"""Shapes, as tensors of them broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import AffineTransform
from torch.distributions.transforms import PowerTransform


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """As torch's own function, which imports SymPy when it is first called: a second of computing."""
    return torch.Size(np.broadcast_shapes(*map(tuple, shapes)))


class Scaled(AffineTransform):
    """Multiplication by a scale, with `broadcast_shapes` in the place of torch's own."""

    def __init__(self, scale: Tensor | float) -> None:
        super().__init__(0.0, scale)

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        """The shape of the values and the scale, broadcast."""
        return broadcast_shapes(shape, getattr(self.scale, "shape", ()))

    inverse_shape = forward_shape


class Power(PowerTransform):
    """The power with an exponent, with `broadcast_shapes` in the place of torch's own."""

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        """The shape of the values and the exponent, broadcast."""
        return broadcast_shapes(shape, self.exponent.shape)

    inverse_shape = forward_shape


def validation(validate_args: bool | None, *shapes: Sequence[int]) -> bool | None:
    """`validate_args`, but False for parameters without elements: torch cannot reshape these to check them.

    >>> validation(None, (0, 3)), validation(True, (2, 3))
    (False, True)
    """
    return False if any(0 in shape for shape in shapes) else validate_args
