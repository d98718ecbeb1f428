"""Files of weights that are damaged, or lie: what they hold comes out, or a CheckpointError; nothing runs."""

import functools
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from fuzz_files import DEEP, FILES, Canary, states, whole_file, with_header, write_weights
from fuzz_mutation import mutated, mutations
from fuzz_outcome import outcome_of
from fuzz_watch import ran_out_of_memory, watched
from hypothesis import strategies as st
from torch import nn

import nonlocalnn as nl
from nonlocalnn.checkpoints import CheckpointError, read_metadata
from nonlocalnn.inference.classifier import load_classifier
from nonlocalnn.train.parallel.distributed import Group
from nonlocalnn.train.state.checkpoint import TrainingState
from nonlocalnn.train.state.resuming import read_state

# What JSON and pickles may hold where something else is meant.
VALUES = (
    *(
        None,
        True,
        0,
        -1,
        1.5,
        10**12,
        10**40,
        float("nan"),
        "",
        "text",
        "\ud800",
        [],
        {},
        [1],
        ["a", "b"],
        [[[]]],
    ),
    *({"a": 1}, [3, 8, 32, 32], [3, -8, 32, 32], "resnet50", "c2d_tiny", "nl_digits", "x" * 5000, DEEP),
)
WORDS = (
    *("name", "num_classes", "overrides", "classes", "sample_shape", "stride", "test_size", "mean", "recipe"),
    *("standard_deviation", "multi_label", "channels", "image_size"),
)
SETTINGS = (
    "width",
    "depth",
    "blocks",
    "instantiation",
    "num_sides",
    "norm",
    "dropout",
    "in_channels",
    "window",
)
TENSORS = (
    *(
        "dropped",
        "renamed",
        "added",
        "reshaped",
        "complex",
        "whole",
        "double",
        "bool",
        "none",
        "text",
        "scalar",
    ),
    *("empty", "sparse", "number as name", "meta", "infinite", "nested"),
)
_MUST_FAIL = (
    "complex",
    "sparse",
    "meta",
    "dropped",
    "renamed",
    "added",
    "reshaped",
    "none",
    "text",
    "scalar",
    "empty",
    "nested",
)


@dataclass(frozen=True)
class File:
    """A file to be made and read.

    ``kind`` is "bytes" (a whole file with ``changes``), "header" (of safetensors: ``path`` set to ``value``),
    "tensors" (one of a state dict made wrong by ``how``) or "canary" (a pickle that would run something).
    """

    kind: str
    name: str
    changes: tuple = ()
    path: tuple = ()
    value: Any = None
    how: str = ""
    place: int = 0
    reader: str = "load_checkpoint"


@st.composite
def files(draw):
    kind = draw(st.sampled_from(("bytes",) * 4 + ("header", "header", "tensors", "canary")))
    reader = draw(st.sampled_from(("load_checkpoint", "load_checkpoint", "load_classifier", "into a model")))
    place = draw(st.integers(0, 10**6))
    if kind == "bytes":
        name = draw(st.sampled_from(FILES))
        return File(kind, name, changes=draw(mutations()), place=place, reader=reader)
    if kind == "canary":
        changes = draw(st.one_of(st.just(()), mutations(2)))
        return File(kind, draw(st.sampled_from(FILES[1:])), changes=changes, place=place, reader=reader)
    if kind == "tensors":
        name = draw(st.sampled_from(FILES[:-1]))
        return File(kind, name, how=draw(st.sampled_from(TENSORS)), place=place, reader=reader)
    path = draw(
        st.one_of(
            st.tuples(st.just("config"), st.sampled_from(WORDS[:3])),
            st.tuples(st.just("config"), st.just("overrides"), st.sampled_from(SETTINGS)),
            st.tuples(st.just("metadata"), st.sampled_from(WORDS[3:])),
            st.sampled_from((("config",), ("metadata",), ("format",), ("header",))),
            st.tuples(st.just("tensor"), st.sampled_from(("dtype", "shape", "data_offsets"))),
        )
    )
    value = draw(
        st.sampled_from((*VALUES, [1, 1, 1, 10**9], [300] * 4, [0, 2**63], [2**40], "F64", "F8_E4M3", "C64"))
    )
    return File(kind, FILES[0], path=path, value=value, place=place, reader=reader)


