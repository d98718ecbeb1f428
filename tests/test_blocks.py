"""The block: equal to the slow one, and at home in everything PyTorch does with modules."""

import copy
import pickle

import pytest
import torch
from torch import nn

from helpers import BLOCKS, SIDES, SUB_SAMPLES, randomize_, slow_affinity, slow_block
from nonlocalnn import NonLocal1d, NonLocal2d, NonLocal3d, functional
from nonlocalnn.functional import INSTANTIATIONS, SOFTMAX_INSTANTIATIONS
from tolerances import assert_near

C = 6
forms = pytest.mark.parametrize("instantiation", INSTANTIATIONS)
ranks = pytest.mark.parametrize("sides", BLOCKS, ids=["1d", "2d", "3d"])
sub_samples = pytest.mark.parametrize("sub_sample", SUB_SAMPLES)


def block_of(sides, **settings):
    return randomize_(BLOCKS[sides](C, **settings))


def check_equal(block, x, twin=None):
    """Values, gradients of the input and of every parameter, and running statistics."""
    twin = copy.deepcopy(block) if twin is None else twin
    results = []
    for module, run in ((block, lambda x: block(x)), (twin, lambda x: slow_block(twin, x))):
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        z = run(leaf)
        slope = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view(z.shape)
        # By name: a traced copy has them in another order.
        parameters, buffers = (
            [part for _, part in sorted(named)]
            for named in (module.named_parameters(), module.named_buffers())
        )
        results.append((z, *torch.autograd.grad(z, (leaf, *parameters), slope), *buffers))
    assert_near(*results)


@pytest.mark.parametrize(("norm", "mode"), [("batch", "train"), ("batch", "eval"), (None, "train")])
@sub_samples
@ranks
@forms
def test_equals_the_slow_block(instantiation, sides, sub_sample, norm, mode):
    block = block_of(sides, instantiation=instantiation, sub_sample=sub_sample, norm=norm).double()
    block.train(mode == "train")
    check_equal(block, torch.randn(2, C, *SIDES[sides], dtype=torch.float64))


@pytest.mark.parametrize("instantiation", SOFTMAX_INSTANTIATIONS)
def test_use_scale_divides_by_the_root_of_inter_channels(instantiation):
    block = block_of(2, instantiation=instantiation, use_scale=True, inter_channels=5).double()
    x = torch.randn(2, C, 7, 5, dtype=torch.float64)
    check_equal(block, x)
    block.use_scale = False
    unscaled = block(x)
    block.use_scale = True
    assert not torch.allclose(block(x), unscaled)


@forms
@ranks
def test_identity_at_zero_init_only(instantiation, sides):
    x = torch.randn(2, C, *SIDES[sides])
    for norm in ("batch", None):
        settings = {"instantiation": instantiation, "norm": norm}
        assert torch.equal(BLOCKS[sides](C, **settings)(x), x)
        assert not torch.allclose(BLOCKS[sides](C, zero_init=False, **settings)(x), x)
        assert not torch.allclose(block_of(sides, **settings)(x), x)


def test_zero_init_lets_the_gradient_reach_the_gate():
    block = NonLocal2d(C)
    block(torch.randn(2, C, 5, 4)).square().sum().backward()
    assert block.norm.weight.grad.abs().max() > 0
    assert block.theta.weight.grad.abs().max() == 0


@forms
@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
def test_extents_are_the_smaller_block_on_each_group(instantiation, sub_sample):
    x = torch.randn(2, C, 6, 5, 4, dtype=torch.float64)
    settings = {"instantiation": instantiation, "sub_sample": sub_sample}
    blocks = {extent: NonLocal3d(C, extent=extent, **settings) for extent in ("space", "time", 3, 6)}
    space, time = NonLocal2d(C, **settings), NonLocal1d(C, **settings)
    whole = NonLocal3d(C, **settings)
    state = randomize_(whole).state_dict()
    for block in (*blocks.values(), space, time, whole):
        own = block.state_dict()
        block.load_state_dict({key: state[key].view(own[key].shape) for key in own})
        block.double().eval()

    def frames(part):
        return part.transpose(1, 2)

    by_frame = torch.stack([space(frames(x)[:, t]) for t in range(6)], dim=2)
    assert_near(blocks["space"](x), by_frame)
    by_location = torch.stack([time(x[..., h, w]) for h in range(5) for w in range(4)], dim=-1)
    assert_near(blocks["time"](x), by_location.unflatten(-1, (5, 4)))
    halves = torch.cat([whole(x[:, :, :3]), whole(x[:, :, 3:])], dim=2)
    assert_near(blocks[3](x), halves)
    assert_near(blocks[6](x), whole(x))
    assert not torch.allclose(halves, whole(x))


