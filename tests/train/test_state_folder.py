"""The state of a run on disk: at every moment there is a whole one."""

import io
import json
import os
import pickle
import shutil
import zipfile
import zlib
from contextlib import nullcontext

import pytest
import torch
from tiny_task import TinyTask, tiny_recipe
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.train import train
from nonlocalnn.train.parallel.distributed import process_group
from nonlocalnn.train.state.checkpoint import Position, TrainingState
from nonlocalnn.train.state.resuming import (
    _Reader,
    read_state,
    read_tensors,
    state_names,
)
from nonlocalnn.train.state.saving import StateWriter
from tolerances import assert_near, assert_same


@pytest.fixture(params=[False, True], ids=["one process", "a group of one"])
def group(request):
    with process_group("cpu", sharded=request.param) as group:
        yield group


# What is written is the same in both ways, so reading it is tried often in one of them.
mostly_one_process = pytest.mark.parametrize(
    "group",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["one process", "a group of one"],
    indirect=True,
)


@pytest.fixture
def writer(tmp_path, group):
    writer = StateWriter(tmp_path, group, in_background=group.is_joined)
    yield writer
    writer.close()


def state(step):
    return TrainingState(
        recipe={"seed": 1},
        num_samples=9,
        world_size=2,
        position=Position(epoch=2, step=step, sums={"loss": 0.1 + 0.2}, rows=[{"loss": float("inf")}]),
        learner={"scaler": {"scale": 65536.0}},
    )


def nothing():
    """What follows from these states."""


def write(writer, *steps):
    for step in steps:
        weights = {"weight": torch.full((1000,), float(step))}
        writer.start(state(step), weights, nothing)
    writer.finish()


def tensors(folder):
    return read_tensors(folder, lambda name, shape, dtype: torch.empty(shape, dtype=dtype))


def test_reads_what_it_wrote(tmp_path, group, writer):
    assert not state_names(tmp_path)
    write(writer, 3)
    found = read_state(tmp_path, group)
    assert found.position == state(3).position
    assert (found.recipe, found.num_samples, found.world_size) == ({"seed": 1}, 9, 2)
    assert found.learner == {"scaler": {"scale": 65536.0}}
    assert found.path == tmp_path / "last"
    assert_near(tensors(tmp_path / "last"), {"weight": torch.full((1000,), 3.0)})


def test_keeps_the_state_before_and_nothing_else(tmp_path, writer):
    write(writer, 1, 2, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"last", "last.previous"}
    values = [tensors(tmp_path / name)["weight"][0].item() for name in ("last", "last.previous")]
    assert values == [3.0, 2.0]


def test_what_follows_comes_after_the_state(tmp_path, writer):
    seen = []

    def look():
        seen.append((tmp_path / "last" / "manifest.json").exists())

    writer.start(state(1), {"weight": torch.ones(3)}, look)
    writer.finish()
    assert seen == [True]


def test_writes_what_was_there_when_it_began(tmp_path, writer):
    weight = torch.ones(1 << 20)
    writer.start(state(1), {"weight": weight}, nothing)
    weight.zero_()
    writer.finish()
    assert bool((tensors(tmp_path / "last")["weight"] == 1).all())


def flip_a_bit(folder):
    (path,) = folder.glob("*.distcp")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def cut(folder):
    (path,) = folder.glob("*.distcp")
    os.truncate(path, path.stat().st_size // 2)


def lose_a_file(folder):
    (path,) = folder.glob("*.distcp")
    path.unlink()


def lose_the_manifest(folder):
    (folder / "manifest.json").unlink()


def cut_the_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:40])


def lose_a_part_of_the_manifest(folder):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["position"]
    path.write_text(json.dumps(manifest))


def empty_the_description(folder):
    (folder / ".metadata").write_bytes(b"")


@mostly_one_process
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, r"last is damaged: the checksum of __0_0\.distcp is wrong"),
        (cut, "the checksum of"),
        (lose_a_file, r"last is not whole: __0_0\.distcp is missing"),
        (lose_the_manifest, r"last is not whole: manifest\.json is missing"),
        (cut_the_manifest, "last is damaged: Unterminated string"),
        (lose_a_part_of_the_manifest, "last lacks a part of a training state: 'position'"),
        (empty_the_description, r"the checksum of \.metadata is wrong"),
        (shutil.rmtree, r"last is not whole: manifest\.json is missing"),
    ],
)
def test_falls_back_to_the_state_before(tmp_path, group, writer, damage, message):
    write(writer, 3, 4)
    damage(tmp_path / "last")
    with pytest.warns(UserWarning, match=message + r".*; going on from the older .*last\.previous"):
        assert read_state(tmp_path, group).position.step == 3
    shutil.rmtree(tmp_path / "last.previous")
    if not state_names(tmp_path):
        return
    with pytest.raises(CheckpointError, match=message):
        read_state(tmp_path, group)


