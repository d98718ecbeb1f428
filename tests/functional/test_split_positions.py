"""Positions split over 1, 2 and 4 processes, beside one process that holds them all."""

import pytest
import split_ranks
import torch.multiprocessing
from torch import distributed

import nonlocalnn as nl
from nonlocalnn.functional import splitting
from nonlocalnn.functional.split import bytes_moved


def on_ranks(world_size, tmp_path, *names):
    torch.multiprocessing.spawn(
        split_ranks.run, (world_size, str(tmp_path / "store"), names), nprocs=world_size
    )


def test_operators_blocks_and_networks_are_equal_to_one_process(tmp_path):
    on_ranks(2, tmp_path, "operator", "masked_blocks", "network")


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_everything_is_equal_to_one_process(world_size, tmp_path):
    names = ["operator", "masked", "heads", "half_precision", "blocks", "masked_blocks", "synced_norm"]
    names += ["network", "traffic"]
    on_ranks(world_size, tmp_path, *names, *(["subgroups"] if world_size == 4 else []))


@pytest.mark.slow
def test_what_does_not_fit_is_refused_on_every_rank(tmp_path):
    on_ranks(2, tmp_path, "errors")


def test_no_group_is_kept_after_its_end(tmp_path):
    torch.multiprocessing.spawn(split_ranks.outlive_the_group, (str(tmp_path / "store"),), nprocs=1)


def test_a_group_that_is_gone_when_a_block_runs_again_is_told():
    class Group:
        pass

    group = Group()
    split = splitting._EndedSplit(splitting._Split(group, "T"))
    assert (split.group, split.dim) == (group, "T")
    del group
    with pytest.raises(ValueError, match="whose process group is destroyed: destroy it after the backward"):
        _ = split.group


def test_without_processes():
    assert not distributed.is_initialized()
    with pytest.raises(ValueError, match="there is no process group: call torch"):
        nl.split_positions().__enter__()
    sizes = {"num_queries": 100, "num_keys": 50, "width": 8, "num_values": 8, "num_ranks": 1}
    for form in ("gaussian", "dot_product", "concatenation"):
        assert bytes_moved(form, **sizes) == 0
