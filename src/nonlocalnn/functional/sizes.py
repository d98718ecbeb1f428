"""From which sizes on an engine is faster than the N x M tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from nonlocalnn.functional.checks import SOFTMAX_INSTANTIATIONS
from nonlocalnn.functional.modes import is_transformed
from nonlocalnn.functional.products import has_fast_products, will_be_fast

# Without gradients and of one width PyTorch's kernel for the CPU is faster from here on: 2.7 times at 784
# positions of 32 channels, 1.07 times of 256.
_LEAST_FOR_KERNEL = 2**19
# 32 MiB in float32. Up to there weights are faster kept for the backward pass than computed again; beyond,
# the C library maps fresh memory for each such tensor, and clearing its pages takes longer than the products.
MOST_WEIGHTS = 2**23
# Where products are faster than PyTorch's own, computing weights again costs less, and tiles, whose products
# these are, pass its kernel: measured for 400 to 6,272 positions of 32 to 512 channels, batches of 1 to 16.
_TIMES_FEWER_FOR_FAST_PRODUCTS = 4
_LEAST_FOR_TILES = 2**20


def materialises(theta: Tensor, phi: Tensor, g: Tensor, instantiation: str) -> bool:
    """Return whether the N x M tensor is the faster way, and small, of the forms that are products."""
    # A program exported for any size must not decide by the size of its example.
    if torch.compiler.is_exporting():
        return False
    (batch, num_queries, width), num_keys, num_values = theta.shape, phi.shape[1], g.shape[2]
    num_weights = batch * num_queries * num_keys
    is_softmax = instantiation in SOFTMAX_INSTANTIATIONS
    if is_softmax and num_weights < min(_LEAST_FOR_KERNEL, MOST_WEIGHTS // _TIMES_FEWER_FOR_FAST_PRODUCTS):
        return True  # whatever the rest says, which takes longer to ask than such products
    is_fast = has_fast_products(theta, phi, g) or will_be_fast(theta, phi, g)
    most = MOST_WEIGHTS // _TIMES_FEWER_FOR_FAST_PRODUCTS if is_fast and is_softmax else MOST_WEIGHTS
    if num_weights > most:
        return False
    if is_softmax:
        is_recorded = torch.is_grad_enabled() and any(part.requires_grad for part in (theta, phi, g))
        # torch.jit.trace checks a program by another without gradients, which must be the same one.
        is_alone = not is_recorded and not is_transformed()
        has_kernel = theta.device.type == "cpu" and width == num_values
        least = _LEAST_FOR_TILES if is_fast and width >= 128 else _LEAST_FOR_KERNEL
        return not (is_alone and has_kernel and num_weights >= least)
    return num_queries * num_keys * (width + num_values) < (num_queries + num_keys) * width * num_values


def kernel_is_faster(theta: Tensor, phi: Tensor, g: Tensor) -> bool:
    """Return whether PyTorch's fused attention on the CPU takes these, and sooner than tiles."""
    num_pairs, width = theta.shape[1] * phi.shape[1], theta.shape[2]
    if width != g.shape[2] or theta.numel() == 0:
        return False
    return width < 64 or num_pairs < _LEAST_FOR_TILES or not has_fast_products(theta, phi, g)


def pairs_are_faster(a_BN: Tensor, g_BME: Tensor) -> bool:
    """Return whether the N x M tensor is the faster way, and small.

    Its work is a product and some passes over the pairs. Sorting costs as much as 15 million such steps
    before it sums anything, and a row that it sums as much as 150 keys: measured with one thread and two,
    forward alone and with backward, for 49 to 1,568 positions of 16 to 256 channels in batches of 1 to 256.
    """
    (batch, num_queries), (_, num_keys, width) = a_BN.shape, g_BME.shape
    num_pairs, num_rows = batch * num_queries * num_keys, batch * (num_queries + num_keys)
    return num_pairs <= MOST_WEIGHTS and num_pairs * (width + 10) < 15_000_000 + 150 * num_rows * width
