"""Weights of published detectors: the names that they had, their classes, and their constant."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from nonlocalnn.checkpoints import CheckpointError
from nonlocalnn.models import DetectionNetwork
from nonlocalnn.models.bottleneck import FrozenNorm

BODY = "backbone.body."
# Layers as wide as the classes are many, and what only some detectors have.
NEW_IN_DETECTORS = (
    "roi_heads.box_predictor.",
    "roi_heads.mask_predictor.mask_fcn_logits.",
    "roi_heads.keypoint_predictor.",
)
# torchvision's files are of 2019. It renames their keys when it loads them into networks of its own.
_RENAMED = (
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
    (
        re.compile(r"^backbone\.fpn\.(inner|layer)_blocks\.(\d)\.(weight|bias)$"),
        r"backbone.fpn.\1_blocks.\2.0.\3",
    ),
)
_MASK_LAYER = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)$")
# Files whose frozen norms were trained without a constant beside the variance.
_WITHOUT_CONSTANT = re.compile(r"_resnet50_fpn_coco-")
# COCO numbers its 80 classes from 1 to 90; torchvision's networks have an output for each number and 0.
_NO_CLASS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_COCO_ROWS = [number for number in range(91) if number not in _NO_CLASS]
_OUTPUTS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")


def torchvisions_names(given: dict[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """Return the weights of a detector's file under the names of today, with an output a class.

    Of a network of 91 outputs those of COCO's 80 classes are taken, where ``num_classes`` is 80.

    Example:
        >>> list(torchvisions_names({"rpn.head.conv.bias": torch.zeros(1)}, 80))
        ['rpn.head.conv.0.0.bias']
    """
    renamed = {_name(name): value for name, value in given.items()}
    if num_classes != len(_COCO_ROWS) - 1:
        return renamed
    return {name: _of_coco(value) if name.startswith(_OUTPUTS) else value for name, value in renamed.items()}


def _name(name: str) -> str:
    for pattern, now in _RENAMED:
        name = pattern.sub(now, name)
    return _MASK_LAYER.sub(lambda found: f"roi_heads.mask_head.{int(found[1]) - 1}.0.{found[2]}", name)


def _of_coco(value: Tensor) -> Tensor:
    """Return the rows of COCO's classes: one a class, or the four of a box."""
    for each in (1, 4):
        if len(value) == 91 * each:
            rows = torch.tensor(_COCO_ROWS)[:, None] * each + torch.arange(each)
            return value[rows.flatten()]
    return value


def check_constant(model: DetectionNetwork, path: Path) -> None:
    """Check that frozen norms have the constant with which published weights were trained.

    Raises:
        CheckpointError: They have another: boxes would differ a little, without an error.
    """
    constants = {each.eps for each in model.modules() if isinstance(each, FrozenNorm)}
    if _WITHOUT_CONSTANT.search(path.name) and constants - {0.0}:
        raise CheckpointError(
            f"{path.name} was trained with frozen norms that add nothing to the variance: set frozen_eps to "
            "0, as by --model-overrides.frozen_eps 0"
        )
