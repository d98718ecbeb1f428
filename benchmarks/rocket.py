"""MiniRocket as the library aeon has it, on the sequences that networks are trained on beside it."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from nonlocalnn.data.sequences.dataset import LabelledSequences

WORDS = (
    "MiniRocket is that of aeon {version} with its defaults: 10,000 random convolutions and a ridge "
    "classifier. It takes sequences of one length only, so that shorter ones were given zeros after their "
    "end, up to the longest one of all; values are those of the files. It was fitted to the training "
    "sequences of the networks, and once more with those of validation, which the networks do not learn from."
)
# Of each class so many are fitted first, unmeasured: numba compiles at the first call.
_WARM = 2


def is_there() -> bool:
    """Return whether aeon is installed."""
    return importlib.util.find_spec("aeon") is not None


def score(training: Sequence[LabelledSequences], test: LabelledSequences, *, seed: int) -> dict[str, Any]:
    """Fit MiniRocket with its defaults, a ridge classifier of 10,000 features, and return its figures.

    It takes sequences of one length only: shorter ones get zeros after their end, up to the longest one of
    those given. Values are those of the files.

    Args:
        training: The parts that it is fitted to.
        test: The part that it answers for.
        seed: Its ``random_state``.

    Returns:
        "accuracy", "seconds" that fitting and answers took together, and "trained_on", a number of
        sequences.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries under aeon, about one another
        from aeon.classification.convolution_based import MiniRocketClassifier

    longest = max(data.lengths[1] for data in (*training, test))
    parts = [_padded(data, longest) for data in training]
    samples, targets = (np.concatenate(both) for both in zip(*parts, strict=True))
    few = np.concatenate([np.flatnonzero(targets == each)[:_WARM] for each in np.unique(targets)])
    asked, expected = _padded(test, longest)
    MiniRocketClassifier(random_state=seed).fit(samples[few], targets[few]).predict(asked[:_WARM])
    start = time.perf_counter()
    model = MiniRocketClassifier(random_state=seed).fit(samples, targets)
    answers = model.predict(asked)
    return {
        "accuracy": float((answers == expected).mean()),
        "seconds": time.perf_counter() - start,
        "trained_on": len(samples),
    }


def _padded(data: LabelledSequences, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, C, longest), zeros after each sequence's end, and the classes (N,)."""
    samples = np.zeros((len(data), data.channels, longest), dtype=np.float32)
    for index in range(len(data)):
        sequence = data.read(index).numpy()
        samples[index, :, : sequence.shape[1]] = sequence
    return samples, np.array(data.targets)
