"""`AutoDelta` for every name of a site."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pyro
import pyro.distributions as dist
from pyro.infer.autoguide import AutoDelta
from pyro.infer.autoguide.guides import AutoGuide
from pyro.infer.autoguide.initialization import init_to_median
from pyro.nn import PyroParam
from torch import Tensor


class Delta(AutoDelta):
    """`pyro.infer.autoguide.AutoDelta`, but for how it stores its parameters.

    `AutoDelta` stores the value of a site ``median.weight`` as the attribute ``median.weight`` of the
    guide, where ``median`` is already a method of the guide (as are ``quantiles``, ``double``, ``type``
    ...), and fails with an AttributeError. No model of `neglog.models` has such a site; one of yours may.
    Here dots in a site's name become underscores: the parameter is ``median_weight``. In Pyro's parameter
    store each guide has a name of its own, so that two of them never read each other's values. Everything
    else is `AutoDelta`'s.

    >>> import torch
    >>> from neglog.predictors import linear, rows
    >>> def model(x, y=None):
    ...     median = linear("median", x)
    ...     with rows(x):
    ...         return pyro.sample("y", dist.Laplace(median, 1.0), obs=y)
    >>> sorted(Delta(model)(torch.zeros(3, 1), torch.zeros(3)))
    ['median.bias', 'median.weight']
    """

    def __init__(self, model: Any, init_loc_fn: Any = init_to_median, *, create_plates: Any = None) -> None:
        super().__init__(model, init_loc_fn, create_plates=create_plates)
        # Pyro reads a module's parameters back from its global store by name: two guides of one name would
        # take each other's values.
        self._pyro_name = f"Delta.{uuid4().hex}"

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        AutoGuide._setup_prototype(self, *args, **kwargs)
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            value = PyroParam(site["value"].detach().clone(), site["fn"].support, site["fn"].event_dim)
            setattr(self, self._attribute(name), value)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every latent site from a point mass at its parameter."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        values = {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                point = dist.Delta(getattr(self, self._attribute(name)), event_dim=site["fn"].event_dim)
                values[name] = pyro.sample(name, point)
        return values

    def _attribute(self, name: str) -> str:
        """The attribute that stores a site's value, unique to the site: ``a.b`` and ``a_b`` are two."""
        known: dict[str, str] = self.__dict__.setdefault("_attributes", {})
        if name not in known:
            flat = name.replace(".", "_")
            while hasattr(AutoDelta, flat) or flat in known.values():
                flat += "_"
            known[name] = flat
        return known[name]
