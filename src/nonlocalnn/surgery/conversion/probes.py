"""Copies of a foreign module to run, the maps that they are run on, and what counts as the same output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.surgery.conversion.folding import private_copy
from nonlocalnn.surgery.conversion.layers import NotConvertibleError
from nonlocalnn.surgery.conversion.parts import Parts

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Probe:
    """A copy of a module in float64, and the maps on which it is compared with a block.

    Args:
        module: The copy.
        says: What it is, in words.
        shapes: Batches and sides of the maps, by their rank.
        gain: Maps are this much larger than those that give logits of a deviation of about 4.
        modes: False is eval, True train.
    """

    module: nn.Module
    says: str
    shapes: Mapping[int, tuple[tuple[int, ...], ...]]
    gain: float = 1.0
    modes: tuple[bool, ...] = (False,)

    def shapes_for(self, parts: Parts) -> tuple[tuple[int, ...], ...]:
        """Return batches and sides of maps for a module that is read as these parts."""
        shapes = self.shapes if parts.w_f is None or self.shapes is _SMALL else _CONCATENATED
        return shapes[parts.block._num_sides]


@dataclass(frozen=True)
class Run:
    """A map, and what a module makes of it by mode."""

    x: Tensor
    outputs: dict[bool, Tensor] = field(default_factory=dict)


# Different primes, so that no two sides are confused, and odd, so that pools floor.
_SMALL = {1: ((2, 11),), 2: ((2, 5, 7),), 3: ((2, 3, 5, 7),)}
# Windows, local neighbourhoods, pools of large maps and the best 64 keys do nothing on a map that is too
# small, or that they do not divide: so one map has more than 1024 positions and sides that usual windows
# divide, and one has odd sides, multiples of 7.
_LARGE = {
    1: ((1, 1536), (1, 315)),
    2: ((1, 32, 48), (1, 21, 35)),
    3: ((1, 4, 16, 24), (1, 5, 7, 9)),
}
_OWN = {1: ((1, 256),), 2: ((1, 16, 16),), 3: ((1, 4, 8, 8),)}
# Theirs hold a tensor of all pairs times all channels for a concatenation: gigabytes on the maps above.
_CONCATENATED = {1: ((1, 128),), 2: ((1, 8, 16),), 3: ((1, 2, 8, 8),)}
_TOLERANCE = 1e-5
# Modules that compute a softmax or a norm in float32 round large logits by more.
_TOLERANCE_OF_LARGE = 1e-3


def on_cpu(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in float64; what is on the meta device gets memory without values.

    Raises:
        NotConvertibleError: It cannot be copied, or a tensor that decides what it computes has no values.
    """
    lost = [name for name, tensor in _kept(module) if tensor.is_meta]
    if lost:
        raise NotConvertibleError(
            f"what its {', '.join(lost)} does cannot be seen on the meta device: load its values before"
        )
    try:
        copied = private_copy(module)
        copied._apply(lambda each: torch.empty_like(each, device="cpu") if each.is_meta else each.cpu())
        return copied.double()
    except Exception as error:
        raise NotConvertibleError(f"it cannot be copied: {error}") from error


def first_probe(own: nn.Module) -> Probe:
    """Return the probe that tells readings apart: small, as most of them are wrong."""
    # A factor near 0 would hide the rest.
    module = _randomized(own, seed=0, factor=1.0, gain=1.0)
    return Probe(module, "with random weights", _SMALL, modes=(False, True))


def further_probes(own: nn.Module, has_values: bool) -> Iterator[Probe]:
    """Yield the probes that the one reading must pass too.

    Args:
        own: The copy with the module's own weights.
        has_values: Whether these weights are more than memory.
    """
    if has_values:
        # The one thing that is sure to matter; but where a factor is 0, this shows nothing.
        yield Probe(own, "with its own weights", _OWN)
    # A negative and large factor tells gamma from relu(gamma), |gamma| and clamped ones, and larger weights
    # and maps bring logits to where they would be clamped.
    module = _randomized(own, seed=2, factor=-100.0, gain=2.0)
    yield Probe(module, "with other random weights", _LARGE, gain=2.0)


