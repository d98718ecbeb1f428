"""Names of whole networks and what they build."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from nonlocalnn._errors import check_choice, near_miss
from nonlocalnn.models.dense import SegmentationNetwork
from nonlocalnn.models.detection import DetectionNetwork
from nonlocalnn.models.digits import DigitsNetwork
from nonlocalnn.models.resnet import Inflation, ResidualNetwork
from nonlocalnn.models.unet import UNet1d, UNet3d

Config = dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """A network by name: what builds it, and its settings.

    Args:
        build: The network's class; takes ``num_classes`` and the settings by keyword.
        num_classes: What ``num_classes`` is when nobody says.
        sample_shape: Shape of one sample that it is meant for, (C, *sides).
        settings: Keyword arguments of ``build``, which overrides replace.
        stride: Video only: frames from one of a clip to the next.
        task: What it is for: "classification", "segmentation" or "detection".
        input: What it takes: "sequence", "image", "video" or "volume"; None goes by the number of sides.
    """

    build: Callable[..., nn.Module]
    num_classes: int
    sample_shape: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    stride: int = 1
    task: str = "classification"
    input: str | None = None


# Frames of a clip, and whether time is halved early; a clip of 8 has a stride of 8 frames, and so on.
_CLIPS = {"8x8": (8, False), "32x2": (32, True), "32x4": (32, False), "128x1": (128, True)}
_VIDEO: dict[str, Inflation] = {"c2d": None, "i3d": "3x1x1", "i3d333": "3x3x3"}
_NUM_BLOCKS = {"": 0, "nl1_": 1, "nl5_": 5, "nl10_": 10}
# Small enough to be trained from scratch in minutes: nothing starts as the identity.
_TINY = {
    "depth": (1, 1, 1, 1),
    "width": 8,
    "dropout": 0.0,
    "small_stem": True,
    "zero_init": False,
    "zero_init_residual": False,
}


def _video_presets() -> Iterator[tuple[str, Preset]]:
    for kind, inflation in _VIDEO.items():
        for depth in (50, 101):
            for clip, (frames, halves_time_early) in _CLIPS.items():
                for prefix, blocks in _NUM_BLOCKS.items():
                    settings: dict[str, Any] = {
                        "depth": depth,
                        "inflation": inflation,
                        "halves_time_early": halves_time_early,
                        "blocks": blocks,
                    }
                    if clip in ("32x4", "128x1"):
                        # Trained two clips at a time: frozen norms, and groups of frames in large maps.
                        settings |= {"norm": "frozen", "layer2_extent": 4}
                    name = f"{prefix}{kind}_r{depth}_{clip}"
                    shape = (3, frames, 224, 224)
                    yield name, Preset(ResidualNetwork, 400, shape, settings, int(clip.split("x")[1]))


def _other_presets() -> Iterator[tuple[str, Preset]]:
    yield "nl_digits", Preset(DigitsNetwork, 10, (1, 28, 28))
    for prefix, blocks in _NUM_BLOCKS.items():
        for depth in (50, 101):
            settings: dict[str, Any] = {"num_sides": 2, "depth": depth, "blocks": blocks, "dropout": 0.0}
            yield f"{prefix}resnet{depth}", Preset(ResidualNetwork, 1000, (3, 224, 224), settings)
    # Of sequences: a block right before the last bottleneck of res3 and of res4. There are no weights to
    # begin with, so that nothing starts as the identity, as in the tiny ones.
    for name, lengths, last in (("resnet1d_18", (2, 2, 2, 2), (0, 0)), ("resnet1d_50", (3, 4, 6, 3), (2, 4))):
        for prefix, places in (("", {}), ("nl2_", {"layer2": (last[0],), "layer3": (last[1],)})):
            settings = {"num_sides": 1, "depth": lengths, "blocks": places, "dropout": 0.0}
            settings |= {"zero_init": False, "zero_init_residual": False}
            yield prefix + name, Preset(ResidualNetwork, 10, (1, 1024), settings)
    tiny = {"c1d_tiny": (64,), "resnet1d_tiny": (64,), "resnet_tiny": (32, 32), "c2d_tiny": (8, 32, 32)}
    # Files have sequences of a dozen steps, too, and a step of one side is cheap.
    wider = {"resnet1d_tiny": {"width": 16, "stem_stride": 1}}
    for name, sides in tiny.items():
        for prefix, places in (("", {}), ("nl2_", {"layer2": (0,), "layer3": (0,)})):
            settings = {**_TINY, "num_sides": len(sides), "blocks": places, **wider.get(name, {})}
            yield prefix + name, Preset(ResidualNetwork, 10, (3, *sides), settings)


def _volume_presets() -> Iterator[tuple[str, Preset]]:
    """Yield those of volumes: residual ones as of sequences, and U-Nets with a block at the deepest level."""
    plain: dict[str, Any] = {"num_sides": 3, "is_volume": True, "in_channels": 1, "dropout": 0.0}
    plain |= {"zero_init": False, "zero_init_residual": False, "window": None}
    for name, own, last, side in (
        ("resnet3d_18", {"depth": (2, 2, 2, 2)}, (0, 0), 128),
        ("resnet3d_50", {"depth": (3, 4, 6, 3)}, (2, 4), 128),
        ("resnet3d_tiny", _TINY, (0, 0), 64),
    ):
        for prefix, places in (("", {}), ("nl2_", {"layer2": (last[0],), "layer3": (last[1],)})):
            settings = {**own, **plain, "blocks": places}
            yield prefix + name, Preset(ResidualNetwork, 10, (1, side, side, side), settings, input="volume")


def _unet_presets() -> Iterator[tuple[str, Preset]]:
    """Yield those that label voxels of volumes and steps of sequences."""
    for name, build, shape, own in (
        ("unet3d", UNet3d, (1, 96, 96, 96), {}),
        ("unet3d_tiny", UNet3d, (1, 48, 48, 48), {"width": 8, "depth": 3}),
        ("unet1d", UNet1d, (1, 1024), {}),
        ("unet1d_tiny", UNet1d, (1, 1024), {"width": 16, "depth": 3}),
    ):
        for prefix, context in (("", None), ("nl_", "non_local")):
            settings, kind = {**own, "context": context}, "volume" if build is UNet3d else None
            yield prefix + name, Preset(build, 2, shape, settings, task="segmentation", input=kind)


def _segmentation_presets() -> Iterator[tuple[str, Preset]]:
    labels = partial(Preset, SegmentationNetwork, task="segmentation")
    small: dict[str, Any] = {"depth": (1, 1, 1, 1), "width": 8, "channels": 64}
    small |= {"small": True, "auxiliary": False}
    plain: dict[str, Any] = {"context": None}
    for name, own in (("fcn", plain), ("nl_fcn", {})):
        for depth in (50, 101):
            yield f"{name}_r{depth}", labels(19, (3, 512, 512), {"depth": depth, **own})
    # What attention is to be compared with: no block, and convolutions that reach as far.
    wide = {**plain, "dilation": 6}
    yield "fcn_d6_r50", labels(19, (3, 512, 512), {"depth": 50, "output_stride": 16, **wide})
    for name, own in (("fcn", plain), ("fcn_d6", wide), ("nl_fcn", {"zero_init": False})):
        yield f"{name}_tiny", labels(3, (3, 96, 128), {**small, **own})


def _detection_presets() -> Iterator[tuple[str, Preset]]:
    # What is known of COCO's photographs: they are brought to 800 pixels, and a batch to one size.
    shape, of_coco = (3, 800, 1088), 80
    finds = partial(Preset, DetectionNetwork, task="detection")
    resnext = {"depth": (3, 8, 36, 3), "groups": 32, "group_width": 8}
    bodies: dict[str, tuple[dict[str, Any], Any]] = {
        "r50": ({"depth": 50}, 1),
        "r101": ({"depth": 101}, 1),
        # Right before the last bottleneck of res4, as in the others.
        "x152": (resnext, {"layer3": (34,)}),
    }
    tiny = {
        "depth": (1, 1, 1, 1),
        "width": 8,
        "small": True,
        "trainable_stages": 5,
        "min_size": 96,
        "sub_sample": None,
        "zero_init": False,
    }
    for kind, own in (("fasterrcnn", {"masks": False}), ("maskrcnn", {})):
        for prefix, has_block in (("", False), ("nl1_", True)):
            for body, (settings, block) in bodies.items():
                # The paper has this one with masks alone.
                if (kind, body) == ("fasterrcnn", "x152"):
                    continue
                given = {**settings, **own, "blocks": block if has_block else 0}
                yield f"{prefix}{kind}_{body}", finds(of_coco, shape, given)
            given = {**tiny, **own, "blocks": int(has_block)}
            yield f"{prefix}{kind}_tiny", finds(2, (3, 96, 128), given)
    people: list[tuple[str, tuple[int, ...], dict[str, Any], int]] = [
        ("r101", shape, {"depth": 101, "num_keypoints": 17}, 4),
        ("tiny", (3, 96, 128), {**tiny, "num_keypoints": 3}, 2),
    ]
    for body, sides, settings, number in people:
        plain: dict[str, Any] = {**settings, "masks": False}
        head = {**plain, "head_blocks": number}
        yield f"keypointrcnn_{body}", finds(1, sides, plain)
        yield f"nl{number}head_keypointrcnn_{body}", finds(1, sides, head)
        yield f"nl{number}head1_keypointrcnn_{body}", finds(1, sides, {**head, "blocks": 1})


_PRESETS: dict[str, Preset] = dict(
    [
        *_other_presets(),
        *_video_presets(),
        *_segmentation_presets(),
        *_volume_presets(),
        *_unet_presets(),
        *_detection_presets(),
    ]
)


def list_models() -> list[str]:
    """Return the names that :func:`create_model` knows, sorted.

    Example:
        >>> "nl_digits" in list_models()
        True
    """
    return sorted(_PRESETS)


def model_settings(name: str) -> list[str]:
    """Return the names of the settings that :func:`create_model` takes for a network.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> model_settings("nl_digits")[:2]
        ['in_channels', 'image_size']
    """
    check_choice("model", name, list_models())
    return [each for each in inspect.signature(_PRESETS[name].build).parameters if each != "num_classes"]


def preset_settings(name: str) -> dict[str, Any]:
    """Return every setting of a network by name but ``num_classes``, with its value.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> preset_settings("nl5_i3d_r50_32x2")["halves_time_early"]
        True
    """
    names = model_settings(name)
    preset = _PRESETS[name]
    parameters = inspect.signature(preset.build).parameters
    return {setting: parameters[setting].default for setting in names} | preset.settings


def sample_shape(name: str) -> tuple[int, ...]:
    """Return the shape of one sample that a network by name is meant for, (C, sides).

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> sample_shape("nl5_i3d_r50_8x8")
        (3, 8, 224, 224)
    """
    check_choice("model", name, list_models())
    return _PRESETS[name].sample_shape


def clip_stride(name: str) -> int:
    """Return how many frames apart those of a clip are that a video network by name is meant for.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> clip_stride("nl5_i3d_r50_32x2")
        2
    """
    check_choice("model", name, list_models())
    return _PRESETS[name].stride


def model_task(name: str) -> str:
    """Return what a network by name is for: "classification", "segmentation" or "detection".

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> model_task("nl_fcn_r50"), model_task("nl_digits")
        ('segmentation', 'classification')
    """
    check_choice("model", name, list_models())
    return _PRESETS[name].task


def model_input(name: str) -> str:
    """Return what a network by name takes: "sequence", "image", "video" or "volume".

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> model_input("nl_unet3d"), model_input("nl2_c2d_tiny")
        ('volume', 'video')
    """
    check_choice("model", name, list_models())
    preset = _PRESETS[name]
    return preset.input or ("sequence", "image", "video")[len(preset.sample_shape) - 2]


def create_model(name: str, *, num_classes: int | None = None, **overrides: Any) -> nn.Module:
    """Build a network by its name, with fresh weights.

    The model remembers what it was built from in ``model.config``, so that
    :func:`nonlocalnn.save_checkpoint` can write it beside the weights.

    Args:
        name: One of :func:`list_models`.
        num_classes: Width of the output; None is the network's own default.
        overrides: Settings of the network's class that differ from the preset's.

    Raises:
        ValueError: The name is unknown, or a setting's value is refused by the network.
        TypeError: The network has no setting of that name.

    Example:
        >>> model = create_model("nl_digits", instantiation="dot_product")
        >>> model.nl_1.instantiation
        'dot_product'
    """
    known = model_settings(name)
    preset = _PRESETS[name]
    for setting in overrides:
        if setting not in known:
            raise TypeError(
                f"{name} has no setting {setting!r}{near_miss(setting, known)}; it has {', '.join(known)}"
            )
    num_classes = preset.num_classes if num_classes is None else num_classes
    model = preset.build(num_classes=num_classes, **{**preset.settings, **overrides})
    config: Config = {"name": name, "num_classes": num_classes, "overrides": dict(overrides)}
    model.config = config  # type: ignore[assignment]  # nn.Module's stubs know tensors and modules only
    return model
