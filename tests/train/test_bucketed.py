"""Batches of sequences of similar lengths: less padding, as random as before, and the same after a stop."""

import signal

import numpy as np
import pytest
from tiny_task import assert_identical, final_state

from nonlocalnn.data.sequences.dataset import load_sequences
from nonlocalnn.data.sequences.steps import load_steps
from nonlocalnn.tasks.classification import ClassificationTask
from nonlocalnn.tasks.recipe import Recipe
from nonlocalnn.train import train
from nonlocalnn.train.order import by_length, epoch_order, mix
from step_files import write_npz

LENGTHS = [7 * index % 61 + 3 for index in range(45)]


def padding(order, batch_size):
    """How many steps a whole epoch pads, each batch to its longest sequence."""
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return sum(max(LENGTHS[each] for each in batch) - LENGTHS[own] for batch in batches for own in batch)


def test_batches_are_of_similar_lengths_and_of_other_sequences_each_epoch():
    orders, bucketed = [], []
    for epoch in range(3):
        orders.append(epoch_order(45, seed=1, epoch=epoch))
        bucketed.append(by_length(orders[-1], LENGTHS, batch_size=4, seed=mix(1, "batches", epoch)))
        assert sorted(bucketed[-1]) == list(range(45))
        # What the last batch has no room for stays what chance left over, whatever its length.
        assert bucketed[-1][44:] == orders[-1][44:]
        assert padding(bucketed[-1][:44], 4) < padding(orders[-1][:44], 4) / 3
    together = [{frozenset(order[start : start + 4]) for start in range(0, 44, 4)} for order in bucketed]
    assert len(together[0] & together[1]) < 3
    # Short and long batches take turns.
    firsts = [LENGTHS[order[0]] for order in bucketed]
    assert len(set(firsts)) == 3
    steps = [max(LENGTHS[each] for each in bucketed[0][start : start + 4]) for start in range(0, 44, 4)]
    assert steps not in (sorted(steps), sorted(steps, reverse=True))


def test_other_data_has_no_lengths():
    with pytest.raises(ValueError, match="bucket_by_length has an effect only with files of sequences"):
        Recipe(bucket_by_length=True)


class Stopping(ClassificationTask):
    """Sends the process a signal during its third step, and notes how long its batches are."""

    canvases: list[int]
    stops = True

    def loss(self, model, batch):
        self.canvases.append(batch[0].shape[-1])
        if self.stops and len(self.canvases) == 3:
            signal.raise_signal(signal.SIGTERM)
        return super().loss(model, batch)


def test_a_run_that_was_stopped_in_mid_epoch_goes_on_bit_for_bit(tmp_path):
    generator = np.random.default_rng(0)
    for part, count in (("TRAIN", 24), ("TEST", 4)):
        lengths = np.array([20 + 29 * each % 80 for each in range(count)])
        stacked = generator.normal(size=(count, 2, 100)).astype(np.float32)
        np.savez(tmp_path / f"a_{part}.npz", X=stacked, y=np.arange(count) % 2, lengths=lengths)
    assert load_sequences(tmp_path, "train").num_steps[:3] == [20, 49, 78]

    def run(name, *, task_stops=False, bucket=True, **settings):
        recipe = Recipe(
            data="sequences",
            data_dir=tmp_path,
            model="nl2_resnet1d_tiny",
            model_overrides={"width": 4},
            batch_size=4,
            epochs=2,
            norm_batches=0,
            device="cpu",
            output=tmp_path / name,
            bucket_by_length=bucket,
        )
        task = Stopping(recipe)
        object.__setattr__(task, "canvases", [])
        object.__setattr__(task, "stops", task_stops)
        return train(recipe, task=task, progress=False, **settings), task.canvases

    whole, canvases = run("whole")
    assert run("parts", task_stops=True)[0].interrupted
    again, rest = run("parts", resume=True)
    assert not again.interrupted
    assert rest == canvases[3:]
    assert again.test == whole.test
    assert_identical(final_state(tmp_path / "parts"), final_state(tmp_path / "whole"))
    assert sum(canvases) < sum(run("mixed", bucket=False)[1])


def test_labelled_steps_have_lengths_too(tmp_path):
    write_npz(tmp_path / "a_TRAIN.npz", range(8))
    write_npz(tmp_path / "a_TEST.npz", range(3))
    data = load_steps(tmp_path, "test")
    assert data.num_steps == [data.read(index).shape[1] for index in range(3)]
