"""The Gaussian and the embedded Gaussian, eq. (2)-(3), without an N x M tensor.

PyTorch's fused attention, where it is fastest. On the CPU, in float32 and float64, its backward pass is not,
and with theta and g of different widths it falls back to the N x M tensor. There the work is done by
:mod:`nonlocalnn.functional.tiles`, whose backward pass computes the weights again instead of keeping them.
Masked keys are left out there, so that they cost nothing.

Shapes: B batch, N queries, M keys, D embedding channels, E value channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from nonlocalnn.functional import symmetric, tiles
from nonlocalnn.functional.modes import is_shared_out, is_transformed
from nonlocalnn.functional.operators import register
from nonlocalnn.functional.sizes import kernel_is_faster

Size = torch.Size

# From how many queries on PyTorch's kernel for the CPU deals them out by how many.
_LONG, _DEALT = 768, 256


def non_local(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, *, scale: float, key_mask_BM: Tensor | None
) -> Tensor:
    """Return softmax(scale * theta phi^T) g, shape (B, N, E); values of masked keys must be zero.

    Memory: linear in N + M; for the backward pass the inputs, y and the log-sum-exp of each query are kept;
    y is what the projection after it keeps as well.
    """
    if is_transformed() or is_shared_out(g_BME):
        wide = torch.promote_types(g_BME.dtype, torch.float32)
        theta, phi, g = (part.to(wide) for part in (theta_BND, phi_BMD, g_BME))
        return _plain_softmax_sum(theta, phi, g, key_mask_BM, scale).to(g_BME.dtype)
    # The backward pass of PyTorch's fused kernel took more than twice as long (N = M = 12,544, D = 256).
    is_ours = theta_BND.device.type == "cpu" and theta_BND.dtype in (torch.float32, torch.float64)
    # Whoever runs an exported program knows PyTorch's operators, not those of this package.
    if is_ours and not torch.compiler.is_exporting():
        # Forward and backward 1.4 times as fast as blocks of queries (N = 12,544, D = 512, E = 256).
        if theta_BND is phi_BMD and key_mask_BM is None:
            return symmetric.non_local(theta_BND, g_BME, scale=scale)
        y_BNE: Tensor = _blocks(theta_BND, phi_BMD, g_BME, key_mask_BM, scale)[0]
        return y_BNE
    return _attention(theta_BND, phi_BMD, g_BME, key_mask_BM, scale)


def _bias(key_mask_BM: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the logits of each key: -inf where it is masked.

    An entry without any key is computed as if it had no mask, so that no NaN arises in either pass; its
    values are zero, and so is their average.
    """
    is_out_BM = ~key_mask_BM & key_mask_BM.any(1, keepdim=True)
    return torch.zeros_like(is_out_BM, dtype=dtype).masked_fill(is_out_BM, -torch.inf)


def _attention(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, key_mask_BM: Tensor | None, scale: float
) -> Tensor:
    """Return the same by PyTorch's fused attention.

    Its kernels want channels innermost and certain widths; else PyTorch falls back, without a word, to a form
    that holds the N x M tensor. Zeros added to theta and phi change no logit, and the columns added to g are
    cut off again.
    """
    num_values, device, dtype = g_BME.shape[2], theta_BND.device.type, g_BME.dtype
    width, value_width = _kernel_widths(theta_BND.shape[2], num_values, device, dtype)
    query, key = _widened(theta_BND, width), _widened(phi_BMD, width)
    value = _widened(g_BME, value_width)
    # The flash kernel takes no mask. How many keys are left is not known to a program that is compiled.
    has_flash = device == "cuda" and _fits_flash(max(width, value_width), dtype)
    if key_mask_BM is not None and has_flash and not torch.compiler.is_compiling():
        return _packed_attention(query, key, value, key_mask_BM, scale)[..., :num_values]
    # As numbers, one row a batch entry, because a boolean mask is turned into N x M numbers on the CPU.
    mask = None if key_mask_BM is None else _bias(key_mask_BM, dtype)[:, None, None, :]
    y = F.scaled_dot_product_attention(
        query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), attn_mask=mask, scale=scale
    )
    return y.squeeze(1)[..., :num_values]


