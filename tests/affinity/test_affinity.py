"""The maps of a running model."""

import itertools

import pytest
import torch
from torch import distributed, nn

import nonlocalnn as nl
from functional.test_non_local import LargestTensor
from helpers import randomize_
from nonlocalnn.affinity import summarise
from nonlocalnn.functional import INSTANTIATIONS
from tolerances import assert_near

BLOCKS = {1: (nl.NonLocal1d, (11,)), 2: (nl.NonLocal2d, (6, 11)), 3: (nl.NonLocal3d, (4, 6, 5))}


def captured(block, x, queries=None):
    model = nn.Sequential(block)
    with nl.capture_affinity(model, queries=queries) as maps:
        model(x)
    return maps["0"]


@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_maps_of_the_digit_network(instantiation, training):
    model = randomize_(nl.create_model("nl_digits", instantiation=instantiation)).train(training)
    seen = {}
    model.nl_2.register_forward_pre_hook(lambda block, inputs: seen.update(x=inputs[0]))
    x = torch.rand(2, 1, 28, 28)
    with nl.capture_affinity(model) as maps:
        model(x)
    assert list(maps) == ["nl_1", "nl_2"]
    assert maps["nl_1"].affinity.shape == (2, 196, 49)
    assert (maps["nl_2"].query_shape, maps["nl_2"].key_shape) == ((7, 7), (3, 3))
    assert_near(maps["nl_2"].affinity, model.nl_2.affinity(seen["x"]))
    assert not maps["nl_2"].affinity.requires_grad
    assert torch.equal(maps["nl_1"].input, x)
    assert maps["nl_1"].is_signed is (instantiation == "dot_product")


def test_output_is_unchanged_and_no_hook_stays():
    model = randomize_(nl.create_model("nl_digits")).eval()
    x = torch.rand(2, 1, 28, 28)
    expected = model(x)
    with nl.capture_affinity(model, ["nl_2"]) as maps:
        assert torch.equal(model(x), expected)
    assert list(maps) == ["nl_2"]
    with pytest.raises(RuntimeError, match="inside"), nl.capture_affinity(model):
        raise RuntimeError("inside")
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in model.modules())


def test_a_second_run_replaces_the_maps_of_the_first():
    model = randomize_(nl.create_model("nl_digits")).eval()
    first, second = torch.rand(2, 2, 1, 28, 28)
    with nl.capture_affinity(model) as maps:
        model(first)
        before = maps["nl_2"].affinity
        model(second)
    assert torch.equal(maps["nl_2"].input, second)
    assert not torch.allclose(maps["nl_2"].affinity, before)


