"""Files that are damaged, claim too much, or hold what they should not: a clear error, and nothing is run."""

import argparse
import json
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest
import torch
from saved_layers import layer, loaded
from torch import nn
from torch.utils.serialization import config

import nonlocalnn as nl
from foreign_video_networks import MMAction2, Official, SlowFast
from helpers import randomize_
from nonlocalnn.checkpoints.state import check_zip

TINY = {"blocks": {3: (0,)}, "lengths": (1, 1, 1, 1), "width": 2}


def pickled(tmp_path):
    torch.manual_seed(0)
    blobs = {key: value.numpy() for key, value in Official(**TINY).state.items()}
    (tmp_path / "x_8x8.pkl").write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    return tmp_path / "x_8x8.pkl"


def zipped(tmp_path):
    torch.save({"model_state": SlowFast(**TINY).state}, tmp_path / "x.pyth")
    return tmp_path / "x.pyth"


def zipped_before(tmp_path):
    content = {"state_dict": MMAction2(**TINY).state}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    return tmp_path / "x.pth"


def native(tmp_path):
    nl.save_checkpoint(nl.create_model("c2d_tiny"), tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


every_kind = pytest.mark.parametrize("kind", [pickled, zipped, zipped_before, native])


@every_kind
def test_whole_files_load(tmp_path, kind):
    assert isinstance(nl.load_checkpoint(kind(tmp_path)), nl.models.ResidualNetwork)


@every_kind
def test_cut_files(tmp_path, kind):
    path = kind(tmp_path)
    data = path.read_bytes()
    for length in (0, 1, 5, 9, 20, len(data) // 3, len(data) // 2, len(data) - 100, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(nl.CheckpointError):
            nl.load_checkpoint(path)


@every_kind
def test_damaged_bytes_are_an_error_or_numbers(tmp_path, kind):
    """Whatever bytes are changed, no other exception leaves, and no other class comes out."""
    path = kind(tmp_path)
    data = path.read_bytes()
    draw = random.Random(0)
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[draw.randrange(min(len(data), 4000))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            nl.load_checkpoint(path)
        except nl.CheckpointError:
            continue


def with_header(path, header, length=None):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)
    return path


def test_sizes_that_are_claimed(tmp_path):
    many = 2**40
    header = {"a": {"dtype": "F32", "shape": [many], "data_offsets": [0, 4 * many]}}
    with pytest.raises(nl.CheckpointError, match="is damaged"):
        nl.load_checkpoint(with_header(tmp_path / "a.safetensors", header))
    with pytest.raises(nl.CheckpointError, match="is damaged"):
        nl.load_checkpoint(with_header(tmp_path / "a.safetensors", header, length=2**60))
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
        file.writestr("archive/data/0", b"\0" * 20_000_000)
    assert (tmp_path / "a.pth").stat().st_size < 100_000
    with pytest.raises(nl.CheckpointError, match=r"a\.pth .* claim to unpack to 20000004"):
        nl.load_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("spare", [0, 1])
def test_a_zip_may_unpack_to_as_many_bytes_as_it_has(tmp_path, spare):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", b"\0" * 400)
    # What an archive holds besides its parts is not told by them: a comment makes it as long as wanted.
    with zipfile.ZipFile(path, "a") as file:
        file.comment = b"x" * (400 - path.stat().st_size - spare)
    assert path.stat().st_size == 400 - spare
    if spare:
        with pytest.raises(nl.CheckpointError, match="its 399 bytes claim to unpack to 400"):
            check_zip(path)
    else:
        check_zip(path)


def rewritten(path, **changes):
    """Change the configuration in a file's header."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    config = json.loads(header["__metadata__"]["config"])
    header["__metadata__"]["config"] = json.dumps({**config, **changes})
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_classes": 3}, r"does not fit ResidualNetwork: mis-shaped keys: fc.bias \(10,\) for \(3,\)"),
        ({"num_classes": 10**12}, "does not fit"),
        ({"num_classes": "ten"}, "builds no model"),
        ({"overrides": {"width": 10**6}}, "does not fit ResidualNetwork: mis-shaped keys"),
        ({"overrides": {"width": 10**40}}, "builds no model"),
        ({"overrides": {"width": -1}}, "builds no model"),
        ({"overrides": {"no_such": 1}}, "builds no model: c2d_tiny has no setting 'no_such'"),
        ({"overrides": {"blocks": {"layer2": [0]}}}, "missing keys: layer2.0.nl.theta"),
        ({"overrides": [1]}, "builds no model"),
        ({"name": "nl_digits", "overrides": {}}, "does not fit DigitsNetwork"),
        ({"name": ["c2d_tiny"]}, "builds no model: model must be one of"),
    ],
    ids=str,
)
def test_a_wrong_configuration(tmp_path, changes, says):
    with pytest.raises(nl.CheckpointError, match=says):
        nl.load_checkpoint(rewritten(native(tmp_path), **changes))


class Evil:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.pth", b"", "a.pth is empty"),
        ("a.safetensors", b"", "a.safetensors is empty"),
        ("a.safetensors", b"nothing of the kind", "is not a safetensors file, though it is named so"),
        ("a.pth", b"\xff\xd8\xff\xe0 and more", "is no checkpoint: it begins like a JPEG image"),
        ("a.safetensors", b"\n<!DOCTYPE html><title>404", "is no checkpoint: it begins like a web page"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        ("a.yaml", b"data: images\nepochs: 3\n", "a.yaml is no checkpoint: it is a text"),
        ("a.txt", b"\xef\xbb\xbfK\xc3\xa4se/1.png\r\n" * 60, "a.txt is no checkpoint: it is a text"),
        ("a.pkl", b"cbuiltins\nprint\n.", "a.pkl holds more than tensors.* asks for"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(nl.CheckpointError, match=says):
        nl.load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("container", ["blobs", "model_state", "state_dict", "meta"])
@pytest.mark.parametrize("write", ["torch", "pickle"])
def test_containers_that_would_run(tmp_path, container, write):
    mark, path = tmp_path / "ran", tmp_path / "x_8x8"
    content = {container: {"conv1_w": np.zeros(3)}, "more": Evil(mark)}
    if write == "torch":
        torch.save({container: {"a": torch.zeros(3)}, "more": Evil(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(nl.CheckpointError, match="holds more than tensors, or is damaged, and was not read"):
        nl.load_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({"blobs": [1]}, "holds a list, not a state dict"),
        ({"blobs": {}}, "holds an empty dict, not a state dict"),
        ({"blobs": {"conv1_w": "text", "lr": 1.0}}, "not tensors are conv1_w"),
        ({"a": np.zeros(3)}, "does not say what builds its model"),
    ],
    ids=str,
)
def test_pickles_of_something_else(tmp_path, content, says):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(nl.CheckpointError, match=says):
        nl.load_checkpoint(tmp_path / "x.pkl")


def test_a_tensor_under_two_names(tmp_path):
    state = SlowFast(**TINY).state
    state["conv1.weight"] = state["s1.pathway0_stem.conv.weight"]
    torch.save(state, tmp_path / "x.pyth")
    with pytest.raises(
        nl.CheckpointError, match="has the keys of SlowFast, but it holds one tensor under two"
    ):
        nl.load_checkpoint(tmp_path / "x.pyth")


def test_the_containers_of_others_around_our_own_weights(tmp_path):
    model = randomize_(nl.create_model("c2d_tiny")).eval()
    torch.save({"meta": {"epoch": 1}, "state_dict": model.state_dict()}, tmp_path / "x.pth")
    again = nl.load_checkpoint(tmp_path / "x.pth", nl.create_model("c2d_tiny"))
    assert torch.equal(again.fc.weight, model.fc.weight)


def test_a_hole_in_a_zip_is_no_zeros(tmp_path):
    path = zipped(tmp_path)
    data = path.read_bytes()
    weights = torch.load(path)["model_state"]["head.projection.weight"].numpy().tobytes()
    path.write_bytes(data.replace(weights, bytes(len(weights))))
    with pytest.raises(
        nl.CheckpointError, match=r"is damaged: the checksum of x/data/\d+ is wrong; save or fetch it again"
    ):
        nl.load_checkpoint(path)


@pytest.mark.parametrize("beside", [{}, {"args": argparse.Namespace(lr=0.1)}], ids=["weights", "objects"])
def test_a_zip_without_checksums_is_read(tmp_path, beside):
    config.save.compute_crc32 = False
    try:
        torch.save({"state_dict": layer().state_dict(), **beside}, tmp_path / "m.pth")
    finally:
        config.save.compute_crc32 = True
    assert torch.equal(nl.load_checkpoint(tmp_path / "m.pth", nn.Linear(3, 2)).weight, layer().weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_one_number_that_stands_for_more_than_the_file_has(tmp_path, dtype):
    torch.save({"index": torch.zeros(1, dtype=dtype).expand(10**6, 10**6)}, tmp_path / "m.pth")
    model = nn.Module()
    model.register_buffer("index", torch.zeros(3, dtype=torch.int32))
    with pytest.raises(nl.CheckpointError, match="bytes, and claims larger tensors, index: "):
        nl.load_checkpoint(tmp_path / "m.pth", model)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor(tmp_path):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    with pytest.raises(nl.CheckpointError, match="plain tensors of real numbers; weight is nested, "):
        loaded({"weight": nested}, tmp_path)


def test_what_unpacks_to_more_than_it_has_is_not_unpacked(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10_000))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(nl.CheckpointError, match="claim to unpack to 10000"):
        nl.load_checkpoint(tmp_path / "m.pth")
