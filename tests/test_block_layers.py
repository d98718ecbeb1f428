"""The block is at home in what PyTorch and its users do with a module's layers and operations."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from helpers import BLOCKS, SIDES, SUB_SAMPLES, randomize_, slow_block
from nonlocalnn import NonLocal2d, NonLocal3d, capture_affinity, create_model, fuse_
from nonlocalnn.functional import INSTANTIATIONS, non_local

C = 6
# PyTorch's forward-mode derivatives compile some of their formulas when they are first used.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*is deprecated")
forms = pytest.mark.parametrize("instantiation", INSTANTIATIONS)
LAYERS = ("theta", "phi", "g", "W_z", "norm")


class Wrapped(nn.Module):
    """As adapters and activation checkpointing put a layer into another."""

    def __init__(self, layer, factor=1.0):
        super().__init__()
        self.layer, self.factor = layer, factor

    def forward(self, x):
        return self.factor * self.layer(x)


def layers_of(block):
    return {name: layer for name in LAYERS if (layer := getattr(block, name)) is not None}


def wrapped(block, factor=1.0):
    block = copy.deepcopy(block)
    for name, layer in layers_of(block).items():
        setattr(block, name, Wrapped(layer, factor))
    return block


def results(block, x, dtype=None):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
        z = block(x)
    slope = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view(z.shape)
    gradients = torch.autograd.grad(z, [x, *block.parameters()], slope)
    return z, dict(zip(["x", *(name for name, _ in block.named_parameters())], gradients, strict=True))


@pytest.mark.parametrize(("norm", "train"), [("batch", True), ("batch", False), (None, True)])
@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
@pytest.mark.parametrize("sides", BLOCKS, ids=["1d", "2d", "3d"])
@forms
def test_layers_that_are_called_give_what_their_weights_give(instantiation, sides, sub_sample, norm, train):
    block = randomize_(BLOCKS[sides](C, instantiation=instantiation, sub_sample=sub_sample, norm=norm))
    block = block.double().train(train)
    x = torch.randn(2, C, *SIDES[sides], dtype=torch.float64)
    z, gradients = results(block, x)
    called, called_gradients = results(wrapped(block), x)
    torch.testing.assert_close(called, z, rtol=1e-10, atol=1e-10)
    called_gradients = {name.replace("layer.", ""): part for name, part in called_gradients.items()}
    torch.testing.assert_close(called_gradients, gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@forms
def test_called_layers_are_finite_under_autocast_where_float32_is(instantiation, dtype):
    block = randomize_(NonLocal2d(32, instantiation=instantiation, use_scale="gaussian" in instantiation))
    x = 30 * torch.randn(2, 32, 13, 9)
    with torch.autocast("cpu", dtype=dtype), torch.no_grad():
        plain, called = block(x), wrapped(block)(x)
    assert plain.isfinite().all()
    assert called.isfinite().all()
    assert called.dtype == plain.dtype == torch.float32
    scale = float((plain - x).abs().max())
    assert float((called - plain).abs().max()) < 0.05 * scale


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", ["forward", "pre", "backward", "backward pre", "instance", "wrapped"])
@forms
def test_whatever_is_put_around_a_layer_is_run(instantiation, kind, name):
    block = randomize_(NonLocal2d(C, instantiation=instantiation))
    layer = layers_of(block).get(name)
    if layer is None:
        pytest.skip("the Gaussian has no theta and phi")
    x = torch.randn(2, C, 5, 4, requires_grad=True)
    before = block.eval()(x)
    calls = []
    if kind == "forward":
        layer.register_forward_hook(lambda module, inputs, output: calls.append(1) or 2 * output)
    elif kind == "pre":
        layer.register_forward_pre_hook(lambda module, inputs: calls.append(1) or 2 * inputs[0])
    elif kind == "backward":
        layer.register_full_backward_hook(lambda module, inputs, outputs: calls.append(1))
    elif kind == "backward pre":
        layer.register_full_backward_pre_hook(lambda module, slopes: calls.append(1))
    elif kind == "instance":
        original = layer.forward
        layer.forward = lambda part: calls.append(1) or 2 * original(part)
    else:
        setattr(block, name, Wrapped(layer, 2.0))
    z = block(x)
    z.sum().backward()
    assert calls or kind == "wrapped"
    assert torch.allclose(z, before, atol=1e-6) == kind.startswith("backward")


def test_hooks_of_all_modules_see_the_layers():
    block, seen = randomize_(NonLocal2d(C)), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(module))
    try:
        block(torch.randn(2, C, 5, 4))
    finally:
        handle.remove()
    assert {id(layer) for layer in layers_of(block).values()} <= {id(module) for module in seen}


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, torch.nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*spectral_norm.*deprecated")
def test_spectral_norm_bounds_the_weight_that_is_used(norm):
    block = NonLocal2d(C, zero_init=False, norm=None)
    with torch.no_grad():
        block.theta.weight.mul_(10)
    norm(block.theta)
    for _ in range(20):
        block(torch.randn(2, C, 5, 4)).square().mean().backward()
    sigma = float(torch.linalg.svdvals(block.theta.weight.detach().flatten(1))[0])
    assert 0.8 < sigma < 1.2


def test_a_parametrization_is_followed():
    class Half(nn.Module):
        def forward(self, weight):
            return weight / 2

    block = randomize_(NonLocal2d(C, norm=None)).double()
    twin = copy.deepcopy(block)
    for name in ("theta", "g", "W_z"):
        parametrize.register_parametrization(getattr(block, name), "weight", Half())
        with torch.no_grad():
            getattr(twin, name).weight.div_(2)
    x = torch.randn(2, C, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(block(x), twin(x))


@forms
def test_pruned_weights_stay_zero_and_the_others_learn(instantiation):
    block = randomize_(NonLocal2d(8, instantiation=instantiation, norm=None))
    names = [name for name in layers_of(block) if name != "norm"]
    for name in names:
        prune.random_unstructured(getattr(block, name), "weight", amount=0.5)
    before = {name: getattr(block, name).weight.detach().clone() for name in names}
    optimizer = torch.optim.SGD(block.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        block(torch.randn(2, 8, 6, 5)).square().mean().backward()
        optimizer.step()
    block(torch.randn(2, 8, 6, 5))
    for name, old in before.items():
        new = getattr(block, name).weight
        assert bool((new[old == 0] == 0).all())
        assert not torch.equal(new, old)
    fuse_(block.eval())
    for name, old in before.items():
        assert bool((getattr(block, name).weight[old == 0] == 0).all())


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_layer_of_another_shape_is_called(kernel):
    block = randomize_(NonLocal2d(C, sub_sample=None)).double().eval()
    block.g = randomize_(nn.Conv2d(C, 3, kernel, padding=kernel // 2)).double()
    x = torch.randn(2, C, 7, 5, dtype=torch.float64)
    theta, phi = (layer(x).flatten(2).transpose(1, 2) for layer in (block.theta, block.phi))
    g = block.g(x).flatten(2).transpose(1, 2)
    y = non_local(theta, phi, g, instantiation="embedded_gaussian", engine="reference")
    expected = x + block.norm(block.W_z(y.transpose(1, 2).unflatten(2, (7, 5))))
    torch.testing.assert_close(block(x), expected)


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (Doubled, ("theta", "phi", "g")),
        (lambda *sizes: nn.Conv2d(*sizes, groups=3), ("theta", "phi", "g")),
        (lambda *sizes: nn.Conv2d(*sizes, padding=1), ("phi", "g")),
        (lambda *sizes: nn.Conv2d(*sizes, stride=2), ("phi", "g")),
    ],
    ids=["subclass", "groups", "padding", "stride"],
)
def test_a_layer_that_is_no_plain_convolution_is_called(make, names):
    block = randomize_(NonLocal2d(C, sub_sample=None)).double().eval()
    for name in names:
        setattr(block, name, randomize_(make(C, 3, 1)).double())
    x = torch.randn(2, C, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(block(x), wrapped(block)(x))
    theta, phi, g = (layer(x).flatten(2).transpose(1, 2) for layer in (block.theta, block.phi, block.g))
    y = non_local(theta, phi, g, instantiation="embedded_gaussian", engine="reference")
    expected = x + block.norm(block.W_z(y.transpose(1, 2).unflatten(2, (7, 5))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}], ids=str)
def test_a_norm_that_lacks_a_part_is_called(settings):
    block = randomize_(NonLocal2d(C)).eval()
    block.norm = nn.BatchNorm2d(C, **settings).eval()
    x = torch.randn(2, C, 7, 5)
    torch.testing.assert_close(block(x), wrapped(block)(x))


def test_a_wide_norm_in_a_narrow_block_keeps_the_type_of_x():
    block = wrapped(randomize_(NonLocal2d(C)).bfloat16().eval())
    block.norm = nn.Sequential(nn.Conv2d(C, C, 1, dtype=torch.bfloat16), Widened())
    assert block(torch.randn(2, C, 7, 5).bfloat16()).dtype == torch.bfloat16


class Widened(nn.Module):
    def forward(self, x):
        return x.float()


def test_fusing_leaves_what_has_hooks():
    block = randomize_(NonLocal2d(C)).eval()
    prune.l1_unstructured(block.W_z, "weight", amount=0.3)
    x = torch.randn(2, C, 5, 4)
    before = block(x)
    fuse_(block)
    assert block.norm is not None
    torch.testing.assert_close(block(x), before)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("change", ["relu", "add", "mul"])
@forms
def test_what_follows_may_work_in_place(instantiation, change, norm, train, channels_last):
    block = randomize_(NonLocal3d(C, instantiation=instantiation, norm=norm)).train(train)
    stem = nn.Conv3d(3, C, 1)
    x = torch.randn(2, 3, 2, 5, 4)
    if channels_last:
        x, stem = (part.to(memory_format=torch.channels_last_3d) for part in (x, stem))

    def gradient(in_place):
        z, other = copy.deepcopy(block)(stem(x)), torch.linspace(-1, 1, 4)
        if change == "relu":
            z = nn.functional.relu(z, inplace=in_place)
        elif in_place:
            z = z.add_(other) if change == "add" else z.mul_(other)
        else:
            z = z + other if change == "add" else z * other
        return torch.autograd.grad(z.square().sum(), stem.weight)[0]

    torch.testing.assert_close(gradient(True), gradient(False))


@pytest.mark.parametrize("frozen", ["eval", "no affine gradient"])
def test_frozen_norms_are_fine_tuned_in_channels_last(frozen):
    network = create_model("nl1_c2d_r50_8x8", width=4, num_classes=3)
    randomize_(network).to(memory_format=torch.channels_last_3d).train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            if frozen != "eval":
                module.requires_grad_(requires_grad=False)
    image = torch.randn(2, 3, 8, 32, 32).to(memory_format=torch.channels_last_3d)
    network(image).square().sum().backward()
    assert all(part.grad is not None for part in network.parameters() if part.requires_grad)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
@forms
def test_shapes_are_known_on_the_meta_device(instantiation, sub_sample, train):
    with torch.device("meta"):
        block = NonLocal3d(8, instantiation=instantiation, sub_sample=sub_sample).train(train)
        x = torch.empty(2, 8, 4, 60, 50, requires_grad=True)
    z = block(x)
    assert z.is_meta
    assert z.shape == x.shape
    z.sum().backward()
    assert x.grad.shape == x.shape
    assert block.affinity(x[..., :5, :5]).is_meta


@pytest.fixture(params=["small", "large"])
def size(request, monkeypatch):
    """Small maps may hold the N x M tensor by themselves, large ones have engines that never do."""
    if request.param == "large":
        monkeypatch.setattr("nonlocalnn.functional.sizes.MOST_WEIGHTS", 0)
    return request.param


@pytest.mark.parametrize("channels_last", [False, True])
@forms
def test_forward_mode_equals_the_slow_block(instantiation, channels_last, size):
    block = randomize_(NonLocal2d(C, instantiation=instantiation)).double().eval()
    x, tangent = torch.randn(2, 2, C, 7, 5, dtype=torch.float64)
    if channels_last:
        x, tangent = (part.to(memory_format=torch.channels_last) for part in (x, tangent))
    ours = torch.func.jvp(block, (x,), (tangent,))
    expected = torch.func.jvp(lambda x: slow_block(block, x), (x,), (tangent,))
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-8)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        again = torch.autograd.forward_ad.unpack_dual(block(dual)).tangent
    torch.testing.assert_close(again, expected[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("sub_sample", SUB_SAMPLES)
@forms
def test_hessians_equal_the_slow_blocks(instantiation, sub_sample, batch, size):
    block = randomize_(NonLocal2d(2, instantiation=instantiation, sub_sample=sub_sample)).double().eval()
    x = torch.randn(batch, 2, 4, 3, dtype=torch.float64)
    expected = torch.autograd.functional.hessian(lambda x: slow_block(block, x).square().sum(), x)
    assert expected.abs().max() > 0.1

    def ours(x):
        return block(x).square().sum()

    found = [
        torch.func.hessian(ours)(x),
        torch.func.jacrev(torch.func.jacrev(ours))(x),
        torch.autograd.functional.hessian(ours, x),
    ]
    # Torch 2.13 has no vectorised second derivative of a pool over such a view.
    if sub_sample != "after" or torch.__version__ >= torch.torch_version.TorchVersion("2.14"):
        found.append(torch.autograd.functional.hessian(ours, x, vectorize=True))
    for hessian in found:
        torch.testing.assert_close(hessian, expected, rtol=1e-7, atol=1e-7)


@forms
def test_gradients_of_each_sample_equal_those_of_samples_alone(instantiation, size):
    block = randomize_(NonLocal2d(C, instantiation=instantiation)).double().eval()
    x = torch.randn(3, C, 7, 5, dtype=torch.float64)
    parameters = dict(block.named_parameters())

    def loss(parameters, sample):
        return torch.func.functional_call(block, parameters, (sample[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for number, sample in enumerate(x):
        alone = torch.autograd.grad(block(sample[None]).square().sum(), list(parameters.values()))
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(each[name][number], gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("shared", "masked"),
    [
        (False, True),
        (True, False),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
    ids=["theta and phi, masked", "one map", "theta and phi", "one map, masked"],
)
@forms
def test_every_engine_has_derivatives_of_derivatives(instantiation, shared, masked):
    theta, phi = torch.randn(2, 2, 5, 2, dtype=torch.float64)
    g, w_f = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True, False], [True] * 5]) if masked else None
    parts = [part.requires_grad_() for part in ((theta, g) if shared else (theta, phi, g))]

    def run(*parts):
        theta, phi, g = (parts[0], *parts) if shared else parts
        w = w_f if instantiation == "concatenation" else None
        return non_local(theta, phi, g, instantiation=instantiation, w_f=w, key_mask=mask, engine="fused")

    assert torch.autograd.gradgradcheck(run, parts)
    # Of the third order: what the second derivative computes can be differentiated, too.
    (first,) = torch.autograd.grad(run(*parts).square().sum(), parts[0], create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), parts[0], create_graph=True)
    assert torch.autograd.grad(second.sum(), parts[0])[0].isfinite().all()


def test_a_second_derivative_of_arguments_made_of_one_another():
    """phi made from theta: each has its own part of the gradient, which is not counted twice."""
    theta = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)

    def run(engine):
        phi, g = theta.sin(), theta.cos()
        y = non_local(theta, phi, g, instantiation="embedded_gaussian", engine=engine)
        (first,) = torch.autograd.grad(y.square().sum(), theta, create_graph=True)
        return torch.autograd.grad(first.square().sum(), theta)[0]

    torch.testing.assert_close(run("fused"), run("reference"), rtol=1e-9, atol=1e-9)


@forms
def test_flops_are_counted(instantiation, size):
    block = NonLocal2d(8, instantiation=instantiation, sub_sample=None).eval()
    x = torch.randn(2, 8, 20, 15, requires_grad=True)
    n, d, e = 300, 8 if instantiation == "gaussian" else 4, 4
    with FlopCounterMode(display=False) as counter:
        z = block(x)
        forward = counter.get_total_flops()
        z.sum().backward()
    convolutions = (2 if instantiation == "gaussian" else 4) * 2 * n * 8 * 4
    if instantiation in ("gaussian", "embedded_gaussian"):
        assert forward == 2 * (convolutions + 2 * n * n * (d + e))
        assert counter.get_total_flops() > 2.9 * forward
    else:
        assert forward > 2 * (convolutions + 2 * n * d * e) * 0.9
        assert counter.get_total_flops() > 2.5 * forward
    operators = {str(name) for counts in counter.get_flop_counts().values() for name in counts}
    if size == "large" and instantiation != "dot_product":
        assert any(name.startswith("nonlocalnn") for name in operators)


def test_flops_of_the_concatenation_form_are_those_of_its_runs():
    N, M, E, B, run = 3000, 2000, 4, 2, 16
    theta, phi, g = (torch.randn(B, length, E, requires_grad=True) for length in (N, M, M))
    w_f = torch.randn(2 * E)
    with FlopCounterMode(display=False) as counter:
        y = non_local(theta, phi, g, instantiation="concatenation", w_f=w_f, engine="fused")
        forward = counter.get_flop_counts()["Global"]
        y.sum().backward()
    backward = counter.get_flop_counts()["Global"]
    own = [name for name in backward if str(name).startswith("nonlocalnn")]
    found = sorted(backward[name] for name in own)
    # A query adds the rows of its run and two sums before it; each key stands in two sums over all before it.
    rows_of_y = (run + 2) * N + 2 * M
    # Such sums of g for da, of dy for db and for dg; then products with each row of a run and with two sums.
    rows_of_gradients = (run + 2) * (N + 2 * M) + (run + 2) * (N + M)
    assert [forward[name] for name in forward if str(name).startswith("nonlocalnn")] == [
        2 * B * E * rows_of_y
    ]
    assert found == sorted([2 * B * E * rows_of_y, 2 * B * E * rows_of_gradients])


@pytest.mark.slow
def test_maps_of_a_model_that_was_compiled_and_has_run():
    model = randomize_(create_model("nl_digits", zero_init=False)).eval()
    image = torch.rand(1, 1, 28, 28)
    with capture_affinity(model) as expected:
        scores = model(image)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(image)
    with capture_affinity(compiled, blocks=["nl_1", "nl_2"]) as maps:
        torch.testing.assert_close(compiled(image), scores)
    assert list(maps) == ["nl_1", "nl_2"]
    for name, shown in expected.items():
        torch.testing.assert_close(maps[name].affinity, shown.affinity)
    calls = torch._dynamo.utils.counters["stats"]["calls_captured"]
    compiled(image)
    assert torch._dynamo.utils.counters["stats"]["calls_captured"] == calls


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated", "ignore::torch.jit.TracerWarning")
@forms
def test_a_trace_is_of_plain_operations(instantiation, tmp_path, size):
    block = randomize_(NonLocal2d(C, instantiation=instantiation)).eval()
    x = torch.randn(2, C, 7, 5)
    torch.jit.save(torch.jit.trace(block, x), tmp_path / "block.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "block.pt")(x), block(x))
    # PyTorch checks a program by one that it traces without gradients.
    large = torch.randn(1, C, 40, 40)
    torch.testing.assert_close(torch.jit.trace(block, large)(large), block(large), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_scripting_says_what_to_do_instead():
    for model in (NonLocal2d(C), nn.Sequential(nn.Conv2d(3, C, 1), NonLocal2d(C))):
        with pytest.raises(TypeError, match=r"use torch\.jit\.trace\(model, example\), torch\.export"):
            torch.jit.script(model)
