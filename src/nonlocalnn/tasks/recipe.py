"""Everything that decides a training run: the parts together, and how they are written and read."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from nonlocalnn._errors import near_miss
from nonlocalnn._names import (
    MASK_SETS,
    OBJECT_SETS,
    STEP_SETS,
    VIDEO_SETS,
    VOLUME_MASK_SETS,
    VOLUME_SETS,
    current_name,
)
from nonlocalnn.tasks.data_settings import DataSettings, MaskSettings, VideoSettings, VolumeSettings
from nonlocalnn.tasks.settings import ModelSettings, OptimizerSettings, RunSettings, ScheduleSettings

# Fields that say where and how often, not what is computed: a resumed run may change them.
_FREE_FIELDS = frozenset(
    {
        *("data_dir", "num_workers", "decoder", "device", "output"),
        *("epochs", "iterations", "checkpoint_every", "tensorboard", "activation_checkpointing", "parallel"),
        # The data decides it: named or not, it is the same.
        "task",
    }
)
# Fields of which None means: what fits the data.
_FITTED = ("model", "image_size", "resize", "batch_size", "norm_batches")
_PATHS = ("data_dir", "start_from", "output")
_TUPLES = ("milestones", "short_sides", "scales", "class_weights", "spacing", "intensity")
# Other data on which a setting has an effect: detectors bring images to a size, generated clips have frames.
_ALSO: dict[str, tuple[str, ...]] = {"resize": OBJECT_SETS, "frames": ("cue",)}


# What a setting of one kind is called.
_WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a word"}


@functools.cache
def _kinds() -> dict[str, set[Any]]:
    """Return the kinds of value that each setting may have, such as int and NoneType."""
    hints = get_type_hints(Recipe).items()
    unions = (Union, UnionType)
    return {name: set(get_args(hint)) if get_origin(hint) in unions else {hint} for name, hint in hints}


# Python collects the fields of the last parent first: data, videos, masks, volumes, model, optimiser,
# schedule, run.
@dataclass(frozen=True, kw_only=True)
class Recipe(
    RunSettings,
    ScheduleSettings,
    OptimizerSettings,
    ModelSettings,
    VolumeSettings,
    MaskSettings,
    VideoSettings,
    DataSettings,
):
    """What to train, on what, and how: all settings of its parts, by their names.

    The parts are the parents. What reads only one part, as the optimiser does, takes that part, and a recipe
    is one. In files and on the command line the settings stand side by side.

    A setting that would have no effect under the others is refused, so a recipe holds no dead words.

    Raises:
        ValueError: A value is out of its range, or would have no effect.

    Example:
        >>> recipe = Recipe(epochs=3, optimizer="sgd", lr=0.1)
        >>> Recipe.from_dict(recipe.to_dict()) == recipe
        True
        >>> Recipe(gamma=0.5)
        Traceback (most recent call last):
            ...
        ValueError: gamma has an effect only with schedule='step'; got schedule='constant': leave it out
    """

    def __post_init__(self) -> None:
        self._check_kinds()
        super().__post_init__()
        for part, what, sets in (
            (VideoSettings, "videos", VIDEO_SETS),
            (
                MaskSettings,
                "images or volumes with masks, or steps with labels",
                (*MASK_SETS, *VOLUME_MASK_SETS, *STEP_SETS),
            ),
            (VolumeSettings, "volumes", VOLUME_SETS),
        ):
            for each in dataclasses.fields(part):
                known = (*sets, *_ALSO.get(each.name, ()))
                if self.data not in known and getattr(self, each.name) != each.default:
                    raise ValueError(
                        f"{each.name} has an effect only with {what}, data one of {', '.join(known)}; "
                        f"got data={self.data!r}: leave it out"
                    )

    def _check_kinds(self) -> None:
        """Check that flags, numbers and words are such; the parts check what these may be."""
        for each in dataclasses.fields(self):
            value, kinds = getattr(self, each.name), _kinds()[each.name]
            if value is None:
                if NoneType not in kinds:
                    raise ValueError(f"{each.name} must not be None: left out it has its default")
                continue
            for kind, what in _WORDS.items():
                is_one = isinstance(value, int | float if kind is float else kind)
                is_one = is_one and isinstance(value, bool) == (kind is bool)
                if kind in kinds and not is_one:
                    raise ValueError(f"{each.name} must be {what}; got {value!r}")

    @property
    def scaled_lr(self) -> float:
        """``lr`` in proportion to the batch size."""
        if self.lr_batch_size is None:
            return self.lr
        assert self.batch_size is not None, "a run fills it in"
        return self.lr * self.batch_size / self.lr_batch_size

    def completed(self, saved: Mapping[str, Any]) -> "Recipe":
        """Return the recipe with what it leaves open as it was in a run.

        Args:
            saved: What :meth:`to_dict` gave for the run's recipe.

        Example:
            >>> Recipe(lr=0.1).completed(Recipe(batch_size=16).to_dict()).batch_size
            16
        """
        # A run of before there was this field kept the running statistics.
        then = {"norm_batches": 0, **saved}
        open_fields = [name for name in _FITTED if getattr(self, name) is None and name in then]
        return dataclasses.replace(self, **{name: then[name] for name in open_fields})

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        values = dataclasses.asdict(self)
        for name in _TUPLES:
            values[name] = None if values[name] is None else list(values[name])
        for name in _PATHS:
            values[name] = None if values[name] is None else str(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """Return the recipe that :meth:`to_dict` wrote; fields left out take their defaults.

        Raises:
            ValueError: A key is no field of a recipe, or a value is refused.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                raise ValueError(f"a recipe has no field {key!r}{near_miss(key, names)}")
        given = dict(values)
        if "data" in given:
            given["data"] = current_name(given["data"])
        for name in _TUPLES:
            if given.get(name) is not None:
                given[name] = tuple(given[name])
        return cls(**given)

    def changed_fields(self, saved: Mapping[str, Any]) -> list[str]:
        """Return the fields that change the mathematics and differ from those of ``saved``.

        Args:
            saved: What :meth:`to_dict` gave for the recipe to compare with. A field that it lacks, being of
                an older version, had its default.

        Example:
            >>> Recipe(epochs=9, lr=0.1).changed_fields(Recipe().to_dict())
            ['lr']
        """
        # These end with the run, so there the length of the run shapes every step before.
        ends = self.schedule in ("cosine", "poly")
        free = _FREE_FIELDS - {"epochs", "iterations"} if ends else _FREE_FIELDS
        before = {**Recipe().to_dict(), **saved}
        return [name for name, value in self.to_dict().items() if name not in free and before[name] != value]
