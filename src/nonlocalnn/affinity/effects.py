"""What each attended position does to a class's score, to first order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn.affinity.capture import capture_affinity, find_blocks
from nonlocalnn.affinity.maps import AffinityMap
from nonlocalnn.affinity.rows import Query
from nonlocalnn.blocks import NonLocalNd
from nonlocalnn.functional.layers import is_constant
from nonlocalnn.functional.positions import flatten


# Beside the weights, since they do not say what came of a look: on the cue task the weights of the
# concatenation form are nearly uniform where its effects are not.
@dataclass(frozen=True, eq=False)
class EffectMap:
    r"""First-order effect of the terms of a block's sums on one score.

    Args:
        weights: The block's affinity.
        gradient: The score's gradient with respect to y, (B, P, E).
        values: g, (B, groups, M, E).
    """

    weights: AffinityMap
    gradient: Tensor
    values: Tensor

    def rows(self, queries: Sequence[Query]) -> Tensor:
        r"""Return, for some queries, the effect of each key's term, (B, Q, \*key sides), signed.

        .. math:: e_{ij} = \frac{f(x_i, x_j)}{C(x)}
            \left\langle \frac{\partial s}{\partial y_i}, g(x_j) \right\rangle

        The sum over all queries and keys is what the score s would lose, to first order, if y were zero.

        Args:
            queries: Places in ``weights.grid.sides``.

        Raises:
            ValueError: A place does not exist.
        """

        def weigh(places: Tensor, number: int) -> Tensor:
            # Each head's weights meet its own slice of the values.
            heads = self.weights.num_heads
            gradients = self.gradient[:, places].unflatten(2, (heads, -1)).transpose(1, 2)
            values = self.values[:, number].unflatten(2, (heads, -1)).transpose(1, 2)
            terms = self.weights.weigh_heads(places, number) * (gradients @ values.transpose(2, 3))
            return terms.sum(1)

        return self.weights.spread(queries, weigh)


def class_effects(
    model: nn.Module, x: Tensor, *, target: int | None = None, blocks: Sequence[str] | None = None
) -> dict[str, EffectMap]:
    r"""Return what each attended position does to the score of a class.

    Weights say where a block looks; an effect says how much the score would change if that term of the sum
    were a little larger. It is exact in the limit only: scores are no linear functions of y.

    Args:
        model: Takes x and returns scores (B, K); in eval mode.
        x: (B, C, \*sides), on the model's device.
        target: Number of the class; None is each sample's most probable one.
        blocks: Names of the blocks; None is all.

    Returns:
        An :class:`EffectMap` for each block that ran.

    Raises:
        ValueError: The model is in train mode, has no such block, returns no scores (B, K), or has no such
            class; or a block has no effects, see :func:`why_no_effects`.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_digits").eval()
        >>> effects = class_effects(model, torch.rand(1, 1, 28, 28), target=3)
        >>> effects["nl_2"].rows([(0, 0), (6, 6)]).shape
        torch.Size([1, 2, 3, 3])
    """
    with record_effects(model, blocks) as recorded:
        scores = model(x.detach())
    for name in recorded.outputs:
        # Who asks for effects by name must not find fewer blocks than were named.
        if reason := why_no_effects(recorded.blocks[name]):
            raise ValueError(f"block {name!r} has no effects: {reason}; leave it out of blocks")
    return recorded.on(_chosen(scores, target))


def why_no_effects(block: NonLocalNd) -> str | None:
    """Return why a block has no effects, in words; None where it has them.

    Example:
        >>> from nonlocalnn import NonLocal2d
        >>> why_no_effects(NonLocal2d(16, norm="group"))
        "its GroupNorm makes z no linear function of y (norm='batch' or norm=None does not)"
        >>> why_no_effects(NonLocal2d(16, norm=None)) is None
        True
    """
    norm = block.norm
    # Of a batch norm in train mode the mode is wrong and not the block: RecordedEffects.on refuses that.
    is_in_train = isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.training
    if norm is None or is_constant(norm) or is_in_train:
        return None
    return f"its {type(norm).__name__} makes z no linear function of y (norm='batch' or norm=None does not)"


@dataclass(eq=False)
class RecordedEffects:
    """What effects are computed from, of one run of a model.

    Args:
        maps: The affinity of the blocks, in the order in which they ran.
        blocks: The blocks by name.
        inputs: What each block was given: its arguments, and those that were named.
        outputs: What each block returned, part of the run's graph.
    """

    maps: Mapping[str, AffinityMap]
    blocks: Mapping[str, NonLocalNd]
    inputs: dict[str, tuple[tuple[Tensor, ...], dict[str, Any]]] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def on(self, score: Tensor) -> dict[str, EffectMap]:
        """Return the effects on a score that the run gave, of each block that ran and that has them.

        Args:
            score: One number, with its graph, which is used up.

        Raises:
            ValueError: A batch norm is in train mode.
        """
        # A page draws the weights of the others all the same: see why_no_effects.
        outputs = {name: z for name, z in self.outputs.items() if why_no_effects(self.blocks[name]) is None}
        if not outputs:
            return {}
        gradients = torch.autograd.grad(score, list(outputs.values()), materialize_grads=True)
        return {
            name: _effects_of(self.blocks[name], self.maps[name], self.inputs[name], gradient)
            for name, gradient in zip(outputs, gradients, strict=True)
        }


@contextmanager
def record_effects(model: nn.Module, blocks: Sequence[str] | None = None) -> Iterator[RecordedEffects]:
    """Record, while the model runs once, what effects are computed from.

    The run's own answer says which score they are wanted for, so that one forward pass gives both.

    Args:
        model: In eval mode.
        blocks: Names of the blocks; None is all.

    Raises:
        ValueError: The model is in train mode, or has no such block.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_digits").eval()
        >>> with record_effects(model) as recorded:
        ...     scores = model(torch.rand(1, 1, 28, 28))
        >>> effects = recorded.on(scores[0, scores.argmax()])
        >>> list(effects) == list(recorded.maps)
        True
    """
    if model.training:
        raise ValueError("effects need fixed norms: put the model into eval mode first, model.eval()")
    found = find_blocks(model, blocks)

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Any], Tensor], Tensor]:
        def hook(_block: nn.Module, given: tuple[Tensor, ...], named: dict[str, Any], z: Tensor) -> Tensor:
            # A frozen model has no graph before its first block, and needs none.
            z = z if z.requires_grad else z.detach().requires_grad_()
            recorded.inputs[name], recorded.outputs[name] = (given, named), z
            # Layers that work in place would turn z into their own output.
            return z.clone()

        return hook

    with ExitStack() as stack:
        maps = stack.enter_context(capture_affinity(model, blocks))
        recorded = RecordedEffects(maps, found)
        for name, block in found.items():
            stack.callback(block.register_forward_hook(keep(name), with_kwargs=True).remove)
        stack.enter_context(torch.enable_grad())
        yield recorded


def _chosen(scores: object, target: int | None) -> Tensor:
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        raise ValueError("effects are on class scores (B, K), and the model returns something else")
    if target is not None and not 0 <= target < scores.shape[1]:
        raise ValueError(f"target must be a class from 0 to {scores.shape[1] - 1}; got {target}")
    return scores.amax(1).sum() if target is None else scores[:, target].sum()


@torch.no_grad()
def _effects_of(
    block: NonLocalNd,
    shown: AffinityMap,
    given: tuple[tuple[Tensor, ...], dict[str, Any]],
    gradient: Tensor,
) -> EffectMap:
    if block.norm is not None and not is_constant(block.norm):
        raise ValueError("effects need fixed norms: put the model into eval mode first, model.eval()")
    _, _, g = block.embed(*given[0], **given[1])

    with torch.enable_grad():
        y = gradient.new_zeros(gradient.shape[0], g.shape[2], *gradient.shape[2:], requires_grad=True)
        z = block.W_z(y) if block.norm is None else block.norm(block.W_z(y))
    to_y = flatten(torch.autograd.grad(z, y, gradient)[0]).float()
    return EffectMap(shown, to_y.cpu(), g.float().cpu().unflatten(0, (gradient.shape[0], -1)))
