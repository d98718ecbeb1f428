"""What a network costs: parameters, FLOPs and, of each non-local block, memory. Nothing is computed."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional import SOFTMAX_INSTANTIATIONS
from nonlocalnn.functional.concatenation import _RUN_LENGTH
from nonlocalnn.functional.geometry import geometry_of, key_geometry
from nonlocalnn.functional.layers import held_tensors
from nonlocalnn.functional.positions import flatten
from nonlocalnn.models import create_model

_FLOAT, _INDEX = 4, 8  # bytes


@dataclass(frozen=True)
class BlockCost:
    r"""What one run of a non-local block costs.

    Multiply-adds are those of matrix products; FLOPs are twice as many. Sums, exponentials, pooling, biases
    and normalisation are left out. C is the block's width, E that of g, D that of theta and phi (C for the
    Gaussian), H the heads, P and Q the positions of one sample before and after sub-sampling, N and M those
    that see each other: P = groups N, Q = groups M. With a context Q is of its positions, R before
    sub-sampling, of C' channels; else R is P and C' is C.

    Multiply-adds of one sample with the affinity in memory; phi and g are projected from K positions, Q for
    ``sub_sample="before"`` and R otherwise:

    - g and W_z: K C' E + P E C.
    - theta and phi: P C D + K C' D; the Gaussian has neither.
    - Gaussian forms and dot product: P M (D + E).
    - concatenation: P D + Q D for the two halves of w_f, and P M E.

    Here they are the same, but for

    - dot product: (P + Q) D E / H, as theta (phi^T g).
    - concatenation: w_f is folded into theta, P C H, and phi, K C' H, with C D and C' D for the whole batch;
      only sub-sampled "after" phi is projected, R C' D + Q D. Then (L + 2) P E + 2 Q E with runs of L = 16
      keys.
      Sorting, prefix sums and filling up to whole runs are left out.

    The Gaussian of a map with itself, ``sub_sample=None``, has symmetric logits of which the CPU computes
    half; that is not taken off.

    Bytes are those of training in float32 with a contiguous input, whatever type the model has.
    ``memory_bytes`` is what the block holds between its two passes beyond its input and output, parameters
    and vectors of C numbers, in numbers of 4 bytes a sample:

    - norm: its input, P C. ``pre_norm``: its output, P C, and R C' of a context.
    - ``sub_sample="after"``: g and phi before pooling, R E + R D (the Gaussian has x for phi), and the pooled
      places in 8 bytes a number, Q E + Q D.
    - ``sub_sample="before"``: the pooled map, Q C', and the places in 8 bytes, Q C'.
    - Gaussian forms: theta, phi, g and y, P D + Q D + Q E + P E, and the log-sum-exp of each query, P H (and
      y twice where ``extent="time"`` or several heads move it). The Gaussian's theta and phi are views of
      maps where phi is not pooled after and there are not several groups of several samples; where phi is
      not pooled at all, and there is no context, it is its theta.
    - dot product: theta, phi, g and y, P D + Q D + Q E + P E, and phi^T g, D E / H a group.
    - concatenation: two scalars a head, g and y, P H + Q H + Q E + P E, and for ``sub_sample="after"`` phi,
      Q D. To that is added what its backward pass builds for each head: a table of L + 2 rows of E / H for
      each run of L queries and of L keys, and for each place in a run L + 2 indices of 8 bytes and L sums.

    Masks are not counted: a number a key. Gradients and copies that live for the length of one kernel are
    left out. So are the weights that ``engine="auto"`` keeps where they are small and that is faster.

    ``affinity_bytes`` is a single N x M tensor for each group, the least that a materialised implementation
    keeps *on top of* theta, phi, g, y, what is pooled and the norm's input; the Gaussian forms hold a second
    one, the logits, while the first is made. ``memory_bytes`` counts all that is held. Small blocks can hold
    more than their affinity would take: what is saved is the affinity.

    Args:
        name: As in ``model.named_modules()``.
        instantiation: The block's pairwise function.
        input_shape: What it was given, (B, C, \*sides).
        num_groups: Groups of positions a sample; more than 1 only with an ``extent``.
        num_queries: N, positions of one group.
        num_keys: M, positions of one group after sub-sampling.
        num_parameters: Its parameters.
        flops: 2 x multiply-adds of one forward pass as computed here.
        materialised_flops: The same with the affinity in memory, which papers report.
        affinity_bytes: 4 B groups N M.
        memory_bytes: All that is held here, see above.
    """

    name: str
    instantiation: str
    input_shape: tuple[int, ...]
    num_groups: int
    num_queries: int
    num_keys: int
    num_parameters: int
    flops: int
    materialised_flops: int
    affinity_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Cost:
    """What a network costs for one input; ``str`` is a table.

    Args:
        input_shape: What the network was given.
        num_parameters: All parameters, frozen ones too.
        flops: 2 x multiply-adds of one forward pass: convolutions and matrix products, and the blocks by
            :class:`BlockCost`.
        materialised_flops: The same with every affinity in memory.
        affinity_bytes: Sum over the blocks.
        memory_bytes: Sum over the blocks; the rest of the network is not in it.
        blocks: The non-local blocks in the order in which they ran, one entry a run.
    """

    input_shape: tuple[int, ...]
    num_parameters: int
    flops: int
    materialised_flops: int
    affinity_bytes: int
    memory_bytes: int
    blocks: tuple[BlockCost, ...]

    def __str__(self) -> str:
        head = ("", "input", "N", "M", "M parameters", "GFLOPs", "materialised", "affinity MiB", "ours MiB")
        rows = [
            (
                f"{block.name or 'block'} ({block.instantiation})",
                "x".join(map(str, block.input_shape)),
                f"{block.num_queries:,}",
                f"{block.num_keys:,}",
                *_in_units(block),
            )
            for block in self.blocks
        ]
        # What lies outside costs the same with and without affinities in memory.
        outside_flops = self.flops - sum(block.flops for block in self.blocks)
        rows.append(("outside the blocks", "", "", "", "", *[f"{outside_flops / 1e9:.4f}"] * 2, "", ""))
        rows.append(("in all", "x".join(map(str, self.input_shape)), "", "", *_in_units(self)))
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (head, *rows)
        )


def cost(model: nn.Module | str, input_shape: tuple[int, ...]) -> Cost:
    """Count what one forward pass of a network costs, from shapes alone.

    A copy without data runs on the meta device, in eval mode and without hooks: ``model`` stays as it is
    wherever it lies, no random number is drawn, and time and memory do not depend on the input's size.

    Of a detector of torchvision or of ours that has heads of regions, what it does with images that have
    been brought to their size is counted: body, pyramid and proposals, and its heads on as many regions as
    they look at most, by default 1,000 boxes and 100 masks an image. Choosing among boxes is not counted.

    Args:
        model: Any network that takes one floating-point tensor, or a name for
            :func:`nonlocalnn.create_model`. What it computes on a device that it names itself cannot be
            counted.
        input_shape: Shape of the input with the batch, (B, C, H, W) for images.

    Returns:
        Parameters, FLOPs and memory, of the whole and of each block.

    Raises:
        ValueError: ``input_shape`` is no tuple of whole numbers of at least 1, the name is unknown, or a
            block refuses its input. A network that does not take this shape raises its own error.
        TypeError: ``model`` is neither a module nor a name.

    Example:
        >>> total = cost("nl_digits", (1, 1, 28, 28))
        >>> [(block.name, block.num_queries, block.num_keys) for block in total.blocks]
        [('nl_1', 196, 49), ('nl_2', 49, 9)]
        >>> total.num_parameters, total.flops
        (401530, 17773952)
    """
    if not isinstance(input_shape, tuple) or not all(map(_is_count, input_shape)):
        raise ValueError(
            "input_shape must be a tuple of whole numbers of at least 1, as in (1, 3, 224, 224); "
            f"got {input_shape!r:.80}"
        )
    if isinstance(model, str):
        with torch.device("meta"):
            model = create_model(model)
    elif not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module or a name of list_models(); got {type(model).__name__}")
    blocks, outside_flops = _run_without_data(model, tuple(input_shape))
    return Cost(
        input_shape=tuple(input_shape),
        num_parameters=_num_parameters(model),
        flops=outside_flops + sum(block.flops for block in blocks),
        materialised_flops=outside_flops + sum(block.materialised_flops for block in blocks),
        affinity_bytes=sum(block.affinity_bytes for block in blocks),
        memory_bytes=sum(block.memory_bytes for block in blocks),
        blocks=tuple(blocks),
    )


def _run_without_data(model: nn.Module, input_shape: tuple[int, ...]) -> tuple[list[BlockCost], int]:
    """Return the costs of the blocks and the FLOPs outside them."""
    # It brings Triton along, which importing the library must not.
    from torch.utils.flop_counter import FlopCounterMode

    # Whatever deepcopy finds in the memo it takes for the copy: no data is copied, shared weights stay so.
    # What a forward pass left in a module is not copied either: it belongs to an autograd graph.
    memo = {id(each): _without_data(each) for module in model.modules() for each in held_tensors(module)}
    copied = copy.deepcopy(model, memo).eval()
    blocks: list[BlockCost] = []
    for name, module in copied.named_modules():
        # Hooks are for real inputs; running them here would show.
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        if isinstance(module, NonLocalNd):
            # A counter of FLOPs does not know the blocks' own operator.
            module.forward = functools.partial(_record, blocks, name, module)  # type: ignore[method-assign]
    dtypes = [each.dtype for each in copied.parameters() if each.is_floating_point()]
    dtype = dtypes[0] if dtypes else torch.float32
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        x = torch.empty(input_shape, dtype=dtype)
        (_detect if _has_regions(copied) else _call)(copied, x)
    return blocks, counter.get_total_flops()


def _call(model: Any, x: Tensor) -> None:
    model(x)


def _has_regions(model: nn.Module) -> bool:
    """Return whether a network is a detector with heads of regions, by torchvision's names for its parts."""
    return {"transform", "backbone", "rpn", "roi_heads"} <= model._modules.keys()


