"""The interval of 95 % of a mean over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from nonlocalnn.affinity.standard_error import standard_error


def interval(percent: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and the highest mean that the seeds leave likely, within 0 to 100.

    Student's t over the seeds. Where some runs learn and others do not, seeds are not spread as it assumes,
    and the interval says little more than that three runs are few.

    Args:
        percent: The score of each seed, at least two, in %.

    Example:
        >>> [round(each, 2) for each in interval([95.6, 95.5, 95.1])]
        [94.71, 96.09]
        >>> [round(each, 2) for each in interval([49.0, 95.2, 94.3])]
        [10.56, 100.0]
    """
    mean, reach = statistics.fmean(percent), 2 * standard_error(percent)
    return max(0.0, mean - reach), min(100.0, mean + reach)
