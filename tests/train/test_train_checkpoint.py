import os
import zipfile

import pytest
import torch
from tiny_task import TinyTask, assert_identical, final_state, tiny_recipe

from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.train import train
from nonlocalnn.train.state.checkpoint import Position, TrainingState, has_state, read_state, write_state
from tolerances import assert_same


def state(step):
    return TrainingState(
        recipe={"seed": 1},
        num_samples=9,
        world_size=1,
        position=Position(epoch=2, step=step, sums={"loss": 0.5}, seconds=1.5, rows=[{"epoch": 1}]),
        learner={"model": {"weight": torch.arange(1000.0)}},
    )


def flip_a_weight(path):
    data = bytearray(path.read_bytes())
    place = data.index(torch.tensor(500.0).numpy().tobytes() + torch.tensor(501.0).numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


DAMAGES = pytest.mark.parametrize("damage", [flip_a_weight, cut, empty])


def test_reads_what_it_wrote(tmp_path):
    assert not has_state(tmp_path)
    write_state(tmp_path, state(3))
    found = read_state(tmp_path)
    assert found.position == state(3).position
    assert (found.recipe, found.num_samples, found.world_size) == ({"seed": 1}, 9, 1)
    assert_same(found.learner, state(3).learner)


@DAMAGES
def test_falls_back_to_the_state_before(tmp_path, damage):
    write_state(tmp_path, state(3))
    write_state(tmp_path, state(4))
    damage(tmp_path / "last.pt")
    with pytest.warns(UserWarning, match=r"last\.pt is damaged: .* older .*last\.previous\.pt"):
        assert read_state(tmp_path).position.step == 3


def test_falls_back_where_the_newest_is_missing(tmp_path):
    write_state(tmp_path, state(3))
    write_state(tmp_path, state(4))
    (tmp_path / "last.pt").unlink()
    with pytest.warns(UserWarning, match=r"last\.pt is missing"):
        assert read_state(tmp_path).position.step == 3


@DAMAGES
def test_refuses_when_nothing_is_whole(tmp_path, damage):
    write_state(tmp_path, state(3))
    damage(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged"):
        read_state(tmp_path)


def test_refuses_another_format(tmp_path):
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="not a training state of format 1"):
        read_state(tmp_path)


def test_refuses_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        read_state(tmp_path)


def test_going_on_from_the_older_state_ends_the_same(tmp_path):
    train(tiny_recipe(tmp_path / "whole"), task=TinyTask())
    recipe = tiny_recipe(tmp_path / "parts", checkpoint_every=2)
    train(recipe, task=TinyTask(stop_at=9))
    cut(recipe.output / "last.pt")
    with pytest.warns(UserWarning, match="damaged"):
        train(recipe, task=TinyTask(), resume=True)
    assert_identical(final_state(recipe.output), final_state(tmp_path / "whole"))


def test_a_state_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "last.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.writestr("archive/data/0", b"\0" * 2_000_000)
    with pytest.raises(CheckpointError, match=r"last\.pt .* claim to unpack to 2000004"):
        read_state(tmp_path)
