"""Calls of the operation: right by the equation in float64, or refused by a ValueError of ours."""

import contextlib
import math
from dataclasses import dataclass, replace

import torch
from fuzz_outcome import outcome_of
from hypothesis import strategies as st

from nonlocalnn.functional import INSTANTIATIONS, SOFTMAX_INSTANTIATIONS, affinity, non_local

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float64)
SIZES = (0, 1, 2, 3, 5, 17, 40)
VALUES = ("normal", "zeros", "equal", "large", "many sizes", "denormal", "largest", "infinite", "NaN")
LAYOUTS = ("contiguous", "transposed", "strided", "expanded", "offset")
MASKS = ("none", "some", "one", "all", "an entry without keys", "NaN in what is masked")
SCALES = (*(None, 1.0, -1.5, 0.25, 0.5, 3) * 3, 0.0, 1e-30, 1e30, -1e6, 1e300)
# Each makes a call wrong that would be right without it.
FAULTS = (
    *("rank", "batch", "width", "keys of g", "type of phi", "type of g", "integers", "complex", "bool"),
    *("float8", "no keys", "type of mask", "shape of mask", "no w_f", "shape of w_f", "w_f unasked"),
    *("type of w_f", "scale unasked", "scale inf", "scale nan", "scale text", "scale digits"),
    *("engine", "instantiation", "no heads", "heads as text", "slices of unequal width"),
)
_OF_CONCATENATION = ("no w_f", "shape of w_f", "type of w_f")
_OF_SOFTMAX = ("scale inf", "scale nan", "scale text", "scale digits")
_TYPES = {"integers": torch.int64, "complex": torch.complex64, "bool": torch.bool}


@dataclass(frozen=True)
class Call:
    """Arguments of a call; ``fault`` is what is wrong with it, if anything."""

    is_affinity: bool
    instantiation: str
    engine: str
    sizes: tuple[int, int, int, int, int]  # B, N, M, D, E
    dtype: torch.dtype
    values: str
    layout: str
    mask: str
    scale: float | None
    num_heads: int
    is_self: bool
    has_gradient: bool
    autocast: bool
    seed: int
    fault: str | None


@st.composite
def calls(draw):
    is_affinity = draw(st.booleans()) and draw(st.booleans())
    instantiation = draw(st.sampled_from(INSTANTIATIONS))
    # Half of them gradually larger than a run of keys or a block of queries, and a fifth with empty sides.
    side = st.sampled_from(SIZES if draw(st.integers(0, 4)) == 0 else SIZES[1:])
    batch, queries, keys, width, values = (draw(side) for _ in range(5))
    num_heads = draw(st.sampled_from((1, 1, 1, 2, 3)))
    is_self = draw(st.booleans())
    return Call(
        is_affinity=is_affinity,
        instantiation=instantiation,
        engine=draw(st.sampled_from(("auto", "reference", "fused", "fused", "fused"))),
        sizes=(batch, queries, max(1, queries if is_self else keys), width * num_heads, values * num_heads),
        num_heads=num_heads,
        dtype=draw(st.sampled_from(DTYPES)),
        values=draw(st.sampled_from((*("normal",) * 9, *("large", "many sizes") * 2, *VALUES))),
        layout=draw(st.sampled_from(LAYOUTS)),
        mask=draw(st.sampled_from(("none",) * 5 + MASKS)),
        scale=draw(st.sampled_from(SCALES)) if instantiation in SOFTMAX_INSTANTIATIONS else None,
        is_self=is_self and queries > 0,
        has_gradient=draw(st.booleans()),
        autocast=draw(st.integers(0, 7)) == 0,
        seed=draw(st.integers(0, 9999)),
        fault=draw(st.sampled_from(FAULTS)) if draw(st.integers(0, 3)) == 0 else None,
    )


def check_call(call, folder=None):
    """Return what came of a call; AssertionError, or whatever else leaves the library, is a finding."""
    arguments, settings = _arguments(call)
    wrong = _spoil(call, arguments, settings)
    function, given = (affinity, arguments[:2]) if call.is_affinity else (non_local, arguments)
    if call.is_affinity:
        wrong = wrong and call.fault not in ("keys of g", "type of g", "engine")
    else:
        settings["engine"] = settings.get("engine", call.engine)
    if call.is_affinity:
        settings.pop("engine", None)
    around = torch.autocast("cpu", torch.bfloat16) if call.autocast else contextlib.nullcontext()
    with around:
        outcome, result = outcome_of(lambda: function(*given, **settings), (ValueError, TypeError))
    if wrong or outcome == "refused":
        assert wrong, f"a right call is refused: {result}"
        assert outcome == "refused", "a wrong call is answered"
        return outcome
    return _compare(call, arguments, settings, result)


