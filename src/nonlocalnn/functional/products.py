"""Matrix products on the CPU by the faster of the two libraries that PyTorch has on board.

PyTorch multiplies float32 by MKL, which keeps AVX-512 for processors of Intel. On an AMD EPYC (family 26) it
has 105 GFLOP/s a thread, where oneDNN, PyTorch's library of layers, has 160 to 240 on the same matrices. So
products are oneDNN's there, forward and backward.

What decides is what the processor is, not a measurement: the same run then gives the same bits.

Shapes: B batch; N x K and K x M matrices.
"""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch

from nonlocalnn.functional.modes import is_transformed
from nonlocalnn.functional.operators import register

Size = torch.Size
_PLAIN = (Tensor, nn.Parameter)

# Multiply-adds from which a product gains more than its longer call costs.
_LEAST_WORK = 2**22
# Numbers of a matrix from which a copy of it would be noticed in memory, and those of a part of it.
_LARGE, _PART = 2**20, 2**19


def matmul(left_BNK: Tensor, right_BKM: Tensor) -> Tensor:
    """Return left @ right of batches, with derivatives of any order."""
    if is_compiled_fast(left_BNK, right_BKM):
        compiled: Tensor = compiled_product(left_BNK, right_BKM)
        return compiled
    if not _is_fast(left_BNK, right_BKM) or left_BNK.shape[0] != right_BKM.shape[0]:
        return left_BNK @ right_BKM
    if _is_recorded(left_BNK, right_BKM):
        found: Tensor = _Product.apply(left_BNK, right_BKM)
        return found
    return multiply_entries(left_BNK, right_BKM)


def linear(rows_PK: Tensor, weight_MK: Tensor, bias_M: Tensor | None) -> Tensor:
    """Return rows @ weight^T + bias, with derivatives of any order, as ``F.linear`` does."""
    if not _is_recorded(rows_PK, weight_MK, *([] if bias_M is None else [bias_M])):
        return multiply(rows_PK, weight_MK.t(), bias_M)
    found = matmul(rows_PK.unsqueeze(0), weight_MK.t().unsqueeze(0)).squeeze(0)
    return found if bias_M is None else found + bias_M


