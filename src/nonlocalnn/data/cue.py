"""A generated task of long range: what is seen first says which of two digits, seen last, is the answer.

Nothing here was filmed or recorded. Each sample is drawn by this module, and only the digits in it are real:
scikit-learn's. Train, validation and test draw theirs from that split of ``digits``, so that a network is
tested on digits that it never saw.

- ``cue``: clips. The first frame shows a square of one of four colours, anywhere; the last frame shows two
  digits of two classes, in two of the four colours and in two of its corners; the frames between show grey
  noise. The class is the digit in the colour of the square.
- ``cue-sequence``: the same along one axis. A run of one colour, grey noise, then two digits in two of four
  places, each as its rows one after another, in its colour.

The answer needs the first frame and the last one together: the last one alone leaves two digits that are
equally likely. What adds up scores frame by frame, as a network with nothing but pooling over time does,
cannot say for every clip which digit goes with the square.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from nonlocalnn._errors import check_choice, check_whole
from nonlocalnn._names import SPLITS
from nonlocalnn.data.digits import load_digits
from nonlocalnn.data.labelled import LabelledSamples, check_image_size, resize_image

NUM_SAMPLES = {"train": 4000, "validation": 500, "test": 1000}
COLOURS = ("red", "green", "blue", "yellow")

_RGB = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=torch.uint8)
_WHITE = 255
# Grey noise stays below this, so that no noise is as bright as a colour.
_NOISE_LIMIT = 64
_CLASSES = tuple(str(digit) for digit in range(10))

# With four digits nothing was learnt in 1,500 steps. With two, a tiny network with blocks reaches 94 %, and
# one that only pools over time stays at 50 %, which is guessing between the two.
_NUM_SHOWN = 2
_NUM_FRAMES = 8
_SIDE = 32
_CUE_SIDE = 8
_DIGIT_SIDE = 14
# Digits move by up to this many pixels, and so fill their quarter of the frame.
_SHIFT = _SIDE // 2 - _DIGIT_SIDE

_CUE_LENGTH = 16
_GAP = 112
_ROWS = 8


@dataclass(frozen=True)
class Scene:
    """What a sample shows; its answer comes first.

    Args:
        digits: The digits, each as an index into the split of ``digits``.
        colours: The colour of each, as an index into ``COLOURS``; the first is the cue's.
        places: The place of each, 0 to 3: corners in reading order, or the order along a sequence.
    """

    digits: tuple[int, ...]
    colours: tuple[int, ...]
    places: tuple[int, ...]


class CueSamples(LabelledSamples):
    """What clips and sequences share: which digits, colours and places make sample ``i``.

    Every tenth sample has the same class. All else about sample ``i`` follows from the name of the data set,
    the split and ``i``, by a generator of its own; or, augmented, from torch's global random numbers each
    time it is read, so that only its class stays. A subclass says how a scene looks (:meth:`draw`).

    Args:
        name: The data set.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        sample_shape: See :class:`~nonlocalnn.data.labelled.LabelledSamples`.
        digit_side: Side to which the digits are stretched, in pixels.
        augment: Draw all but the class anew at each reading.
    """

    def __init__(
        self, *, name: str, split: str, sample_shape: Sequence[int], digit_side: int, augment: bool
    ) -> None:
        super().__init__(
            classes=_CLASSES,
            sample_shape=sample_shape,
            targets=[index % len(_CLASSES) for index in range(NUM_SAMPLES[split])],
        )
        self._name = f"{name}/{split}"
        self._augment = augment
        digits = load_digits(split, image_size=digit_side)
        images = torch.cat([digits.read(index) for index in range(len(digits))])
        # Whole numbers make a sample the same, bit for bit, on every processor.
        self._digits = (images * _WHITE).round().to(torch.uint8)
        self._members = [
            [index for index, target in enumerate(digits.targets) if target == digit]
            for digit in range(len(_CLASSES))
        ]

    @abstractmethod
    def draw(self, scene: Scene, generator: Generator) -> Tensor:
        """Return the sample that shows ``scene``, uint8; all else in it is drawn from ``generator``."""

    def scene(self, index: int) -> Scene:
        """Return what sample ``index`` shows, without augmentation."""
        return self._scene(self.targets[index], self._generator(index))

    def read(self, index: int) -> Tensor:
        """See :meth:`LabelledSamples.read`."""
        return self._sample(self.targets[index], self._generator(index))

    def sample_id(self, index: int) -> str:
        """Return such as ``"cue/train/17"``."""
        return f"{self._name}/{range(len(self))[index]}"

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        target = self.targets[index]
        if not self._augment:
            return self.read(index), target
        seed = int(torch.randint(2**62, ()))
        return self._sample(target, Generator().manual_seed(seed)), target

    def _generator(self, index: int) -> Generator:
        digest = hashlib.sha256(self.sample_id(index).encode()).digest()
        return Generator().manual_seed(int.from_bytes(digest[:7], "big"))

    def _sample(self, target: int, generator: Generator) -> Tensor:
        scene = self._scene(target, generator)
        return self.draw(scene, generator).to(torch.float32) / _WHITE

    def _scene(self, target: int, generator: Generator) -> Scene:
        number = len(COLOURS)
        others = [digit for digit in _permutation(len(_CLASSES), generator) if digit != target]
        members = [self._members[digit] for digit in (target, *others[: _NUM_SHOWN - 1])]
        return Scene(
            digits=tuple(each[_below(len(each), generator)] for each in members),
            colours=tuple(_permutation(number, generator)[:_NUM_SHOWN]),
            places=tuple(_permutation(number, generator)[:_NUM_SHOWN]),
        )


class CueClips(CueSamples):
    """Clips whose first frame says which digit of the last one is the answer; the module says more.

    ``dataset[i]`` is ``(clip, target)``: float32 (3, frames, H, W) in [0, 1] and the answer, 0 to 9.

    Frames are drawn at 32 x 32 pixels and stretched to ``image_size``, (H, W). In clips of more ``frames``,
    which are 8 by default, the answer needs what lies further apart.
    """

    def __init__(
        self, split: str, *, image_size: tuple[int, int], frames: int = _NUM_FRAMES, augment: bool = False
    ) -> None:
        super().__init__(
            name="cue",
            split=split,
            sample_shape=(3, frames, *image_size),
            digit_side=_DIGIT_SIDE,
            augment=augment,
        )

    def draw(self, scene: Scene, generator: Generator) -> Tensor:
        """Return the clip, uint8 (3, frames, 32, 32)."""
        clip = _grey_noise((self.sample_shape[1], _SIDE, _SIDE), generator)
        top, left = (_below(_SIDE - _CUE_SIDE + 1, generator) for _ in range(2))
        cue = _RGB[scene.colours[0]] * _WHITE
        clip[:, 0, top : top + _CUE_SIDE, left : left + _CUE_SIDE] = cue[:, None, None]
        for digit, colour, place in zip(scene.digits, scene.colours, scene.places, strict=True):
            top, left = (
                corner * _SIDE // 2 + _below(_SIDE // 2 - _DIGIT_SIDE + 1, generator)
                for corner in divmod(place, 2)
            )
            painted = _RGB[colour][:, None, None] * self._digits[digit]
            clip[:, -1, top : top + _DIGIT_SIDE, left : left + _DIGIT_SIDE] = painted
        return clip

    def _sample(self, target: int, generator: Generator) -> Tensor:
        clip = super()._sample(target, generator)
        height, width = self.sample_shape[-2:]
        return resize_image(clip.flatten(0, 1), (height, width)).unflatten(0, clip.shape[:2])


class CueSequences(CueSamples):
    """Sequences whose beginning says which digit of their end is the answer; the module says more.

    ``dataset[i]`` is ``(sequence, target)``: float32 (3, 384) in [0, 1] and the answer, 0 to 9. Positions 0
    to 15 are the cue, 16 to 127 noise, and four times 64 positions the rows of the digits.
    """

    def __init__(self, split: str, *, augment: bool = False) -> None:
        length = _CUE_LENGTH + _GAP + len(COLOURS) * _ROWS**2
        super().__init__(
            name="cue-sequence", split=split, sample_shape=(3, length), digit_side=_ROWS, augment=augment
        )

    def draw(self, scene: Scene, generator: Generator) -> Tensor:
        """Return the sequence, uint8 (3, 384)."""
        sequence = _grey_noise((self.sample_shape[1],), generator)
        sequence[:, :_CUE_LENGTH] = (_RGB[scene.colours[0]] * _WHITE)[:, None]
        for digit, colour, place in zip(scene.digits, scene.colours, scene.places, strict=True):
            start = _CUE_LENGTH + _GAP + place * _ROWS**2
            painted = _RGB[colour][:, None] * self._digits[digit].flatten()
            sequence[:, start : start + _ROWS**2] = painted
        return sequence


def _grey_noise(sides: tuple[int, ...], generator: Generator) -> Tensor:
    """Return uint8 (3, *sides), the three channels equal."""
    noise = torch.randint(_NOISE_LIMIT, sides, dtype=torch.uint8, generator=generator)
    return noise.expand(3, *sides).clone()


def _permutation(length: int, generator: Generator) -> list[int]:
    return torch.randperm(length, generator=generator).tolist()


def _below(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))


def load_cue(
    name: str,
    split: str,
    *,
    image_size: int | tuple[int, int] | None = None,
    frames: int | None = None,
    augment: bool = False,
) -> CueSamples:
    """Load a split of the generated clips or sequences: 4000 train, 500 validation, 1000 test.

    Args: See :func:`nonlocalnn.data.load_dataset`.

    Returns:
        The split; ``sample_id`` is such as ``"cue/train/17"``.

    Raises:
        ValueError: ``name`` or ``split`` is unknown; ``image_size`` is below 1 pixel, or given for sequences;
            or ``frames`` is below 2.
        TypeError: ``image_size`` is neither an integer nor a pair of integers.
        ImportError: scikit-learn is missing.

    Example:
        >>> clips = load_cue("cue", "test")
        >>> clip, target = clips[7]
        >>> clip.shape, clips.classes[target], clips.sample_id(7)
        (torch.Size([3, 8, 32, 32]), '7', 'cue/test/7')
        >>> load_cue("cue-sequence", "test").sample_shape
        (3, 384)
    """
    check_choice("name", name, ("cue", "cue-sequence"))
    check_choice("split", split, SPLITS)
    if name == "cue":
        size = check_image_size(_SIDE if image_size is None else image_size)
        number = _NUM_FRAMES if frames is None else frames
        check_whole("frames", number, least=2)
        return CueClips(split, image_size=size, frames=number, augment=augment)
    if image_size is not None or frames is not None:
        raise ValueError("'cue-sequence' has no frames and no image_size: leave it out")
    return CueSequences(split, augment=augment)
