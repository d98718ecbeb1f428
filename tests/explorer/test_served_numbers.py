"""The explorer's server takes sequences and volumes: known by their content, limited, and explained."""

import gzip
import io
from functools import partial

import numpy as np
import pytest
import torch
from serving import Client, serve

import nonlocalnn as nl
from helpers import randomize_
from nonlocalnn.data.volumes.reading import Reading
from nonlocalnn.explorer import admission
from nonlocalnn.explorer.admission import check_size, ending_of, kinds_of, list_inputs
from nonlocalnn.explorer.explain import explain_file

nibabel = pytest.importorskip("nibabel", reason="needs nibabel")


def array(*sides):
    file = io.BytesIO()
    np.save(file, np.random.default_rng(0).normal(size=sides).astype(np.float32))
    return file.getvalue()


def nifti(*sides, kind=nibabel.Nifti1Image):
    values = np.random.default_rng(0).normal(size=sides).astype(np.float32)
    return kind(values, np.diag([1.0, 2.0, 3.0, 1.0])).to_bytes()


def table(rows, header="time,a,b"):
    lines = [f"{row},{0.5 * row},{-row}" for row in range(rows)]
    return "\n".join([header, *lines] if header else lines).encode()


@pytest.mark.parametrize(
    ("content", "ending", "kinds"),
    [
        (array(9), ".npy", ("sequence",)),
        (array(2, 9), ".npy", ("sequence",)),
        (array(4, 5, 6), ".npy", ("volume",)),
        (array(1, 4, 5, 6), ".npy", ("volume",)),
        (array(1, 2, 3, 4, 5), ".npy", ()),
        (nifti(4, 5, 6), ".nii", ("volume",)),
        (nifti(4, 5, 6, kind=nibabel.Nifti2Image), ".nii", ("volume",)),
        (gzip.compress(nifti(4, 5, 6)), ".nii.gz", ("volume",)),
        (gzip.compress(b"some text that is no header of a volume" * 20), "", ()),
        (b"\x1f\x8b no gzip", "", ()),
        (table(3), ".csv", ("sequence",)),
        (table(400), ".csv", ("sequence",)),
        (table(3, header=""), ".csv", ("sequence",)),
        (table(3).replace(b",", b";"), ".csv", ("sequence",)),
        ("\ufeffid,a,label\nx,1.5,p\u00e4use\nx,2,run\n".encode(), ".csv", ("sequence",)),
        (b"1.5\n2\n", ".csv", ("sequence",)),
        (b"a,b\n1,2\n3\n", "", ()),
        (b"a list\nof words\n", "", ()),
        (b"nan\n", "", ()),
        (b"1\0\n2\n", "", ()),
        (b"\xff\xfe1,2\n", "", ()),
    ],
    ids=[
        *("line", "channels", "volume", "volume with channels", "five axes"),
        *("NIfTI", "NIfTI-2", "compressed", "compressed text", "no gzip"),
        *("CSV", "long CSV", "no header", "semicolons", "labels", "one column", "uneven", "words"),
        *("no number", "zeros", "other text"),
    ],
)
def test_files_are_known_by_their_content(tmp_path, content, ending, kinds):
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    assert (ending_of(path), kinds_of(path)) == (ending, kinds)


@pytest.mark.parametrize(
    ("name", "content", "kind", "limit", "says"),
    [
        ("a.npy", array(3, 7), "sequence", "_MAX_NUMBERS", "it has 21 numbers, channels times steps"),
        ("a.csv", table(6) + b"\n", "sequence", "_MAX_NUMBERS", "it has 21 numbers, channels times steps"),
        ("a.npy", array(3, 7, 1), "volume", "_MAX_VOXELS", "it has 21 voxels"),
        ("a.nii", nifti(3, 7, 1), "volume", "_MAX_VOXELS", "it has 21 voxels"),
        ("a.nii.gz", gzip.compress(nifti(3, 7, 1)), "volume", "_MAX_VOXELS", "it has 21 voxels"),
    ],
    ids=["array", "CSV", "volume", "NIfTI", "compressed"],
)
def test_large_ones_are_refused_by_their_headers(tmp_path, monkeypatch, name, content, kind, limit, says):
    path = tmp_path / name
    path.write_bytes(content)
    monkeypatch.setattr(admission, limit, 21)
    check_size(path, kind=kind)
    monkeypatch.setattr(admission, limit, 20)
    with pytest.raises(ValueError, match=rf"cannot read {kind} .*{name}: {says}, and up to 20 .* explained"):
        check_size(path, kind=kind)


