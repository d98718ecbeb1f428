"""Products by the other library: the same numbers and derivatives, wherever it is asked for."""

import copy
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from helpers import randomize_, slow_block
from nonlocalnn import NonLocal2d
from nonlocalnn.functional import non_local, products
from nonlocalnn.models.convolution import ClipConvolution

FORMS = ["gaussian", "embedded_gaussian", "dot_product", "concatenation"]


@pytest.fixture
def fast(monkeypatch):
    """Every product by oneDNN, however short and whoever made the processor; counts the calls."""
    if not (torch.backends.mkldnn.is_available() and products._answers()):
        pytest.skip("this PyTorch has no products by oneDNN")
    monkeypatch.setattr(products, "_is_faster", lambda: True)
    monkeypatch.setattr(products, "_LEAST_WORK", 0)
    calls = []

    def counted(*words, compute=products._call_one_dnn):
        calls.append(words)
        return compute(*words)

    monkeypatch.setattr(products, "_call_one_dnn", counted)
    return calls


def layouts(rows, columns):
    """The same numbers as they may lie in memory."""
    part = torch.randn(rows, columns)
    wide = torch.zeros(2 * rows, columns + 3)
    wide[:rows, :columns] = part
    tall = torch.zeros(columns + 3, rows + 2)
    tall[:columns, :rows] = part.t()
    spread = torch.zeros(rows, 2 * columns)
    spread[:, ::2] = part
    return {
        "in rows": part,
        "in columns": part.t().contiguous().t(),
        "some of the columns": wide[:rows, :columns],
        "some of the rows, turned": tall[:columns, :rows].t(),
        "every second": spread[:, ::2],
        "one row for all": part[:1].expand(rows, columns),
    }


@pytest.mark.parametrize("left_layout", layouts(1, 1))
@pytest.mark.parametrize("right_layout", layouts(1, 1))
@pytest.mark.parametrize("sizes", [(7, 5, 3), (1, 5, 1), (64, 1, 48), (130, 70, 33), (9, 600, 5)], ids=str)
@pytest.mark.parametrize("large", [False, True])
def test_products_of_all_layouts(fast, left_layout, right_layout, sizes, large, monkeypatch):
    if large:
        monkeypatch.setattr(products, "_LARGE", 0)
        monkeypatch.setattr(products, "_PART", 0)
    rows, inner, columns = sizes
    left, right = layouts(rows, inner)[left_layout], layouts(inner, columns)[right_layout]
    bias, base = torch.randn(columns), torch.randn(rows, columns)
    expected = (left.double() @ right.double()).float()
    near = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(products.multiply(left, right), expected, **near)
    torch.testing.assert_close(products.multiply(left, right, bias), expected + bias, **near)
    batch = left[None], right[None]
    free = torch.full_like(expected[None], float("nan"))
    torch.testing.assert_close(products.multiply_into(free, *batch, 0.5)[0], expected / 2, **near)
    torch.testing.assert_close(products.add_product_(base[None].clone(), *batch)[0], base + expected, **near)
    assert len(fast) >= 4


@pytest.mark.parametrize("batch", [1, 3])
def test_derivatives_of_any_order(fast, batch):
    left, right = torch.randn(batch, 6, 5, requires_grad=True), torch.randn(batch, 5, 4, requires_grad=True)

    def derivatives(product):
        y = product(left, right).pow(3).sum()
        first = torch.autograd.grad(y, (left, right), create_graph=True)
        return *first, *torch.autograd.grad(sum(part.pow(2).sum() for part in first), (left, right))

    torch.testing.assert_close(derivatives(products.matmul), derivatives(torch.matmul), rtol=1e-4, atol=1e-3)
    assert fast


