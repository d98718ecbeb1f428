"""How the engines' operators are made known to PyTorch, so that compile and export see each as one node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Not torch.library.custom_op: the first call of an operator made by it loads the compiler, which takes
# seconds and 150 MB in processes that never compile.
_LIBRARY = torch.library.Library("nonlocalnn", "DEF")


def register(
    compute: Callable[..., Any],
    shapes: Callable[..., Any],
    *,
    save: Callable[[Any, tuple[Any, ...], Any], None] | None = None,
    backward: Callable[..., tuple[Tensor | None, ...]] | None = None,
) -> Callable[..., Any]:
    """Make a function the operator ``nonlocalnn::<its name>`` and return that.

    Args:
        compute: Tensors and numbers in, the first of them a tensor; new tensors out. Its annotations are the
            operator's schema. It runs without autocast, which would narrow its products to half precision.
        shapes: The same signature: returns empty tensors of the right shapes and types.
        save: ``setup_context`` of :func:`torch.library.register_autograd`.
        backward: As there. Without it the operator has no gradient, and asking for one is an error.
    """

    def run(*arguments: Any) -> Any:
        with torch.autocast(arguments[0].device.type, enabled=False):
            return compute(*arguments)

    name = compute.__name__.strip("_")
    schema = torch.library.infer_schema(compute, mutates_args=())
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    qualified = f"nonlocalnn::{name}"
    torch.library.register_fake(qualified, shapes, lib=_LIBRARY)
    gradient = _no_second_derivative if backward is None else backward
    torch.library.register_autograd(qualified, gradient, setup_context=save, lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(torch.ops.nonlocalnn, name).default
    return operator


def _no_second_derivative(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        "this engine has no second derivative: for gradients of gradients call non_local(engine='reference')"
    )
