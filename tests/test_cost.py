"""What a network is said to cost: counted by hand, by PyTorch and by what autograd really keeps."""

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nonlocalnn as nl
from helpers import BLOCKS, SIDES, SUB_SAMPLES
from nonlocalnn.cli import main
from nonlocalnn.models.cost import Cost
from tolerances import assert_same

B, C, E = 2, 6, 4
every_form = pytest.mark.parametrize("instantiation", nl.functional.INSTANTIATIONS)
every_sub_sample = pytest.mark.parametrize("sub_sample", SUB_SAMPLES)


def only_block(block, *sides):
    """Return the cost of the one block for one map, and check that it is that of the whole."""
    total = nl.cost(block, (B, block.in_channels, *sides))
    (counted,) = total.blocks
    for name in ("num_parameters", "flops", "materialised_flops", "affinity_bytes", "memory_bytes"):
        assert getattr(total, name) == getattr(counted, name)
    return counted


# Parameters and FLOPs of whole networks


def digits_flops_by_hand(nl_1, nl_2):
    """2 x multiply-adds: 3x3 convolutions on 28, 14 and 7 pixels, two linear layers, two blocks."""
    convolutions = 28**2 * 1 * 32 * 9 + 14**2 * 32 * 64 * 9 + 7**2 * 64 * 128 * 9
    linear = 128 * 3 * 3 * 256 + 256 * 10
    return 2 * (convolutions + linear + nl_1 + nl_2)


def test_digits_by_hand():
    # 14x14 queries and 7x7 keys of 32 channels, then 7x7 and 3x3 of 64; four 1x1 convolutions each.
    nl_1 = 4 * 196 * 32 * 16 + 196 * 49 * (16 + 16)
    nl_2 = 4 * 49 * 64 * 32 + 49 * 9 * (32 + 32)
    total = nl.cost("nl_digits", (1, 1, 28, 28))
    assert total.flops == total.materialised_flops == digits_flops_by_hand(nl_1, nl_2)
    assert [block.flops for block in total.blocks] == [2 * nl_1, 2 * nl_2]
    assert total.affinity_bytes == 4 * (196 * 49 + 49 * 9)
    assert nl.cost("nl_digits", (5, 1, 28, 28)).flops == 5 * total.flops


def test_digits_without_blocks_by_hand():
    total = nl.cost(nl.create_model("nl_digits", blocks=False), (1, 1, 28, 28))
    assert total.flops == total.materialised_flops == digits_flops_by_hand(0, 0)
    assert total.blocks == ()
    assert total.affinity_bytes == total.memory_bytes == 0


@every_form
def test_parameters_and_places_of_blocks(instantiation):
    model = nl.create_model("nl_digits", instantiation=instantiation)
    total = nl.cost(model, (3, 1, 28, 28))
    assert total.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    first, second = total.blocks
    assert (first.name, first.input_shape, second.name) == ("nl_1", (3, 32, 14, 14), "nl_2")
    assert first.num_parameters == sum(parameter.numel() for parameter in model.nl_1.parameters())
    assert first.instantiation == instantiation
    assert first.affinity_bytes == 3 * 196 * 49 * 4


def test_plain_network_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 10, 1, groups=2), nn.Flatten(), nn.Linear(90, 7)
    )
    # 7x7 pixels become 3x3.
    multiply_adds = B * (9 * 8 * 3 * 9 + 9 * 10 * 4 + 90 * 7)
    assert nl.cost(model, (B, 3, 7, 7)).flops == 2 * multiply_adds


def test_attention_outside_the_blocks_is_counted():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    multiply_adds = B * (5 * 8 * 8 * 4 + 5 * 5 * 8 * 2 + 5 * 8 * 16 * 2)
    assert nl.cost(layer, (B, 5, 8)).flops == 2 * multiply_adds


def test_a_block_that_runs_twice_counts_twice():
    block = nl.NonLocal1d(C)
    total = nl.cost(nn.Sequential(block, nn.MaxPool1d(2), block), (B, C, 22))
    assert [(each.name, each.num_queries) for each in total.blocks] == [("0", 22), ("0", 11)]
    assert total.num_parameters == sum(parameter.numel() for parameter in block.parameters())


