"""What is said of a network's blocks: a verdict on each by stated rules, in plain words, and what to try.

:func:`nonlocalnn.examine` measures the numbers. The rules are tried in this order, and the first
that fits is the verdict:

1. **never trained**: the block adds less than 0.1 % of its input's size. A new block adds nothing.
2. **attends to padding**: a tenth of its weight or more lies on padding.
3. **even attention**: its entropy is 0.97 of 1 or more, and with even weights the loss is the same; or it
   helps, and even weights keep nine tenths of that and nineteen answers of twenty. A mean over all positions
   would do.
4. **hurts**: without it the loss is lower.
5. **healthy**: without it the loss is higher.
6. **makes no difference**: without it the loss is the same, and at most one answer in twenty is another.
7. **unclear**: without it the loss may be the same, and more answers are others: take more samples.

Two losses are the same where they differ by less than two standard errors, by less than 1 %, or by less than
0.001. Of fewer than ten batches a standard error is wider, as Student's t says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nonlocalnn.affinity.evenness import attends_evenly

# A block that starts as the identity adds exactly 0; one that weight decay alone has moved adds next to that.
_LEAST_ADDED = 0.001
# Even weights put the padding's own share there, and short samples beside long ones are half padding.
_MOST_PADDING = 0.1
# How much a loss must change to have changed: less than 1 % of it is less than seeds differ.
_LEAST_SHARE, _LEAST_LOSS, _STANDARD_ERRORS = 0.01, 0.001, 2.0
# What even weights may lose of a block's use, and still do instead of its own.
_EVEN_LOSES = 0.1
# Each position weighs next to one key alone, and gradients of theta and phi are a tenth of those of the rest
# of the network or less: a softmax that is sure of its key leaves none for them.
_SETTLED_ENTROPY, _SETTLED_GRADIENT = 0.05, 0.1
# A mean loss can stay where many samples win and as many lose.
_FEW_ANSWERS = 0.05


@dataclass(frozen=True)
class Change:
    """What the network's answers were, and what they became when its blocks were changed.

    Args:
        before: Mean loss of the network as it is.
        after: Mean loss when it was changed; infinite where there was none, since a number was too large.
        error: Standard error of the difference, over the batches; wider where these are few.
        figures: By how much each figure of the task rose, such as "accuracy", as shares.
        answers: Share of the answers that became another; None where there are none to compare.
    """

    before: float
    after: float
    error: float
    figures: Mapping[str, float]
    answers: float | None

    @property
    def loss(self) -> float:
        """By how much the loss rose."""
        return self.after - self.before

    @property
    def keeps_answers(self) -> bool:
        """Whether at most one answer in twenty became another, or there are none to compare."""
        return self.answers is None or self.answers <= _FEW_ANSWERS

    @property
    def counts(self) -> bool:
        """Whether the loss changed by more than chance and rounding change it."""
        least = max(_STANDARD_ERRORS * self.error, _LEAST_SHARE * abs(self.before), _LEAST_LOSS)
        return abs(self.loss) > least

    def in_words(self) -> str:
        """Return it in words.

        Example:
            >>> Change(0.5, 1.75, 0.1, {"accuracy": -0.2}, 0.3).in_words()
            'loss +1.250 (+- 0.100), accuracy -0.200, 30.0 % of the answers change'
        """
        parts = [f"loss {self.loss:+.3f} (+- {self.error:.3f})"]
        parts += [f"{name.replace('_', ' ')} {value:+.3f}" for name, value in self.figures.items()]
        if self.answers is not None:
            parts.append(f"{100 * self.answers:.1f} % of the answers change")
        return ", ".join(parts)


@dataclass(frozen=True)
class BlockFindings:
    """What was measured of one block; means over samples and positions.

    Args:
        name: As in ``model.named_modules()``.
        instantiation: Its pairwise function.
        added: Size of z - x over that of x: 0 is the identity.
        W_z: Size of a weight of W_z, the root of the mean square.
        gamma: The same of its norm's weight; None where it has none.
        num_keys: Keys that a position sees.
        entropy: Of the sizes of the weights, over that of even ones; None where there is one key, or where
            all weights are 0.
        padding: Share of the weights' sizes on padding; None where no sample is padded.
        padded_keys: Share of the keys that are padding; None as well.
        without: When the block is left out.
        even: When each position weighs all keys by the mean of its weights.
        gradients: Size of a parameter's gradient in each of its layers, over that in the rest of the network.
    """

    name: str
    instantiation: str
    added: float
    W_z: float
    gamma: float | None
    num_keys: float
    entropy: float | None
    padding: float | None
    padded_keys: float | None
    without: Change
    even: Change
    gradients: Mapping[str, float]

    @property
    def verdict(self) -> str:
        """The first rule of this module that fits."""
        if self.added < _LEAST_ADDED:
            return "never trained"
        if self.padding is not None and self.padding >= _MOST_PADDING:
            return "attends to padding"
        helps = self.without.counts and self.without.loss > 0
        is_flat = attends_evenly(self.entropy) and not self.even.counts
        # Weights of the concatenation form are nearly even where what they choose matters: the loss decides.
        # A network may fall apart without the block; then a tenth of its use is not little.
        does_as_well = self.even.loss <= _EVEN_LOSES * self.without.loss and self.even.keeps_answers
        if is_flat or (helps and does_as_well and math.isfinite(self.without.loss)):
            return "even attention"
        if self.without.counts:
            return "healthy" if helps else "hurts"
        return "makes no difference" if self.without.keeps_answers else "unclear"

    @property
    def advice(self) -> str | None:
        """What to try; None for a healthy block."""
        if self.verdict == "never trained" and self.gradients and not any(self.gradients.values()):
            return (
                "no gradient reaches it: look for what cuts it off, such as a detach, a frozen layer behind "
                "it or a weight of 0"
            )
        if self.verdict in _OF_NO_USE and self._weighs_nothing:
            return _CLOSED
        if self.verdict == "even attention" and self.entropy is None:
            return (
                "its map has one position, and there is nothing to choose: put it at an earlier stage, whose "
                "map is larger, or leave it out"
            )
        advice = _ADVICE.get(self.verdict)
        if self.verdict in _OF_NO_USE and self._has_settled:
            return f"{_SETTLED}; else {advice}"
        return advice

    @property
    def _weighs_nothing(self) -> bool:
        """Whether there are keys to choose from, and all weights are 0."""
        return self.entropy is None and self.num_keys > 1

    @property
    def _has_settled(self) -> bool:
        """Whether attention lies on single keys, and theta and phi learn next to nothing any more."""
        is_on_one = self.entropy is not None and self.entropy <= _SETTLED_ENTROPY
        learn = [self.gradients.get(layer, math.inf) for layer in ("theta", "phi")]
        is_reached = any(self.gradients.values())
        is_softmax = self.instantiation == "embedded_gaussian"
        return is_softmax and is_on_one and is_reached and max(learn) <= _SETTLED_GRADIENT

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {**asdict(self), "verdict": self.verdict, "advice": self.advice}

    def in_words(self) -> str:
        """Return what was measured, a line each, under the verdict."""
        gamma = "" if self.gamma is None else f", gamma {self.gamma:.3g}"
        # Two digits, and never as a power of ten.
        added = f"{100 * self.added:.2g}" if self.added < 0.99 else f"{100 * self.added:.0f}"
        if self._weighs_nothing:
            seen = f"gives each of {self.num_keys:.0f} keys a weight of 0"
        elif self.entropy is None:
            seen = "sees a single key: there is nothing to choose"
        else:
            how = "attends nearly evenly" if attends_evenly(self.entropy) else "chooses"
            seen = f"{how} among {self.num_keys:.0f} keys: entropy {self.entropy:.2f} of 1"
        lines = [
            f"{self.name}, {self.instantiation}: {self.verdict}",
            f"adds {added} % of its input's size; weights of W_z {self.W_z:.3g}{gamma}",
            seen,
        ]
        if self.padding is not None and self.padded_keys is not None:
            lines.append(
                f"{100 * self.padding:.1f} % of its weight lies on padding, and so do "
                f"{100 * self.padded_keys:.1f} % of the keys"
            )
        lines += [
            f"without it: {self.without.in_words()}",
            f"weighing all keys alike: {self.even.in_words()}",
        ]
        if self.gradients:
            sizes = ", ".join(f"{layer} {value:.2g}" for layer, value in self.gradients.items())
            lines.append(f"gradients, times those of the rest of the network: {sizes}")
        return "\n  ".join(lines)


_SETTLED = (
    "its attention has settled on single keys, and theta and phi learn next to nothing: train again with a "
    "lower rate for these (train --embeddings-lr 0.2; nl.param_groups, embeddings_lr)"
)
_CLOSED = (
    "all its weights are 0, and a rectifier that is closed lets no gradient through: train again with a "
    "lower rate for it (nl.param_groups, new_lr), and from scratch with rectifiers that start half open "
    "(nonlocalnn.models.start.start_from_scratch)"
)
_OF_NO_USE = ("even attention", "hurts", "makes no difference", "unclear")
_ADVICE = {
    "never trained": (
        "it adds next to nothing yet: see that the optimiser has its parameters (nl.param_groups) and that "
        "none is frozen; then train longer, or give it a higher rate (nl.param_groups, new_lr); from scratch "
        "start with zero_init=False"
    ),
    "attends to padding": (
        "say what is real and train again: nl.real_positions around the network or key_mask for the block; "
        "cut constant ends off your files"
    ),
    "even attention": (
        "a mean over all positions would do: leave the block out or take that; if each position needs "
        "another place far away, train longer, or put it at an earlier stage"
    ),
    "hurts": (
        "leave it out (nl.remove_nonlocal_) and train again, or train on with a lower rate for it "
        "(nl.param_groups, new_lr)"
    ),
    "makes no difference": "leave it out, which saves its cost, or put it at another stage",
    "unclear": "take more samples: answers change, and the loss not by more than chance",
}


@dataclass(frozen=True)
class Examination:
    """What :func:`nonlocalnn.examine` found; ``print`` shows it in words.

    Args:
        num_samples: How many samples were looked at.
        loss: Their mean loss.
        figures: The task's own figures of them, such as "accuracy", as shares.
        blocks: Each block that ran, in the network's order.
        without_all: When all of these are left out.
        idle: Names of blocks that did not run.
    """

    num_samples: int
    loss: float
    figures: Mapping[str, float]
    blocks: Sequence[BlockFindings]
    without_all: Change
    idle: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values, with each block's verdict."""
        return {**asdict(self), "blocks": [block.to_dict() for block in self.blocks]}

    def __str__(self) -> str:
        figures = "".join(f", {name.replace('_', ' ')} {value:.3f}" for name, value in self.figures.items())
        lines = [f"{self.num_samples} samples: loss {self.loss:.3f}{figures}"]
        lines += [f"\n{block.in_words()}" for block in self.blocks]
        lines += [f"\n{name}: did not run" for name in self.idle]
        if len(self.blocks) > 1:
            lines.append(f"\nwithout any block: {self.without_all.in_words()}")
        # Blocks of one verdict share a line: ten blocks would say ten times the same.
        tries: dict[str, list[str]] = {}
        for block in self.blocks:
            if block.advice is not None:
                tries.setdefault(block.advice, []).append(block.name)
        lines.append("\nwhat to try")
        lines += [f"  {', '.join(names)}: {advice}" for advice, names in tries.items()]
        spare = [block for block in self.blocks if block.verdict == "makes no difference"]
        if len(spare) > 1 and self.without_all.counts and self.without_all.loss > 0:
            lines.append(
                f"  leave out one of {', '.join(block.name for block in spare)}: together they matter"
            )
        return "\n".join(lines if tries else [*lines, "  nothing: its blocks are used"])
