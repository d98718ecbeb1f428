"""The slow block, written from the paper's figure, and what several test files need of it."""

from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from nonlocalnn import NonLocal1d, NonLocal2d, NonLocal3d, convert_nonlocal_

BLOCKS = {1: NonLocal1d, 2: NonLocal2d, 3: NonLocal3d}
# Every axis has its own size, still distinct after pooling and odd enough to test the floor.
SIDES = {1: (23,), 2: (7, 13), 3: (3, 9, 5)}
SUB_SAMPLES = ("after", "before", None)
_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def randomize_(module: nn.Module) -> nn.Module:
    """Draw every parameter and statistic anew: a zero-initialised block would hide any error."""
    for name, value in module.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0, 0.5)
    return module


@contextmanager
def no_larger_files_than(num_bytes):
    """Let writes beyond a size fail, as on a full disk."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def left(module):
    """Return why conversion leaves a module; it must be the very same afterwards."""
    model = nn.Sequential(module)
    report = convert_nonlocal_(model)
    assert not report.converted
    assert model[0] is module
    return report.left["0"]


def slow_affinity(block, x):
    """f / C(x), shape (B, N, M), by loops over the batch and explicit formulas."""
    sides = x.dim() - 2
    keys = slow_pool(x, sides) if block.sub_sample == "before" else x
    theta = x if block.theta is None else _CONVOLVE[sides](x, block.theta.weight, block.theta.bias)
    phi = keys if block.phi is None else _CONVOLVE[sides](keys, block.phi.weight, block.phi.bias)
    if block.sub_sample == "after":
        phi = slow_pool(phi, sides)
    rows = []
    for theta_map, phi_map in zip(theta, phi, strict=True):
        queries, members = theta_map.flatten(1).T, phi_map.flatten(1).T
        if block.instantiation == "concatenation":
            pairs = torch.cat(
                [
                    queries[:, None].expand(-1, len(members), -1),
                    members[None].expand(len(queries), -1, -1),
                ],
                dim=2,
            )
            rows.append(F.relu(pairs @ block.w_f) / len(members))
            continue
        products = torch.einsum("nd,md->nm", queries, members)
        if block.instantiation == "dot_product":
            rows.append(products / len(members))
            continue
        scale = block.inter_channels**-0.5 if block.use_scale else 1.0
        f = torch.exp(scale * products - (scale * products).amax(1, keepdim=True))
        rows.append(f / f.sum(1, keepdim=True))
    return torch.stack(rows) if rows else x.new_zeros(0, x[0:1].numel(), 1)


def slow_pool(x, sides):
    """Max-pool by slices: 2, (2, 2) or (1, 2, 2), odd sides floored, a side of 1 left alone."""
    for axis in range(-min(sides, 2), 0):
        length = x.shape[axis]
        if length > 1:
            even = x.narrow(axis, 0, length // 2 * 2)
            x = even.unflatten(axis, (length // 2, 2)).amax(axis)
    return x


def slow_block(block, x):
    """z = W_z y + x, with the affinity in memory and plain convolutions."""
    sides = x.dim() - 2
    keys = slow_pool(x, sides) if block.sub_sample == "before" else x
    g = _CONVOLVE[sides](keys, block.g.weight, block.g.bias)
    if block.sub_sample == "after":
        g = slow_pool(g, sides)
    y = torch.einsum("bnm,bem->ben", slow_affinity(block, x), g.flatten(2)).unflatten(2, x.shape[2:])
    z = _CONVOLVE[sides](y, block.W_z.weight, block.W_z.bias)
    if block.norm is not None:
        z = block.norm(z)
    return x + z
