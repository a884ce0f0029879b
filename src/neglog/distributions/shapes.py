"""Shapes, as tensors of them broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """As torch's own function, which imports SymPy when it is first called: a quarter of a second."""
    return torch.Size(np.broadcast_shapes(*map(tuple, shapes)))


def validation(validate_args: bool | None, *shapes: Sequence[int]) -> bool | None:
    """`validate_args`, but False for parameters without elements: torch cannot reshape these to check them.

    >>> validation(None, (0, 3)), validation(True, (2, 3))
    (False, True)
    """
    return False if any(0 in shape for shape in shapes) else validate_args
