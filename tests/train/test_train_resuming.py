"""Reading the state of a run that goes on, and damaged states in whose place an older one was read."""

from types import SimpleNamespace

import pytest
import torch

from nonlocalnn.train.parallel.distributed import Group
from nonlocalnn.train.state.resuming import read_state, remove_newer

ALONE = Group(0, 1, torch.device("cpu"))


def test_refuses_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        read_state(tmp_path, ALONE)


def test_the_newer_states_alone_are_removed(tmp_path):
    (tmp_path / "last").mkdir()
    for name in ("last/0.distcp", "last.pt", "last.previous.pt", "other.pt"):
        (tmp_path / name).touch()
    remove_newer(SimpleNamespace(path=tmp_path / "last"))
    assert len(list(tmp_path.iterdir())) == 4
    remove_newer(SimpleNamespace(path=tmp_path / "last.previous.pt"))
    assert {path.name for path in tmp_path.iterdir()} == {"last.previous.pt", "other.pt"}
