"""A block of ours from the layers of another library's module, and the proof that both compute the same."""

from __future__ import annotations

import copy
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional import SOFTMAX_INSTANTIATIONS, Instantiation
from nonlocalnn.functional.layers import BatchNorm, Convolution
from nonlocalnn.surgery.conversion.layers import NotConvertibleError
from nonlocalnn.surgery.conversion.layouts import Parts, read

# Different primes, so that no two sides are confused, and odd, so that pools floor.
_SIDES = {1: (11,), 2: (5, 7), 3: (3, 5, 7)}
_TOLERANCE = 1e-5


def build_block(module: nn.Module) -> tuple[str, NonLocalNd]:
    """Return the library that a module comes from, and a block of ours with its parameters.

    Names of layers do not prove what is computed with them. So a copy with random weights, in float64, and a
    block made of the copy are run side by side; a zero-initialised module would equal any block.

    Raises:
        NotConvertibleError: A block of ours has no place for one of its layers or settings, or computes
            something else.
    """
    parts = read(module)
    for instantiation in parts.instantiations:
        probe = _randomized(module)
        if _agree(probe, build(read(probe), instantiation)):
            block = build(parts, instantiation)
            for layer in (block, block.theta, block.phi, block.g, block.W_z):
                if layer is not None:
                    layer.training = module.training
            return parts.source, block
    tried = " or ".join(repr(each) for each in parts.instantiations)
    raise NotConvertibleError(f"it has the layers of {tried} and computes something else")


def build(parts: Parts, instantiation: Instantiation) -> NonLocalNd:
    """Return a block whose parameters and norm are those of ``parts``, the same objects wherever possible."""
    inter_channels = parts.g.out_channels
    is_scaled = instantiation in SOFTMAX_INSTANTIATIONS and parts.scale != 1
    # On the meta device nothing is drawn: neither time nor the state of the random numbers is spent.
    with torch.device("meta"):
        block = parts.block(
            parts.g.in_channels,
            inter_channels=inter_channels,
            instantiation=instantiation,
            sub_sample=parts.sub_sample,
            use_scale=is_scaled,
            norm=None if parts.norm is None else "batch",
        )
    # Our block scales by inter_channels**-0.5. Logits are linear in theta, which takes what is left over.
    factor = parts.scale * math.sqrt(inter_channels) if is_scaled else 1.0
    # The same Parameter objects keep their type, device, tying and requires_grad without further code.
    if parts.theta is not None and parts.phi is not None:
        block.theta = _filled(block.theta, parts.theta, 1.0 if math.isclose(factor, 1) else factor)
        block.phi = _filled(block.phi, parts.phi)
    block.g = _filled(block.g, parts.g)
    block.W_z = _filled(block.W_z, parts.W_z)
    if parts.norm is not None:
        block.norm = _with_weight(parts.norm, block)
    if parts.w_f is not None:
        w_f = parts.w_f.weight
        block.w_f = nn.Parameter(w_f.detach().flatten().clone(), requires_grad=w_f.requires_grad)
    return block


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


def _with_weight(norm: _BatchNorm, block: NonLocalNd) -> BatchNorm:
    """Return the norm itself; where it has no weight and bias, one of ours with 1 and 0, which stay."""
    if norm.affine:
        return cast(BatchNorm, norm)  # or a synchronised one, which has the same parameters
    weight = block.W_z.weight
    ours = block._batch_norm(
        norm.num_features,
        norm.eps,
        norm.momentum,
        track_running_stats=norm.track_running_stats,
        device=weight.device,
        dtype=weight.dtype,
    )
    ours.requires_grad_(False).train(norm.training)
    for name, statistic in norm.named_buffers():
        setattr(ours, name, statistic)
    return ours


def _randomized(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float64 with random weights and statistics."""
    try:
        probe = copy.deepcopy(module).to_empty(device="cpu").double()
    except Exception as error:
        raise NotConvertibleError(f"it cannot be copied: {error}") from error
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in probe.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point():
                # Logits then have a deviation of about 4 at any width: no softmax is one-hot or uniform.
                value.normal_(0, max(value.shape[0], 1) ** -0.25 if value.dim() else 1.0, generator=generator)
            else:
                value.zero_()
    return probe


def _agree(probe: nn.Module, block: NonLocalNd) -> bool:
    """Return whether both give the same for random maps, in eval and in train mode."""
    generator = torch.Generator().manual_seed(1)
    sides = _SIDES[block._num_sides]
    x = torch.randn(2, block.in_channels, *sides, generator=generator, dtype=torch.float64, device="cpu")
    x *= 2 * block.in_channels**-0.5
    # A synchronised batch norm in train mode would wait for the other processes.
    trains = not isinstance(block.norm, nn.SyncBatchNorm)
    with torch.no_grad():
        for mode in (False, True) if trains else (False,):
            try:
                theirs = probe.train(mode)(x.clone())
            except Exception as error:
                raise NotConvertibleError(
                    f"it fails on an input of shape {tuple(x.shape)}: {error}"
                ) from error
            if not isinstance(theirs, Tensor) or theirs.shape != x.shape:
                raise NotConvertibleError("it does not return one map of the shape of its input")
            ours = block.train(mode)(x)
            if not torch.allclose(ours, theirs.to(ours.dtype), rtol=_TOLERANCE, atol=_TOLERANCE):
                return False
    return True
