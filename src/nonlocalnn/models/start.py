"""How non-local blocks begin in a network that is trained from scratch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nonlocalnn.blocks import NonLocalNd, nonlocal_blocks

# Of w_f: a_i + b_j of inputs of variance 1 then vary by 1.
_LENGTH = math.sqrt(3)

_Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


def start_from_scratch(model: nn.Module) -> None:
    """Give all blocks of a network the start from which training from scratch learns best.

    - Embedded Gaussian: phi has the weights of theta. Each position then begins by attending to those that
      resemble it, as in the Gaussian form, and not to random ones; docs/results/dense.md says what that
      changes. Training moves the two apart.
    - Concatenation: the sums a_i + b_j begin around 0, so that f lets about half of the pairs through, and
      vary by 1 where x does. For that theta and phi lose their biases; their weights add up to 0 over the
      channels of x, which have about one mean after a norm; w_f has length sqrt(3); and where phi is pooled,
      which raises all its channels, so does w_f over these. Of single channels nothing is taken off, and of a
      few the sums may vary by 0.2 or 1.5. Where f lets all pairs through it chooses nothing, and where none,
      no gradient either. As they are made, blocks begin anywhere between the two, and go to one of them in a
      few steps: docs/results/cue.md.

    Blocks of the other forms stay as they are: the Gaussian has no embeddings, and the dot product, whose
    weights add up to no 1, learnt nothing of the cue task with phi like theta with one seed of two
    (docs/results/cue.md). So do embedded Gaussian blocks whose keys are of a context with other channels.
    ``reset_parameters`` draws all anew, without this start, and on the meta device there is nothing to start.

    Raises:
        ValueError: theta and phi of a block are unlike, or they or w_f are no plain parameters, as in a
            network that has adapters; nothing is changed then.

    Example:
        >>> import nonlocalnn as nl
        >>> block = nl.NonLocal2d(8)
        >>> start_from_scratch(block)
        >>> torch.equal(block.theta.weight, block.phi.weight)
        True
    """
    started = [(name, block) for name, block in nonlocal_blocks(model).items() if block.theta is not None]
    for name, block in started:
        if not _can_start(block):
            kinds = " and ".join(type(layer).__name__ for layer in (block.theta, block.phi))
            raise ValueError(
                f"theta and phi of block {name!r}, {kinds}, must be alike and have weights and biases of "
                "their own, and w_f must be a parameter: start the network before what changes its layers"
            )
    for _, block in started:
        if block.instantiation == "embedded_gaussian":
            _resemble_(block)
        elif block.instantiation == "concatenation":
            _half_open_(block)


def _layers(block: NonLocalNd) -> tuple[_Conv, _Conv]:
    assert block.theta is not None
    assert block.phi is not None
    return block.theta, block.phi


def _can_start(block: NonLocalNd) -> bool:
    layers = _layers(block)
    if block.instantiation == "concatenation":
        own = [layer._parameters.get(name) for layer in layers for name in ("weight", "bias")]
        return all(each is not None for each in (*own, block._parameters.get("w_f")))
    if block.instantiation == "embedded_gaussian":
        theta, phi = (layer.state_dict() for layer in layers)
        return next(layers[0].parameters(), None) is not None and theta.keys() == phi.keys()
    return True


def _resemble_(block: NonLocalNd) -> None:
    theta, phi = _layers(block)
    own, given = phi.state_dict(), theta.state_dict()
    if all(own[key].shape == given[key].shape for key in given):
        phi.load_state_dict(given)


@torch.no_grad()
def _half_open_(block: NonLocalNd) -> None:
    for layer in _layers(block):
        assert layer.bias is not None
        layer.bias.zero_()
        layer.weight.copy_(_balanced(layer.weight))
    assert block.w_f is not None
    of_theta, of_phi = block.w_f.double().unflatten(0, (2, block.num_heads, -1))
    heads = torch.stack([of_theta, _balanced(of_phi) if block.sub_sample == "after" else of_phi])
    lengths = heads.norm(dim=(0, 2), keepdim=True).clamp(min=1e-12)
    block.w_f.copy_((_LENGTH * (heads / lengths)).flatten())


def _balanced(weights: Tensor) -> Tensor:
    """Return weights that add up to 0 along the second axis, unless that is 1 long: nothing would be left."""
    return weights - weights.mean(1, keepdim=True) if weights.shape[1] > 1 else weights
