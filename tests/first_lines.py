"""How the first lines of users are evaluated: each is what a person would type, and has a known answer."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

Names = Callable[[], Mapping[str, Any]]
"""Makes the names that lines use; once, and with the warnings of what it computes."""


def evaluated(line: str, names: Names, quiet: bool = True) -> Any:
    """The value of a line that uses these names; its warnings are errors unless it is `quiet`."""
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        return eval(line, dict(names()))


def check_same(line: str, same: str, names: Names) -> None:
    """Verify that two lines have the same value: numbers to 1e-5, anything else exactly."""
    found, expected = evaluated(line, names), evaluated(same, names)
    known = isinstance(expected, torch.Tensor | np.ndarray | float)
    if known and numbers(expected).dtype.kind == "f":
        np.testing.assert_allclose(numbers(found), numbers(expected), rtol=1e-5, atol=1e-5)
    else:
        assert np.all(np.asarray(found == expected))


def check_refused(line: str, error: type[Exception], fact: str, names: Names) -> None:
    """Verify that a line raises an error that names a fact."""
    with pytest.raises(error) as caught:
        evaluated(line, names)
    assert fact in str(caught.value)


def numbers(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
