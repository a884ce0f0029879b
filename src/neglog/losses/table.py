"""The table of losses: the name of each model where losses are named."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from neglog import models
from neglog.models.replaced import Loss

TABLE: Mapping[str, Loss] = MappingProxyType({name: getattr(models, name).loss for name in models.__all__})
"""Model name → the loss that the model replaces, which each declares beside its function."""