def multiply_entries(left_BNK: Tensor, right_BKM: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """Return left @ right + bias by a product of oneDNN for each entry; of a single one without a copy.

    The caller knows that such matrices are served.
    """
    if left_BNK.shape[0] > 1 or right_BKM.shape[0] > 1:
        pairs = zip(left_BNK, right_BKM, strict=True)
        return torch.stack([_one_dnn(left, right, bias_M) for left, right in pairs])
    return _as_batch(_one_dnn(left_BNK[0], right_BKM[0], bias_M), (1, left_BNK.shape[1]))


def multiply_rows(rows_BPK: Tensor, *layers: tuple[Tensor, Tensor | None]) -> tuple[Tensor, ...] | None:
    """Return rows @ weight^T + bias for each layer, as one product of oneDNN over the whole batch, or None.

    None is for what is not served or too short for oneDNN, and for large rows that lie in columns: it would
    put these in order first, for each product, and a copy of them would be noticed in memory.
    """
    if not _may_look():
        return None
    num_numbers, widths = rows_BPK.numel(), [weight_MK.shape[0] for weight_MK, _ in layers]
    is_spread = num_numbers > _LARGE and not rows_BPK.is_contiguous()
    if is_spread or num_numbers * min(widths) < _LEAST_WORK:
        return None
    parts = rows_BPK, *(weight_MK for weight_MK, _ in layers)
    if not _are_plain(*parts) or _is_recorded(*parts):
        return None
    if any(
        bias is not None and bias.shape[0] != width for width, (_, bias) in zip(widths, layers, strict=True)
    ):
        return None
    shape, rows_RK = rows_BPK.shape[:2], rows_BPK.reshape(-1, rows_BPK.shape[2])
    found = (_call_one_dnn(rows_RK, weight_MK.t(), bias_M) for weight_MK, bias_M in layers)
    return tuple(_as_batch(part, shape) for part in found)


def multiply(left_NK: Tensor, right_KM: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """Return left @ right + bias."""
    if takes(left_NK, right_KM):
        return _one_dnn(left_NK, right_KM, bias_M)
    return left_NK @ right_KM if bias_M is None else torch.addmm(bias_M, left_NK, right_KM)


def multiply_into(free_BNM: Tensor, left_BNK: Tensor, right_BKM: Tensor, factor: float = 1.0) -> Tensor:
    """Return factor * left @ right, in ``free`` where that saves memory; what is there does not count."""
    if takes(left_BNK, right_BKM):
        found = multiply_entries(left_BNK, right_BKM)
        return found if factor == 1.0 else found.mul_(factor)
    return _add_into(free_BNM, left_BNK, right_BKM, 0, factor)


def add_product_(sum_BNM: Tensor, left_BNK: Tensor, right_BKM: Tensor) -> Tensor:
    """Add left @ right in place, and return the sum."""
    if takes(left_BNK, right_BKM):
        return sum_BNM.add_(multiply_entries(left_BNK, right_BKM))
    return _add_into(sum_BNM, left_BNK, right_BKM, 1, 1.0)


def _add_into(sum_BNM: Tensor, left_BNK: Tensor, right_BKM: Tensor, beta: int, alpha: float) -> Tensor:
    """Write beta * sum + alpha * left @ right to the sum, and return it."""
    if sum_BNM.shape[0] == 1:
        sum_BNM[0].addmm_(left_BNK[0], right_BKM[0], beta=beta, alpha=alpha)
        return sum_BNM
    return sum_BNM.baddbmm_(left_BNK, right_BKM, beta=beta, alpha=alpha)


def takes(left: Tensor, right: Tensor) -> bool:
    """Return whether products of these, or of a batch's entries, are oneDNN's; they have no derivatives."""
    return _is_fast(left, right) and not _is_recorded(left, right)


def in_rows(*parts: Tensor) -> tuple[Tensor, ...]:
    """Return matrices of which oneDNN takes some of the rows as they lie; others as they are."""
    return tuple(part.contiguous() for part in parts) if is_served(*parts) else parts


def is_served(*parts: Tensor) -> bool:
    """Return whether oneDNN multiplies these matrices, and faster; it has no derivatives."""
    return has_fast_products(*parts) and not _is_recorded(*parts)


def is_long(left: Tensor, right: Tensor) -> bool:
    """Return whether one entry of a product is long enough to be worth a call of its own."""
    return left.shape[-2] * left.shape[-1] * right.shape[-1] >= _LEAST_WORK


def _is_recorded(*parts: Tensor) -> bool:
    return torch.is_grad_enabled() and any(part.requires_grad for part in parts)


def has_fast_products(*parts: Tensor) -> bool:
    """Return whether oneDNN multiplies such matrices faster, with derivatives by :func:`matmul`."""
    return _may_look() and _are_plain(*parts)


def _may_look() -> bool:
    """Return whether oneDNN is the faster one here, and what matrices are may be asked."""
    # Compilers trace what is asked; transforms, counters of FLOPs and tensors without numbers do not know the
    # operator.
    return (
        not torch.compiler.is_compiling()
        and _is_faster()
        and bool(torch.backends.mkldnn.enabled)
        and not is_transformed()
        and not _is_watched()
    )


def _are_plain(*parts: Tensor) -> bool:
    """Return whether these are matrices of numbers that oneDNN multiplies."""
    return all(
        part.dtype == torch.float32
        and part.device.type == "cpu"
        and part.numel() > 0
        # Those that are shared out, quantised or wrapped have products of their own, and what is mapped
        # by the older vmap, of torch.autograd, does not say that it wants a gradient.
        and type(part) in _PLAIN
        and not torch._C._functorch.is_legacy_batchedtensor(part)
        for part in parts
    )


def _is_fast(left: Tensor, right: Tensor) -> bool:
    """Return whether a product is long enough for oneDNN, and one that it multiplies faster."""
    # Sizes after the first question: a program that is exported for any size would be bound to those that it
    # looked at. And before the last, whose answer takes most time.
    return _may_look() and is_long(left, right) and _are_plain(left, right)


def is_compiled_fast(left_BNK: Tensor, right_BKM: Tensor) -> bool:
    """Return whether a compiler sees this product, and is to leave it to oneDNN: its own is MKL's."""
    return will_be_fast(left_BNK, right_BKM) and is_long(left_BNK, right_BKM)


def will_be_fast(*parts: Tensor) -> bool:
    """Return whether a compiler sees such matrices, which oneDNN will multiply faster when they are there."""
    return (
        torch.compiler.is_compiling()
        # Whoever runs an exported program knows PyTorch's operators, not those of this package.
        and not torch.compiler.is_exporting()
        and all(part.dtype == torch.float32 and part.device.type == "cpu" for part in parts)
        and _is_faster_for_compilers()
    )


def _is_watched() -> bool:
    """Return whether a mode sees each operator that is called, before or after autograd."""
    before = torch._C.DispatchKey.PreDispatch
    return (
        _python_dispatch._get_current_dispatch_mode() is not None
        or torch._C._dispatch_tls_is_dispatch_key_included(before)
    )


class _Product(torch.autograd.Function):
    """A batched product whose gradients are products of the same library."""

    @staticmethod
    def forward(ctx: Any, left_BNK: Tensor, right_BKM: Tensor) -> Tensor:
        ctx.save_for_backward(left_BNK, right_BKM)
        return multiply_entries(left_BNK, right_BKM)

    @staticmethod
    def backward(ctx: Any, slope_BNM: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left_BNK, right_BKM = ctx.saved_tensors
        needs_left, needs_right = ctx.needs_input_grad
        # matmul, not what it calls: the backward pass may be recorded itself.
        return (
            matmul(slope_BNM, right_BKM.transpose(1, 2)) if needs_left else None,
            matmul(left_BNK.transpose(1, 2), slope_BNM) if needs_right else None,
        )


def _one_dnn(left_NK: Tensor, right_KM: Tensor, bias_M: Tensor | None = None) -> Tensor:
    """Return left @ right + bias, by parts where oneDNN would put a large matrix in another order first."""
    if left_NK.is_contiguous() or left_NK.numel() <= _LARGE:
        return _call_one_dnn(left_NK, right_KM, bias_M)
    (num_rows, inner), num_columns = left_NK.shape, right_KM.shape[1]
    if inner > num_rows:
        step = max(256, _PART // (num_rows + num_columns))
        pairs = zip(left_NK.split(step, 1), right_KM.split(step, 0), strict=True)
        total = _call_one_dnn(*next(pairs), bias_M)
        for left, right in pairs:
            total.add_(_call_one_dnn(left, right))
        return total
    found = left_NK.new_empty(num_rows, num_columns)
    step = max(64, _PART // inner)
    for place, left in zip(found.split(step), left_NK.split(step), strict=True):
        place.copy_(_call_one_dnn(left, right_KM, bias_M))
    return found


def _call_one_dnn(left_NK: Tensor, right_KM: Tensor, bias_M: Tensor | None = None) -> Tensor:
    # Parts of the columns of a matrix would be put in order element by element, which took minutes.
    right_MK = right_KM.t()
    if not (left_NK.is_contiguous() or left_NK.t().is_contiguous()):
        left_NK = left_NK.contiguous()
    if not (right_KM.is_contiguous() or right_MK.is_contiguous()):
        right_MK = right_MK.contiguous()
    bias_M = None if bias_M is None else bias_M.contiguous()
    # By its overload: to choose one took a tenth of a product over 49 positions.
    linear = torch.ops.mkldnn._linear_pointwise.default
    found: Tensor = linear(left_NK, right_MK, bias_M, "none", [], "")
    return found


def _as_batch(found_RM: Tensor, shape: Sequence[int]) -> Tensor:
    """Return new rows as (B, P, M): not a view, which our own functions could not return to be changed."""
    found: Tensor = torch.ops.aten._unsafe_view.default(found_RM, [*shape, found_RM.shape[1]])
    return found


@functools.cache
def _is_faster() -> bool:
    """Return whether oneDNN is there and has instructions that MKL does not use on this processor."""
    is_wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not (is_wide and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    maker, family = _processor()
    # AMD's earlier ones do 512 bits in two steps, so that MKL loses little there.
    return maker == "AuthenticAMD" and family >= 26 and _answers()


def _is_faster_for_compilers() -> bool:
    """Return the same, without a compiler looking into it."""
    return _is_faster()


# What torch.compiler.assume_constant_result does, which would load the compiler.
_is_faster_for_compilers._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _answers() -> bool:
    """Return whether the operator, which PyTorch does not document, does what it is taken for."""
    # In a thread of its own: what traces, transforms, watches or narrows the first call of a block would see
    # the question too, and programs of torch.jit.trace that held it could not be made.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_equals_product).result()


def _equals_product() -> bool:
    # Whatever device and type are the defaults when the first block is called.
    left, right, bias = (
        torch.arange(size, dtype=torch.float32, device="cpu").view(shape)
        for size, shape in ((15, (3, 5)), (20, (5, 4)), (4, (4,)))
    )
    try:
        return torch.allclose(_one_dnn(left, right, bias), torch.addmm(bias, left, right))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _processor() -> tuple[str, int]:
    """Return the processor's maker and family in its own words, such as ("AuthenticAMD", 26)."""
    listing = Path("/proc/cpuinfo")
    # On Windows it is "AMD64 Family 26 Model 68 Stepping 0, AuthenticAMD".
    words = listing.read_text(encoding="utf-8") if listing.exists() else platform.processor()
    maker = re.search(r"AuthenticAMD|GenuineIntel", words)
    family = re.search(r"(?i)family\s*:?\s*(\d+)", words)
    return maker.group() if maker else "", int(family.group(1)) if family else 0


def _batched_product(left: Tensor, right: Tensor) -> Tensor:
    return multiply_entries(left, right) if is_served(left, right) else (left @ right).contiguous()


def _batched_product_shapes(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], left.shape[1], right.shape[2])


def _batched_product_flops(left: Size, right: Size) -> int:
    return 2 * left[0] * left[1] * left[2] * right[2]


def _batched_product_backward(slope: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return _batched_product(slope, right.transpose(1, 2)), _batched_product(left.transpose(1, 2), slope)


def _batched_product_backward_shapes(slope: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    return left.new_empty(left.shape), right.new_empty(right.shape)


def _batched_product_backward_flops(slope: Size, left: Size, right: Size) -> int:
    return 2 * _batched_product_flops(left, right)


compiled_product = register(
    (_batched_product, _batched_product_shapes, _batched_product_flops),
    (_batched_product_backward, _batched_product_backward_shapes, _batched_product_backward_flops),
    torch.matmul,
)
