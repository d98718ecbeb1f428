"""Activations that are computed twice, so that they need not be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_(modules: Iterable[nn.Module]) -> None:
    """Make modules keep only their inputs for the backward pass, which computes the rest again.

    Gradients and statistics of norms are those of the modules without it, bit for bit: dropout draws the
    same numbers again, and what the second pass writes to buffers is thrown away. State-dict keys stay.

    Args:
        modules: None of them inside another.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> recompute_([model])
        >>> model(torch.rand(4, 2)).sum().backward()
        >>> int(model[1].num_batches_tracked)
        1
    """
    for module in modules:
        module.forward = _recomputed(module)


def _recomputed(module: nn.Module) -> Callable[..., Any]:
    forward = module.forward

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _spare_buffers(module)

    def run(*inputs: Any, **named: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **named)

    return run


@contextmanager
def _spare_buffers(module: nn.Module) -> Iterator[None]:
    """Let a pass write to copies: running statistics must not take in the same batch twice."""
    kept = [(each, dict(each._buffers)) for each in module.modules() if each._buffers]
    try:
        for each, buffers in kept:
            each._buffers.update(
                {name: None if value is None else value.clone() for name, value in buffers.items()}
            )
        yield
    finally:
        for each, buffers in kept:
            each._buffers.update(buffers)
