"""The dot product, eq. (4), with C(x) the number of keys: two thin products instead of one N x M tensor.

Shapes: B batch, N queries, M keys, D embedding channels, E value channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nonlocalnn.functional.products import matmul


def non_local(theta_BND: Tensor, phi_BMD: Tensor, g_BME: Tensor, *, count: int | Tensor) -> Tensor:
    """Return theta (phi^T g) / C(x), shape (B, N, E), in the type of g.

    (theta phi^T) g = theta (phi^T g): (N + M) D E multiply-adds instead of N M (D + E), and a D x E tensor
    between the two products instead of an N x M one. Autograd's backward pass has the same costs.

    Args:
        theta_BND: Queries.
        phi_BMD: Keys; a masked key is zero.
        g_BME: Values; a masked key's is zero.
        count: C(x), a number or shape (B, 1, 1).
    """
    dtype = _product_dtype(theta_BND.device.type, theta_BND.dtype)
    summary_BDE = matmul(phi_BMD.to(dtype).transpose(1, 2), g_BME.to(dtype)) / count
    return matmul(theta_BND.to(dtype), summary_BDE).to(g_BME.dtype)


def _product_dtype(device: str, dtype: torch.dtype) -> torch.dtype:
    """Return the type of the two products' operands.

    The D x E sums run over all keys: float16 would overflow, and bfloat16 lose what a long sum adds. But
    CUDA's products of bfloat16 are summed in float32 and rounded once, and take a fraction of the time.
    """
    if device == "cuda" and dtype == torch.bfloat16:
        return dtype
    return torch.promote_types(dtype, torch.float32)
