"""Regression models: plain Pyro functions of `(x, y=None)`, each the likelihood behind a loss.

Every model keeps one form. `x` is a design `(N, P)`, or a mapping from predictor name to its own design;
`y` has shape `(N,)`, and without it the model draws one. Parameters are sampled above the plate ``rows``
with proper, weakly informative priors; the one observation site is ``y``. The functions need nothing else
from neglog: they run under `pyro.infer.SVI`, `NUTS` and `Predictive` as they are.

A positive parameter is a constant site, or, where `x` has a design for it, ``exp`` of a linear predictor
with the sites ``log_NAME.weight`` and ``log_NAME.bias``. What else belongs to the rows (``exposure``,
``trials``) is a keyword of shape `(N,)`; other keywords are bound with `functools.partial`.

Names are imported when they are used, and `__init__.pyi` lists them: the command line knows the models
without importing torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