@mostly_one_process
def test_refuses_another_format(tmp_path, group, writer):
    write(writer, 3)
    path = tmp_path / "last" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(CheckpointError, match="not a training state of format 1"):
        read_state(tmp_path, group)


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@mostly_one_process
def test_runs_nothing_that_a_description_names(tmp_path, group, writer):
    write(writer, 3)
    description, manifest = tmp_path / "last" / ".metadata", tmp_path / "last" / "manifest.json"
    description.write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    facts = json.loads(manifest.read_text())
    content = description.read_bytes()
    facts["files"][".metadata"] = [len(content), zlib.crc32(content)]
    manifest.write_text(json.dumps(facts))
    assert read_state(tmp_path, group).position.step == 3
    with pytest.raises(CheckpointError, match=r"\.metadata cannot be read: it asks for posix\.mkdir"):
        tensors(tmp_path / "last")
    assert not (tmp_path / "harm").exists()


def test_what_cannot_be_written_is_said_and_the_state_before_stays(tmp_path, group, writer, monkeypatch):
    write(writer, 3)

    def refuse(*arguments, **named):
        raise OSError("no space left")

    for where, message in (
        ("nonlocalnn.train.state.saving.write_text", "no space left"),
        (
            "torch.distributed.checkpoint.filesystem.FileSystemWriter.write_data",
            "cannot write .*last.new; .* left",
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, refuse)
            with pytest.raises(OSError, match=message) as caught:
                write(writer, 4)
        assert "\n" not in str(caught.value)
    assert read_state(tmp_path, group).position.step == 3


def test_a_second_interrupt_while_a_state_is_written_stays_one(writer, monkeypatch):
    def interrupt(*arguments, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.distributed.checkpoint.filesystem.FileSystemWriter.write_data", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(writer, 4)


def repack(folder, compression):
    """Write the tensor again as a zip file of its own, with the description that fits."""
    (path,) = folder.glob("*.distcp")
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as whole, zipfile.ZipFile(path, "w", compression) as packed:
        for entry in whole.namelist():
            packed.writestr(entry, whole.read(entry))
    with (folder / ".metadata").open("rb") as file:
        metadata = pickle.load(file)
    for place in metadata.storage_data.values():
        place.length = path.stat().st_size
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


@mostly_one_process
def test_a_tensor_that_unpacks_to_more_than_it_is_is_refused(tmp_path, writer):
    write(writer, 3)
    repack(tmp_path / "last", zipfile.ZIP_STORED)
    assert tensors(tmp_path / "last")["weight"][0] == 3
    repack(tmp_path / "last", zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*distcp .* claim to unpack to"):
        tensors(tmp_path / "last")
    (path,) = (tmp_path / "last").glob("*.distcp")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"distcp holds what torch\.save did not write"):
        tensors(tmp_path / "last")


class Killed(BaseException):
    """Stands for a SIGKILL: nothing after it is done."""


@pytest.mark.parametrize(
    "survived",
    [
        pytest.param(0, marks=pytest.mark.slow, id="before"),
        pytest.param(1, id="between"),
        pytest.param(2, marks=pytest.mark.slow, id="after"),
    ],
)
@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_dying_at_a_renaming_leaves_a_whole_state(tmp_path, monkeypatch, survived, parallel):
    whole = tiny_recipe(tmp_path / "whole", parallel=parallel, epochs=1)
    train(whole, task=TinyTask())
    parts = tiny_recipe(tmp_path / "parts", parallel=parallel, epochs=1, checkpoint_every=2)
    replace, calls = os.replace, []

    def die(source, target):
        if "last" in (os.path.basename(source), os.path.basename(target)):
            calls.append(source)
            # The first state takes one renaming, each later one two.
            if len(calls) > 1 + survived:
                raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(Killed):
            train(parts, task=TinyTask())
    older = pytest.warns(UserWarning, match="going on from the older") if survived == 1 else nullcontext()
    with older:
        assert train(parts, task=TinyTask(), resume=True).steps == 6
    first, second = (tensors(recipe.output / "last") for recipe in (whole, parts))
    assert_same(first, second)


@pytest.mark.parametrize("known", [None, StorageMeta(load_id="another")])
def test_what_is_read_belongs_to_its_reader(tmp_path, known):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata({}, storage_meta=known)))
    reader = _Reader(tmp_path)
    assert reader.read_metadata().storage_meta.load_id == reader.load_id
    (tmp_path / ".metadata").write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match=r"\.metadata cannot be read"):
        reader.read_metadata()
