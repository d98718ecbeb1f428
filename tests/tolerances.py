"""How near two results must be: one table for every numeric comparison of the tests.

Another processor, number of threads or version adds in another order. What that changes grows with the
length of the sums, and it is a part of the largest result, not of each result. So the allowance follows
from three things alone: the type, the length of the sums and the largest number that was expected. A number
near to zero among large ones has no more correct digits than they leave it.

A promise (the same bits again) is compared by `assert_same`. An allowance that is not rounding (half a
pixel, a step of 8 bits, what a codec loses) stands in its test, with what it means.
"""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

# The rounding of a result, and of each term of the sums that it is made of. Halves are summed in float32.
ROUNDING = {
    torch.float64: (4 * 2**-52, 2**-52),
    torch.float32: (4 * 2**-23, 2**-23),
    torch.float16: (4 * 2**-10, 2**-23),
    torch.bfloat16: (4 * 2**-7, 2**-23),
}
# Lengths of sums: those of one operation or block of the tests' sizes, and of layer upon layer in a network.
BLOCK = 100
NETWORK = 1000


def allowance(expected, *, sums=BLOCK, dtype=None, largest=None):
    """Return by how much a result may differ from `expected`.

    Args:
        expected: Tensor, array, number or numbers. Python's numbers count as float32.
        sums: Terms in the longest sum, layers multiplied in: 100 for a block, 1000 for a network.
        dtype: What was computed in, where it is not the type of `expected`.
        largest: The largest number on the way, where the results are what is left after others cancelled.
    """
    if dtype is None:
        dtype = expected.dtype if isinstance(expected, torch.Tensor) else torch.float32
    if dtype not in ROUNDING:
        return 0.0  # whole numbers and booleans
    rounding, term = ROUNDING[dtype]
    return (rounding + sums * term) * (_largest(expected) if largest is None else largest)


def assert_near(actual, expected, *, sums=BLOCK, dtype=None, largest=None, says=""):
    """Compare results by the table.

    Dictionaries and sequences of tensors are results of one computation, as a loss's gradients are, and
    measured by the largest number in any of them: a gradient that is zero in exact arithmetic is rounding.
    """
    if isinstance(expected, Mapping):
        assert actual.keys() == expected.keys(), says
        actual, expected = [actual[key] for key in expected], list(expected.values())
    if isinstance(expected, torch.Tensor) or not any(torch.is_tensor(part) for part in _parts(expected)):
        actual, expected = [actual], [expected]
    largest = max(map(_largest, expected), default=0.0) if largest is None else largest
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(
            _tensor(mine),
            _tensor(theirs),
            rtol=0,
            atol=allowance(theirs, sums=sums, dtype=dtype, largest=largest),
            check_dtype=torch.is_tensor(mine) and torch.is_tensor(theirs),
            msg=lambda text: f"{says}: {text}" if says else text,
        )


def near(expected, *, sums=BLOCK, dtype=None, largest=None):
    """Return what equals numbers that the table calls near to `expected`, as `pytest.approx` does."""
    numbers = list(expected.values()) if isinstance(expected, Mapping) else expected
    atol = allowance(numbers, sums=sums, dtype=dtype, largest=largest)
    return pytest.approx(expected, rel=0, abs=atol, nan_ok=True)


def assert_same(actual, expected):
    """Compare what is promised to be the same to the last bit."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def _parts(values):
    return values if isinstance(values, list | tuple) else []


def _tensor(values):
    return values if torch.is_tensor(values) else torch.as_tensor(np.asarray(values, dtype=float))


def _largest(values):
    """Return the size of the largest finite number; whole numbers are compared exactly and do not count."""
    values = _tensor(values).detach()
    if torch.is_floating_point(values):
        values = values[values.isfinite()].abs()
    return float(values.max()) if values.numel() and torch.is_floating_point(values) else 0.0