def _arguments(call):
    batch, queries, keys, width, values = call.sizes
    generator = torch.Generator().manual_seed(call.seed)
    theta = _tensor(call, generator, batch, queries, width)
    phi = theta if call.is_self else _tensor(call, generator, batch, keys, width)
    g = _tensor(call, generator, batch, keys, values)
    settings = {"instantiation": call.instantiation}
    if call.num_heads > 1:
        settings["num_heads"] = call.num_heads
    if call.instantiation in SOFTMAX_INSTANTIATIONS:
        settings["scale"] = call.scale
    if call.instantiation == "concatenation":
        settings["w_f"] = _numbers(call, generator, 2 * width).requires_grad_(call.has_gradient)
    mask = _mask(call, generator, batch, keys)
    if mask is not None:
        settings["key_mask"] = mask
        if call.mask == "NaN in what is masked":
            phi, g = (part.masked_fill(~mask.unsqueeze(2), torch.nan).detach() for part in (phi, g))
            phi, g = phi.requires_grad_(call.has_gradient), g.requires_grad_(call.has_gradient)
    return [theta, phi, g], settings


def _numbers(call, generator, *shape):
    most = torch.finfo(call.dtype).max
    numbers = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if call.values in ("zeros", "equal"):
        numbers = torch.full_like(numbers, 0.0 if call.values == "zeros" else 1.5)
    elif call.values == "large":
        numbers *= 1e3 if call.dtype == torch.float16 else 1e30
    elif call.values == "many sizes":
        numbers *= 10.0 ** (torch.rand(*shape, generator=generator, dtype=torch.float64) * 20 - 10)
        numbers = numbers.clamp(-most, most)
    elif call.values == "denormal":
        numbers *= torch.finfo(call.dtype).tiny / 4
    elif call.values == "largest":
        numbers = numbers.sign() * most
    numbers = numbers.to(call.dtype)
    if call.values in ("infinite", "NaN") and numbers.numel():
        numbers.view(-1)[call.seed % numbers.numel()] = math.inf if call.values == "infinite" else math.nan
    return numbers


def _tensor(call, generator, batch, positions, width):
    if call.layout == "transposed":
        made = _numbers(call, generator, batch, width, positions).transpose(1, 2)
    elif call.layout == "strided":
        made = _numbers(call, generator, batch, 2 * positions, width)[:, ::2]
    elif call.layout == "expanded":
        made = _numbers(call, generator, batch, 1, width).expand(batch, positions, width)
    elif call.layout == "offset":
        made = _numbers(call, generator, batch * positions * width + 1)[1:].view(batch, positions, width)
    else:
        made = _numbers(call, generator, batch, positions, width)
    return made.detach().requires_grad_(call.has_gradient)