def test_shared_weights_count_once():
    model = nn.Sequential(nn.Linear(C, C), nn.Linear(C, C))
    model[1].weight = model[0].weight
    assert nl.cost(model, (B, C)).num_parameters == C * C + 2 * C


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_changes_nothing(dtype):
    model = nl.create_model("nl_digits")
    assert nl.cost(copy.deepcopy(model).to(dtype), (1, 1, 28, 28)) == nl.cost(model, (1, 1, 28, 28))


# Blocks


# PyTorch doesn't know the operator of the concatenation form, which is counted by hand below.
@pytest.mark.parametrize("instantiation", ["gaussian", "embedded_gaussian", "dot_product"])
@every_sub_sample
@pytest.mark.parametrize("num_sides", [1, 2, 3])
def test_block_flops_equal_those_that_pytorch_counts(instantiation, sub_sample, num_sides):
    sides = SIDES[num_sides]
    block = BLOCKS[num_sides](C, inter_channels=E, instantiation=instantiation, sub_sample=sub_sample)
    # Plain attention: PyTorch's counter knows no fused one on the CPU.
    with (
        FlopCounterMode(display=False) as counter,
        nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH),
    ):
        block(torch.randn(B, C, *sides))
    assert only_block(block, *sides).flops == counter.get_total_flops()


@every_form
@every_sub_sample
def test_materialised_flops_equal_those_of_the_affinity(instantiation, sub_sample):
    """The reference engine's products, and the 1x1 convolutions as PyTorch counts them."""
    block = nl.NonLocal2d(C, inter_channels=E, instantiation=instantiation, sub_sample=sub_sample)
    x = torch.randn(B, C, *SIDES[2])
    with FlopCounterMode(display=False) as counter:
        f = block.affinity(x)  # which projects g as well
        g = torch.randn(B, f.shape[2], E)
        block.W_z((f @ g).mT.unflatten(2, SIDES[2]))
    expected = counter.get_total_flops()
    if instantiation == "concatenation":
        # Products with a vector, which the counter leaves out: w_f with theta and phi.
        expected += 2 * B * E * (f.shape[1] + f.shape[2])
    assert only_block(block, *SIDES[2]).materialised_flops == expected


@pytest.mark.parametrize(
    ("sub_sample", "keys", "theta_and_phi"),
    [
        ("after", 18, 91 * C + C * E + 91 * C * E + 18 * E),
        ("before", 18, 91 * C + 18 * C + 2 * C * E / B),
        (None, 91, 91 * C + 91 * C + 2 * C * E / B),
    ],
    ids=str,
)
def test_concatenation_by_hand(sub_sample, keys, theta_and_phi):
    block = nl.NonLocal2d(C, inter_channels=E, instantiation="concatenation", sub_sample=sub_sample)
    if sub_sample == "after":
        theta_and_phi += C * E / B - C * E  # folded once for the whole batch
    projected = keys if sub_sample == "before" else 91
    g_and_W_z = projected * C * E + 91 * E * C
    counted = only_block(block, 7, 13)
    assert counted.flops == 2 * B * (g_and_W_z + theta_and_phi + 18 * 91 * E + 2 * keys * E)


def test_dot_product_saves_what_it_reassociates():
    counted = only_block(nl.NonLocal2d(C, inter_channels=E, instantiation="dot_product"), 7, 13)
    saved = B * (91 * 18 * (E + E) - (91 + 18) * E * E)
    assert counted.materialised_flops - counted.flops == 2 * saved


def test_gaussian_is_as_wide_as_its_input():
    counted = only_block(nl.NonLocal2d(C, inter_channels=E, instantiation="gaussian"), 7, 13)
    outer = 2 * 91 * C * E
    assert counted.materialised_flops == 2 * B * (outer + 91 * 18 * (C + E))
    assert counted.flops == counted.materialised_flops


