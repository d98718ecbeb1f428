"""What a detector is given, checked: PyTorch would say nothing of some faults, and name indices of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def check_images(images: Sequence[Tensor], *, longest: int) -> None:
    """Check images that a detector takes.

    Args:
        images: (3, h, w) each.
        longest: How long a side may be after an image was brought to its size, in pixels.

    Raises:
        ValueError: There is none, one has another shape, or is so thin that nothing would be left of it.
    """
    if not len(images):
        raise ValueError("a detector takes a list of images, one at least; got none")
    for place, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"image {place} must be (3, h, w); got shape {tuple(image.shape)}")
        short, long = sorted(image.shape[1:])
        if long > short * longest:
            raise ValueError(
                f"image {place} of {image.shape[2]} x {image.shape[1]} pixels is too thin: its long side may "
                f"be {longest} times the short one; cut it into parts"
            )


def check_targets(
    images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]], *, num_classes: int, masks: bool
) -> None:
    """Check what is marked on images, for training.

    Args:
        images: (3, h, w) each.
        targets: ``boxes`` (n, 4), ``labels`` (n,) from 1 on, and perhaps ``masks`` (n, h, w) of each.
        num_classes: The largest label.
        masks: Whether there must be masks.

    Raises:
        ValueError: Something is missing, has another shape, or a box has no area.
    """
    if len(targets) != len(images):
        raise ValueError(f"there must be a target for each image; got {len(targets)} for {len(images)}")
    for place, (image, target) in enumerate(zip(images, targets, strict=True)):
        needed = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
        missing = [name for name in needed if name not in target]
        if missing:
            raise ValueError(f"target {place} must have {', '.join(needed)}; it lacks {missing[0]}")
        boxes, labels = target["boxes"], target["labels"]
        number = len(boxes)
        if boxes.shape != (number, 4) or labels.shape != (number,):
            raise ValueError(
                f"target {place} must have boxes (n, 4) and labels (n,); got {tuple(boxes.shape)} and "
                f"{tuple(labels.shape)}"
            )
        is_whole = (boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1)
        if not bool(is_whole.all()):
            wrong = int((~is_whole).nonzero()[0])
            raise ValueError(
                f"target {place}: each box must be left, top, right, bottom with an area; box {wrong} is "
                f"{boxes[wrong].tolist()}"
            )
        if number and not bool(((labels >= 1) & (labels <= num_classes)).all()):
            raise ValueError(
                f"target {place}: labels must be from 1 to {num_classes}, 0 is the background; got "
                f"{sorted(set(labels.tolist()))}"
            )
        size = (number, *image.shape[1:])
        if masks and tuple(target["masks"].shape) != size:
            raise ValueError(
                f"target {place}: masks must be {size}, as the image is; got {tuple(target['masks'].shape)}"
            )