@sub_samples
@ranks
@forms
def test_affinity_equals_the_slow_one(instantiation, sides, sub_sample):
    block = block_of(sides, instantiation=instantiation, sub_sample=sub_sample).double()
    x = torch.randn(2, C, *SIDES[sides], dtype=torch.float64)
    assert_near(block.affinity(x), slow_affinity(block, x))
    num_keys = torch.Size(block.key_sides(x.shape[2:])).numel()
    assert block.affinity(x).shape == (2, torch.Size(SIDES[sides]).numel(), num_keys)


@forms
@pytest.mark.parametrize(
    ("sides", "shape"),
    [
        (1, (2, C, 1)),
        (1, (0, C, 5)),
        (2, (2, C, 1, 7)),
        (2, (2, C, 7, 1)),
        (2, (0, C, 4, 4)),
        (3, (2, C, 4, 1, 1)),
        (3, (2, C, 1, 3, 1)),
    ],
    ids=str,
)
def test_sides_of_one_and_empty_batches(instantiation, sides, shape):
    for sub_sample in SUB_SAMPLES:
        block = block_of(sides, instantiation=instantiation, sub_sample=sub_sample).double().eval()
        x = torch.randn(*shape, dtype=torch.float64)
        z = block(x)
        assert z.shape == x.shape
        if shape[0]:
            assert_near(z, slow_block(block, x))
            check_equal(block, x)


@forms
@ranks
def test_one_position(instantiation, sides):
    block = block_of(sides, instantiation=instantiation).double().eval()
    # As few positions as leave the norm out of W_z.
    x = torch.randn(3, C, *[1] * sides, dtype=torch.float64)
    assert_near(block(x), slow_block(block, x))
    check_equal(block, x)


