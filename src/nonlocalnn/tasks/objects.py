"""The objects that a network finds, and how well they fit those that people marked: one pass over a set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nonlocalnn._device import Precision, autocast_for, eval_mode, moved
from nonlocalnn.data.objects import AnnotatedImages, encoded
from nonlocalnn.tasks.correct_points import correct_points
from nonlocalnn.tasks.evaluation import Watch, batches_of, gathered, own_share
from nonlocalnn.tasks.object_figures import ObjectFigures, scored

# A pixel is an object's where its mask is at least as likely.
_MASK_LEVEL = 0.5
# Of a result, what is of one kind alone.
_PARTS = ("bbox", "segmentation", "keypoints")

Found = dict[str, Tensor]
Results = dict[str, list[dict[str, Any]]]


@torch.no_grad()
def evaluate_objects(
    model: nn.Module,
    dataset: AnnotatedImages,
    *,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
    num_workers: int = 0,
    distributed: bool = False,
    watch: Watch | None = None,
) -> tuple[ObjectFigures, Results]:
    """Run a network over images with objects, one image at a time, and score what it finds by COCO's rules.

    Args:
        model: Takes a list of images; see :class:`nonlocalnn.models.DetectionNetwork`. Its train or eval
            state is put back.
        dataset: The images.
        device: Where the model is.
        precision: "fp32", "bf16" or "fp16".
        num_workers: Processes that read; 0 reads in this one.
        distributed: Share the images among the ranks of the default process group; every rank returns the
            same total.
        watch: Takes the images and gives them back one by one, to show how far it is.

    Returns:
        The figures; and what was found, as COCO's results have it: under "bbox" boxes, with masks under
        "segm" the same with masks as compressed run lengths, and with points under "keypoints" these.

    Raises:
        ValueError: The set is empty, nothing is marked on it, or the model knows other classes or points.
        ImportError: Neither pycocotools nor faster-coco-eval is installed.

    Memory: results of all images on every rank, masks compressed.
    """
    num_classes = getattr(model, "num_classes", len(dataset.classes))
    if num_classes != len(dataset.classes):
        raise ValueError(
            f"the model must know the {len(dataset.classes)} classes of this data set; it knows "
            f"{num_classes}: load a model that was trained on these classes"
        )
    masks, points = _looked_for(model, dataset)
    share = own_share(len(dataset), distributed)
    batches = batches_of(dataset, share, num_workers=num_workers, watch=watch)
    by_image: dict[int, list[dict[str, Any]]] = {}
    with eval_mode(model):
        for index, (images, _) in zip(share, batches, strict=True):
            found = found_objects(model, moved(images[0], device), precision=precision)
            by_image[index] = results_of(found, dataset.sheet(index).number, dataset.class_ids)
    by_image = {index: found for part in gathered(by_image, distributed) for index, found in part.items()}
    found_on_all = [each for index in sorted(by_image) for each in by_image[index]]
    results = in_kinds(found_on_all, masks, points)
    truth = dataset.truth()
    if not any(not each["iscrowd"] for each in truth["annotations"]):
        raise ValueError(
            f"no object is marked on the {len(dataset)} images: there is nothing to compare with"
        )
    figures = ObjectFigures(
        classes=dataset.classes,
        num_samples=len(dataset),
        num_objects=tuple(
            sum(each["category_id"] == number and not each["iscrowd"] for each in truth["annotations"])
            for number in dataset.class_ids
        ),
        scores={kind: scored(truth, found, kind) for kind, found in results.items()},
        correct=dict(zip(dataset.points.names, correct_points(truth, found_on_all), strict=True))
        if points and dataset.points is not None
        else {},
    )
    return figures, results


def _looked_for(model: nn.Module, dataset: AnnotatedImages) -> tuple[bool, bool]:
    """Return whether masks are to be scored, and points: what the data has and the model finds.

    Raises:
        ValueError: Both know points, and not as many.
    """
    masks = dataset.has_masks and bool(getattr(model, "has_masks", True))
    if dataset.points is None:
        return masks, False
    number = len(dataset.points.names)
    known = getattr(model, "num_keypoints", number)
    if known not in (0, number):
        raise ValueError(
            f"the model must find the {number} keypoints of this data set; it finds {known}: load a model "
            "that was trained on these"
        )
    return masks, known > 0


def found_objects(model: nn.Module, image: Tensor, *, precision: Precision = "fp32") -> Found:
    """Return what a network in eval mode finds on an image, on the CPU, the best first.

    Args:
        model: The network.
        image: (3, h, w) in [0, 1], where the network is.
        precision: "fp32", "bf16" or "fp16".

    Returns:
        ``boxes`` (n, 4) as left, top, right, bottom in pixels of the image, ``labels`` (n,) from 1 on,
        ``scores`` (n,), and where the network finds them ``masks``, bool (n, h, w), or ``keypoints``
        (n, K, 2), x and y in pixels.

    Raises:
        ValueError: It finds nothing, and its weights or the image are not finite.
    """
    with autocast_for(precision, image.device):
        (found,) = model([image])
    # Scores that are no numbers are below every threshold: damaged weights would look like empty images.
    if not len(found["scores"]) and not all(bool(each.isfinite().all()) for each in model.parameters()):
        raise ValueError("the model's weights are not finite (NaN or infinity): they are damaged")
    if not len(found["scores"]) and not bool(image.isfinite().all()):
        raise ValueError("the image has values that are no finite numbers (NaN or infinity)")
    kept = {name: found[name].float().cpu() for name in ("boxes", "scores")}
    kept["labels"] = found["labels"].cpu()
    if "masks" in found:
        kept["masks"] = (found["masks"][:, 0] >= _MASK_LEVEL).cpu()
    if "keypoints" in found:
        # The third number says nothing: each point is somewhere in its box.
        kept["keypoints"] = found["keypoints"][:, :, :2].float().cpu()
    return kept


def results_of(found: Found, number: int, class_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return what was found on an image as COCO's results have it, JSON-ready.

    Args:
        found: What :func:`found_objects` gave.
        number: The image's id.
        class_ids: The number of each class, that of label 1 first.

    Example:
        >>> found = {"boxes": torch.tensor([[1.0, 2.0, 4.0, 8.0]]), "labels": torch.tensor([1])}
        >>> results_of({**found, "scores": torch.tensor([0.5])}, 7, [90])
        [{'image_id': 7, 'category_id': 90, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 0.5}]
    """
    results = []
    boxes = torch.cat([found["boxes"][:, :2], found["boxes"][:, 2:] - found["boxes"][:, :2]], 1).tolist()
    for place, (box, label, score) in enumerate(
        zip(boxes, found["labels"].tolist(), found["scores"].tolist(), strict=True)
    ):
        entry = {"image_id": number, "category_id": class_ids[label - 1], "bbox": box, "score": score}
        if "masks" in found:
            entry["segmentation"] = encoded(found["masks"][place].to(torch.uint8))
        if "keypoints" in found:
            # COCO's results have a third number for each point, which its evaluation does not look at.
            entry["keypoints"] = [
                number for x, y in found["keypoints"][place].tolist() for number in (x, y, 1)
            ]
        results.append(entry)
    return results


def in_kinds(results: Sequence[dict[str, Any]], has_masks: bool, has_points: bool = False) -> Results:
    """Return results as lists of boxes and, where there are such, of masks and of points.

    In lists of their own: of results with several kinds pycocotools takes the box's area for the mask's.
    """
    parts = {"bbox": "bbox"}
    parts |= {"segm": "segmentation"} if has_masks else {}
    parts |= {"keypoints": "keypoints"} if has_points else {}
    return {
        kind: [
            {name: value for name, value in each.items() if name == own or name not in _PARTS}
            for each in results
        ]
        for kind, own in parts.items()
    }