def test_a_damaged_header_of_a_volume(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(nifti(3, 7, 1)[:100])
    with pytest.raises(ValueError, match=r"cannot read volume .*a\.nii: its header is damaged"):
        check_size(path, kind="volume")


def test_they_are_listed(tmp_path):
    for name in ("a.npy", "b.csv", "c.nii.gz", "d.nii", "e.gz", "f.npz"):
        (tmp_path / name).touch()
    assert list_inputs(tmp_path) == ["a.npy", "b.csv", "c.nii.gz", "d.nii"]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A server of four networks: classes and labels, of sequences of 50 steps a second and of volumes."""
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "inputs").mkdir()
    (folder / "inputs/wave.csv").write_bytes(table(30, header="a,b,c"))
    torch.manual_seed(0)
    facts = {"classes": ["rest", "walk"], "mean": 0.0, "standard_deviation": 1.0}
    sequence, volume = {**facts, "sample_shape": [3, 40]}, {**facts, "sample_shape": [1, 16, 16, 16]}
    volume["volume"] = Reading().to_dict()
    labels = {"task": "segmentation"}
    made = {
        "walks": ("nl2_resnet1d_tiny", {"in_channels": 3, "width": 4}, sequence),
        "steps": ("nl_unet1d_tiny", {"in_channels": 3, "width": 4}, {**sequence, **labels}),
        "scans": ("nl2_resnet3d_tiny", {"in_channels": 1, "width": 4}, volume),
        "organs": ("nl_unet3d_tiny", {"width": 4, "depth": 2}, {**volume, **labels}),
    }
    paths = {}
    for name, (network, settings, metadata) in made.items():
        paths[name] = folder / f"{name}.safetensors"
        model = randomize_(nl.create_model(network, num_classes=2, **settings))
        nl.save_checkpoint(model, paths[name], metadata=metadata)
    with serve(paths, partial(explain_file, rate=50.0), inputs=folder / "inputs") as (port, _):
        yield Client(port)


def test_models_and_inputs_say_their_kinds(client):
    kinds = {each["name"]: each["kind"] for each in client.get("/api/models").json["models"]}
    assert kinds == {"walks": "sequence", "steps": "sequence", "scans": "volume", "organs": "volume"}
    assert client.get("/api/inputs").json["inputs"] == [{"name": "wave.csv", "kind": "sequence"}]
    # Numbers have no thumbnail.
    assert client.get("/api/inputs/wave.csv").status == 404


@pytest.mark.parametrize(
    ("title", "content", "model"),
    [
        ("wave.csv", table(30, header="a,b,c"), "walks"),
        ("cat.png", array(3, 25), "walks"),
        (
            "wave.csv",
            b"id,a,b,c,label\n" + b"".join(b"x,%d,2,1,walk\n" % step for step in range(40)),
            "steps",
        ),
        ("scan.nii.gz", gzip.compress(nifti(12, 14, 18)), "scans"),
        ("scan", nifti(12, 14, 18), "organs"),
        ("scan.npy", array(12, 14, 18), "organs"),
    ],
    ids=["CSV", "array of another name", "labels", "compressed", "no ending", "array"],
)
def test_uploads_are_explained(client, title, content, model):
    about = client.finish(client.explain(title, content, model))
    assert (about["state"], about["reason"]) == ("done", None)
    document = client.document(about["id"], model).json
    assert (document["title"], document["kind"]) == (
        title,
        "sequence" if model in ("walks", "steps") else "volume",
    )
    assert document["blocks"]
    # A volume has no steps a second.
    assert document["input"].get("rate") == (50.0 if document["kind"] == "sequence" else None)
    assert document["input"]["channels" if document["kind"] == "sequence" else "voxels"]
    # Runs of classes follow one another from the first step to the last.
    runs = document["input"].get("step_labels", [])
    assert bool(runs) is (model == "steps")
    ends = [run["last"] for run in runs]
    assert [run["first"] for run in runs] == [0, *(end + 1 for end in ends)][: len(runs)]
    assert ends[-1:] == [39][: len(runs)]
    page = client.document(about["id"], model, "page")
    assert b"<!DOCTYPE html>" in page.body


def test_two_models_and_an_input_of_the_server(client):
    posted = client.post(("input", "wave.csv"), ("models", "walks"), ("models", "steps"))
    about = client.finish(posted)
    assert about["state"] == "done", about
    kinds = [client.document(about["id"], model).json["input"]["sides"] for model in ("walks", "steps")]
    assert kinds == [[30], [30]]


@pytest.mark.parametrize(
    ("content", "model", "status", "says"),
    [
        (b"\x89PNG\r\n\x1a\n", "walks", 415, "a.x is an image, and the model walks takes sequences"),
        (array(3, 25), "scans", 415, "a.x is a sequence, and the model scans takes volumes"),
        (nifti(4, 5, 6), "steps", 415, "a.x is a volume, and the model steps takes sequences"),
        (b"PK\x03\x04", "walks", 415, "a.x is none of the files that are read here"),
    ],
)
def test_other_kinds_are_refused_in_one_line(client, content, model, status, says):
    answer = client.explain("a.x", content, model)
    assert (answer.status, says in answer.error) == (status, True), answer.body


@pytest.mark.parametrize(
    ("content", "model", "says"),
    [
        (array(2, 25), "walks", "a.x must have 3 channels for this model; got 2"),
        (b"1,nan,3\n1,2,3\n", "walks", "a.x has values that are no finite numbers, 1 of 6"),
        (nifti(4, 5, 6)[:400], "organs", "a.x cannot be read as NIfTI"),
        (nifti(4, 5, 6, 2), "organs", "a.x must hold one volume of three axes"),
    ],
    ids=["channels", "NaN", "cut", "series"],
)
def test_what_cannot_be_explained_is_said_by_the_name_that_was_sent(client, content, model, says):
    about = client.finish(client.explain("a.x", content, model))
    assert (about["state"], says in about["reason"]) == ("failed", True), about
