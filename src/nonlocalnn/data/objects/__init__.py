"""Data sets of images with objects, each a box and a class, perhaps a mask."""

from __future__ import annotations

import os

from nonlocalnn._errors import check_choice
from nonlocalnn._names import GENERATED_OBJECT_SETS, OBJECT_SETS, POINT_SETS, SPLITS
from nonlocalnn.data.objects.annotated import AnnotatedImages, Marked, Sheet
from nonlocalnn.data.objects.cards import CuePoints
from nonlocalnn.data.objects.files import folder_of, load_coco, load_voc_xml
from nonlocalnn.data.objects.points import PointNames
from nonlocalnn.data.objects.runs import decoded, encoded
from nonlocalnn.data.objects.scenes import CueObjects

__all__ = ["AnnotatedImages", "Marked", "PointNames", "Sheet", "decoded", "encoded", "load_objects"]


def load_objects(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    augment: bool = False,
    max_broken: int | None = None,
) -> AnnotatedImages:
    """Load one split of a data set of images with objects.

    ==============  ======================================================================================
    name            what
    ==============  ======================================================================================
    ``coco``        JSON of COCO's format: COCO itself (``annotations/instances_train2017.json``),
                    Roboflow's folders (``train/_annotations.coco.json``), or ``annotations.json``, or a
                    file for each split, beside ``images``
    ``coco-keypoints``  the same with the points of each object: COCO's persons
                    (``annotations/person_keypoints_train2017.json``), or files of these layouts whose
                    categories name ``keypoints``
    ``voc-xml``     XML of VOC's format, a file an image: VOC itself (``Annotations``, ``JPEGImages``,
                    ``ImageSets/Main``), folders of splits, or one folder of images and XML files
    ``detect-cue``  generated scenes of real digits, 96 x 128 pixels; no download
    ``keypoint-cue``  the same of cards with digits, whose places are the points
    ==============  ======================================================================================

    Where nothing says which images are of which split, they are divided by their names: 80 % for training,
    10 % for validation and for test. Of COCO and VOC 2012, which publish no marks of their test, it is the
    validation's images.

    Args:
        name: One of these.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        data_dir: Where the files are; an error for those that are generated.
        augment: Mirror half of the images at random; of scenes, draw them anew.
        max_broken: Files only: up to how many objects with a fault, such as a box without an area, are left
            out; None is none.

    Raises:
        ValueError: An argument is unknown, missing or would have no effect; or the files disagree, in which
            case the message names one.
        FileNotFoundError: The files are not there.
        ImportError: scikit-learn is missing, for scenes.

    Example:
        >>> scenes = load_objects("detect-cue", "test")
        >>> image, target = scenes[0]
        >>> image.shape, target["boxes"].shape[1], scenes.classes
        (torch.Size([3, 96, 128]), 4, ('cue', 'other'))
    """
    check_choice("name", name, OBJECT_SETS)
    check_choice("split", split, SPLITS)
    if name not in GENERATED_OBJECT_SETS:
        root, broken = folder_of(data_dir, name), max_broken or 0
        if name == "voc-xml":
            return load_voc_xml(root, split, max_broken=broken, mirror=augment)
        return load_coco(root, split, max_broken=broken, mirror=augment, with_points=name in POINT_SETS)
    for setting, value in {"data_dir": data_dir, "max_broken": max_broken}.items():
        if value is not None:
            raise ValueError(f"{setting} has no effect on {name!r}, which is generated: leave it out")
    return (CueObjects if name == "detect-cue" else CuePoints)(split, augment=augment)
