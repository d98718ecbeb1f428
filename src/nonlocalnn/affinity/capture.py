"""Recording the affinity of a running model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn._errors import near_miss
from nonlocalnn.affinity.detectors import PhotographTracer
from nonlocalnn.affinity.grids import GridTracer, check_position
from nonlocalnn.affinity.maps import AffinityMap
from nonlocalnn.affinity.rows import Query
from nonlocalnn.blocks import NonLocalNd, nonlocal_blocks
from nonlocalnn.functional.geometry import Geometry
from nonlocalnn.functional.layers import WRAPPER_WORDS


class _Maps(dict[str, AffinityMap]):
    """Maps by the names of their blocks; a name that is not there says which are."""

    def __missing__(self, name: object) -> AffinityMap:
        # Which blocks a network has is what people ask maps for most often, and mistype.
        there = (
            f"there are maps of {', '.join(self)}" if self else "no block has run yet: run the model first"
        )
        raise KeyError(f"there is no map of {name!r}{near_miss(str(name), self)}; {there}")


@contextmanager
def capture_affinity(
    model: nn.Module, blocks: Sequence[str] | None = None, queries: Sequence[Query] | None = None
) -> Iterator[Mapping[str, AffinityMap]]:
    """Record what each position attends to while the model runs.

    Each block's queries and keys are computed once more from the input it sees, next to its own forward
    pass, whose engine and output stay as they are. A second run replaces the maps of the first. No hook is
    left behind. It works in train mode, under autocast, and on each rank of a distributed run, whose maps
    are those of the rank's own samples. A model that was compiled runs as written meanwhile.

    Detectors of torchvision and of ours bring a photograph to a size and pad it: where they are given one,
    the maps of blocks in their backbones lie over it as it was given, and know nothing of the padding. Blocks
    in their heads work on regions, each a sample of the map, and count the positions of a region;
    :meth:`~nonlocalnn.affinity.rows.AffinityRows.of_region` has the map of each over its photograph.

    The keys of a block that reads a context are places of that context. Where these lie in the input is said
    as if the context had been made from it. Of several heads a map is the mean;
    :meth:`~nonlocalnn.affinity.rows.AffinityRows.of_head` has the map of each. Keys on padding weigh 0.

    Args:
        model: Any module that holds non-local blocks.
        blocks: Names of the blocks to record, as in ``model.named_modules()``; None is all.
        queries: Places in the blocks' maps, (n,), (y, x) or (t, y, x), to record only these; None is all.

    Yields:
        A mapping from block names to :class:`AffinityMap`, in the order in which the blocks ran; it can be
        read after the context has ended. A KeyError of another name lists the names there are.

    Raises:
        ValueError: The model has no non-local block, or none of a name asked for, or ``queries`` is empty;
            while the model runs, a block has no such query, or its map no numbers: it is on the meta device
            or moved away between calls, or inside a transform of torch.func.

    Memory:
        Queries and keys of the blocks recorded, O((N + M) D) each on the CPU, and the model's input.

    Source:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, figure 3.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_digits").eval()
        >>> with capture_affinity(model) as maps:
        ...     _ = model(torch.rand(1, 1, 28, 28))
        >>> maps["nl_1"].affinity.shape, maps["nl_1"].query_shape, maps["nl_1"].key_shape
        (torch.Size([1, 196, 49]), (14, 14), (7, 7))
        >>> maps["nl_1"].rows([(3, 4)]).shape, maps["nl_1"].grid.box(3, 4)
        (torch.Size([1, 1, 7, 7]), ((6.0, 8.0), (8.0, 10.0)))
    """
    if queries is not None and len(queries) == 0:
        raise ValueError("queries must name at least one place; None records all")
    maps = _Maps()
    tracer, photographs = GridTracer(), PhotographTracer()

    def record(
        name: str,
        block: NonLocalNd,
        x: Tensor,
        context: Tensor | None = None,
        *,
        key_mask: Tensor | None = None,
    ) -> None:
        maps.pop(name, None)
        maps[name] = photographs.placed(name, _map_of(block, x, context, key_mask, tracer, queries))

    def hook_for(name: str) -> Callable[[Any, Any, Any], None]:
        return lambda block, inputs, named: record(name, block, *inputs, **named)

    found = find_blocks(model, blocks)
    with ExitStack() as stack:
        stack.enter_context(without_compiled_code())
        # A block's output has its input's sides; and hooks on its layers would change how it is computed.
        stack.enter_context(tracer.follow(model, without=find_blocks(model, None).values()))
        stack.enter_context(photographs.follow(model))
        for name, block in found.items():
            hook = block.register_forward_pre_hook(hook_for(name), with_kwargs=True)
            stack.callback(hook.remove)
        yield maps


def without_compiled_code() -> AbstractContextManager[object]:
    """Return a context in which compiled models run as written: what was compiled before sees no new hook."""
    # Whoever compiled has loaded the compiler; all others are spared the seconds that it takes.
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def find_blocks(model: nn.Module, names: Sequence[str] | None) -> dict[str, NonLocalNd]:
    """Return the non-local blocks of these names, or all, in the order of ``model.named_modules()``.

    Names are those of the model itself, without the words that torch.compile, FSDP and activation
    checkpointing put into them.

    Raises:
        ValueError: There is none, or none of a name.
    """
    found = {
        ".".join(word for word in name.split(".") if word not in WRAPPER_WORDS): block
        for name, block in nonlocal_blocks(model).items()
    }
    if not found:
        raise ValueError("the model has no non-local block, so that there is no affinity to record")
    for name in () if names is None else names:
        if name not in found:
            raise ValueError(
                f"the model has no non-local block {name!r}{near_miss(name, found)}; "
                f"it has {', '.join(found)}"
            )
    return found if names is None else {name: found[name] for name in names}


@torch.no_grad()
def _map_of(
    block: NonLocalNd,
    x: Tensor,
    context: Tensor | None,
    key_mask: Tensor | None,
    tracer: GridTracer,
    queries: Sequence[Query] | None,
) -> AffinityMap:
    is_empty = x.is_meta or (block.w_f is not None and block.w_f.is_meta)
    if is_empty or torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise ValueError(
            "a map to record must have numbers: run the model with samples and weights in memory, outside of "
            "the transforms of torch.func, while capture_affinity is on"
        )
    with _undisturbed(block, x):
        theta, phi, _, mask = block.operands(x, context, key_mask=key_mask)
    source = x if context is None else context
    sides, key_sides = tuple(x.shape[2:]), tuple(source.shape[2:])
    grid = tracer.grid(sides)
    window = None if block.sub_sample is None else Geometry(key_sides, block.extent, block.pool_size).kernel
    recorded = None if queries is None else tuple(check_position(query, sides) for query in queries)
    # A detector that finds nothing runs its heads on no region at all.
    groups = (x.shape[0], len(phi) // x.shape[0] if x.shape[0] else 1)
    theta = Geometry(sides, block.extent).ungroup(theta, x.shape[0])
    if recorded is not None:
        theta = theta.unflatten(1, sides)[(slice(None), *torch.tensor(recorded).unbind(1))]
    return AffinityMap(
        instantiation=block.instantiation,
        extent=block.extent,
        grid=grid,
        key_grid=tracer.grid(key_sides).pooled(block.key_sides(key_sides), window),
        theta=_kept(theta, x),
        phi=_kept(phi, source).unflatten(0, groups),
        w_f=None if block.w_f is None else block.w_f.detach().to("cpu", copy=True),
        scale=block.scale,
        queries=recorded,
        num_heads=block.num_heads,
        key_mask=None if mask is None else mask.cpu().unflatten(0, groups),
        input=tracer.input,
    )


@contextmanager
def _undisturbed(block: NonLocalNd, x: Tensor) -> Iterator[None]:
    """Keep the state of layers that others put into a block: statistics, power iterations, random numbers.

    So the block's own pass, which follows, draws the numbers that are drawn here.
    """
    owners = [module for module in block.modules() if module is not block.norm and module._buffers]
    kept = [(module, module._buffers) for module in owners]
    for module in owners:
        module._buffers = {
            name: None if buffer is None else buffer.clone() for name, buffer in module._buffers.items()
        }
    devices = [] if x.device.type == "cpu" else [x.device]
    try:
        with torch.random.fork_rng(devices, device_type="cuda" if not devices else x.device.type):
            yield
    finally:
        for module, buffers in kept:
            module._buffers = buffers


def _kept(part: Tensor, x: Tensor) -> Tensor:
    """Return a part of the map on the CPU; not a view of x, which the network may change in place."""
    is_view = part.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    return part.to("cpu", copy=is_view)
