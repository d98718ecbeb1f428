"""A model made ready to be exported: a plain copy in eval mode, which returns one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn._errors import check_module
from nonlocalnn.checkpoints.wrapped import plain_model
from nonlocalnn.surgery.conversion.folding import private_copy

# Of torch.export's programs, which are modules too.
_PROGRAM = "_StatefulGraphModule"
_QUANTISED = "torch.ao.nn.quantized"


def prepared(model: nn.Module) -> nn.Module:
    """Return a copy of a model without wrappers and computed weights, in eval mode.

    Raises:
        TypeError: It is no module.
        ValueError: It is a program already, is quantised, has no numbers, or its weights are narrow.
    """
    check_module(model)
    is_program = any(each.__name__ == _PROGRAM for each in type(model).__mro__)
    if is_program or isinstance(model, torch.jit.ScriptModule):
        raise ValueError("the model is a traced or exported program: export the module that it was made from")
    for name, part in model.named_modules():
        if type(part).__module__.startswith(_QUANTISED):
            raise ValueError(f"{name or 'the model'} is quantised: export the model that it was made from")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(f"{name} has no numbers: it is on the meta device; load the weights first")
    copied = private_copy(plain_model(model)).eval()
    for name, weight in copied.named_parameters():
        if weight.is_floating_point() and weight.itemsize < 4:
            raise ValueError(
                f"{name} is {weight.dtype}, whose rounding is larger than what a file may differ by: export "
                "a copy of the model in float32, copy.deepcopy(model).float()"
            )
        # With channels last PyTorch would take for granted that a batch holds more than one sample.
        weight.data = weight.data.contiguous()
    return copied


class _Scores(nn.Module):
    """A segmentation network of torchvision, whose answer is a dictionary, with its scores for an answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x)["out"]


def with_one_answer(model: nn.Module, answer: object) -> nn.Module:
    """Return the model, or of torchvision's segmentation networks one that returns the scores only.

    Args:
        model: What was asked.
        answer: What it returned.

    Raises:
        ValueError: That is no tensor of numbers.
    """
    if isinstance(answer, Mapping) and "out" in answer:
        model, answer = _Scores(model), answer["out"]
    if isinstance(answer, Tensor) and answer.dtype != torch.bool:
        return model
    found = "tensor of True and False" if isinstance(answer, Tensor) else type(answer).__name__
    raise ValueError(
        f"the model must return one tensor of numbers; it returned a {found}: export a module whose forward "
        "calls it and returns one of its tensors"
    )