def _detect(model: Any, x: Tensor) -> None:
    """Run the parts of a detector: which regions there are depends on values, and their number does not."""
    maps = model.backbone(x)
    maps = {"0": maps} if isinstance(maps, Tensor) else maps
    model.rpn.head(list(maps.values()))
    channels, regions = next(iter(maps.values())).shape[1], model.roi_heads
    number = x.shape[0] * model.rpn._post_nms_top_n["testing"]
    side = regions.box_roi_pool.output_size
    regions.box_predictor(regions.box_head(x.new_empty(number, channels, *side)))
    number = x.shape[0] * regions.detections_per_img
    for kind in ("mask", "keypoint"):
        if getattr(regions, f"{kind}_head", None) is not None:
            side = getattr(regions, f"{kind}_roi_pool").output_size
            head = getattr(regions, f"{kind}_head")(x.new_empty(number, channels, *side))
            getattr(regions, f"{kind}_predictor")(head)


def _record(
    blocks: list[BlockCost],
    name: str,
    block: NonLocalNd,
    x: Tensor,
    context: Tensor | None = None,
    *,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Stand in for the block's forward pass: refuse what it refuses, return its output's shape."""
    places = geometry_of(x, block.in_channels, block._num_sides, block.extent, block.pool_size)
    places.group(flatten(x))
    key_geometry(places, x, context, block.context_channels)
    shape = tuple(x.shape)
    blocks.append(_block_cost(name, block, shape, shape if context is None else tuple(context.shape)))
    return torch.empty_like(x)


def _block_cost(
    name: str, block: NonLocalNd, shape: tuple[int, ...], key_shape: tuple[int, ...]
) -> BlockCost:
    batch, sides = shape[0], shape[2:]
    group_sides = block.group_sides(sides)
    num_groups = math.prod(sides) // math.prod(group_sides)
    num_keys = math.prod(block.key_sides(key_shape[2:])) // num_groups
    sizes = _Sizes(
        B=batch,
        C=shape[1],
        K=key_shape[1],
        D=shape[1] if block.instantiation == "gaussian" else block.inter_channels,
        E=block.value_channels,
        H=block.num_heads,
        N=math.prod(group_sides),
        M=num_keys,
        R=batch * math.prod(key_shape[2:]),
        groups=num_groups,
        has_context=key_shape is not shape,
    )
    return BlockCost(
        name=name,
        instantiation=block.instantiation,
        input_shape=shape,
        num_groups=num_groups,
        num_queries=sizes.N,
        num_keys=sizes.M,
        num_parameters=_num_parameters(block),
        flops=2 * _multiply_adds(block, sizes),
        materialised_flops=2 * _materialised_multiply_adds(block, sizes),
        affinity_bytes=_FLOAT * batch * num_groups * sizes.N * sizes.M,
        memory_bytes=_memory_bytes(block, sizes),
    )


@dataclass(frozen=True)
class _Sizes:
    """Sizes as in :class:`BlockCost`, C' as K; P, Q and R are those of the whole batch."""

    B: int
    C: int
    K: int
    D: int
    E: int
    H: int
    N: int
    M: int
    R: int
    groups: int
    has_context: bool

    @property
    def P(self) -> int:
        return self.B * self.groups * self.N

    @property
    def Q(self) -> int:
        return self.B * self.groups * self.M


def _projected_keys(block: NonLocalNd, s: _Sizes) -> int:
    return s.Q if block.sub_sample == "before" else s.R


def _multiply_adds(block: NonLocalNd, s: _Sizes) -> int:
    """Return the multiply-adds of one forward pass of the batch."""
    keys = _projected_keys(block, s)
    outer = keys * s.K * s.E + s.P * s.E * s.C
    if block.instantiation == "concatenation":
        phi = s.R * s.K * s.D + s.Q * s.D if block.sub_sample == "after" else keys * s.K * s.H + s.K * s.D
        theta = s.P * s.C * s.H + s.C * s.D
        return outer + theta + phi + (_RUN_LENGTH + 2) * s.P * s.E + 2 * s.Q * s.E
    embeddings = 0 if block.instantiation == "gaussian" else s.P * s.C * s.D + keys * s.K * s.D
    if block.instantiation in SOFTMAX_INSTANTIATIONS:
        return outer + embeddings + s.P * s.M * (s.D + s.E)
    return outer + embeddings + (s.P + s.Q) * s.D * s.E // s.H


def _materialised_multiply_adds(block: NonLocalNd, s: _Sizes) -> int:
    """Return the multiply-adds of one forward pass of the batch with the affinity in memory."""
    keys = _projected_keys(block, s)
    outer = keys * s.K * s.E + s.P * s.E * s.C
    embeddings = 0 if block.instantiation == "gaussian" else s.P * s.C * s.D + keys * s.K * s.D
    if block.instantiation == "concatenation":
        return outer + embeddings + (s.P + s.Q) * s.D + s.P * s.M * s.E
    return outer + embeddings + s.P * s.M * (s.D + s.E)


def _memory_bytes(block: NonLocalNd, s: _Sizes) -> int:
    """Return the bytes of :class:`BlockCost`, for the batch."""
    numbers, indices = 0 if block.norm is None else s.P * s.C, 0
    if block.pre_norm is not None:
        numbers += s.P * s.C + (s.R * s.K if s.has_context else 0)
    if block.sub_sample == "after":
        numbers += s.R * s.E + (0 if block.phi is None else s.R * s.D)
        indices += s.Q * (s.E + s.D)
    elif block.sub_sample == "before":
        numbers += s.Q * s.K
        indices += s.Q * s.K
    if block.instantiation in SOFTMAX_INSTANTIATIONS:
        numbers += _softmax_numbers(block, s)
    elif block.instantiation == "dot_product":
        numbers += (s.P + s.Q) * (s.D + s.E) + s.B * s.groups * s.D * s.E // s.H
    else:
        numbers += (s.P + s.Q) * (s.H + s.E) + (s.Q * s.D if block.sub_sample == "after" else 0)
        rows = _RUN_LENGTH + 2
        runs = s.B * s.groups * s.H * (s.N // _RUN_LENGTH + 1 + s.M // _RUN_LENGTH + 1)
        numbers += runs * rows * s.E // s.H + runs * _RUN_LENGTH * _RUN_LENGTH
        indices += runs * _RUN_LENGTH * rows
    return _FLOAT * numbers + _INDEX * indices


def _softmax_numbers(block: NonLocalNd, s: _Sizes) -> int:
    """Return the numbers of theta, phi, g and y that are kept; the Gaussian's can be views of a map."""
    # Groups of several samples are one batch, which a view of a map cannot be; heads of them can.
    copies_x = s.groups > 1 and s.B > 1
    theta = s.P * s.D if block.theta is not None or copies_x else 0
    is_theta = block.theta is None and block.sub_sample is None and not s.has_context
    holds_phi = block.phi is not None or copies_x or block.sub_sample == "after"
    phi = s.Q * s.D if holds_phi and not is_theta else 0
    # y is kept as the engine made it, and by W_z in the order of x; and a log-sum-exp.
    copies_y = block.extent == "time" or s.H > 1
    return theta + phi + (s.P * (1 + copies_y) + s.Q) * s.E + s.P * s.H


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _without_data(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _in_units(counted: BlockCost | Cost) -> tuple[str, ...]:
    return (
        f"{counted.num_parameters / 1e6:.4f}",
        f"{counted.flops / 1e9:.4f}",
        f"{counted.materialised_flops / 1e9:.4f}",
        f"{counted.affinity_bytes / 2**20:.3f}",
        f"{counted.memory_bytes / 2**20:.3f}",
    )