@forms
@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
@pytest.mark.parametrize("sides", [2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_memory_formats(instantiation, batch, sides, sub_sample):
    channels_last = {2: torch.channels_last, 3: torch.channels_last_3d}[sides]
    block = block_of(sides, instantiation=instantiation, sub_sample=sub_sample).double()
    x = torch.randn(batch, C, *SIDES[sides], dtype=torch.float64)
    check_equal(block, x.to(memory_format=channels_last))
    assert block(x.to(memory_format=channels_last)).is_contiguous(memory_format=channels_last)
    assert block(x).is_contiguous()
    strided = torch.randn(2, *SIDES[sides], 2 * C, dtype=torch.float64)[..., ::2].movedim(-1, 1)
    assert_near(block(strided), block(strided.contiguous()))


@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
@forms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_finite_where_float32_is(instantiation, sub_sample, dtype):
    block = NonLocal2d(1024, instantiation=instantiation, sub_sample=sub_sample, zero_init=False)
    for side in (1, 3):
        x = (32 * torch.randn(2, 1024, side, side)).requires_grad_()
        exact = block(x)
        assert exact.isfinite().all()
        with torch.autocast("cpu", dtype=dtype):
            z = block(x)
        assert z.dtype == x.dtype
        assert z.isfinite().all()
        z.float().sum().backward()
        assert x.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in block.parameters())


@forms
def test_a_replica_is_finite_under_autocast_too(instantiation):
    """Replicas of DataParallel hold tensors where the module has parameters."""
    block = NonLocal2d(8, instantiation=instantiation, zero_init=False)
    replica = block._replicate_for_data_parallel()
    for name, layer in block.named_children():
        copied = layer._replicate_for_data_parallel()
        copied.weight, copied.bias = layer.weight.detach(), layer.bias.detach()
        setattr(replica, name, copied)
    if block.w_f is not None:
        replica.w_f = block.w_f.detach()
    x = 3000 * torch.randn(2, 8, 6, 5)
    with torch.autocast("cpu", dtype=torch.float16):
        expected = block(x)
        assert expected.isfinite().all()
        assert_near(replica(x), expected)


@forms
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_autocast_and_whole_model_types_agree_with_float32(instantiation, dtype):
    block = NonLocal2d(16, instantiation=instantiation, zero_init=False).eval()
    x = torch.randn(2, 16, 6, 5)
    expected = block(x)
    if dtype != torch.float64:
        with torch.autocast("cpu", dtype=dtype):
            assert_near(block(x), expected, dtype=dtype)
    z = block.to(dtype)(x.to(dtype))
    assert z.dtype == dtype
    assert_near(z.float(), expected, dtype=torch.float32 if dtype == torch.float64 else dtype)


KEYS = {
    "gaussian": "g.weight g.bias W_z.weight W_z.bias",
    "embedded_gaussian": "theta.weight theta.bias phi.weight phi.bias g.weight g.bias W_z.weight W_z.bias",
}
KEYS["dot_product"] = KEYS["embedded_gaussian"]
KEYS["concatenation"] = "w_f " + KEYS["embedded_gaussian"]
NORM_KEYS = "norm.weight norm.bias norm.running_mean norm.running_var norm.num_batches_tracked"


@ranks
@forms
def test_golden_state_dict_keys(instantiation, sides):
    expected = KEYS[instantiation].split()
    for sub_sample in SUB_SAMPLES:
        for zero_init in (True, False):
            settings = {"instantiation": instantiation, "sub_sample": sub_sample, "zero_init": zero_init}
            assert list(BLOCKS[sides](C, norm=None, **settings).state_dict()) == expected
            assert list(BLOCKS[sides](C, **settings).state_dict()) == expected + NORM_KEYS.split()
    weight = BLOCKS[sides](C, instantiation=instantiation).g.weight
    assert weight.shape == (3, C, *[1] * sides)


@ranks
@forms
def test_copies_pickles_and_fx(instantiation, sides):
    block = block_of(sides, instantiation=instantiation).eval()
    x = torch.randn(2, C, *SIDES[sides])
    expected = block(x)
    for twin in (
        copy.deepcopy(block),
        pickle.loads(pickle.dumps(block)),
        torch.fx.symbolic_trace(block),
        nn.DataParallel(block),
    ):
        assert_near(twin(x), expected)
    traced = torch.fx.symbolic_trace(block)
    other = torch.randn(3, C, *[side + 2 for side in SIDES[sides]])
    assert_near(traced(other), block(other))


def test_a_graph_traced_in_eval_mode_can_be_trained():
    block = block_of(2).double().eval()
    traced = torch.fx.symbolic_trace(copy.deepcopy(block)).train()
    check_equal(traced, torch.randn(2, C, 5, 4, dtype=torch.float64), twin=block.train())


def test_a_norm_of_another_kind_stays_a_layer():
    block = block_of(2).double().eval()
    block.norm = nn.GroupNorm(2, C).double()
    check_equal(block, torch.randn(2, C, 5, 4, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch.compile
@pytest.mark.parametrize(
    "instantiation",
    [
        # A block with a mask and a context, in this form, is compiled in test_block_settings.py.
        *(
            pytest.param(form, marks=pytest.mark.slow)
            for form in ("concatenation", "gaussian", "embedded_gaussian", "dot_product")
        ),
    ],
)
def test_compile_in_one_graph(instantiation):
    torch.compiler.reset()
    block = block_of(3, instantiation=instantiation).double()
    # aot_eager traces forward and backward as inductor would, without a C++ compiler.
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    for sides in ((3, 9, 5), (2, 6, 8)):
        x = torch.randn(2, C, *sides, dtype=torch.float64, requires_grad=True)
        z, expected = compiled(x), block(x)
        assert_near(z, expected)
        ours, wanted = (torch.autograd.grad(part.square().sum(), x)[0] for part in (z, expected))
        assert_near(ours, wanted)


@sub_samples
@forms
def test_export_with_dynamic_batch_and_sides(instantiation, sub_sample):
    block = block_of(2, instantiation=instantiation, sub_sample=sub_sample).double().eval()
    dim = torch.export.Dim
    shapes = {0: dim("batch"), 2: dim("height", min=4), 3: dim("width", min=4)}
    example = torch.randn(2, C, 8, 10, dtype=torch.float64)
    program = torch.export.export(block, (example,), dynamic_shapes=(shapes,))
    for shape in ((2, C, 8, 10), (5, C, 7, 13), (1, C, 4, 4)):
        x = torch.randn(*shape, dtype=torch.float64)
        assert_near(program.module()(x), block(x))


@forms
def test_an_export_is_not_bound_to_sizes_that_decide_between_libraries(instantiation):
    # Of 7 x 7 positions products are too short for the faster one, of eight samples together they are not.
    block = NonLocal2d(256, instantiation=instantiation, sub_sample=None, zero_init=False).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(block, (torch.randn(2, 256, 7, 7),), dynamic_shapes=({0: batch},))
    x = torch.randn(8, 256, 7, 7)
    torch.testing.assert_close(program.module()(x), block(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("types", [(torch.bfloat16, torch.float32), (torch.float32, torch.float64)], ids=str)
@sub_samples
def test_w_f_may_be_of_another_type_than_the_layers(sub_sample, types):
    own, other = types
    block = block_of(2, instantiation="concatenation", sub_sample=sub_sample, norm=None)
    expected = copy.deepcopy(block)
    for layer in (block.theta, block.phi, block.g, block.W_z):
        layer.to(own)
    block.w_f.data = block.w_f.data.to(other)
    x = torch.randn(2, C, 5, 6)
    z = block(x.to(own))
    assert z.dtype == own
    near = {"rtol": 0.1, "atol": 0.1} if own == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(z.float(), expected(x), **near)


def test_memory_of_a_block_is_linear_in_positions(monkeypatch):
    from functional.test_non_local import LargestTensor

    monkeypatch.setattr("nonlocalnn.functional.sizes.MOST_WEIGHTS", 0)

    for instantiation in INSTANTIATIONS:
        block = block_of(2, instantiation=instantiation, sub_sample=None)
        x = torch.randn(1, C, 40, 41, requires_grad=True)
        with LargestTensor() as seen:
            block(x).sum().backward()
        assert seen.largest <= 40 * 41 * 2 * C, instantiation


def test_repr_names_the_settings():
    text = repr(NonLocal3d(C, instantiation="dot_product", extent=4))
    assert "instantiation='dot_product', sub_sample='after', use_scale=False, extent=4" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number of at least 1; got 0"),
        ({"inter_channels": 1.5}, "inter_channels must be a whole number"),
        ({"instantiation": "embeded_gaussian"}, r"did you mean 'embedded_gaussian'\?"),
        ({"sub_sample": "both"}, "sub_sample must be one of 'after', 'before', None; got 'both'"),
        ({"norm": "instance"}, "norm must be one of 'batch', 'group', 'layer', None"),
        ({"use_scale": True, "instantiation": "dot_product"}, "use_scale scales the logits of the softmax"),
        ({"use_scale": True, "instantiation": "concatenation"}, "use_scale scales the logits"),
        ({"extent": "frame"}, "extent must be one of"),
        ({"extent": 0}, "extent, as a number of frames, must be at least 1; got 0"),
        ({"extent": True}, "extent must be one of"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        NonLocal3d(settings.pop("in_channels", C), **settings)


def test_extent_belongs_to_video():
    with pytest.raises(ValueError, match="extent is a setting of NonLocal3d: NonLocal2d has no frames"):
        NonLocal2d(C, extent="space")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, C, 4), r"NonLocal2d takes \(B, C, H, W\), 4 dimensions; got 3: shape \(2, 6, 4\)"),
        (torch.zeros(2, C + 1, 4, 4), "made for 6 channels; got 7"),
        (torch.zeros(2, C, 4, 4, dtype=torch.long), "x must be floating point; got torch.int64"),
        (torch.zeros(2, C, 0, 4), "every side of x must be at least 1"),
        (torch.zeros(2, C, 4, 4).to_sparse(), r"x must be dense; got torch.sparse_coo: give x\.to_dense\(\)"),
        (
            torch.nested.nested_tensor([torch.zeros(C, 4, 4)], layout=torch.jagged),
            "nested tensor: pad its samples to one size",
        ),
    ],
)
def test_wrong_inputs(x, message):
    with pytest.raises(ValueError, match=message):
        NonLocal2d(C)(x)


def test_frames_that_do_not_fill_the_groups():
    with pytest.raises(
        ValueError, match="extent=4 needs a number of frames that is a multiple of 4; got T = 6"
    ):
        NonLocal3d(C, extent=4)(torch.zeros(1, C, 6, 2, 2))


def test_inter_channels_default_to_half_and_at_least_one():
    assert NonLocal1d(7).inter_channels == 3
    assert NonLocal1d(1).inter_channels == 1


def test_the_operation_is_the_public_one():
    block = block_of(1, instantiation="dot_product", sub_sample=None, norm=None)
    x = torch.randn(2, C, 9)
    theta, phi, g = (layer(x).transpose(1, 2) for layer in (block.theta, block.phi, block.g))
    y = functional.non_local(theta, phi, g, instantiation="dot_product")
    assert_near(block(x), x + block.W_z(y.transpose(1, 2)))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # raised by vmap
@sub_samples
@pytest.mark.parametrize("instantiation", ["gaussian", "embedded_gaussian", "dot_product"])
def test_small_maps_have_second_derivatives_and_gradients_of_each_sample(instantiation, sub_sample):
    block = block_of(1, instantiation=instantiation, sub_sample=sub_sample, norm=None).double()
    x = torch.randn(2, C, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(block, x)
    parameters = {name: parameter.detach() for name, parameter in block.named_parameters()}

    def loss(parameters, sample):
        return torch.func.functional_call(block, parameters, sample.unsqueeze(0)).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x.detach())
    for place, sample in enumerate(x):
        expected = torch.autograd.grad(block(sample.unsqueeze(0)).square().sum(), tuple(block.parameters()))
        assert_near([per_sample[name][place] for name, _ in block.named_parameters()], expected)


def test_what_is_no_tensor_is_named():
    array, map_ = torch.rand(2, 8, 5).numpy(), torch.rand(2, 8, 5)
    says = r" must be a torch.Tensor; got a (numpy.ndarray|list): torch.as_tensor makes one"
    for wrong in (array, array.tolist()):
        with pytest.raises(TypeError, match="^x" + says):
            NonLocal1d(8)(wrong)
        with pytest.raises(TypeError, match="^context" + says):
            NonLocal1d(8, context_channels=8)(map_, wrong)
        operands = {name: torch.rand(2, 5, 8) for name in ("theta", "phi", "g")}
        for name in operands:
            with pytest.raises(TypeError, match=f"^{name}{says}"):
                functional.non_local(**{**operands, name: wrong}, instantiation="embedded_gaussian")


@forms
@pytest.mark.parametrize("norm", ["batch", "layer", None, lambda channels: nn.GroupNorm(2, channels)])
def test_device_and_type_of_the_weights(instantiation, norm):
    width = 8 if instantiation == "gaussian" else 6
    settings = {"instantiation": instantiation, "norm": norm, "pre_norm": norm, "context_channels": width}
    on_meta = NonLocal2d(8, device="meta", dtype=torch.float64, **settings)
    assert all(each.is_meta and each.dtype == torch.float64 for each in on_meta.parameters())
    torch.manual_seed(3)
    wide = NonLocal2d(8, dtype=torch.float64, **settings)
    torch.manual_seed(3)
    usual = NonLocal2d(8, **settings)
    for one, other in zip(wide.parameters(), usual.parameters(), strict=True):
        assert torch.equal(one, other.double())
    skipped = nn.utils.skip_init(NonLocal2d, 8, **settings)
    skipped.load_state_dict(usual.state_dict())
    x, context = torch.randn(2, 8, 4, 5), torch.randn(2, width, 3, 3)
    assert torch.equal(skipped.eval()(x, context), usual.eval()(x, context))


@pytest.fixture
def one_process(tmp_path):
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@forms
@pytest.mark.parametrize("side", [6, 40])
def test_weights_and_maps_that_are_shared_out(one_process, instantiation, side):
    from torch.distributed import tensor as tensors

    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    block = randomize_(NonLocal2d(C, instantiation=instantiation, norm=None))
    twin, x = copy.deepcopy(block), torch.randn(2, C, side, side)
    tensors.distribute_module(block, mesh)
    z = block(tensors.distribute_tensor(x, mesh, [tensors.Replicate()]))
    z.square().sum().backward()
    expected = twin(x)
    expected.square().sum().backward()
    assert_near(z.full_tensor(), expected)
    gradients = {name: each.grad for name, each in twin.named_parameters()}
    assert_near({name: each.grad.full_tensor() for name, each in block.named_parameters()}, gradients)
