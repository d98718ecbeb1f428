"""The non-local operation, eq. (1) of the paper: tensors in, tensors out, no parameters.

:func:`non_local` computes y_i = (1 / C(x)) sum_j f(x_i, x_j) g(x_j) and :func:`affinity` the weights
f(x_i, x_j) / C(x) themselves. Every engine equals :mod:`nonlocalnn.functional.reference` in values and
gradients.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from nonlocalnn._errors import check_choice
from nonlocalnn._names import INSTANTIATIONS
from nonlocalnn.functional import dot_product, reference, softmax, split
from nonlocalnn.functional.checks import (
    SOFTMAX_INSTANTIATIONS,
    check_operands,
    check_values,
)
from nonlocalnn.functional.heads import dot_heads, join_heads, repeat_for_heads, split_heads
from nonlocalnn.functional.masks import masks_nothing, real_positions
from nonlocalnn.functional.modes import without_autocast
from nonlocalnn.functional.products import matmul
from nonlocalnn.functional.sizes import materialises
from nonlocalnn.functional.splitting import split_positions

Instantiation = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
Engine = Literal["auto", "reference", "fused"]
_ENGINES = ("auto", "reference", "fused")

__all__ = [
    "INSTANTIATIONS",
    "SOFTMAX_INSTANTIATIONS",
    "Engine",
    "Instantiation",
    "affinity",
    "non_local",
    "real_positions",
    "split_positions",
]


def non_local(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    *,
    instantiation: Instantiation,
    w_f: Tensor | None = None,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    num_heads: int = 1,
    engine: Engine = "auto",
    process_group: dist.ProcessGroup | None = None,
) -> Tensor:
    r"""Non-local operation: each query's weighted sum over all keys.

    ==================== ============================ =================
    instantiation        f(x_i, x_j)                  C(x)
    ==================== ============================ =================
    "gaussian"           exp(scale theta_i . phi_j)   sum over j of f
    "embedded_gaussian"  exp(scale theta_i . phi_j)   sum over j of f
    "dot_product"        theta_i . phi_j              number of keys
    "concatenation"      ReLU(w_f . [theta_i, phi_j]) number of keys
    ==================== ============================ =================

    The Gaussian and the embedded Gaussian differ only in what they are given: the former takes x itself as
    theta and phi.

    Args:
        theta: Queries, shape (B, N, D), floating point.
        phi: Keys, shape (B, M, D). The same tensor object as ``theta`` lets an engine use that the logits
            are symmetric.
        g: Values, shape (B, M, E).
        instantiation: The pairwise function f, see the table.
        w_f: Weights of the concatenation form, shape (2D,): the first D meet theta, the others phi. A head
            takes its slice of either half.
        scale: Factor on the logits of the two Gaussian forms; None is 1, as in the paper.
        key_mask: True where a key takes part, shape (B, M), bool. A masked key weighs nothing and C(x)
            counts only the others; a row without any key gives zeros. A mask that is all True changes no bit
            on the CPU.
        num_heads: Heads, each an operation of its own on its slice of the channels of theta, phi and g, in
            order: those of theta and phi are D / num_heads wide, those of g E / num_heads. The slices of y
            stand beside one another as those of g do.
        engine: "reference" is the equation as written, with the N x M affinity in memory. "fused" never
            holds an N x M tensor. "auto" takes whichever is faster at this size: see functional/sizes.py.
            Under torch.func and forward-mode derivatives, and for derivatives of derivatives, each form but
            the dot product holds it whatever this says: PyTorch then needs operations that it knows itself.
        process_group: Processes that hold the other queries and keys. Each gives its own, of any number, and
            gets y of its queries over all keys; gradients are those of the whole. Either all give a
            ``key_mask`` of their own keys or none does. See :func:`nonlocalnn.split_positions` for blocks.

    Returns:
        y, shape (B, N, E), in the type of ``g``.

    Raises:
        TypeError: An operand is no tensor.
        ValueError: A shape, type or setting does not fit; the message says which.

    Memory:
        "fused" needs O((N + M)(D + E)); "reference" needs O(N M).

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, eq. (1)-(5).

    Example:
        >>> theta, phi, g = torch.randn(2, 6, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 3)
        >>> non_local(theta, phi, g, instantiation="dot_product").shape
        torch.Size([2, 6, 3])
    """
    check_operands(
        theta, phi, instantiation, w_f, scale, key_mask, num_heads, needs_key=process_group is None
    )
    check_values(phi, g, num_heads)
    check_choice("engine", engine, _ENGINES)
    factor = 1.0 if scale is None else float(scale)
    if process_group is not None and engine == "reference":
        raise ValueError("positions that are split over processes take no engine='reference': leave it out")
    # Over ranks a mask stays: whether there is one must not depend on a rank's own keys.
    if key_mask is not None and process_group is None and masks_nothing(key_mask):
        key_mask = None
    if key_mask is not None:
        # Zeros, so that whatever a masked key holds, NaN included, reaches neither a sum nor a gradient.
        phi, g = (part.masked_fill(~key_mask.unsqueeze(2), 0.0) for part in (phi, g))
    # The engines choose their own types: autocast would make the float32 products that they ask for float16.
    with without_autocast(theta.device.type):
        if engine == "reference":
            return reference.non_local(
                theta,
                phi,
                g,
                w_f,
                instantiation=instantiation,
                scale=factor,
                key_mask_BM=key_mask,
                num_heads=num_heads,
            )
        key_mask = repeat_for_heads(key_mask, num_heads)
        g = split_heads(g, num_heads)
        if instantiation == "concatenation":
            assert w_f is not None
            # In float16 these products may pass 65,504, and as sums their rounding is not averaged out.
            wide = torch.promote_types(theta.dtype, torch.float32)
            w_theta, w_phi = w_f.to(wide).chunk(2)
            a, b = dot_heads(theta.to(wide), w_theta, num_heads), dot_heads(phi.to(wide), w_phi, num_heads)
            y = split.rectified_non_local(
                a, b, g, key_mask_BM=key_mask, process_group=process_group, engine=engine
            )
        else:
            # Still one tensor where they were one: the logits are symmetric then.
            is_symmetric, theta = phi is theta, split_heads(theta, num_heads)
            phi = theta if is_symmetric else split_heads(phi, num_heads)
            y = _product_forms(theta, phi, g, instantiation, factor, key_mask, engine, process_group)
    return join_heads(y, num_heads)


def _product_forms(
    theta: Tensor,
    phi: Tensor,
    g: Tensor,
    instantiation: str,
    scale: float,
    key_mask: Tensor | None,
    engine: str,
    process_group: dist.ProcessGroup | None,
) -> Tensor:
    """Return y of the forms that are made of products of theta and phi, by the engine that serves them."""
    if process_group is not None:
        return split.non_local(
            theta,
            phi,
            g,
            instantiation=instantiation,
            scale=scale,
            key_mask_BM=key_mask,
            group=process_group,
        )
    if engine == "auto" and materialises(theta, phi, g, instantiation):
        return reference.non_local(
            theta,
            phi,
            g,
            None,
            instantiation=instantiation,
            scale=scale,
            key_mask_BM=key_mask,
            product=matmul,
        )
    if instantiation in SOFTMAX_INSTANTIATIONS:
        return softmax.non_local(theta, phi, g, scale=scale, key_mask_BM=key_mask)
    count = phi.shape[1] if key_mask is None else reference.number_of_keys(key_mask)
    return dot_product.non_local(theta, phi, g, count=count)


def affinity(
    theta: Tensor,
    phi: Tensor,
    *,
    instantiation: Instantiation,
    w_f: Tensor | None = None,
    scale: float | None = None,
    key_mask: Tensor | None = None,
    num_heads: int = 1,
) -> Tensor:
    """Affinity f(x_i, x_j) / C(x) of every query with every key: the weights that :func:`non_local` sums by.

    Rows of the two Gaussian forms sum to 1. Dot products can be negative.

    Args:
        theta: Queries, shape (B, N, D), floating point.
        phi: Keys, shape (B, M, D).
        instantiation: The pairwise function f, see :func:`non_local`.
        w_f: Weights of the concatenation form, shape (2D,).
        scale: Factor on the logits of the two Gaussian forms; None is 1.
        key_mask: True where a key takes part, shape (B, M), bool.
        num_heads: Heads, see :func:`non_local`.

    Returns:
        The affinity, shape (B, N, M), in the type of ``theta`` but at least float32. That of several heads is
        (B, num_heads, N, M).

    Raises:
        TypeError: An operand is no tensor.
        ValueError: A shape, type or setting does not fit; the message says which.

    Memory:
        O(N M): this is the tensor that the engines avoid.

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, eq. (1)-(5).

    Example:
        >>> theta, phi = torch.randn(2, 6, 4), torch.randn(2, 5, 4)
        >>> rows = affinity(theta, phi, instantiation="embedded_gaussian")
        >>> rows.shape, bool(torch.allclose(rows.sum(2), torch.ones(2, 6)))
        (torch.Size([2, 6, 5]), True)
    """
    check_operands(theta, phi, instantiation, w_f, scale, key_mask, num_heads)
    factor = 1.0 if scale is None else float(scale)
    if key_mask is not None:
        phi = phi.masked_fill(~key_mask.unsqueeze(2), 0.0)
    with without_autocast(theta.device.type):
        return reference.affinity(
            theta,
            phi,
            w_f,
            instantiation=instantiation,
            scale=factor,
            key_mask_BM=key_mask,
            num_heads=num_heads,
        )
