"""The share of correct keypoints (PCK): how many of the marked points were found near their place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nonlocalnn._errors import needs

# A point is correct that is no further off than this part of its object's longer side.
_LIMIT = 0.1
# A result is of an object where their boxes share so much of what both cover.
_OVERLAP = 0.5


def correct_points(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return for each point the share that is correct of those marked, 0 to 1; NaN where none is marked.

    Each object has the best result of its class whose box overlaps its own by half; a result is of one
    object. Points of an object without a result are wrong. Crowds do not count.

    Unlike average precision by OKS this says which points are found and which are mistaken for others.

    Args:
        truth: What is marked, as COCO's JSON, with K points an object; one object at least.
        results: What was found, as COCO's results: each with a box and points.

    Source:
        Yang and Ramanan: Articulated Human Detection with Flexible Mixtures of Parts, TPAMI 2013.

    Example:
        >>> marked = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 20], "iscrowd": 0}
        >>> truth = {"annotations": [{**marked, "keypoints": [5, 5, 2, 5, 15, 2]}]}
        >>> correct_points(truth, [{**marked, "score": 0.9, "keypoints": [5, 7, 1, 5, 12, 1]}])
        [1.0, 0.0]
    """
    marked, found = _by_image_and_class(truth["annotations"]), _by_image_and_class(results)
    correct, counted = [], []
    for key, objects in marked.items():
        objects = [each for each in objects if not each["iscrowd"]]
        if not objects:
            continue
        own = torch.tensor([each["keypoints"] for each in objects], dtype=torch.float64)
        own = own.view(len(objects), -1, 3)
        near = torch.zeros(own.shape[:2], dtype=torch.bool)
        for place, result in _matched(objects, found.get(key, [])):
            points = torch.tensor(result["keypoints"], dtype=torch.float64).view(-1, 3)
            off = (points[:, :2] - own[place, :, :2]).norm(dim=1)
            near[place] = off <= _LIMIT * max(objects[place]["bbox"][2:])
        is_marked = own[:, :, 2] > 0
        correct.append((near & is_marked).sum(0))
        counted.append(is_marked.sum(0))
    return (torch.stack(correct).sum(0) / torch.stack(counted).sum(0)).tolist()


def _by_image_and_class(given: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], list[Any]]:
    groups = defaultdict(list)
    for each in given:
        groups[each["image_id"], each["category_id"]].append(each)
    return dict(groups)


def _matched(
    objects: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]]
) -> list[tuple[int, Mapping[str, Any]]]:
    """Return pairs of an object's place and its result; the best results choose first."""
    if not results:
        return []
    with needs("torchvision", "data", "detection"):
        from torchvision.ops import box_iou
    best_first = sorted(results, key=lambda each: -each["score"])
    overlaps = box_iou(_corners(best_first), _corners(objects))
    pairs = []
    for result, overlap in zip(best_first, overlaps, strict=True):
        place = int(overlap.argmax())
        if overlap[place] >= _OVERLAP:
            pairs.append((place, result))
            # It has its result.
            overlaps[:, place] = -1
    return pairs


def _corners(given: Sequence[Mapping[str, Any]]) -> torch.Tensor:
    boxes = torch.tensor([each["bbox"] for each in given], dtype=torch.float64)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
