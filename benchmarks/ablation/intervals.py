"""The interval of 95 % of a mean over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Student's t that holds 95 %, at 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(percent: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and the highest mean that the seeds leave likely, within 0 to 100.

    Student's t over the seeds. Where some runs learn and others do not, seeds are not spread as it assumes,
    and the interval says little more than that three runs are few.

    Args:
        percent: The score of each seed, at least two, in %.

    Example:
        >>> [round(each, 2) for each in interval([95.6, 95.5, 95.1])]
        [94.74, 96.06]
        >>> [round(each, 2) for each in interval([49.0, 95.2, 94.3])]
        [13.87, 100.0]
    """
    freedom = len(percent) - 1
    # Within 0.01 of the true one from ten degrees on.
    times = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96 + 2.37 / freedom + 2.8 / freedom**2
    mean, reach = statistics.fmean(percent), times * statistics.stdev(percent) / math.sqrt(freedom + 1)
    return max(0.0, mean - reach), min(100.0, mean + reach)
