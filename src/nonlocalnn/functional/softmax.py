"""The Gaussian and the embedded Gaussian, eq. (2)-(3), through PyTorch's fused attention.

Shapes: B batch, N queries, M keys, D embedding channels, E value channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def non_local(
    theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, *, scale: float, key_mask_BM: Tensor | None
) -> Tensor:
    """Return softmax(scale * theta phi^T) g, shape (B, N, E); values of masked keys must be zero.

    Memory: linear in N + M; the kernel keeps the log-sum-exp of each query for the backward pass.
    """
    num_channels, num_values = theta_BND.shape[2], g_BME.shape[2]
    # The fused kernels want theta, phi and g of one width; with others PyTorch falls back, without a word,
    # to a form that holds the N x M tensor. Zeros added to theta and phi do not change a logit, and the
    # columns added to g are cut off again. They fall back as well when channels are not innermost.
    width = max(num_channels, num_values)
    query, key, value = (
        F.pad(part, (0, width - part.shape[2])).contiguous().unsqueeze(1)
        for part in (theta_BND, phi_BMD, g_BME)
    )
    if key_mask_BM is None:
        y = F.scaled_dot_product_attention(query, key, value, scale=scale)
        return y.squeeze(1)[..., :num_values]
    # An entry without any key is computed without the mask, so that no NaN arises in either pass; its values
    # are zero, and so is their average. The mask is added as numbers, one row a batch entry: the CPU kernel
    # would turn a boolean one into N x M numbers.
    has_key_B1 = key_mask_BM.any(1, keepdim=True)
    is_out_BM = ~key_mask_BM & has_key_B1
    bias = torch.zeros_like(is_out_BM, dtype=query.dtype).masked_fill(is_out_BM, -torch.inf)
    y = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[:, None, None, :], scale=scale)
    return y.squeeze(1)[..., :num_values]
