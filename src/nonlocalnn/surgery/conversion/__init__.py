"""Other libraries' non-local modules, replaced by ours in a model of any kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from nonlocalnn._errors import check_module
from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional.layers import Convolution
from nonlocalnn.surgery.conversion.attentions import is_called_attention
from nonlocalnn.surgery.conversion.building import Built, build_block
from nonlocalnn.surgery.conversion.layers import NotConvertibleError
from nonlocalnn.surgery.conversion.layouts import is_candidate, unknown_layers, was_candidate

__all__ = ["ConversionReport", "Converted", "convert_nonlocal_"]


@dataclass(frozen=True)
class Converted:
    """What a module was and what it is now.

    Args:
        source: The library whose layout it had, such as "mmcv" or "diffusers"; "custom" for an unknown one.
        class_name: Its class.
        block: Our class. Where the module took more than a map, the block is the child ``block`` of what
            stands there.
        settings: The arguments that make such a block.
    """

    source: str
    class_name: str
    block: str
    settings: Mapping[str, object]

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{self.source} {self.class_name} -> {self.block}({settings})"


@dataclass(frozen=True)
class ConversionReport:
    """What :func:`convert_nonlocal_` did; ``str()`` of it is a table.

    Args:
        converted: Every name of a module that was replaced; a module in two places has two.
        left: Every name of a module that stays as it is, and the reason.
    """

    converted: Mapping[str, Converted] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.converted and not self.left:
            return "no non-local modules of other libraries"
        rows = {name: str(each) for name, each in self.converted.items()}
        rows |= {name: f"left: {reason}" for name, reason in self.left.items()}
        width = max(map(len, rows))
        return "\n".join(f"{name:{width}}  {text}" for name, text in rows.items())


def convert_nonlocal_(model: nn.Module) -> ConversionReport:
    """Replace other libraries' non-local and attention modules by ours, in place; outputs stay the same.

    Known are the modules of AlexHex7/Non-local_pytorch, mmcv, SlowFast, pytorchvideo and timm, and the
    self-attention of diffusers, VAEs, DDPMs, MONAI, SAGAN, BigGAN, fastai and DANet, by class name or by the
    names and shapes of their layers, so that copies of their files are found as well. No library is imported.
    Each module is first run on copies, with random weights and with its own, on small and large maps, next to
    a block of ours: only what computes the same, in train and in eval mode, is replaced. Buffers count with
    the values that they have.

    Parameters, norms and statistics are built as the same objects, with their types, devices, modes and
    ``requires_grad``. New are the weight and bias of theta where a scale is folded into them (timm), w_f of
    the concatenation form, W_z where a factor (gamma) goes into it, weights that spectral norm and the like
    compute (in eval mode only), the parts of one layer for queries, keys and values, and zeros where a bias
    is missing, which are not trained: make the optimiser after the conversion. State-dict keys become ours:
    load a checkpoint of the other library before.

    Args:
        model: Anything that holds such modules; without any, nothing happens.

    Returns:
        What was replaced, and what was left and why.

    Raises:
        ValueError: The model itself is such a module and has no place in which it could be replaced, or it
            was compiled by TorchScript. Nothing is changed then.
        TypeError: ``model`` is no module.

    Example:
        >>> import torch
        >>> import nonlocalnn as nl
        >>> class Theirs(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.theta, self.phi, self.g = (torch.nn.Conv2d(8, 4, 1) for _ in range(3))
        ...         self.W = torch.nn.Conv2d(4, 8, 1)
        ...
        ...     def forward(self, x):
        ...         theta, phi, g = (layer(x).flatten(2) for layer in (self.theta, self.phi, self.g))
        ...         y = g @ (theta.transpose(1, 2) @ phi).softmax(2).transpose(1, 2)
        ...         return self.W(y.unflatten(2, x.shape[2:])) + x
        >>> model = torch.nn.Sequential(Theirs())
        >>> x = torch.randn(2, 8, 6, 5)
        >>> before = model(x)
        >>> report = nl.convert_nonlocal_(model)
        >>> report.converted["0"].settings["instantiation"], report.left
        ('embedded_gaussian', {})
        >>> bool(torch.allclose(model(x), before, atol=1e-5))
        True
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("the model's forward pass is fixed: convert before tracing or scripting")
    # A module that is in two places has two names, and becomes one block in both.
    check_module(model)
    everything = dict(model.named_modules(remove_duplicate=False))
    modules = {
        name: module for name, module in everything.items() if not isinstance(module, torch.jit.ScriptModule)
    }
    candidates = {name: module for name, module in modules.items() if is_candidate(module)}
    ranks = _ranks(model, candidates.values())
    built: dict[nn.Module, Built] = {}
    reasons: dict[nn.Module, str] = {}
    for module in dict.fromkeys(candidates.values()):
        try:
            built[module] = build_block(module, ranks)
        except NotConvertibleError as reason:
            reasons[module] = str(reason)
    if model in built:
        raise ValueError(
            f"the model itself is a {type(model).__name__}, which cannot be replaced in place: put it into "
            "torch.nn.Sequential and convert that"
        )
    # What lies within a module that is replaced goes with it.
    gone = {part for module in built for part in module.modules()}
    for module in modules.values():
        parts = list(module.modules())
        if is_called_attention(type(module).__name__) and not any(
            is_candidate(part) or isinstance(part, NonLocalNd) for part in parts
        ):
            reasons[module] = unknown_layers(module)
    converted: dict[str, Converted] = {}
    for name, module in candidates.items():
        if module in built and not name.startswith(tuple(f"{outer}." for outer in converted)):
            each = built[module]
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, each.module)
            block = type(each.block).__name__
            converted[name] = Converted(each.source, type(module).__name__, block, each.settings)
    for module in everything.values():
        if isinstance(module, torch.jit.ScriptModule) and was_candidate(module):
            reasons[module] = "TorchScript has fixed its forward pass: convert before tracing or scripting"
    left = {name: reasons[each] for name, each in everything.items() if each in reasons and each not in gone}
    return ConversionReport(converted, left)


def _ranks(model: nn.Module, candidates: Iterable[nn.Module]) -> list[int]:
    """Return the ranks of maps, those of most of a model's own convolutions first, and images before others.

    A candidate's layers say nothing of its maps where it flattens them.
    """
    theirs = {part for module in candidates for part in module.modules()}
    convolutions = (part for part in model.modules() if isinstance(part, Convolution) and part not in theirs)
    counts = Counter(len(each.kernel_size) for each in convolutions)
    return sorted((2, 1, 3), key=lambda rank: -counts[rank])
