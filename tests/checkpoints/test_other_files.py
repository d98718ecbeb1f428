"""Paths that are no checkpoint: the message says what they are, and what to give."""

import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import nonlocalnn as nl
from nonlocalnn.cli import main

STATE = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}


def saved():
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()


def npz(path):
    np.savez(path, weight=np.ones((2, 3)))


def compressed_npz(path):
    np.savez_compressed(path, weight=np.zeros((200, 300)))


def zipped(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("run/weights.pth", saved() + bytes(10_000))


def keras(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model.weights.h5", b"")


def tarred(path):
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())


def torch_exported(path):
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),)), path)


def dumped(path):
    path.write_bytes(pickle.dumps(nn.Linear(3, 2).state_dict()))


def written(data):
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("a.npz", npz, r"is an archive of NumPy arrays \(.npz\): make tensors of them by torch.from_numpy"),
        ("a.npz", compressed_npz, r"is an archive of NumPy arrays \(.npz\)"),
        ("a.zip", zipped, "is a zip archive of files: unpack it, and give 'run/weights.pth'"),
        ("a.keras", keras, "with the HDF5 file 'model.weights.h5' in it, as Keras writes"),
        ("a.pt2", torch_exported, r"is an exported program \(.pt2\) and no checkpoint: give the checkpoint"),
        ("a.tar", tarred, "begins like a tar archive: unpack it first"),
        ("a.pth.gz", written(gzip.compress(saved())), r"begins like a gzip archive \(.gz\): unpack it first"),
        ("a.pth.xz", written(lzma.compress(saved())), "begins like an xz archive: unpack it first"),
        ("a.h5", written(b"\x89HDF\r\n\x1a\n" + bytes(600)), r"begins like an HDF5 file \(.h5\)"),
        (
            "a.onnx",
            written(b"\x08\x0a\x12\x07pytorch"),
            "like an ONNX program: give the checkpoint that it was",
        ),
        ("config.json", written(b'{\n "depth": 50}'), "begins like a text in JSON, such as a configuration"),
        (
            "a.pth",
            lambda path: path.write_bytes(saved()[:-300]),
            "is cut or damaged, its end is missing: save or",
        ),
        ("a.pth", written(b"<head><title>404</title>"), "begins like a web page"),
        ("a.pth", written(b"<!-- x --><html>"), "begins like a web page"),
        ("a.pth", written(b"\xef\xbb\xbf<!DOCTYPE html>"), "begins like a web page"),
        ("a.pth", written(b"<?xml version='1.0'?><Error>"), "begins like a text in XML"),
        ("a.pkl", dumped, r"tensors that pickle.dump wrote, .*torch.save\(model.state_dict\(\), path\)"),
    ],
    ids=lambda each: each if isinstance(each, str) and len(each) < 12 else "",
)
def test_files_of_other_kinds(tmp_path, name, write, says):
    write(tmp_path / name)
    with pytest.raises(nl.CheckpointError, match=says):
        nl.load_checkpoint(tmp_path / name, nn.Linear(3, 2))


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_a_folder_as_hugging_face_s(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).touch()
    says = f"is a folder as Hugging Face's: give the file of weights in it, {tmp_path / name}"
    for load in (nl.load_classifier, nl.load_checkpoint):
        with pytest.raises(FileNotFoundError, match=says):
            load(tmp_path)


def test_a_folder_of_a_distributed_checkpoint(tmp_path):
    import torch.distributed.checkpoint as distributed

    with pytest.warns(UserWarning, match="distributed"):
        distributed.save({"model": STATE}, checkpoint_id=str(tmp_path))
    make = f"dcp_to_torch {tmp_path} weights.pth"
    with pytest.raises(FileNotFoundError, match=f"a folder of torch.distributed.checkpoint: .*{make}"):
        nl.load_checkpoint(tmp_path)
    for part in (tmp_path / ".metadata", next(tmp_path.glob("*.distcp"))):
        with pytest.raises(nl.CheckpointError, match=f"is a part of a folder of torch.distributed.*{make}"):
            nl.load_checkpoint(part)


def test_the_folders_of_a_run(tmp_path):
    nl.save_checkpoint(nl.create_model("c1d_tiny"), tmp_path / "best.safetensors")
    (tmp_path / "last").mkdir()
    (tmp_path / "last/.metadata").touch()
    for folder in (tmp_path, tmp_path / "last"):
        with pytest.raises(FileNotFoundError, match=f"give {tmp_path}/best.safetensors"):
            nl.load_checkpoint(folder)


def test_a_folder_of_anything(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder, and no file of weights: give the file$"):
        nl.load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["nl5_i3d_r50_8x8", "resnet50", "nonlocalnn/c2d_tiny"])
@pytest.mark.parametrize("command", ["explain", "predict", "export"])
def test_names_of_networks(tmp_path, monkeypatch, capsys, command, name):
    monkeypatch.chdir(tmp_path)
    words = {
        "explain": ["a.png", "--model", name, "--output", "a.html"],
        "predict": ["a.png", "--model", name],
        "export": [name, "--output", "a.onnx"],
    }
    (tmp_path / "a.png").touch()
    assert main([command, *words[command]]) == 1
    error = capsys.readouterr().err
    assert f"there is no checkpoint {name}: that is the name of a network, which has no trained" in error
    assert "give a file of weights, or the folder of a run" in error


@pytest.mark.parametrize("name", ["torchvision/resnet18", "resnet18"])
def test_names_of_torchvision(tmp_path, monkeypatch, name):
    pytest.importorskip("torchvision")
    monkeypatch.chdir(tmp_path)
    for path in (name, tmp_path / name):
        with pytest.raises(FileNotFoundError, match=r": that is the name of a network"):
            nl.load_checkpoint(path)


@pytest.mark.parametrize("name", ["absent", "runs/resnet50", "torchvision/none", "resnet50.pth"])
def test_other_names_are_missing_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"^there is no checkpoint {name}$"):
        nl.load_checkpoint(name)


def test_a_header_that_begins_like_json_is_read(tmp_path):
    """A safetensors file whose length has the byte of a brace is no JSON."""
    data = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    header = data.ljust(ord("{"))
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    layer = nn.Linear(1, 1, bias=False)
    (tmp_path / "a.pth").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-1])
    layer.weight = nn.Parameter(torch.ones(1))
    assert nl.load_checkpoint(tmp_path / "a.safetensors", layer).weight.item() == 0
    with pytest.raises(nl.CheckpointError, match="is damaged"):
        nl.load_checkpoint(tmp_path / "a.pth", layer)
