"""The operation: every engine against the equation, values and gradients."""

import math
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from nonlocalnn.functional import (
    INSTANTIATIONS,
    SOFTMAX_INSTANTIATIONS,
    affinity,
    concatenation,
    non_local,
    sizes,
    tiles,
)
from nonlocalnn.functional.concatenation import rectified_non_local
from tolerances import ROUNDING, assert_near

B, N, M, D, E = 2, 13, 11, 5, 3
MASKS = ("no mask", "some keys", "an entry with one key", "an entry without keys")


def inputs(instantiation, *, dtype=torch.float64, num_values=E, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    w_f = draw(2 * D) if instantiation == "concatenation" else None
    return draw(B, N, D), draw(B, M, D), draw(B, M, num_values), w_f


def mask_for(kind):
    if kind == "no mask":
        return None
    mask = torch.rand(B, M, generator=torch.Generator().manual_seed(1)) > 0.4
    if kind != "some keys":
        mask[1] = False
        mask[1, 4] = kind == "an entry with one key"
    return mask


def by_loops(theta, phi, g, instantiation, w_f, scale, mask, num_heads=1):
    """Eq. (1) one number at a time, for one slice of the channels after another."""
    if num_heads > 1:
        parts = [part.chunk(num_heads, 2) for part in (theta, phi, g)]
        halves = [] if w_f is None else [half.chunk(num_heads) for half in w_f.chunk(2)]
        slices = (
            [None] * num_heads if w_f is None else [torch.cat(pair) for pair in zip(*halves, strict=True)]
        )
        heads = zip(*parts, slices, strict=True)
        return torch.cat([by_loops(*head[:3], instantiation, head[3], scale, mask) for head in heads], 2)
    y = torch.zeros(theta.shape[0], theta.shape[1], g.shape[2], dtype=theta.dtype)
    for b in range(theta.shape[0]):
        keys = [j for j in range(phi.shape[1]) if mask is None or mask[b, j]]
        for i in range(theta.shape[1]):
            f = []
            for j in keys:
                product = float(theta[b, i] @ phi[b, j])
                if instantiation == "concatenation":
                    f.append(max(0.0, float(torch.cat([theta[b, i], phi[b, j]]) @ w_f)))
                else:
                    f.append(product if instantiation == "dot_product" else math.exp(scale * product))
            divisor = sum(f) if instantiation in SOFTMAX_INSTANTIATIONS else len(keys)
            for weight, j in zip(f, keys, strict=True):
                y[b, i] += weight / divisor * g[b, j]
    return y


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("engine", ["reference", "fused", "auto"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_equals_the_equation_number_by_number(instantiation, engine, kind):
    theta, phi, g, w_f = (None if part is None else part.detach() for part in inputs(instantiation))
    mask, scale = mask_for(kind), 0.7 if instantiation in SOFTMAX_INSTANTIATIONS else None
    expected = by_loops(theta, phi, g, instantiation, w_f, scale, mask)
    assert expected.abs().max() > 0.1
    y = non_local(
        theta, phi, g, instantiation=instantiation, w_f=w_f, scale=scale, key_mask=mask, engine=engine
    )
    assert_near(y, expected)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("num_heads", [2, 4])
@pytest.mark.parametrize("engine", ["reference", "fused", "auto"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_heads_equal_the_equation_on_each_slice(instantiation, engine, num_heads, kind):
    generator = torch.Generator().manual_seed(0)
    widths = ((N, 8), (M, 8), (M, 12))
    parts = [torch.randn(B, *shape, generator=generator, dtype=torch.float64) for shape in widths]
    w_f = (
        torch.randn(16, generator=generator, dtype=torch.float64)
        if instantiation == "concatenation"
        else None
    )
    scale, mask = 0.7 if instantiation in SOFTMAX_INSTANTIATIONS else None, mask_for(kind)
    settings = {"instantiation": instantiation, "w_f": w_f, "scale": scale}
    y = non_local(*parts, **settings, key_mask=mask, num_heads=num_heads, engine=engine)
    assert_near(y, by_loops(*parts, **settings, mask=mask, num_heads=num_heads))
    weights = affinity(*parts[:2], **settings, key_mask=mask, num_heads=num_heads)
    assert weights.shape == (B, num_heads, N, M)
    values = parts[2].unflatten(2, (num_heads, -1)).transpose(1, 2)
    assert_near((weights @ values).transpose(1, 2).flatten(2), y)
    # Gradients beside the reference's, through every engine.
    results = []
    for chosen in (engine, "reference"):
        leaves = [part.clone().requires_grad_() for part in (*parts, *([] if w_f is None else [w_f]))]
        named = {**settings, "w_f": leaves[3] if w_f is not None else None}
        found = non_local(*leaves[:3], **named, key_mask=mask, num_heads=num_heads, engine=chosen)
        slope = torch.linspace(-1, 2, found.numel(), dtype=found.dtype).view_as(found)
        results.append(torch.autograd.grad(found, leaves, slope))
    assert_near(*results)


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_heads_never_hold_an_n_by_m_tensor(instantiation, masked):
    many = 1000
    theta, phi, g = (torch.randn(1, many, 8, requires_grad=True) for _ in range(3))
    w_f = torch.randn(16) if instantiation == "concatenation" else None
    mask = torch.rand(1, many) > 0.5 if masked else None
    named = {"instantiation": instantiation, "w_f": w_f, "key_mask": mask, "num_heads": 2}
    with LargestTensor() as seen:
        y = non_local(theta, phi, g, engine="fused", **named)
        torch.autograd.grad(y.sum(), (theta, phi, g))
    assert seen.largest < many * many


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("engine", ["reference", "fused", "auto"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_a_mask_of_all_keys_changes_no_bit(instantiation, engine, num_heads):
    x = torch.randn(2, M, 8)
    w_f = torch.randn(16) if instantiation == "concatenation" else None
    named = {"instantiation": instantiation, "w_f": w_f, "engine": engine, "num_heads": num_heads}
    mask = torch.ones(2, M, dtype=torch.bool)
    # The same tensor twice: without a mask the Gaussian has an engine for that alone.
    assert torch.equal(non_local(x, x, x, key_mask=mask, **named), non_local(x, x, x, **named))


@pytest.mark.parametrize("num_values", [3, 5, 8], ids=["E<D", "E=D", "E>D"])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_fused_equals_reference_in_values_and_gradients(instantiation, kind, num_values):
    theta, phi, g, w_f = inputs(instantiation, num_values=num_values)
    leaves = [part for part in (theta, phi, g, w_f) if part is not None]
    results, scale = [], 0.6 if instantiation in SOFTMAX_INSTANTIATIONS else None
    for engine in ("reference", "fused"):
        y = non_local(
            theta,
            phi,
            g,
            instantiation=instantiation,
            w_f=w_f,
            scale=scale,
            key_mask=mask_for(kind),
            engine=engine,
        )
        slope = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
        results.append((y, *torch.autograd.grad(y, leaves, slope)))
    assert_near(results[1], results[0])


@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_masked_keys_are_as_if_they_were_not_there(instantiation, engine):
    theta, phi, g, w_f = inputs(instantiation)
    mask = torch.ones(B, M, dtype=torch.bool)
    mask[:, [2, 7]] = False
    with torch.no_grad():
        phi[:, 2], g[:, 7] = torch.nan, torch.inf
    y = non_local(theta, phi, g, instantiation=instantiation, w_f=w_f, key_mask=mask, engine=engine)
    kept = [j for j in range(M) if j not in (2, 7)]
    expected = non_local(
        theta, phi[:, kept], g[:, kept], instantiation=instantiation, w_f=w_f, engine="reference"
    )
    assert_near(y, expected)
    gradients = torch.autograd.grad(y.sum(), (theta, phi, g))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[2][:, [2, 7]] == 0).all()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_affinity_is_what_the_operation_sums_by(instantiation, kind):
    theta, phi, g, w_f = inputs(instantiation)
    mask = mask_for(kind)
    weights = affinity(theta, phi, instantiation=instantiation, w_f=w_f, key_mask=mask)
    y = non_local(theta, phi, g, instantiation=instantiation, w_f=w_f, key_mask=mask, engine="fused")
    assert_near(weights @ g, y)
    if mask is not None:
        assert (weights.masked_select(~mask[:, None, :]) == 0).all()
    if instantiation in SOFTMAX_INSTANTIATIONS:
        has_key = torch.ones(B) if mask is None else mask.any(1)
        expected = has_key.to(weights.dtype)[:, None].expand(B, N)
        assert_near(weights.sum(2), expected)


def test_embedded_gaussian_is_attention():
    theta, phi, g, _ = inputs("embedded_gaussian")
    expected = F.scaled_dot_product_attention(theta, phi, g, scale=1.0)
    y = non_local(theta, phi, g, instantiation="embedded_gaussian", engine="reference")
    assert_near(y, expected)


@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_permutations(instantiation, engine):
    theta, phi, g, w_f = inputs(instantiation)

    def run(theta, phi, g):
        return non_local(theta, phi, g, instantiation=instantiation, w_f=w_f, engine=engine)

    y, queries, keys = run(theta, phi, g), torch.randperm(N), torch.randperm(M)
    assert_near(run(theta[:, queries], phi, g), y[:, queries])
    assert_near(run(theta, phi[:, keys], g[:, keys]), y)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_types(instantiation, engine, dtype):
    theta, phi, g, w_f = inputs(instantiation, dtype=dtype)
    y = non_local(theta, phi, g, instantiation=instantiation, w_f=w_f, engine=engine)
    assert y.dtype == dtype
    exact = [None if part is None else part.double() for part in (theta, phi, g, w_f)]
    expected = non_local(*exact[:3], instantiation=instantiation, w_f=exact[3], engine="reference")
    assert_near(y.double(), expected, dtype=dtype)


class LargestTensor(TorchDispatchMode):
    """Notes the largest number of elements that any operation returns."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                # What the storage holds: an expanded view is no memory.
                self.largest = max(self.largest, value.untyped_storage().nbytes() // value.element_size())
        return result


@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("num_values", [8, 16, 24], ids=["E<D", "E=D", "E>D"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
def test_fused_never_holds_an_n_by_m_tensor(instantiation, num_values, masked):
    many = 700
    theta, phi = (torch.randn(1, many, 16, requires_grad=True) for _ in range(2))
    g = torch.randn(1, many, num_values, requires_grad=True)
    w_f = torch.randn(32) if instantiation == "concatenation" else None
    mask = torch.rand(1, many) > 0.5 if masked else None
    for engine, holds in (("fused", False), ("reference", True)):
        with LargestTensor() as seen:
            y = non_local(theta, phi, g, instantiation=instantiation, w_f=w_f, key_mask=mask, engine=engine)
            torch.autograd.grad(y.sum(), (theta, phi, g))
        assert (seen.largest >= many * many) == holds, engine


@pytest.mark.parametrize("num_values", [8, 16])
@pytest.mark.parametrize("needs_gradients", [False, True])
def test_auto_takes_the_kernel_of_one_width_where_nothing_is_kept(num_values, needs_gradients):
    many = 750
    theta, phi = (torch.randn(1, many, 8, requires_grad=needs_gradients) for _ in range(2))
    g = torch.randn(1, many, num_values)
    with LargestTensor() as seen:
        non_local(theta, phi, g, instantiation="embedded_gaussian")
    assert (seen.largest < many * many) == (num_values == 8 and not needs_gradients)


@pytest.fixture(params=[3, 64], ids=["many runs", "one run"])
def run_length(request, monkeypatch):
    monkeypatch.setattr(concatenation, "_RUN_LENGTH", request.param)


@pytest.mark.parametrize("case", ["random", "ties in b", "ties in a and b", "sums of exactly zero"])
def test_concatenation_gradcheck(case, run_length):
    a, b = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 7, dtype=torch.float64)
    if case == "ties in b":
        b[:, 3:6] = b[:, :1]
    if case == "ties in a and b":
        a[:, 2:], b[:, 1:5] = a[:, :1], b[:, :1]
    g = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    if case == "sums of exactly zero":
        # The ReLU has a corner there: a and b have no derivative, and g's is checked.
        b[:, 2], b[:, 3] = -a[:, 0], -a[:, 1]
        assert torch.autograd.gradcheck(lambda g: rectified_non_local(a, b, g), g)
        return
    a.requires_grad_()
    b.requires_grad_()
    assert torch.autograd.gradcheck(rectified_non_local, (a, b, g))


def test_concatenation_at_exactly_zero_equals_autograd_of_relu(run_length):
    a = torch.tensor([[1.0, -2.0, 0.5, -2.0]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[-1.0, 2.0, 2.0, -0.5, 3.0]], dtype=torch.float64, requires_grad=True)
    g = torch.randn(1, 5, 2, dtype=torch.float64, requires_grad=True)
    assert ((a.unsqueeze(2) + b.unsqueeze(1)) == 0).sum() == 6
    expected = torch.relu(a.unsqueeze(2) + b.unsqueeze(1)) @ g / 5
    slope = torch.randn_like(expected)
    y = rectified_non_local(a, b, g)
    assert_near(y, expected)
    ours = torch.autograd.grad(y, (a, b, g), slope)
    assert_near(ours, torch.autograd.grad(expected, (a, b, g), slope))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_concatenation_is_float32_under_autocast_in_both_passes(dtype):
    """Bit for bit: autocast around the call, and around its backward pass, must not reach the products."""
    leaves = [torch.randn(2, 90), torch.randn(2, 70), 100 * torch.randn(2, 70, 5)]
    results = []
    for enabled in (False, True):
        parts = [leaf.clone().requires_grad_() for leaf in leaves]
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            y = rectified_non_local(*parts)
            results.append((y, *torch.autograd.grad(y, parts, torch.ones_like(y))))
    for under, plain in zip(results[1], results[0], strict=True):
        assert torch.equal(under, plain)


@pytest.mark.parametrize("shift", [0.0, 1e4], ids=["centred", "a and b far apart"])
def test_concatenation_is_as_exact_in_float32_as_the_materialised_form(shift):
    """a + b is what counts: a = 10,000 and b = -10,000 must not cost digits beyond those of the inputs."""
    a, b, g = torch.randn(1, 900) + shift, torch.randn(1, 800) - shift, torch.randn(1, 800, 7)
    leaves = [part.requires_grad_() for part in (a, b, g)]
    exact = [part.detach().double().requires_grad_() for part in leaves]
    slope = torch.randn(1, 900, 7)

    def materialised(a, b, g):
        return torch.relu(a.unsqueeze(2) + b.unsqueeze(1)) @ g / g.shape[1]

    def with_gradients(form, parts, slope):
        y = form(*parts)
        return (y.detach(), *torch.autograd.grad(y, parts, slope))

    expected = with_gradients(materialised, exact, slope.double())
    errors = [
        [float((value - wanted).abs().max()) for value, wanted in zip(found, expected, strict=True)]
        for found in (
            with_gradients(rectified_non_local, leaves, slope),
            with_gradients(materialised, leaves, slope),
        )
    ]
    for ours, theirs in zip(*errors, strict=True):
        assert ours <= 3 * theirs


@pytest.mark.parametrize("num_values", [1, 70])
def test_concatenation_over_many_runs_and_batch_entries(num_values):
    a, b = torch.randn(3, 310, dtype=torch.float64), torch.randn(3, 170, dtype=torch.float64)
    g = torch.randn(3, 170, num_values, dtype=torch.float64)
    leaves = [part.requires_grad_() for part in (a, b, g)]
    y = rectified_non_local(*leaves)
    expected = torch.relu(a.unsqueeze(2) + b.unsqueeze(1)) @ g / 170
    assert_near(y, expected)
    slope = torch.randn_like(y)
    assert_near(torch.autograd.grad(y, leaves, slope), torch.autograd.grad(expected, leaves, slope))


@pytest.mark.parametrize("direction", [-1e6, 1e6], ids=["none passes", "all pass"])
def test_concatenation_when_no_or_every_pair_passes(direction, run_length):
    theta, phi, g, w_f = inputs("concatenation")
    shifted = phi + direction * w_f[D:] / (w_f[D:] @ w_f[D:])
    y, expected = (
        non_local(theta, shifted, g, instantiation="concatenation", w_f=w_f, engine=engine)
        for engine in ("fused", "reference")
    )
    assert_near(y, expected)
    assert (y == 0).all() == (direction < 0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # raised by opcheck itself
@pytest.mark.parametrize("holds_pairs", [False, True], ids=["sorted", "pairs"])
def test_concatenation_operators_pass_opcheck(holds_pairs):
    a, b = torch.randn(2, 6, requires_grad=True), torch.randn(2, 7, requires_grad=True)
    g = torch.randn(2, 7, 3, requires_grad=True)
    count = torch.tensor([7.0, 5.0])[:, None, None]
    torch.library.opcheck(torch.ops.nonlocalnn.rectified_average.default, (a, b, g, count, holds_pairs))
    detached = (torch.randn(2, 6, 3), a.detach(), b.detach(), g.detach(), count, holds_pairs)
    torch.library.opcheck(torch.ops.nonlocalnn.rectified_average_backward.default, detached)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # raised by opcheck itself
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_softmax_operators_pass_opcheck(masked):
    theta, phi = torch.randn(2, 6, 5, requires_grad=True), torch.randn(2, 7, 5, requires_grad=True)
    g = torch.randn(2, 7, 3, requires_grad=True)
    mask = torch.tensor([[True, False, True, True, False, True, True]] * 2) if masked else None
    torch.library.opcheck(torch.ops.nonlocalnn.softmax_sum.default, (theta, phi, g, mask, 0.5))
    kept = theta.detach(), phi.detach(), g.detach(), mask
    saved = torch.ops.nonlocalnn.softmax_sum(*kept, 0.5)
    detached = (torch.randn(2, 6, 3), *kept, *saved, 0.5)
    torch.library.opcheck(torch.ops.nonlocalnn.softmax_sum_backward.default, detached)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # raised by opcheck itself
def test_symmetric_operators_pass_opcheck():
    x, g = torch.randn(2, 7, 5, requires_grad=True), torch.randn(2, 7, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.nonlocalnn.symmetric_softmax_sum.default, (x, g, 0.5))
    saved = torch.ops.nonlocalnn.symmetric_softmax_sum(x.detach(), g.detach(), 0.5)
    detached = (torch.randn(2, 7, 3), x.detach(), g.detach(), *saved, 0.5)
    torch.library.opcheck(torch.ops.nonlocalnn.symmetric_softmax_sum_backward.default, detached)


@pytest.mark.parametrize("num_positions", [1, 3, 13, 40])
@pytest.mark.parametrize("side", [1, 4, 256])
@pytest.mark.parametrize("scale", [None, 0.6, -0.6])
def test_a_map_with_itself_equals_the_reference(scale, side, num_positions, monkeypatch):
    monkeypatch.setattr(tiles, "_TILE_BYTES", 8 * side * side)
    generator = torch.Generator().manual_seed(0)
    # Logits up to some hundreds, in rising order: the largest of a query changes from panel to panel.
    x = torch.randn(B, num_positions, D, generator=generator, dtype=torch.float64)
    x = (x * torch.linspace(0.5, 8, num_positions, dtype=torch.float64)[:, None]).requires_grad_()
    g = torch.randn(B, num_positions, E, generator=generator, dtype=torch.float64, requires_grad=True)
    results = []
    for engine in ("reference", "fused"):
        y = non_local(x, x, g, instantiation="gaussian", scale=scale, engine=engine)
        slope = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
        results.append((y, *torch.autograd.grad(y, (x, g), slope)))
    assert_near(results[1], results[0])


@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_the_scale_multiplies_the_logits(scale, engine):
    theta, phi, g, _ = inputs("embedded_gaussian")
    y = non_local(theta, phi, g, instantiation="embedded_gaussian", scale=scale, engine=engine)
    torch.testing.assert_close(y, (scale * theta @ phi.mT).softmax(2) @ g)


def test_a_map_with_itself_whose_logits_fall_equals_the_reference(monkeypatch):
    monkeypatch.setattr(tiles, "_TILE_BYTES", 8 * 4 * 4)
    generator = torch.Generator().manual_seed(0)
    # By thousands from panel to panel: no exponential of such a difference is a number.
    x = torch.rand(B, 13, D, generator=generator, dtype=torch.float64) + 0.5
    x = (x * torch.linspace(60, 1, 13, dtype=torch.float64)[:, None]).requires_grad_()
    g = torch.randn(B, 13, E, generator=generator, dtype=torch.float64)
    results = []
    for engine in ("reference", "fused"):
        y = non_local(x, x, g, instantiation="gaussian", engine=engine)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_a_map_with_itself_and_a_key_mask():
    x, _, _, _ = inputs("gaussian")
    g, mask = torch.randn(B, N, E, dtype=torch.float64), torch.arange(N) < torch.tensor([[4], [N]])
    y, expected = (
        non_local(x, x, g, instantiation="gaussian", key_mask=mask, engine=engine)
        for engine in ("fused", "reference")
    )
    assert_near(y, expected)


@pytest.mark.slow
def test_a_pass_does_not_load_the_compiler():
    code = """
import sys, torch
from nonlocalnn.functional import non_local
for form in ("gaussian", "embedded_gaussian", "concatenation"):
    x = torch.randn(1, 6, 4, requires_grad=True)
    w_f = torch.ones(8) if form == "concatenation" else None
    non_local(x, x.clone(), x, instantiation=form, w_f=w_f, engine="fused").sum().backward()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("engine", ["reference", "fused"])
@pytest.mark.parametrize("instantiation", INSTANTIATIONS)
@pytest.mark.parametrize("shape", [(0, N, M), (B, 0, M), (1, 1, 1)], ids=["B=0", "N=0", "one position"])
def test_small_shapes(instantiation, engine, shape):
    batch, num_queries, num_keys = shape
    w_f = torch.randn(2 * D) if instantiation == "concatenation" else None
    theta = torch.randn(batch, num_queries, D, requires_grad=True)
    phi, g = torch.randn(batch, num_keys, D), torch.randn(batch, num_keys, E)
    y = non_local(theta, phi, g, instantiation=instantiation, w_f=w_f, engine=engine)
    assert y.shape == (batch, num_queries, E)
    y.sum().backward()
    assert theta.grad.shape == theta.shape


def test_auto_takes_the_pairs_of_the_concatenation_form_where_they_are_few(monkeypatch):
    def holds_pairs(num_positions, width, batch=1):
        a, g = torch.zeros(batch, num_positions), torch.zeros(batch, num_positions, width)
        return sizes.pairs_are_faster(a, g)

    assert [holds_pairs(count, 64) for count in (49, 400, 784, 1568)] == [True, True, False, False]
    # What sorting costs before it sums anything is shared by the batch.
    assert [holds_pairs(count, 64, batch=8) for count in (49, 150, 400)] == [True, True, False]
    assert not holds_pairs(2000, 1)
    monkeypatch.setattr(sizes, "MOST_WEIGHTS", 49**2 - 1)
    assert not holds_pairs(49, 64)


@pytest.mark.parametrize("pairs", [1, 3 * 7 * 5, 2**19])
def test_pairs_of_some_entries_at_a_time_equal_the_reference(pairs, monkeypatch):
    monkeypatch.setattr(concatenation, "_PAIRS", pairs)
    parts = [torch.randn(4, *shape, dtype=torch.float64) for shape in ((7, 3), (5, 3), (5, 2))]
    w_f, mask = torch.randn(6, dtype=torch.float64), torch.rand(4, 5) < 0.7
    found = []
    for engine in ("auto", "reference"):
        leaves = [part.clone().requires_grad_() for part in (*parts, w_f)]
        y = non_local(*leaves[:3], instantiation="concatenation", w_f=leaves[3], key_mask=mask, engine=engine)
        slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        found.append((y, *torch.autograd.grad(y, leaves, slope)))
    for ours, expected in zip(*found, strict=True):
        assert_near(ours, expected)


def test_auto_takes_the_dot_products_of_less_arithmetic():
    def materialises(num_positions, width):
        part = torch.zeros(1, num_positions, width)
        return sizes.materialises(part, part, part, "dot_product")

    # N M (D + E) against (N + M) D E: equal where N = M = D = E.
    assert materialises(63, 64)
    assert not materialises(65, 64)


def replaced(**changes):
    arguments = {
        "theta": torch.zeros(2, 4, 3),
        "phi": torch.zeros(2, 5, 3),
        "g": torch.zeros(2, 5, 6),
        "instantiation": "embedded_gaussian",
    }
    return {**arguments, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"theta": torch.zeros(4, 3)}, r"theta must be \(B, positions, channels\); got shape \(4, 3\)"),
        ({"theta": torch.zeros(2, 4, 3, dtype=torch.long)}, "theta must be floating point; got torch.int64"),
        ({"theta": torch.zeros(2, 4, 7)}, r"must agree in B and D; got \(2, 4, 7\) and \(2, 5, 3\)"),
        ({"theta": torch.zeros(3, 4, 3)}, r"must agree in B and D"),
        ({"theta": torch.zeros(2, 4, 3).double()}, "theta and phi must have one type"),
        ({"phi": torch.zeros(2, 0, 3), "g": torch.zeros(2, 0, 3)}, "at least one key"),
        ({"g": torch.zeros(2, 4, 6)}, r"g must be \(B, M, E\) with phi's \(B, M\) = \(2, 5\)"),
        ({"g": torch.zeros(2, 5, 6).double()}, "g must have phi's type torch.float32; got torch.float64"),
        ({"instantiation": "embeded_gaussian"}, r"did you mean 'embedded_gaussian'\?"),
        ({"instantiation": "dot_product", "scale": 0.5}, "scale has no meaning for 'dot_product'"),
        ({"instantiation": "concatenation"}, r"w_f must be \(2D,\) = \(6,\) for 'concatenation'; got None"),
        ({"instantiation": "concatenation", "w_f": torch.zeros(5)}, r"got shape \(5,\)"),
        ({"w_f": torch.zeros(6)}, "w_f belongs to 'concatenation' only"),
        ({"key_mask": torch.ones(2, 5)}, r"key_mask must be bool, \(B, M\) = \(2, 5\); got torch.float32"),
        ({"key_mask": torch.ones(2, 4, dtype=torch.bool)}, r"key_mask must be bool"),
        ({"num_heads": 0}, "num_heads must be a whole number of at least 1; got 0"),
        ({"num_heads": True}, "num_heads must be a whole number"),
        ({"num_heads": 2}, "theta and phi must have a multiple of num_heads = 2; got 3"),
        ({"num_heads": 3, "g": torch.zeros(2, 5, 7)}, "g must have a multiple of num_heads = 3; got 7"),
        ({"engine": "fast"}, "engine must be one of 'auto', 'reference', 'fused'; got 'fast'"),
    ],
)
def test_wrong_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        non_local(**replaced(**changes))


def test_the_log_sum_exp_has_no_gradient_rather_than_a_wrong_one():
    x, g = torch.randn(1, 5, 3, requires_grad=True), torch.randn(1, 5, 2, requires_grad=True)
    y, log_sum_exp = torch.ops.nonlocalnn.symmetric_softmax_sum(x, g, 1.0)
    assert_near(log_sum_exp, (x @ x.mT).logsumexp(2).detach())
    assert y.requires_grad
    assert not log_sum_exp.requires_grad
