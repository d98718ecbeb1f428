"""What :func:`nonlocalnn.functional.non_local` and its siblings refuse, and how they say so."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from nonlocalnn._errors import check_choice, check_tensor, check_whole
from nonlocalnn._names import INSTANTIATIONS
from nonlocalnn.functional.positions import FLOATS

SOFTMAX_INSTANTIATIONS: tuple[str, ...] = ("gaussian", "embedded_gaussian")


def check_operands(
    theta: Tensor,
    phi: Tensor,
    instantiation: str,
    w_f: Tensor | None,
    scale: float | None,
    key_mask: Tensor | None,
    num_heads: int,
    *,
    needs_key: bool = True,
) -> None:
    """Check everything but g.

    Raises:
        TypeError: theta or phi is no tensor.
        ValueError: A shape, type or setting does not fit.
    """
    check_choice("instantiation", instantiation, INSTANTIATIONS)
    for name, part in (("theta", theta), ("phi", phi)):
        check_tensor(name, part)
        if part.dim() != 3:
            raise ValueError(f"{name} must be (B, positions, channels); got shape {tuple(part.shape)}")
        if part.dtype not in FLOATS:
            raise ValueError(f"{name} must be floating point; got {part.dtype}, not one of 16, 32 or 64 bits")
    if theta.shape[0] != phi.shape[0] or theta.shape[2] != phi.shape[2]:
        raise ValueError(
            "theta (B, N, D) and phi (B, M, D) must agree in B and D; "
            f"got {tuple(theta.shape)} and {tuple(phi.shape)}"
        )
    check_whole("num_heads", num_heads)
    _check_heads("theta and phi", theta.shape[2], num_heads)
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


def check_values(phi: Tensor, g: Tensor, num_heads: int) -> None:
    """Check what is averaged.

    Raises:
        TypeError: It is no tensor.
        ValueError: It does not fit the keys.
    """
    check_tensor("g", g)
    if g.dim() != 3 or g.shape[:2] != phi.shape[:2]:
        raise ValueError(
            f"g must be (B, M, E) with phi's (B, M) = {tuple(phi.shape[:2])}; got shape {tuple(g.shape)}"
        )
    if g.dtype != phi.dtype:
        raise ValueError(f"g must have phi's type {phi.dtype}; got {g.dtype}")
    _check_heads("g", g.shape[2], num_heads)


def _check_heads(names: str, width: int, num_heads: int) -> None:
    if width % num_heads:
        raise ValueError(
            f"every head takes an equal slice of the channels: {names} must have a multiple of num_heads = "
            f"{num_heads}; got {width}"
        )
