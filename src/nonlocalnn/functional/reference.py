"""Eq. (1)-(5) as written, with the N x M affinity in memory: the specification of every engine, and the maps.

Shapes: B batch, N queries, M keys, D embedding channels, E value channels, H heads.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor, Tensor], Tensor]


def affinity(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    w_f_2D: Tensor | None,
    *,
    instantiation: str,
    scale: float,
    key_mask_BM: Tensor | None,
    num_heads: int = 1,
    product: Product = torch.matmul,
) -> Tensor:
    """Return f(x_i, x_j) / C(x), shape (B, N, M), or (B, H, N, M) of several heads, in at least float32.

    The softmax over the keys of a row *is* f / C(x) for the two exponential forms; for the other two C(x) is
    the number of keys that take part.
    """
    if num_heads > 1:
        # What heads are: the same equation once for each slice of the channels.
        parts = zip(*_slices(theta_BND, phi_BMD, w_f_2D, num_heads), strict=True)
        rows = [
            affinity(*part, instantiation=instantiation, scale=scale, key_mask_BM=key_mask_BM)
            for part in parts
        ]
        return torch.stack(rows, 1)
    # In float16 an unscaled logit passes 65,504 already at 1,024 channels; sums of f do so sooner.
    dtype = torch.promote_types(theta_BND.dtype, torch.float32)
    theta_BND, phi_BMD = theta_BND.to(dtype), phi_BMD.to(dtype)
    if instantiation == "concatenation":
        assert w_f_2D is not None
        w_theta, w_phi = w_f_2D.to(dtype).chunk(2)
        f_BNM = torch.relu((theta_BND @ w_theta).unsqueeze(2) + (phi_BMD @ w_phi).unsqueeze(1))
    else:
        f_BNM = product(theta_BND, phi_BMD.transpose(1, 2))
    if instantiation in ("gaussian", "embedded_gaussian"):
        # A factor of 1 would cost a pass over the N x M tensor, and one more tensor to keep.
        return _softmax(f_BNM if scale == 1.0 else scale * f_BNM, key_mask_BM)
    return _divide_by_count(f_BNM, key_mask_BM)


def non_local(
    theta_BND: Tensor,
    phi_BMD: Tensor,
    g_BME: Tensor,
    w_f_2D: Tensor | None,
    *,
    instantiation: str,
    scale: float,
    key_mask_BM: Tensor | None,
    num_heads: int = 1,
    product: Product = torch.matmul,
) -> Tensor:
    """Return y, shape (B, N, E), in the type of g: eq. (1), with heads once for each slice of channels."""
    if num_heads > 1:
        slices = _slices(theta_BND, phi_BMD, w_f_2D, num_heads)
        heads = [
            non_local(theta, phi, g, w_f, instantiation=instantiation, scale=scale, key_mask_BM=key_mask_BM)
            for theta, phi, w_f, g in zip(*slices, _cut(g_BME, num_heads), strict=True)
        ]
        return torch.cat(heads, 2)
    weights_BNM = affinity(
        theta_BND,
        phi_BMD,
        w_f_2D,
        instantiation=instantiation,
        scale=scale,
        key_mask_BM=key_mask_BM,
        product=product,
    )
    return product(weights_BNM, g_BME.to(weights_BNM.dtype)).to(g_BME.dtype)


def _slices(
    theta_BND: Tensor, phi_BMD: Tensor, w_f_2D: Tensor | None, num_heads: int
) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    """Return theta, phi and w_f of each head: w_f's two halves are cut as theta and phi are."""
    theta, phi = _cut(theta_BND, num_heads), _cut(phi_BMD, num_heads)
    if w_f_2D is None:
        return theta, phi, [None] * num_heads
    w_theta, w_phi = (_cut(half, num_heads) for half in w_f_2D.chunk(2))
    return theta, phi, [torch.cat(halves) for halves in zip(w_theta, w_phi, strict=True)]


def _cut(part: Tensor, num_heads: int) -> list[Tensor]:
    return list(part.unflatten(-1, (num_heads, -1)).unbind(-2))


def _softmax(logits_BNM: Tensor, key_mask_BM: Tensor | None) -> Tensor:
    if key_mask_BM is None:
        return logits_BNM.softmax(2)
    # A row without any key would be softmax of -inf alone, which is NaN and poisons the gradient as well:
    # such rows are computed without the mask and then set to zero.
    has_key_B11 = key_mask_BM.any(1)[:, None, None]
    weights_BNM = logits_BNM.masked_fill(~key_mask_BM[:, None, :] & has_key_B11, -torch.inf).softmax(2)
    return weights_BNM.masked_fill(~has_key_B11, 0.0)


def _divide_by_count(f_BNM: Tensor, key_mask_BM: Tensor | None) -> Tensor:
    if key_mask_BM is None:
        return f_BNM / f_BNM.shape[2]
    f_BNM = f_BNM.masked_fill(~key_mask_BM[:, None, :], 0.0)
    return f_BNM / number_of_keys(key_mask_BM)


def number_of_keys(key_mask_BM: Tensor) -> Tensor:
    """Return C(x) of the unnormalised forms, shape (B, 1, 1): 1 where there is no key, so that 0 / C is 0."""
    return key_mask_BM.sum(1).clamp(min=1)[:, None, None]
