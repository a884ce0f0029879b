"""The table of losses: the name of each model where losses are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from neglog import models
from neglog.models.replaced import Loss


class _Declared(Mapping[str, Loss]):
    """Model name → the loss that the model replaces, as its module declares it."""

    def __getitem__(self, name: str) -> Loss:
        if name not in models.__all__:
            raise KeyError(name)
        loss: Loss = getattr(models, name).loss
        return loss

    def __iter__(self) -> Iterator[str]:
        return iter(models.__all__)

    def __len__(self) -> int:
        return len(models.__all__)

    def __repr__(self) -> str:
        return repr(dict(self))


TABLE: Mapping[str, Loss] = _Declared()
"""Model name → the loss that the model replaces, which each declares beside its function."""
