"""Are a trained network's blocks used? It is run as it is, without each block, and with even weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn._device import eval_mode, moved
from nonlocalnn.affinity.batches import Batch, Loss, checked_batch, checked_loss, real_by_sizes
from nonlocalnn.affinity.block_measures import evened, left_out, sums_of
from nonlocalnn.affinity.capture import find_blocks, without_compiled_code
from nonlocalnn.affinity.standard_error import standard_error
from nonlocalnn.affinity.verdicts import BlockFindings, Change, Examination
from nonlocalnn.blocks import NonLocalNd

# A forward hook with named arguments: what it returns, unless None, is the block's output.
_Hook = Callable[[NonLocalNd, tuple[Tensor, ...], dict[str, Any], Tensor], Tensor | None]

# Batches whose gradients are taken: each costs as much as the rest of a small network's looks.
_GRADIENT_BATCHES = 4


def examine(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Loss,
    *,
    real: Callable[[Batch], Tensor | None] = real_by_sizes,
) -> Examination:
    r"""Return whether a trained network's non-local blocks are used, a verdict for each.

    The network runs in eval mode: as it is; without each block and without all; and with each block weighing
    all keys alike, so that no more than a mean of its values is left. The rules of the verdicts stand in
    :mod:`nonlocalnn.affinity.verdicts`.

    Args:
        model: Holds non-local blocks. Its weights and statistics stay as they are, and so does its mode.
        batches: At least two, of samples that it was not trained on; a sequence of tensors each, the samples,
            (B, C, \*sides), first. They are brought to where the model is.
        loss: Returns the mean loss of a batch, of shape (), and further figures of it by name, as
            :meth:`nonlocalnn.tasks.contract.Task.loss` does. It decides whether the network is told which
            positions are real, by :func:`nonlocalnn.real_positions`.
        real: Returns which positions of a batch's samples are real, bool (B, \*sides), or None for all; what
            the others get of the weight is measured. By default a third part of the batch tells, the sizes.

    Raises:
        ValueError: The model has no non-local block, none ran, there are fewer than two batches, a batch does
            not begin with its samples, or the loss is not finite or not as it should be.

    Memory: that of a training step with one batch, and 64 rows of each sample's affinity.

    Example:
        >>> from nonlocalnn import NonLocal1d
        >>> network = nn.Sequential(NonLocal1d(4), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3))
        >>> data = [(torch.randn(5, 4, 9), torch.randint(3, (5,))) for _ in range(2)]
        >>> def loss(model, batch):
        ...     return nn.functional.cross_entropy(model(batch[0]), batch[1]), {}
        >>> found = examine(network, data, loss)
        >>> [(block.name, block.verdict) for block in found.blocks]
        [('0', 'never trained')]
    """
    blocks = find_blocks(model, None)
    device = next(iter(blocks.values())).W_z.weight.device
    looks = _Looks(blocks)
    # Under the caller's inference mode there would be no gradients.
    with torch.inference_mode(False), eval_mode(model), without_compiled_code():
        for number, given in enumerate(batches):
            batch = moved(checked_batch(given), device)
            looks.sizes.append(len(batch[0]))
            _look(model, blocks, batch, loss, real(batch), looks)
            if number < _GRADIENT_BATCHES:
                _add_gradients(model, blocks, batch, loss, looks.gradients)
    if len(looks.sizes) < 2:
        raise ValueError(
            f"batches must be at least two, to tell a change from chance; got {len(looks.sizes)}: make them "
            "smaller"
        )
    return looks.findings()


@dataclass(frozen=True)
class _Answer:
    """What a batch gave: its loss, the task's figures, and the class with the highest score of each place."""

    loss: float
    figures: dict[str, float]
    classes: Tensor | None


