"""The answer of a network to one input, and what its blocks attended to meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonlocalnn._device import Precision, autocast_for
from nonlocalnn.affinity import AffinityMap, EffectMap, capture_affinity
from nonlocalnn.affinity.effects import record_effects
from nonlocalnn.explorer.objects import above, described_objects
from nonlocalnn.inference import Classifier, Detector, Segmenter
from nonlocalnn.inference.loading import Loaded
from nonlocalnn.inference.volume_segmenter import VolumeSegmenter
from nonlocalnn.tasks.answers import most_probable
from nonlocalnn.tasks.masks import image_scores, labels_of, shares_of
from nonlocalnn.tasks.objects import Found
from nonlocalnn.tasks.probabilities import scores_and_probabilities

# Objects with lower scores are left out of pages and pictures.
_LEAST_SCORE = 0.5
# Objects of which the blocks in heads have maps, the best first: each is a map of its own.
_MOST_OBJECTS = 8


@dataclass(frozen=True, eq=False)
class AnswerWithMaps:
    """What a network said of one input, and how its blocks looked at it.

    Args:
        probabilities: Of the classes, (K,), as ``predict`` gives them; of a segmentation network the share of
            the pixels that each class has.
        maps: The affinity of the blocks by name, in the order in which they ran. A block in a detector's head
            has a map for each of the best eight objects, as "NAME, object 1".
        effects: What each attended position does to the score of the most probable class; empty where that
            was not asked for.
        labels: Of a segmentation network the class of each pixel of the sample, int64 (H, W); else None.
        objects: Of a detector the objects that it found, the best first; else None.
        window: Side of the windows that the labels of a volume are by, in voxels; None where one pass made
            them.
    """

    probabilities: Tensor
    maps: Mapping[str, AffinityMap]
    effects: Mapping[str, EffectMap]
    labels: Tensor | None = None
    objects: Found | None = None
    window: int | None = None

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
        with torch.no_grad(), capture_affinity(loaded.model, blocks) as maps:
            everything = loaded.objects(sample, precision=precision)
        found = above(everything, _LEAST_SCORE)
        kept = (everything["scores"] >= _LEAST_SCORE).nonzero().flatten().tolist()
        return AnswerWithMaps(found["scores"], _by_object(maps, kept), {}, objects=found)
    x = sample.unsqueeze(0).to(loaded.device)
    if isinstance(loaded, Segmenter):
        # The whole image, however the run was tested: of windows there would be a map for each.
        with torch.no_grad(), capture_affinity(loaded.model, blocks) as maps:
            labels = labels_of(image_scores(loaded.model, x, precision=precision), x.shape[2:]).cpu()
        window = None
        # A network that learnt from patches answers a whole volume otherwise, and nobody asks it to.
        if isinstance(loaded, VolumeSegmenter) and (
            by_windows := loaded.shown_labels(sample, precision=precision)
        ):
            labels, window = by_windows
        counts = torch.bincount(labels.flatten(), minlength=len(loaded.classes))
        return AnswerWithMaps(counts / labels.numel(), maps, {}, labels, window=window)
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


def _by_object(maps: Mapping[str, AffinityMap], kept: Sequence[int]) -> dict[str, AffinityMap]:
    """Return the maps over the image, and of blocks in heads those of the best objects, each under a name.

    Args:
        maps: Of one run on one image.
        kept: Numbers of the objects that are shown, the best first.

    Raises:
        ValueError: There is no map: all blocks are in heads, which looked at no object that is shown.
    """
    over_image: dict[str, AffinityMap] = {}
    by_object: dict[int, dict[str, AffinityMap]] = {}
    for name, each in maps.items():
        if each.input is not None:
            over_image[name] = each
        elif each.regions is not None and each.regions.are_objects:
            for place, number in enumerate(kept[:_MOST_OBJECTS], 1):
                by_object.setdefault(place, {})[f"{name}, object {place}"] = each.of_region(number)
    found = {name: each for part in (over_image, *by_object.values()) for name, each in part.items()}
    if not found:
        of_objects = any(each.regions is not None and each.regions.are_objects for each in maps.values())
        raise ValueError(
            f"there is no map: {', '.join(maps)} look at objects, and none has a score of {_LEAST_SCORE}"
            if of_objects
            else f"there is no map: {', '.join(maps)} look at proposals, of which there are hundreds"
        )
    return found
