"""The example for Lightning: what was stopped goes on bit for bit."""

import warnings
from pathlib import Path

import pytest

from nonlocalnn.train import Recipe
from tolerances import assert_same

# What another library warns of is not ours to mend.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
RECIPE = Recipe(data="digits", model="nl_digits", image_size=8, lr=2e-3, seed=3)


class PowerCut(Exception):
    pass


@pytest.fixture
def example(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("lightning", reason="lightning is not installed: pip install -e '.[wrappers]'")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    import lightning_loop

    return lightning_loop


def test_goes_on_bit_for_bit(example, tmp_path):
    class Cut(example.Callback):
        """Ends the run as a crash does, some steps after the last save."""

        def __init__(self, step):
            self.step = step

        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == self.step:
                raise PowerCut

    end = 27  # 19 steps make an epoch
    whole = example.run(tmp_path / "whole", steps=end, recipe=RECIPE).model.state_dict()
    # In the first epoch, in the same again, and in the second.
    for step in (7, 12, 23):
        with pytest.raises(PowerCut):
            example.run(tmp_path / "parts", steps=end, recipe=RECIPE, callbacks=[Cut(step)])
    assert_same(example.run(tmp_path / "parts", steps=end, recipe=RECIPE).model.state_dict(), whole)
