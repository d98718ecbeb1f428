import sys

import pytest
import torch

from benchmarks.cells import Cell
from benchmarks.measure import Timing, peak_memory, time_call, time_together

PREPARE = "benchmarks.cells:prepare_peak"


def test_quartiles():
    assert Timing.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Timing(3.0, 2.0, 4.0, 5)
    assert Timing.of([2.0]) == Timing(2.0, 2.0, 2.0, 1)


def test_functions_are_called_in_turn_after_a_warm_up():
    calls = []
    timings = time_together(
        {name: lambda name=name: calls.append(name) for name in "ab"}, min_seconds=0, min_runs=3
    )
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [timing.runs for timing in timings.values()] == [3, 3]


def test_the_number_of_runs_is_bounded():
    assert time_call(lambda: None, min_seconds=1000, max_runs=7).runs == 7
    with pytest.raises(ValueError, match="min_runs must be from 1 to max_runs = 2; got 3"):
        time_call(lambda: None, min_runs=3, max_runs=2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the high-water mark cannot be set back")
def test_memory_is_at_least_what_the_affinity_takes_and_ours_is_far_less():
    torch.set_num_threads(1)
    # More weights than engine="auto" keeps.
    cell = Cell("embedded_gaussian", (1, 4, 5000), None, backward=False)
    affinity = 4 * 5000**2
    sizes = {
        name: peak_memory(PREPARE, {"name": name, **cell.to_dict()}) for name in ("ours", "materialised")
    }
    # Logits and softmax are there at the same time; resident memory is counted in pages, and a little late.
    assert 1.98 * affinity <= sizes["materialised"] < 3 * affinity
    assert sizes["ours"] < affinity / 2


@pytest.mark.slow
def test_work_that_fails_says_why():
    cell = Cell("gaussian", (1, 4, 5), None, backward=False)
    with pytest.raises(ValueError, match="KeyError: 'theirs'"):
        peak_memory(PREPARE, {"name": "theirs", **cell.to_dict()})


def test_work_that_takes_too_long_is_given_up():
    with pytest.raises(ValueError, match="longer than 0 s"):
        peak_memory(PREPARE, {}, timeout=0.01)
