"""The non-local operation, eq. (1) of the paper: tensors in, tensors out, no parameters.

:func:`non_local` computes y_i = (1 / C(x)) sum_j f(x_i, x_j) g(x_j) and :func:`affinity` the weights
f(x_i, x_j) / C(x) themselves. Every engine equals :mod:`nonlocalnn.functional.reference` in values and
gradients.
"""

from __future__ import annotations

import sys
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from nonlocalnn._errors import check_choice
from nonlocalnn._names import INSTANTIATIONS
from nonlocalnn.functional import concatenation, dot_product, reference, softmax, split
from nonlocalnn.functional.modes import without_autocast
from nonlocalnn.functional.positions import FLOATS
from nonlocalnn.functional.splitting import split_positions

Instantiation = Literal["gaussian", "embedded_gaussian", "dot_product", "concatenation"]
Engine = Literal["auto", "reference", "fused"]
SOFTMAX_INSTANTIATIONS: tuple[str, ...] = ("gaussian", "embedded_gaussian")
_ENGINES = ("auto", "reference", "fused")

__all__ = [
    "INSTANTIATIONS",
    "SOFTMAX_INSTANTIATIONS",
    "Engine",
    "Instantiation",
    "affinity",
    "non_local",
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
        w_f: Weights of the concatenation form, shape (2D,): the first D meet theta, the others phi.
        scale: Factor on the logits of the two Gaussian forms; None is 1, as in the paper.
        key_mask: True where a key takes part, shape (B, M), bool. A masked key weighs nothing and C(x)
            counts only the others; a row without any key gives zeros.
        engine: "reference" is the equation as written, with the N x M affinity in memory. "fused" never
            holds an N x M tensor. "auto" takes whichever is faster at this size: see :func:`_materialises`.
            Under torch.func and forward-mode derivatives, and for derivatives of derivatives, each form but
            the dot product holds it whatever this says: PyTorch then needs operations that it knows itself.
        process_group: Processes that hold the other queries and keys. Each gives its own, of any number, and
            gets y of its queries over all keys; gradients are those of the whole. Either all give a
            ``key_mask`` of their own keys or none does. See :func:`nonlocalnn.split_positions` for blocks.

    Returns:
        y, shape (B, N, E), in the type of ``g``.

    Raises:
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
    _check(theta, phi, instantiation, w_f, scale, key_mask, needs_key=process_group is None)
    _check_values(phi, g)
    check_choice("engine", engine, _ENGINES)
    factor = 1.0 if scale is None else float(scale)
    if process_group is not None and engine == "reference":
        raise ValueError("positions that are split over processes take no engine='reference': leave it out")
    if key_mask is not None:
        # Zeros, so that whatever a masked key holds, NaN included, reaches neither a sum nor a gradient.
        phi, g = (part.masked_fill(~key_mask.unsqueeze(2), 0.0) for part in (phi, g))
    # The engines choose their own types: autocast would make the float32 products that they ask for float16.
    with without_autocast(theta.device.type):
        if process_group is not None:
            return split.non_local(
                theta,
                phi,
                g,
                w_f,
                instantiation=instantiation,
                scale=factor,
                key_mask_BM=key_mask,
                group=process_group,
            )
        if engine == "reference" or (engine == "auto" and _materialises(theta, phi, g, instantiation)):
            return reference.non_local(
                theta, phi, g, w_f, instantiation=instantiation, scale=factor, key_mask_BM=key_mask
            )
        if instantiation in SOFTMAX_INSTANTIATIONS:
            return softmax.non_local(theta, phi, g, scale=factor, key_mask_BM=key_mask)
        count = None if key_mask is None else reference.number_of_keys(key_mask)
        if instantiation == "dot_product":
            return dot_product.non_local(theta, phi, g, count=phi.shape[1] if count is None else count)
        assert w_f is not None
        # Of float16 these products may pass 65,504, and they are sums of which rounding is not averaged out.
        wide = torch.promote_types(theta.dtype, torch.float32)
        w_theta, w_phi = w_f.to(wide).chunk(2)
        a, b = theta.to(wide) @ w_theta, phi.to(wide) @ w_phi
        return concatenation.rectified_non_local(a, b, g, count_B11=count)


def affinity(
    theta: Tensor,
    phi: Tensor,
    *,
    instantiation: Instantiation,
    w_f: Tensor | None = None,
    scale: float | None = None,
    key_mask: Tensor | None = None,
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

    Returns:
        The affinity, shape (B, N, M), in the type of ``theta`` but at least float32.

    Raises:
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
    _check(theta, phi, instantiation, w_f, scale, key_mask)
    factor = 1.0 if scale is None else float(scale)
    if key_mask is not None:
        phi = phi.masked_fill(~key_mask.unsqueeze(2), 0.0)
    with without_autocast(theta.device.type):
        return reference.affinity(
            theta, phi, w_f, instantiation=instantiation, scale=factor, key_mask_BM=key_mask
        )


# 32 MiB in float32. Up to there weights are faster kept for the backward pass than computed again; beyond,
# the C library maps fresh memory for each such tensor, and clearing its pages takes longer than the products.
_MOST_WEIGHTS = 2**23


def _materialises(theta: Tensor, phi: Tensor, g: Tensor, instantiation: str) -> bool:
    """Return whether the N x M tensor is the faster way, and small."""
    # A program exported for any size must not decide by the size of its example.
    if instantiation == "concatenation" or torch.compiler.is_exporting():
        return False
    (batch, num_queries, width), num_keys, num_values = theta.shape, phi.shape[1], g.shape[2]
    if batch * num_queries * num_keys > _MOST_WEIGHTS:
        return False
    if instantiation in SOFTMAX_INSTANTIATIONS:
        return True
    return num_queries * num_keys * (width + num_values) < (num_queries + num_keys) * width * num_values


def _check(
    theta: Tensor,
    phi: Tensor,
    instantiation: str,
    w_f: Tensor | None,
    scale: float | None,
    key_mask: Tensor | None,
    *,
    needs_key: bool = True,
) -> None:
    check_choice("instantiation", instantiation, INSTANTIATIONS)
    for name, part in (("theta", theta), ("phi", phi)):
        if part.dim() != 3:
            raise ValueError(f"{name} must be (B, positions, channels); got shape {tuple(part.shape)}")
        if part.dtype not in FLOATS:
            raise ValueError(f"{name} must be floating point; got {part.dtype}, not one of 16, 32 or 64 bits")
    if theta.shape[0] != phi.shape[0] or theta.shape[2] != phi.shape[2]:
        raise ValueError(
            "theta (B, N, D) and phi (B, M, D) must agree in B and D; "
            f"got {tuple(theta.shape)} and {tuple(phi.shape)}"
        )
    if theta.dtype != phi.dtype:
        raise ValueError(f"theta and phi must have one type; got {theta.dtype} and {phi.dtype}")
    if needs_key and phi.shape[1] == 0:
        raise ValueError("phi must hold at least one key; got none")
    if scale is not None and instantiation not in SOFTMAX_INSTANTIATIONS:
        raise ValueError(f"scale has no meaning for {instantiation!r}, which has no logits: leave it None")
    if scale is not None and not (isinstance(scale, int | float) and abs(scale) <= sys.float_info.max):
        raise ValueError(f"scale must be a finite number; got {scale!r:.40}")
    if instantiation != "concatenation":
        if w_f is not None:
            raise ValueError(f"w_f belongs to 'concatenation' only; got one with {instantiation!r}")
    elif w_f is None or w_f.shape != (2 * theta.shape[2],):
        found = "None" if w_f is None else f"shape {tuple(w_f.shape)}"
        raise ValueError(f"w_f must be (2D,) = ({2 * theta.shape[2]},) for 'concatenation'; got {found}")
    elif w_f.dtype not in FLOATS:
        raise ValueError(f"w_f must be floating point; got {w_f.dtype}, not one of 16, 32 or 64 bits")
    if key_mask is not None and (key_mask.shape != phi.shape[:2] or key_mask.dtype != torch.bool):
        raise ValueError(
            f"key_mask must be bool, (B, M) = {tuple(phi.shape[:2])}; "
            f"got {key_mask.dtype}, {tuple(key_mask.shape)}"
        )


def _check_values(phi: Tensor, g: Tensor) -> None:
    if g.dim() != 3 or g.shape[:2] != phi.shape[:2]:
        raise ValueError(
            f"g must be (B, M, E) with phi's (B, M) = {tuple(phi.shape[:2])}; got shape {tuple(g.shape)}"
        )
    if g.dtype != phi.dtype:
        raise ValueError(f"g must have phi's type {phi.dtype}; got {g.dtype}")
