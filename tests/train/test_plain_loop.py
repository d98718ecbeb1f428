"""The example of a loop of one's own: what was stopped goes on bit for bit."""

from pathlib import Path

import pytest

from tolerances import assert_same


@pytest.mark.parametrize(
    "stops",
    [(3, 5), pytest.param((20,), marks=pytest.mark.slow)],
    ids=["inside an epoch", "in the second epoch"],
)
def test_goes_on_bit_for_bit(tmp_path, monkeypatch, stops):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    import plain_loop

    end = stops[-1] + 2  # 19 steps make an epoch
    whole = plain_loop.run(tmp_path / "whole.pt", stop_at=end, progress=False).state_dict()
    for stop in stops:
        plain_loop.run(tmp_path / "parts.pt", stop_at=stop, progress=False)
    assert_same(plain_loop.run(tmp_path / "parts.pt", stop_at=end, progress=False).state_dict(), whole)
