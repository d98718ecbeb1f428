import pytest
import torch
from tiny_task import Points
from torch.utils.data import DataLoader

from nonlocalnn.train.order import MicroBatches, SeededSamples, epoch_order, mix, steps_per_epoch
from tolerances import assert_same


def test_order_is_a_function_of_seed_and_epoch():
    first = epoch_order(31, seed=3, epoch=2)
    torch.rand(5)
    assert epoch_order(31, seed=3, epoch=2) == first
    assert sorted(first) == list(range(31))
    others = [epoch_order(31, seed=seed, epoch=epoch) for seed, epoch in ((3, 1), (2, 2), (2, 3))]
    assert all(first != other for other in others)


def test_mix_separates_neighbours():
    seeds = {
        mix(seed, "sample", epoch, index) for seed in range(5) for epoch in range(5) for index in range(40)
    }
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("accumulate", "world_size"), [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_ranks_and_parts_make_up_the_same_batches(accumulate, world_size):
    order = epoch_order(29, seed=0, epoch=0)
    shares = [
        list(MicroBatches(order, batch_size=12, accumulate=accumulate, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for step in range(2):
        parts = [part for share in shares for part in share[step * accumulate : (step + 1) * accumulate]]
        assert sorted(index for part in parts for index in part) == sorted(order[step * 12 : step * 12 + 12])
        assert {len(part) for part in parts} == {12 // (accumulate * world_size)}
    seen = [index for share in shares for part in share for index in part]
    assert len(set(seen)) == len(seen) == 24


def test_initial_weights_late_skips_whole_steps():
    order = list(range(23))
    whole = MicroBatches(order, batch_size=6, accumulate=2)
    late = MicroBatches(order, batch_size=6, accumulate=2, start_step=2)
    assert list(late) == list(whole)[4:]
    assert len(late) == 2
    assert len(MicroBatches(order, batch_size=6, start_step=3)) == 0


def test_ranks_take_the_parts_of_a_batch_in_turn():
    shares = [
        list(MicroBatches(list(range(17)), batch_size=8, accumulate=2, rank=rank, world_size=2))
        for rank in range(2)
    ]
    assert shares[0] == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert shares[1] == [[2, 3], [6, 7], [10, 11], [14, 15]]


def test_refuses_uneven_parts():
    with pytest.raises(
        ValueError, match="divisible by accumulate times the number of ranks; got 10, 1 and 4"
    ):
        MicroBatches(list(range(20)), batch_size=10, world_size=4)


def test_refuses_less_than_one_batch():
    assert steps_per_epoch(13, 5) == 2
    with pytest.raises(ValueError, match="has 4 samples, fewer than one batch of 5"):
        steps_per_epoch(4, 5)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmentation_depends_on_position_alone(num_workers):
    samples = Points("train", augment=True)
    expected = SeededSamples(samples, seed=1, epoch=4)
    torch.manual_seed(num_workers)
    loader = DataLoader(expected, batch_size=5, shuffle=True, num_workers=num_workers)
    for (images, _), indices in loader:
        for image, index in zip(images, indices.tolist(), strict=True):
            assert_same(image, expected[index][0][0])
    assert not torch.equal(SeededSamples(samples, seed=1, epoch=5)[0][0][0], expected[0][0][0])


def test_reading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    SeededSamples(Points("train", augment=True), seed=1, epoch=4)[3]
    assert torch.equal(torch.get_rng_state(), before)


def test_which_rank_has_which_part():
    def parts(**settings):
        return list(MicroBatches(list(range(16)), batch_size=8, **settings))

    assert parts(accumulate=2, rank=0, world_size=2) == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert parts(accumulate=2, rank=1, world_size=2) == [[2, 3], [6, 7], [10, 11], [14, 15]]
    assert parts(rank=2, world_size=4) == [[4, 5], [12, 13]]
    assert parts(accumulate=4, rank=0, world_size=1, start_step=1) == [[8, 9], [10, 11], [12, 13], [14, 15]]
