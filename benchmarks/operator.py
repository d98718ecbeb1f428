"""The concatenation operator alone, without projections: scalars a and b and values g in, y out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.cells import DTYPES
from nonlocalnn.functional.concatenation import rectified_non_local


def broadcast(a_BN: Tensor, b_BM: Tensor, g_BME: Tensor) -> Tensor:
    """Return the same as ``rectified_non_local`` with the affinity in memory."""
    return (a_BN.unsqueeze(2) + b_BM.unsqueeze(1)).relu_() @ g_BME / b_BM.shape[1]


OPERATORS = {"ours": rectified_non_local, "materialised": broadcast}


def make_operands(
    num_positions: int, num_values: int, *, device: str, dtype: str, backward: bool
) -> list[Tensor]:
    """Return a, b and g of normal numbers, the same at each call, for as many queries as keys."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shapes = [(1, num_positions), (1, num_positions), (1, num_positions, num_values)]
        parts = [torch.randn(shape) for shape in shapes]
    return [part.to(device, DTYPES[dtype]).requires_grad_(backward) for part in parts]


def worker(name: str, operands: list[Tensor]) -> Callable[[], None]:
    """Return the function that is timed: forward, and backward where the operands ask for gradients."""
    function = OPERATORS[name]
    gradient = torch.ones_like(operands[2])

    def compute() -> None:
        for part in operands:
            part.grad = None
        y = function(*operands)
        if y.requires_grad:
            y.backward(gradient)

    return compute


def prepare_peak(name: str, **fields: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a tiny and the full pass, as ``peak_memory`` wants them."""
    full = make_operands(**fields)
    tiny = make_operands(**{**fields, "num_positions": 32})
    return worker(name, tiny), worker(name, full)


def results(name: str, operands: list[Tensor]) -> list[Tensor]:
    """Return y and, where the operands ask for them, the gradients of a, b and g."""
    y = OPERATORS[name](*operands)
    if not y.requires_grad:
        return [y]
    return [
        y.detach(),
        *torch.autograd.grad(y, operands, torch.cos(torch.arange(y.numel())).view_as(y).to(y)),
    ]