@pytest.mark.parametrize("sides", BLOCKS)
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_rows_are_those_of_the_whole_map(instantiation, sides):
    kind, shape = BLOCKS[sides]
    block = randomize_(kind(6, instantiation=instantiation))
    x = torch.randn(2, 6, *shape)
    shown = captured(block, x)
    whole = block.affinity(x).view(2, *shape, *shown.key_grid.sides)
    queries = [tuple(0 for _ in shape), tuple(side - 1 for side in shape), tuple(side // 2 for side in shape)]
    rows = shown.rows(queries)
    assert rows.shape == (2, 3, *shown.key_grid.sides)
    for number, query in enumerate(queries):
        assert_near(rows[:, number], whole[(slice(None), *query)])
        assert_near(shown.of_query(*query), whole[(slice(None), *query)])
    assert torch.equal(shown.of_query(*[-1] * sides), shown.of_query(*queries[1]))


def test_queries_that_do_not_exist():
    shown = captured(nl.NonLocal2d(4), torch.randn(1, 4, 6, 11))
    for wrong in ((6, 0), (0, 11), (0,), (-7, 0), (0.5, 1)):
        with pytest.raises(ValueError, match=r"query must be a place in \(6, 11\)"):
            shown.of_query(*wrong)


@pytest.mark.parametrize("extent", ["spacetime", "space", "time", 2])
def test_recorded_queries_only(extent):
    block = randomize_(nl.NonLocal3d(4, extent=extent))
    x = torch.randn(2, 4, 4, 6, 5)
    queries = [(3, 5, 4), (0, 2, 1), (-1, 0, 0)]
    few, everything = captured(block, x, queries), captured(block, x)
    assert few.theta.shape == (2, 3, block.inter_channels)
    assert few.queries == ((3, 5, 4), (0, 2, 1), (3, 0, 0))
    assert few.all_queries() == list(few.queries)
    assert_near(few.affinity, everything.rows(queries).flatten(2))
    assert_near(few.rows([(3, 0, 0), (3, 5, 4)]), everything.rows([(3, 0, 0), (3, 5, 4)]))
    with pytest.raises(ValueError, match=r"query \(1, 0, 0\) was not recorded; those recorded are"):
        few.of_query(1, 0, 0)
    with pytest.raises(ValueError, match=r"query must be a place in \(4, 6, 5\); got \(4, 0, 0\)"):
        captured(block, x, [(4, 0, 0)])


@pytest.mark.parametrize(
    ("extent", "groups", "query_shape", "key_shape"),
    [
        ("spacetime", 1, (4, 6, 5), (4, 3, 2)),
        ("space", 4, (6, 5), (3, 2)),
        ("time", 30, (4,), (2,)),
        (2, 2, (2, 6, 5), (2, 3, 2)),
    ],
)
def test_extents(extent, groups, query_shape, key_shape):
    block = randomize_(nl.NonLocal3d(4, extent=extent))
    x = torch.randn(3, 4, 4, 6, 5)
    shown = captured(block, x)
    assert (shown.query_shape, shown.key_shape) == (query_shape, key_shape)
    numbers = [torch.Size(shape).numel() for shape in (query_shape, key_shape)]
    assert shown.affinity.shape == (3 * groups, *numbers)
    assert_near(shown.affinity, block.affinity(x))


def members(position, sides, extent):
    """Name the group of a position, and its place in it."""
    t, y, x = position
    _, height, width = sides
    return {
        "space": (t, (y * width + x)),
        "time": (y * width + x, t),
        2: (t // 2, (t % 2 * height + y) * width + x),
    }[extent]


@pytest.mark.parametrize("extent", ["space", "time", 2])
def test_rows_of_groups_lie_at_their_place_in_the_clip(extent):
    block = randomize_(nl.NonLocal3d(4, extent=extent, instantiation="dot_product"))
    x = torch.randn(2, 4, 4, 6, 5)
    shown = captured(block, x)
    whole = block.affinity(x).unflatten(0, (2, -1))
    query = (2, 3, 1)
    row = shown.of_query(*query)
    group, place = members(query, shown.grid.sides, extent)
    for key in itertools.product(*map(range, shown.key_grid.sides)):
        key_group, key_place = members(key, shown.key_grid.sides, extent)
        expected = whole[:, group, place, key_place] if key_group == group else torch.zeros(2)
        assert_near(row[(slice(None), *key)], expected)


@pytest.mark.parametrize("instantiation", ["dot_product", "embedded_gaussian"])
def test_top_keys(instantiation, monkeypatch):
    block = randomize_(nl.NonLocal2d(6, instantiation=instantiation))
    shown = captured(block, torch.randn(2, 6, 6, 11))
    # Two queries at a time, so that parts have to be put together.
    monkeypatch.setattr("nonlocalnn.affinity.rows._CHUNK", 2 * 2 * 15)
    queries = list(itertools.product(range(0, 6, 2), (3, 8, 10)))
    weights, places = shown.top(queries, 4)
    assert weights.shape == (2, 9, 4)
    assert places.shape == (2, 9, 4, 2)
    rows = shown.rows(queries)
    for sample, query in itertools.product(range(2), range(9)):
        expected = sorted(rows[sample, query].flatten().tolist(), key=abs, reverse=True)[:4]
        assert_near(weights[sample, query], torch.tensor(expected))
        found = [float(rows[sample, query][tuple(place)]) for place in places[sample, query].tolist()]
        assert_near(torch.tensor(found), weights[sample, query])
    for wrong in (0, 16):
        with pytest.raises(ValueError, match=f"k must be from 1 to the number of keys, 15; got {wrong}"):
            shown.top(queries, wrong)


@pytest.mark.parametrize("instantiation", ["gaussian", "dot_product"])
def test_under_autocast(instantiation):
    block = randomize_(nl.NonLocal2d(8, instantiation=instantiation))
    x = torch.randn(1, 8, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        shown = captured(block, x)
        expected = block.affinity(x)
    assert shown.affinity.dtype == shown.of_query(0, 0).dtype == torch.float32
    assert_near(shown.affinity, expected)
    assert_near(shown.of_query(1, 2), expected[:, 8].view(1, 3, 3))


def test_under_distributed_data_parallel(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = randomize_(nl.create_model("nl_digits")).eval()
        parallel = nn.parallel.DistributedDataParallel(model)
        x = torch.rand(2, 1, 28, 28)
        with nl.capture_affinity(parallel, ["module.nl_1"]) as maps:
            parallel(x)
        with nl.capture_affinity(model, ["nl_1"]) as expected:
            model(x)
    finally:
        distributed.destroy_process_group()
    assert torch.equal(maps["module.nl_1"].affinity, expected["nl_1"].affinity)
    assert maps["module.nl_1"].grid == expected["nl_1"].grid


def test_what_is_recorded_is_no_view_of_what_the_model_changes_in_place():
    block = randomize_(nl.NonLocal2d(4, instantiation="gaussian", sub_sample=None))

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x):
            z = self.block(x)
            x.zero_()
            return z

    x = torch.randn(1, 4, 3, 3)
    expected, model = block.affinity(x), InPlace()
    given = x.clone()
    with torch.no_grad(), nl.capture_affinity(model) as maps:
        model(x)
    assert_near(maps["block"].affinity, expected)
    assert torch.equal(maps["block"].input, given)


def test_no_tensor_of_n_times_m(monkeypatch):
    monkeypatch.setattr("nonlocalnn.functional.sizes.MOST_WEIGHTS", 0)
    monkeypatch.setattr("nonlocalnn.affinity.rows._CHUNK", 2**12)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nl.NonLocal2d(16)).eval()
    with LargestTensor() as seen, torch.no_grad(), nl.capture_affinity(model) as maps:
        model(torch.rand(1, 3, 40, 60))
        maps["1"].rows([(20, 7), (39, 59)])
        maps["1"].top([(5, 5)] * 100, 3)
        summarise(maps["1"])
    # The embeddings are the largest: 2,400 positions of 16 channels, where the map has 2,400 x 600 weights.
    assert seen.largest <= 2400 * 16


def test_wrong_calls():
    with pytest.raises(ValueError, match="queries must name at least one place; None records all"):
        captured(nl.NonLocal2d(4), torch.randn(1, 4, 6, 11), [])
    with (
        pytest.raises(ValueError, match="the model has no non-local block"),
        nl.capture_affinity(nn.Linear(2, 2)),
    ):
        pass
    model = nl.create_model("nl_digits")
    with (
        pytest.raises(
            ValueError, match=r"no non-local block 'nl_3' \(did you mean 'nl_[12]'\?\); it has nl_1"
        ),
        nl.capture_affinity(model, ["nl_3"]),
    ):
        pass


def test_a_name_without_a_map_says_which_there_are():
    model = nl.create_model("nl_digits").eval()
    with nl.capture_affinity(model) as maps:
        with pytest.raises(KeyError, match="there is no map of 'nl_1'; no block has run yet: run the model"):
            maps["nl_1"]
        model(torch.rand(1, 1, 28, 28))
    with pytest.raises(KeyError, match=r"of 'nl1' \(did you mean 'nl_1'\?\); there are maps of nl_1, nl_2"):
        maps["nl1"]
    with pytest.raises(KeyError, match="no map of 2; there are maps of nl_1, nl_2"):
        maps[2]
    assert "nl1" not in maps
    assert maps.get("nl1") is None
