"""A block of ours from the layers of another library's module, and the proof that both compute the same."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional import SOFTMAX_INSTANTIATIONS
from nonlocalnn.functional.layers import BatchNorm, Convolution
from nonlocalnn.functional.norms import Norm, name_of
from nonlocalnn.surgery.conversion.calling import as_called
from nonlocalnn.surgery.conversion.folding import folded, private_copy
from nonlocalnn.surgery.conversion.layers import NotConvertibleError
from nonlocalnn.surgery.conversion.layouts import read
from nonlocalnn.surgery.conversion.parts import FoundNorm, Parts
from nonlocalnn.surgery.conversion.probes import (
    Probe,
    Run,
    adds_alike,
    first_probe,
    further_probes,
    is_near,
    on_cpu,
    output,
    run,
)


@dataclass(frozen=True)
class Built:
    """What is put into a module's place.

    Args:
        source: The library that the module is of.
        block: Our block.
        module: The block, or what calls it by the signature of the module that was there.
        settings: The arguments that make such a block.
    """

    source: str
    block: NonLocalNd
    module: nn.Module
    settings: dict[str, object]


@dataclass(frozen=True)
class GroupNormOf:
    """Make group norms of this many groups: what our blocks take for ``norm`` and ``pre_norm``."""

    num_groups: int
    eps: float

    def __call__(self, num_channels: int) -> nn.GroupNorm:
        """Return one for this many channels."""
        return nn.GroupNorm(self.num_groups, num_channels, self.eps)


def build_block(module: nn.Module, ranks: Sequence[int]) -> Built:
    """Return a block of ours with a module's parameters, proved to compute what the module does.

    Names of layers do not prove what is computed with them. So a copy with random weights, in float64, and a
    block made of the copy are run side by side; a zero-initialised module would equal any block. The reading
    that passes is then tried on larger maps, and with the module's own weights.

    Args:
        module: A candidate.
        ranks: Sides of its maps, the likeliest first, where its layers do not say.

    Raises:
        NotConvertibleError: A block of ours has no place for one of its layers or settings, or computes
            something else.
    """
    plain = folded(module)
    found = read(plain, ranks)
    own = on_cpu(plain)
    probe = first_probe(own)
    runs, lacks_sum = {}, False
    for index, (parts, trial) in enumerate(zip(found, read(probe.module, ranks), strict=True)):
        if parts.block not in runs:
            (shape,) = probe.shapes_for(parts)
            runs[parts.block] = run(replace(probe, module=private_copy(probe.module)), trial, shape)
        made = runs[parts.block]
        if not isinstance(made, Run):
            continue
        trial_block = build(_with_own_norms(trial))
        # Eval mode first: most readings are wrong, and that tells.
        if all(is_near(output(made, trial_block, mode), each) for mode, each in made.outputs.items()):
            tensors = itertools.chain(plain.parameters(), plain.buffers())
            _check_further(further_probes(own, not any(each.is_meta for each in tensors)), ranks, index)
            block = build(parts)
            for layer in (block, block.theta, block.phi, block.g, block.W_z):
                if layer is not None:
                    layer.training = module.training
            return Built(
                parts.source, block, as_called(block, module, probe.module, made.x), settings_of(block)
            )
        lacks_sum = lacks_sum or is_near(output(made, trial_block, False), made.outputs[False] + made.x)
    if lacks_sum:
        raise NotConvertibleError("it does not add its input to what it returns, and a block of ours does")
    failure = next(iter(runs.values()))
    if all(isinstance(made, NotConvertibleError) for made in runs.values()):
        assert isinstance(failure, NotConvertibleError)
        raise failure
    tried = " or ".join(repr(name) for name in dict.fromkeys(each.instantiation for each in found))
    raise NotConvertibleError(f"it has the layers of {tried} and computes something else")


def _check_further(probes: Iterable[Probe], ranks: Sequence[int], index: int) -> None:
    """Check that one reading, which equals the module in the first run, does so in others.

    Raises:
        NotConvertibleError: It does not, or the module fails there.
    """
    for probe in probes:
        parts = read(probe.module, ranks)[index]
        block = build(parts)
        for shape in probe.shapes_for(parts):
            made = run(probe, parts, shape)
            if isinstance(made, NotConvertibleError):
                raise made
            if not adds_alike(made, output(made, block, False)):
                raise NotConvertibleError(
                    f"{probe.says}, on maps of {shape[1:]}, it computes something else than a block of its "
                    "layers: it may look at the size of maps, have a mask, or limit a factor or the logits"
                )


def build(parts: Parts) -> NonLocalNd:
    """Return a block whose parameters and norms are those of ``parts``, where possible the same objects."""
    is_scaled = parts.instantiation in SOFTMAX_INSTANTIATIONS and parts.scale != 1
    # On the meta device nothing is drawn: neither time nor the state of the random numbers is spent.
    with torch.device("meta"):
        block = parts.block(
            parts.g.in_channels,
            inter_channels=parts.inner,
            value_channels=parts.g.out_channels,
            num_heads=parts.num_heads,
            instantiation=parts.instantiation,
            sub_sample=parts.sub_sample,
            pool_size=parts.pool_size,
            use_scale=is_scaled,
            norm=_kind_of(parts.norm),
            pre_norm=_kind_of(parts.pre_norm),
        )
    # Our block has a scale of its own. Logits are linear in theta, which takes what is left over.
    factor = 1.0 if block.scale is None else parts.scale / block.scale
    # The same Parameter objects keep their type, device, tying and requires_grad without further code.
    if parts.theta is not None and parts.phi is not None:
        block.theta = _filled(block.theta, parts.theta, 1.0 if math.isclose(factor, 1) else factor)
        block.phi = _filled(block.phi, parts.phi)
    block.g = _filled(block.g, parts.g)
    block.W_z = _filled(block.W_z, parts.W_z)
    for name in ("norm", "pre_norm"):
        norm = getattr(parts, name)
        if norm is not None:
            setattr(block, name, _with_weight(norm, block))
    if parts.w_f is not None:
        w_f = parts.w_f.weight
        block.w_f = nn.Parameter(w_f.detach().flatten().clone(), requires_grad=w_f.requires_grad)
    return block


def settings_of(block: NonLocalNd) -> dict[str, object]:
    """Return the arguments that make such a block; of those added later only what is not as usual."""
    settings: dict[str, object] = {
        "in_channels": block.in_channels,
        "inter_channels": block.inter_channels,
        "instantiation": block.instantiation,
        "sub_sample": block.sub_sample,
        "use_scale": block.use_scale,
        "norm": _kind_of(block.norm),
    }
    if block.value_channels != block.inter_channels:
        settings["value_channels"] = block.value_channels
    if block.num_heads != 1:
        settings["num_heads"] = block.num_heads
    if block.pool_size is not None:
        settings["pool_size"] = block.pool_size
    if block.pre_norm is not None:
        settings["pre_norm"] = _kind_of(block.pre_norm)
    return settings


def _kind_of(norm: nn.Module | None) -> Norm:
    """Return the setting of our block that makes such a norm."""
    if isinstance(norm, nn.GroupNorm) and (name_of(norm) != "group" or norm.eps != 1e-5):
        return GroupNormOf(norm.num_groups, norm.eps)
    return cast(Norm, name_of(norm))


def _filled(ours: Convolution | None, theirs: Convolution, factor: float = 1.0) -> Convolution:
    """Return our layer with their parameters times a factor.

    Where they have no bias ours is zero and stays zero, so that training goes on as it would have.
    """
    assert ours is not None
    ours.weight = _times(theirs.weight, factor)
    if theirs.bias is None:
        ours.bias = nn.Parameter(theirs.weight.new_zeros(theirs.out_channels), requires_grad=False)
    else:
        ours.bias = _times(theirs.bias, factor)
    return ours


def _times(parameter: Tensor, factor: float) -> nn.Parameter:
    if factor == 1 and isinstance(parameter, nn.Parameter):
        return parameter
    return nn.Parameter(parameter.detach() * factor, requires_grad=parameter.requires_grad)


def _with_weight(norm: FoundNorm, block: NonLocalNd) -> nn.Module:
    """Return the norm itself; where it has no weight and bias, one of ours with 1 and 0, which stay."""
    if norm.affine:
        return norm
    ours: nn.GroupNorm | BatchNorm
    if isinstance(norm, nn.GroupNorm):
        ours = nn.GroupNorm(norm.num_groups, norm.num_channels, norm.eps)
    else:
        ours = block._batch_norm(
            norm.num_features,
            norm.eps,
            norm.momentum,
            track_running_stats=norm.track_running_stats,
        )
    ours.to(block.W_z.weight).requires_grad_(False).train(norm.training)
    for name, statistic in norm.named_buffers():
        setattr(ours, name, statistic)
    return ours


def _with_own_norms(parts: Parts) -> Parts:
    """Return the parts with copies of the norms, whose statistics a run in train mode changes."""
    return replace(parts, norm=copy.deepcopy(parts.norm), pre_norm=copy.deepcopy(parts.pre_norm))