def _fits_flash(width: int, dtype: torch.dtype) -> bool:
    """Return whether CUDA's flash kernel takes theta, phi and g of one width."""
    return dtype in (torch.float16, torch.bfloat16) and width <= 256


def _kernel_widths(width: int, num_values: int, device: str, dtype: torch.dtype) -> tuple[int, int]:
    """Return the widths that theta and phi, and g, are given for the fastest kernel that can take them."""
    most = max(width, num_values)
    if device != "cuda":
        return most, most
    width, num_values, most = (-(-each // 8) * 8 for each in (width, num_values, most))
    # Where flash does not serve, the memory-efficient kernel does, which takes two widths.
    return (most, most) if _fits_flash(most, dtype) else (width, num_values)


def _widened(part_BPK: Tensor, width: int) -> Tensor:
    """Return channels innermost and filled up with zeros; the tensor itself where it is so already."""
    # A pad of nothing is a copy, and one of something is contiguous.
    missing = width - part_BPK.shape[2]
    return F.pad(part_BPK, (0, missing)).contiguous() if missing else part_BPK.contiguous()


def _packed_attention(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, key_mask_BM: Tensor, scale: float
) -> Tensor:
    """Return attention over the keys that take part, entry by entry, without a mask."""
    entries = []
    for entry, theta in enumerate(theta_BND):
        kept = _kept(key_mask_BM, entry)
        phi, g = (part[entry] for part in (phi_BMD, g_BME))
        if isinstance(kept, Tensor):
            # Not by brackets, whose backward pass sorts the indices.
            phi, g = (part.index_select(0, kept) for part in (phi, g))
        y = F.scaled_dot_product_attention(theta[None, None], phi[None, None], g[None, None], scale=scale)
        entries.append(y[0, 0])
    return torch.stack(entries) if entries else theta_BND.new_empty(*theta_BND.shape[:2], g_BME.shape[2])


def _softmax_sum(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, key_mask_BM: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return softmax(scale theta phi^T) g and the log-sum-exp of each query, (B, N)."""
    has_kernel = kernel_is_faster(theta_BND, phi_BMD, g_BME)
    if has_kernel and key_mask_BM is None:
        return _flash(theta_BND, phi_BMD, g_BME, scale)
    y_BNE, lse_BN = _softmax_sum_shapes(theta_BND, phi_BMD, g_BME, key_mask_BM, scale)
    for bundle, side, kept, mask in _bundles(theta_BND, phi_BMD, key_mask_BM):
        theta, phi, g = theta_BND[bundle], phi_BMD[bundle][:, kept], g_BME[bundle][:, kept]
        if has_kernel and mask is None:
            y_BNE[bundle], lse_BN[bundle] = _flash(theta, phi, g, scale)
        else:
            tiles.average(
                y_BNE[bundle], lse_BN[bundle], theta, phi, g, scale=scale, side=side, key_mask_BM=mask
            )
    return y_BNE, lse_BN


def _bundles(
    theta_BND: Tensor, phi_BMD: Tensor, key_mask_BM: Tensor | None
) -> Iterator[tuple[slice, int, Tensor | slice, Tensor | None]]:
    """Yield which entries are computed together, their tiles' side, the keys looked at, and a mask of these.

    Of a single entry those are the keys that take part. One without any is computed as if it had no mask, so
    that no NaN arises in either pass; its values are zero, and so is their average.
    """
    for bundle, side in tiles.bundles(theta_BND, phi_BMD):
        if key_mask_BM is None:
            yield bundle, side, slice(None), None
        elif bundle.stop - bundle.start == 1:
            yield bundle, side, _kept(key_mask_BM, bundle.start), None
        else:
            mask = key_mask_BM[bundle]
            yield bundle, side, slice(None), mask | ~mask.any(1, keepdim=True)


def _flash(theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return the same by PyTorch's kernel for the CPU, which wants one width."""
    (batch, num_queries, _), num_parts = theta_BND.shape, _parts_for_threads(theta_BND)
    query, key, value = (part.contiguous().unsqueeze(1) for part in (theta_BND, phi_BMD, g_BME))
    if num_parts > 1:
        query = query.view(num_parts, 1, num_queries // num_parts, -1)
        key, value = (part.expand(num_parts, -1, -1, -1) for part in (key, value))
    # By its own name, because scaled_dot_product_attention does not give the log-sum-exp.
    y_B1NE, lse_B1N = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, scale=scale
    )
    y_BNE = y_B1NE.contiguous().view(batch, num_queries, -1)
    return y_BNE, lse_B1N.contiguous().view(batch, num_queries).to(theta_BND.dtype)


def _parts_for_threads(theta_BND: Tensor) -> int:
    """Return into how many entries a single one is cut, so that all threads have as many queries.

    The kernel deals long entries out by 256 queries: of 784 two threads get 512 and 272, which takes 1.2
    times as long as two entries of 392.
    """
    batch, num_queries, _ = theta_BND.shape
    num_threads = torch.get_num_threads()
    if batch != 1 or num_queries < _LONG or num_queries % num_threads:
        return 1
    most = -(-num_queries // _DEALT // num_threads) * _DEALT
    return num_threads if most * num_threads > 1.1 * num_queries else 1


def _kept(key_mask_BM: Tensor, entry: int) -> Tensor | slice:
    """Return which keys of a batch entry are summed over: those that take part, or all where none does."""
    found = key_mask_BM[entry].nonzero().squeeze(1)
    return found if len(found) else slice(None)


def _softmax_sum_shapes(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, key_mask_BM: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    y_BNE = theta_BND.new_empty(*theta_BND.shape[:2], g_BME.shape[2])
    return y_BNE, theta_BND.new_empty(theta_BND.shape[:2])


def _softmax_sum_flops(theta: Size, phi: Size, g: Size, key_mask: Size | None, scale: float) -> int:
    return 2 * theta[0] * theta[1] * phi[1] * (theta[2] + g[2])


def _softmax_sum_backward(
    dy_BNE: Tensor,
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BME: Tensor,
    key_mask_BM: Tensor | None,
    y_BNE: Tensor,
    lse_BN: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of theta, phi and g."""
    # As their inputs lie, so that whatever else is added to them meets no other layout.
    dtheta_BND = torch.zeros_like(theta_BND)
    dphi_BMD, dg_BME = torch.zeros_like(phi_BMD), torch.zeros_like(g_BME)
    for bundle, side, kept, mask in _bundles(theta_BND, phi_BMD, key_mask_BM):
        phi, g, dphi, dg = (part[bundle][:, kept] for part in (phi_BMD, g_BME, dphi_BMD, dg_BME))
        given = dy_BNE[bundle], theta_BND[bundle], phi, g, y_BNE[bundle], lse_BN[bundle]
        tiles.add_gradients((dtheta_BND[bundle], dphi, dg), *given, scale=scale, side=side, key_mask_BM=mask)
        if isinstance(kept, Tensor):
            dphi_BMD[bundle][:, kept], dg_BME[bundle][:, kept] = dphi, dg
    return dtheta_BND.mul_(scale), dphi_BMD.mul_(scale), dg_BME


def _softmax_sum_backward_shapes(
    dy_BNE: Tensor,
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BME: Tensor,
    key_mask_BM: Tensor | None,
    y_BNE: Tensor,
    lse_BN: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(theta_BND), torch.empty_like(phi_BMD), torch.empty_like(g_BME)


def _softmax_sum_backward_flops(
    dy: Size, theta: Size, phi: Size, g: Size, key_mask: Size | None, y: Size, lse: Size, scale: float
) -> int:
    """Logits, weights of dy, and the three gradients."""
    return 2 * theta[0] * theta[1] * phi[1] * (3 * theta[2] + 2 * g[2])


def _plain_softmax_sum(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, key_mask_BM: Tensor | None, scale: float
) -> Tensor:
    logits_BNM = scale * theta_BND @ phi_BMD.transpose(1, 2)
    if key_mask_BM is not None:
        logits_BNM = logits_BNM + _bias(key_mask_BM, logits_BNM.dtype).unsqueeze(1)
    return logits_BNM.softmax(2) @ g_BME


_blocks = register(
    (_softmax_sum, _softmax_sum_shapes, _softmax_sum_flops),
    (_softmax_sum_backward, _softmax_sum_backward_shapes, _softmax_sum_backward_flops),
    _plain_softmax_sum,
    num_kept=1,
)
