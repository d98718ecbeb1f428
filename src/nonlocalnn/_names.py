"""Names that people type: of data sets, splits, decoders, forms of blocks and files.

They stand apart from what they name, so that recipes and the command line know them without importing torch.
"""

import warnings

SPLITS = ("train", "validation", "test")
# Those of one's own files, which may be broken.
IMAGE_SETS = ("images", "archives")
VIDEO_SETS = ("videos", "kinetics", "ucf101", "hmdb51", "charades")
GENERATED_SETS = ("cue", "cue-sequence")
DATASETS = (
    *("digits", "mnist", "fashion-mnist", *IMAGE_SETS, *GENERATED_SETS, "sequences", "volumes", *VIDEO_SETS),
)
# Those of images with masks, the class of each pixel, and of volumes with masks.
GENERATED_MASK_SETS = ("segment-cue", "segment-legend")
MASK_SETS = ("masks", "voc", "cityscapes", "ade20k", *GENERATED_MASK_SETS)
VOLUME_MASK_SETS = ("volume-masks",)
# That of sequences with the class of each step.
STEP_SETS = ("sequence-labels",)
VOLUME_SETS = ("volumes", *VOLUME_MASK_SETS)
# Those of images with objects, each a box and a class.
OBJECT_SETS = ("coco", "coco-keypoints", "voc-xml", "detect-cue", "keypoint-cue")
# Those whose objects have points too, and those that are drawn and need no files.
POINT_SETS = ("coco-keypoints", "keypoint-cue")
GENERATED_OBJECT_SETS = ("detect-cue", "keypoint-cue")
TASKS = ("classification", "segmentation", "detection")
# What archives were called before 0.1.0.
OLD_NAMES = {"shards": "archives"}
BACKENDS = ("pyav", "torchcodec")
INSTANTIATIONS = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
PRECISIONS = ("fp32", "bf16", "fp16")
EXPORT_FORMATS = ("onnx", "pt2", "aoti")
# Pictures of maps that move.
ANIMATIONS = ("gif", "mp4")


def current_name(name: str) -> str:
    """Return the name of a data set, by the one that it has now or had before 0.1.0, which is warned of.

    Example:
        >>> current_name("digits")
        'digits'
    """
    if name not in OLD_NAMES:
        return name
    warnings.warn(f"the data set {name!r} is called {OLD_NAMES[name]!r} now", FutureWarning, stacklevel=3)
    return OLD_NAMES[name]
