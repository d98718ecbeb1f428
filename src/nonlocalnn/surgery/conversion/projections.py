"""Layers over channels of any kind as 1x1 convolutions: linear layers, matrices, several in one, none."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nonlocalnn.functional.layers import Convolution
from nonlocalnn.surgery.conversion.layers import check_pointwise, pointwise


def widths(layer: nn.Module) -> tuple[int, int]:
    """Return how many channels a layer takes and gives."""
    if isinstance(layer, Convolution):
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    inputs, outputs = layer.get_parameter("W").shape
    return inputs, outputs


def is_linear(leaf: nn.Module) -> bool:
    """Return whether a layer is linear over channels, with one weight matrix."""
    return isinstance(leaf, Convolution | nn.Linear) or _is_nin(leaf)


def _is_nin(leaf: nn.Module) -> bool:
    """Return whether a layer is DDPM's own, with a matrix W (in, out)."""
    weights = leaf._parameters
    return weights.keys() == {"W", "b"} and weights["W"] is not None and weights["W"].dim() == 2


def as_convolution(layer: nn.Module, rank: int) -> Convolution:
    """Return a layer over channels as a convolution over maps of this rank."""
    if _is_nin(layer):
        return pointwise(layer.get_parameter("W").T, layer.get_parameter("b"), rank)
    if isinstance(layer, nn.Linear):
        return pointwise(layer.weight, layer.bias, rank)
    assert isinstance(layer, Convolution)
    check_pointwise(layer, "a projection")
    return layer if layer.weight.dim() == rank + 2 else pointwise(layer.weight, layer.bias, rank)


def thirds(fused: Convolution, num_heads: int) -> tuple[Convolution, Convolution, Convolution]:
    """Return queries, keys and values of one layer, in which each head has its three side by side."""

    def third(tensor: Tensor, index: int) -> Tensor:
        # Memory of their own, so that each can be saved and trained by itself.
        part = tensor.detach().unflatten(0, (num_heads, 3, -1))[:, index].flatten(0, 1).clone()
        return part.requires_grad_(tensor.requires_grad)

    rank, bias = fused.weight.dim() - 2, fused.bias
    made = [
        pointwise(third(fused.weight, index), None if bias is None else third(bias, index), rank)
        for index in range(3)
    ]
    return made[0], made[1], made[2]


def scaled_output(output: nn.Module | None, factor: Tensor | None, g: Convolution) -> Convolution:
    """Return W_z: the layer that leads back, or none, times the factor of the output, or none."""
    rank = g.weight.dim() - 2
    if output is None:
        # The values themselves are the output: W_z is the identity, and trained only where a factor is.
        W_z = pointwise(torch.eye(g.out_channels).to(g.weight), None, rank)
    else:
        W_z = as_convolution(output, rank)
    if factor is None:
        return W_z
    column = factor.detach().to(W_z.weight.dtype).flatten()
    trained = factor.requires_grad or W_z.weight.requires_grad
    weight = W_z.weight.detach() * column.view(-1, *[1] * (rank + 1))
    bias = None if W_z.bias is None else (W_z.bias.detach() * column).requires_grad_(trained)
    return pointwise(weight.requires_grad_(trained), bias, rank)
