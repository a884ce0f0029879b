"""The log-densities of families with a location and a scale, from those of their standard members."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from neglog.distributions.partials import Index, Law

Formula = Callable[..., Any]


def location_scale(
    loss: Formula, pull: Formula, curve: Formula, shape: Mapping[Index, Formula] | None = None
) -> Law:
    """The log-density -ρ(u) - log(scale), u = (y - loc) / scale, as a law in y, loc and scale.

    `loss` is ρ, a function of u, `pull` its first derivative and `curve` its second. With `shape`, all are
    functions of u and of a further argument of the law, and `shape` has the other derivatives of ρ: ``(1,)``
    in that argument, ``(0, 1)`` in both and ``(1, 1)``.
    """
    parts: dict[Index, Formula] = {
        (): lambda u, s, *t: -loss(u, *t) - torch.log(s),
        (1,): lambda u, s, *t: pull(u, *t) / s,
        (2,): lambda u, s, *t: (u * pull(u, *t) - 1) / s,
        (1, 1): lambda u, s, *t: -curve(u, *t) / (s * s),
        (1, 2): lambda u, s, *t: -(pull(u, *t) + u * curve(u, *t)) / (s * s),
        (2, 2): lambda u, s, *t: (1 - u * (2 * pull(u, *t) + u * curve(u, *t))) / (s * s),
    }
    if shape is not None:
        parts |= {
            (3,): lambda u, s, t: -shape[1,](u, t),
            (1, 3): lambda u, s, t: shape[0, 1](u, t) / s,
            (2, 3): lambda u, s, t: u * shape[0, 1](u, t) / s,
            (3, 3): lambda u, s, t: -shape[1, 1](u, t),
        }
    signed = {index: (1, part) for index, part in parts.items()} | {
        (0, *index[1:]): (-1, part) for index, part in parts.items() if index[:1] == (1,)
    }
    signed[0, 0] = signed[1, 1]
    return Law({index: _of_data(sign, part) for index, (sign, part) in signed.items()})


def _of_data(sign: int, part: Formula) -> Formula:
    """A formula in u and the scale as one in y, the location and the scale."""
    if sign < 0:
        return lambda y, loc, scale, *t: -part((y - loc) / scale, scale, *t)
    return lambda y, loc, scale, *t: part((y - loc) / scale, scale, *t)