def _mask(call, generator, batch, keys):
    if call.mask == "none":
        return None
    mask = torch.rand(batch, keys, generator=generator) > 0.4
    if call.mask == "all":
        mask[:] = True
    elif call.mask == "one":
        mask[:] = torch.arange(keys) == call.seed % keys
    elif call.mask == "an entry without keys":
        mask[: max(1, batch // 2)] = False
    return mask


def _spoil(call, arguments, settings):
    """Put the fault in; return whether the call is wrong now."""
    fault, (theta, phi, g) = call.fault, arguments
    is_concatenation = call.instantiation == "concatenation"
    if fault is None or ((fault in _OF_CONCATENATION) != is_concatenation and fault in _OF_CONCATENATION):
        return False
    if fault in _OF_SOFTMAX and call.instantiation not in SOFTMAX_INSTANTIATIONS:
        return False
    if fault in ("w_f unasked", "scale unasked") and (
        is_concatenation if fault == "w_f unasked" else call.instantiation in SOFTMAX_INSTANTIATIONS
    ):
        return False
    other = torch.float32 if call.dtype == torch.float64 else torch.float64
    keys = phi.shape[1]
    changes = {
        "rank": (0, theta.sum(2)),
        "batch": (1, torch.cat([phi, phi.new_zeros(1, *phi.shape[1:])])),
        "width": (1, torch.cat([phi, phi.new_zeros(*phi.shape[:2], 1)], 2)),
        "keys of g": (2, torch.cat([g, g.new_zeros(g.shape[0], 1, g.shape[2])], 1)),
        "type of phi": (1, phi.to(other)),
        "type of g": (2, g.to(other)),
    }
    values = {
        "type of mask": ("key_mask", torch.ones(phi.shape[:2])),
        "shape of mask": ("key_mask", torch.ones(phi.shape[0], keys + 1, dtype=torch.bool)),
        "no w_f": ("w_f", None),
        "shape of w_f": ("w_f", theta.new_zeros(2 * theta.shape[2] + 1)),
        "type of w_f": (
            "w_f",
            torch.zeros(2 * theta.shape[2], dtype=(torch.complex64, torch.int64)[keys % 2]),
        ),
        "w_f unasked": ("w_f", theta.new_zeros(2 * theta.shape[2])),
        "scale unasked": ("scale", 1.0),
        "scale inf": ("scale", math.inf),
        "scale nan": ("scale", math.nan),
        "scale text": ("scale", "0.5"),
        "scale digits": ("scale", 10**400),
        "no heads": ("num_heads", (0, -1, True, None)[keys % 4]),
        "heads as text": ("num_heads", ("2", 2.0)[keys % 2]),
        "slices of unequal width": ("num_heads", theta.shape[2] + 1 if theta.shape[2] else 0),
        "engine": ("engine", "fast"),
        "instantiation": ("instantiation", "softmax"),
    }
    if fault in changes:
        place, value = changes[fault]
        arguments[place] = value
    elif fault in values:
        settings.update([values[fault]])
    elif fault == "no keys":
        arguments[1:] = phi[:, :0], g[:, :0]
        settings.pop("key_mask", None)
    else:
        dtype = torch.float8_e4m3fn if fault == "float8" else _TYPES[fault]
        arguments[:] = [part.detach().to(dtype) for part in (theta, phi, g)]
    return True


def _compare(call, arguments, settings, result):
    theta, phi, g = (part.detach().double() for part in arguments)
    batch, queries, keys, _, values = call.sizes
    wide = torch.promote_types(call.dtype, torch.float32)
    heads = (call.num_heads,) if call.num_heads > 1 else ()
    assert result.shape == ((batch, *heads, queries, keys) if call.is_affinity else (batch, queries, values))
    assert result.dtype == (wide if call.is_affinity else call.dtype)
    if call.num_heads > 1:
        return _compare_heads(call, arguments, settings, result)
    if call.is_affinity:
        g = torch.eye(keys, dtype=torch.float64).expand(batch, -1, -1)
    mask = settings.get("key_mask")
    mask = torch.ones(batch, keys, dtype=torch.bool) if mask is None else mask
    phi, g = (part.masked_fill(~mask.unsqueeze(2), 0.0) for part in (phi, g))
    if not all(part.isfinite().all() for part in (theta, phi, g)):
        return "not finite"
    w_f = settings.get("w_f")
    w_f = None if w_f is None else w_f.detach().double()
    if w_f is not None and not w_f.isfinite().all():
        return "not finite"
    limit = torch.finfo(wide).max / 8
    exact, tolerance, sizes = _by_equation(call, theta, phi, g, mask, w_f, wide, is_wide=call.is_affinity)
    is_right_size = all(
        bool(size.isfinite().all()) and size.abs().amax() < limit for size in sizes if size.numel()
    )
    if not is_right_size or (exact.numel() and exact.abs().amax() > torch.finfo(result.dtype).max / 2):
        return "too large"
    error = (result.detach().double() - exact).abs()
    assert bool((error <= tolerance).all()), (
        f"wrong by {error.max()} where {tolerance.flatten()[error.argmax()]} is rounding"
    )
    if call.has_gradient and call.values in ("normal", "zeros", "equal") and result.requires_grad:
        _check_gradients(call, arguments, settings, result, mask)
    return "right"


def _compare_heads(call, arguments, settings, result):
    """Compare each head with the call on its slices alone, which is compared with the equation."""
    outcomes = set()
    one, plain = (
        replace(call, num_heads=1),
        {name: each for name, each in settings.items() if name != "num_heads"},
    )
    w_f = settings.get("w_f")
    for head in range(call.num_heads):
        slices = [part.chunk(call.num_heads, 2)[head] for part in (part.detach() for part in arguments)]
        if w_f is not None:
            plain["w_f"] = torch.cat([half.chunk(call.num_heads)[head] for half in w_f.detach().chunk(2)])
        found = result[:, head] if call.is_affinity else result.chunk(call.num_heads, 2)[head]
        widths = (slices[0].shape[2], slices[2].shape[2])
        sized = replace(one, sizes=(*call.sizes[:3], *widths), has_gradient=False)
        outcomes.add(_compare(sized, slices, plain, found))
    if call.has_gradient and result.requires_grad and call.values in ("normal", "zeros", "equal"):
        for gradient in torch.autograd.grad(result.sum(), arguments, allow_unused=True):
            is_finite = gradient is None or abs(call.scale or 1) > 3 or bool(gradient.isfinite().all())
            assert is_finite, "a gradient of finite numbers is not finite"
    return "right" if outcomes == {"right"} else min(outcomes)


def _by_equation(call, theta, phi, g, mask, w_f, wide, *, is_wide):
    """Return y in float64, how far rounding may lead away, and what must fit into the engines' type."""
    eps, tiny = torch.finfo(wide).eps, torch.finfo(wide).tiny
    eps_out = eps if is_wide else torch.finfo(call.dtype).eps
    tiny_out = tiny if is_wide else torch.finfo(call.dtype).tiny
    keys, width = phi.shape[1], phi.shape[2]
    magnitude = theta.abs() @ phi.abs().transpose(1, 2)
    count = mask.sum(1).clamp(min=1)[:, None, None]
    if call.instantiation in SOFTMAX_INSTANTIATIONS:
        scale = 1.0 if call.scale is None else float(call.scale)
        logits = (scale * (theta @ phi.transpose(1, 2))).masked_fill(~mask[:, None], -math.inf)
        has_key = mask.any(1)[:, None, None]
        weights = logits.masked_fill(~has_key, 0.0).softmax(2).masked_fill(~has_key, 0.0)
        slack = (
            4 * (width + 4) * eps * (abs(scale) * magnitude).amax(2, keepdim=True)
            + 8 * eps_out
            + 4 * keys * eps
        )
        largest = g.abs().amax(1, keepdim=True)
        tolerance = (2 * slack).clamp(max=2) * largest + 2 * tiny_out
        return weights @ g, tolerance, [magnitude, magnitude * abs(scale), torch.tensor([scale]), largest]
    if call.instantiation == "dot_product":
        f, bound = theta @ phi.transpose(1, 2), magnitude
        small = theta.abs().sum(2, keepdim=True) + g.abs().sum(1, keepdim=True)
        between = [phi.abs().transpose(1, 2) @ g.abs()]
    else:
        first, second = w_f.chunk(2)
        a, b = theta @ first, phi @ second
        f = (a.unsqueeze(2) + b.unsqueeze(1)).relu()
        bound = (theta.abs() @ first.abs()).unsqueeze(2) + (phi.abs() @ second.abs()).amax(1)[:, None, None]
        bound = bound.expand(-1, -1, keys)
        small = 1 + g.abs().sum(1, keepdim=True) + w_f.abs().sum()
        between = []
    exact = f.masked_fill(~mask[:, None], 0.0) @ g / count
    rounding = 8 * (width + keys + 20) * eps * (bound @ g.abs()) / count
    tolerance = rounding + 4 * eps_out * exact.abs() + tiny * (1 + small) * (keys + width) + 2 * tiny_out
    return exact, tolerance, [bound, bound @ g.abs(), *between, theta.abs(), phi.abs()]


def _check_gradients(call, arguments, settings, result, mask):
    w_f = settings.get("w_f")
    leaves = [part for part in (*arguments[: 2 if call.is_affinity else 3], w_f) if part is not None]
    leaves = list({id(part): part for part in leaves}.values())
    weights = torch.randn(
        result.shape, generator=torch.Generator().manual_seed(call.seed), dtype=torch.float64
    )
    found = torch.autograd.grad(result, leaves, weights.to(result.dtype), allow_unused=True)
    for leaf, gradient in zip(leaves, found, strict=True):
        assert gradient is None or (gradient.shape == leaf.shape and gradient.dtype == leaf.dtype)
        # A gradient grows with the scale, and may pass what the type holds.
        is_finite = gradient is None or abs(call.scale or 1) > 3 or bool(gradient.isfinite().all())
        assert is_finite, "a gradient of finite numbers is not finite"
    # Where values are equal, ReLU's kink is a matter of rounding.
    if call.dtype != torch.float64 or call.values != "normal":
        return
    copies = {id(leaf): leaf.detach().clone().requires_grad_() for leaf in leaves}
    theta, phi, *_ = (copies[id(part)] for part in arguments[:2])
    g = torch.eye(phi.shape[1], dtype=torch.float64) if call.is_affinity else copies[id(arguments[2])]
    exact, *_ = _by_equation(
        call,
        theta,
        *(part.masked_fill(~mask.unsqueeze(2), 0.0) for part in (phi, g.expand(phi.shape[0], -1, -1))),
        mask,
        None if w_f is None else copies[id(w_f)],
        torch.float64,
        is_wide=True,
    )
    wanted = torch.autograd.grad(exact, list(copies.values()), weights, allow_unused=True)
    for gradient, right in zip(found, wanted, strict=True):
        if gradient is None or right is None:
            assert all(each is None or not each.any() for each in (gradient, right))
            continue
        # The two dot products whose difference is the gradient of a logit are rounded before they are scaled.
        scaled = 1e-13 * abs(call.scale or 1)
        reach = scaled + 1e-9 * (1 + right.abs().amax() if right.numel() else 1)
        assert torch.allclose(gradient, right, rtol=1e-9, atol=float(reach)), "a gradient is wrong"
