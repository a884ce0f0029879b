"""Shapes, as tensors of them broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """As torch's own function, which imports SymPy when it is first called: a quarter of a second."""
    return torch.Size(np.broadcast_shapes(*map(tuple, shapes)))
