"""One call of a block: the maps that queries and keys are read from, and what eq. (1) takes of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nonlocalnn.functional.geometry import Geometry, key_geometry, source_of
from nonlocalnn.functional.layers import embedded
from nonlocalnn.functional.masks import KNOWN_SIZES, key_mask_of, masks_of
from nonlocalnn.functional.norms import normalise, with_gradient_in_order
from nonlocalnn.functional.positions import flatten
from nonlocalnn.functional.splitting import KNOWN_SPLIT, group_of

# torch.fx then records each as one node, and decides only when the graph runs whether there are a context and
# masks: both are arguments of a traced block, whatever it was traced with.
for _leaf in ("flatten", "group_of", "key_geometry", "key_mask_of", "masks_of", "source_of"):
    torch.fx.wrap(_leaf)
# As is how many samples there are.
torch.fx.wrap("with_gradient_in_order")


class Call(NamedTuple):
    """The maps of one call of a block, checked.

    Args:
        queries: The map that theta reads: x, perhaps through the norm before.
        keys: The map that phi and g read; the same tensor where it is the same map.
        places: Where the positions of the queries lie.
        key_places: Where those of the keys lie, before sub-sampling.
        real: Which positions of x are real, (B, *sides); None is all, as in the next two.
        real_keys: Which of the keys' map are, before sub-sampling.
        key_mask: Which keys take part, (B * groups, M).
        sub_sample: Where keys are pooled.
        ranks: The processes that hold the other positions; None is none.
    """

    queries: Tensor
    keys: Tensor
    places: Geometry
    key_places: Geometry
    real: Tensor | None
    real_keys: Tensor | None
    key_mask: Tensor | None
    sub_sample: str | None
    ranks: dist.ProcessGroup | None


def read_call(
    places: Geometry,
    x: Tensor,
    context: Tensor | None,
    key_mask: Tensor | None,
    *,
    context_channels: int | None,
    sub_sample: str | None,
    pre_norm: nn.Module | None,
    context_norm: nn.Module | None,
) -> Call:
    """Return the maps of a call, through the norms before the projections, with their masks.

    Args:
        places: Where the positions of x lie.
        x: As the next two, what the block was called with.
        context: The map of the keys, or None for x.
        key_mask: Which positions of that map are real.
        context_channels: As the rest, of the block.
        sub_sample: Where keys are pooled.
        pre_norm: The norm before theta, phi and g.
        context_norm: That of a context, where it has one of its own.

    Raises:
        ValueError: The context, the mask or the ranks do not fit.
    """
    key_places = key_geometry(places, x, context, context_channels)
    ranks = group_of(key_places, sub_sample)
    masks = masks_of(x, context, key_mask, ranks)
    real, real_keys = masks[0], masks[1]
    queries, keys = x, x if context is None else source_of(x, context)
    if pre_norm is not None:
        own = pre_norm if context_norm is None else context_norm
        if context is None:
            queries = keys = normalise(pre_norm, x, real)
        elif real is None:
            # The masked map first: its update of running statistics is in place, and PyTorch's own batch
            # normalisation, which serves a whole map, keeps these for its backward pass.
            keys = normalise(own, keys, real_keys)
            queries = normalise(pre_norm, x, real)
        else:
            queries = normalise(pre_norm, x, real)
            keys = normalise(own, keys, real_keys)
        is_one = keys is queries
        queries = with_gradient_in_order(queries)
        keys = queries if is_one else with_gradient_in_order(keys)
    taking_part = key_mask_of(key_places, real_keys, sub_sample is not None, ranks)
    return Call(queries, keys, places, key_places, real, real_keys, taking_part, sub_sample, ranks)


def operands_of(call: Call, theta_layer: Any, phi_layer: Any, g_layer: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the queries, the keys and g, pooled and grouped; without layers the first two are the maps.

    They are one and the same tensor where that is all that they are.

    Args:
        call: The maps.
        theta_layer: As the other two, what :func:`nonlocalnn.functional.layers.embedded` takes, or None.
        phi_layer: Of the keys.
        g_layer: Of the values.
    """
    x, source, places, read = call.queries, call.keys, call.places, call.key_places
    sub_sample, key_places = call.sub_sample, read if call.sub_sample is None else read.pooled()
    if theta_layer is None or phi_layer is None:
        keys = source if sub_sample is None else read.pool_map(source, call.real_keys)
        (g,) = embedded(keys if sub_sample == "before" else source, g_layer)
        theta = places.group(flatten(x))
        phi = theta if keys is x else key_places.group(flatten(keys))
    else:
        if sub_sample == "before":
            (theta,) = embedded(x, theta_layer)
            phi, g = embedded(read.pool_map(source, call.real_keys), phi_layer, g_layer)
        elif source is x:
            theta, phi, g = embedded(x, theta_layer, phi_layer, g_layer)
        else:
            (theta,) = embedded(x, theta_layer)
            phi, g = embedded(source, phi_layer, g_layer)
        theta = places.group(theta)
        phi = key_places.group(read.pool(phi, call.real_keys) if sub_sample == "after" else phi)
    g = read.pool(g, call.real_keys) if sub_sample == "after" else g
    return theta, phi, key_places.group(g)


def check_replicas() -> None:
    """Refuse what ``nn.DataParallel`` does inside contexts, which its threads would not see.

    Raises:
        ValueError: This thread is inside :func:`nonlocalnn.real_positions` or
            :func:`nonlocalnn.split_positions`.
    """
    KNOWN_SIZES.check_replicas()
    KNOWN_SPLIT.check_replicas()
