"""The standard error of a mean of few numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Half of Student's t at 1, 2, ... degrees of freedom: it holds 95.4 %, as two errors of many numbers do.
_STUDENT = (6.98, 2.26, 1.65, 1.43, 1.32, 1.26, 1.21)


def standard_error(values: Sequence[float]) -> float:
    """Return that of a mean; of few numbers it is wider, so that twice it holds 95 % all the same.

    Args:
        values: At least two.

    Example:
        >>> round(2 * standard_error([95.6, 95.5, 95.1]), 2)
        0.69
    """
    error = statistics.stdev(values) / math.sqrt(len(values))
    freedom = len(values) - 1
    return error * (_STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1 + 1.4 / freedom)
