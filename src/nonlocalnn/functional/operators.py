"""How an engine becomes an operator of PyTorch, which compile and export see as one node.

An engine has a forward and a backward pass, both written for speed: neither can be differentiated by itself.
Beside them stands the same function in plain operations, with the N x M tensor. Derivatives of the backward
pass are taken of that one, as often as wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from nonlocalnn.functional.modes import is_transformed, without_autocast

# Not torch.library.custom_op: the first call of an operator made by it loads the compiler, which takes
# seconds and 150 MB in processes that never compile.
_LIBRARY = torch.library.Library("nonlocalnn", "DEF")

Operator = Callable[..., Any]


def register(
    forward: tuple[Operator, Operator, Operator],
    backward: tuple[Operator, Operator, Operator],
    plain: Operator,
    *,
    num_kept: int = 0,
) -> Operator:
    """Make an engine's two passes the operators ``nonlocalnn::<their names>``; return the forward one.

    Each pass is three functions with one signature: the pass itself, whose annotations are the operator's
    schema; the same on empty tensors, for shapes and types; and its FLOPs, from the shapes of its tensors.
    They run without autocast, which would narrow their products to half precision.

    Args:
        forward: Tensors and numbers in, the first of them a tensor; y out, or y and what it keeps.
        backward: The gradient of y, the tensors of ``forward``, y and what is kept (``num_kept`` is not 0),
            then the numbers of ``forward``; returns gradients of its first tensors.
        plain: The arguments of ``forward``; returns y by operations that PyTorch differentiates.
        num_kept: How many tensors ``forward`` returns beside y.
    """
    run, run_backward = _define(*forward), _define(*backward)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = [each for each in inputs if each is None or isinstance(each, Tensor)]
        ctx.num_tensors, ctx.numbers = len(tensors), inputs[len(tensors) :]
        if num_kept:
            ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *(output if num_kept else ()))

    def differentiate(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        arguments = (*saved[: ctx.num_tensors], *ctx.numbers)
        # A backward pass of many gradients at once, by vmap.
        if is_transformed():
            return _gradients(plain, arguments, dy)
        found = run_backward(dy, *saved, *ctx.numbers)
        return (*found, *[None] * (len(arguments) - len(found)))

    def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = [each for each in inputs if each is None or isinstance(each, Tensor)]
        ctx.numbers = inputs[len(tensors) :]
        # y and what is kept beside it follow from the other tensors: no derivative is taken by them.
        ctx.num_derived = num_kept + 1 if num_kept else 0
        ctx.num_outputs = len(output)
        ctx.save_for_backward(*tensors[: len(tensors) - ctx.num_derived])

    # Second derivatives written by hand would double every engine for a rare use.
    def differentiate_backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        def first(dy: Tensor, *arguments: Any) -> tuple[Tensor | None, ...]:
            return _gradients(plain, arguments, dy)[: ctx.num_outputs]

        found = _gradients(first, (*ctx.saved_tensors, *ctx.numbers), gradients)
        num_tensors = len(ctx.saved_tensors)
        return (*found[:num_tensors], *[None] * (ctx.num_derived + len(ctx.numbers)))

    for operator, gradient, setup in (
        (run, differentiate, save),
        (run_backward, differentiate_backward, save_backward),
    ):
        torch.library.register_autograd(operator, gradient, setup_context=setup, lib=_LIBRARY)
    return run


def _define(compute: Operator, shapes: Operator, flops: Operator) -> Any:
    def run(*arguments: Any) -> Any:
        with without_autocast(arguments[0].device.type):
            return compute(*arguments)

    name = compute.__name__.strip("_")
    schema = torch.library.infer_schema(compute, mutates_args=())
    _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"nonlocalnn::{name}", shapes, lib=_LIBRARY)
    operator = getattr(torch.ops.nonlocalnn, name)
    register_flop_formula(operator)(lambda *sizes, out_shape=None, **_: flops(*sizes))
    return operator.default


def _gradients(function: Operator, arguments: tuple[Any, ...], slopes: Any) -> tuple[Tensor | None, ...]:
    """Return the gradients of a function of plain operations, None for what has none."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: of two arguments of which one was made from the other, each has a gradient of its own.
        inputs = [each.view_as(each) if isinstance(each, Tensor) else each for each in arguments]
        outputs = function(*inputs)
        wanted = [each for each in inputs if isinstance(each, Tensor) and each.requires_grad]
        if isinstance(outputs, tuple):
            pairs = [
                (output, slope)
                for output, slope in zip(outputs, slopes, strict=True)
                if output is not None and output.requires_grad
            ]
            outputs, slopes = [output for output, _ in pairs], [slope for _, slope in pairs]
        found = iter(
            torch.autograd.grad(outputs, wanted, slopes, create_graph=create_graph, allow_unused=True)
        )
    return tuple(next(found) if isinstance(each, Tensor) and each.requires_grad else None for each in inputs)