@pytest.mark.parametrize("spread", [0.05, 1.0, 6.0], ids=["flat", "as usual", "sharp"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("engine", ["auto", "fused"])
@pytest.mark.parametrize("form", FORMS)
def test_engines_equal_the_reference(fast, form, engine, masked, spread):
    theta, phi, g = (spread * torch.randn(2, size, width) for size, width in ((70, 9), (50, 9), (50, 70)))
    if form == "gaussian":
        phi, g = theta, torch.randn(2, 70, 80)
    w_f = torch.randn(18) if form == "concatenation" else None
    mask = torch.rand(2, phi.shape[1]) < 0.7 if masked else None
    found = []
    for kind, parts in (
        (engine, (theta, phi, g)),
        ("reference", (theta.double(), phi.double(), g.double())),
    ):
        first, second, third = (part.clone().requires_grad_() for part in parts)
        second = first if form == "gaussian" else second
        weight = None if w_f is None else w_f.to(first)
        y = non_local(first, second, third, instantiation=form, w_f=weight, key_mask=mask, engine=kind)
        slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        leaves = dict.fromkeys((first, second, third))
        found.append((y, *torch.autograd.grad(y, list(leaves), slope)))
    for ours, expected in zip(*found, strict=True):
        # Sharp logits are some hundreds, whose rounding the weights have.
        assert (ours - expected).norm() <= 2e-4 * expected.norm()
    assert fast or form == "concatenation"


def check_equal(block, x, run):
    """Values and gradients of a block, as ``run`` computes them, are those of the slow one in float64."""
    twin = copy.deepcopy(block).double()
    results = []
    for module, leaf, compute in ((block, x, run), (twin, x.double(), lambda x: slow_block(twin, x))):
        leaf = leaf.requires_grad_()
        z = compute(leaf)
        slope = torch.linspace(-1, 2, z.numel(), dtype=z.dtype).view(z.shape)
        results.append((z, *torch.autograd.grad(z, (leaf, *module.parameters()), slope)))
    for ours, expected in zip(*results, strict=True):
        # The bias of phi has no gradient but rounding. PyTorch sums a norm's statistics in single precision
        # where channels lie last, elsewhere in double.
        assert (ours - expected).norm() <= 1e-4 * expected.norm() + 2e-3


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", [(12, 9, 8), (24, 5, 4)], ids=["many positions", "few positions"])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_blocks_equal_the_slow_ones(fast, form, large, shape, batch, training, memory_format, monkeypatch):
    if large:
        monkeypatch.setattr(products, "_LARGE", 0)
    block = randomize_(NonLocal2d(shape[0], instantiation=form)).train(training)
    check_equal(block, torch.randn(batch, *shape).to(memory_format=memory_format), block)
    assert fast


@pytest.mark.parametrize("layout", layouts(1, 1))
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_rows_of_a_whole_batch(fast, batch, biased, layout):
    weights = [layouts(columns, 5)[layout] for columns in (3, 4)]
    layers = [(weight, torch.randn(weight.shape[0]) if biased else None) for weight in weights]
    for rows in (torch.randn(batch, 7, 5), torch.randn(batch, 5, 7).transpose(1, 2)):
        found = products.multiply_rows(rows, *layers)
        for ours, (weight, bias) in zip(found, layers, strict=True):
            expected = torch.nn.functional.linear(rows, weight, bias)
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
            ours.add_(1.0)


def test_rows_that_are_left_to_others(fast, monkeypatch):
    rows, columns, layer = (
        torch.randn(1, 7, 5),
        torch.randn(1, 5, 7).transpose(1, 2),
        (torch.randn(3, 5), None),
    )
    assert products.multiply_rows(rows.clone().requires_grad_(), layer) is None
    assert products.multiply_rows(rows.double(), (layer[0].double(), None)) is None
    monkeypatch.setattr(products, "_LARGE", 34)
    assert products.multiply_rows(columns, layer) is None
    assert products.multiply_rows(rows, layer) is not None
    monkeypatch.setattr(products, "_LEAST_WORK", 3 * 7 * 5 + 1)
    assert products.multiply_rows(rows, layer, (torch.randn(4, 5), None)) is None


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_pointwise_convolutions_of_clips(fast, batch, bias, training):
    layer = ClipConvolution(6, 9, 1, bias=bias).requires_grad_(training)
    clip = torch.randn(batch, 6, 3, 5, 4).to(memory_format=torch.channels_last_3d).requires_grad_(training)
    y = layer(clip)
    assert len(fast) == 1
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    # A batch of one has the stride that a larger one has: norms go by it.
    assert y.stride() == torch.empty_like(y, memory_format=torch.channels_last_3d).stride()
    expected = torch.nn.functional.conv3d(clip, layer.weight, layer.bias)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    if training:
        leaves, slope = (clip, *layer.parameters()), torch.randn_like(y)
        found = torch.autograd.grad(y, leaves, slope)
        for ours, theirs in zip(found, torch.autograd.grad(expected, leaves, slope), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(clip).dtype == torch.bfloat16


def test_who_is_not_served(fast):
    part = torch.randn(4, 4)
    assert products.is_served(part)
    leaf = part.clone().requires_grad_()
    assert not products.is_served(leaf)
    assert products.has_fast_products(leaf)
    wrapped = part.as_subclass(type("Wrapped", (torch.Tensor,), {}))
    for other in (part.double(), part.bfloat16(), part.to("meta"), part[:0], wrapped):
        assert not products.has_fast_products(other)
    with warnings.catch_warnings():
        # Told of GPUs by Intel, of which this asks nothing.
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):
            assert not products.has_fast_products(part)
    with FlopCounterMode(display=False) as counter:
        products.multiply(part, part)
    assert counter.get_total_flops() == 2 * 4**3
    torch.func.vmap(lambda x: products.multiply(x, part))(torch.randn(3, 4, 4))
    assert not fast


@pytest.mark.parametrize(
    ("capability", "processor", "expected"),
    [
        ("AVX512", ("AuthenticAMD", 26), True),
        ("AVX512", ("AuthenticAMD", 25), False),
        ("AVX512", ("GenuineIntel", 26), False),
        ("AVX2", ("AuthenticAMD", 26), False),
        ("DEFAULT", ("", 0), False),
    ],
)
def test_the_processor_decides(monkeypatch, capability, processor, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(products, "_processor", lambda: processor)
    monkeypatch.setattr(products, "_answers", lambda: True)
    assert products._is_faster.__wrapped__() is expected


@pytest.mark.parametrize("failure", [AttributeError, RuntimeError, TypeError, None])
def test_another_operator_of_that_name_is_not_taken(monkeypatch, failure):
    def other(*words):
        if failure is not None:
            raise failure
        return torch.zeros(3, 4)

    monkeypatch.setattr(products, "_one_dnn", other)
    assert not products._answers()


def test_the_processor_in_its_own_words(monkeypatch, tmp_path):
    listing = tmp_path / "cpuinfo"
    monkeypatch.setattr(products, "Path", lambda _: listing)
    listing.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n")
    assert products._processor() == ("AuthenticAMD", 26)
    listing.write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert products._processor() == ("", 0)
    listing.unlink()
    for words, expected in (
        ("AMD64 Family 25 Model 97 Stepping 2, AuthenticAMD", ("AuthenticAMD", 25)),
        ("Intel64 Family 6 Model 85 Stepping 4, GenuineIntel", ("GenuineIntel", 6)),
        ("arm", ("", 0)),
    ):
        monkeypatch.setattr(products.platform, "processor", lambda words=words: words)
        assert products._processor() == expected


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_compiled_blocks_equal_the_slow_ones(fast, form, dynamic):
    torch.compiler.reset()
    block = randomize_(NonLocal2d(12, instantiation=form))
    compiled = torch.compile(block, fullgraph=True, dynamic=dynamic)
    for sides in ((9, 8), (6, 10)):
        check_equal(block, torch.randn(2, 12, *sides), compiled)
    assert fast


def test_only_the_bias_is_trained(fast):
    layer = ClipConvolution(6, 9, 1).requires_grad_(False)
    layer.bias.requires_grad_()
    layer(torch.randn(1, 6, 3, 5, 4).to(memory_format=torch.channels_last_3d)).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((9,), 60.0))


@pytest.mark.parametrize("bias", [torch.randn(12)[::2], torch.randn(1).expand(6)], ids=["spread", "expanded"])
def test_biases_of_any_layout(fast, bias):
    block = randomize_(NonLocal2d(12, sub_sample=None))
    block.theta.bias = block.phi.bias = block.g.bias = torch.nn.Parameter(bias)
    twin = randomize_(NonLocal2d(12, sub_sample=None))
    for layer in (twin.theta, twin.phi, twin.g):
        layer.bias = torch.nn.Parameter(bias.clone().contiguous())
    twin.load_state_dict(block.state_dict())
    x = torch.randn(1, 12, 9, 8)
    for each in (x, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(block.eval()(each), slow_block(twin.eval(), each), rtol=1e-4, atol=1e-4)
    assert fast


@pytest.mark.parametrize("form", FORMS)
def test_results_may_be_changed_in_place(fast, form):
    block = NonLocal2d(12, instantiation=form, norm=None, sub_sample=None, zero_init=False)
    block(torch.randn(1, 12, 9, 8)).relu_().sum().backward()
    layer = ClipConvolution(6, 9, 1, bias=False)
    layer(torch.randn(1, 6, 3, 5, 4).to(memory_format=torch.channels_last_3d)).relu_().sum().backward()
    parts = [torch.randn(1, 9, 8, requires_grad=True) for _ in range(3)]
    w_f = torch.randn(16) if form == "concatenation" else None
    non_local(*parts, instantiation=form, w_f=w_f).mul_(2).sum().backward()
    assert fast


@pytest.mark.parametrize("form", FORMS)
def test_second_derivatives_of_many_gradients_at_once(fast, form):
    block = randomize_(NonLocal2d(4, instantiation=form)).eval()
    x = torch.randn(1, 4, 4, 3, requires_grad=True)
    slopes = torch.randn(2, 1, 4, 4, 3)
    y = block(x).pow(3)
    first = torch.autograd.grad(y, x, slopes, is_grads_batched=True, create_graph=True)[0]
    alone = [torch.autograd.grad(y, x, slope, create_graph=True)[0] for slope in slopes]
    torch.testing.assert_close(first, torch.stack(alone), rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(first.pow(2).sum(), x, retain_graph=True)
    expected = torch.autograd.grad(sum(part.pow(2).sum() for part in alone), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_graphs_before_autograd_hold_known_operators(fast):
    clip = torch.randn(2, 4, 3, 3, 3).to(memory_format=torch.channels_last_3d)
    graph = make_fx(ClipConvolution(4, 6, 1), pre_dispatch=True)(clip).graph
    assert "mkldnn" not in str(graph)
    assert "conv" in str(graph)


def test_what_does_not_fit_is_left_to_pytorch(fast):
    clip = torch.randn(2, 4, 3, 5, 5).to(memory_format=torch.channels_last_3d)
    layer = ClipConvolution(4, 6, 1)
    for bias in (torch.randn(6).double(), torch.randn(1)):
        layer.bias = torch.nn.Parameter(bias)
        with pytest.raises(RuntimeError, match="bias"):
            layer(clip)
    with pytest.raises(RuntimeError, match="channels"):
        layer(clip[:, :2].contiguous(memory_format=torch.channels_last_3d))
    many, one = torch.randn(3, 5, 6), torch.randn(1, 6, 4)
    torch.testing.assert_close(products.matmul(many, one), many @ one)


def test_the_operator_is_tried_on_numbers_whatever_the_defaults_are():
    expected = products._answers()
    with torch.device("meta"):
        assert products._answers() is expected
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert products._answers() is expected
    finally:
        torch.set_default_dtype(before)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated", "ignore::torch.jit.TracerWarning")
def test_whoever_watches_the_first_call_does_not_see_the_question(monkeypatch):
    expected = products._answers()
    with torch.autocast("cpu", torch.bfloat16):
        assert products._answers() is expected
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        assert products._answers() is expected
    assert counter.get_total_flops() == 0
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(products, "_processor", lambda: ("AuthenticAMD", 26))
    monkeypatch.setattr(products, "_is_faster", products._is_faster.__wrapped__)
    block, x = randomize_(NonLocal2d(4)).eval(), torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(torch.jit.trace(block, x)(x), slow_block(block, x))
