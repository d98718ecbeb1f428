"""Heads, widths, contexts, masks, windows and norms of the block, beside one that loops over all of them."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import nn

from helpers import BLOCKS, SUB_SAMPLES, randomize_
from nonlocalnn import NonLocal1d, NonLocal2d, NonLocal3d, functional, real_positions
from nonlocalnn.functional import INSTANTIATIONS, SOFTMAX_INSTANTIATIONS
from nonlocalnn.functional.norms import MapLayerNorm
from slow_block import padded_block
from tolerances import BLOCK, NETWORK, assert_near, assert_same

C, INNER, VALUES, OTHER = 8, 4, 12, 5
# Different primes where that can be; the second sample is smaller, with sides that pooling floors.
SIDES = {1: (11,), 2: (7, 5), 3: (3, 5, 7)}
SIZES = {1: [(11,), (7,)], 2: [(7, 5), (5, 3)], 3: [(3, 5, 7), (2, 5, 3)]}
CONTEXT_SIDES = {1: (13,), 2: (5, 11), 3: (2, 7, 3)}
CONTEXT_SIZES = {1: [(5,), (13,)], 2: [(3, 7), (5, 11)], 3: [(2, 5, 3), (1, 7, 1)]}
forms = pytest.mark.parametrize("instantiation", INSTANTIATIONS)
# PyTorch's forward-mode derivatives compile some of their formulas when they are first used.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
ranks = pytest.mark.parametrize("sides", BLOCKS, ids=["1d", "2d", "3d"])


def made(sides, **settings):
    """A block in float64 whose every parameter and statistic is random, in eval mode."""
    return randomize_(BLOCKS[sides](C, **settings)).double().eval()


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def mask_of(sizes, sides):
    """True where positions are real: from the beginning of each side."""
    mask = torch.zeros(len(sizes), *sides, dtype=torch.bool)
    for sample, size in enumerate(sizes):
        mask[(sample, *map(slice, size))] = True
    return mask


def check_equal(block, x, context=None, sizes=None, key_sizes=None, sums=BLOCK):
    """Values at real places, and the gradients of all that these depend on."""
    masked = key_sizes if context is not None else sizes
    source = x if context is None else context
    key_mask = None if masked is None else mask_of(masked, source.shape[2:])
    results = []
    for run in (
        lambda x, context: block(x, context, key_mask=key_mask),
        lambda x, context: padded_block(block, x, context, sizes if context is None else None, key_sizes),
    ):
        leaves = [x.detach().clone().requires_grad_()]
        leaves += [] if context is None else [context.detach().clone().requires_grad_()]
        z = run(leaves[0], None if context is None else leaves[1])
        if context is None and sizes is not None:
            z = z.masked_fill(~mask_of(sizes, x.shape[2:]).unsqueeze(1), 0.0)
        slope = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view_as(z)
        parameters = list(block.parameters())
        gradients = torch.autograd.grad(z, [*leaves, *parameters], slope, materialize_grads=True)
        results.append((z, *gradients))
    assert_near(*results, sums=sums)


@pytest.mark.parametrize("with_context", [False, True], ids=["one map", "context"])
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
@ranks
@forms
def test_equals_the_slow_block(instantiation, sides, sub_sample, num_heads, masked, with_context):
    is_gaussian = instantiation == "gaussian"
    other = C if is_gaussian else OTHER
    block = made(
        sides,
        instantiation=instantiation,
        sub_sample=sub_sample,
        num_heads=num_heads,
        inter_channels=VALUES if is_gaussian else INNER,
        value_channels=None if is_gaussian else VALUES,
        context_channels=other if with_context else None,
        norm=None,
    )
    context = draw(2, other, *CONTEXT_SIDES[sides]) if with_context else None
    sizes, key_sizes = (SIZES[sides], CONTEXT_SIZES[sides]) if masked else (None, None)
    check_equal(block, draw(2, C, *SIDES[sides]), context, sizes, key_sizes)


def one_group(channels):
    """Of one group, since groups of few numbers have small deviations, by which rounding is divided."""
    return nn.GroupNorm(1, channels)


@pytest.mark.parametrize("pre_norm", ["batch", one_group, "layer"], ids=["batch", "group", "layer"])
@pytest.mark.parametrize("norm", ["batch", one_group, "layer"], ids=["batch", "group", "layer"])
@forms
def test_norms_before_and_after(instantiation, norm, pre_norm):
    settings = {"instantiation": instantiation, "norm": norm, "pre_norm": pre_norm}
    check_equal(made(2, **settings), draw(2, C, 7, 5), sizes=SIZES[2], sums=NETWORK)
    other = C if instantiation == "gaussian" else OTHER
    block = made(2, context_channels=other, **settings)
    assert block.context_norm is not None
    check_equal(block, draw(2, C, 7, 5), draw(2, other, 5, 11), key_sizes=CONTEXT_SIZES[2], sums=NETWORK)


@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
@pytest.mark.parametrize("extent", ["space", "time", 1, 2])
@forms
def test_extents_have_a_mask_a_group(instantiation, extent, sub_sample):
    block = made(3, instantiation=instantiation, extent=extent, sub_sample=sub_sample, num_heads=2, norm=None)
    check_equal(block, draw(2, C, 6, 5, 3), sizes=[(6, 5, 3), (4, 3, 2)])
    same = {"time": (7, 5, 3), "space": (6, 3, 7)}.get(extent, (6, 3, 7))
    check_equal(block, draw(2, C, 6, 5, 3), draw(2, C, *same))


@pytest.mark.parametrize("sub_sample", ["after", "before"])
@pytest.mark.parametrize(
    ("sides", "settings"),
    [
        (1, {"pool_size": 3}),
        (2, {"pool_size": (1, 3)}),
        (2, {"pool_size": [4, 2]}),
        (3, {"pool_size": (2, 2, 2)}),
        (3, {"pool_size": (3, 1, 1)}),
        (3, {"pool_size": (1, 3, 2), "extent": "space"}),
        (3, {"pool_size": (3, 1, 1), "extent": "time"}),
    ],
    ids=str,
)
def test_windows_of_any_size(sides, settings, sub_sample):
    for instantiation in ("gaussian", "embedded_gaussian"):
        block = made(sides, instantiation=instantiation, sub_sample=sub_sample, norm=None, **settings)
        x = draw(2, C, *SIDES[sides])
        check_equal(block, x)
        check_equal(block, x, sizes=SIZES[sides])
        assert (
            block.affinity(x).shape[0] * block.affinity(x).shape[2]
            == 2 * torch.Size(block.key_sides(x.shape[2:])).numel()
        )


@pytest.mark.parametrize(("height", "width"), list(itertools.product(range(1, 6), range(1, 6))))
def test_every_size_of_a_padded_image_has_the_keys_that_it_has_alone(height, width):
    for sub_sample in ("after", "before"):
        block = made(2, sub_sample=sub_sample, pool_size=(2, 3), norm=None)
        check_equal(block, draw(2, C, 6, 7), sizes=[(6, 7), (height, width)])


@forms
@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
def test_real_positions_are_the_masks_of_every_map_in_a_network(instantiation, sub_sample):
    settings = {"instantiation": instantiation, "sub_sample": sub_sample, "zero_init": False}
    network = nn.Sequential(
        NonLocal2d(C, **settings, norm="layer"), nn.AvgPool2d(2, ceil_mode=True), NonLocal2d(C, **settings)
    )
    randomize_(network).double().eval()
    x, sizes = draw(3, C, 8, 12), [(8, 12), (6, 4), (2, 10)]
    with real_positions(sizes, (8, 12)):
        z = network(x)
    for sample, (height, width) in enumerate(sizes):
        alone = network(x[sample : sample + 1, :, :height, :width])
        assert_near(z[sample : sample + 1, :, : height // 2, : width // 2], alone)
    assert not torch.allclose(network(x), z)


def test_sizes_are_rounded_up_to_positions():
    block, x = made(2, sub_sample=None), draw(1, C, 4, 3)
    with real_positions(torch.tensor([[17, 20]]), (32, 30)):
        assert_near(block(x), block(x, key_mask=mask_of([(3, 2)], (4, 3))))


@forms
@ranks
def test_where_nothing_is_padded_not_a_bit_changes(instantiation, sides):
    for sub_sample, train in itertools.product(SUB_SAMPLES, (False, True)):
        block = made(sides, instantiation=instantiation, sub_sample=sub_sample).train(train)
        x = draw(2, C, *SIDES[sides])
        expected = copy.deepcopy(block)(x)
        assert_same(
            copy.deepcopy(block)(x, key_mask=torch.ones(2, *SIDES[sides], dtype=torch.bool)), expected
        )
        with real_positions([SIDES[sides]] * 2, SIDES[sides]):
            assert_same(copy.deepcopy(block)(x), expected)


@forms
@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("engine", ["small", "fused"])
def test_a_sample_without_a_real_key_has_y_zero(instantiation, sub_sample, num_heads, engine, monkeypatch):
    if engine == "fused":
        monkeypatch.setattr("nonlocalnn.functional.sizes.MOST_WEIGHTS", 0)
    block = made(2, instantiation=instantiation, sub_sample=sub_sample, num_heads=num_heads, norm=None)
    x = draw(2, C, 5, 3).requires_grad_()
    z = block(x, key_mask=mask_of([(5, 3), (0, 0)], (5, 3)))
    assert_near(z[1], x[1] + block.W_z.bias[:, None, None])
    gradients = torch.autograd.grad(z.square().sum(), [x, *block.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("gain", [1e-3, 30.0], ids=["flat", "sharp"])
@forms
def test_flat_and_sharp_logits(instantiation, gain):
    block = made(2, instantiation=instantiation, num_heads=2, norm=None)
    with torch.no_grad():
        for layer in (block.theta, block.phi):
            if layer is not None:
                layer.weight.mul_(gain)
    check_equal(block, draw(2, C, 7, 5), sizes=SIZES[2])


@pytest.mark.parametrize("num_heads", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_heads_are_those_of_multi_head_attention(num_heads, masked):
    theirs = nn.MultiheadAttention(
        C, num_heads, batch_first=True, kdim=OTHER, vdim=OTHER, dtype=torch.float64
    )
    block = made(
        1,
        inter_channels=C,
        num_heads=num_heads,
        context_channels=OTHER,
        sub_sample=None,
        use_scale=True,
        norm=None,
    )
    theirs.load_state_dict(
        {
            "q_proj_weight": block.theta.weight.squeeze(2),
            "k_proj_weight": block.phi.weight.squeeze(2),
            "v_proj_weight": block.g.weight.squeeze(2),
            "in_proj_bias": torch.cat([layer.bias for layer in (block.theta, block.phi, block.g)]),
            "out_proj.weight": block.W_z.weight.squeeze(2),
            "out_proj.bias": block.W_z.bias,
        }
    )
    x, context = draw(2, C, 7), draw(2, OTHER, 11)
    mask = mask_of([(11,), (5,)], (11,)) if masked else None
    keys = context.mT
    y, weights = theirs(
        x.mT, keys, keys, key_padding_mask=None if mask is None else ~mask, average_attn_weights=False
    )
    assert_near(block(x, context, key_mask=mask), x + y.mT)
    found = block.affinity(x, context, key_mask=mask)
    assert_near(found, weights if num_heads > 1 else weights[:, 0])


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@forms
def test_gradcheck(instantiation, masked, num_heads):
    block = randomize_(
        NonLocal1d(2, inter_channels=2, instantiation=instantiation, num_heads=num_heads, norm=None)
    ).double()
    x, context = draw(2, 2, 3).requires_grad_(), draw(2, 2, 5).requires_grad_()
    mask = mask_of([(5,), (2,)], (5,)) if masked else None
    assert torch.autograd.gradcheck(lambda x, context: block(x, context, key_mask=mask), (x, context))


@pytest.mark.parametrize("where", ["norm", "pre_norm"])
@ranks
def test_batch_statistics_are_of_real_positions(where, sides):
    block = made(sides, norm=None, **{where: "batch"}).train() if where == "pre_norm" else made(sides).train()
    norm, x, mask = getattr(block, where), draw(2, C, *SIDES[sides]), mask_of(SIZES[sides], SIDES[sides])
    seen = []
    # Unlike the norm, the layer before it is called with all positions.
    plain = copy.deepcopy(block)
    setattr(plain, where, nn.Identity() if where == "norm" else None)
    part = plain(x, key_mask=mask) - x if where == "norm" else x
    real = part.movedim(1, -1)[mask]
    expected = copy.deepcopy(norm)(real.view(*real.shape, *[1] * sides))
    reference = copy.deepcopy(norm)
    reference(real.view(*real.shape, *[1] * sides))
    if where == "norm":
        assert_near((block(x, key_mask=mask) - x).movedim(1, -1)[mask], expected.flatten(1))
    else:
        block(x, key_mask=mask)
    assert_near(dict(norm.named_buffers()), dict(reference.named_buffers()))
    seen.append(norm.running_mean.clone())
    block.eval()(x, key_mask=mask)
    assert_same(norm.running_mean, seen[0])


@pytest.mark.parametrize("momentum", [0.3, None])
def test_the_gradient_of_masked_statistics(momentum):
    block = made(1, sub_sample=None).train()
    block.norm.momentum = momentum
    mask = mask_of([(5,), (3,)], (5,))
    x = draw(2, C, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: block(x, key_mask=mask), x)
    assert block.norm.num_batches_tracked > 1


def test_settings_of_widths():
    block = NonLocal2d(10, num_heads=4)
    assert (block.inter_channels, block.value_channels, block.g.out_channels) == (4, 4, 4)
    block = NonLocal2d(8, inter_channels=2, value_channels=6, context_channels=3)
    shapes = {name: tuple(layer.weight.shape[:2]) for name, layer in block.named_children() if name != "norm"}
    assert shapes == {"theta": (2, 8), "phi": (2, 3), "g": (6, 3), "W_z": (8, 6)}
    assert NonLocal2d(8, instantiation="gaussian", value_channels=6).inter_channels == 6
    assert NonLocal2d(9, inter_channels=6, num_heads=3, use_scale=True).scale == 2**-0.5


NEW_KEYS = {
    "norm": ["norm.weight", "norm.bias"],
    "pre_norm": ["pre_norm.weight", "pre_norm.bias"],
    "context": ["context_norm.weight", "context_norm.bias"],
}


@pytest.mark.parametrize("norm", ["group", "layer", lambda channels: nn.GroupNorm(2, channels)])
def test_keys_never_change_with_a_setting(norm):
    plain = list(NonLocal3d(C, norm=None, instantiation="concatenation").state_dict())
    for settings in (
        {"num_heads": 2},
        {"value_channels": 6},
        {"pool_size": (2, 2, 2)},
        {"context_channels": 3},
    ):
        block = NonLocal3d(C, norm=None, instantiation="concatenation", **settings)
        assert list(block.state_dict()) == plain
    assert NonLocal3d(C, num_heads=2, instantiation="concatenation").w_f.shape == (8,)
    block = NonLocal3d(C, norm=norm, pre_norm=norm, context_channels=3 if norm == "layer" else 4)
    expected = [key for key in plain if key != "w_f"] + [key for keys in NEW_KEYS.values() for key in keys]
    assert list(block.state_dict()) == expected


@pytest.mark.parametrize("norm", ["batch", "group", "layer", lambda width: nn.GroupNorm(4, width)])
def test_zero_init_is_the_identity_whatever_the_norm(norm):
    x = torch.randn(2, C, 5, 3)
    settings = {"norm": norm, "pre_norm": "group", "num_heads": 2}
    assert_same(NonLocal2d(C, **settings)(x), x)
    assert not torch.allclose(NonLocal2d(C, zero_init=False, **settings)(x), x)


def test_names_of_norms():
    assert isinstance(NonLocal2d(C, norm="layer").norm, MapLayerNorm)
    assert NonLocal2d(48, norm="group").norm.num_groups == 16
    assert NonLocal2d(64, norm="group").norm.num_groups == 32


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@forms
def test_copies_pickles_fx_compile_and_export(instantiation, masked):
    block = made(2, instantiation=instantiation, num_heads=2, norm="group", pre_norm="layer")
    x, mask = draw(2, C, 7, 5), mask_of(SIZES[2], (7, 5)) if masked else None
    expected = block(x, key_mask=mask)
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block)), torch.fx.symbolic_trace(block)):
        assert_near(twin(x, key_mask=mask), expected)
    program = torch.export.export(block, (x,), {"key_mask": mask})
    assert_near(program.module()(x, key_mask=mask), expected)


@pytest.mark.parametrize(
    ("sides", "instantiation", "sub_sample"),
    [
        (2, "embedded_gaussian", "after"),
        *(
            pytest.param(sides, form, sub_sample, marks=pytest.mark.slow)
            for sides, form, sub_sample in (
                # The Gaussian of a sequence is refused: PyTorch asks for lengths other than 2 and 3.
                *((1, form, "after") for form in INSTANTIATIONS if form != "gaussian"),
                *((3, form, "before") for form in INSTANTIATIONS),
                *((2, form, "after") for form in INSTANTIATIONS if form != "embedded_gaussian"),
            )
        ),
    ],
)
def test_export_with_a_mask_and_open_sides(sides, instantiation, sub_sample):
    block = made(sides, instantiation=instantiation, sub_sample=sub_sample)
    open_sides = {axis: torch.export.Dim(f"side_{axis}", min=4) for axis in range(1, sides + 1)}
    batch = torch.export.Dim("batch")
    shapes = {
        "x": {0: batch, **{axis + 1: side for axis, side in open_sides.items()}},
        "key_mask": {0: batch, **open_sides},
    }
    example = (10, 12, 6)[:sides]
    program = torch.export.export(
        block,
        (draw(2, C, *example),),
        {"key_mask": mask_of([(4,) * sides, example], example)},
        dynamic_shapes=shapes,
    )
    for canvas in ((7, 13, 5)[:sides], (4, 4, 9)[:sides]):
        x, mask = draw(3, C, *canvas), mask_of([(3,) * sides, canvas, (4,) * sides], canvas)
        assert_near(program.module()(x, key_mask=mask), block(x, key_mask=mask))


@pytest.mark.slow  # other blocks are compiled in the fast tests
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_compile_in_one_graph_with_a_mask_and_a_context(train):
    """And the backward pass of both, also where one map is masked and one norm serves both maps."""
    torch.compiler.reset()
    block = made(2, instantiation="concatenation", num_heads=2, pre_norm="batch").train(train)
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="aot_eager")
    x, context = draw(2, C, 7, 5), draw(2, C, 5, 11)
    for given, mask in (
        ((x,), mask_of(SIZES[2], (7, 5))),
        ((x, context), mask_of(CONTEXT_SIZES[2], (5, 11))),
    ):
        results = []
        for module in (compiled, block):
            z = module(*given, key_mask=mask)
            results.append((z, *torch.autograd.grad(z.square().sum(), list(module.parameters()))))
        assert_near(*results)
    with real_positions(SIZES[2], (7, 5)):
        assert_near(compiled(x), block(x))


def test_a_graph_that_was_traced_with_a_context_and_a_mask_among_other_layers():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = made(1, context_channels=OTHER, norm="group")

        def forward(self, x, context, mask):
            return 2 * self.block(x, context, key_mask=mask)

    network = Network()
    x, context, mask = draw(2, C, 7), draw(2, OTHER, 13), mask_of(CONTEXT_SIZES[1], (13,))
    assert_near(torch.fx.symbolic_trace(network)(x, context, mask), network(x, context, mask))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # raised by vmap
@forms
def test_transforms_and_second_derivatives_with_heads_and_a_mask(instantiation):
    block = made(1, instantiation=instantiation, num_heads=2, norm=None, sub_sample="after")
    x, mask = draw(2, C, 5), mask_of([(5,), (3,)], (5,))
    assert torch.autograd.gradgradcheck(lambda x: block(x, key_mask=mask), x[:, :, :].requires_grad_())
    x = x.detach()
    each = torch.func.vmap(lambda x, mask: block(x.unsqueeze(0), key_mask=mask.unsqueeze(0)).squeeze(0))
    assert_near(each(x, mask), block(x, key_mask=mask))
    _, slope = torch.func.jvp(lambda x: block(x, key_mask=mask), (x,), (torch.ones_like(x),))
    step = 1e-6
    wanted = (block(x + step, key_mask=mask) - block(x - step, key_mask=mask)) / (2 * step)
    assert (slope - wanted).abs().max() < 1e-5 * wanted.abs().max().clamp(min=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@forms
def test_autocast_and_half_precision(instantiation, dtype):
    block = NonLocal2d(16, instantiation=instantiation, num_heads=2, norm=None, zero_init=False).eval()
    x, mask = torch.randn(2, 16, 7, 5), mask_of(SIZES[2], (7, 5))
    expected = block(x, key_mask=mask)
    with torch.autocast("cpu", dtype=dtype):
        assert_near(block(x, key_mask=mask), expected, dtype=dtype)
    z = copy.deepcopy(block).to(dtype)(x.to(dtype), key_mask=mask)
    assert z.dtype == dtype
    assert_near(z.float(), expected, dtype=dtype)


def test_the_meta_device_gives_shapes():
    with torch.device("meta"):
        block = NonLocal2d(C, num_heads=2, context_channels=3, pre_norm="batch")
        z = block(torch.empty(2, C, 7, 5), torch.empty(2, 3, 4, 9), key_mask=torch.ones(2, 4, 9).bool())
    assert z.is_meta
    assert z.shape == (2, C, 7, 5)


def test_memory_is_linear_with_heads_a_mask_and_a_context(monkeypatch):
    from functional.test_non_local import LargestTensor

    monkeypatch.setattr("nonlocalnn.functional.sizes.MOST_WEIGHTS", 0)
    for instantiation in INSTANTIATIONS:
        block = made(1, instantiation=instantiation, sub_sample=None, num_heads=2, norm="group").float()
        x, context = torch.randn(1, C, 1601, requires_grad=True), torch.randn(1, C, 1511)
        for source in (None, context):
            mask = torch.rand(1, 1601 if source is None else 1511) > 0.3
            with LargestTensor() as seen:
                block(x, source, key_mask=mask).sum().backward()
            assert seen.largest <= 1601 * 4 * C, instantiation


def test_a_block_from_before_these_settings_is_read():
    block = made(2)
    state = pickle.loads(pickle.dumps(block)).__getstate__()
    for name in ("value_channels", "context_channels", "num_heads", "pool_size"):
        del state[name]
    for name in ("pre_norm", "context_norm"):
        del state["_modules"][name]
    old = NonLocal2d.__new__(NonLocal2d)
    old.__setstate__(state)
    x = draw(2, C, 7, 5)
    assert_same(old(x), block(x))


def test_repr_names_what_is_unusual():
    text = repr(NonLocal2d(C, num_heads=2, pool_size=(2, 3), context_channels=3))
    assert "extent='spacetime', context_channels=3, num_heads=2, pool_size=(2, 3)" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 0}, "num_heads must be a whole number of at least 1; got 0"),
        ({"num_heads": 3}, "value_channels must be a multiple of num_heads = 3; got 4"),
        ({"num_heads": 3, "inter_channels": 4}, "inter_channels must be a multiple of num_heads = 3; got 4"),
        ({"num_heads": 3, "instantiation": "gaussian"}, "in_channels must be a multiple of num_heads = 3"),
        ({"value_channels": 0}, "value_channels must be a whole number"),
        ({"context_channels": True}, "context_channels must be a whole number"),
        ({"instantiation": "gaussian", "context_channels": 3}, "context_channels must be in_channels = 8"),
        (
            {"instantiation": "gaussian", "inter_channels": 4, "value_channels": 6},
            "the Gaussian has no theta and phi, and inter_channels is the width of g",
        ),
        ({"pool_size": 2}, "pool_size must be 3 whole numbers of at least 1, one for each side; got 2"),
        ({"pool_size": (2, 0, 2)}, "pool_size must be 3 whole numbers"),
        ({"pool_size": (1, 1, 1)}, "pools nothing: use sub_sample=None"),
        ({"pool_size": (1, 2, 2), "sub_sample": None}, "sub_sample=None has none: leave it out"),
        ({"pool_size": (2, 2, 2), "extent": "space"}, "pool_size must be 1 along T"),
        ({"pool_size": (2, 2, 2), "extent": 4}, "pool_size must be 1 along T"),
        ({"pool_size": (2, 2, 1), "extent": "time"}, "pool_size must be 1 along H and W"),
        ({"norm": "instance"}, "norm must be one of 'batch', 'group', 'layer', None; got 'instance'"),
        ({"pre_norm": "instance"}, "pre_norm must be one of"),
        ({"norm": nn.InstanceNorm3d}, "InstanceNorm3d, lacks one: give it both, or use zero_init=False"),
    ],
)
def test_wrong_settings(settings, message):
    if settings == {"num_heads": 3}:
        settings["inter_channels"], settings["value_channels"] = 3, 4
    with pytest.raises(ValueError, match=message):
        NonLocal3d(C, **settings)


def test_a_norm_by_a_function_must_be_a_module():
    with pytest.raises(TypeError, match="norm, as a function, must return a module; got int"):
        NonLocal2d(C, norm=lambda channels: channels)


@pytest.mark.parametrize(
    ("context", "mask", "message"),
    [
        (None, torch.ones(2, 4), r"key_mask must be bool, \(B, \*sides\) = \(2, 5, 3\)"),
        (None, torch.ones(2, 5, 4, dtype=torch.bool), r"got torch.bool, \(2, 5, 4\)"),
        (None, [[True]], "got list"),
        ((2, C, 4), None, r"context must be a map \(B, C, \*sides\) of 2 samples, 8 channels and 2 sides"),
        ((3, C, 4, 4), None, r"got shape \(3, 8, 4, 4\)"),
        ((2, 5, 4, 4), None, "8 channels"),
        ((2, C, 4, 0), None, "every side of context must be at least 1"),
    ],
)
def test_wrong_contexts_and_masks(context, mask, message):
    given = () if context is None else (torch.zeros(context),)
    with pytest.raises(ValueError, match=message):
        NonLocal2d(C)(torch.zeros(2, C, 5, 3), *given, key_mask=mask)


def test_contexts_of_other_kinds():
    x = torch.zeros(2, C, 5, 3)
    with pytest.raises(ValueError, match=r"context must have the type and device of x, torch\.float32"):
        NonLocal2d(C)(x, x.double())
    with pytest.raises(ValueError, match=r"made with context_channels.*block\(x, context\)"):
        NonLocal2d(C, context_channels=C)(x)
    clip = torch.zeros(1, C, 4, 3, 2)
    with pytest.raises(
        ValueError, match=r"extent='time' a context must have the rows and columns of x, \(3, 2\)"
    ):
        NonLocal3d(C, extent="time")(clip, torch.zeros(1, C, 4, 2, 3))
    with pytest.raises(ValueError, match=r"the rows and columns of x, \(3, 2\); got \(4, 2\)"):
        NonLocal3d(C, extent="time")(clip, torch.zeros(1, C, 4, 4, 2))
    with pytest.raises(TypeError, match=r"context must be a torch\.Tensor; got a numpy"):
        NonLocal2d(C)(x, x.numpy())
    for extent in ("space", 2):
        with pytest.raises(ValueError, match=r"a context must have the frames of x, \(4,\); got \(6,\)"):
            NonLocal3d(C, extent=extent)(clip, torch.zeros(1, C, 6, 3, 2))


@pytest.mark.parametrize(
    ("sizes", "canvas", "message"),
    [
        ([(5, 3)], (), "canvas must be 1 to 3 whole numbers"),
        ([(5, 3)], (7.5, 3), "canvas must be 1 to 3 whole numbers"),
        ([(5, 3, 2)], (7, 3), r"sizes must be \(B, 2\), a size a sample for each side of canvas = \(7, 3\)"),
        ([5, 3], (7, 3), r"got shape \(2,\)"),
        ([(5, 4)], (7, 3), r"every size must be from 0 to its side of canvas = \(7, 3\); got \[\[5, 4\]\]"),
        ([(-1, 3)], (7, 3), "every size must be from 0"),
        ([(5.0, 3.0)], (7, 3), "sizes must be whole numbers"),
        ("small", (7, 3), "sizes must be whole numbers"),
    ],
)
def test_wrong_sizes(sizes, canvas, message):
    with pytest.raises(ValueError, match=message):
        real_positions(sizes, canvas).__enter__()


def test_real_positions_that_do_not_fit_the_map():
    block, x = NonLocal2d(C), torch.zeros(2, C, 5, 3)
    with (
        real_positions([(5, 3)], (6, 6)),
        pytest.raises(ValueError, match="sizes of 1 samples, and a block meets 2"),
    ):
        block(x)
    with real_positions([(5,), (3,)], (6,)), pytest.raises(ValueError, match="a block's map has 2"):
        block(x)
    with real_positions([(5, 3)] * 2, (6, 6)):
        with pytest.raises(ValueError, match="not those of a block's context: give the block a key_mask"):
            block(x, x)
        assert block(x, x, key_mask=torch.ones(2, 5, 3, dtype=torch.bool)).shape == x.shape
    assert block(x, x).shape == x.shape


def test_the_functions_heads_and_masks_are_the_blocks():
    assert set(SOFTMAX_INSTANTIATIONS) < set(INSTANTIATIONS)
    block = made(1, num_heads=2, sub_sample=None, norm=None)
    x, mask = draw(2, C, 7), mask_of([(7,), (4,)], (7,))
    theta, phi, g = block.embed(x)
    y = functional.non_local(theta, phi, g, instantiation="embedded_gaussian", key_mask=mask, num_heads=2)
    assert_near(block(x, key_mask=mask), x + block.W_z(y.mT))
    weights = block.affinity(x, key_mask=mask)
    assert weights.shape == (2, 2, 7, 7)
    assert not weights[1, :, :, 4:].any()
    assert_near(weights.sum(3), torch.ones(2, 2, 7, dtype=torch.float64))


@pytest.mark.parametrize("pre_norm", ["batch", "group", nn.InstanceNorm2d])
@forms
def test_the_gradient_of_one_sample_is_that_of_finite_differences(instantiation, pre_norm):
    """PyTorch's norms on the CPU misread some strides of gradients, which only a batch of one has."""
    for sides in ((6, 6), (1, 6)):
        block = made(2, instantiation=instantiation, pre_norm=pre_norm, norm=None, sub_sample=None)
        x, step = draw(1, C, *sides).requires_grad_(), 1e-5 * draw(1, C, *sides)
        block(x).sin().sum().backward()
        with torch.no_grad():
            change = (block(x + step).sin().sum() - block(x - step).sin().sum()) / 2
        assert (x.grad * step).sum().item() == pytest.approx(change.item(), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("settings", [{"context_channels": C, "pre_norm": "batch"}, {"pre_norm": "group"}])
def test_the_map_itself_as_the_context_is_any_other_context(settings):
    block, x, mask = made(2, **settings), draw(2, C, 5, 4), torch.rand(2, 5, 4) > 0.4
    assert_near(block(x, x, key_mask=mask), block(x, x.clone(), key_mask=mask))


@pytest.mark.parametrize("base", [nn.BatchNorm2d, lambda channels: nn.GroupNorm(2, channels)])
@pytest.mark.parametrize("train", [False, True])
def test_a_norm_that_does_more_than_its_class_is_called(base, train):
    kind = type(base(C))

    class Rectified(kind):
        def forward(self, z):
            return super().forward(z).relu()

    plain = base(C)
    arguments = (plain.num_groups, C) if kind is nn.GroupNorm else (C,)
    block = made(2, norm=lambda _: Rectified(*arguments)).train(train)
    x, mask = draw(2, C, 5, 4), torch.ones(2, 5, 4, dtype=torch.bool)
    mask[0, 3:] = False
    assert (block(x) - x).min() >= 0
    assert (block(x, key_mask=mask) - x).min() >= 0


def test_a_group_norm_of_another_name_takes_statistics_of_real_positions():
    class Renamed(nn.GroupNorm):
        pass

    block = made(2, norm=lambda channels: Renamed(2, channels))
    twin = copy.deepcopy(block)
    twin.norm = nn.GroupNorm(2, C).double()
    twin.norm.load_state_dict(block.norm.state_dict())
    x, mask = draw(2, C, 7, 5), mask_of(SIZES[2], (7, 5))
    assert_same(block(x, key_mask=mask), twin(x, key_mask=mask))
    assert (block(x, key_mask=mask) - block(x)).abs().max() > 1e-3