def test_sub_sampling_before_projects_fewer_positions():
    after, before = (
        only_block(nl.NonLocal2d(C, inter_channels=E, sub_sample=s), 7, 13) for s in ("after", "before")
    )
    assert after.num_keys == before.num_keys == 18
    assert after.flops - before.flops == 2 * B * 2 * (91 - 18) * C * E


@pytest.mark.parametrize(
    ("extent", "groups", "queries", "keys"),
    [("spacetime", 1, 4 * 45, 4 * 8), ("space", 4, 45, 8), ("time", 45, 4, 2), (2, 2, 2 * 45, 2 * 8)],
    ids=str,
)
def test_extents(extent, groups, queries, keys):
    counted = only_block(nl.NonLocal3d(C, inter_channels=E, extent=extent), 4, 9, 5)
    assert (counted.num_groups, counted.num_queries, counted.num_keys) == (groups, queries, keys)
    assert counted.affinity_bytes == B * groups * queries * keys * 4
    assert counted.flops == 2 * B * (4 * 180 * C * E + groups * queries * keys * 2 * E)


@pytest.mark.parametrize("instantiation", ["gaussian", "embedded_gaussian", "dot_product"])
@every_sub_sample
@pytest.mark.parametrize("with_context", [False, True])
def test_flops_with_heads_widths_and_a_context(instantiation, sub_sample, with_context):
    is_gaussian = instantiation == "gaussian"
    block = nl.NonLocal2d(
        8,
        inter_channels=12 if is_gaussian else 4,
        value_channels=None if is_gaussian else 12,
        num_heads=2,
        instantiation=instantiation,
        sub_sample=sub_sample,
        context_channels=(8 if is_gaussian else 5) if with_context else None,
        norm="group",
    )
    context = [torch.randn(B, 8 if is_gaussian else 5, 11, 4)] if with_context else []

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block

        def forward(self, x):
            return self.block(x, *[part.to(x.device) for part in context])

    with (
        FlopCounterMode(display=False) as counter,
        nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH),
    ):
        block(torch.randn(B, 8, 7, 13), *context)
    assert nl.cost(Network(), (B, 8, 7, 13)).flops == counter.get_total_flops()


# Memory


def kept_bytes(block, x):
    """Return the bytes that autograd keeps beyond x, parameters and vectors of C numbers."""
    known = {tensor.untyped_storage().data_ptr() for tensor in [x, *block.parameters(), *block.buffers()]}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage, tensor  # held, so that no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = block(x)
    del y
    return sum(storage.nbytes() for storage, _ in kept.values() if storage.nbytes() != 4 * x.shape[1])