def prepare_file(case, folder):
    """Write the case's file; return it, and whether it must be refused."""
    path, must_fail = folder / case.name, False
    if case.kind == "bytes":
        path.write_bytes(mutated(whole_file(folder, case.name), case.changes))
    elif case.kind == "header":
        path.write_bytes(with_header(whole_file(folder, case.name), case.path, case.value))
    elif case.kind == "canary":
        canary = Canary(str(folder / "ran"), case.place)
        content = {"state_dict": {"conv1_w": np.zeros(3)}, "more": canary}
        if case.name == FILES[2]:
            path.write_bytes(pickle.dumps(content, protocol=case.place % 5))
        else:
            torch.save({"model_state": {"a": torch.zeros(3)}, "more": canary}, path,
                       _use_new_zipfile_serialization=bool(case.place % 2))  # fmt: skip
        must_fail = not case.changes
        path.write_bytes(mutated(path.read_bytes(), case.changes))
    else:
        content = states()[case.name]
        content, must_fail = _spoilt(dict(content[0] if case.name == FILES[0] else content), case)
        try:
            write_weights(folder, case.name, content)
        except (TypeError, ValueError, AttributeError, RuntimeError):
            return None, False  # such a thing cannot be written to such a file
    return path, must_fail


def _spoilt(content, case):
    name = list(content)[case.place % len(content)]
    value = content.pop(name)
    if name.endswith("num_batches_tracked"):
        return {name: value, **content}, False
    if case.how == "dropped":
        return content, True
    if case.how == "renamed":
        return {f"{name}.x": value, **content}, True
    changed = {
        "added": value,
        "reshaped": value.flatten()[None],
        "complex": value.to(torch.complex64),
        "whole": value.to(torch.int32),
        "double": value.double(),
        "bool": value.bool(),
        "none": None,
        "text": "weights",
        "scalar": torch.tensor(1.0),
        "empty": value.new_zeros(0),
        "sparse": value.to_sparse(),
        "number as name": value,
        "meta": value.to("meta"),
        "infinite": torch.full_like(value, torch.inf),
        "nested": {"weight": value},
    }[case.how]
    if case.how == "added":
        content["no.such.layer"] = value
    content[case.place if case.how == "number as name" else name] = changed
    return content, case.how in _MUST_FAIL


def read_file(case, path):
    """Read the file in the case's way and return a network, or a training state."""
    if case.name == FILES[6]:
        return read_state(path.parent, Group(0, 1, torch.device("cpu")))
    if case.reader == "into a model" or case.name == FILES[5]:
        return nl.load_checkpoint(path, nl.create_model("nl_digits"))
    if case.reader == "load_classifier":
        read_metadata(path)
        return load_classifier(path).model
    return nl.load_checkpoint(path)


# How PyTorch's files begin that are no zip files.
_OLDEST = b"\x80\x02\x8a\nl\xfc"


@functools.cache
def _warm_up(folder):
    """Read every file once: the first time PyTorch makes a folder for what it compiles."""
    for name in FILES:
        (folder / name).write_bytes(whole_file(folder, name))
        read_file(File("bytes", name), folder / name)


def check_file(case, folder):
    """Return what came of a file; AssertionError, or whatever else leaves the library, is a finding."""
    _warm_up(folder)
    path, must_fail = prepare_file(case, folder)
    if path is None:
        return "cannot be written"
    with watched():
        outcome, found = outcome_of(
            lambda: read_file(case, path),
            (CheckpointError, FileNotFoundError),
            # A training state's error quotes PyTorch, at whatever length.
            message=case.name != FILES[6],
        )
    assert not (folder / "ran").exists(), "the file's code ran"
    if outcome == "refused":
        # PyTorch's oldest format reserves what a file claims; memory is taken by what is read into it.
        is_reserved = path.read_bytes().startswith(_OLDEST)
        assert is_reserved or not ran_out_of_memory(found), f"it asked for too much memory: {found}"
        return outcome
    assert not must_fail, "a wrong file is taken"
    if isinstance(found, nn.Module):
        fresh = nl.create_model(found.config["name"], num_classes=found.config["num_classes"],
                                **found.config["overrides"]).state_dict()  # fmt: skip
        own = found.state_dict()
        assert {key: (each.shape, each.dtype) for key, each in own.items()} == {
            key: (each.shape, each.dtype) for key, each in fresh.items()
        }
        assert all(each.device.type == "cpu" for each in own.values())
    else:
        assert isinstance(found, TrainingState)
    return "answered"
