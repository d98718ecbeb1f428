"""A block with heads, a context, masks and any norms, written sample by sample, group by group, key by key.

It is as slow as it looks, shares nothing with the library but parameters, and crops where the library masks.
"""

import itertools

import torch
from torch.nn import functional as F

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_WINDOWS = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}


def padded_block(block, x, context=None, sizes=None, key_sizes=None):
    """Return z; what lies beyond a sample's ``sizes`` is NaN there.

    Args:
        block: Ours; its norms must not add up over samples (layer, group, none, or batch in eval mode).
        x: The padded map.
        context: The map of the keys; None is x.
        sizes: Real sides of each sample of x, from the beginning of each side.
        key_sizes: The same of the context.
    """
    z = torch.full_like(x, torch.nan)
    for sample in range(x.shape[0]):
        own = x.shape[2:] if sizes is None else sizes[sample]
        place = (slice(sample, sample + 1), slice(None), *map(slice, own))
        if context is None:
            z[place] = _whole(block, x[place], x[place], block.pre_norm)
        else:
            others = context.shape[2:] if key_sizes is None else key_sizes[sample]
            keys = context[(place[0], place[1], *map(slice, others))]
            z[place] = _whole(block, x[place], keys, block.context_norm or block.pre_norm)
    return z


def _whole(block, x, source, norm):
    """z of maps without padding."""
    sides = x.dim() - 2
    queries = x if block.pre_norm is None else block.pre_norm(x)
    keys = source if norm is None else norm(source)
    g_keys = phi_keys = keys
    if block.sub_sample == "before":
        g_keys = phi_keys = _pool(block, keys)
    theta = _layer(block.theta, queries, sides)
    phi, g = _layer(block.phi, phi_keys, sides), _layer(block.g, g_keys, sides)
    if block.sub_sample == "after":
        phi, g = _pool(block, phi), _pool(block, g)
    y = theta.new_zeros(1, g.shape[1], *x.shape[2:])
    for group in _groups(block.extent, theta.shape[2:], phi.shape[2:]):
        of_queries, of_keys = group
        rows = [part[(0, slice(None), *of_keys)].flatten(1) for part in (phi, g)]
        found = _average(block, theta[(0, slice(None), *of_queries)].flatten(1), *rows)
        y[(0, slice(None), *of_queries)] = found.view_as(y[(0, slice(None), *of_queries)])
    z = _CONVOLVE[sides](y, block.W_z.weight, block.W_z.bias)
    return x + (z if block.norm is None else block.norm(z))


def _layer(layer, x, sides):
    return x if layer is None else _CONVOLVE[sides](x, layer.weight, layer.bias)


def _pool(block, x):
    sides = x.dim() - 2
    window = block.pool_size or ((2, 1, 1) if block.extent == "time" else _WINDOWS[sides])
    for axis, size in enumerate(window, start=2):
        size = min(size, x.shape[axis])
        count = x.shape[axis] // size
        x = x.narrow(axis, 0, count * size).unflatten(axis, (count, size)).amax(axis + 1)
    return x


def _groups(extent, sides, key_sides):
    """Yield the places of each group's queries and keys."""
    everything = [slice(None)] * len(sides)
    if extent == "spacetime":
        yield everything, everything
    elif extent == "time":
        for row, column in itertools.product(range(sides[1]), range(sides[2])):
            yield [slice(None), row, column], [slice(None), row, column]
    else:
        count = 1 if extent == "space" else extent
        for start in range(0, sides[0], count):
            frames = [slice(start, start + count), slice(None), slice(None)]
            yield frames, frames


def _average(block, theta, phi, g):
    """Return y (E, N) of theta (D, N), phi (D, M) and g (E, M), a head after another."""
    heads, width = block.num_heads, theta.shape[0] // block.num_heads
    ys = []
    for head in range(heads):
        mine = slice(head * width, (head + 1) * width)
        t, p, values = theta[mine].T, phi[mine].T, g.chunk(heads)[head].T
        if block.instantiation == "concatenation":
            w_theta, w_phi = (half[mine] for half in block.w_f.chunk(2))
            weights = torch.relu((t @ w_theta)[:, None] + (p @ w_phi)[None]) / len(p)
        elif block.instantiation == "dot_product":
            weights = t @ p.T / len(p)
        else:
            scale = (block.inter_channels / heads) ** -0.5 if block.use_scale else 1.0
            weights = (scale * t @ p.T).softmax(1)
        ys.append((weights @ values).T)
    return torch.cat(ys)