@dataclass
class _Looks:
    """What was seen so far.

    Args:
        blocks: The network's.
        sizes: Samples of each batch.
        answers: Of each batch, by what was changed: (), a block's name and how.
        sums: Of each block, sums over positions.
        gradients: Sums of squares of gradients and their numbers, by block and layer; ("", "") is the rest.
    """

    blocks: Mapping[str, NonLocalNd]
    sizes: list[int] = field(default_factory=list)
    answers: dict[tuple[str, ...], list[_Answer]] = field(default_factory=dict)
    sums: dict[str, Counter[str]] = field(default_factory=dict)
    gradients: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def findings(self) -> Examination:
        """Return what they come to."""
        ran = [name for name in self.blocks if name in self.sums]
        own = self._mean([answer.loss for answer in self.answers[()]])
        if not ran or not math.isfinite(own):
            what = f"a loss of {own}" if ran else "no block that ran"
            raise ValueError(
                f"there must be a block that runs and a finite loss; got {what}: look at the model and the "
                "batches"
            )
        return Examination(
            num_samples=sum(self.sizes),
            loss=own,
            figures=self._figures(self.answers[()]),
            blocks=[self._of_block(name) for name in ran],
            without_all=self._change(("without",)),
            idle=[name for name in self.blocks if name not in ran],
        )

    def _of_block(self, name: str) -> BlockFindings:
        block, sums = self.blocks[name], self.sums[name]
        gamma = getattr(block.norm, "weight", None)
        is_padded = sums["padded"] > 0
        return BlockFindings(
            name=name,
            instantiation=block.instantiation,
            added=math.sqrt(sums["added"] / sums["given"]) if sums["given"] else 0.0,
            W_z=_size(block.W_z.weight),
            gamma=None if gamma is None else _size(gamma),
            num_keys=sums["keys"] / max(1, sums["rows"]),
            entropy=sums["entropy"] / sums["choosing"] if sums["choosing"] else None,
            padding=sums["on padding"] / max(1, sums["weighing"]) if is_padded else None,
            padded_keys=sums["padded"] / max(1, sums["rows"]) if is_padded else None,
            without=self._change(("without", name)),
            even=self._change(("even", name)),
            gradients=self._gradients(name),
        )

    def _change(self, what: tuple[str, ...]) -> Change:
        before, after = self.answers[()], self.answers[what]
        pairs = list(zip(before, after, strict=True))
        differences = [then.loss - now.loss for now, then in pairs]
        # A network that gives no numbers, or too large ones, is worse than any other.
        is_finite = all(map(math.isfinite, differences))
        was, became = self._figures(before), self._figures(after)
        changed = [
            float((now.classes != then.classes).float().mean())
            for now, then in pairs
            if now.classes is not None and then.classes is not None
        ]
        return Change(
            before=self._mean([answer.loss for answer in before]),
            after=self._mean([answer.loss for answer in after]) if is_finite else math.inf,
            error=standard_error(differences) if is_finite else 0.0,
            figures={name: became[name] - value for name, value in was.items()},
            answers=self._mean(changed) if len(changed) == len(pairs) else None,
        )

    def _mean(self, values: Sequence[float]) -> float:
        """Return the mean over the samples of numbers that are means over batches."""
        pairs = zip(values, self.sizes, strict=True)
        return math.fsum(value * size for value, size in pairs) / sum(self.sizes)

    def _figures(self, answers: Sequence[_Answer]) -> dict[str, float]:
        names = answers[0].figures
        return {name: self._mean([answer.figures[name] for answer in answers]) for name in names}

    def _gradients(self, name: str) -> dict[str, float]:
        """Return the sizes over those of the rest; none where the rest has no gradient to compare with."""
        sizes = {
            each: math.sqrt(squares / max(1, number)) for each, (squares, number) in self.gradients.items()
        }
        rest = sizes.get(("", ""), 0.0)
        return {layer: size / rest for (block, layer), size in sizes.items() if block == name and rest}


def _look(
    model: nn.Module,
    blocks: Mapping[str, NonLocalNd],
    batch: Batch,
    loss: Loss,
    real: Tensor | None,
    looks: _Looks,
) -> None:
    """Run a batch through the network as it is and with each change."""

    def measure(name: str) -> _Hook:
        def hook(block: NonLocalNd, given: tuple[Tensor, ...], named: dict[str, Any], z: Tensor) -> None:
            looks.sums.setdefault(name, Counter()).update(sums_of(block, given, named, z, real))

        return hook

    def ask(what: tuple[str, ...], hooks: Mapping[str, _Hook]) -> None:
        answer = _ask(model, {blocks[name]: hook for name, hook in hooks.items()}, batch, loss, real)
        looks.answers.setdefault(what, []).append(answer)

    ask((), {name: measure(name) for name in blocks})
    ask(("without",), dict.fromkeys(blocks, left_out))
    for name in blocks:
        ask(("without", name), {name: left_out})
        ask(("even", name), {name: evened})


@torch.no_grad()
def _ask(
    model: nn.Module,
    hooks: Mapping[NonLocalNd, _Hook],
    batch: Batch,
    loss: Loss,
    real: Tensor | None,
) -> _Answer:
    outputs: list[Any] = []
    with ExitStack() as stack:
        stack.callback(model.register_forward_hook(lambda *run: outputs.append(run[2])).remove)
        for block, hook in hooks.items():
            stack.callback(block.register_forward_hook(hook, with_kwargs=True).remove)
        total, figures = checked_loss(loss(model, batch))
    output = outputs[-1] if outputs else None
    scores = output.get("out") if isinstance(output, Mapping) else output
    classes = scores.argmax(1) if isinstance(scores, Tensor) and scores.dim() > 1 else None
    # What is said of padding is no answer.
    if classes is not None and real is not None and classes.shape == real.shape:
        classes = classes[real]
    return _Answer(float(total), {name: float(value) for name, value in figures.items()}, classes)


def _add_gradients(
    model: nn.Module,
    blocks: Mapping[str, NonLocalNd],
    batch: Batch,
    loss: Loss,
    sums: dict[tuple[str, str], list[float]],
) -> None:
    """Add the squares of a batch's gradients, by block and layer."""
    layers = {
        parameter: (name, inner.split(".")[0])
        for name, block in blocks.items()
        for inner, parameter in block.named_parameters()
    }
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        return
    # In eval mode, so that no statistic of a norm moves; and by no .grad, which may hold a training's own.
    with torch.enable_grad():
        total, _ = checked_loss(loss(model, batch))
        if not total.requires_grad:
            return
        gradients = torch.autograd.grad(total, learning, allow_unused=True)
    for parameter, gradient in zip(learning, gradients, strict=True):
        place = sums.setdefault(layers.get(parameter, ("", "")), [0.0, 0.0])
        place[0] += 0.0 if gradient is None else float(gradient.float().square().sum())
        place[1] += parameter.numel()


def _size(weights: Tensor) -> float:
    """Return the root of the mean square."""
    return float(weights.detach().float().square().mean().sqrt())