def _kept(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what keeps its values in every probe: a mask, a shift, a switch, and whatever is no weight."""
    for prefix, part in module.named_modules():
        statistics = _STATISTICS if isinstance(part, _BatchNorm) else ()
        for name, tensor in part.named_buffers(recurse=False):
            if name not in statistics:
                yield f"{prefix}.{name}".removeprefix("."), tensor
    for name, parameter in module.named_parameters():
        if not parameter.is_floating_point():
            yield name, parameter


@torch.no_grad()
def _randomized(own: nn.Module, *, seed: int, factor: float, gain: float) -> nn.Module:
    """Return a copy with random weights and statistics; all else is the module's own.

    Args:
        own: In float64, on the CPU.
        seed: Of the random numbers, which are not the user's.
        factor: By which single numbers are multiplied, drawn from 1/2 to 3/2.
        gain: By which weights are multiplied.
    """
    probe = private_copy(own)
    generator = torch.Generator().manual_seed(seed)
    for value in probe.parameters():
        if not value.is_floating_point():
            continue
        if value.numel() == 1:
            value.uniform_(0.5, 1.5, generator=generator).mul_(factor)
        else:
            # Logits then have a deviation of about 4 at any width: no softmax is one-hot or uniform.
            value.normal_(0, gain * max(value.shape[0], 1) ** -0.25, generator=generator)
    for part in probe.modules():
        if isinstance(part, _BatchNorm) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, part.num_features**-0.25, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    return probe


@torch.no_grad()
def run(probe: Probe, parts: Parts, shape: tuple[int, ...]) -> Run | NotConvertibleError:
    """Return what a module makes of a random map, or why it makes none, or another one in a second call.

    Args:
        probe: The module, and in which modes it is run.
        parts: A reading of it, which says how wide its maps are.
        shape: Its batch and sides.
    """
    generator = torch.Generator().manual_seed(1)
    width = parts.g.in_channels
    x = torch.randn(shape[0], width, *shape[1:], generator=generator, dtype=torch.float64, device="cpu")
    x *= 2 * probe.gain * width**-0.5
    # A synchronised batch norm in train mode would wait for the other processes.
    waits = any(isinstance(part, nn.SyncBatchNorm) for part in probe.module.modules())
    made = Run(x)
    for mode in probe.modes:
        if mode and waits:
            continue
        module = probe.module.train(mode)
        try:
            theirs = module(x.clone())
            # Eval mode first: train mode changes statistics.
            again = theirs if mode or len(probe.modes) == 1 else module(x.clone())
        except Exception as error:
            return NotConvertibleError(f"it fails on an input of shape {tuple(x.shape)}: {error}")
        if not isinstance(theirs, Tensor) or theirs.shape != x.shape:
            return NotConvertibleError("it does not return one map of the shape of its input")
        if not is_near(again, theirs):
            return NotConvertibleError("it returns something else when it is called again with the same map")
        made.outputs[mode] = theirs.double()
    return made


@torch.no_grad()
def output(made: Run, block: NonLocalNd, mode: bool) -> Tensor:
    """Return what a block makes of the map of a run."""
    return block.train(mode)(made.x)


def is_near(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two outputs of the first probe are the same."""
    return torch.allclose(ours, theirs, rtol=_TOLERANCE, atol=_TOLERANCE)


def adds_alike(made: Run, ours: Tensor) -> bool:
    """Return whether a block adds to the map of a run in eval mode what the module does.

    What is added can be much smaller than the map, and with large logits it is rounded more.
    """
    theirs = made.outputs[False]
    added, largest = float((theirs - made.x).abs().max()), float(made.x.abs().max())
    # Weights of the module's own may be infinite or undefined, and so is what both make of them.
    if not math.isfinite(added):
        return torch.allclose(ours, theirs, equal_nan=True)
    return bool((ours - theirs).abs().max() <= _TOLERANCE_OF_LARGE * added + 1e-6 * largest)
