"""The answer of a network to one input, and what its blocks attended to meanwhile: of one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._device import Precision, autocast_for
from nonlocalnn.affinity import AffinityMap, EffectMap, capture_affinity
from nonlocalnn.affinity.effects import record_effects
from nonlocalnn.inference import Classifier, Segmenter
from nonlocalnn.tasks.answers import most_probable
from nonlocalnn.tasks.masks import image_scores, labels_of, shares_of
from nonlocalnn.tasks.probabilities import scores_and_probabilities


@dataclass(frozen=True, eq=False)
class AnswerWithMaps:
    """What a network said of one input, and how its blocks looked at it.

    Args:
        probabilities: Of the classes, (K,), as ``predict`` gives them; of a segmentation network the share of
            the pixels that each class has.
        maps: The affinity of the blocks by name, in the order in which they ran.
        effects: What each attended position does to the score of the most probable class; empty where that
            was not asked for.
        labels: Of a segmentation network the class of each pixel of the sample, int64 (H, W); else None.
    """

    probabilities: Tensor
    maps: Mapping[str, AffinityMap]
    effects: Mapping[str, EffectMap]
    labels: Tensor | None = None

    def prediction(self, classes: Sequence[str], *, top: int) -> list[dict[str, Any]]:
        """Return the most probable classes, or of a segmentation network those with the most pixels.

        Args:
            classes: Names of the classes.
            top: How many at most.

        Returns:
            ``{"class", "probability"}`` of each, the first first; of a segmentation network ``{"class", "id",
            "share"}``.

        Raises:
            ValueError: A probability is not finite.
        """
        if self.labels is None:
            return most_probable(self.probabilities, classes, top=top)["top"]
        return shares_of(self.labels, classes)[:top]


def answer_with_maps(
    loaded: Classifier | Segmenter,
    sample: Tensor,
    *,
    name: str = "an input",
    blocks: Sequence[str] | None = None,
    effects: bool = False,
    precision: Precision = "fp32",
) -> AnswerWithMaps:
    r"""Run a network once on one sample and return its answer together with its maps.

    Args:
        loaded: The classifier or segmentation network, in eval mode.
        sample: What it takes, (C, \*sides).
        name: What the sample is called in errors.
        blocks: Names of the blocks; None is all.
        effects: Whether to compute the effects too, which takes one backward pass.
        precision: Of the forward pass: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: The network does not take samples of this size, has no such block, or does not return
            class scores.

    Example:
        >>> from nonlocalnn.models import create_model
        >>> model = create_model("nl_digits").eval()
        >>> loaded = Classifier(model, classes=tuple("0123456789"), sample_shape=(1, 28, 28), recipe={})
        >>> answer = answer_with_maps(loaded, torch.rand(1, 28, 28))
        >>> answer.probabilities.shape, list(answer.maps), dict(answer.effects)
        (torch.Size([10]), ['nl_1', 'nl_2'], {})
    """
    x = sample.unsqueeze(0).to(loaded.device)
    if isinstance(loaded, Segmenter):
        if effects:
            raise ValueError("effects are on the score of one class, and segmentation has one for each pixel")
        # The whole image, however the run was tested: of windows there would be a map for each.
        with torch.no_grad(), capture_affinity(loaded.model, blocks) as maps:
            labels = labels_of(image_scores(loaded.model, x, precision=precision), x.shape[2:]).cpu()
        counts = torch.bincount(labels.flatten(), minlength=len(loaded.classes))
        return AnswerWithMaps(counts / labels.numel(), maps, {}, labels)
    everywhere = loaded.kind.exceeds_training

    def run() -> tuple[Tensor, Tensor]:
        try:
            with autocast_for(precision, loaded.device):
                return scores_and_probabilities(
                    loaded.model, x, multi_label=loaded.multi_label, everywhere=everywhere
                )
        except RuntimeError as error:
            raise ValueError(
                f"the network does not take {name}, of shape {tuple(sample.shape)}: {error}"
            ) from error

    if not effects:
        with torch.no_grad(), capture_affinity(loaded.model, blocks) as maps:
            _, (probabilities,) = run()
        return AnswerWithMaps(probabilities, maps, {})
    with record_effects(loaded.model, blocks) as recorded:
        (scores,), (probabilities,) = run()
    # The answer of this very pass says which score the effects are wanted for.
    return AnswerWithMaps(probabilities, recorded.maps, recorded.on(scores[int(probabilities.argmax())]))