def tables_bytes(groups, *counts):
    """What the concatenation form's backward pass builds for the queries and for the keys."""
    places = [(count // 16 + 1) * 16 for count in counts]
    return groups * sum(18 * E * 4 * n // 16 + n * (18 * 8 + 16 * 4) for n in places)


@every_form
@every_sub_sample
@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize(
    ("num_sides", "extent"),
    [(1, "spacetime"), (2, "spacetime"), (3, "spacetime"), (3, "space"), (3, "time"), (3, 1)],
    ids=str,
)
@pytest.mark.parametrize("batch", [1, B])
def test_memory_is_what_autograd_keeps(
    instantiation, sub_sample, norm, num_sides, extent, batch, monkeypatch
):
    monkeypatch.setattr("nonlocalnn.functional.sizes.MOST_WEIGHTS", 0)
    sides = SIDES[num_sides]
    block = BLOCKS[num_sides](
        C, inter_channels=E, instantiation=instantiation, sub_sample=sub_sample, norm=norm, extent=extent
    )
    (counted,) = nl.cost(block, (batch, C, *sides)).blocks
    expected = kept_bytes(block, torch.randn(batch, C, *sides, requires_grad=True))
    if instantiation == "concatenation":
        expected += tables_bytes(batch * counted.num_groups, counted.num_queries, counted.num_keys)
    assert counted.memory_bytes == expected


@every_form
@every_sub_sample
@pytest.mark.parametrize(
    "settings",
    [{"num_heads": 3}, {"num_heads": 3, "pool_size": (1, 3)}, {"pre_norm": "batch"}],
    ids=str,
)
def test_memory_of_other_settings_is_what_autograd_keeps(instantiation, sub_sample, settings, monkeypatch):
    monkeypatch.setattr("nonlocalnn.functional.sizes.MOST_WEIGHTS", 0)
    if sub_sample is None:
        settings = {name: value for name, value in settings.items() if name != "pool_size"}
    width, heads = 6, settings.get("num_heads", 1)
    block = nl.NonLocal2d(
        12, inter_channels=width, instantiation=instantiation, sub_sample=sub_sample, **settings
    )
    (counted,) = nl.cost(block, (B, 12, 7, 13)).blocks
    expected = kept_bytes(block, torch.randn(B, 12, 7, 13, requires_grad=True))
    if instantiation == "concatenation":
        places = [(count // 16 + 1) * 16 for count in (counted.num_queries, counted.num_keys)]
        expected += B * sum(18 * width * 4 * n // 16 + heads * n * (18 * 8 + 16 * 4) for n in places)
        # theta's and phi's weights times w_f, a vector of C numbers a head.
        expected -= 0 if heads == 1 else (1 if sub_sample == "after" else 2) * heads * 12 * 4
    assert counted.memory_bytes == expected


@every_form
def test_memory_grows_with_the_positions_and_the_affinity_with_their_square(instantiation):
    block = nl.NonLocal1d(C, instantiation=instantiation)
    small, large = only_block(block, 1600), only_block(block, 16000)
    assert large.affinity_bytes == 100 * small.affinity_bytes
    assert large.memory_bytes < 10.1 * small.memory_bytes


# The model stays as it is


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(training):
    model = nl.create_model("nl_digits").train(training)
    model.conv_1.train(not training)
    seen = []
    handle = model.nl_1.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.nl_1.register_forward_hook(lambda *_: seen.append("after"))
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    nl.cost(model, (4, 1, 28, 28))
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in model.modules()]
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert_same(model.state_dict(), state)
    assert "forward" not in vars(model.nl_1)
    assert seen == []
    assert len(model.nl_1._forward_hooks) == len(model.nl_1._forward_pre_hooks) == 1
    handle.remove()
    model(torch.rand(2, 1, 28, 28))
    assert seen == ["after"]


def test_what_a_forward_pass_left_in_a_model_is_no_hindrance():
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model.kept, model.more = model(torch.rand(1, 3, 4, 4)), {"map": model(torch.rand(1, 3, 4, 4))}
    assert nl.cost(model, (1, 3, 4, 4)).flops == 2 * 3 * 4 * 16


def test_a_name_draws_no_random_number():
    random = torch.get_rng_state()
    nl.cost("nl_digits", (1, 1, 28, 28))
    assert torch.equal(random, torch.get_rng_state())


def test_nothing_is_computed():
    """Videos of 98 GiB, whose affinity takes 38 TiB."""
    assert nl.cost(nl.NonLocal3d(512), (64, 512, 64, 112, 112)).affinity_bytes > 2**45


# Errors


@pytest.mark.parametrize(
    "shape", [[1, 1, 28, 28], (1, 0, 28, 28), (1, 1.0, 28, 28), (True, 1, 28, 28), 28, "1"]
)
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match="input_shape must be a tuple of whole numbers of at least 1"):
        nl.cost("nl_digits", shape)


def test_blocks_refuse_as_they_do_when_run():
    for block, shape in (
        (nl.NonLocal2d(C), (B, C, 7)),
        (nl.NonLocal2d(C), (B, C + 1, 7, 13)),
        (nl.NonLocal3d(C, extent=2), (B, C, 3, 9, 5)),
    ):
        with pytest.raises(ValueError) as run:  # noqa: PT011 (both messages are compared)
            block(torch.randn(shape))
        with pytest.raises(ValueError) as counted:  # noqa: PT011
            nl.cost(block, shape)
        assert str(counted.value) == str(run.value)


def test_layers_refuse_by_themselves():
    with pytest.raises(RuntimeError):
        nl.cost("nl_digits", (1, 1, 40, 40))


def test_unknown_models():
    with pytest.raises(ValueError, match="did you mean 'nl_digits'"):
        nl.cost("nl_digit", (1, 1, 28, 28))
    with pytest.raises(TypeError, match=r"model must be an nn.Module or a name of list_models\(\); got int"):
        nl.cost(3, (1, 1, 28, 28))


# The table and the command


def test_table():
    total = nl.cost("nl_digits", (1, 1, 28, 28))
    head, first, _, outside, last = str(total).splitlines()
    ours = f"{total.blocks[0].memory_bytes / 2**20:.3f}"
    shown = f"nl_1 (embedded_gaussian) 1x32x14x14 196 49 0.0022 0.0014 0.0014 0.037 {ours}"
    assert first.split() == shown.split()
    assert last.split()[:5] == ["in", "all", "1x1x28x28", "0.4015", "0.0178"]
    assert outside.split() == ["outside", "the", "blocks", "0.0155", "0.0155"]
    assert len(head) == len(first) == len(last)
    assert all(unit in head for unit in ("M parameters", "GFLOPs", "affinity MiB", "ours MiB"))


def test_table_of_a_block_and_of_none():
    assert "block (gaussian)" in str(nl.cost(nl.NonLocal1d(C, instantiation="gaussian"), (B, C, 23)))
    assert len(str(nl.cost(nn.Linear(C, E), (B, C))).splitlines()) == 3


def test_costs_are_values():
    total = nl.cost("nl_digits", (1, 1, 28, 28))
    assert isinstance(total, Cost)
    assert total == nl.cost("nl_digits", (1, 1, 28, 28))
    with pytest.raises(dataclasses.FrozenInstanceError):
        total.flops = 0


def test_command_table(capsys):
    assert main(["cost", "nl_digits"]) == 0
    assert capsys.readouterr().out == f"{nl.cost('nl_digits', (1, 1, 28, 28))}\n"


def test_command_json(capsys):
    assert main(["cost", "nl_digits", "--input", "3,1,28,28", "--json"]) == 0
    total = nl.cost("nl_digits", (3, 1, 28, 28))
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(dataclasses.asdict(total)))


def test_command_on_checkpoints(capsys, tmp_path):
    model = nl.create_model("nl_digits", instantiation="gaussian", in_channels=3, image_size=(32, 16))
    run = tmp_path / "run"
    run.mkdir()
    path = run / "best.safetensors"
    facts = {"classes": list("0123456789"), "image_size": [32, 16], "channels": 3}
    nl.save_checkpoint(model, path, metadata=facts)
    for words, shape in (
        ([path], (1, 3, 32, 16)),
        ([run], (1, 3, 32, 16)),
        ([path, "--input", "2,3,32,16"], (2, 3, 32, 16)),
        ([run, "--input", "2,3,32,16"], (2, 3, 32, 16)),
    ):
        assert main(["cost", *map(str, words)]) == 0
        assert capsys.readouterr().out == f"{nl.cost(model, shape)}\n"


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["nl_digit"], 1, "neither a network (see nonlocalnn models) nor a file (did you mean 'nl_digits'?)"),
        (["nl_digits", "--input", "1,3,28,28"], 1, "does not take an input of shape (1, 3, 28, 28)"),
        (["nl_digits", "--input", "1x1x28x28"], 2, "a shape is B,C,H,W, as in 1,1,28,28; got '1x1x28x28'"),
        (["nl_digits", "--input", "0,1,28,28"], 2, "a shape is B,C,H,W"),
        ([], 2, "MODEL"),
    ],
    ids=str,
)
def test_command_refuses(capsys, words, status, says):
    assert main(["cost", *words]) == status
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_command_help_has_an_example(capsys):
    assert main(["cost", "--help"]) == 0
    assert "nonlocalnn cost nl_digits\n" in capsys.readouterr().out
