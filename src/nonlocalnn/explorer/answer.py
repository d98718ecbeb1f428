"""The answer of a network to one input, and what its blocks attended to meanwhile: of one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._device import Precision, autocast_for
from nonlocalnn.affinity import AffinityMap, EffectMap, capture_affinity
from nonlocalnn.affinity.capture import find_blocks
from nonlocalnn.affinity.detectors import works_on_regions
from nonlocalnn.affinity.effects import record_effects
from nonlocalnn.explorer.objects import above, described_objects
from nonlocalnn.inference import Classifier, Detector, Segmenter
from nonlocalnn.inference.loading import Loaded
from nonlocalnn.tasks.answers import most_probable
from nonlocalnn.tasks.masks import image_scores, labels_of, shares_of
from nonlocalnn.tasks.objects import Found
from nonlocalnn.tasks.probabilities import scores_and_probabilities

# Objects with lower scores are left out of pages and pictures.
_LEAST_SCORE = 0.5


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
        objects: Of a detector the objects that it found, the best first; else None.
    """

    probabilities: Tensor
    maps: Mapping[str, AffinityMap]
    effects: Mapping[str, EffectMap]
    labels: Tensor | None = None
    objects: Found | None = None

    def prediction(self, classes: Sequence[str], *, top: int) -> list[dict[str, Any]]:
        """Return the most probable classes, or of a segmentation network those with the most pixels.

        Args:
            classes: Names of the classes.
            top: How many at most.

        Returns:
            ``{"class", "probability"}`` of each, the first first; of a segmentation network ``{"class", "id",
            "share"}``, of a detector ``{"class", "score", "box"}``, which may be none.

        Raises:
            ValueError: A probability is not finite.
        """
        if self.objects is not None:
            return described_objects(self.objects, classes)[:top]
        if self.labels is None:
            return most_probable(self.probabilities, classes, top=top)["top"]
        return shares_of(self.labels, classes)[:top]


def answer_with_maps(
    loaded: Loaded,
    sample: Tensor,
    *,
    name: str = "an input",
    blocks: Sequence[str] | None = None,
    effects: bool = False,
    precision: Precision = "fp32",
) -> AnswerWithMaps:
    r"""Run a network once on one sample and return its answer together with its maps.

    Args:
        loaded: The classifier, segmentation network or detector, in eval mode.
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
    if not isinstance(loaded, Classifier) and effects:
        raise ValueError("effects are on the score of one class, and this network gives many")
    if isinstance(loaded, Detector):
        named = _over_image(loaded, blocks)
        with torch.no_grad(), capture_affinity(loaded.model, named) as maps:
            found = above(loaded.objects(sample, precision=precision), _LEAST_SCORE)
        return AnswerWithMaps(found["scores"], maps, {}, objects=found)
    x = sample.unsqueeze(0).to(loaded.device)
    if isinstance(loaded, Segmenter):
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


def _over_image(loaded: Detector, blocks: Sequence[str] | None) -> list[str]:
    """Return the blocks whose maps lie over the image: those that were named, or all there are.

    Raises:
        ValueError: There is none, or one that was named is in a head of regions.
    """
    found = find_blocks(loaded.model, blocks)
    named = [name for name in found if not works_on_regions(loaded.model, name)]
    if not named or (blocks is not None and len(named) < len(found)):
        others = [
            name for name in find_blocks(loaded.model, None) if not works_on_regions(loaded.model, name)
        ]
        hint = f"name {others[0]}" if others else "this network has no block in its backbone"
        raise ValueError(
            f"{next(name for name in found if name not in named)} works on regions, one after another, and "
            f"has no map over the image: {hint}"
        )
    return named
