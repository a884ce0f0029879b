"""neglog: every regression loss is the negative log of a likelihood, written as a Pyro model."""

import lazy_loader

__version__ = "0.1.0"
# What `__init__.pyi` names is imported when it is first used: `neglog --help` does not wait for torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
